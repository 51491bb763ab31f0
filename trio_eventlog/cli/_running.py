"""What a long-running command does meanwhile: show progress, stop on a signal, retry a store."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import attrs
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from trio_eventlog import EventRejected, RetryPolicy, StoreError, StoreUnusable
from trio_eventlog.cli._terminal import complain, terminal_size

T = TypeVar("T")


# --- progress -------------------------------------------------------------------------------------

_REFRESH_INTERVAL: Final = 0.1


@asynccontextmanager
async def progress_bar(
    console: Console, total: float | None, state: Callable[[], tuple[float, str]]
) -> AsyncIterator[None]:
    """Show a progress bar during the block if ``console`` is a terminal. Owns a nursery there.

    Args:
      console: where to show it.
      total: the value at which the work is done; None if that is unknown.
      state: returns the current value and a few words about it.
    """
    if not console.is_terminal:
        await trio.lowlevel.checkpoint()
        yield
        return
    progress = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        # Its thread would write to the terminal at the same time as the main thread.
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
    )
    bar = progress.add_task("", total=total, words="")

    def refresh() -> None:
        completed, words = state()
        console.size = terminal_size(sys.stderr)
        progress.update(bar, completed=completed, words=words)
        progress.refresh()

    async def keep_fresh() -> None:
        while True:
            refresh()
            await trio.sleep(_REFRESH_INTERVAL)

    with progress:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_fresh)
            yield
            nursery.cancel_scope.cancel(reason="the work is done")
        refresh()


# --- signals --------------------------------------------------------------------------------------


@attrs.define
class Stop:
    """Whether a signal has asked the command to stop, and the part of it that then is cancelled."""

    signal_number: int | None = None
    """The signal, once it has arrived."""

    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _left: trio.Event = attrs.Factory(trio.Event)

    @property
    def status(self) -> int:
        """The exit status for the signal, by the convention of shells; 0 if there was none."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Mark the part of the block that the first signal cancels."""
        try:
            with self._scope:
                yield
        finally:
            self._left.set()

    # Protected, so that a signal that is delivered on leaving the receiver becomes a KeyboardInterrupt of the
    # main task, which drains, and not of this one.
    @trio.lowlevel.enable_ki_protection
    async def _watch(  # noqa: ASYNC114 - started below
        self, message: str, console: Console, *, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(*_handled_signals()) as signals:
            task_status.started()
            self.signal_number = await anext(signals)
            self._scope.cancel(reason=f"signal {self.signal_number}")
            complain(message, console)
            # A second signal is meant for what comes after the stoppable part. If it arrives earlier, it is
            # kept and delivered on leaving this block: as a KeyboardInterrupt it would only end that part,
            # which is ending already.
            await self._left.wait()


def _handled_signals() -> list[int]:
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [n for n in numbers if n is not None and signal.getsignal(n) is not signal.SIG_IGN]


@asynccontextmanager
async def stopping_on_signals(message: str, console: Console) -> AsyncIterator[Stop]:
    """Let the first SIGINT, SIGTERM or SIGHUP stop part of the block in good order.

    The second one raises KeyboardInterrupt. Signals that are ignored, as SIGHUP is under ``nohup``, stay
    ignored. Owns a nursery: an exception from the block comes out in a group.

    Args:
      message: printed when the first signal arrives.
      console: where to print it.
    """
    stop = Stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(stop._watch, message, console)
        yield stop
        nursery.cancel_scope.cancel(reason="the block has ended")


# --- retries --------------------------------------------------------------------------------------

_RETRY: Final = RetryPolicy(initial=0.1, maximum=2.0)

_LONG_CALL: Final = 30.0
"""Seconds after which a call that fails had started well: no store takes this long to say that it is down."""


async def retrying(
    function: Callable[[], Awaitable[T]],
    console: Console,
    *,
    what: str = "the store",
    timeout: float = math.inf,  # noqa: ASYNC109 - not a deadline: the call that is running may finish
) -> T:
    """Call ``function`` until it does not raise a temporary error; return its result.

    Reports the first failure, and the first one after a period without failures. A checkpoint if ``function``
    is one.

    Args:
      function: a request to a store that can be repeated.
      console: where to report failures.
      what: names the store in the report.
      timeout: seconds after the first failure, after which the next one is final.

    Raises:
      StoreError: the store failed for longer than ``timeout``, or permanently.
    """
    failures = 0
    give_up_at = math.inf
    while True:
        began_at = trio.current_time()
        try:
            return await function()
        except (StoreUnusable, EventRejected):
            raise
        except StoreError as exc:
            now = trio.current_time()
            failures = 1 if now - began_at > _LONG_CALL else failures + 1
            if failures == 1:
                complain(f"{what} failed; retrying: {exc}", console)
                give_up_at = now + timeout
            elif now >= give_up_at:
                raise
        await trio.sleep(_RETRY.delay(failures))
