"""Pages of a log: what is stored behind a cursor, and where events were pruned. Floor 3: Trio."""

from __future__ import annotations

from typing import Final, Protocol

import attrs

from trio_eventlog._answers import ask_page, ask_pruned_seq, ask_query
from trio_eventlog._model._epochs import FIRST_EPOCH_SEQ
from trio_eventlog._model._errors import CodecError
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._sealed import size_of
from trio_eventlog._reading._epochs import check_cursor, skipped_seqs
from trio_eventlog.abc import EventStore, PagedStore, PrunedStore

_MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
"""Bytes after which a page from the store is large enough."""

_FIRST_PAGE_SIZE: Final = 32
"""Events of the first page from a store that cannot read by bytes."""

_MAX_GROWTH: Final = 8
"""How much larger than the page before it a page of such a store can be."""


@attrs.frozen
class Gap:
    """A range of seqs of which the events were pruned."""

    first: int
    last: int


@attrs.frozen
class Page:
    """What comes next in a log."""

    events: list[PersistedEvent]
    """The events that match, in ascending order of seq."""

    through: int
    """There are no other matching events up to this seq. Never below the cursor."""

    gaps: list[Gap] = attrs.Factory(list)
    """Where events were pruned, in ascending order."""


class Source(Protocol):
    """Where pages come from."""

    async def read(self, after: int, limit: int) -> Page | None:
        """The next page, which may be empty; None at the end. A checkpoint.

        If it is cancelled or fails, it has done nothing.
        """
        ...


class LiveSource(Source, Protocol):
    """Where pages come from, of a log that grows."""

    @property
    def known_end(self) -> int:
        """The highest seq that is known to be stored."""
        ...

    async def find_end(self) -> int:
        """The highest seq that is stored now. A checkpoint."""
        ...


class PageReader:
    """Reads pages of a store, for one reader. Cursor and limit of the query play no part.

    A reader that ``is_from_first``, which starts at the first event there is, is not told what was pruned
    before that.
    """

    def __init__(self, store: EventStore, query: EventQuery, *, is_from_first: bool) -> None:
        self.store = store
        self.query = attrs.evolve(query, after_seq=None, limit=None)
        self.is_unfiltered = self.query == EventQuery()
        self.pruned_seq = 0
        """The highest seq that was pruned, as of when it was last asked for."""
        self._is_from_first = is_from_first
        self._size_limit = _FIRST_PAGE_SIZE  # of a store that cannot read by bytes

    async def read(self, after: int, limit: int) -> tuple[list[PersistedEvent], bool]:
        """Read up to ``limit`` events, or fewer if they are large; and tell whether there are no others."""
        query = attrs.evolve(self.query, after_seq=after, limit=limit)
        if isinstance(self.store, PagedStore):
            page = await ask_page(self.store, query, _MAX_PAGE_BYTES)
            return page.events, page.is_complete and len(page.events) < limit
        limit = min(limit, self._size_limit)
        found = await ask_query(self.store, attrs.evolve(query, limit=limit))
        if found:
            size = max(sum(map(_size_of, found)), 1)
            fitting = _MAX_PAGE_BYTES * len(found) // size
            self._size_limit = max(min(fitting, _MAX_GROWTH * self._size_limit), 1)
        return found, len(found) < limit

    async def check_cursor(self, after: int, found: list[PersistedEvent], end: int) -> None:
        """Check that the log did not go on, up to ``end``, from a state before the cursor (StaleCursor).

        ``found`` are all events that match up to there.
        """
        if not (self.is_unfiltered and end - after == len(found)):
            await check_cursor(self.store, after, end)

    async def find_gaps(self, after: int, found: list[PersistedEvent], through: int | None) -> list[Gap]:
        """Find where events after the cursor were pruned, up to ``through``; None for all that were pruned.

        ``found`` are all events that match up to there. They must have been read before this call, or events
        that are pruned in between would be missed.
        """
        is_seamless = self.is_unfiltered and through is not None and through - after == len(found)
        if is_seamless or not isinstance(self.store, PrunedStore):
            return []
        pruned = self.pruned_seq = await ask_pruned_seq(self.store)
        if self._is_from_first and not after:
            return []
        gaps = _gaps_between(found, after, pruned if through is None else min(pruned, through))
        if gaps and gaps[-1].last >= FIRST_EPOCH_SEQ:
            for first, last in await skipped_seqs(self.store, after):
                gaps = _without(gaps, first, last)
        return gaps


def _gaps_between(events: list[PersistedEvent], after: int, end: int) -> list[Gap]:
    gaps: list[Gap] = []
    for event in events:
        if after >= end:
            break
        if event.seq > after + 1:
            gaps.append(Gap(after + 1, min(event.seq - 1, end)))
        after = event.seq
    if after < end:
        gaps.append(Gap(after + 1, end))
    return gaps


def _without(gaps: list[Gap], first: int, last: int) -> list[Gap]:
    parts = [
        part
        for gap in gaps
        for part in ((gap.first, min(gap.last, first - 1)), (max(gap.first, last + 1), gap.last))
    ]
    return [Gap(*part) for part in parts if part[0] <= part[1]]


def _size_of(event: PersistedEvent) -> int:
    try:
        return size_of(event)
    except CodecError:
        # A store should not have returned it. The reader finds that out when it uses the event.
        return 0


def checked_start(query: EventQuery | None, after_seq: int | None) -> tuple[EventQuery, int | None]:
    """Check where a reader is to start: the query, and the cursor if one is given."""
    if query is None:
        query = EventQuery()
    elif not isinstance(query, EventQuery):
        raise TypeError(f"query: expected an EventQuery, got {type(query).__name__}")
    if after_seq is None:
        return query, query.after_seq
    if query.after_seq is not None:
        raise ValueError("after_seq: given twice, as an argument and in the query")
    # The query checks what can be a cursor.
    return attrs.evolve(query, after_seq=after_seq), after_seq
