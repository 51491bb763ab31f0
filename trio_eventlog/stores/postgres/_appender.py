"""The connection of a log's appender: its lock, its epoch, how both outlive the connection, and appending.

Two things ensure that a log has one appender.

* An advisory lock of the session. It ends with the session, and with it everything that the session could
  still write: once an appender has the lock, nothing of an earlier one can land.
* The epoch of the log, a number that each appender raises when it gets the lock. Every append checks it, in
  its own transaction, and so learns whether another appender had the log while the connection was lost. It is
  the time, in microseconds: an epoch that is lower than before means that the server went back to an older
  state, and not that there was another appender.

A connection may be lost without the server noticing: then the old session still has the lock. The new session
ends it before it asks for the lock. Until that has worked the appender is shut out of its own log: a
:class:`StoreError`, which passes. If another appender has opened the log in the meantime, it is a
:class:`LogBusy`, which stays.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, NoReturn, TypeVar

import attrs
import psycopg
import trio

from trio_eventlog._model._errors import LogBusy, SequenceConflict, StoreError, StoreUnusable, StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog.stores._common._closing import Closing, closed_error
from trio_eventlog.stores._common._conflicts import conflicting_seqs, duplicate_seqs, new_seqs
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.stores.postgres._connection import TrioConnection, needs_new_connection, translated_errors
from trio_eventlog.stores.postgres._fields import make_indexes
from trio_eventlog.stores.postgres._rows import ByteaArray, Columns, Int8Array, encoded_chunks, key_of
from trio_eventlog.stores.postgres._target import Target

T = TypeVar("T")

_logger: Final = logging.getLogger("trio_eventlog")

_CLOSE_TIMEOUT: Final = 10.0
"""Seconds for an append that is still running, and for releasing the lock."""

_END_TIMEOUT: Final = 2_000
"""Milliseconds for a lost session to end, once the server was told."""

_LARGE_CHUNK: Final = 1024 * 1024
"""Bytes of a chunk whose memory is freed before the next append."""

_LOCK: Final = b"select pg_try_advisory_lock($1::bigint)"
_UNLOCK: Final = b"select pg_advisory_unlock($1::bigint)"

_HOLDER: Final = b"""
select locks.pid, coalesce(activity.application_name, ''),
    coalesce(host(activity.client_addr), 'a local socket')
from pg_locks as locks left join pg_stat_activity as activity on activity.pid = locks.pid
where locks.locktype = 'advisory' and locks.granted and locks.objsubid = 1
and locks.database = (select oid from pg_database where datname = current_database())
and locks.classid::bigint = ($1::bigint >> 32) & 4294967295 and locks.objid::bigint = $1::bigint & 4294967295
"""

# The time tells whether another process has got the number since.
_END_SESSION: Final = b"""
select pg_terminate_backend(pid, $3::bigint) from pg_stat_activity
where pid = $1::bigint and (extract(epoch from backend_start) * 1000000)::bigint = $2::bigint
"""

# The number is not from a sequence, which would stay behind where tables are replicated, and is not one that
# a removed log had before.
_MAKE_LOG: Final = """
insert into :s.logs (log, name, unique_id)
values ($1::bigint, $2::bytea, replace(gen_random_uuid()::text, '-', ''))
on conflict (name) do nothing
"""

_TAKE_LOG: Final = f"""
update :s.logs set epoch = greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint),
    owner = $2::text, last_seq = {schema.HIGHEST}
where log = $1::bigint returning epoch, unique_id, last_seq
"""  # noqa: S608 - no values

_TAKE_AGAIN: Final = "update :s.logs set epoch = $2::bigint where log = $1::bigint and epoch < $2::bigint"

_DURABILITY: Final = b"""
with setting as (select setting, source from pg_settings where name = 'synchronous_commit')
select case when setting in ('on', 'remote_apply') or source = 'client' then setting
    else set_config('synchronous_commit', 'on', false) end, current_setting('fsync', true)
from setting
"""

_HELD: Final = "select id, seq from :s.events where log = $1::bigint and id = any($2::bytea[])"
_TAKEN: Final = "select seq from :s.events where log = $1::bigint and seq = any($2::bigint[])"


class Appender:
    """Appends to a log, once :meth:`open` has returned."""

    def __init__(self, target: Target, log: str) -> None:
        self._target = target
        self._log = log
        self._what = f"log {log!r} in schema {target.names.schema!r} of {target.label}"
        self._key = target.names.key("log", log)
        self.append_statement: Final = target.names.sql(schema.APPEND)
        self._turn = trio.Lock()
        self._connection: TrioConnection | None = None
        self._lost: list[tuple[int, int | None]] = []
        """Our sessions that may still exist, and have the lock."""
        self._closed = False
        self.number: int = 0
        self.epoch: int = 0
        self.unique_id: str = ""
        self.survives: str = "power"
        """What an acknowledged append survives."""
        self.expected_seq: int = 0
        """The log's highest seq is at least this: it was acknowledged, or found on opening."""

    # --- opening ----------------------------------------------------------------------------------

    async def open(self, partitions: int, index: tuple[str, ...] = ()) -> None:
        """Take the log, creating schema and log if need be; ``index``: keys of payloads."""
        connection = await self._target.connect()
        self._connection = connection
        with translated_errors(self._target.label, opening=True):
            self.survives = await _settle_durability(connection)
            await self._migrate(connection, partitions, index)
            self.number = await self._find_or_make(connection)
            if not await self._lock(connection):
                raise LogBusy(f"{self._what} is open for writing elsewhere{await self._holder(connection)}")
            taken = await connection.fetch(
                _TAKE_LOG, self.number, f"{socket.gethostname()} process {os.getpid()}"
            )
        if not taken:
            raise StoreError(f"{self._what}: it was removed while it was opened")
        self.epoch, self.unique_id, self.expected_seq = taken[0]

    async def _migrate(self, connection: TrioConnection, partitions: int, index: tuple[str, ...]) -> None:
        try:
            await schema.migrate(connection, partitions)
            await make_indexes(connection, index)
        except psycopg.errors.InsufficientPrivilege as exc:
            quoted = self._target.names.quoted
            raise StoreUnusable(
                f"{self._target.label}: {exc.diag.message_primary}; the tables cannot be made: have someone"
                f" who may do so run CREATE SCHEMA {quoted} AUTHORIZATION …, once, for this role"
            ) from exc

    async def _find_or_make(self, connection: TrioConnection) -> int:
        found = await schema.find_logs(connection, [self._log])
        if not found:
            chosen = secrets.randbelow(2**63 - 1) + 1
            await connection.run(_MAKE_LOG, chosen, self._log.encode())
            found = await schema.find_logs(connection, [self._log])
        if not found:
            raise StoreError(f"{self._what}: it was removed while it was opened")
        return found[self._log].number

    async def _lock(self, connection: TrioConnection) -> bool:
        ((locked,),) = await connection.fetch(_LOCK, self._key)
        return bool(locked)

    async def _holder(self, connection: TrioConnection) -> str:
        for pid, name, place in await connection.fetch(_HOLDER, self._key):
            return f", by session {pid} of {name!r} from {place}"
        return ""

    # --- working ----------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection  # between taking the turn and giving it back
    async def run(self, work: Callable[[TrioConnection], Awaitable[T]]) -> T:
        """Run ``work`` on the connection that has the lock, after everything that came before. A checkpoint.

        Raises LogBusy if another appender has opened the log since, and StoreError if the connection was
        lost, or could not be made again yet.
        """
        async with self._turn:
            if self._closed:
                raise closed_error(self._target.label)
            with translated_errors(self._target.label):
                connection = await self._ready()
                try:
                    return await work(connection)
                except psycopg.Error as exc:
                    if needs_new_connection(exc, several_hosts=self._target.has_several):
                        connection.drop()
                    raise
                except StoreError as exc:
                    if self._closed and type(exc) is StoreError:
                        # Closing did not wait for it any longer.
                        raise closed_error(self._target.label) from exc
                    raise
                finally:
                    if not connection.is_idle():
                        # It is in the middle of a transaction, if it is not lost anyway.
                        connection.drop()

    async def append(self, events: Sequence[PersistedEvent], channel: bytes | None) -> Collection[int]:
        """Store a batch of sealed events, at least one, and notify ``channel``.

        See :meth:`PostgresStore.append_batch`.
        """
        chunks = await encoded_chunks(events)
        append = _Append(self, channel, events)
        return await self.run(lambda connection: append.run(connection, chunks))

    async def sync(self) -> None:
        """See :meth:`PostgresStore.sync`."""
        await self.run(self._sync)

    async def _sync(self, connection: TrioConnection) -> None:
        statement = schema.SYNC
        ((_, fsync, owned),) = await connection.fetch(statement, self.number, self.epoch)
        if fsync == "off":
            raise StoreError(
                f"{self._target.label}: the server has fsync off, so that nothing is sure to be on its disk"
            )
        if not owned:
            await self.take_again(connection)
            raise StoreError(f"{self._what} is as it was before it was opened")

    # --- keeping the lock -------------------------------------------------------------------------

    async def _ready(self) -> TrioConnection:
        connection = self._connection
        if connection is not None:
            if connection.is_usable():
                return connection
            self._lost.append(connection.backend)
            self._connection = None
            connection.drop()
        connection = await self._target.connect()
        try:
            await _settle_durability(connection)
            # First whether the log is still ours: another appender's lock must not be disturbed.
            await self._is_ours(connection)
        except BaseException:
            connection.drop()
            raise
        try:
            await self._reclaim(connection)
        except BaseException:
            # The session may have the lock by now.
            self._lost.append(connection.backend)
            connection.drop()
            raise
        self._connection = connection
        return connection

    async def _reclaim(self, connection: TrioConnection) -> None:
        await self._end_lost(connection)
        if not await self._lock(connection):
            await self._is_ours(connection)
            raise StoreError(
                f"{self._what}: the connection was lost, and its lock is not free again yet"
                f"{await self._holder(connection)}"
            )
        # Another appender may have had the log before we got the lock.
        await self.take_again(connection)

    async def _end_lost(self, connection: TrioConnection) -> None:
        for backend in tuple(self._lost):
            ended = await connection.fetch(_END_SESSION, *backend, _END_TIMEOUT)
            if ended in ([], [(True,)]):
                self._lost.remove(backend)

    async def take_again(self, connection: TrioConnection) -> None:
        """Make the log ours again if it went back to an older state; on the connection that has the lock.

        Raises LogBusy if another appender has opened it since.
        """
        if not await self._is_ours(connection):
            # The same epoch as before: after a cancellation here, it must not look like another appender's.
            # The next append finds out what the log lacks.
            await connection.run(_TAKE_AGAIN, self.number, self.epoch)

    async def _is_ours(self, connection: TrioConnection) -> bool:
        """True if the log is still ours, False if it is as before we opened it; or LogBusy."""
        found = await schema.identify(connection, self._log)
        if found.unique_id != self.unique_id:
            raise StoreUnusable(
                f"{self._what} is another one now, of the same name: open it again to append to that"
            )
        self.number = found.number
        if found.epoch > self.epoch:
            raise self.taken(found.owner)
        return found.epoch == self.epoch

    def taken(self, owner: str = "") -> LogBusy:
        """The error for a log that another appender has opened."""
        by = f" by {owner}" if owner else ""
        return LogBusy(f"{self._what} was opened{by} while the connection was lost")

    # --- closing ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Release the lock and close the connection, after what runs now. Never cancelled; has a deadline.

        A KeyboardInterrupt that arrives in the meantime is raised at the end.
        """
        self._closed = True
        closing = Closing(trio.current_time() + _CLOSE_TIMEOUT)
        released = await closing.run(self._release_in_turn)
        if self._connection is not None:
            self._connection.drop()
        if not released and (self._lost or self._connection is not None):
            _logger.warning(
                "%s: the lock could not be given back within %.0f seconds; it is free once the server notices"
                " that the connection is gone",
                self._what,
                _CLOSE_TIMEOUT,
            )
        closing.raise_interrupt()

    async def _release_in_turn(self) -> bool:
        async with self._turn:
            return await self._release()

    async def _release(self) -> bool:
        connection = self._connection
        if connection is not None and connection.is_usable():
            try:
                await connection.fetch(_UNLOCK, self._key)
            except (psycopg.Error, StoreError):
                pass
            else:
                return not self._lost
        if connection is not None:
            self._lost.append(connection.backend)
            connection.drop()
        if not self._lost:
            return True
        # The lock of a lost session would shut out the next appender.
        try:
            other = await self._target.connect()
        except StoreError:
            return False
        try:
            await self._end_lost(other)
        except (psycopg.Error, StoreError):
            return False
        finally:
            other.drop()
        return not self._lost


async def _settle_durability(connection: TrioConnection) -> str:
    """Make commits of a session wait at least for the server's disk, unless the program says otherwise.

    Settings of a role, the database or the server are usually meant for others, and may change. Returns what
    a commit then survives.
    """
    settings = await connection.fetch(_DURABILITY)
    return "process" if any("off" in row for row in settings) else "power"


# --- appending ------------------------------------------------------------------------------------


@attrs.frozen
class _Append:
    """One append, on the connection of the appender."""

    _appender: Appender
    _channel: bytes | None
    _events: Sequence[PersistedEvent]

    async def run(self, connection: TrioConnection, chunks: Sequence[Columns]) -> Collection[int]:
        """Store the events. Returns the seqs of those whose id is held under another seq."""
        failure: StoreWentBack | psycopg.errors.UniqueViolation | None = None
        added = highest = 0
        try:
            added, highest = await self._insert_all(connection, chunks)
        except (StoreWentBack, psycopg.errors.UniqueViolation) as exc:
            failure = exc
        if failure is not None:
            await self._fail(connection, failure)
        self._appender.expected_seq = highest
        if self._channel is not None and added:
            connection.post(schema.NOTIFY, self._channel)
        if added == len(self._events):
            return ()
        return duplicate_seqs(self._events, await self._held(connection))

    async def _fail(
        self, connection: TrioConnection, failure: StoreWentBack | psycopg.errors.UniqueViolation
    ) -> NoReturn:
        if not connection.is_idle():
            await connection.run(b"rollback")
        if isinstance(failure, StoreWentBack):
            # Nothing after this can be cancelled: the error is raised exactly once.
            self._appender.expected_seq = failure.last_seq
            raise failure
        conflicts = await self._conflicts(connection)
        if not conflicts:
            raise failure
        raise SequenceConflict(conflicts) from failure

    async def _insert_all(self, connection: TrioConnection, chunks: Sequence[Columns]) -> tuple[int, int]:
        """Store them in one transaction. Returns how many are new, and the highest seq afterwards."""
        added = highest = 0
        if len(chunks) > 1:
            await connection.run(b"begin")
        for chunk in chunks:
            count, highest = await self._insert(connection, chunk)
            added += count
        if len(chunks) > 1:
            await connection.run(b"commit")
        return added, highest

    async def _insert(self, connection: TrioConnection, chunk: Columns) -> tuple[int, int]:
        """Store a part; returns the same."""
        appender = self._appender
        arrays = chunk.arrays()

        async def insert() -> list[tuple[int, int, int]]:
            parameters = (appender.number, appender.epoch, appender.expected_seq, *arrays)
            return await connection.fetch(appender.append_statement, *parameters, prepare=True)

        found = await insert()
        if not found:
            # Another appender has the log; or the tables were restored while the session has the lock.
            await appender.take_again(connection)
            found = await insert()
        if not found:
            raise appender.taken()
        if chunk.size > _LARGE_CHUNK:
            connection.free_memory()
        ((before, added, after),) = found
        if before < appender.expected_seq:
            raise StoreWentBack(before, appender.expected_seq)
        return added, after

    async def _held(self, connection: TrioConnection) -> dict[str, int]:
        """The ids that are held, with their seqs."""
        keys = {key_of(event.id.encode()): event.id for event in self._events}
        statement = _HELD
        held = await connection.fetch(statement, self._appender.number, ByteaArray(keys))
        return {keys[key]: seq for key, seq in held}

    async def _conflicts(self, connection: TrioConnection) -> list[int]:
        """The seqs of new events that are taken, by others or by another of the batch."""
        seqs = new_seqs(self._events, await self._held(connection))
        taken = await connection.fetch(_TAKEN, self._appender.number, Int8Array(seqs))
        return conflicting_seqs(seqs, (seq for (seq,) in taken))
