"""One connection and the jobs that use it, in threads; and short work on files.

SQLite blocks, so everything that touches a connection runs in a thread of ``trio.to_thread``, in its turn: a
job whose caller was cancelled keeps its turn until it has ended, and whatever was asked for later comes after
it, as clause S4 requires.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import apsw
import attrs
import trio

from trio_eventlog import _threads as threads
from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog.stores._common._closing import Closing, OwningProcess, closed_error
from trio_eventlog.stores.sqlite._files import PERMANENT_ERRNOS, at_work

T = TypeVar("T")

_logger: Final = logging.getLogger("trio_eventlog")

_OPEN_SECONDS: Final = 10.0

CLOSE_SECONDS: Final = 10.0
"""For everything that a store has open, together."""

_MIN_CLOSE_SECONDS: Final = 1.0
"""For a connection whose turn comes when that time is over. If nothing runs on it, that is plenty."""

_POLL_SECONDS: Final = 0.05

_PROGRESS_STEPS: Final = 50_000
"""Steps of SQLite's virtual machine between two checks whether to stop; a few milliseconds."""

_THREAD_NAME: Final = "trio_eventlog sqlite"

_TRANSIENT_ERRORS: Final = (
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
"""Errors that the next attempt may not meet. All others of the driver are permanent."""


def store_error(path: str, exc: BaseException) -> StoreError:
    """The error of a store for one of the driver."""
    if isinstance(exc, UnicodeDecodeError):
        # SQLite hands out what is in the file.
        return StoreUnusable(f"{path}: damaged: {exc}")
    kind = StoreError if isinstance(exc, _TRANSIENT_ERRORS) else StoreUnusable
    return kind(f"{path}: {str(exc) or type(exc).__name__}")


# --- work on files --------------------------------------------------------------------------------


@trio.lowlevel.enable_ki_protection  # between getting the result and returning it
async def in_thread(path: str, work: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
    """Run work on a file in a thread, with the errors of the system as errors of a store.

    Cancelled, it raises at once. Work that has begun then goes on, and what it returns goes to ``discard``.
    """
    try:
        return await threads.in_thread(work, discard=discard, name=_THREAD_NAME)
    except (apsw.Error, MemoryError) as exc:
        raise store_error(path, exc) from exc
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise StoreUnusable(f"{path}: no such file or directory") from exc
    except OSError as exc:
        other = f" ({exc.filename})" if exc.filename not in (None, path) else ""
        kind = StoreUnusable if exc.errno in PERMANENT_ERRNOS else StoreError
        raise kind(f"{path}: {exc.strerror}{other}") from exc
    except RuntimeError as exc:
        # No thread can be started.
        raise StoreError(f"{path}: {exc}") from exc


async def release(path: str, work: Callable[[], object], deadline: float) -> None:
    """Run ``work``, which frees something on the disk. Never cancelled, and given up at ``deadline``.

    A KeyboardInterrupt that arrives in the meantime is raised at the end.
    """
    closing = Closing(deadline)
    if await closing.run(partial(_free, work)) is None:
        _logger.warning("%s: closing gave up after %.0f seconds: the disk hangs", path, CLOSE_SECONDS)
    closing.raise_interrupt()


async def _free(work: Callable[[], object], is_busy: Callable[[], bool] = lambda: False) -> bool:
    try:
        await threads.in_thread(work, name=_THREAD_NAME)
    except RuntimeError:
        # No thread can be started. It takes the loop's time, but the lock must not stay taken.
        while is_busy():  # noqa: ASYNC110 - nothing tells when a thread is done
            await trio.sleep(_POLL_SECONDS)
        work()
    return True


# --- connections ----------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Job:
    is_abandoned: bool = False


@attrs.define(eq=False)
class SerialWorker:
    """A connection whose jobs run one after another; made by :meth:`start`."""

    path: str
    _db: apsw.Connection | None
    _at_end: Callable[[], object] | None
    _process: OwningProcess = attrs.Factory(OwningProcess)
    _turn: threads.Turn = attrs.Factory(threads.Turn)
    # Held by the thread that uses the connection. Closing waits for it rather than for its turn, also in a
    # thread that nothing waits for any more.
    _in_use: threading.Lock = attrs.Factory(threading.Lock)
    _job: _Job | None = None
    _is_closing: bool = False
    _is_given_up: bool = False

    @classmethod
    async def start(
        cls,
        path: str,
        flags: int,
        *,
        is_interruptible: bool = False,
        at_end: Callable[[], object] | None = None,
    ) -> SerialWorker:
        """Open the file. Cancelled, it raises at once.

        Args:
          path: the file.
          flags: of SQLite, for opening.
          is_interruptible: whether to stop a job whose caller was cancelled, or when the connection is to be
            closed. Otherwise what has begun comes to its end.
          at_end: called in the thread once the connection is closed, also if closing was given up before.
        """
        with trio.move_on_after(_OPEN_SECONDS):
            db = await in_thread(path, lambda: apsw.Connection(path, flags=flags), apsw.Connection.close)
            worker = cls(path, db, at_end)
            if is_interruptible:
                db.set_progress_handler(worker._is_to_stop, _PROGRESS_STEPS, id="trio_eventlog")
            return worker
        raise StoreError(f"{path}: opening the file took more than {_OPEN_SECONDS:.0f} seconds")

    @trio.lowlevel.enable_ki_protection  # of Trio's own lines between taking a turn and starting a thread
    async def run(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run ``job`` in a thread, after all that was asked for before.

        A checkpoint. Cancelled, it raises at once. A job that has not begun is then dropped. One that has is
        stopped if the worker is interruptible, or goes on by itself.

        Raises:
          StoreError: what the driver has raised.
          StoreUnusable: the connection is closed, or the file damaged.
        """
        if self._is_closing or not self._process.is_current():
            await trio.lowlevel.checkpoint()
            self._process.check(self.path)
            raise closed_error(self.path)
        state = _Job()
        try:
            return await threads.run_sync(
                partial(self._run, job, state), limiter=self._turn, name=_THREAD_NAME
            )
        except RuntimeError as exc:
            # No thread can be started.
            raise StoreError(f"{self.path}: {exc}") from exc
        finally:
            state.is_abandoned = True

    def _run(self, job: Callable[[apsw.Connection], T], state: _Job) -> T:
        with self._in_use:
            if self._is_closing or self._db is None:
                # It waited for its turn when closing began.
                raise closed_error(self.path)
            self._job = state
            try:
                with at_work(self.path):
                    return job(self._db)
            except (apsw.Error, MemoryError, UnicodeDecodeError) as exc:
                if self._is_closing:
                    raise closed_error(self.path) from exc
                raise store_error(self.path, exc) from exc
            finally:
                self._job = None
                if self._is_given_up:
                    self._finish_now()

    def _is_to_stop(self) -> bool:
        """Called by SQLite while a statement runs: stop it?

        ``Connection.interrupt`` would do nothing if it came just before the statement.
        """
        return self._is_closing or (self._job is not None and self._job.is_abandoned)

    async def aclose(self, deadline: float) -> None:
        """Close the connection after the job that runs now; refuse those that come later.

        Never cancelled. What takes longer than ``deadline`` is left to the thread, with a warning. A
        KeyboardInterrupt that arrives in the meantime is raised at the end.
        """
        if not self._process.is_current():
            # Thread, connection and lock are those of the process that forked this one.
            return
        self._is_closing = True
        closing = Closing(max(deadline, trio.current_time() + _MIN_CLOSE_SECONDS))
        if await closing.run(self._close) is None:
            self._is_given_up = True
            _logger.warning(
                "%s: closing gave up after %.0f seconds because a statement is still running; what it holds,"
                " a writer's lock included, is freed when it ends",
                self.path,
                CLOSE_SECONDS,
            )
        closing.raise_interrupt()

    async def _close(self) -> bool:
        return await _free(self._finish, self._in_use.locked)

    def _finish(self) -> None:
        with self._in_use:
            self._finish_now()

    def _finish_now(self) -> None:
        db, self._db = self._db, None
        if db is None:
            return
        try:
            try:
                db.close(True)
            finally:
                if self._at_end is not None:
                    self._at_end()
        except (apsw.Error, OSError, StoreError) as exc:
            _logger.warning("%s: closing: %s", self.path, exc)
