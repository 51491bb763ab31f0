"""Reading several logs as one. Floor 3: Trio."""

from __future__ import annotations

import heapq
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import trio

from trio_eventlog._answers import shown
from trio_eventlog._model._errors import EventsPruned, StaleCursor
from trio_eventlog._model._events import MAX_U64, PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._numbers import check_integer
from trio_eventlog._reading._pages import checked_start
from trio_eventlog._reading._stream import EventStream, PageIterator, iter_events
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.abc import EventStore

if TYPE_CHECKING:
    from typing import Self


@attrs.frozen
class LogEvent:
    """An event and the log that it is in."""

    log: str
    """Name of the log."""

    event: PersistedEvent
    """The event."""


class _Log:
    """One of the logs that are merged."""

    def __init__(self, name: str, stream: EventStream, cursor: int | None) -> None:
        self.name = name
        self.cursor = cursor
        self._stream = stream
        self._pages = stream.pages()
        self._page: Iterator[PersistedEvent] = iter(())
        self.next: PersistedEvent | None = None

    async def read(self) -> None:
        """Read the next page, of which no event is known. A checkpoint.

        Raises:
          StopAsyncIteration: there are no more events.
        """
        try:
            self._page = iter(await anext(self._pages))
        except (EventsPruned, StaleCursor) as exc:
            exc.add_note(f"in the log {self.name!r}")
            # All events of this log up to here were handed out.
            self.cursor = self._stream.cursor
            raise
        self.next = next(self._page)

    def take(self) -> LogEvent:
        """Hand out the next event."""
        event, self.next = self.next, next(self._page, None)
        assert event is not None, "a log without a next event is not among those to take from"
        self.cursor = event.seq
        return LogEvent(self.name, event)


class MergedEvents(metaclass=NoPublicConstructor):
    """Events of several logs, one after another; what :func:`merge_events` returns.

    An async iterator, for one task at a time. Every step is a checkpoint. If a step is cancelled or raises an
    error, no event is skipped: go on with another ``async for`` over the same object.

    To read many events, iterate over :meth:`pages`, with one checkpoint for each page.
    """

    _made_by = "merge_events(stores)"

    def __init__(
        self, stores: Mapping[str, EventStore], query: EventQuery, cursors: Mapping[str, int], page_size: int
    ) -> None:
        self._left = math.inf if query.limit is None else query.limit
        self._page_size = page_size
        self._other_cursors = {name: seq for name, seq in cursors.items() if name not in stores}
        self._logs = [
            _Log(
                name,
                iter_events(store, attrs.evolve(query, after_seq=cursors.get(name, 0)), page_size=page_size),
                cursors.get(name),
            )
            for name, store in stores.items()
        ]
        # The logs whose next event is not known, and those whose is: a heap, the earliest on top. No two
        # entries have the same time and name.
        self._unknown = list(self._logs)
        self._known: list[tuple[int, str, _Log]] = []
        self._is_busy = False

    def __repr__(self) -> str:
        return f"<MergedEvents of {len(self._logs)} logs>"

    @property
    def cursors(self) -> dict[str, int]:
        """The seq to resume from for each log, as a new dict, for the next :func:`merge_events`.

        The event, or page, of the current step of ``async for`` counts as handed out. Cursors of logs that
        are not among these are passed on.
        """
        found = {log.name: log.cursor for log in self._logs if log.cursor is not None}
        return self._other_cursors | found

    def __aiter__(self) -> Self:
        """The iterator itself."""
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> LogEvent:
        """The next event. A checkpoint; can be cancelled.

        Raises:
          StopAsyncIteration: there are no more events.
          EventsPruned: events of a log behind its cursor were pruned before they were read; a note says of
            which log. Raised once for each range of seqs; the cursor of the log is past it then.
          StaleCursor: a cursor is beyond the last seq of its log, which a note names, or is from before the
            log was restored.
          StoreError: a store failed and may answer later; or :exc:`StoreUnusable`, it will not.
          trio.BusyResourceError: another task is waiting for the next event.
        """
        await self._fill()
        return self._take()

    def pages(self) -> AsyncIterator[list[LogEvent]]:
        """Iterate over the events in lists.

        A list has one event or more, up to ``page_size``: those that follow without asking a store. Every
        step is a checkpoint, and raises the errors of :meth:`__anext__`. Both kinds of iteration share the
        cursors, so that one goes on where the other has stopped.
        """
        return PageIterator(self._take_page)

    async def _take_page(self) -> list[LogEvent]:
        await self._fill()
        page: list[LogEvent] = []
        while self._known and not self._unknown and self._left and len(page) < self._page_size:
            page.append(self._take())
        return page

    def _take(self) -> LogEvent:
        _, _, log = heapq.heappop(self._known)
        item = log.take()
        self._sort_in(log)
        self._left -= 1
        return item

    def _sort_in(self, log: _Log) -> None:
        if log.next is None:
            self._unknown.append(log)
        else:
            heapq.heappush(self._known, (log.next.timestamp_ms, log.name, log))

    async def _fill(self) -> None:
        """Wait until the next event of every log is known."""
        if self._is_busy:
            raise trio.BusyResourceError("another task waits for the next of these events")
        self._is_busy = True
        try:
            if self._unknown and self._left:
                # A cancelled step asks no store.
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
            while self._unknown and self._left:
                with suppress(StopAsyncIteration):
                    await self._unknown[-1].read()
                log = self._unknown.pop()
                if log.next is not None:
                    self._sort_in(log)
        finally:
            self._is_busy = False
        if not (self._known and self._left):
            raise StopAsyncIteration


def merge_events(
    stores: Mapping[str, EventStore],
    query: EventQuery | None = None,
    *,
    cursors: Mapping[str, int] | None = None,
    page_size: int = 256,
) -> MergedEvents:
    """Read several logs as one, by time, with one page of each in memory.

    ::

        async with SqliteStore.open_readers("workers.db") as stores:
            async for item in merge_events(stores):
                print(item.log, item.event)

    The next event is the earliest among the next events of all logs, by timestamp, then by the name of the
    log; within a log the order is always that of seq. So the whole is ordered by (``timestamp_ms``, log,
    seq), except where the timestamps of a log go back because its wall clock was set back: the order of the
    log then wins. The same cursors give the same order again.

    Args:
      stores: the logs, by name.
      query: which events; by default all. Its ``limit`` is for all logs together.
      cursors: for each log the seq after which to start, as :attr:`MergedEvents.cursors` has them; a log
        without one starts at its first event.
      page_size: events to ask each store for at a time, 1 or more.

    Raises:
      TypeError, ValueError: an argument is not as described.
    """
    query, after = checked_start(query, None)
    if after is not None:
        raise ValueError("query: has an after_seq, but every log has seqs of its own; use cursors")
    if not isinstance(stores, Mapping):
        raise TypeError(f"stores: expected a mapping from names to stores, got {type(stores).__name__}")
    for name in stores:
        if not isinstance(name, str):
            raise TypeError(f"stores: expected names as str, got {type(name).__name__}")
    cursors = {} if cursors is None else cursors
    if not isinstance(cursors, Mapping):
        raise TypeError(f"cursors: expected a mapping from names to seqs, got {type(cursors).__name__}")
    for name, cursor in cursors.items():
        if check_integer(f"cursors[{name!r}]", cursor, 0) > MAX_U64:
            raise ValueError(f"cursors[{name!r}]: expected at most 2**64 - 1, got {shown(cursor)}")
    check_integer("page_size", page_size, 1, unit="events")
    return MergedEvents._create(stores, query, cursors, page_size)
