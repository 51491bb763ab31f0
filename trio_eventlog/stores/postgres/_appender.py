"""The one session of a log's appender: its lock, its epoch, and how both survive the session.

Two things see to it that a log has one appender.

* An advisory lock of the session. It ends with the session, and with it everything that the session could
  still write: whoever gets the lock knows that nothing of an earlier appender can land.
* The epoch of the log, a number that everyone who gets the lock raises. Every append checks it, in its own
  transaction, and so learns whether somebody else had the log while its session was lost. It is the time, in
  microseconds: so an epoch that is lower than it was means that the server went back to an older state, and
  not that somebody else was there.

A session may be lost without the server noticing: then the old one has the lock yet. It is ended by its
number before the new one asks for the lock. Until that has worked the appender is shut out of its own log,
which is a :class:`StoreError`, and passes; that somebody else has opened the log meanwhile is a
:class:`LogBusy`, and stays.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

import attrs
import trio

from trio_eventlog._model._errors import LogBusy, StoreError, StoreUnusable
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.stores.postgres._connection import ServerError, Session, Target, errors_of
from trio_eventlog.stores.postgres._schema import (
    FIND_LAYOUT,
    SCHEMA_VERSION,
    Names,
    bytea_array,
    int4,
    int8,
    number,
)

T = TypeVar("T")

_logger: Final = logging.getLogger("trio_eventlog")

_CLOSE_SECONDS: Final = 10.0
"""For an append that is still running, and for giving the lock back."""

_CLOSE_ATTEMPTS: Final = 3

_END_MILLISECONDS: Final = 2_000
"""For an old session of ours to end, once the server was told."""

_LOCK: Final = "select pg_try_advisory_lock($1::bigint)"
_UNLOCK: Final = "select pg_advisory_unlock($1::bigint)"

_HOLDER: Final = """
select locks.pid, coalesce(activity.application_name, ''),
    coalesce(host(activity.client_addr), 'a local socket')
from pg_locks as locks left join pg_stat_activity as activity on activity.pid = locks.pid
where locks.locktype = 'advisory' and locks.granted and locks.objsubid = 1
and locks.database = (select oid from pg_database where datname = current_database())
and locks.classid::bigint = ($1::bigint >> 32) & 4294967295 and locks.objid::bigint = $1::bigint & 4294967295
"""

# The time tells whether the number was given to another process since.
_END_SESSION: Final = """
select pg_terminate_backend(pid, $3::bigint) from pg_stat_activity
where pid = $1::int and backend_start = $2::timestamptz
"""

_FIND_LOGS: Final = "select name, log from :s.logs where name = any($1::bytea[])"

# Its number is not of a sequence, which would stay behind where tables are replicated, and not one that a log
# had before which was removed.
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

_IDENTITY: Final = """
select log, epoch, coalesce(owner, ''), unique_id from :s.layout left join :s.logs on name = $1::bytea
"""

_DURABILITY: Final = """
with setting as (select setting, source from pg_settings where name = 'synchronous_commit')
select case when setting in ('on', 'remote_apply') or source = 'client' then setting
    else set_config('synchronous_commit', 'on', false) end, current_setting('fsync', true)
from setting
"""

_DDL_LOCK: Final = "select pg_advisory_xact_lock($1::bigint)"

CLOSED: Final = "{}: the store is closed"


# --- the layout -----------------------------------------------------------------------------------


async def is_initialised(session: Session, names: Names, label: str) -> bool:
    """Whether the schema has our layout. False if it has none yet.

    Raises:
      StoreUnusable: it is somebody else's, or of another version than this library knows.
      ServerError: the server has reported an error.
    """
    version = await _version(session, names, label)
    if version is not None and version < SCHEMA_VERSION:
        msg = (
            f"{label}: schema {names.schema!r} has layout {version}, this trio_eventlog reads"
            f" {SCHEMA_VERSION}: open a log in it for writing once, which brings it up to date"
        )
        raise StoreUnusable(msg)
    return version is not None


async def _version(session: Session, names: Names, label: str) -> int | None:
    found = await session.execute(FIND_LAYOUT.encode(), [names.schema.encode()])
    has_layout, has_others = (found.get_value(0, column) == b"\1" for column in (0, 1))
    if not has_layout:
        if has_others:
            msg = (
                f"{label}: schema {names.schema!r} has tables of another program by the names logs or events;"
                " choose another one with schema=…"
            )
            raise StoreUnusable(msg)
        return None
    result = await session.execute(names.sql("select version from :s.layout"))
    if not result.ntuples:
        msg = f"{label}: damaged: table layout in schema {names.schema!r} is empty"
        raise StoreUnusable(msg)
    version = number(result.get_value(0, 0))
    if version > SCHEMA_VERSION:
        msg = (
            f"{label}: schema {names.schema!r} was written by a newer trio_eventlog (layout {version}, this"
            f" one knows {SCHEMA_VERSION}): upgrade trio_eventlog to open it"
        )
        raise StoreUnusable(msg)
    return version


async def _migrate(session: Session, names: Names, label: str, partitions: int) -> None:
    """Bring the layout up to date, creating it if need be, while any number of others do the same."""
    if await _version(session, names, label) == SCHEMA_VERSION:
        return
    await session.script(b"begin")
    # One at a time; it ends with the transaction.
    await session.execute(_DDL_LOCK.encode(), [int8(names.key("layout"))])
    version = await _version(session, names, label)
    if version is None:
        found = await session.execute(FIND_LAYOUT.encode(), [names.schema.encode()])
        # Asking for it needs a permission, also if it is there.
        if found.get_value(0, 2) != b"\1":
            await session.script(names.create_schema())
        await session.script(names.sql("create table :s.layout (version integer not null)"))
        await session.script(names.sql("insert into :s.layout values (0)"))
        version = 0
    for following in range(version + 1, SCHEMA_VERSION + 1):
        await session.script(names.migration(following, partitions))
    await session.execute(names.sql("update :s.layout set version = $1::integer"), [int4(SCHEMA_VERSION)])
    await session.script(b"commit")


async def find_logs(session: Session, names: Names, logs: Iterable[str]) -> dict[str, int]:
    """The numbers of those of the logs that are there."""
    found = await session.execute(names.sql(_FIND_LOGS), [bytea_array([log.encode() for log in logs])])
    return {
        (found.get_value(row, 0) or b"").decode(): number(found.get_value(row, 1))
        for row in range(found.ntuples)
    }


@attrs.frozen
class Identity:
    """What the table says of a log."""

    number: int
    epoch: int
    owner: str
    unique_id: str


async def identify(session: Session, names: Names, log: str, label: str) -> Identity:
    """What the table says of a log that was there before.

    Raises:
      StoreError: the tables are there, and what is in them is not yet.
      StoreUnusable: the log is not there any more.
    """
    what = f"log {log!r} in schema {names.schema!r} of {label}"
    found = await session.execute(names.sql(_IDENTITY), [log.encode()])
    if not found.ntuples:
        msg = f"{what}: table layout is empty, as while tables are restored"
        raise StoreError(msg)
    log_number, epoch, owner, unique_id = (found.get_value(0, column) for column in range(4))
    if unique_id is None:
        msg = f"{what} is gone from the table logs: open it for writing again to begin anew"
        raise StoreUnusable(msg)
    return Identity(number(log_number), number(epoch), (owner or b"").decode(), unique_id.decode())


# --- the appender ---------------------------------------------------------------------------------


class Writer:
    """What appends to a log; made by :meth:`open`."""

    def __init__(self, target: Target, names: Names, log: str) -> None:
        self._target = target
        self._names = names
        self._log = log
        self._key = names.key("log", log)
        self._turn = trio.Lock()
        self._session: Session | None = None
        self._lost: list[tuple[int, bytes]] = []
        """Sessions of ours that may still be there, and have the lock."""
        self._closed = False
        self.number: int = 0
        self.epoch: int = 0
        self.unique_id: str = ""
        self.survives: str = "power"
        """What an acknowledged append survives."""
        self.expected_seq: int = 0
        """How far the log goes at least: what was acknowledged, or found on opening."""

    @property
    def _what(self) -> str:
        return f"log {self._log!r} in schema {self._names.schema!r} of {self._target.label}"

    async def open(self, partitions: int) -> None:
        """Take the log, creating schema and log if need be.

        Raises:
          LogBusy: somebody else has it.
          StoreError: it cannot be had now.
          StoreUnusable: it cannot be had.
        """
        session = await self._target.connect()
        self._session = session
        with errors_of(self._target.label, opening=True):
            self.survives = await self._settle_durability(session)
            try:
                await _migrate(session, self._names, self._target.label, partitions)
            except ServerError as exc:
                if exc.sqlstate == "42501":
                    msg = (
                        f"{self._target.label}: {exc}; the tables cannot be made: have somebody who may do"
                        f" so run CREATE SCHEMA {self._names.quoted} AUTHORIZATION …, once, for this role"
                    )
                    raise StoreUnusable(msg) from exc
                raise
            found = await find_logs(session, self._names, [self._log])
            if not found:
                chosen = secrets.randbelow(2**63 - 1) + 1
                await session.execute(self._names.sql(_MAKE_LOG), [int8(chosen), self._log.encode()])
                found = await find_logs(session, self._names, [self._log])
            if not found:
                msg = f"{self._what}: it was removed while it was opened"
                raise StoreError(msg)
            if not await self._lock(session):
                msg = f"{self._what} is open for writing elsewhere{await self._holder(session)}"
                raise LogBusy(msg)
            self.number = found[self._log]
            taken = await session.execute(
                self._names.sql(_TAKE_LOG),
                [int8(self.number), f"{socket.gethostname()} process {os.getpid()}".encode()],
            )
            if not taken.ntuples:
                msg = f"{self._what}: it was removed while it was opened"
                raise StoreError(msg)
        self.epoch = number(taken.get_value(0, 0))
        self.unique_id = (taken.get_value(0, 1) or b"").decode()
        self.expected_seq = number(taken.get_value(0, 2))

    async def _settle_durability(self, session: Session) -> str:
        """Have commits of a session wait at least for the server's disk, unless the program says otherwise.

        What a role, the database or the server is set to is meant for others, as a rule, and may change.

        Returns:
          What a commit then survives.
        """
        result = await session.execute(_DURABILITY.encode())
        waits, fsync = (result.get_value(0, column) if result.ntuples else None for column in range(2))
        return "process" if waits == b"off" or fsync == b"off" else "power"

    async def _lock(self, session: Session) -> bool:
        result = await session.execute(_LOCK.encode(), [int8(self._key)])
        return result.get_value(0, 0) == b"\1"

    async def _holder(self, session: Session) -> str:
        found = await session.execute(_HOLDER.encode(), [int8(self._key)])
        if not found.ntuples:
            return ""
        pid, name, place = (found.get_value(0, column) or b"" for column in range(3))
        return f", by session {number(pid)} of {name.decode(errors='replace')!r} from {place.decode()}"

    @trio.lowlevel.enable_ki_protection  # between taking the turn and giving it back
    async def run(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do something in the session that has the lock, after all that was asked for before.

        Raises:
          LogBusy: somebody else has opened the log since.
          StoreError: the session was lost, or could not be had again yet.
          StoreUnusable: the store is closed; or what the server has reported will stay.
        """
        async with self._turn:
            if self._closed:
                raise StoreUnusable(CLOSED.format(self._target.label))
            with errors_of(self._target.label):
                session = await self._ready()
                try:
                    return await work(session)
                except ServerError as exc:
                    if exc.needs_another_session(has_several=self._target.has_several):
                        session.drop()
                    raise
                except StoreError as exc:
                    if self._closed and type(exc) is StoreError:
                        # Closing gave up waiting for this.
                        raise StoreUnusable(CLOSED.format(self._target.label)) from exc
                    raise
                finally:
                    if not session.is_idle():
                        # In the midst of a transaction, if it is not lost anyway.
                        session.drop()

    async def _ready(self) -> Session:
        session = self._session
        if session is not None:
            if session.is_usable():
                await trio.lowlevel.checkpoint()
                return session
            self._lost.append(session.backend)
            self._session = None
            session.drop()
        session = await self._target.connect()
        try:
            await self._settle_durability(session)
            # First whether it is ours at all: what is not must not be disturbed.
            await self._is_ours(session)
        except BaseException:
            session.drop()
            raise
        try:
            await self._reclaim(session)
        except BaseException:
            # It may have the lock by now.
            self._lost.append(session.backend)
            session.drop()
            raise
        self._session = session
        return session

    async def _reclaim(self, session: Session) -> None:
        await self._end_lost(session)
        if not await self._lock(session):
            await self._is_ours(session)
            msg = f"{self._what}: the connection was lost, and its lock is not free again yet"
            raise StoreError(f"{msg}{await self._holder(session)}")
        # Somebody may have come and gone before we got the lock.
        await self.take_again(session)

    async def _end_lost(self, session: Session) -> None:
        await trio.lowlevel.checkpoint()
        for backend in tuple(self._lost):
            pid, began = backend
            parameters = [int4(pid), began or None, int8(_END_MILLISECONDS)]
            result = await session.execute(_END_SESSION.encode(), parameters)
            if result.ntuples == 0 or result.get_value(0, 0) == b"\1":
                self._lost.remove(backend)

    async def take_again(self, session: Session) -> None:
        """Make the log ours again, in the session that has the lock, if it is of an older state.

        Raises:
          LogBusy: somebody else has opened it since.
          StoreError: the tables are there, and what is in them is not yet.
          StoreUnusable: the log is not there any more.
        """
        if not await self._is_ours(session):
            # The same epoch as before: whoever is cancelled meanwhile must not take itself for another one.
            # What is missing in the log shows with the next append.
            await session.execute(self._names.sql(_TAKE_AGAIN), [int8(self.number), int8(self.epoch)])

    async def _is_ours(self, session: Session) -> bool:
        """Whether nobody else has opened the log; False if it is as it was before we did."""
        found = await identify(session, self._names, self._log, self._target.label)
        if found.unique_id != self.unique_id:
            msg = f"{self._what} is another one now, of the same name: open it again to append to that"
            raise StoreUnusable(msg)
        self.number = found.number
        if found.epoch > self.epoch:
            self.raise_taken(found.owner)
        return found.epoch == self.epoch

    def raise_taken(self, owner: str = "") -> None:
        """Say that somebody else has the log.

        Raises:
          LogBusy: that.
        """
        by = f" by {owner}" if owner else ""
        msg = f"{self._what} was opened{by} while the connection was lost"
        raise LogBusy(msg)

    async def sync(self, session: Session) -> None:
        """Have all that was committed before reach the disk of the server.

        Raises:
          StoreError: the server does not force anything to its disk.
          ServerError, LogBusy, StoreUnusable: as :meth:`run`.
        """
        result = await session.execute(self._names.sql(schema.SYNC), [int8(self.number), int8(self.epoch)])
        if result.get_value(0, 1) == b"off":
            msg = f"{self._target.label}: the server has fsync off, so that nothing is sure to be on its disk"
            raise StoreError(msg)
        if number(result.get_value(0, 2)) == 0:
            await self.take_again(session)
            msg = f"{self._what} is as it was before it was opened"
            raise StoreError(msg)

    async def aclose(self) -> None:
        """Give the lock back and close the session, after what runs now. Never cancelled, and bounded.

        A KeyboardInterrupt that comes meanwhile is raised at the end.
        """
        self._closed = True
        returned = False
        interrupts: list[KeyboardInterrupt] = []
        deadline = trio.current_time() + _CLOSE_SECONDS
        for _ in range(_CLOSE_ATTEMPTS):
            try:
                with trio.CancelScope(deadline=deadline, shield=True):
                    async with self._turn:
                        returned = await self._return_lock()
            except KeyboardInterrupt as exc:
                # No shield keeps it out, and whoever opens the log next shall not find it locked.
                interrupts.append(exc)
            else:
                break
        if self._session is not None:
            self._session.drop()
        if not returned and (self._lost or self._session is not None):
            _logger.warning(
                "%s: the lock could not be given back within %.0f seconds; it is free once the server notices"
                " that the connection is gone",
                self._what,
                _CLOSE_SECONDS,
            )
        if interrupts:
            raise interrupts[0]
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _return_lock(self) -> bool:
        await trio.lowlevel.checkpoint()
        session = self._session
        if session is not None and session.is_usable():
            try:
                await session.execute(_UNLOCK.encode(), [int8(self._key)])
            except (ServerError, StoreError):
                pass
            else:
                return not self._lost
        if session is not None:
            self._lost.append(session.backend)
            session.drop()
        if not self._lost:
            return True
        # What a lost session still holds would shut out whoever opens the log next.
        try:
            other = await self._target.connect()
        except StoreError:
            return False
        try:
            await self._end_lost(other)
        except (ServerError, StoreError):
            return False
        finally:
            other.drop()
        return not self._lost
