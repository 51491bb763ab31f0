"""What can happen to a clock: it jumps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

_NANOSECONDS: Final = 10**9


class JumpingClock(trio.abc.Clock):
    """A clock for :func:`trio.run` that can jump forward, as that of a machine that was suspended.

    ::

        clock = JumpingClock()
        trio.run(main, clock=clock)

    Otherwise it runs like Trio's own. A jump makes all deadlines pass at once that lie in it. It is the clock
    of sleeps and timeouts, which never goes back; for the one that stamps events, see
    :func:`jumping_wall_clock`.
    """

    def __init__(self) -> None:
        self._jumped = 0.0

    def __repr__(self) -> str:
        return f"<JumpingClock, {self._jumped:g} s ahead>"

    def jump(self, seconds: float) -> None:
        """Jump forward. Call it from a task of the run.

        Args:
          seconds: how far; 0 or more, and finite.

        Raises:
          TypeError: it is not a number.
          ValueError: it is negative or not finite.
        """
        _check_seconds(seconds)
        if seconds < 0:
            raise ValueError(f"seconds: expected 0 or more, since this clock never goes back, got {seconds}")
        self._jumped += seconds

    def start_clock(self) -> None:
        """Trio calls this."""

    def current_time(self) -> float:
        """The time, in seconds."""
        return time.perf_counter() + self._jumped

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Trio calls this."""
        return deadline - self.current_time()


class WallClock:
    """The wall clock of this process; what :func:`jumping_wall_clock` yields."""

    def __init__(self) -> None:
        self._jumped = 0
        self._time_ns = time.time_ns

    def __repr__(self) -> str:
        return f"<WallClock, off by {self._jumped / _NANOSECONDS:g} s>"

    def jump(self, seconds: float) -> None:
        """Jump, forward or back.

        Args:
          seconds: how far; negative to go back.

        Raises:
          TypeError: it is not a number.
          ValueError: it is not finite.
        """
        _check_seconds(seconds)
        self._jumped += round(seconds * _NANOSECONDS)

    def time_ns(self) -> int:
        """Nanoseconds since 1970."""
        return max(0, self._time_ns() + self._jumped)

    def time(self) -> float:
        """Seconds since 1970."""
        return self.time_ns() / _NANOSECONDS


@contextmanager
def jumping_wall_clock() -> Iterator[WallClock]:
    """Let the wall clock of this process jump at will, for the length of a ``with`` block.

    It replaces ``time.time`` and ``time.time_ns``, by which a log stamps its events. The real clock is not
    touched: ``datetime``, code that is not written in Python, code that has imported these functions by name,
    and other processes still see that.
    """
    clock = WallClock()
    real = time.time, time.time_ns
    time.time, time.time_ns = clock.time, clock.time_ns
    try:
        yield clock
    finally:
        time.time, time.time_ns = real


def _check_seconds(seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"seconds: expected a number, got {type(seconds).__name__}")
    if not math.isfinite(seconds):
        raise ValueError(f"seconds: expected a finite number, got {seconds}")
