"""Numbers about a log: for stores that ask a database, and for those that count event by event."""

from __future__ import annotations

from collections import Counter

import attrs

from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._reports import GAPS_SHOWN, StoreDescription


@attrs.define
class SeqGaps:
    """Runs of seqs that hold no event; fed with seqs in ascending order."""

    first_seq: int | None = None
    last_seq: int | None = None
    count: int = 0
    missing: int = 0
    _shown: list[tuple[int, int]] = attrs.Factory(list)

    @property
    def shown(self) -> tuple[tuple[int, int], ...]:
        """The lowest of them, each as first and last missing seq."""
        return tuple(self._shown)

    def add(self, seq: int) -> None:
        """There is an event with this seq."""
        previous, self.last_seq = self.last_seq, seq
        if previous is None:
            self.first_seq = seq
        elif seq > previous + 1:
            self.add_gap(previous + 1, seq - 1)

    def add_gap(self, first: int, last: int) -> None:
        """There is no event with a seq from ``first`` to ``last``."""
        self.count += 1
        self.missing += last - first + 1
        if len(self._shown) < GAPS_SHOWN:
            self._shown.append((first, last))


@attrs.frozen
class Totals:
    """Numbers about all events of a log; None where there is no event."""

    events: int
    first_seq: int | None
    last_seq: int | None
    first_ms: int | None
    last_ms: int | None

    @property
    def missing(self) -> int:
        """How many seqs between the first and the last hold no event."""
        if self.first_seq is None or self.last_seq is None:
            return 0
        return self.last_seq - self.first_seq + 1 - self.events


@attrs.frozen
class Ranking:
    """The most frequent values of a column."""

    distinct: int
    """How many values there are."""

    top: tuple[tuple[str, int], ...]
    """The most frequent ones with the number of their events, most frequent first."""

    @classmethod
    def of(cls, counts: Counter[str], top: int) -> Ranking:
        """The ``top`` most frequent values; of equally frequent ones, the lowest."""
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(len(counts), tuple(ranked[:top]))


@attrs.define
class EventCounter:
    """Counts event by event, for stores that cannot ask a database."""

    events: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    types: Counter[str] = attrs.Factory(Counter)
    members: Counter[str] = attrs.Factory(Counter)

    def add(self, event: PersistedEvent) -> None:
        """Count an event, in any order of seqs."""
        self.events += 1
        self.types[event.event.event_type] += 1
        if event.member_id is not None:
            self.members[event.member_id] += 1
        timestamp_ms = event.timestamp_ms
        if self.first_ms is None or timestamp_ms < self.first_ms:
            self.first_ms = timestamp_ms
        if self.last_ms is None or timestamp_ms > self.last_ms:
            self.last_ms = timestamp_ms

    def describe(
        self, gaps: SeqGaps, top: int, *, highest_seq: int, size_bytes: int | None, schema_version: int | None
    ) -> StoreDescription:
        """The description of a log of these events; ``gaps`` was fed with the same ones."""
        return description(
            Totals(self.events, gaps.first_seq, gaps.last_seq, self.first_ms, self.last_ms),
            Ranking.of(self.types, top),
            Ranking.of(self.members, top),
            gaps,
            highest_seq=highest_seq,
            size_bytes=size_bytes,
            schema_version=schema_version,
        )


def description(
    totals: Totals,
    event_types: Ranking,
    members: Ranking,
    gaps: SeqGaps,
    *,
    highest_seq: int,
    size_bytes: int | None,
    schema_version: int | None,
    wal_bytes: int | None = None,
) -> StoreDescription:
    """The description of a log."""
    return StoreDescription(
        events=totals.events,
        first_seq=totals.first_seq,
        last_seq=totals.last_seq,
        highest_seq=highest_seq,
        first_timestamp_ms=totals.first_ms,
        last_timestamp_ms=totals.last_ms,
        distinct_event_types=event_types.distinct,
        event_types=event_types.top,
        distinct_members=members.distinct,
        members=members.top,
        gaps=gaps.count,
        missing=gaps.missing,
        first_gaps=gaps.shown,
        size_bytes=size_bytes,
        wal_bytes=wal_bytes,
        schema_version=schema_version,
    )
