"""Stores that break S18: what they count, or read backwards, is not what a query finds."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import attrs

from tests._helpers.broken_stores._broken import Broken
from tests._helpers.correct_stores import CorrectMemoryStore, opened_memory
from trio_eventlog import AgentEvent, EventQuery, PersistedEvent
from trio_eventlog.abc import Facets, HistogramBucket


class Summarizing(CorrectMemoryStore):
    """Has all that a log can be asked for by people who look at it."""

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        found = await self.query(query)
        return [event for event in found[::-1] if self._is_before(event.seq, before_seq)][:limit]

    def _is_before(self, seq: int, before_seq: int | None) -> bool:
        return before_seq is None or seq < before_seq

    async def count(self, query: EventQuery, *, at_most: int) -> int:
        return min(len(await self.query(query)), at_most)

    async def histogram(self, query: EventQuery, *, bucket_ms: int) -> list[HistogramBucket]:
        counts = Counter(
            (self._start(event.timestamp_ms, bucket_ms), event.event.event_type)
            for event in await self.query(query)
        )
        return [HistogramBucket(*key, events) for key, events in self._in_order(counts)]

    def _start(self, timestamp_ms: int, bucket_ms: int) -> int:
        return timestamp_ms // bucket_ms * bucket_ms

    def _in_order(self, counts: Counter[tuple[int, str]]) -> list[tuple[tuple[int, str], int]]:
        return sorted(counts.items())

    async def facets(self, query: EventQuery, field: str, *, top: int = 10) -> Facets:
        values = [self._value(event, field) for event in await self.query(query)]
        counts = Counter(value for value in values if value is not None)
        ranked = self._ranked(counts)
        return Facets(self._distinct(ranked, top), tuple(ranked[:top]))

    def _ranked(self, counts: Counter[str]) -> list[tuple[str, int]]:
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def _distinct(self, ranked: list[tuple[str, int]], top: int) -> int:
        return len(ranked)

    def _value(self, event: PersistedEvent, field: str) -> str | None:
        inner, payload = event.event, event.event.payload
        if field == "event_type":
            return inner.event_type
        if field == "member_id":
            return event.member_id
        if field == "module":
            return None if isinstance(inner, AgentEvent) else inner.module
        found = payload.get(field) if isinstance(payload, dict) else None
        return found if isinstance(found, str) else None


def open_summarizing(location: Path) -> AbstractAsyncContextManager[Summarizing]:
    return opened_memory(Summarizing, location)


# --- reading backwards ----------------------------------------------------------------------------


class OldestOfThePage(Summarizing):
    """Takes a page in ascending order, and turns that round."""

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        return (await super().latest(query, before_seq=before_seq, limit=2**64))[::-1][:limit][::-1]


class AscendingPage(Summarizing):
    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        return (await super().latest(query, before_seq=before_seq, limit=limit))[::-1]


class LatestWithoutPayloads(Summarizing):
    """What a table of the latest events has room for."""

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        found = await super().latest(query, before_seq=before_seq, limit=limit)
        return [attrs.evolve(event, event=attrs.evolve(event.event, payload=None)) for event in found]


class InclusiveBefore(Summarizing):
    def _is_before(self, seq: int, before_seq: int | None) -> bool:
        return before_seq is None or seq <= before_seq


class FalsyBefore(Summarizing):
    def _is_before(self, seq: int, before_seq: int | None) -> bool:
        return super()._is_before(seq, before_seq or None)


class LimitBeforeFilters(Summarizing):
    """Looks for what matches among the last events."""

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        last = await super().latest(EventQuery(), before_seq=before_seq, limit=limit)
        return [event for event in last if query.matches(event)]


# --- counting -------------------------------------------------------------------------------------


class CountsPastTheEnd(Summarizing):
    async def count(self, query: EventQuery, *, at_most: int) -> int:
        return len(await self.query(query))


class CountsEverything(Summarizing):
    """What it knows without looking."""

    async def count(self, query: EventQuery, *, at_most: int) -> int:
        return min(len(self.by_seq), at_most)


class RoundsToBuckets(Summarizing):
    def _start(self, timestamp_ms: int, bucket_ms: int) -> int:
        return round(timestamp_ms / bucket_ms) * bucket_ms


class BucketsFromTheFirst(Summarizing):
    """Its buckets begin where the log does."""

    def _start(self, timestamp_ms: int, bucket_ms: int) -> int:
        first = min(held.event.timestamp_ms for held in self.by_seq.values())
        return first + (timestamp_ms - first) // bucket_ms * bucket_ms


class BucketsByCount(Summarizing):
    def _in_order(self, counts: Counter[tuple[int, str]]) -> list[tuple[tuple[int, str], int]]:
        return counts.most_common()


class CountsTwice(Summarizing):
    """Counts what it is given, also if it was there before."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.counted: Counter[tuple[int, str]] = Counter()

    async def append_batch(self, events: object) -> object:  # type: ignore[override]
        batch: list[PersistedEvent] = list(events)  # type: ignore[call-overload]
        returned = await super().append_batch(batch)
        self.counted.update((event.timestamp_ms, event.event.event_type) for event in batch)
        return returned

    async def histogram(self, query: EventQuery, *, bucket_ms: int) -> list[HistogramBucket]:
        if query != EventQuery():
            return await super().histogram(query, bucket_ms=bucket_ms)
        counts: Counter[tuple[int, str]] = Counter()
        for (timestamp_ms, event_type), events in self.counted.items():
            counts[self._start(timestamp_ms, bucket_ms), event_type] += events
        return [HistogramBucket(*key, events) for key, events in sorted(counts.items())]


class WindowInWholeBuckets(Summarizing):
    """Counts a bucket that a window cuts as a whole."""

    async def histogram(self, query: EventQuery, *, bucket_ms: int) -> list[HistogramBucket]:
        since = query.since_ms and query.since_ms // bucket_ms * bucket_ms
        return await super().histogram(attrs.evolve(query, since_ms=since), bucket_ms=bucket_ms)


class ModulesOfAgents(Summarizing):
    def _value(self, event: PersistedEvent, field: str) -> str | None:
        if field == "module" and isinstance(event.event, AgentEvent):
            return event.event.agent_id
        return super()._value(event, field)


class NothingIsAValue(Summarizing):
    def _value(self, event: PersistedEvent, field: str) -> str | None:
        return super()._value(event, field) or ""


class NumbersAreScopes(Summarizing):
    def _value(self, event: PersistedEvent, field: str) -> str | None:
        payload = event.event.payload
        if isinstance(payload, dict) and type(payload.get(field)) is int:
            return str(payload[field])
        return super()._value(event, field)


class TopAlone(Summarizing):
    def _distinct(self, ranked: list[tuple[str, int]], top: int) -> int:
        return min(len(ranked), top)


class FacetsIgnoreCase(Summarizing):
    def _value(self, event: PersistedEvent, field: str) -> str | None:
        value = super()._value(event, field)
        return value and value.lower()


class FacetsAsTheyCome(Summarizing):
    """What is as frequent stays as it was found."""

    def _ranked(self, counts: Counter[str]) -> list[tuple[str, int]]:
        return counts.most_common()


class FacetsUnfiltered(Summarizing):
    """From an index, which knows nothing of the other filters."""

    async def facets(self, query: EventQuery, field: str, *, top: int = 10) -> Facets:
        return await super().facets(EventQuery(), field, top=top)


def _broken(name: str, cls: type[Summarizing]) -> Broken:
    return Broken(name, "S18", partial(opened_memory, cls), correct=open_summarizing)


BROKEN: tuple[Broken, ...] = (
    _broken("the oldest of the latest", OldestOfThePage),
    _broken("the latest in ascending order", AscendingPage),
    _broken("the latest without payloads", LatestWithoutPayloads),
    _broken("inclusive before_seq", InclusiveBefore),
    _broken("before_seq 0 is no bound", FalsyBefore),
    _broken("filters only the last page", LimitBeforeFilters),
    _broken("counts past at_most", CountsPastTheEnd),
    _broken("counts whatever there is", CountsEverything),
    _broken("rounds to buckets", RoundsToBuckets),
    _broken("buckets begin with the log", BucketsFromTheFirst),
    _broken("buckets by count", BucketsByCount),
    _broken("repeats are counted again", CountsTwice),
    _broken("a window in whole buckets", WindowInWholeBuckets),
    _broken("agents counted as modules", ModulesOfAgents),
    _broken("no value counted as one", NothingIsAValue),
    _broken("numbers counted as scopes", NumbersAreScopes),
    _broken("distinct values of the top alone", TopAlone),
    _broken("facets ignore case", FacetsIgnoreCase),
    _broken("facets of one count in any order", FacetsAsTheyCome),
    _broken("facets of everything", FacetsUnfiltered),
)
