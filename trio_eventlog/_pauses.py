"""Pauses of a busy loop, so that threads run. Floor 2: Trio.

A thread that wants the interpreter waits for whoever has it to let go, and asks for it after five
milliseconds in which nobody did. Trio's loop lets go in every round, when it looks for I/O; with tasks to
run, for about a microsecond. That wakes the thread, which comes too late and begins its five milliseconds
anew. A program whose tasks always have something to do, in steps shorter than that, can keep a thread waiting
for ever, depending on the system's scheduler: an append to a store would never end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import Final

import trio

__all__ = ["pausing"]

_EVERY: Final = 0.002
"""Seconds between two pauses of a loop that has none of its own."""

_PAUSE: Final = 0.00005
"""Seconds of one. It takes about twice that, until the system has woken the loop again."""


class _Pauses(trio.abc.Instrument):
    """Has the loop pause for a moment every so often, while a task waits for a thread."""

    def __init__(self) -> None:
        self._waiting = 0  # tasks
        self._paused_at = self._waits_since = 0.0

    def __dir__(self) -> list[str]:
        # Trio looks up each of these names whenever the instrument is added. With all that an instrument has,
        # that takes as long as handing work to a thread.
        return ["before_io_wait", "after_io_wait"]

    def begin(self) -> None:
        self._waiting += 1
        if self._waiting == 1:
            # What takes less than _EVERY, as most queries do, costs no pause.
            self._paused_at = perf_counter()
            trio.lowlevel.add_instrument(self)

    def end(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Trio is about to look for I/O, for at most ``timeout`` seconds."""
        if timeout > 0:
            self._waits_since = perf_counter()
        elif perf_counter() - self._paused_at >= _EVERY:
            sleep(_PAUSE)
            self._paused_at = perf_counter()

    def after_io_wait(self, timeout: float) -> None:
        """Trio has looked for I/O."""
        if timeout > 0 and (now := perf_counter()) - self._waits_since >= _PAUSE:
            # That was a pause, at whose end there often is what the thread has done.
            self._paused_at = now


_pauses: Final[trio.lowlevel.RunVar[_Pauses]] = trio.lowlevel.RunVar("trio_eventlog pauses")


@contextmanager
def pausing() -> Iterator[None]:
    """While a task is in the block, waiting for a thread, make sure that threads can run."""
    try:
        pauses = _pauses.get()
    except LookupError:
        pauses = _Pauses()
        _pauses.set(pauses)
    pauses.begin()
    try:
        yield
    finally:
        pauses.end()
