"""Following a log from within its process. Floor 3: Trio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from trio_eventlog._answers import ask_last_seq
from trio_eventlog._engine._recent_events import RecentEvents
from trio_eventlog._ki import ki_protected
from trio_eventlog._model._errors import StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._reading._pages import LiveSource, Page, PageReader
from trio_eventlog._reading._stream import EventStream
from trio_eventlog.abc import EventStore

_PAGE_SIZE: Final = 256
"""Events of a page from the store. Few, since there may be many readers, each with a page of its own."""

_RECENT_PAGE_SIZE: Final = 64
"""Recent events that are looked at without a checkpoint."""

_MAX_RECENT_EVENTS: Final = 4096
_MAX_RECENT_BYTES: Final = 8 * 1024 * 1024


class Subscription(EventStream):
    """Events that are stored, and then those to come: see :meth:`EventLog.subscribe` and :func:`tail`.

    An :class:`EventStream` that goes on: at its end it waits for more. How it differs from a queue:

    ====================================== =============================================================
    a slow reader                          holds up no other; it reads from the store what it missed
    an event                               comes once, in order, without a gap, and only once it is durable
    events that were pruned meanwhile      are reported: :exc:`EventsPruned`
    a store that goes back                 what it is given again still comes once
    after an interruption                  resume from :attr:`cursor`, also in another process
    ====================================== =============================================================
    """

    _made_by = "async with log.subscribe() as events"

    _source: LiveSource

    def __init__(self, source: LiveSource, cursor: int, limit: int | None) -> None:
        super().__init__(source, cursor, limit, _PAGE_SIZE)

    @property
    def is_caught_up(self) -> bool:
        """Whether all events that are known to be stored were handed out, or do not match."""
        is_at_end = max(self._cursor, self._unread.through) >= self._source.known_end
        return is_at_end and not self._unread

    async def wait_caught_up(self) -> None:
        """Wait until the task that iterates is done with everything that is stored now.

        That is, until it has come back for more after the last of these events. Events that the store loses
        meanwhile are not waited for. To be called by another task than that one. A checkpoint. Also returns
        once the iteration has ended.

        Raises:
          trio.ClosedResourceError: the block of the subscription was left before.
          StoreError: the store of :func:`tail` could not be asked for its last seq.
        """
        self._require_open()
        end = await self._source.find_end()
        while self._passed < min(end, self._source.known_end):
            self._require_open()
            if self._is_over:
                return
            await self._progress.park()
        self._require_open()


class Feed:
    """What a log tells its subscriptions. The highest seq that is durable at first is ``durable_seq``."""

    def __init__(self, store: EventStore, durable_seq: int) -> None:
        self.store = store
        self.recent = RecentEvents(durable_seq, most_events=_MAX_RECENT_EVENTS, most_bytes=_MAX_RECENT_BYTES)
        self._subscriptions: set[Subscription] = set()
        self._sleeping = trio.lowlevel.ParkingLot()
        self.times_back = 0
        """How many times the store went back to an older state."""
        self.is_over = False
        """Whether no more events will become durable."""

    def publish(
        self, events: tuple[PersistedEvent, ...], *, is_complete: bool, size: int | None = None
    ) -> None:
        """The store has taken ``events``: at least one, in ascending order of seq, above all events before.

        ``is_complete`` unless the store can have taken others since the last call.
        """
        self.recent.add(events, is_complete=is_complete and bool(self._subscriptions), size=size)
        self.wake()

    def go_back(self, last_seq: int) -> list[PersistedEvent]:
        """The store has no events above ``last_seq`` any more; returns copies of those still in memory.

        Readers that are beyond it wait until it has; no event reaches them twice.
        """
        kept = self.recent.go_back(last_seq)
        self.times_back += 1
        self.wake()
        for subscription in self._subscriptions:
            subscription._progress.unpark_all()
        return kept

    def close(self) -> None:
        """No more events will come."""
        self.is_over = True
        self.wake()

    def wake(self) -> None:
        """Have all sleeping readers look again."""
        self._sleeping.unpark_all()

    async def wait(self) -> None:
        """Sleep until something has happened. A checkpoint."""
        await self._sleeping.park()

    @ki_protected
    @asynccontextmanager
    async def subscribe(
        self, query: EventQuery, after: int, *, is_from_first: bool
    ) -> AsyncIterator[Subscription]:
        """See :meth:`EventLog.subscribe`."""
        await trio.lowlevel.checkpoint()
        if not self._subscriptions:
            self.recent.start_anew()
        source = _FeedSource(self, PageReader(self.store, query, is_from_first=is_from_first))
        subscription = Subscription._create(source, after, query.limit)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            subscription._close()
            self._subscriptions.remove(subscription)
            if not self._subscriptions:
                self.recent.start_anew()


class _FeedSource:
    """Pages from memory, or from the store if the reader lags behind."""

    def __init__(self, feed: Feed, reader: PageReader) -> None:
        self._feed = feed
        self._reader = reader
        self._has_raised = False

    @property
    def known_end(self) -> int:
        return self._feed.recent.durable_seq

    async def find_end(self) -> int:
        await trio.lowlevel.checkpoint()
        return self._feed.recent.durable_seq

    async def read(self, after: int, limit: int) -> Page | None:
        await trio.lowlevel.checkpoint()
        feed = self._feed
        while True:
            # There is no checkpoint between looking and falling asleep, so that no wake-up is missed.
            while (durable := feed.recent.durable_seq) <= after:
                if feed.is_over:
                    return None
                await feed.wait()
            recent = feed.recent.read(after, self._reader.query, min(limit, _RECENT_PAGE_SIZE))
            if recent is not None:
                return Page(*recent)
            times_back = feed.times_back
            page, last_seq = await self._read_from_store(after, limit, durable)
            if feed.times_back != times_back:
                continue
            if page.through > after:
                return page
            # The store went back, and the log does not know yet: its next append will find out.
            if feed.is_over:
                if self._has_raised:
                    return None
                self._has_raised = True
                raise StoreWentBack(last_seq, durable)
            if feed.recent.durable_seq == durable:
                await feed.wait()

    async def _read_from_store(self, after: int, limit: int, durable: int) -> tuple[Page, int]:
        """Read a page, and the last seq of the store.

        ``durable`` was taken before the store is asked, so that the store shows all events up to it. No event
        beyond it is handed out, since it is not known to be durable.
        """
        reader = self._reader
        found, is_complete = await reader.read(after, limit)
        last_found = found[-1].seq if found else after
        if not is_complete and last_found <= durable:
            await reader.check_cursor(after, found, last_found)
            return Page(found, last_found, await reader.find_gaps(after, found, last_found)), durable
        found = [event for event in found if event.seq <= durable]
        await reader.check_cursor(after, found, durable)
        gaps = await reader.find_gaps(after, found, durable)
        last_seq = durable
        if reader.pruned_seq < durable and not (reader.is_unfiltered and last_found >= durable):
            # Nothing shows that the store still has the last event.
            last_seq = await ask_last_seq(reader.store)
        if last_seq < durable:
            through = max(after, last_seq, found[-1].seq if found else 0)
            return Page(found, through, [gap for gap in gaps if gap.last <= through]), last_seq
        return Page(found, durable, gaps), last_seq
