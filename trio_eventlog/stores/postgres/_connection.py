"""psycopg's async connection under Trio, and which of its errors are transient.

psycopg writes every operation as a generator that yields what to wait for, and runs it with the connection's
method ``wait``. Here Trio does the waiting. So a statement needs no thread, and cancelling it reaches the
server.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import repeat
from typing import Any, Final, TypeVar, cast

import psycopg
import trio
from psycopg import generators, postgres, pq
from psycopg.abc import PQGen
from psycopg.adapt import Dumper
from psycopg.rows import TupleRow, tuple_row
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.waiting import Ready, Wait

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._threads import run_sync
from trio_eventlog.stores._common._closing import OwningProcess
from trio_eventlog.stores.postgres._names import Names
from trio_eventlog.stores.postgres._rows import ByteaArray, Int8Array

T = TypeVar("T")

_logger: Final = logging.getLogger("trio_eventlog")

_STOP_TIMEOUT: Final = 0.75
"""Seconds for a cancelled statement to end; a store has one second to raise Cancelled."""


# --- errors ---------------------------------------------------------------------------------------

_TRANSIENT: Final = (
    *("08", "25P02", "25P03", "25P04", "26", "40", "42P05", "53", "54000", "55", "57", "58", "72", "XX000"),
)
"""Prefixes of SQLSTATEs of errors that may pass by themselves.

Lost connections, transactions that ended early, statements that another session has prepared, rollbacks,
exhausted resources and transaction numbers (54000), objects in use (a lock), operator intervention, errors of
the server's system, a snapshot that is too old, and what PostgreSQL has no better code for.
"""

_FIXABLE: Final = (
    *("09", "0B", "0L", "0P", "23", "25006", "28", "2B", "2F", "38", "39", "3D", "3F", "42501", "42704"),
    *("42883", "42P01", "42P10", "44", "57P04", "F0", "HV", "P0"),
)
"""Prefixes of SQLSTATEs of errors that an operator can fix while a program runs.

Writes are switched off; a password, role, permission or policy; a trigger or constraint that was added and
fails; a database, schema, table, index or function that is missing, as while it is restored.
"""

_READ_ONLY: Final = "25006"

_NOT_PREPARED: Final = ("26000", "42P05")
"""Something between us and the server took a prepared statement away, or mixed up sessions."""


def _sqlstate(exc: psycopg.Error) -> str:
    # libpq's own errors, such as a lost connection, have none.
    return exc.sqlstate or exc.diag.sqlstate or "08006"


def _describe(exc: psycopg.Error) -> str:
    message = exc.diag.message_primary or first_line(exc)
    hint = f": {exc.diag.message_hint}" if exc.diag.message_hint else ""
    return f"{message}{hint} (SQLSTATE {_sqlstate(exc)})"


def first_line(exc: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)


def store_error(exc: psycopg.Error, label: str, *, opening: bool = False) -> StoreError:
    """An error of psycopg as one of this library; ``label`` is the database.

    On ``opening`` a store, no event was accepted yet, and the user should learn of a wrong
    password at once: what an operator can fix is a StoreUnusable then.
    """
    sqlstate = _sqlstate(exc)
    transient = not opening if sqlstate.startswith(_FIXABLE) else sqlstate.startswith(_TRANSIENT)
    return (StoreError if transient else StoreUnusable)(f"{label}: {_describe(exc)}")


def needs_new_connection(exc: psycopg.Error, *, several_hosts: bool) -> bool:
    """Whether an error will pass, but not on the connection that met it."""
    if _sqlstate(exc) == _READ_ONLY:
        # Another server may take writes now. If there is no other, keep the lock.
        return several_hosts
    return _sqlstate(exc) in _NOT_PREPARED


@contextmanager
def translated_errors(label: str, *, opening: bool = False) -> Iterator[None]:
    """Raise errors of psycopg as errors of this library; see :func:`store_error`."""
    try:
        yield
    except psycopg.Error as exc:
        raise store_error(exc, label, opening=opening) from exc


# --- arrays ---------------------------------------------------------------------------------------

_ARRAY_HEAD: Final = struct.Struct("!iiIii")
_ARRAY_NULL: Final = struct.pack("!i", -1)
_ITEM_LENGTH: Final = struct.Struct("!i")
_INT8_ITEM: Final = struct.Struct("!iq")


class _ArrayDumper(Dumper):
    """Dumps a flat list of known type, in a quarter of the time: psycopg's own dumper looks at each item."""

    format = pq.Format.BINARY
    item_oid = 0

    def dump(self, obj: list[bytes | None]) -> bytes:
        """One dimension, numbered from 1, that may have NULLs; each item follows its length."""
        parts = [_ARRAY_HEAD.pack(1, 1, self.item_oid, len(obj), 1)]
        for item in obj:
            if item is None:
                parts.append(_ARRAY_NULL)
            else:
                parts.append(_ITEM_LENGTH.pack(len(item)))
                parts.append(item)
        return b"".join(parts)


class _ByteaArrayDumper(_ArrayDumper):
    oid = postgres.types["bytea"].array_oid
    item_oid = postgres.types["bytea"].oid


class _Int8ArrayDumper(_ArrayDumper):
    oid = postgres.types["int8"].array_oid
    item_oid = postgres.types["int8"].oid

    def dump(self, obj: list[int]) -> bytes:  # type: ignore[override]
        """The same, of integers."""
        head = _ARRAY_HEAD.pack(1, 1, self.item_oid, len(obj), 1)
        return head + b"".join(map(_INT8_ITEM.pack, repeat(8), obj))


# --- the connection -------------------------------------------------------------------------------


class TrioConnection(psycopg.AsyncConnection[TupleRow]):
    """A connection of psycopg that waits with Trio, used by one task at a time; made by :meth:`open`.

    Parameters are ``$1``, ``$2`` and so on. Every statement is a transaction, except between ``begin`` and
    ``commit`` or ``rollback``. A cancelled statement is stopped at the server, and its end is awaited. If it
    does not end within 0.75 seconds, the connection is dropped.
    """

    def __init__(self, pgconn: pq.abc.PGconn, label: str, names: Names) -> None:
        super().__init__(pgconn, tuple_row)
        # Only one task at a time uses a connection, and acquiring a lock of Trio's is a checkpoint.
        self.lock: Any = nullcontext()
        self.cursor_factory: type[psycopg.AsyncCursor[TupleRow]] = psycopg.AsyncRawCursor
        # The types of parameters are part of a prepared statement, and psycopg's depend on the values.
        self.adapters.register_dumper(int, Int8BinaryDumper)
        self.adapters.register_dumper(Int8Array, _Int8ArrayDumper)
        self.adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
        self.add_notice_handler(self._look_at_notice)
        self.label: str = label
        """The database, for messages."""
        self.names: Names = names
        self._cursor: psycopg.AsyncCursor[TupleRow] | None = None
        self._process = OwningProcess()
        self._has_posted = False
        self._stopped_waiting = False
        self.backend: tuple[int, int | None] = (pgconn.backend_pid, None)
        """The server's process, and when it started, in microseconds; a later process may have its number."""

    @classmethod
    async def open(cls, conninfo: str, label: str, names: Names) -> TrioConnection:
        """Connect to the one address in ``conninfo``; no name is looked up. ``label`` is for messages.

        Cancelled, there is no connection. Raises psycopg.OperationalError.
        """
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        try:
            await _finish_connecting(pgconn)
            connection = cls(pgconn, label, names)
            await connection.set_autocommit(True)
        except BaseException:
            pgconn.finish()
            raise
        return connection

    @property
    def place(self) -> str:
        """Where the logs are, for messages."""
        return f"schema {self.names.schema!r} of {self.label}"

    def is_usable(self) -> bool:
        """Whether the next statement may come through; takes microseconds.

        Reads what the server has sent in the meantime, and so notices that it closed the connection.
        """
        try:
            self.pgconn.consume_input()
            # The end of a connection shows only with the second call.
            self.pgconn.consume_input()
        except psycopg.Error:
            return False
        return self.pgconn.status == pq.ConnStatus.OK

    def is_idle(self) -> bool:
        """Whether the connection is open, and no transaction is."""
        # A posted statement is a transaction of its own.
        return self._has_posted or self.pgconn.transaction_status == pq.TransactionStatus.IDLE

    def drop(self) -> None:
        """Close the connection, now. A task that waits for it gets an error."""
        if not self._process.is_current():
            # It belongs to the parent: anything sent to the server would end the parent's session.
            return
        self._has_posted = False
        try:
            descriptor = self.pgconn.socket
        except psycopg.Error:
            pass
        else:
            trio.lowlevel.notify_closing(descriptor)
        self.pgconn.finish()

    # --- statements -------------------------------------------------------------------------------

    async def fetch(
        self, statement: str | bytes, *parameters: object, prepare: bool = False
    ) -> list[TupleRow]:
        """Run one statement, in one round trip, and return its rows. In a string, ``:s`` is the schema.

        With ``prepare`` the server keeps its plan, which takes another round trip the first time. A
        checkpoint. Cancelled, the statement is stopped; if it is too late for that, it is done.

        Raises:
          psycopg.Error: the server reported an error.
          StoreError: the connection was lost, and is dropped; the outcome is unknown. Or a commit stopped
            waiting for its standby: it is done here, and may not be there.
        """
        cursor = await self.open_cursor(statement, *parameters, prepare=prepare)
        return await cursor.fetchall()

    async def open_cursor(
        self, statement: str | bytes, *parameters: object, prepare: bool = False
    ) -> psycopg.AsyncCursor[TupleRow]:
        """The same for many rows. They are in memory; the cursor is valid until the next statement."""
        return await self._execute(statement, parameters, prepare=prepare, binary=True)

    def free_memory(self) -> None:
        """Drop parameters and rows of the last statement. The next one takes longer."""
        self._cursor = None

    async def run(self, script: str | bytes, *parameters: object) -> None:
        """As :meth:`fetch`, for a statement without rows, or several without parameters."""
        await self._execute(script, parameters or None, prepare=False, binary=False)

    def post(self, statement: bytes, *parameters: bytes) -> None:
        """Send a statement without waiting for it or its errors. The next one runs after it."""
        try:
            self.pgconn.send_query_params(statement, list(parameters))
            self.pgconn.flush()
        except psycopg.Error:
            self.drop()
        else:
            self._has_posted = True

    async def _execute(
        self, statement: str | bytes, parameters: tuple[object, ...] | None, *, prepare: bool, binary: bool
    ) -> psycopg.AsyncCursor[TupleRow]:
        try:
            if self._has_posted:
                await self.wait(generators.execute(self.pgconn))
                self._has_posted = False
            self._stopped_waiting = False
            # Making a cursor takes as long as a small statement does.
            cursor = self._cursor = self._cursor or self.cursor()
            if isinstance(statement, str):
                statement = self.names.sql(statement)
            await cursor.execute(statement, parameters, prepare=prepare, binary=binary)
        except psycopg.Error as exc:
            if (
                exc.diag.severity_nonlocalized not in ("FATAL", "PANIC")
                and self.pgconn.status == pq.ConnStatus.OK
            ):
                raise
            self.drop()
            raise StoreError(f"{self.label}: the connection was lost: {_describe(exc)}") from exc
        except trio.ClosedResourceError as exc:
            raise StoreError(f"{self.label}: the connection was closed") from exc
        if self._stopped_waiting:
            raise StoreError(
                f"{self.label}: the server was made to stop waiting for its standby, by a timeout or an"
                " operator: what it stored may be lost if the standby takes over"
            )
        return cursor

    def _look_at_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        # The warning that a commit stopped waiting for a standby. Its words depend on the language, and its
        # code is that of any warning.
        if (notice.source_file or "").endswith("syncrep.c"):
            self._stopped_waiting = True

    # --- waiting ----------------------------------------------------------------------------------

    async def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:  # noqa: ARG002, ASYNC109 - psycopg's signature
        """Run an operation; psycopg calls this."""
        try:
            return await self._drive(gen)
        except Exception:
            raise
        except BaseException:
            # Cancelled, or a KeyboardInterrupt, which may have been raised anywhere.
            gen.close()
            await self._stop()  # noqa: ASYNC102 - shielded, with a deadline, inside
            raise

    async def _drive(self, gen: PQGen[T]) -> T:
        descriptor = self.pgconn.socket
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(await _wait_for(descriptor, wanted))
        except StopIteration as done:
            return cast("T", done.value)

    async def _stop(self) -> None:
        """Have the server stop what runs, and read what it still sends; or else drop the connection.

        Raises nothing but KeyboardInterrupt: an error must not take the place of the cancellation.
        """
        if self.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        try:
            with trio.move_on_after(_STOP_TIMEOUT, shield=True):
                # The server can only stop what has arrived there.
                await self._drive(generators.send(self.pgconn))
                await self._ask_to_stop()
                await self._drive(generators.execute(self.pgconn))
                self._has_posted = False
        except Exception as exc:
            is_expected = isinstance(exc, (psycopg.Error, trio.ClosedResourceError))
            _logger.log(
                logging.DEBUG if is_expected else logging.WARNING,
                "%s: a statement could not be stopped: %s",
                self.label,
                exc,
                exc_info=not is_expected,
            )
        finally:
            if self.pgconn.transaction_status in (
                pq.TransactionStatus.ACTIVE,
                pq.TransactionStatus.UNKNOWN,
            ):
                self.drop()

    async def _ask_to_stop(self) -> None:
        if not psycopg.capabilities.has_cancel_safe():
            # It blocks. If the thread outlives this, it only closes its own connection late.
            cancel = self.pgconn.get_cancel().cancel
            await run_sync(cancel)
            return
        request = self.pgconn.cancel_conn()
        try:
            request.start()
            # If it fails the statement goes on, and waiting for its end has a deadline.
            await _poll(request.poll, lambda: request.socket)
        finally:
            request.finish()

    async def wait_notified(self) -> None:
        """Wait for a notification that was not waited for yet. Cancelled, none is missed.

        Raises StoreError if the connection was lost; it is dropped.
        """
        try:
            while self.pgconn.notifies() is None:
                await trio.lowlevel.wait_readable(self.pgconn.socket)
                self.pgconn.consume_input()
            while self.pgconn.notifies() is not None:
                pass
        except (psycopg.Error, trio.ClosedResourceError) as exc:
            self.drop()
            raise StoreError(f"{self.label}: the connection was lost: {first_line(exc)}") from exc


async def _finish_connecting(pgconn: pq.abc.PGconn) -> None:
    if not await _poll(pgconn.connect_poll, lambda: pgconn.socket):
        raise psycopg.OperationalError(" ".join(pgconn.get_error_message().split()))
    pgconn.nonblocking = 1


async def _poll(poll: Callable[[], pq.PollingStatus | int], socket: Callable[[], int]) -> bool:
    """Poll, and wait for what that says, as in libpq's manual. Returns whether it worked."""
    while True:  # noqa: ASYNC913 - each round but the last waits
        status = poll()
        if status == pq.PollingStatus.READING:
            await trio.lowlevel.wait_readable(socket())
        elif status == pq.PollingStatus.WRITING:
            await trio.lowlevel.wait_writable(socket())
        else:
            return status == pq.PollingStatus.OK


async def _wait_for(descriptor: int, wanted: Wait) -> Ready:
    if wanted == Wait.R:
        await trio.lowlevel.wait_readable(descriptor)
        return Ready.R
    if wanted == Wait.W:
        await trio.lowlevel.wait_writable(descriptor)
        return Ready.W
    return await wait_either(descriptor)


async def wait_either(descriptor: int) -> Ready:
    """Wait until something can be read or written."""
    ready = Ready.NONE

    async def wait(how: Callable[[int], Awaitable[None]], what: Ready) -> None:
        nonlocal ready
        await how(descriptor)
        ready = Ready(ready | what)
        nursery.cancel_scope.cancel(reason="one is enough")

    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, trio.lowlevel.wait_readable, Ready.R)
            nursery.start_soon(wait, trio.lowlevel.wait_writable, Ready.W)
    except BaseExceptionGroup as group:
        # The nursery is an internal matter. A cancellation or a KeyboardInterrupt matters more than a
        # connection that was closed.
        failure = min(group.exceptions, key=lambda exc: isinstance(exc, Exception))
    try:
        if failure is not None:
            raise failure
    finally:
        # An exception in a local variable of its own traceback is a reference cycle.
        del failure
    return ready
