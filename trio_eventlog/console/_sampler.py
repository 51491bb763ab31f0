"""How a live log has been doing: samples of its numbers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import trio

from trio_eventlog import LogStatistics

TICK: Final = 0.1
"""Seconds between two looks at the numbers."""

TICKS_PER_SAMPLE: Final = 5
INTERVAL_MS: Final = int(TICK * 1000) * TICKS_PER_SAMPLE
MAX_SAMPLES: Final = 240
_MAX_PROBES: Final = 1024


def now_ms() -> int:
    """Milliseconds since 1970-01-01 UTC, by the wall clock."""
    return time.time_ns() // 1_000_000


class Sampler:
    """Looks at the numbers of a log again and again. A look takes some microseconds.

    Args:
      statistics: returns the numbers.
      wall_clock_ms: returns the time for what people read.
    """

    def __init__(
        self, statistics: Callable[[], LogStatistics], wall_clock_ms: Callable[[], int] = now_ms
    ) -> None:
        self.samples: deque[dict[str, Any]] = deque(maxlen=MAX_SAMPLES)
        """The newest last."""
        self.failing_since_ms: int | None = None
        """When appends began to fail; None while they succeed."""
        self._statistics = statistics
        self._wall_clock_ms = wall_clock_ms
        self._probes: deque[tuple[int, float]] = deque(maxlen=_MAX_PROBES)
        self._before: LogStatistics | None = None
        self._flush_ms: int | None = None
        self._ticks = 0

    async def run(self) -> None:
        """Look, until this is cancelled."""
        while True:
            self.look(trio.current_time())
            await trio.sleep(TICK)

    def look(self, now: float) -> None:
        """Look once. ``now`` is in seconds of a clock that never goes back."""
        statistics, before = self._statistics(), self._before
        self._before = statistics
        if before is not None and statistics.last_assigned_seq > before.last_assigned_seq:
            self._probes.append((statistics.last_assigned_seq, now))
        while self._probes and self._probes[0][0] <= statistics.last_durable_seq:
            _, since = self._probes.popleft()
            self._flush_ms = round((now - since) * 1000)
        if before is not None:
            self._note_failures(before, statistics)
        if self._ticks % TICKS_PER_SAMPLE == 0:
            self._add_sample(statistics)
        self._ticks += 1

    def _note_failures(self, before: LogStatistics, now: LogStatistics) -> None:
        if now.last_durable_seq > before.last_durable_seq or not now.pending:
            self.failing_since_ms = None
        elif now.failures > before.failures and self.failing_since_ms is None:
            self.failing_since_ms = self._wall_clock_ms()

    def _add_sample(self, statistics: LogStatistics) -> None:
        self.samples.append(
            {
                "at_ms": self._wall_clock_ms(),
                "ingested": statistics.ingested,
                "pending": statistics.pending,
                "lost": statistics.lost_total,
                "failures": statistics.failures,
                "flush_ms": self._flush_ms,
            }
        )
        self._flush_ms = None
