"""What a console reads of one log: pages, numbers, and what to do for stores that cannot do it themselves."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from trio_eventlog import (
    EventLog,
    EventQuery,
    EventsPruned,
    ModuleEvent,
    PersistedEvent,
    StaleCursor,
    Subscription,
)
from trio_eventlog.abc import (
    CountingStore,
    EventStore,
    FacetStore,
    HistogramStore,
    LatestStore,
    PagedStore,
    PrunedStore,
)
from trio_eventlog.reading import Epoch, iter_events, list_epochs, tail

MAX_PAGE_BYTES: Final = 4 * 2**20
"""Bytes of a page from the store."""

MAX_SCAN: Final = 20_000
"""Seqs that a request looks at in a store that has not the ability to answer it by itself."""

_FIRST_WINDOW: Final = 256
_WINDOW_GROWTH: Final = 8
_POLL_INTERVAL: Final = 0.5


@attrs.frozen
class Found:
    """Part of a log, in one order."""

    events: list[PersistedEvent]
    """Events that match, in the order asked for."""

    next: int | None
    """The cursor behind which to go on in this order; None at the end."""

    is_last: bool = False
    """Whether it is known that nothing more comes behind them now."""


@attrs.frozen
class Counts:
    """How often values occur."""

    distinct: int
    """How many values there are."""

    top: list[tuple[str, int]]
    """The most frequent ones, and how often each occurs, most frequent first."""

    from_seq: int | None
    """Only events from here on were counted; None if all were."""


@attrs.frozen
class Histogram:
    """Events over time, by type."""

    counts: dict[tuple[int, str], int]
    """How many, by the beginning of the bucket in milliseconds and by type."""

    from_seq: int | None
    """As for :class:`Counts`."""


@attrs.frozen(eq=False)
class Source:
    """A log to be shown.

    Attributes:
      name: its name.
      store: where its events are.
      log: the log itself if it belongs to this program.
    """

    name: str
    store: EventStore
    log: EventLog | None = None

    # --- where it ends ----------------------------------------------------------------------------

    async def last_seq(self) -> int:
        """The highest seq ever stored. A checkpoint."""
        return await self.store.last_seq()

    async def end_seq(self) -> int:
        """The highest seq that followers can have been told of."""
        if self.log is not None:
            return self.log.statistics().last_durable_seq  # noqa: ASYNC910 - at hand
        return await self.last_seq()

    async def _end_before(self, before_seq: int | None) -> int:
        """The highest seq that there can be below ``before_seq``."""
        last_seq = await self.last_seq()
        return last_seq if before_seq is None else min(before_seq - 1, last_seq)

    async def epochs(self) -> list[Epoch]:
        """The epochs of the log but its first."""
        return await list_epochs(self.store)

    async def pruned_seq(self) -> int | None:
        """The highest seq that was ever pruned; None if the store does not say."""
        return await self.store.pruned_seq() if isinstance(self.store, PrunedStore) else None

    @asynccontextmanager
    async def follow(self, query: EventQuery, after_seq: int | None) -> AsyncIterator[Subscription]:
        """Follow the log for the length of the block."""
        if self.log is not None:
            async with self.log.subscribe(query, after_seq=after_seq) as events:
                yield events
        else:
            async with tail(self.store, query, after_seq=after_seq, poll_interval=_POLL_INTERVAL) as events:
                yield events

    # --- pages ------------------------------------------------------------------------------------

    async def oldest(self, query: EventQuery, limit: int) -> Found:
        """The first events that match after the cursor of the query."""
        after = query.after_seq or 0
        if isinstance(self.store, PagedStore):
            page = await self.store.query_page(attrs.evolve(query, limit=limit), max_bytes=MAX_PAGE_BYTES)
            # Complete is what ends with the limit, too.
            events, is_last = page.events, page.is_complete and len(page.events) < limit
        else:
            events = await _Range(self.store, query, after, None, page_size=limit).next_page()
            is_last = not events
        return Found(events, events[-1].seq if events else after, is_last=is_last)

    async def newest(self, query: EventQuery, before_seq: int | None, limit: int) -> Found:
        """The last events that match before ``before_seq``, newest first."""
        if isinstance(self.store, LatestStore):
            events = await self.store.latest(query, before_seq=before_seq, limit=limit)
            is_last = len(events) < limit
            return Found(events, None if is_last else events[-1].seq, is_last=is_last)
        after = query.after_seq or 0
        end = await self._end_before(before_seq)
        found: list[PersistedEvent] = []
        window, scanned = max(_FIRST_WINDOW, limit), 0
        while len(found) < limit and end > after and scanned < MAX_SCAN:
            start = max(end - window, after)
            # A store returns the lowest seqs first.
            last: deque[PersistedEvent] = deque(maxlen=limit - len(found))
            part = _Range(self.store, query, start, end)
            while page := await part.next_page():
                last.extend(page)
            found += reversed(last)
            scanned += end - start
            end, window = part.start, window * _WINDOW_GROWTH
        if len(found) == limit:
            return Found(found, found[-1].seq)
        is_last = end <= after
        return Found(found, None if is_last else end + 1, is_last=is_last)

    async def one(self, seq: int) -> PersistedEvent | None:
        """The event with this seq; None if there is none."""
        events = await self.store.query(EventQuery(after_seq=seq - 1, limit=1))
        return events[0] if events and events[0].seq == seq else None

    # --- numbers ----------------------------------------------------------------------------------

    async def count(self, query: EventQuery, before_seq: int | None, at_most: int) -> tuple[int, bool]:
        """How many events match, up to ``at_most``; and whether that is all."""
        if isinstance(self.store, CountingStore) and before_seq is None:
            count = await self.store.count(query, at_most=at_most + 1)
            return min(count, at_most), count <= at_most
        end = await self._end_before(before_seq)
        start = query.after_seq or 0
        part = _Range(self.store, query, start, min(end, start + MAX_SCAN))
        count = 0
        while count <= at_most and (page := await part.next_page()):
            count += len(page)
        return min(count, at_most), part.end == end and count <= at_most

    async def histogram(self, query: EventQuery, bucket_ms: int) -> Histogram:
        """How many events match in each bucket of time, by type."""
        if isinstance(self.store, HistogramStore):
            found = await self.store.histogram(query, bucket_ms=bucket_ms)
            return Histogram({(item.start_ms, item.event_type): item.events for item in found}, None)
        counts: Counter[tuple[int, str]] = Counter()
        part, from_seq = await self._last_part(query)
        while page := await part.next_page():
            counts.update(
                (event.timestamp_ms - event.timestamp_ms % bucket_ms, event.event.event_type)
                for event in page
            )
        return Histogram(dict(counts), from_seq)

    async def facets(self, query: EventQuery, field: str, top: int) -> Counts:
        """The most frequent values of a field."""
        if isinstance(self.store, FacetStore):
            found = await self.store.facets(query, field, top=top)
            return Counts(found.distinct, list(found.top), None)
        counts: Counter[str] = Counter()
        part, from_seq = await self._last_part(query)
        while page := await part.next_page():
            counts.update(value for event in page if (value := _value_of(event, field)) is not None)
        return Counts(len(counts), _most_frequent(counts.items(), top), from_seq)

    async def _last_part(self, query: EventQuery) -> tuple[_Range, int | None]:
        """The newest events of the log, and the seq from which on these are, if those are not all."""
        end = await self.last_seq()
        after = query.after_seq or 0
        start = max(after, end - MAX_SCAN)
        return _Range(self.store, query, start, end), None if start == after else start + 1


class _Range:
    """The events that match with seqs above ``start``, up to ``end``, page by page.

    A start is a place, and no cursor of anybody: there need not have been an event, and it cannot be stale.

    Args:
      end: the last seq; None for no end.
      page_size: most events of a page.
    """

    def __init__(
        self,
        store: EventStore,
        query: EventQuery,
        start: int,
        end: int | None,
        *,
        page_size: int = _FIRST_WINDOW,
    ) -> None:
        self.start = start
        """No event has a seq above this, up to the start that was asked for."""
        self.end = math.inf if end is None else end
        self._store, self._query, self._page_size = store, query, page_size
        self._pages = self._pages_from(start)
        self._is_over = start >= self.end

    def _pages_from(self, start: int) -> AsyncIterator[list[PersistedEvent]]:
        wanted = attrs.evolve(self._query, after_seq=start, limit=None)
        return iter_events(self._store, wanted, page_size=self._page_size).pages()

    async def next_page(self) -> list[PersistedEvent]:
        """The next events; none at the end. A checkpoint."""
        if self._is_over:
            await trio.lowlevel.checkpoint()
            return []
        page = await self._read()
        self._is_over = not page or page[-1].seq >= self.end
        return page if not page or page[-1].seq <= self.end else [e for e in page if e.seq <= self.end]

    async def _read(self) -> list[PersistedEvent]:
        while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
            try:
                return await anext(self._pages, [])
            except EventsPruned:
                continue
            except StaleCursor as exc:
                if exc.epoch_seq is None:
                    return []
                # The seqs from here to the beginning of an epoch were skipped.
                self.start = exc.last_seq
                self._pages = self._pages_from(exc.last_seq)


def _value_of(event: PersistedEvent, field: str) -> str | None:
    inner = event.event
    if field == "event_type":
        return inner.event_type
    if field == "member_id":
        return event.member_id
    if field == "module":
        return inner.module if isinstance(inner, ModuleEvent) else None
    payload = inner.payload
    value = payload.get(field) if isinstance(payload, dict) else None
    return value if isinstance(value, str) else None


def _most_frequent(items: Iterable[tuple[str, int]], top: int) -> list[tuple[str, int]]:
    return sorted(items, key=lambda item: (-item[1], item[0]))[:top]


def gaps_in(seqs: Sequence[int], first: int, last: int, pruned_seq: int) -> list[dict[str, str]]:
    """The runs of seqs from ``first`` to ``last`` that are not among ``seqs``, which ascend. Pure."""
    gaps: list[dict[str, str]] = []
    expected = first
    for seq in (*seqs, last + 1):
        if seq > expected:
            split = min(max(pruned_seq, expected - 1), seq - 1)
            gaps += _gap(expected, split, "pruned") + _gap(split + 1, seq - 1, "missing")
        expected = seq + 1
    return gaps


def _gap(first: int, last: int, reason: str) -> list[dict[str, str]]:
    if first > last:
        return []
    return [{"first_seq": str(first), "last_seq": str(last), "reason": reason}]


def without_skipped(gaps: Sequence[dict[str, str]], epochs: Iterable[Epoch]) -> list[dict[str, str]]:
    """The gaps without the seqs that were skipped where epochs begin, which no event ever had. Pure."""
    kept = list(gaps)
    for epoch in epochs:
        kept = [part for gap in kept for part in _split(gap, epoch)]
    return kept


def _split(gap: dict[str, str], epoch: Epoch) -> list[dict[str, str]]:
    first, last = int(gap["first_seq"]), int(gap["last_seq"])
    if last <= epoch.after_seq or first >= epoch.seq:
        return [gap]
    reason = gap["reason"]
    return _gap(first, epoch.after_seq, reason) + _gap(epoch.seq, last, reason)
