"""A store in the memory of the process."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import attrs
import trio

from trio_eventlog._abilities._summaries import Facets, HistogramBucket
from trio_eventlog._model._errors import SequenceConflict, StoreWentBack
from trio_eventlog._model._events import MAX_STORED, PersistedEvent, wall_clock_ms
from trio_eventlog._model._payload import SCOPES
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import StoreDescription
from trio_eventlog._model._sealed import reseal
from trio_eventlog._numbers import check_integer
from trio_eventlog.stores._common._arguments import check_prune, check_query, checked_top
from trio_eventlog.stores._common._batches import TimeSlice, sealed_batch
from trio_eventlog.stores._common._conflicts import conflicting_seqs, duplicate_seqs, new_seqs
from trio_eventlog.stores._common._erasure import check_erase, has_nothing_to_erase, tombstone_of
from trio_eventlog.stores._common._statistics import EventCounter, SeqGaps
from trio_eventlog.stores._common._summaries import (
    HistogramCounter,
    check_count,
    check_facets,
    check_histogram,
    check_latest,
    facet_of,
    facets_of,
)


class MemoryStore:
    """One log in the memory of the process, gone with it.

    For tests, and for programs that look at their latest events without keeping them. Keeps every clause of
    :class:`trio_eventlog.abc.EventStore` except those about durability and about opening and closing (S10 in
    part, S13, S15): there is nothing to open, and the store lives as long as the object.

    Events are kept encoded and decoded anew for every reader. Only :meth:`prune` removes any; a program that
    runs for long should call it now and then.
    """

    survives: str = "power"
    """What the store claims an append survives, since in tests it takes the place of a durable one.

    In truth an append survives only as long as the object. Copies in a spill file would not help: the next
    store is empty in any case.
    """

    def __init__(self) -> None:
        # Ascending by seq. Appends at the end extend these lists in place, everything else replaces
        # them. So a scan that remembers list and length sees a consistent log in the meantime.
        self._events: list[PersistedEvent] = []
        self._seqs: list[int] = []
        self._seq_of: dict[str, int] = {}
        self._highest = self._pruned = 0
        self._went_back_from: int | None = None  # the next append raises StoreWentBack

    def __repr__(self) -> str:
        return f"<MemoryStore with {len(self._events)} events>"

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, all of it or nothing; see :meth:`trio_eventlog.abc.EventStore.append_batch`.

        A checkpoint, also for an empty batch. If it is cancelled, nothing was stored.

        Raises:
          EventRejected: a seq is not in 1 to 2**63 - 1, a timestamp is above 2**63 - 1, a payload is
            not JSON, or a string has a lone surrogate. Names all such events; nothing was stored.
          SequenceConflict: an event with another id already has a seq of the batch; nothing was stored.
          StoreWentBack: once after each :meth:`go_back`; nothing was stored.
        """
        await trio.lowlevel.checkpoint()
        sealed = await sealed_batch(events)
        # From here on without a checkpoint, so that no reader sees a part of the batch.
        if sealed and self._went_back_from is not None:
            went_back = StoreWentBack(self._highest, self._went_back_from)
            self._went_back_from = None
            raise went_back
        seqs = new_seqs(sealed, self._seq_of)
        conflicts = conflicting_seqs(seqs, filter(self._holds, seqs))
        if conflicts:
            raise SequenceConflict(conflicts)
        new: dict[str, PersistedEvent] = {}
        for event in sealed:
            if event.id not in self._seq_of:
                new.setdefault(event.id, event)
        self._insert(sorted(new.values(), key=lambda event: event.seq))
        return duplicate_seqs(sealed, self._seq_of)

    def _holds(self, seq: int) -> bool:
        index = bisect_right(self._seqs, seq)
        return index > 0 and self._seqs[index - 1] == seq

    @trio.lowlevel.enable_ki_protection
    def _insert(self, added: list[PersistedEvent]) -> None:
        if not added:
            return
        if not self._seqs or added[0].seq > self._seqs[-1]:
            self._events.extend(added)
            self._seqs.extend(event.seq for event in added)
        else:
            events: list[PersistedEvent] = []
            seqs: list[int] = []
            done = 0
            for event in added:
                index = bisect_left(self._seqs, event.seq, done)
                events += self._events[done:index]
                seqs += self._seqs[done:index]
                events.append(event)
                seqs.append(event.seq)
                done = index
            self._events = events + self._events[done:]
            self._seqs = seqs + self._seqs[done:]
        self._highest = max(self._highest, self._seqs[-1])
        self._seq_of.update((event.id, event.seq) for event in added)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """All events that match, ascending by seq; see :meth:`trio_eventlog.abc.EventStore.query`.

        Reads the log as it is when the call begins. ``after_seq`` is found by bisection; every other filter
        is a scan.

        A checkpoint at the start, and then often enough not to block the loop.
        """
        check_query(query)
        found: list[PersistedEvent] = []
        await self._visit(query, -1 if query.limit is None else query.limit, found.append)
        return found

    async def _visit(
        self,
        query: EventQuery,
        limit: int,
        visit: Callable[[PersistedEvent], object],
        *,
        before_seq: int | None = None,
        newest_first: bool = False,
    ) -> None:
        """Call ``visit`` with copies of the first events that match; of the last ones, the newest first.

        A ``limit`` of -1 is none.
        """
        await trio.lowlevel.checkpoint()
        if limit == 0:
            return
        decodes = bool(query.fields) or any(getattr(query, scope) is not None for scope in SCOPES)
        # There may be thousands of types: hash them once, not per event.
        types = frozenset(query.event_types)
        others = attrs.evolve(query, event_types=())
        events, stop = self._events, len(self._events)
        start = 0 if query.after_seq is None else bisect_right(self._seqs, query.after_seq)
        if before_seq is not None:
            stop = bisect_left(self._seqs, before_seq)
        visited = 0
        time_slice = TimeSlice()
        for index in reversed(range(start, stop)) if newest_first else range(start, stop):
            await time_slice.checkpoint_if_over()
            if types and events[index].event.event_type not in types:
                continue
            # A filter for a scope or a field decodes the payload, and an event remembers what it has decoded:
            # let that be the reader's copy.
            event = reseal(events[index]) if decodes else events[index]
            if others.matches(event):
                visit(event if decodes else reseal(event))
                visited += 1
                if visited == limit:
                    break

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        """See :meth:`trio_eventlog.abc.LatestStore.latest`. A scan from the end."""
        check_latest(query, before_seq, limit)
        found: list[PersistedEvent] = []
        await self._visit(query, limit, found.append, before_seq=before_seq, newest_first=True)
        return found

    async def count(self, query: EventQuery, *, at_most: int) -> int:
        """See :meth:`trio_eventlog.abc.CountingStore.count`. A scan."""
        check_count(query, at_most)
        found: list[None] = []
        await self._visit(query, at_most, lambda _: found.append(None))
        return len(found)

    async def histogram(self, query: EventQuery, *, bucket_ms: int) -> list[HistogramBucket]:
        """See :meth:`trio_eventlog.abc.HistogramStore.histogram`. A scan."""
        check_histogram(query, bucket_ms)
        counter = HistogramCounter(bucket_ms)
        await self._visit(query, -1, lambda event: counter.add(event.timestamp_ms, event.event.event_type))
        return counter.result()

    async def facets(self, query: EventQuery, field: str, *, top: int = 10) -> Facets:
        """See :meth:`trio_eventlog.abc.FacetStore.facets`. A scan."""
        check_facets(query, field, top)
        values: list[str | None] = []
        await self._visit(query, -1, lambda event: values.append(facet_of(event, field)))
        return facets_of(Counter(value for value in values if value is not None).items(), top)

    async def last_seq(self) -> int:
        """The highest seq ever stored, 0 before the first. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return self._highest

    async def prune(
        self,
        *,
        before_ms: int | None = None,
        keep: int | None = None,
        through_seq: int | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Delete old events permanently. ``last_seq`` stays what it was.

        A checkpoint. If it is cancelled, nothing was deleted.

        Args:
          before_ms: delete events before this time, in milliseconds since 1970-01-01 UTC.
          keep: delete all but this many events, those with the highest seqs; 0 or more.
          through_seq: delete events with at most this seq; together with ``before_ms``, those that are both.
          dry_run: only count them.
          on_progress: called once they are gone, with their number as both arguments.

        Returns:
          How many events were deleted, or would be.

        Raises:
          TypeError: it is not an integer.
          ValueError: nothing says which events, or ``keep`` is not given alone; or it is not 0 to 2**63 - 1.
        """
        check_prune(before_ms, keep, through_seq, dry_run, on_progress)
        await trio.lowlevel.checkpoint()
        if keep is not None:
            old = self._events[: max(len(self._events) - keep, 0)]
        else:
            old = self._events[
                : len(self._events) if through_seq is None else bisect_right(self._seqs, through_seq)
            ]
            if before_ms is not None:
                old = [event for event in old if event.timestamp_ms < before_ms]
        if old and not dry_run:
            self._remove(old)
            self._pruned = max(self._pruned, old[-1].seq)
            if on_progress is not None:
                on_progress(len(old), len(old))
        return len(old)

    async def erase(
        self,
        query: EventQuery,
        *,
        reason: str,
        commitment: Callable[[PersistedEvent], str] | None = None,
    ) -> int:
        """Erase the payloads of events; see :meth:`trio_eventlog.abc.ErasableStore.erase`.

        All of them in one step. If it is cancelled, nothing was erased.
        """
        check_erase(query, reason, commitment)
        found = {event.id: event.seq for event in await self.query(query)}
        at_ms = wall_clock_ms()
        events, erased = list(self._events), 0
        # As they are now: some may have been pruned meanwhile, or erased by another call.
        for index, event in enumerate(events):
            if found.get(event.id) == event.seq and not has_nothing_to_erase(copy := reseal(event)):
                events[index] = tombstone_of(copy, reason, at_ms, commitment)
                erased += 1
        self._events = events
        return erased

    async def pruned_seq(self) -> int:
        """The highest seq of all events that were ever pruned, 0 if none was. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return self._pruned

    @trio.lowlevel.enable_ki_protection
    def go_back(self, last_seq: int) -> None:
        """Lose all events above ``last_seq``, as a store does that is restored from a backup. For tests.

        The next append raises :class:`StoreWentBack`, as the contract has it. Readers are not told. Does
        nothing if there is no such event.

        Args:
          last_seq: the last seq of the backup, 0 or more.

        Raises:
          TypeError: it is not an integer.
          ValueError: it is negative.
        """
        check_integer("last_seq", last_seq, 0, MAX_STORED)
        if last_seq >= self._highest:
            return
        if self._went_back_from is None:
            self._went_back_from = self._highest
        self._remove(self._events[bisect_right(self._seqs, last_seq) :])
        self._highest = last_seq
        self._pruned = min(self._pruned, last_seq)

    def _remove(self, events: list[PersistedEvent]) -> None:
        gone = {event.id for event in events}
        self._events = [event for event in self._events if event.id not in gone]
        self._seqs = [event.seq for event in self._events]
        for event_id in gone:
            del self._seq_of[event_id]

    async def describe(self, *, top: int = 10) -> StoreDescription:
        """What the log holds, in numbers.

        A checkpoint at the start, and then often enough not to block the loop.

        Args:
          top: how many event types and members to name, the most frequent first; 0 or more.

        Raises:
          TypeError: ``top`` is not an integer.
          ValueError: ``top`` is negative.
        """
        top = checked_top(top)
        await trio.lowlevel.checkpoint()
        events, stop, highest = self._events, len(self._events), self._highest
        time_slice = TimeSlice()
        counter, gaps = EventCounter(), SeqGaps()
        for index in range(stop):
            await time_slice.checkpoint_if_over()
            counter.add(events[index])
            gaps.add(events[index].seq)
        return counter.describe(gaps, top, highest_seq=highest, size_bytes=None, schema_version=None)
