"""Letting threads run beside tasks that leave them no time. Floor 3: Trio.

A thread that wants the interpreter waits until whoever has it lets go for a moment, or asks for it after
five milliseconds without one. Trio's loop lets go in every round, when it looks for I/O. If there are tasks
to run it does so for a microsecond only, and the thread, which needs some fifty to wake up, comes too late;
but it was woken, and its five milliseconds begin anew. So a program whose tasks always have something to do,
in steps of less than that, can keep a thread waiting for ever: the append of a store then never ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import Final

import trio

_EVERY: Final = 0.002
"""Seconds between two pauses in a loop that has none of its own."""

_PAUSE: Final = 0.00005
"""Seconds of one; about twice that, until the system has woken the loop again."""


class _Pauses(trio.abc.Instrument):
    """Has the loop pause for a moment every so often, while somebody waits for a thread."""

    def __init__(self) -> None:
        self.waiting = 0
        """Tasks that wait for a thread."""
        self._paused_at = 0.0

    def begin(self) -> None:
        self.waiting += 1
        if self.waiting == 1:
            # What takes no longer than this, as most queries, costs no pause.
            self._paused_at = perf_counter()
            trio.lowlevel.add_instrument(self)

    def end(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Of Trio: it looks for I/O, for so many seconds."""
        if timeout <= 0 and perf_counter() - self._paused_at >= _EVERY:
            sleep(_PAUSE)
            self._paused_at = perf_counter()


_pauses: Final[trio.lowlevel.RunVar[_Pauses]] = trio.lowlevel.RunVar("trio_eventlog pauses")


@contextmanager
def giving_way() -> Iterator[None]:
    """For the length of the block, in which a task waits for a thread: see to it that the thread can run.

    Costs a program that never pauses 0.1 ms in 2 ms, and one that does nothing.
    """
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
