"""Going through what is stored. Floor 3: Trio."""

from __future__ import annotations

import trio

from trio_eventlog._answers import ask_last_seq
from trio_eventlog._declared import check_store
from trio_eventlog._model._errors import StaleCursor
from trio_eventlog._model._query import EventQuery
from trio_eventlog._reading._pages import Page, PageReader, checked_start
from trio_eventlog._reading._stream import EventStream
from trio_eventlog.abc import EventStore

__all__ = ["iter_events"]


def iter_events(store: EventStore, query: EventQuery | None = None, *, page_size: int = 1000) -> EventStream:
    """Iterate over all events that match, in ascending order of seq, with one page of them in memory.

    ::

        async for event in iter_events(store, EventQuery(run_id="r-1")):
            print(event)

        async for page in iter_events(store).pages():  # faster
            print(len(page))

    Events that are stored in the meantime are included, until the end is reached. There is nothing to close.
    A cursor beyond the last seq of the store raises :exc:`StaleCursor` from the first step.

    Args:
      store: where the events are.
      query: which events; by default all. Its ``after_seq`` is where to start, its ``limit`` ends the
        iteration.
      page_size: events to ask the store for at a time, 1 or more. The store is asked for fewer if they are
        large: a page has about 4 MiB, or one event.

    Raises:
      TypeError, ValueError: an argument is not as described.
    """
    wanted, after = checked_start(query, None)
    if type(page_size) is not int:
        raise TypeError(f"page_size: expected a number of events, got {type(page_size).__name__}")
    if page_size < 1:
        raise ValueError(f"page_size: expected 1 event or more, got {page_size}")
    check_store(store)
    after = after or 0
    source = _StoredSource(PageReader(store, wanted, is_from_first=after == 0))
    return EventStream._create(source, after, wanted.limit, page_size)


class _StoredSource:
    """Pages of a store, up to its end."""

    def __init__(self, reader: PageReader) -> None:
        self._reader = reader
        self._is_at_end = False

    async def read(self, after: int, limit: int) -> Page | None:
        if self._is_at_end:
            await trio.lowlevel.checkpoint()
            return None
        found, is_complete = await self._reader.read(after, limit)
        through = found[-1].seq if found else after
        gaps = await self._reader.find_gaps(after, found, through if found else None)
        if not found and not gaps and after:
            last_seq = await ask_last_seq(self._reader.store)
            if last_seq < after:
                raise StaleCursor(after, last_seq)
        self._is_at_end = is_complete
        return Page(found, through, gaps)
