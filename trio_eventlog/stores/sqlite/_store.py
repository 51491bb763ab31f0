"""A store in a SQLite database: the durable default."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar, cast

import apsw
import apsw.aio
import trio

from trio_eventlog._handover import giving_way
from trio_eventlog._lock_file import FileLock
from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.abc import ChangeWatch, EventPage
from trio_eventlog.stores._common._arguments import (
    check_log_name,
    check_max_bytes,
    check_prune,
    checked_log_names,
    checked_top,
)
from trio_eventlog.stores._common._batches import sealed_batch
from trio_eventlog.stores._common._prune import PrunePlan, PruneProgress
from trio_eventlog.stores._common._verify import Verifier, check_pages
from trio_eventlog.stores.sqlite import _files as files
from trio_eventlog.stores.sqlite import _maintenance as upkeep
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _select as queries
from trio_eventlog.stores.sqlite._appender import Appender, survives
from trio_eventlog.stores.sqlite._layout import check_layout
from trio_eventlog.stores.sqlite._wal import WriteAheadLog, at_work

T = TypeVar("T")

_logger: Final = logging.getLogger("trio_eventlog")

_OPEN_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 10.0
"""For both connections together."""

_GRACE_SECONDS: Final = 1.0
"""For each attempt to close a connection that does nothing when that time is over."""

_CLOSE_ATTEMPTS: Final = 3

_LOOK_EVERY: Final = 0.05
"""Seconds between two looks at whether the file has changed."""


# apsw interrupts statements of a cancelled call every so many steps, a ROLLBACK included. What the
# writer has begun it shall finish; this is as good as never.
_NEVER: Final = 2**31 - 1

# A few milliseconds.
_STEPS_TO_CLOSE: Final = 50_000

_PASSING: Final = (
    apsw.AbortError,
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.InterruptError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.ProtocolError,
    apsw.SchemaChangeError,
    MemoryError,
)
"""Errors that the next attempt may not meet. All others of the driver will stay."""


def _store_error(path: str, exc: BaseException) -> StoreError:
    kind = StoreError if isinstance(exc, _PASSING) else StoreUnusable
    return kind(f"{path}: {str(exc) or type(exc).__name__}")


# --- the connections ------------------------------------------------------------------------------


class _Controller(apsw.aio.Trio):
    """The driver's thread and the way into it."""

    _opened: apsw.Connection | None = None

    def __init__(self) -> None:
        super().__init__(thread_name="trio_eventlog apsw, ends at once")
        threading.Thread(name="trio_eventlog apsw", target=self._run_jobs, daemon=True).start()

    def worker_thread_run(self) -> None:
        """Do nothing in the driver's thread, for whose end a process waits before its own.

        If its Trio run was cut off, nobody closes the connection any more, and it would wait for ever. A
        thread of ours runs the jobs. For the file, to end with the process is as good as a kill.
        """

    def configure(self, db: apsw.Connection) -> None:
        """Take over a connection that was opened just now, in the thread."""
        self._opened = db
        super().configure(db)

    def _run_jobs(self) -> None:
        """Run jobs until the connection is closed, or nobody is there any more to use it."""
        # A job that outlives the loop has nobody left to hear of it.
        with suppress(trio.RunFinishedError):
            super().worker_thread_run()  # type: ignore[no-untyped-call] # the driver's
        # Whoever opened it may have given up meanwhile.
        db, self._opened = self._opened, None
        if db is not None:
            db.close(True)


class _Worker:
    """One connection, and the thread in which everything that touches it runs.

    apsw brings the thread and the way into it. This adds an end that cannot be missed: whether the
    close is waited for or given up, the last thing that happens in the thread is ``at_end``.
    """

    def __init__(self, path: str, db: apsw.AsyncConnection, at_end: Callable[[], None]) -> None:
        self.path: Final = path
        self._db = db
        self._at_end = at_end
        self._pid = os.getpid()
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._closing = False
        # Guards the three below, which both threads use. Never held for longer than a few statements.
        self._mutex = threading.Lock()
        self._running = False
        self._abandoned = False
        self._finished = False

    @classmethod
    async def start(
        cls, path: str, flags: int, progress_steps: int | None, at_end: Callable[[], None]
    ) -> _Worker:
        """Open the file."""
        await trio.lowlevel.checkpoint()
        controllers: list[_Controller] = []

        def control() -> _Controller:
            try:
                controllers.append(_Controller())
            except RuntimeError as exc:
                # No thread is to be had.
                msg = f"{path}: {exc}"
                raise StoreError(msg) from exc
            return controllers[0]

        db: apsw.AsyncConnection | None = None
        try:
            with (
                # Opening takes milliseconds, no page of the file is read yet: simpler to have it than to
                # cancel it.
                trio.move_on_after(_OPEN_SECONDS, shield=True),
                _set(apsw.aio.deadline, math.inf),
                _set(apsw.async_controller, control),
                _set(apsw.aio.check_progress_steps, progress_steps),
            ):
                db = await apsw.Connection.as_async(path, flags=flags)
        except (apsw.Error, MemoryError) as exc:
            raise _store_error(path, exc) from exc
        finally:
            # The time is over, or a KeyboardInterrupt came, which no shield keeps out: then apsw leaves its
            # thread waiting, and the process could not end.
            if db is None and controllers:
                controllers[0].close()  # type: ignore[no-untyped-call] # the driver's
        if db is None:
            msg = f"{path}: opening the file took more than {_OPEN_SECONDS:.0f} seconds"
            raise StoreError(msg)
        return cls(path, db, at_end)

    async def run(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run ``job`` in the thread, after all that was asked for before.

        Cancelled, it raises at once: a job that has not begun is then dropped, one that has goes on, on
        its own. So that nothing begins for a caller who is cancelled already, they check first.
        """
        if os.getpid() != self._pid:
            msg = f"{self.path}: the store belongs to the process that forked this one; open it anew"
            raise StoreUnusable(msg)
        if self._closing:
            raise StoreUnusable(_CLOSED.format(self.path))
        return await self._send(job)

    async def _send(self, job: Callable[[apsw.Connection], T]) -> T:
        # Without this, apsw would translate deadlines of the caller's cancel scopes to the real clock
        # and raise TooSlowError in addition to the cancellation; infinity has to be this very object.
        with _set(apsw.aio.deadline, math.inf):
            # apsw's thread remembers its last call and what that returned until the next one.
            result: list[T] = []
            try:
                with giving_way():
                    # In the context of whoever asks, as Trio's own threads have it.
                    await self._db.async_run(copy_context().run, self._work, job, result)
                return result.pop()
            except (apsw.Error, MemoryError) as exc:
                if self._closing:
                    raise StoreUnusable(_CLOSED.format(self.path)) from exc
                raise _store_error(self.path, exc) from exc
            except UnicodeDecodeError as exc:
                # SQLite hands out what is in the file.
                msg = f"{self.path}: damaged: {exc}"
                raise StoreUnusable(msg) from exc

    def _work(self, job: Callable[[apsw.Connection], T], result: list[T]) -> None:
        # In the thread, where apsw's asynchronous connection is an ordinary one.
        db = cast("apsw.Connection", self._db)
        with self._mutex:
            if self._finished or (self._closing and job != self._finish):
                raise StoreUnusable(_CLOSED.format(self.path))
            self._running = True
        try:
            with at_work(self.path):
                result.append(job(db))
        finally:
            with self._mutex:
                self._running = self._abandoned
            if self._abandoned:
                self._finish(db)

    def _finish(self, db: apsw.Connection) -> None:
        with self._mutex:
            if self._finished:
                return
            self._finished = True
        try:
            db.close(True)
        finally:
            try:
                self._at_end()
            finally:
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._ended.set)

    def is_closing(self) -> bool:
        """For SQLite, which asks every so often while a statement runs: stop it?

        Its own call for that, ``interrupt``, does nothing if it comes just before the statement.
        """
        return self._closing

    async def aclose(self, deadline: float) -> None:
        """Close the connection after what runs now; refuse what comes later. Never cancelled.

        What takes beyond ``deadline`` is left to the thread, with a warning: the connection is closed as
        soon as what runs now ends. A KeyboardInterrupt that comes meanwhile is raised at the end.
        """
        if os.getpid() != self._pid:
            # Thread, connection and lock are those of the process that forked this one.
            return  # noqa: ASYNC910 - there is nothing to wait for
        self._closing = True
        interrupts: list[KeyboardInterrupt] = []
        if not await self._wait_closed(deadline, interrupts):
            _logger.warning(
                "%s: closing gave up after %.0f seconds because a statement is still running; what it holds,"
                " a writer's lock included, is freed when it ends",
                self.path,
                _CLOSE_SECONDS,
            )
        if interrupts:
            raise interrupts[0]

    async def _wait_closed(self, deadline: float, interrupts: list[KeyboardInterrupt]) -> bool:
        closed = False
        attempts = 0
        while not closed and not self._abandoned and attempts < _CLOSE_ATTEMPTS:
            try:
                with trio.CancelScope(deadline=deadline, shield=True):
                    await (self._ended.wait() if self._finished else self._send(self._finish))
                    closed = True
            except KeyboardInterrupt as exc:
                # No shield keeps it out, and apsw has dropped the job if it had not begun.
                interrupts.append(exc)
                continue
            except StoreError:
                # It had begun: now wait for its end.
                attempts += 1
                continue
            if not closed:
                with self._mutex:
                    self._abandoned = self._running
                    closed = self._finished and not self._running
                # If neither, then between two jobs just now, so that the thread is not stuck: try again.
                attempts += 1
                deadline = trio.current_time() + _GRACE_SECONDS
        return closed  # noqa: ASYNC910 - flake8-async cannot know that the first round waits


_CLOSED: Final = "{}: the store is closed"


@contextmanager
def _set(variable: Any, value: object) -> Iterator[None]:
    if value is None:
        yield
        return
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


# --- the store ------------------------------------------------------------------------------------


class SqliteStore(metaclass=NoPublicConstructor):
    """One log in a SQLite database; made by :meth:`open`.

    The database is a file in WAL mode. It can hold many logs, each with its own ids and seqs, and each
    open for writing once at a time, in any number of processes. Keeps all clauses of
    :class:`trio_eventlog.abc.EventStore`, and states:

    * **Cancellation** is prompt. An append that was cancelled may still be stored afterwards; what
      comes next waits for it. A query that was cancelled is stopped.
    * **Waiting for locks**: writers of different logs of one file take turns, and wait up to 2.5
      seconds before they raise :class:`StoreError`.
    * **Durability**: with ``synchronous="full"``, an append that has returned survives a loss of power, also
      of events that an earlier process had written and not synced; with ``"normal"`` it survives a kill of
      the process, and a loss of power may undo the latest appends, back to the last :meth:`sync`. ``"extra"``
      is the same as ``"full"``, and ``"off"`` as ``"normal"``: SQLite's own could harm other logs of a file.
    * **A store that went back**: an append compares what the log holds with what it held after the last one.
      If the file was restored from a backup, it raises :class:`StoreWentBack
      <trio_eventlog.StoreWentBack>` or, if it cannot go on, :class:`StoreUnusable`.
    * **Limits**: one text or one event has at most 1,000,000,000 bytes, less one of SQLite's overhead;
      beyond that it is rejected.
    * **The lock** of a writer is the side file ``<path>.<16 hex digits>.lock``, which names the holder's
      process id and stays where it is; do not remove it. The lock itself ends with the store, or with the
      process. It needs ``flock``: on Windows a log can only be read.
    * **Threads**: one for reading and, in a writer, one for writing. They do not keep a process alive whose
      Trio run was cut off. With Trio's ``autojump_clock``, time jumps while they work; use the real clock in
      tests.
    """

    log_id: Final[str | None]
    """Tells this log from all others, in this file and others; None in a store that is read-only."""

    survives: Final[str]
    """What an append that has returned survives, ``"power"`` or ``"process"``."""

    def __init__(
        self,
        place: files.Place,
        log: str,
        unique_id: str,
        reader: _Worker,
        *,
        writer: _Worker | None = None,
        appender: Appender | None = None,
        synchronous: str = "full",
    ) -> None:
        self._place = place
        self._path = place.path
        self._log = log
        self._unique_id = unique_id
        self._version: int | None = None
        self._writer = writer
        self._appender = appender
        self._reader = reader
        self.log_id = None if writer is None else unique_id
        self.survives = survives(synchronous)

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
        return self._writer is None

    def __repr__(self) -> str:
        mode = "read-only" if self.read_only else "writing"
        return f"<SqliteStore {self._path!r} log={self._log!r} {mode}>"

    @staticmethod
    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection  # not of the body of the block
    async def open(
        path: str | os.PathLike[str],
        *,
        log: str = "default",
        read_only: bool = False,
        synchronous: str = "full",
    ) -> AsyncIterator[SqliteStore]:
        """Open a log for the length of an ``async with`` block, creating file and log if need be.

        A new file can be read and written by its owner alone (mode 0600). Leaving the block frees lock,
        threads and files. It waits for an append that is still running, not for queries; after 10 seconds
        it gives up with a warning to the logger ``trio_eventlog``, and the lock stays taken until the
        append ends.

        Entering is a checkpoint and can be cancelled; leaving waits in spite of a cancellation, for as
        long as said above. It does so in spite of Ctrl-C, too, and raises the KeyboardInterrupt then.

        Args:
          path: the database file. Its directory must exist, and be writable to readers too: SQLite keeps
            shared memory there.
          log: name of the log, 1 to 512 bytes in UTF-8.
          read_only: do not write. Needs no lock; file and log must exist.
          synchronous: when to make sure that data has reached the disk: ``"full"`` (each append) or
            ``"normal"`` (now and then, and with :meth:`sync`); also ``"extra"`` and ``"off"``, see above.

        Raises:
          ValueError: ``path``, ``log`` or ``synchronous`` is not as described, or ``path`` is not UTF-8,
            which SQLite needs. Its ``":memory:"`` is none of ours: use :class:`MemoryStore`.
          TypeError: an argument is of the wrong type.
          LogBusy: somebody else has the log open for writing.
          LogNotFound: the log that is to be read is not in the file.
          StoreUnusable: the file is missing, not a database, of another program, or of a newer version of
            this library; or it may not be opened.
          StoreError: the file cannot be opened now: it is busy, the disk is full, or there are too many open
            files or threads.
        """
        path = files.checked_path(path)
        check_log_name(log)
        if synchronous not in schema.SYNCHRONOUS:
            msg = f"synchronous must be one of {', '.join(schema.SYNCHRONOUS)}, got {synchronous!r}"
            raise ValueError(msg)
        workers: list[_Worker] = []
        lock: FileLock | None = None
        try:
            if read_only:
                place = await files.in_thread(path, partial(files.existing, path))
                reader = await _start_reader(place, workers)
                found = await reader.run(partial(schema.require_log, log=log))
                yield SqliteStore._create(place, log, found.unique_id, reader, synchronous=synchronous)
            else:
                place, claimed = await files.in_thread(path, partial(files.claim, path, log))
                lock = claimed
                appender = Appender(place, claimed, log, synchronous)
                writer = await _Worker.start(place.path, apsw.SQLITE_OPEN_READWRITE, _NEVER, appender.end)
                workers.append(writer)
                await _first_run(writer, appender.prepare)
                yield SqliteStore._create(
                    place,
                    log,
                    appender.unique_id,
                    await _start_reader(place, workers),
                    writer=writer,
                    appender=appender,
                    synchronous=synchronous,
                )
        finally:
            await _close(workers, lock)  # noqa: ASYNC102 - shielded, with a bound, inside

    @staticmethod
    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection  # as above
    async def open_readers(
        path: str | os.PathLike[str], *, logs: Iterable[str] | None = None
    ) -> AsyncIterator[dict[str, SqliteStore]]:
        """Open logs of one file for reading, for the length of an ``async with`` block.

        However many they are, they share one connection and one thread, in which their queries run one after
        another. For :func:`trio_eventlog.reading.merge_events`, for example. Entering and leaving are as with
        :meth:`open`.

        Args:
          path: the database file.
          logs: their names; by default all that are in the file now.

        Raises:
          ValueError, TypeError, LogNotFound, StoreUnusable, StoreError: as :meth:`open`.
        """
        path = files.checked_path(path)
        names = checked_log_names(logs)
        workers: list[_Worker] = []
        try:
            place = await files.in_thread(path, partial(files.existing, path))
            reader = await _start_reader(place, workers)
            if names is None:
                names = await reader.run(schema.log_names)
            found = [await reader.run(partial(schema.require_log, log=name)) for name in names]
            yield {
                name: SqliteStore._create(place, name, log.unique_id, reader)
                for name, log in zip(names, found, strict=True)
            }
        finally:
            await _close(workers, None)  # noqa: ASYNC102 - shielded, with a bound, inside

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, all of it or nothing; see :meth:`trio_eventlog.abc.EventStore.append_batch`.

        A checkpoint, also for an empty batch. Cancelled, it raises at once, and whether the batch was or
        will be stored is unknown; every later call waits for it.

        Raises:
          EventRejected: a seq is not in 1 to 2**63 - 1, a timestamp is above 2**63 - 1, a payload is not
            JSON, a text has a lone surrogate, or an event is beyond SQLite's limit of a thousand million
            bytes. Names all such events; nothing was stored.
          SequenceConflict: an event of another id already sits on a seq; nothing was stored.
          StoreWentBack: the log holds less than it held, since the file was restored from a backup. Nothing
            was stored; the next append goes on from there.
          StoreError: another writer kept the file busy for 2.5 seconds, or the disk is full.
          StoreUnusable: the store is closed, read-only, or the parent's in a forked child; or the file is
            damaged, or it or a file beside it was moved, removed, replaced, overwritten or truncated; or the
            log is not in it any more.
        """
        if self._writer is None or self._appender is None:
            raise await self._read_only()
        copies = await sealed_batch(events)
        if not copies:
            await self._writer.run(_nothing)
            return ()
        return await self._writer.run(partial(self._appender.append, events=copies))

    async def _read_only(self) -> StoreUnusable:
        await trio.lowlevel.checkpoint()
        return StoreUnusable(f"{self._path}: the store was opened read-only")

    async def sync(self) -> None:
        """Return once all that was appended before this call survives a loss of power.

        Whatever ``synchronous`` says, and also what earlier processes wrote to this log. Comes after the
        appends that began before.

        A checkpoint. Cancelled, it raises at once; what runs then ends by itself.

        Raises:
          StoreError: the system could not make sure of it now, or the log holds less than it held, which the
            next append says.
          StoreUnusable: the store is closed or read-only, or its files were moved, removed or replaced.
        """
        if self._writer is None or self._appender is None:
            raise await self._read_only()
        await trio.lowlevel.checkpoint()
        await self._writer.run(self._appender.sync)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """All events that match, ascending by seq; see :meth:`trio_eventlog.abc.EventStore.query`.

        Fast with any filter, alone or with others: each has an index, and of several the most selective
        is used: ``step_id``, ``run_id``, ``identity``, ``member_id``, ``event_types`` (up to 32 of them),
        ``mob_id``, time, ``after_seq``. Time together with ``after_seq`` reads on from there.

        A checkpoint. Cancelled, it raises at once, and what runs is stopped. Queries run one after
        another, beside appends.

        Raises:
          StoreError: the query failed and may succeed later.
          StoreUnusable: the store is closed, or the file is damaged, or the log is not in it any more; or a
            reader's file was moved, removed or replaced.
        """
        await trio.lowlevel.checkpoint()
        return await self._read(lambda db, log_id: queries.read(db, query, log_id))

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        """What :meth:`query` returns, cut off once it weighs ``max_bytes``; see
        :meth:`trio_eventlog.abc.PagedStore.query_page`.

        A checkpoint, and cancelled as :meth:`query` is.

        Raises:
          TypeError, ValueError: ``max_bytes`` is not an integer of 1 or more.
          StoreError, StoreUnusable: as :meth:`query`.
        """
        check_max_bytes(max_bytes)
        await trio.lowlevel.checkpoint()
        return await self._read(lambda db, log_id: queries.read_page(db, query, log_id, max_bytes))

    async def _read(self, job: Callable[[apsw.Connection, int], T]) -> T:
        """Run ``job`` with the number of the log, in the reader's thread and one transaction."""
        return await self._reader.run(partial(self._read_log, job=job))

    def _read_log(self, db: apsw.Connection, job: Callable[[apsw.Connection, int], T]) -> T:
        with schema.snapshot(db):
            log = schema.same_log(db, self._log, self._unique_id)
            version = db.data_version()
            if version != self._version:
                # Another connection has written.
                schema.check_layout(db, self._log)
                self._version = version
            result = job(db, log.number)
        self._check_place(db)
        return result

    def _check_place(self, db: apsw.Connection) -> None:
        # A writer looks when it writes, and may read to its end what it has stored.
        if self._writer is None:
            self._place.check(side_files=schema.uses_wal(db))

    async def last_seq(self) -> int:
        """The highest seq ever stored, 0 before the first.

        A checkpoint. In a writer it comes after every append that began before, also one that was
        cancelled; in a reader it waits for the queries before it.

        Raises:
          StoreError: the file cannot be read now.
          StoreUnusable: the store is closed, or the file is damaged; or it was moved, removed or replaced.
        """
        await trio.lowlevel.checkpoint()
        if self._writer is not None and self._appender is not None:
            return await self._writer.run(self._appender.last_seq)
        return await self._read(schema.last_seq)

    async def pruned_seq(self) -> int:
        """The highest seq of all events that were ever pruned from this log, 0 if none was.

        What is missing at or below it may have been pruned; what is missing above it was not. For a log of
        which somebody had pruned before the file took note of that, all that is missing at its front counts.

        A checkpoint. Cancelled, it raises at once.

        Raises:
          StoreError: the file cannot be read now.
          StoreUnusable: the store is closed, or the file is damaged; or a reader's file was moved, removed or
            replaced.
        """
        await trio.lowlevel.checkpoint()
        return await self._read(schema.pruned_seq)

    @asynccontextmanager
    async def watch_changes(self) -> AsyncIterator[ChangeWatch]:
        """Watch for changes of the file, for the length of an ``async with`` block.

        Looks 20 times a second, while somebody waits, whether another connection has written to it, be it to
        this log or to another. Costs no more than that: SQLite keeps a number for it in shared memory.

        Also tells when a reader's file was moved, removed or replaced; the next call then says so.

        Entering is a checkpoint.

        Raises:
          StoreError: the file cannot be read now.
          StoreUnusable: the store is closed, or the file is damaged.
        """
        await trio.lowlevel.checkpoint()
        yield _Watch(self._reader, self._data_version, await self._reader.run(schema.data_version))

    def _data_version(self, db: apsw.Connection) -> int | None:
        try:
            self._check_place(db)
        except StoreUnusable:
            return None
        return schema.data_version(db)

    async def describe(self, *, top: int = 10) -> StoreDescription:
        """What the log holds, in numbers, all of one moment.

        Takes time in proportion to the log, about a second for a few million events. A checkpoint;
        cancelled, it is stopped.

        Args:
          top: how many event types and members to name, the most frequent first; 0 or more.

        Raises:
          TypeError: ``top`` is no integer.
          ValueError: ``top`` is negative.
          StoreError: the file cannot be read now.
          StoreUnusable: the store is closed, or the file is damaged.
        """
        top = checked_top(top)
        await trio.lowlevel.checkpoint()
        return await self._read(partial(self._describe, top))

    def _describe(self, top: int, db: apsw.Connection, log_id: int) -> StoreDescription:
        wal_bytes = WriteAheadLog(self._path).size_bytes()
        size_bytes = files.size_of(self._path) + wal_bytes
        return queries.describe(db, log_id, top, size_bytes, wal_bytes)

    async def verify(
        self, *, most_findings: int = 100, on_progress: Callable[[int], object] | None = None
    ) -> StoreVerification:
        """Look the log over: does it hold what was stored, and nothing else?

        SQLite's own check of the log's table and of its indexes, of which none is missing; each event can be
        read, its columns agree with its payload, seqs ascend, ids stand once, and the log's highest seq is
        not below that of an event. No log of the file has lost its name. A program may write meanwhile.

        A checkpoint. Cancelled, it raises at once, and what runs is stopped.

        Args:
          most_findings: most problems that are named, 0 or more; all are counted.
          on_progress: called with a seq now and then; all up to it were looked at.

        Raises:
          StoreError: the file cannot be read now.
          StoreUnusable: the store is closed, or the file is damaged so badly that nothing can be said of it.
        """
        await trio.lowlevel.checkpoint()
        check = upkeep.LogCheck(Verifier(most_findings))
        if await self._read(check.check_structure):
            await check_pages(partial(self._read, check.check_page), on_progress)
            await self._read(check.check_end)
        return check.verifier.result()

    async def prune(
        self,
        *,
        before_ms: int | None = None,
        keep: int | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Take old events out of a log, for good. ``last_seq`` stays what it was; see :meth:`pruned_seq`.

        In transactions of 1,000 events, through a connection of its own, beside whoever writes to the log: an
        append waits for one of them at most. Events that come meanwhile stay. The file does not shrink; new
        events take the room. Also in a store that was opened read-only, which means that it does not append.

        A checkpoint. Cancelled, it stops between two transactions or finishes the one that runs; what is gone
        is gone, and calling it again goes on.

        Args:
          before_ms: events before this time go, milliseconds since 1970-01-01 UTC.
          keep: all but so many events, those with the highest seqs, go; 0 or more.
          dry_run: only count them.
          on_progress: called with how many are gone, and how many there were, after each transaction; also
            after one that ended when the call was cancelled already.

        Returns:
          How many events went, or would go.

        Raises:
          ValueError: not exactly one of ``before_ms`` and ``keep`` is given, or it is negative.
          StoreUnusable: the store is closed, or the file is damaged or may not be written, or was moved,
            removed or replaced, or the log is not in it any more.
          StoreError: another writer kept the file busy for 2.5 seconds, or the disk is full.
        """
        check_prune(before_ms, keep)
        await trio.lowlevel.checkpoint()
        plan, total = await self._read(partial(self._plan_prune, before_ms=before_ms, keep=keep))
        if dry_run:
            return total
        workers: list[_Worker] = []
        wal = WriteAheadLog(self._path)
        progress = PruneProgress(total, on_progress)

        def prune_some(db: apsw.Connection) -> int:
            self._place.check(side_files=False)
            some = upkeep.prune_some(db, self._log, self._unique_id, plan)
            progress.add(some)
            wal.keep_small(db)
            return some

        try:
            workers.append(await _Worker.start(self._path, apsw.SQLITE_OPEN_READWRITE, _NEVER, _nothing))
            await _first_run(workers[0], schema.harden)
            while await workers[0].run(prune_some):
                progress.report()
            return progress.gone
        finally:
            await _close(workers, None)  # noqa: ASYNC102 - shielded, with a bound, inside
            # A transaction that outlived its caller was not reported yet.
            progress.report()

    def _plan_prune(
        self, db: apsw.Connection, log_id: int, before_ms: int | None, keep: int | None
    ) -> tuple[PrunePlan, int]:
        # In a writer, too: it goes by the name of the file.
        self._place.check(side_files=False)
        return upkeep.plan_prune(db, log_id, before_ms, keep)

    async def log_names(self) -> list[str]:
        """The names of all logs in the file, ascending by code point.

        A checkpoint. Cancelled, it raises at once.

        Raises:
          StoreError: the file cannot be read now.
          StoreUnusable: the store is closed, or the file is damaged.
        """
        await trio.lowlevel.checkpoint()
        return await self._reader.run(self._log_names)

    def _log_names(self, db: apsw.Connection) -> list[str]:
        names = schema.log_names(db)
        self._check_place(db)
        return names

    @staticmethod
    async def logs(path: str | os.PathLike[str]) -> list[str]:
        """The names of the logs in a database, ascending by code point.

        A checkpoint; opens the file for reading and closes it again.

        Raises:
          ValueError: ``path`` names no file.
          StoreUnusable: there is no such file, or it is none of ours.
          StoreError: the file cannot be read now.
        """
        async with SqliteStore.open_readers(path) as stores:
            return list(stores)


async def _start_reader(place: files.Place, workers: list[_Worker]) -> _Worker:
    """Start a connection for reading, and add it to those that are to be closed."""
    workers.append(await _Worker.start(place.path, apsw.SQLITE_OPEN_READONLY, None, _nothing))
    await _first_run(workers[-1], partial(_prepare_reader, workers[-1].is_closing))
    return workers[-1]


class _Watch:
    """See :meth:`SqliteStore.watch_changes`."""

    def __init__(
        self, reader: _Worker, data_version: Callable[[apsw.Connection], int | None], version: int | None
    ) -> None:
        self._reader = reader
        self._data_version = data_version
        self._version = version

    async def wait(self) -> None:
        """Wait until another connection has written since this returned last. A checkpoint."""
        await trio.lowlevel.checkpoint()
        # SQLite has nobody to call when it changes.
        while (version := await self._reader.run(self._data_version)) == self._version is not None:  # noqa: ASYNC110 - as above
            await trio.sleep(_LOOK_EVERY)
        self._version = version


async def _first_run(worker: _Worker, job: Callable[[apsw.Connection], T]) -> T:
    def run(db: apsw.Connection) -> T:
        try:
            return job(db)
        except apsw.CantOpenError as exc:
            if db.system_errno in files.PASSING_ERRNOS:
                raise
            # Only now does SQLite look at the file and make its side files.
            msg = f"{worker.path}: {exc}: may the file, and its directory, be written?"
            raise StoreUnusable(msg) from exc

    await trio.lowlevel.checkpoint()
    return await worker.run(run)


async def _close(workers: Sequence[_Worker], lock: FileLock | None) -> None:  # noqa: ASYNC910 - with nothing open there is nothing to wait for
    if lock is not None and not workers:
        lock.release()
    deadline = trio.current_time() + _CLOSE_SECONDS
    # Every one of them, whatever another raises. The reader first: SQLite folds its log into the file when
    # the last connection that may write goes.
    async with AsyncExitStack() as stack:
        for worker in workers:
            stack.push_async_callback(worker.aclose, deadline)


# --- what runs in the threads ---------------------------------------------------------------------


def _nothing(*_args: object) -> None:
    """A job for a connection that only waits its turn."""


def _prepare_reader(is_closing: Callable[[], bool], db: apsw.Connection) -> None:
    db.set_progress_handler(is_closing, _STEPS_TO_CLOSE, id="closing")
    schema.harden(db)
    schema.is_initialised(db)
    check_layout(db)
