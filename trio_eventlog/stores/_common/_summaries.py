"""Arguments of what counts events, and counting event by event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from trio_eventlog._abilities._summaries import FACETS, Facets, HistogramBucket
from trio_eventlog._model._events import MAX_STORED, MAX_U64, ModuleEvent, PersistedEvent
from trio_eventlog._model._payload import SCOPES
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._sealed import scopes_of_event
from trio_eventlog._numbers import check_integer
from trio_eventlog.stores._common._arguments import check_query


def check_latest(query: object, before_seq: object, limit: object) -> None:
    """Check the arguments of ``latest``."""
    _check_unlimited(query)
    if before_seq is not None:
        check_integer("before_seq", before_seq, 0, MAX_U64)
    check_integer("limit", limit, 0, MAX_U64)


def check_count(query: object, at_most: object) -> None:
    """Check the arguments of ``count``."""
    _check_unlimited(query)
    check_integer("at_most", at_most, 0, MAX_U64)


def check_histogram(query: object, bucket_ms: object) -> None:
    """Check the arguments of ``histogram``."""
    _check_unlimited(query)
    check_integer("bucket_ms", bucket_ms, 1, MAX_STORED)


def check_facets(query: object, field: object, top: object) -> None:
    """Check the arguments of ``facets``."""
    _check_unlimited(query)
    if not isinstance(field, str):
        raise TypeError(f"field: expected a string, got {type(field).__name__}")
    if field not in FACETS:
        raise ValueError(f"field: expected one of {', '.join(FACETS)}, got {field!a:.100}")
    check_integer("top", top, 0)


def _check_unlimited(query: object) -> None:
    check_query(query)
    if isinstance(query, EventQuery) and query.limit is not None:
        raise ValueError("query: has a limit; only events can be filtered here")


# --- counting -------------------------------------------------------------------------------------


def facet_of(event: PersistedEvent, field: str) -> str | None:
    """The value of a sealed event by which it is counted; None if it has none."""
    inner = event.event
    if field == "event_type":
        return inner.event_type
    if field == "member_id":
        return event.member_id
    if field == "module":
        return inner.module if isinstance(inner, ModuleEvent) else None
    return scopes_of_event(inner)[SCOPES.index(field)]


@attrs.frozen
class HistogramCounter:
    """Counts events by time and type."""

    bucket_ms: int
    _counts: Counter[tuple[int, str]] = attrs.field(factory=Counter, init=False)

    def start_of(self, timestamp_ms: int) -> int:
        """Where the bucket of a moment begins."""
        return timestamp_ms - timestamp_ms % self.bucket_ms

    def add(self, timestamp_ms: int, event_type: str, events: int = 1) -> None:
        """There are this many events of a type, at or about this time."""
        self._counts[self.start_of(timestamp_ms), event_type] += events

    def result(self) -> list[HistogramBucket]:
        """The buckets, in order."""
        return [HistogramBucket(*key, events) for key, events in sorted(self._counts.items())]


def facets_of(counts: Iterable[tuple[str, int]], top: int) -> Facets:
    """The most frequent of these values, each of which comes once."""
    ranked = sorted(counts, key=lambda item: (-item[1], item[0]))
    return Facets(len(ranked), tuple(ranked[:top]))
