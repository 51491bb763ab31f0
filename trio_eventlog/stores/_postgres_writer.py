"""The one session of a log's appender: its lock, its epoch, and how both survive the session.

Two things see to it that a log has one appender.

* An advisory lock of the session. It ends with the session, and with it everything that the session could
  still write: whoever gets the lock knows that nothing of an earlier appender can land.
* The epoch of the log, a number that everyone who gets the lock raises. Every append checks it, in its own
  transaction, and so learns whether somebody else had the log while its session was lost.

A session may be lost without the server noticing: then the old one has the lock yet. It is ended by its
number before the new one asks for the lock. Until that has worked the appender is shut out of its own log,
which is a :class:`StoreError`, and passes; that somebody else has opened the log meanwhile is a
:class:`LogBusy`, and stays.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from trio_eventlog._errors import LogBusy, StoreError, StoreUnusable
from trio_eventlog.stores._postgres_connection import ServerError, Session, Target, errors_of
from trio_eventlog.stores._postgres_schema import (
    FIND_LAYOUT,
    SCHEMA_VERSION,
    Names,
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

_FIND_LOG: Final = "select log from :s.logs where name = $1::bytea"

_MAKE_LOG: Final = """
insert into :s.logs (name, unique_id) values ($1::bytea, replace(gen_random_uuid()::text, '-', ''))
on conflict (name) do nothing
"""

_TAKE_LOG: Final = """
update :s.logs set epoch = epoch + 1, owner = $2::text where log = $1::bigint returning epoch, unique_id
"""

_EPOCH: Final = "select epoch, coalesce(owner, '') from :s.logs where log = $1::bigint"

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


async def find_log(session: Session, names: Names, log: str) -> int | None:
    """The number of a log; None if there is no such log."""
    found = await session.execute(names.sql(_FIND_LOG), [log.encode()])
    return number(found.get_value(0, 0)) if found.ntuples else None


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
        with errors_of(self._target.label):
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
            found = await find_log(session, self._names, self._log)
            if found is None:
                await session.execute(self._names.sql(_MAKE_LOG), [self._log.encode()])
                found = await find_log(session, self._names, self._log)
            if found is None:
                msg = f"{self._what}: it was removed while it was opened"
                raise StoreError(msg)
            if not await self._lock(session):
                msg = f"{self._what} is open for writing elsewhere{await self._holder(session)}"
                raise LogBusy(msg)
            taken = await session.execute(
                self._names.sql(_TAKE_LOG),
                [int8(found), f"{socket.gethostname()} process {os.getpid()}".encode()],
            )
            if not taken.ntuples:
                msg = f"{self._what}: it was removed while it was opened"
                raise StoreError(msg)
        self.number = found
        self.epoch = number(taken.get_value(0, 0))
        self.unique_id = (taken.get_value(0, 1) or b"").decode()

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
            # First whether it is ours at all: what is not must not be disturbed.
            await self._check_epoch(session)
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
            await self._check_epoch(session)
            msg = f"{self._what}: the connection was lost, and its lock is not free again yet"
            raise StoreError(f"{msg}{await self._holder(session)}")
        # Somebody may have come and gone before we got the lock.
        await self._check_epoch(session)

    async def _end_lost(self, session: Session) -> None:
        await trio.lowlevel.checkpoint()
        for backend in tuple(self._lost):
            pid, began = backend
            parameters = [int4(pid), began or None, int8(_END_MILLISECONDS)]
            result = await session.execute(_END_SESSION.encode(), parameters)
            if result.ntuples == 0 or result.get_value(0, 0) == b"\1":
                self._lost.remove(backend)

    async def _check_epoch(self, session: Session) -> None:
        found = await session.execute(self._names.sql(_EPOCH), [int8(self.number)])
        if not found.ntuples:
            msg = f"{self._what}: it was removed while it was open"
            raise StoreUnusable(msg)
        if number(found.get_value(0, 0)) != self.epoch:
            self.raise_taken((found.get_value(0, 1) or b"").decode(errors="replace"))

    def raise_taken(self, owner: str = "") -> None:
        """Say that somebody else has the log.

        Raises:
          LogBusy: that.
        """
        by = f" by {owner}" if owner else ""
        msg = f"{self._what} was opened{by} while the connection was lost"
        raise LogBusy(msg)

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
