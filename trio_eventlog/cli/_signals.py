"""Ending in good order when a signal asks for it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio
from rich.console import Console

from trio_eventlog.cli._terminal import complain


@attrs.define
class Stop:
    """What happens when a signal asks the command to stop."""

    signal_number: int | None = None
    """The signal, once it has come."""

    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _left: trio.Event = attrs.Factory(trio.Event)

    @property
    def status(self) -> int:
        """Exit status for the signal, as shells count them; 0 if none came."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """The part of the block that the first signal cancels."""
        try:
            with self._scope:
                yield
        finally:
            self._left.set()

    # So that a signal which is delivered on leaving the receiver becomes a KeyboardInterrupt of the main
    # task, which drains, and not of this one.
    @trio.lowlevel.enable_ki_protection
    async def _watch(  # noqa: ASYNC114 - started below
        self, message: str, console: Console, *, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(*_wanted()) as signals:
            task_status.started()
            self.signal_number = await anext(signals)
            self._scope.cancel(reason=f"signal {self.signal_number}")
            complain(message, console)
            # A second signal is for what comes after that part. If it is here before, it is kept, and
            # delivered on leaving this block: a KeyboardInterrupt that came earlier would only end that
            # part, which is ending already.
            await self._left.wait()


def _wanted() -> list[int]:
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [n for n in numbers if n is not None and signal.getsignal(n) is not signal.SIG_IGN]


@asynccontextmanager
async def stopping_on_signals(message: str, console: Console) -> AsyncIterator[Stop]:
    """For the length of the block, let the first SIGINT, SIGTERM or SIGHUP stop a part of it, in good order.

    The second does what it does without us: KeyboardInterrupt. What is ignored, as SIGHUP by ``nohup``, stays
    ignored. Owns a nursery: what the block raises comes out in a group.

    Args:
      message: printed when the first signal comes,
      console: and there.
    """
    stop = Stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(stop._watch, message, console)
        yield stop
        nursery.cancel_scope.cancel(reason="the block has ended")
