"""Ending in good order when a signal asks for it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
from rich.console import Console

from trio_eventlog.cli._terminal import complain


@attrs.define
class Stop:
    """What happens when a signal asks the command to stop."""

    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    """Cancelled then: what shall stop is entered in it."""

    signal_number: int | None = None
    """The signal, once it has come."""

    @property
    def status(self) -> int:
        """Exit status for the signal, as shells count them; 0 if none came."""
        return 0 if self.signal_number is None else 128 + self.signal_number


@asynccontextmanager
async def stopping_on_signals(message: str, console: Console) -> AsyncIterator[Stop]:
    """For the length of the block, let the first SIGINT or SIGTERM cancel a scope instead of the program.

    The second one does what it does without us: KeyboardInterrupt for SIGINT, the end for SIGTERM. Owns a
    nursery: what the block raises comes out in a group.

    Args:
      message: printed when the first signal comes,
      console: and there.
    """
    stop = Stop()

    async def watch(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                stop.signal_number = number
                stop.scope.cancel(reason=f"signal {number}")
                break
        # Only now, when a further signal is no longer ours.
        complain(message, console)

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        yield stop
        nursery.cancel_scope.cancel(reason="the block has ended")
