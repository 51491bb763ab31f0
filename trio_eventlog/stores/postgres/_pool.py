"""The connections of a store: one for its appender, a few for reading, one for each watch."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio

from trio_eventlog._model._errors import LogNotFound, StoreError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog.stores.postgres._append import append
from trio_eventlog.stores.postgres._appender import CLOSED, Writer, find_logs, identify, is_initialised
from trio_eventlog.stores.postgres._connection import Session, Target, errors_of
from trio_eventlog.stores.postgres._schema import Names

T = TypeVar("T")

_READ_ONLY: Final = {"default_transaction_read_only": "on"}

_LOG_NAMES: Final = "select name from :s.logs order by name"

_CAN_BE_READ: Final = "select from :s.events where false"


class Connections:
    """All connections of a store; made by :func:`open_connections`."""

    def __init__(self, target: Target, names: Names, writer: Writer | None, readers: int) -> None:
        self.label: Final = target.label
        self.names: Final = names
        self.writer: Final = writer
        self._target = target
        self._pid = os.getpid()
        self._slots = trio.CapacityLimiter(readers)
        self._idle: list[Session] = []
        self._open: set[Session] = set()
        self._closed = False

    @property
    def place(self) -> str:
        """Where the logs are, for messages."""
        return f"schema {self.names.schema!r} of {self.label}"

    def check_open(self) -> None:
        """See that the store may be used.

        Raises:
          StoreUnusable: it may not.
        """
        if os.getpid() != self._pid:
            msg = f"{self.label}: the store belongs to the process that forked this one; open it anew"
            raise StoreUnusable(msg)
        if self._closed:
            raise StoreUnusable(CLOSED.format(self.label))

    async def append(self, events: Sequence[PersistedEvent], channel: bytes | None) -> Collection[int]:
        """Store a batch; see :func:`append <trio_eventlog.stores.postgres._append.append>`."""
        assert self.writer is not None
        return await append(self.writer, self.names, events, channel)

    @trio.lowlevel.enable_ki_protection  # between taking a place or a session and giving it back
    async def read(self, work: Callable[[Session], Awaitable[T]], *, opening: bool = False) -> T:
        """Do something in a session for reading, once one is free.

        Raises:
          StoreError: what the server has reported, or that the session was lost.
        """
        # A borrower of its own: one task may well have two at once, by way of two stores.
        borrower = object()
        await self._slots.acquire_on_behalf_of(borrower)
        try:
            session = await self._take()
            try:
                return await self._guarded(session, work, opening=opening)
            finally:
                self._give_back(session)
        finally:
            self._slots.release_on_behalf_of(borrower)

    async def _guarded(
        self, session: Session, work: Callable[[Session], Awaitable[T]], *, opening: bool
    ) -> T:
        try:
            with errors_of(self.label, opening=opening):
                return await work(session)
        except StoreError as exc:
            if self._closed:
                raise StoreUnusable(CLOSED.format(self.label)) from exc
            raise

    async def _take(self) -> Session:
        while self._idle:
            session = self._idle.pop()
            if session.is_usable():
                await trio.lowlevel.checkpoint()
                return session
            self._forget(session)
        return await self._connect(_READ_ONLY)

    async def _connect(self, settings: dict[str, str]) -> Session:
        session = await self._target.connect(settings=settings)
        if self._closed:
            session.drop()
            raise StoreUnusable(CLOSED.format(self.label))
        self._open.add(session)
        return session

    def _give_back(self, session: Session) -> None:
        if self._closed or not session.is_idle():
            self._forget(session)
        else:
            self._idle.append(session)

    def _forget(self, session: Session) -> None:
        self._open.discard(session)
        session.drop()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A session that may write, apart from all others, for the length of the block.

        It is for a person, or for what runs at times: what an operator must put right first is said at once,
        as on opening.

        Raises:
          StoreError: it cannot be had, or is lost; or what the server has reported.
        """
        session = await self._connect({})
        try:
            with errors_of(self.label, opening=True):
                yield session
        except StoreError as exc:
            if self._closed:
                raise StoreUnusable(CLOSED.format(self.label)) from exc
            raise
        finally:
            self._forget(session)

    async def find_logs(self, logs: Sequence[str]) -> dict[str, int]:
        """The numbers of logs that are to be read.

        Raises:
          LogNotFound: one of them is not there.
        """

        async def work(session: Session) -> dict[str, int]:
            if not await is_initialised(session, self.names, self.label):
                raise LogNotFound(logs[0], (), self.place)
            found = await find_logs(session, self.names, logs)
            for log in logs:
                if log not in found:
                    raise LogNotFound(log, await self._log_names(session), self.place)
            # Whether events can be read as well: a policy that would hide them shows now.
            await session.execute(self.names.sql(_CAN_BE_READ))
            return found

        if not logs:
            await trio.lowlevel.checkpoint()
            return {}
        return await self.read(work, opening=True)

    async def check_there(self, session: Session, log: str, found: int) -> None:
        """See that a log is there, with the number that was found for it.

        Raises:
          StoreUnusable: it is gone, or another one has its name.
          StoreError: it may come back.
        """
        there = await identify(session, self.names, log, self.label)
        if there.number != found:
            msg = (
                f"log {log!r} in {self.place} is another one now, of the same name: open it anew to read that"
            )
            raise StoreUnusable(msg)

    async def sync(self) -> None:
        """See :meth:`PostgresStore.sync`."""
        assert self.writer is not None
        await self.writer.run(self.writer.sync)

    async def log_names(self) -> list[str]:
        """The names of all logs, ascending by code point.

        Raises:
          StoreUnusable: there are no tables.
        """

        async def work(session: Session) -> list[str]:
            if not await is_initialised(session, self.names, self.label):
                msg = f"there are no logs in {self.place}: nobody has made the tables yet"
                raise StoreUnusable(msg)
            return await self._log_names(session)

        return await self.read(work)

    async def _log_names(self, session: Session) -> list[str]:
        result = await session.execute(self.names.sql(_LOG_NAMES))
        return [(result.get_value(row, 0) or b"").decode() for row in range(result.ntuples)]

    async def open_watch(self, channel: bytes) -> Watch:
        """Begin to listen."""
        watch = Watch(self, channel)
        await watch.listen()
        return watch

    async def listen(self, channel: bytes) -> Session:
        """A session that listens to a channel."""
        session = await self._connect(_READ_ONLY)
        try:
            with errors_of(self.label):
                # Our own digits and letters.
                await session.script(b'listen "' + channel + b'"')
        except BaseException:
            self._forget(session)
            raise
        return session

    def forget(self, session: Session) -> None:
        """Close a session that :meth:`listen` returned."""
        self._forget(session)

    async def aclose(self) -> None:
        """Close all of them. Never cancelled, and bounded; see :meth:`Writer.aclose`."""
        if os.getpid() != self._pid:
            # They are those of the process that forked this one.
            return  # noqa: ASYNC910 - there is nothing to wait for
        self._closed = True
        try:
            if self.writer is not None:
                await self.writer.aclose()
        finally:
            for session in tuple(self._open):
                self._forget(session)
        await trio.lowlevel.cancel_shielded_checkpoint()


class Watch:
    """See :meth:`PostgresStore.watch_changes`."""

    def __init__(self, connections: Connections, channel: bytes) -> None:
        self._connections = connections
        self._channel = channel
        self._session: Session | None = None

    async def listen(self) -> None:
        """Begin to listen."""
        self._session = await self._connections.listen(self._channel)

    async def wait(self) -> None:
        """Wait until the log may have changed since this returned last, or since the watch began.

        A checkpoint.

        Raises:
          StoreError: the connection was lost, or is lost yet.
          StoreUnusable: the store is closed.
        """
        await trio.lowlevel.checkpoint()
        self._connections.check_open()
        if self._session is None:
            await self.listen()
            # What came meanwhile was not told.
            return
        try:
            await self._session.wait_notified()
        except StoreError:
            self.close()
            self._connections.check_open()
            raise

    def close(self) -> None:
        """Stop listening."""
        if self._session is not None:
            self._connections.forget(self._session)
            self._session = None


@asynccontextmanager
async def open_connections(
    conninfo: str, names: Names, *, log: str | None, readers: int, partitions: int
) -> AsyncIterator[Connections]:
    """The connections of a store for the length of the block; with an appender for ``log``, if one is named.

    Raises:
      ValueError: ``conninfo`` cannot be read.
      StoreError: the database cannot be opened; see :meth:`PostgresStore.open`.
    """
    target = Target(conninfo, writes=log is not None)
    writer = None if log is None else Writer(target, names, log)
    connections = Connections(target, names, writer, readers)
    try:
        if writer is not None:
            await writer.open(partitions)
        else:
            # A server that cannot be reached, and tables that are none of ours, show now.
            await connections.read(
                lambda session: is_initialised(session, names, connections.label), opening=True
            )
        yield connections
    finally:
        await connections.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside
