"""Reading on: what is stored, page by page, and then what comes. Floor 3: Trio.

Theory of operation
===================

Nobody is sent anything. Every reader has a cursor, the seq up to which it has handed events out, and asks for
what lies behind it. So a slow reader costs nothing but its own next page, and there is no queue to overflow.

What is left is to know when to ask. A reader that follows looks whether there is more, and if not, sleeps
until somebody says that there may be. Such a hint carries no news: the reader looks again, and may find
nothing. Hints may therefore come twice, late or for no reason; and they may be dropped, as long as there is
another one after them, or the clock makes the reader look.

Within the process of the log no hint is lost, since looking and falling asleep happen without a checkpoint
in between. There, the highest durable seq says whether there is more, and the newest events are at hand
without asking the store (:class:`RecentEvents`). From outside, the store has to be asked, every so often,
and sooner if it has hints to give.

A cursor moves past what is not there only if it is known why. Behind it events can go in two ways. They are
pruned: that is asked for after a page that has gaps, and each gap that pruning can have made is told in its
place. Or the store goes back to an older state, and its end lies below what it was: then a short page is not
the end, and a cursor beyond the end points nowhere.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from trio_eventlog._declared import check_store
from trio_eventlog._engine._recent_events import RecentEvents
from trio_eventlog._model._errors import CodecError, EventsPruned, StaleCursor, StoreError, StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._sealed import size_of
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.abc import ChangeWatch, EventStore, PagedStore, PrunedStore, WatchableStore

if TYPE_CHECKING:
    from typing import Self

_PAGE: Final = 256
"""Events of a page from the store. Few, since there may be many readers, each with a page of its own."""

_PAGE_BYTES: Final = 4 * 1024 * 1024
"""Bytes after which a page from the store is large enough."""

_FIRST_GUESS: Final = 32
"""Events of the first page from a store that cannot read by bytes."""

_GROWTH: Final = 8
"""How many times more events than before are asked for at most, where those before were small."""

_LOOKED_AT_TOGETHER: Final = 64
"""Recent events that are looked at without a checkpoint."""

_HANDED_OUT_TOGETHER: Final = 16
"""Events that are handed out without letting other tasks run."""

_RECENT_EVENTS: Final = 4096
_RECENT_BYTES: Final = 8 * 1024 * 1024


@attrs.frozen
class _Gap:
    first: int
    last: int


@attrs.frozen
class _Page:
    events: list[PersistedEvent]
    """What matches, ascending."""

    through: int
    """There is nothing else up to here. At least the cursor."""

    gaps: list[_Gap] = attrs.Factory(list)
    """Where events were pruned, ascending."""


class _Source(Protocol):
    """Where pages come from."""

    @property
    def known_end(self) -> int:
        """The highest seq that is known to be stored."""
        ...

    async def find_end(self) -> int:
        """The highest seq that is stored now. A checkpoint."""
        ...

    async def read(self, after: int, most: int) -> _Page | None:
        """What comes next, an empty page included; None at the end. A checkpoint.

        Cancelled or failed, it has done nothing.
        """
        ...


class EventStream(metaclass=NoPublicConstructor):
    """Events one after another, ascending by seq; what :func:`iter_events` returns.

    An async iterator, for one task at a time. Each step can be cancelled, and then skips nothing: go on with
    another ``async for`` over the same object, also after an error. Other tasks get to run after 16 steps at
    the latest, and whenever the store is asked.
    """

    _made_by = "iter_events(store)"

    def __init__(self, source: _Source, cursor: int, limit: int | None, page_size: int) -> None:
        self._source = source
        self._cursor = self._passed = cursor
        self._left = math.inf if limit is None else limit
        self._page_size = page_size
        self._ready: list[PersistedEvent] = []  # the next last
        self._gaps: list[_Gap] = []  # likewise
        self._through = cursor
        self._steps = 0  # since other tasks could run
        self._is_over = False
        self._is_closed = False
        self._is_busy = False
        self._progress: trio.Event | None = None  # what somebody waits for who wants to know how far it is
        self._scope: trio.CancelScope | None = None  # that of the task that waits for a page

    def __repr__(self) -> str:
        return f"<{type(self).__name__} after seq {self._cursor}>"

    @property
    def cursor(self) -> int:
        """The seq to resume from, as ``after_seq``. All that matches up to it was handed out, or was told as
        pruned.

        The event of the running step of ``async for`` counts as handed out.
        """
        return self._cursor

    @property
    def at_hand(self) -> int:
        """How many more events come without asking the store, waiting, or an :exc:`EventsPruned`."""
        count = len(self._ready)
        if self._gaps:
            count = sum(event.seq < self._gaps[-1].first for event in self._ready)
        return int(min(count, self._left))

    def __aiter__(self) -> Self:
        """The stream itself."""
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> PersistedEvent:
        """The next event.

        A point of cancellation always, and a full checkpoint every so often.

        Raises:
          StopAsyncIteration: there is no other.
          EventsPruned: events behind the cursor were pruned before they were read. Raised once for each range
            of seqs; the cursor is past it then. What was pruned before a reader began at the first event is
            no matter.
          StaleCursor: the cursor lies beyond the last seq of the store, which was replaced or went back to
            an older state. Goes on once the store has got further.
          StoreError: the store failed and may answer later; so may :exc:`StoreUnusable`, which will not.
            Nothing is skipped. In a subscription also :exc:`StoreWentBack`, once, if the log is closed and
            the store has lost events that were not read.
          trio.BusyResourceError: another task waits for the next event of this stream.
          trio.ClosedResourceError: the block that the stream belongs to was left.
        """
        if self._is_busy:
            msg = "another task waits for the next event of this stream"
            raise trio.BusyResourceError(msg)
        self._require_open()
        self._pass(self._cursor)
        if (self._ready or self._gaps) and self._steps < _HANDED_OUT_TOGETHER and self._left:
            self._steps += 1
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._fetch()
            self._steps = 1
            if not ((self._ready or self._gaps) and self._left):
                raise StopAsyncIteration
        # Without a checkpoint from here on: what is taken is handed out.
        if self._gaps and not (self._ready and self._ready[-1].seq < self._gaps[-1].first):
            gap = self._gaps.pop()
            self._cursor = gap.last
            raise EventsPruned(gap.first, gap.last)
        event = self._ready.pop()
        self._cursor = event.seq
        self._left -= 1
        return event

    async def _fetch(self) -> None:
        """Let others run, and wait for events or the end."""
        self._is_busy = True
        try:
            with trio.CancelScope() as self._scope:
                await trio.lowlevel.checkpoint()
                while not (self._ready or self._gaps):
                    self._cursor = max(self._cursor, self._through)
                    self._pass(self._cursor)
                    page = None
                    if not self._is_over and self._left:
                        page = await self._source.read(self._cursor, int(min(self._page_size, self._left)))
                    if page is None:
                        self._is_over = True
                        self._tell_progress()
                        break
                    self._ready, self._through = page.events[::-1], page.through
                    self._gaps = page.gaps[::-1]
        finally:
            self._is_busy = False
            self._scope = None
        self._require_open()

    def _pass(self, seq: int) -> None:
        """Whoever iterates has come back: all up to ``seq`` is dealt with."""
        self._passed = seq
        if self._progress is not None:
            self._tell_progress()

    def _tell_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    def _require_open(self) -> None:
        if self._is_closed:
            msg = "the block that this stream of events belongs to was left"
            raise trio.ClosedResourceError(msg)

    def _close(self) -> None:
        self._is_closed = True
        self._ready.clear()
        self._gaps.clear()
        self._tell_progress()
        if self._scope is not None:
            self._scope.cancel(reason="the block of the subscription was left")


class Subscription(EventStream):
    """Events that are stored, and then those to come: see :meth:`EventLog.subscribe` and :func:`tail`.

    An :class:`EventStream` that goes on: at its end it waits for more. How it differs from a queue:

    ====================================== =============================================================
    a slow reader                          holds up nobody; it reads from the store what it missed
    an event                               comes once, in order, without a gap, and only once it is durable
    events that were pruned meanwhile      are told: :exc:`EventsPruned`
    a store that goes back                 what it is given again comes once all the same
    after an interruption                  resume from :attr:`cursor`, also in another process
    ====================================== =============================================================
    """

    _made_by = "async with log.subscribe() as events"

    @property
    def is_caught_up(self) -> bool:
        """Whether all that is known to be stored was handed out, or does not match."""
        is_at_end = max(self._cursor, self._through) >= self._source.known_end
        return is_at_end and not (self._ready or self._gaps)

    async def wait_caught_up(self) -> None:
        """Wait until all that is stored now was dealt with: handed out, and the task that iterates came back
        for more. What the store loses meanwhile is not waited for.

        For another task than that one, which has to go on. A checkpoint. Returns also once the iteration has
        ended by itself.

        Raises:
          trio.ClosedResourceError: the block of the subscription was left before.
          StoreError: the store of :func:`tail` could not say what it holds.
        """
        self._require_open()
        end = await self._source.find_end()
        while self._passed < min(end, self._source.known_end):
            self._require_open()
            if self._is_over:
                return
            if self._progress is None:
                self._progress = trio.Event()
            await self._progress.wait()
        self._require_open()


# --- following a log from within its process ------------------------------------------------------


class Feed:
    """What a log tells those who follow it.

    Args:
      store: the store of the log.
      durable_seq: the highest seq that is durable at first.
    """

    def __init__(self, store: EventStore, durable_seq: int) -> None:
        self.store = store
        self.recent = RecentEvents(durable_seq, most_events=_RECENT_EVENTS, most_bytes=_RECENT_BYTES)
        self._subscriptions: set[Subscription] = set()
        self._sleeping = trio.lowlevel.ParkingLot()
        self.times_back = 0
        """How often the store went back to an older state."""
        self.is_over = False
        """Whether nothing will become durable any more."""

    def publish(
        self, events: tuple[PersistedEvent, ...], *, is_complete: bool, size: int | None = None
    ) -> None:
        """The store has taken ``events``, of which there is at least one.

        Args:
          events: ascending, above all before.
          is_complete: whether it cannot have taken others since the last call.
          size: how many bytes they have, if that is known.
        """
        self.recent.add(events, is_complete=is_complete and bool(self._subscriptions), size=size)
        self.wake()

    def go_back(self, last_seq: int) -> list[PersistedEvent]:
        """The store has nothing above ``last_seq`` any more.

        Who has read further waits until it has; nobody gets an event twice.

        Returns:
          Copies of those events above it that are at hand, ascending by seq.
        """
        at_hand = self.recent.go_back(last_seq)
        self.times_back += 1
        self.wake()
        for subscription in self._subscriptions:
            subscription._tell_progress()
        return at_hand

    def close(self) -> None:
        """Nothing more comes."""
        self.is_over = True
        self.wake()

    def wake(self) -> None:
        """Let everybody look who sleeps."""
        self._sleeping.unpark_all()

    async def wait(self) -> None:
        """Sleep until something has happened. A checkpoint."""
        await self._sleeping.park()

    @asynccontextmanager
    async def subscribe(
        self, query: EventQuery, after: int, *, is_from_first: bool
    ) -> AsyncIterator[Subscription]:
        """See :meth:`EventLog.subscribe`."""
        await trio.lowlevel.checkpoint()
        if not self._subscriptions:
            self.recent.start_anew()
        source = _LogSource(self, _Reading(self.store, query, is_from_first=is_from_first))
        subscription = Subscription._create(source, after, query.limit, _PAGE)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            subscription._close()
            self._subscriptions.remove(subscription)
            if not self._subscriptions:
                self.recent.start_anew()


class _LogSource:
    def __init__(self, feed: Feed, reading: _Reading) -> None:
        self._feed = feed
        self._reading = reading
        self._has_told = False

    @property
    def known_end(self) -> int:
        return self._feed.recent.durable_seq

    async def find_end(self) -> int:
        await trio.lowlevel.checkpoint()
        return self._feed.recent.durable_seq

    async def read(self, after: int, most: int) -> _Page | None:
        await trio.lowlevel.checkpoint()
        feed = self._feed
        while True:
            # Between looking and falling asleep there is no checkpoint, so that no wake-up is missed.
            while (durable := feed.recent.durable_seq) <= after:
                if feed.is_over:
                    return None
                await feed.wait()
            recent = feed.recent.read(after, self._reading.query, min(most, _LOOKED_AT_TOGETHER))
            if recent is not None:
                return _Page(*recent)
            times_back = feed.times_back
            page, last_seq = await self._read_from_store(after, most, durable)
            if feed.times_back != times_back:
                continue
            if page.through > after:
                return page
            # The store went back, and the log has not met that yet: its next append will.
            if feed.is_over:
                if self._has_told:
                    return None
                self._has_told = True
                raise StoreWentBack(last_seq, durable)
            if feed.recent.durable_seq == durable:
                await feed.wait()

    async def _read_from_store(self, after: int, most: int, durable: int) -> tuple[_Page, int]:
        """A page, and the last seq of the store.

        ``durable`` was taken before the store is asked: what it has taken by now it will show, and no more is
        handed out, since it is not known to be durable.
        """
        reading = self._reading
        found, is_complete = await reading.query_store(after, most)
        last_found = found[-1].seq if found else after
        if not is_complete and last_found <= durable:
            return _Page(found, last_found, await reading.find_gaps(after, found, last_found)), durable
        found = [event for event in found if event.seq <= durable]
        gaps = await reading.find_gaps(after, found, durable)
        last_seq = durable
        if reading.pruned_seq < durable and not (reading.is_unfiltered and last_found >= durable):
            # Nothing shows that the store still has the last.
            last_seq = await reading.store.last_seq()
        if last_seq < durable:
            through = max(after, last_seq, found[-1].seq if found else 0)
            return _Page(found, through, [gap for gap in gaps if gap.last <= through]), last_seq
        return _Page(found, durable, gaps), last_seq


# --- following a store from outside ---------------------------------------------------------------


@asynccontextmanager
async def tail(
    store: EventStore,
    query: EventQuery | None = None,
    *,
    after_seq: int | None = None,
    poll_interval: float = 0.5,
) -> AsyncIterator[Subscription]:
    """Follow a store that another process writes, for the length of an ``async with`` block.

    ::

        async with SqliteStore.open("events.db", read_only=True) as store, tail(store) as events:
            async for event in events:
                print(event)

    Delivers every stored event that matches, in order and once. The store is asked for its last seq every
    ``poll_interval`` seconds, and for events if there are new ones; sooner if it has a way to tell that there
    may be (:meth:`EventStore <trio_eventlog.abc.EventStore>` says which). That only hastens things: all that
    is promised rests on asking. In the process of the log itself, :meth:`EventLog.subscribe` is cheaper.

    Entering is a checkpoint, and asks the store for its last seq. Leaving, by whatever way, frees what the
    store needed for its hints.

    Args:
      store: where the events are.
      query: which; by default all. Its ``limit`` ends the iteration after so many events.
      after_seq: the cursor to resume from; 0 for the first event on; by default what is stored after
        entering. Instead of the ``after_seq`` of the query.
      poll_interval: seconds, more than 0.

    Raises:
      StaleCursor: ``after_seq`` is beyond the last seq of the store. Also raised by the iteration, if the
        store is replaced by an older one, or by a replica that lags.
      StoreError: the store could not say its last seq.
      TypeError, ValueError: an argument is not as described.
    """
    wanted, after = checked_start(query, after_seq)
    # bool is an int to Python, but True is no time.
    if isinstance(poll_interval, bool) or not isinstance(poll_interval, int | float):
        msg = f"poll_interval: expected seconds, got {type(poll_interval).__name__}"
        raise TypeError(msg)
    check_store(store)
    if not 0 < poll_interval < math.inf:
        msg = f"poll_interval: expected more than 0 seconds, and finite, got {poll_interval}"
        raise ValueError(msg)
    async with AsyncExitStack() as stack:
        # First: what changes after this is told.
        watch: ChangeWatch | None = None
        if isinstance(store, WatchableStore):
            with suppress(StoreError):
                watch = await stack.enter_async_context(store.watch_changes())
        last_seq = await store.last_seq()
        is_from_first = after == 0
        if after is None:
            after = last_seq
        elif after > last_seq:
            raise StaleCursor(after, last_seq)
        reading = _Reading(store, wanted, is_from_first=is_from_first)
        source = _TailSource(reading, last_seq, watch, poll_interval)
        subscription = Subscription._create(source, after, wanted.limit, _PAGE)
        try:
            yield subscription
        finally:
            subscription._close()


class _TailSource:
    def __init__(
        self, reading: _Reading, last_seq: int, watch: ChangeWatch | None, poll_interval: float
    ) -> None:
        self._reading = reading
        self._watch = watch
        self._poll_interval = poll_interval
        self.known_end = last_seq

    async def find_end(self) -> int:
        self.known_end = await self._reading.store.last_seq()
        return self.known_end

    async def read(self, after: int, most: int) -> _Page | None:
        # The last seq is asked for before the events: all up to it are then found.
        is_known_for_long = self.known_end > after
        while self.known_end <= after and await self.find_end() <= after:
            if self.known_end < after:
                raise StaleCursor(after, self.known_end)
            await self._wait()
        end = self.known_end
        found, is_complete = await self._reading.query_store(after, most)
        last_found = found[-1].seq if found else after
        if not is_complete:
            end = last_found
        elif is_known_for_long and not (self._reading.is_unfiltered and last_found >= end):
            # Nothing shows that the store still has the last.
            end = min(end, await self.find_end())
            if end < after:
                raise StaleCursor(after, end)
        through = max(end, last_found)
        return _Page(found, through, await self._reading.find_gaps(after, found, through))

    async def _wait(self) -> None:
        with trio.move_on_after(self._poll_interval):
            if self._watch is not None:
                # Without its hint there is the clock; and a store that is gone will say so when it is asked.
                with suppress(StoreError):
                    await self._watch.wait()
                    return
            await trio.sleep_forever()


# --- reading what is there ------------------------------------------------------------------------


def iter_events(store: EventStore, query: EventQuery | None = None, *, page_size: int = 1000) -> EventStream:
    """All events that match, ascending by seq, with no more than a page of them in memory.

    ::

        async for event in iter_events(store, EventQuery(run_id="r-1")):
            print(event)

    What is stored while it reads is read, too, until it has come to the end. Nothing needs to be closed. A
    cursor beyond the last seq of the store raises :exc:`StaleCursor` from the first step.

    Args:
      store: where the events are.
      query: which; by default all. Its ``after_seq`` is where to begin, its ``limit`` ends the iteration.
      page_size: events to ask the store for at a time, 1 or more. It is asked for fewer if they are large:
        a page has about 4 MiB, or one event.

    Raises:
      TypeError, ValueError: an argument is not as described.
    """
    wanted, after = checked_start(query, None)
    if type(page_size) is not int:
        msg = f"page_size: expected a number of events, got {type(page_size).__name__}"
        raise TypeError(msg)
    if page_size < 1:
        msg = f"page_size: expected 1 event or more, got {page_size}"
        raise ValueError(msg)
    check_store(store)
    after = after or 0
    source = _PageSource(_Reading(store, wanted, is_from_first=after == 0))
    return EventStream._create(source, after, wanted.limit, page_size)


class _PageSource:
    known_end = 0

    def __init__(self, reading: _Reading) -> None:
        self._reading = reading
        self._is_at_end = False

    async def find_end(self) -> int:
        return await self._reading.store.last_seq()

    async def read(self, after: int, most: int) -> _Page | None:
        if self._is_at_end:
            await trio.lowlevel.checkpoint()
            return None
        found, is_complete = await self._reading.query_store(after, most)
        gaps = await self._reading.find_gaps(after, found, found[-1].seq if found else None)
        if not found and not gaps and after:
            last_seq = await self._reading.store.last_seq()
            if last_seq < after:
                raise StaleCursor(after, last_seq)
        self._is_at_end = is_complete
        return _Page(found, found[-1].seq if found else after, gaps)


# --- pages of a store -----------------------------------------------------------------------------


class _Reading:
    """What one reader asks a store for."""

    def __init__(self, store: EventStore, query: EventQuery, *, is_from_first: bool) -> None:
        self.store = store
        self.query = attrs.evolve(query, after_seq=None, limit=None)
        self.is_unfiltered = self.query == _EVERYTHING
        # To who begins at the first event that is there, those before it do not matter.
        self._is_from_first = is_from_first
        self._paged = store if isinstance(store, PagedStore) else None
        self._guess = _FIRST_GUESS  # events that are not too many, of a store that cannot read by bytes
        self._pruned = store if isinstance(store, PrunedStore) else None
        self.pruned_seq = 0
        """The highest seq that was pruned, as far as it was asked for."""

    async def query_store(  # noqa: ASYNC910 - the checkpoint is the store's
        self, after: int, most: int
    ) -> tuple[list[PersistedEvent], bool]:
        """The next events that match, ``most`` of them at most and few if they are large, and whether there
        are no others.
        """
        query = attrs.evolve(self.query, after_seq=after, limit=most)
        if self._paged is not None:
            page = await self._paged.query_page(query, max_bytes=_PAGE_BYTES)
            return page.events, page.is_complete and len(page.events) < most
        asked_for = min(most, self._guess)
        found = await self.store.query(attrs.evolve(query, limit=asked_for))
        if found:
            size = max(sum(map(_size_of, found)), 1)
            fitting = _PAGE_BYTES * len(found) // size
            self._guess = max(min(fitting, _GROWTH * self._guess), 1)
        return found, len(found) < asked_for

    async def find_gaps(  # noqa: ASYNC910 - its callers have asked the store for events
        self, after: int, found: list[PersistedEvent], through: int | None
    ) -> list[_Gap]:
        """Where behind ``after`` events were pruned.

        Args:
          after: the cursor.
          found: all that matches up to ``through``. It was asked for before, so that no pruning is missed.
          through: where to end; None for the highest seq that was pruned.
        """
        is_seamless = self.is_unfiltered and through is not None and through - after == len(found)
        if self._pruned is None or is_seamless:
            return []  # noqa: ASYNC910 - as above
        pruned: object = await self._pruned.pruned_seq()
        if type(pruned) is not int or pruned < 0:
            msg = f"pruned_seq of {self.store!r} must return a seq or 0, got {pruned!r:.100}"
            raise StoreError(msg)
        self.pruned_seq = pruned
        if self._is_from_first and not after:
            return []
        end = pruned if through is None else min(pruned, through)
        gaps: list[_Gap] = []
        for event in found:
            if after >= end:
                break
            if event.seq > after + 1:
                gaps.append(_Gap(after + 1, min(event.seq - 1, end)))
            after = event.seq
        if after < end:
            gaps.append(_Gap(after + 1, end))
        return gaps


_EVERYTHING: Final = EventQuery()


# --- arguments ------------------------------------------------------------------------------------


def checked_start(query: EventQuery | None, after_seq: int | None) -> tuple[EventQuery, int | None]:
    """The query, and the seq to begin behind if one is given.

    Raises:
      TypeError, ValueError: an argument is not as described.
    """
    if query is None:
        query = EventQuery()
    elif not isinstance(query, EventQuery):
        msg = f"query: expected an EventQuery, got {type(query).__name__}"
        raise TypeError(msg)
    if after_seq is None:
        return query, query.after_seq
    if query.after_seq is not None:
        msg = "after_seq: given twice, as an argument and in the query"
        raise ValueError(msg)
    # The query knows what a cursor can be.
    return attrs.evolve(query, after_seq=after_seq), after_seq


def _size_of(event: PersistedEvent) -> int:
    try:
        return size_of(event)
    except CodecError:
        # What a store should not have returned is for whoever reads it to find out.
        return 0
