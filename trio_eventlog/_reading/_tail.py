"""Following a store from outside the process of its log. Floor 3: Trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import trio

from trio_eventlog._answers import ask_changes, ask_last_seq
from trio_eventlog._declared import check_store
from trio_eventlog._ki import ki_protected
from trio_eventlog._model._errors import StaleCursor, StoreError
from trio_eventlog._model._query import EventQuery
from trio_eventlog._numbers import check_number
from trio_eventlog._reading._epochs import check_cursor
from trio_eventlog._reading._pages import Page, PageReader, checked_start
from trio_eventlog._reading._subscription import Subscription
from trio_eventlog.abc import EventStore, WatchableStore


@ki_protected
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
    ``poll_interval`` seconds, and for events if there are new ones; sooner if the store can tell that there
    may be some (:class:`~trio_eventlog.abc.WatchableStore`). That only speeds things up: all promises rest
    on asking. In the process of the log itself, :meth:`EventLog.subscribe` is cheaper.

    Entering is a checkpoint, and asks the store for its last seq. Leaving, in whatever way, frees what the
    store needed for its hints.

    Args:
      store: where the events are.
      query: which events; by default all. Its ``limit`` ends the iteration after that many events.
      after_seq: the cursor to resume from; 0 to start with the first event; by default, events that are
        stored after entering. Replaces the ``after_seq`` of the query.
      poll_interval: seconds, finite and more than 0.

    Raises:
      StaleCursor: ``after_seq`` is beyond the last seq of the store, or from before it was restored. Also
        raised by the iteration if the store is replaced by an older one, or by a replica that lags.
      StoreError: the store could not be asked for its last seq.
      TypeError, ValueError: an argument is not as described.
    """
    wanted, after = checked_start(query, after_seq)
    poll_interval = check_number("poll_interval", poll_interval, above=True, unit="seconds")
    check_store(store)
    async with AsyncExitStack() as stack:
        # First of all, so that no change after this is missed.
        wait_for_hint: Callable[[], Awaitable[object]] | None = None
        if isinstance(store, WatchableStore):
            with suppress(StoreError):
                wait_for_hint = await stack.enter_async_context(ask_changes(store))
        last_seq = await ask_last_seq(store)
        is_from_first = after == 0
        if after is None:
            after = last_seq
        elif after > last_seq:
            raise StaleCursor(after, last_seq)
        elif after < last_seq:
            await check_cursor(store, after, last_seq)
        reader = PageReader(store, wanted, is_from_first=is_from_first)
        source = _TailSource(reader, last_seq, wait_for_hint, poll_interval)
        subscription = Subscription._create(source, after, wanted.limit)
        try:
            yield subscription
        finally:
            subscription._close()


class _TailSource:
    """Pages of a store that another process writes."""

    def __init__(
        self,
        reader: PageReader,
        last_seq: int,
        wait_for_hint: Callable[[], Awaitable[object]] | None,
        poll_interval: float,
    ) -> None:
        self._reader = reader
        self._wait_for_hint = wait_for_hint
        self._poll_interval = poll_interval
        self.known_end = last_seq

    async def find_end(self) -> int:
        self.known_end = await ask_last_seq(self._reader.store)
        return self.known_end

    async def read(self, after: int, limit: int) -> Page | None:
        # The store is asked for its last seq before it is asked for events: all events up to it are then
        # found.
        is_known_for_long = self.known_end > after
        while self.known_end <= after and await self.find_end() <= after:
            if self.known_end < after:
                raise StaleCursor(after, self.known_end)
            await self._wait()
        end = self.known_end
        found, is_complete = await self._reader.read(after, limit)
        last_found = found[-1].seq if found else after
        if not is_complete:
            end = last_found
        elif is_known_for_long and not (self._reader.is_unfiltered and last_found >= end):
            # Nothing shows that the store still has the last event.
            end = min(end, await self.find_end())
            if end < after:
                raise StaleCursor(after, end)
        through = max(end, last_found)
        await self._reader.check_cursor(after, found, through)
        return Page(found, through, await self._reader.find_gaps(after, found, through))

    async def _wait(self) -> None:
        with trio.move_on_after(self._poll_interval):
            if self._wait_for_hint is not None:
                # If there is no hint, the clock decides; and a store that is gone says so when it is asked.
                with suppress(StoreError):
                    await self._wait_for_hint()
                    return
            await trio.sleep_forever()
