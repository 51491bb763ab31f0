"""The connections of a store: one for its appender, a few for reading, one for each watch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import attrs
import psycopg
import trio

from trio_eventlog._ki import ki_protected
from trio_eventlog._model._errors import StoreError
from trio_eventlog.stores._common._closing import OwningProcess, closed_error
from trio_eventlog.stores.postgres._appender import Appender
from trio_eventlog.stores.postgres._connection import TrioConnection, store_error
from trio_eventlog.stores.postgres._names import Names
from trio_eventlog.stores.postgres._schema import is_initialized
from trio_eventlog.stores.postgres._target import Target

T = TypeVar("T")

_READ_ONLY: Final = {"default_transaction_read_only": "on"}


class Pool:
    """The connections of a store, except that of its appender; made by :func:`open_connections`."""

    def __init__(self, target: Target, max_readers: int) -> None:
        self.label: Final = target.label
        self._target = target
        self.process: Final = OwningProcess()
        self._slots = trio.Semaphore(max_readers)
        self._idle: list[TrioConnection] = []
        self._open: set[TrioConnection] = set()
        self._closed = False

    def check_open(self) -> None:
        """Check that the store may be used; StoreUnusable if not."""
        self.process.check(self.label)
        if self._closed:
            raise closed_error(self.label)

    async def require_open(self) -> None:
        """The same, and a checkpoint if it raises: what follows in an open store is one."""
        if self._closed or not self.process.is_current():
            await trio.lowlevel.checkpoint()
            self.check_open()

    @trio.lowlevel.enable_ki_protection  # between taking a slot or a connection and giving it back
    async def read(self, work: Callable[[TrioConnection], Awaitable[T]], *, opening: bool = False) -> T:
        """Run ``work`` on a connection for reading, once one is free. A checkpoint."""
        await self.require_open()
        async with self._slots:
            with self._errors(opening=opening):
                connection = await self._take()
                try:
                    return await work(connection)
                finally:
                    self._give_back(connection)

    @contextmanager
    def _errors(self, *, opening: bool) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, StoreError) as exc:
            if self._closed:
                raise closed_error(self.label) from exc
            if isinstance(exc, StoreError):
                raise
            raise store_error(exc, self.label, opening=opening) from exc

    async def _take(self) -> TrioConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable():
                # No checkpoint here: a connection that is neither idle nor in use would never be closed.
                return connection
            self.close(connection)
        return await self._connect(_READ_ONLY)

    async def _connect(self, settings: dict[str, str]) -> TrioConnection:
        connection = await self._target.connect(settings=settings)
        if self._closed:
            connection.drop()
            raise closed_error(self.label)
        self._open.add(connection)
        return connection

    def _give_back(self, connection: TrioConnection) -> None:
        if self._closed or not connection.is_idle():
            self.close(connection)
        else:
            self._idle.append(connection)

    def close(self, connection: TrioConnection) -> None:
        self._open.discard(connection)
        connection.drop()

    @ki_protected
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[TrioConnection]:
        """A separate connection that may write, for the length of the block.

        For what is run by hand or now and then: what an operator must fix is a StoreUnusable, as on opening.
        """
        await self.require_open()
        with self._errors(opening=True):
            connection = await self._connect({})
            try:
                yield connection
            finally:
                self.close(connection)

    async def open_watch(self, channel: bytes) -> Watch:
        """A watch that listens to a channel."""
        return Watch(self, channel, await self.listen(channel))

    async def listen(self, channel: bytes) -> TrioConnection:
        """A connection that listens to a channel; the caller closes it."""
        await self.require_open()
        with self._errors(opening=False):
            connection = await self._connect(_READ_ONLY)
            try:
                # It consists of letters and digits.
                await connection.run(b'listen "' + channel + b'"')
            except BaseException:
                self.close(connection)
                raise
            return connection

    def close_all(self) -> None:
        """Close all connections, even those in use."""
        self._closed = True
        for connection in tuple(self._open):
            self.close(connection)


@attrs.define(eq=False)
class Watch:
    """See :meth:`PostgresStore.watch_changes`."""

    _pool: Pool
    _channel: bytes
    _connection: TrioConnection | None

    @trio.lowlevel.enable_ki_protection  # between making a connection and keeping it
    async def wait(self) -> None:
        """See :meth:`trio_eventlog.abc.ChangeWatch.wait`."""
        await trio.lowlevel.checkpoint()
        self._pool.check_open()
        if self._connection is None:
            self._connection = await self._pool.listen(self._channel)
            # What changed in the meantime was not notified.
            return
        try:
            await self._connection.wait_notified()
        except StoreError:
            self.close()
            self._pool.check_open()
            raise

    def close(self) -> None:
        """Stop listening."""
        if self._connection is not None:
            self._pool.close(self._connection)
            self._connection = None


@asynccontextmanager
async def open_connections(
    conninfo: str,
    names: Names,
    *,
    readers: int,
    log: str | None = None,
    partitions: int = 0,
    index: tuple[str, ...] = (),
) -> AsyncIterator[tuple[Pool, Appender | None]]:
    """The connections of a store for the length of the block, with an appender for ``log`` if it is given.

    Raises ValueError if ``conninfo`` cannot be read, and as :meth:`PostgresStore.open`.
    """
    target = Target(conninfo, names, writes=log is not None)
    pool = Pool(target, readers)
    appender = None if log is None else Appender(target, log)
    try:
        if appender is not None:
            await appender.open(partitions, index)
        else:
            # A server that cannot be reached, or tables of another program, are reported now.
            await pool.read(is_initialized, opening=True)
        yield pool, appender
    finally:
        # In a forked child, the connections are the parent's.
        if pool.process.is_current():
            try:
                if appender is not None:
                    await appender.aclose()  # noqa: ASYNC102 - shielded, with a deadline, inside
            finally:
                pool.close_all()
