"""How many events there are in each stretch of time: ``trio-eventlog stats --histogram``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from trio_eventlog import EventQuery
from trio_eventlog.abc import EventStore, HistogramBucket, HistogramStore, StoreDescription
from trio_eventlog.cli._terminal import CommandError, time_text

_MOST_BUCKETS: Final = 40
"""Lines of a terminal."""

_BAR: Final = 30
"""Characters of the longest bar."""

_SECOND, _HOUR, _DAY = 1_000, 3_600_000, 86_400_000

_WIDTHS: Final = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(seconds * _SECOND for seconds in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800)),
    *(hours * _HOUR for hours in (1, 2, 3, 6, 12)),
    *(days * _DAY for days in (1, 2, 7, 14, 28, 91, 182, 364)),
)
"""Milliseconds that people count in."""


def bucket_width(first_ms: int, last_ms: int) -> int:
    """The width of a bucket, in milliseconds, with which there are few enough of them."""
    for width in _WIDTHS:
        if last_ms // width - first_ms // width < _MOST_BUCKETS:
            return width
    return -((first_ms - last_ms) // (_MOST_BUCKETS - 1)) or 1


@attrs.frozen
class CountsByTime:
    """A histogram as it is printed."""

    bucket_ms: int
    buckets: Sequence[HistogramBucket]

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "bucket_ms": self.bucket_ms,
            "buckets": [attrs.asdict(bucket) for bucket in self.buckets],
        }

    def facts(self) -> Iterator[tuple[str, Sequence[str]]]:
        """For people: a line for each bucket that has events."""
        totals: Counter[int] = Counter()
        for bucket in self.buckets:
            totals[bucket.start_ms] += bucket.events
        most = max(totals.values(), default=1)
        width = len(f"{most:,}")
        lines = [
            f"{time_text(start)}  {events:>{width},}  {'#' * -(-events * _BAR // most)}"
            for start, events in sorted(totals.items())
        ]
        yield f"by {_span(self.bucket_ms)}", lines


def _span(milliseconds: int) -> str:
    for unit, size in (("day", _DAY), ("hour", _HOUR), ("minute", 60 * _SECOND), ("second", _SECOND)):
        if milliseconds % size == 0:
            count = milliseconds // size
            return f"{count} {unit}s" if count > 1 else unit
    return f"{milliseconds} ms" if milliseconds > 1 else "ms"


async def count_by_time(store: EventStore, url: str, description: StoreDescription) -> CountsByTime:
    """Count the events of a log by time.

    Raises:
      StoreError: the store failed.
      CommandError: stores of its kind cannot count by time.
    """
    if not isinstance(store, HistogramStore):
        raise CommandError(f"{url}: stores of this kind have no histogram")
    first_ms, last_ms = description.first_timestamp_ms or 0, description.last_timestamp_ms or 0
    bucket_ms = bucket_width(first_ms, last_ms)
    return CountsByTime(bucket_ms, await store.histogram(EventQuery(), bucket_ms=bucket_ms))
