"""The latest events of a log, newest first. Floor 3: Trio."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from trio_eventlog._answers import ask_last_seq, ask_latest, ask_query
from trio_eventlog._model._events import MAX_U64, PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._numbers import check_integer
from trio_eventlog.abc import EventStore, LatestStore

_FIRST_STEP: Final = 1_000
"""How many seqs to look back at first."""

_FACTOR: Final = 4
"""By how much that grows each time."""

_PAGE_SIZE: Final = 1_000


async def latest_events(
    store: EventStore, query: EventQuery | None = None, *, before_seq: int | None = None, limit: int
) -> list[PersistedEvent]:
    """The last events that match, newest first: in descending order of seq.

    ::

        page = await latest_events(store, limit=50)
        while page:
            ...
            page = await latest_events(store, before_seq=page[-1].seq, limit=50)

    From a store that reads only forwards (:class:`trio_eventlog.abc.LatestStore` says which do not), the end
    of the log is read, then more and more of what is before, until there are enough. That takes as long as
    reading the log if few events match, and is of several moments.

    A checkpoint; can be cancelled.

    Args:
      store: the log.
      query: which events, by default all. It has no limit.
      before_seq: only events with a lower seq, 0 to 2**64 - 1.
      limit: at most this many events, 0 to 2**64 - 1. They are in memory.

    Raises:
      TypeError: ``query`` is no query, or a number is not an integer.
      ValueError: ``query`` has a limit, or a number is out of range.
      StoreError: the store failed, or answered what it must not.
    """
    wanted = EventQuery() if query is None else query
    if not isinstance(wanted, EventQuery):
        raise TypeError(f"query: expected an EventQuery, got {type(wanted).__name__}")
    if wanted.limit is not None:
        raise ValueError("query: has a limit; give it as an argument")
    if before_seq is not None:
        check_integer("before_seq", before_seq, 0, MAX_U64)
    check_integer("limit", limit, 0, MAX_U64)
    if isinstance(store, LatestStore):
        return await ask_latest(store, wanted, before_seq, limit)
    end = await ask_last_seq(store) + 1
    return await _read_back(store, wanted, end if before_seq is None else min(end, before_seq), limit)


async def _read_back(store: EventStore, query: EventQuery, end: int, limit: int) -> list[PersistedEvent]:
    floor = query.after_seq or 0
    step = _FIRST_STEP
    found: list[PersistedEvent] = []
    while len(found) < limit and end > floor + 1:
        start = max(end - 1 - step, floor)
        some = await _last_between(store, query, start, end, limit - len(found))
        found += reversed(some)
        end = start + 1
        step *= _FACTOR
    return found


async def _last_between(
    store: EventStore, query: EventQuery, start: int, end: int, limit: int
) -> deque[PersistedEvent]:
    """The last events that match, of those with a seq above ``start`` and below ``end``."""
    found: deque[PersistedEvent] = deque(maxlen=min(limit, end - start))
    is_over = False
    while not is_over:
        page = await ask_query(store, attrs.evolve(query, after_seq=start, limit=_PAGE_SIZE))
        found.extend(event for event in page if event.seq < end)
        is_over = len(page) < _PAGE_SIZE or page[-1].seq >= end - 1
        start = page[-1].seq if page else start
    return found
