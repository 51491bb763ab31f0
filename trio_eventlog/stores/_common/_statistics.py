"""What the stores count alike when they describe or verify a log."""

from __future__ import annotations

from collections import Counter

import attrs

from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._reports import GAPS_SHOWN, Finding, StoreDescription, StoreVerification


@attrs.define
class Gaps:
    """Runs of seqs that hold no event; fed with seqs in ascending order."""

    first_seq: int | None = None
    last_seq: int | None = None
    count: int = 0
    missing: int = 0
    _shown: list[tuple[int, int]] = attrs.Factory(list)

    @property
    def shown(self) -> tuple[tuple[int, int], ...]:
        """The lowest of them."""
        return tuple(self._shown)

    def add(self, seq: int) -> None:
        """There is an event with this seq."""
        previous, self.last_seq = self.last_seq, seq
        if previous is None:
            self.first_seq = seq
        elif seq > previous + 1:
            self.count += 1
            self.missing += seq - previous - 1
            if len(self._shown) < GAPS_SHOWN:
                self._shown.append((previous + 1, seq - 1))


@attrs.define
class Findings:
    """What is wrong with a log, while it is looked over."""

    most: int
    """Of those that are named; all are counted."""

    problems: int = 0
    _named: list[Finding] = attrs.Factory(list)

    def add(self, problem: str, seq: int | None = None) -> None:
        """Something is wrong, with an event or as such."""
        self.problems += 1
        if len(self._named) < self.most:
            self._named.append(Finding(seq=seq, problem=problem))

    def report(self, events: int, gaps: Gaps) -> StoreVerification:
        """All that was found."""
        return StoreVerification(
            events=events,
            first_seq=gaps.first_seq,
            last_seq=gaps.last_seq,
            problems=self.problems,
            findings=tuple(self._named),
            gaps=gaps.count,
            missing=gaps.missing,
            first_gaps=gaps.shown,
        )


@attrs.define
class Census:
    """Counts events one by one, for stores that cannot ask a database."""

    events: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    types: Counter[str] = attrs.Factory(Counter)
    members: Counter[str] = attrs.Factory(Counter)

    def add(self, event: PersistedEvent) -> None:
        """Count an event, whatever its seq."""
        self.events += 1
        self.types[event.event.event_type] += 1
        if event.member_id is not None:
            self.members[event.member_id] += 1
        moment = event.timestamp_ms
        if self.first_ms is None or moment < self.first_ms:
            self.first_ms = moment
        if self.last_ms is None or moment > self.last_ms:
            self.last_ms = moment

    def describe(
        self, gaps: Gaps, top: int, *, highest_seq: int, size_bytes: int | None, schema_version: int | None
    ) -> StoreDescription:
        """The numbers, with what else belongs to them."""
        return StoreDescription(
            events=self.events,
            first_seq=gaps.first_seq,
            last_seq=gaps.last_seq,
            highest_seq=highest_seq,
            first_timestamp_ms=self.first_ms,
            last_timestamp_ms=self.last_ms,
            distinct_event_types=len(self.types),
            event_types=_most_common(self.types, top),
            distinct_members=len(self.members),
            members=_most_common(self.members, top),
            gaps=gaps.count,
            missing=gaps.missing,
            first_gaps=gaps.shown,
            size_bytes=size_bytes,
            schema_version=schema_version,
        )


def _most_common(counts: Counter[str], top: int) -> tuple[tuple[str, int], ...]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(ranked[:top])
