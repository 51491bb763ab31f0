"""Where the events of a log are: in its store, in an archive, or some here and some there. Trio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Final, Protocol

from trio_eventlog import EventLogError, EventQuery, EventsPruned, EventStore, PersistedEvent
from trio_eventlog._threads import run_sync
from trio_eventlog.reading import iter_events

_BY_SEQ: Final = attrgetter("seq")


class SourceError(Exception):
    """What was archived cannot be read to its end; its cause says why."""


class Source(Protocol):
    """Pages of events in ascending order of seq."""

    async def next_page(self) -> Sequence[PersistedEvent]:
        """The next events, none at the end. A checkpoint of Trio."""
        ...

    def close(self) -> None:
        """Free what is open."""
        ...


class FromStore:
    """The events of a store."""

    def __init__(self, store: EventStore, after_seq: int) -> None:
        self._events = iter_events(store, EventQuery(after_seq=after_seq))

    async def next_page(self) -> Sequence[PersistedEvent]:
        """See :class:`Source`.

        Raises:
          StoreError, StaleCursor, CodecError: as in reading.
        """
        while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
            try:
                return await anext(self._events.pages(), [])
            except EventsPruned:
                # They are missing from what was sealed, which the judge will say.
                continue

    def close(self) -> None:
        """There is nothing open."""


class FromArchive:
    """Events that an iterator reads, which blocks."""

    def __init__(self, pages: Iterator[Sequence[PersistedEvent]]) -> None:
        self._pages = pages

    async def next_page(self) -> Sequence[PersistedEvent]:
        """See :class:`Source`.

        Raises:
          SourceError: it cannot be read.
        """
        try:
            return await run_sync(partial(next, self._pages, ()), abandon_on_cancel=False)
        except (EventLogError, OSError) as exc:
            raise SourceError from exc

    def close(self) -> None:
        """Close what the iterator has open."""
        if close := getattr(self._pages, "close", None):
            close()


class Merged:
    """The events of two sources. What both have is taken from the first."""

    def __init__(self, first: Source, second: Source) -> None:
        self._sources = (first, second)
        self._pages: list[Sequence[PersistedEvent] | None] = [(), ()]

    async def next_page(self) -> Sequence[PersistedEvent]:
        """See :class:`Source`."""
        for place, source in enumerate(self._sources):
            page = self._pages[place]
            if page is not None and not page:
                self._pages[place] = await source.next_page() or None
        first, second = self._pages
        if first is None or second is None:
            self._pages = [None if first is None else (), None if second is None else ()]
            return first or second or ()
        end = min(first[-1].seq, second[-1].seq)
        known = {event.seq for event in first}
        taken = [event for event in first if event.seq <= end]
        taken += [event for event in second if event.seq <= end and event.seq not in known]
        self._pages = [[event for event in page if event.seq > end] for page in (first, second)]
        return sorted(taken, key=_BY_SEQ)

    def close(self) -> None:
        """Close both."""
        for source in self._sources:
            source.close()
