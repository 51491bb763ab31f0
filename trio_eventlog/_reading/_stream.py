"""Streams of events: pages of a log, handed out event by event or as they are. Floor 3: Trio.

Theory of operation
===================

No reader is sent anything. Every reader has a cursor, the seq up to which it has handed events out, and asks
for what comes after it. So a slow reader costs nothing but its own next page, and there is no queue that
could overflow.

What remains is to know when to ask. A reader that follows a log looks whether there is more, and if not,
sleeps until it is told that there may be. Such a hint carries no news: the reader looks again, and may find
nothing. Hints may therefore come twice, late or for no reason; and they may be lost, as long as another one
follows, or the clock makes the reader look.

Within the process of the log no hint is lost, since there is no checkpoint between looking and falling
asleep. There, the highest durable seq says whether there is more, and the newest events are in memory
(:class:`RecentEvents`). From outside, the store has to be asked at intervals, or sooner if it has hints to
give.

A cursor moves past a seq without an event only if it is known why there is none. Behind a cursor, events can
disappear in two ways. They are pruned: the store is asked about that after a page that has gaps, and each
gap that pruning can have made is reported in its place. Or the store goes back to an older state, and its
end lies below what it was: then a short page is not the end, and a cursor beyond the end points nowhere. If
the log then goes on in a new epoch, whose seqs begin far above, a page that leads there says from which seq
on (``_model/_epochs.py``).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from trio_eventlog._answers import ask_last_seq
from trio_eventlog._declared import check_store
from trio_eventlog._model._errors import EventsPruned, StaleCursor
from trio_eventlog._model._events import MAX_U64, PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._numbers import check_integer
from trio_eventlog._reading._pages import Gap, Page, PageReader, Source, checked_start
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.abc import EventStore

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


class _Unread:
    """The part of a page that was not handed out yet."""

    def __init__(self, page: Page) -> None:
        self.through = page.through
        self._events = page.events
        self._index = 0
        self._gaps = page.gaps[::-1]  # the next one last

    def __bool__(self) -> bool:
        return self._index < len(self._events) or bool(self._gaps)

    def take_gap(self) -> Gap | None:
        """The gap before the next event, if there is one."""
        if not self._gaps:
            return None
        if self._index < len(self._events) and self._events[self._index].seq < self._gaps[-1].first:
            return None
        return self._gaps.pop()

    def take_event(self) -> PersistedEvent:
        """The next event."""
        event = self._events[self._index]
        self._index += 1
        return event

    def take_events(self, limit: float) -> list[PersistedEvent]:
        """The next events, up to a gap."""
        start, self._index = self._index, len(self._events)
        if self._gaps:
            while self._events[self._index - 1].seq > self._gaps[-1].first:
                self._index -= 1
        self._index = int(min(self._index, start + limit))
        return self._events[start : self._index]


@attrs.frozen(eq=False)
class PageIterator(AsyncIterator[T]):
    """What ``pages`` of a stream, or of a merge, returns."""

    _take_page: Callable[[], Awaitable[T]]

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> T:
        """The next page. A checkpoint."""
        return await self._take_page()


class EventStream(metaclass=NoPublicConstructor):
    """Events one after another, in ascending order of seq; what :func:`iter_events` returns.

    An async iterator, for one task at a time. Every step is a checkpoint. If a step is cancelled or raises an
    error, no event is skipped: go on with another ``async for`` over the same object.

    To read many events, iterate over :meth:`pages`, with one checkpoint for each page.
    """

    _made_by = "iter_events(store)"

    def __init__(self, source: Source, cursor: int, limit: int | None, page_size: int) -> None:
        self._source = source
        self._cursor = self._passed = cursor
        self._left = math.inf if limit is None else limit
        self._page_size = min(page_size, MAX_U64)  # the largest limit of a query
        self._unread = _Unread(Page([], cursor))
        self._is_over = False
        self._is_closed = False
        self._is_busy = False
        self._progress = trio.lowlevel.ParkingLot()  # tasks that wait for `_passed` to grow
        self._scope: trio.CancelScope | None = None  # around the task that waits for a page

    def __repr__(self) -> str:
        return f"<{type(self).__name__} after seq {self._cursor}>"

    @property
    def cursor(self) -> int:
        """The seq to resume from, as ``after_seq``. All matching events up to it were handed out, or reported
        as pruned.

        The event, or page, of the current step of ``async for`` counts as handed out.
        """
        return self._cursor

    def __aiter__(self) -> Self:
        """The stream itself."""
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> PersistedEvent:
        """The next event. A checkpoint; can be cancelled.

        Raises:
          StopAsyncIteration: there are no more events.
          EventsPruned: events behind the cursor were pruned before they were read. Raised once for each range
            of seqs; the cursor is past it then. A reader that starts at the first event there is does not
            hear of what was pruned before.
          StaleCursor: the cursor lies beyond the last seq of the store, which was replaced or went back to
            an older state. The stream goes on once the store has got further. Or the log has gone on in
            another epoch from a state before the cursor: then every step raises it.
          StoreError: the store failed and may answer later; or :exc:`StoreUnusable`, it will not. Nothing is
            skipped. In a subscription also :exc:`StoreWentBack`, once, if the log is closed and the store has
            lost events that were not read.
          trio.BusyResourceError: another task is waiting for the next event of this stream.
          trio.ClosedResourceError: the block that the stream belongs to was left.
        """
        await self._fill()
        # No checkpoint from here on: what is taken is handed out.
        event = self._unread.take_event()
        self._cursor = event.seq
        self._left -= 1
        return event

    def pages(self) -> AsyncIterator[list[PersistedEvent]]:
        """Iterate over the events in lists, as they were read.

        ::

            async for page in iter_events(store).pages():
                await send(page)

        A list has one event or more, up to the size of a page. Every step is a checkpoint, and raises the
        errors of :meth:`__anext__`. Both kinds of iteration share the cursor, so that one goes on where the
        other has stopped.
        """
        return PageIterator(self._take_page)

    async def _take_page(self) -> list[PersistedEvent]:
        await self._fill()
        page = self._unread.take_events(self._left)
        self._cursor = page[-1].seq
        self._left -= len(page)
        return page

    async def _fill(self) -> None:
        """Wait until there is an event to hand out."""
        if self._is_busy:
            raise trio.BusyResourceError("another task waits for the next event of this stream")
        self._require_open()
        self._pass(self._cursor)
        self._is_busy = True
        try:
            if self._unread or self._is_over or not self._left:
                await trio.lowlevel.checkpoint()
            else:
                await self._read()
        finally:
            self._is_busy = False
        self._require_open()
        if not (self._unread and self._left):
            self._is_over = True
            self._progress.unpark_all()
            raise StopAsyncIteration
        if (gap := self._unread.take_gap()) is not None:
            self._cursor = gap.last
            raise EventsPruned(gap.first, gap.last)

    async def _read(self) -> None:
        scope = self._scope = trio.CancelScope()
        try:
            with scope:
                # A cancelled step does not ask the store.
                await trio.lowlevel.checkpoint_if_cancelled()
                while not (self._unread or self._is_over):
                    self._cursor = max(self._cursor, self._unread.through)
                    self._pass(self._cursor)
                    page = await self._source.read(self._cursor, int(min(self._page_size, self._left)))
                    if page is None:
                        self._is_over = True
                        self._progress.unpark_all()
                    else:
                        self._unread = _Unread(page)
        finally:
            self._scope = None

    def _pass(self, seq: int) -> None:
        """The task that iterates has come back: it is done with everything up to ``seq``."""
        self._passed = seq
        if self._progress:  # for speed: nearly always nobody waits
            self._progress.unpark_all()

    def _require_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("the block that this stream of events belongs to was left")

    def _close(self) -> None:
        self._is_closed = True
        self._unread = _Unread(Page([], self._cursor))
        self._progress.unpark_all()
        if self._scope is not None:
            self._scope.cancel(reason="the block of the subscription was left")


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
    check_integer("page_size", page_size, 1, unit="events")
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
        await self._reader.check_cursor(after, found, through)
        gaps = await self._reader.find_gaps(after, found, through if found else None)
        if not found and not gaps and after:
            last_seq = await ask_last_seq(self._reader.store)
            if last_seq < after:
                raise StaleCursor(after, last_seq)
            await self._reader.check_cursor(after, found, last_seq)
        self._is_at_end = is_complete
        return Page(found, through, gaps)
