"""Reading one log of a stream."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from contextlib import closing
from typing import Final

import attrs
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable, StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._sealed import size_of
from trio_eventlog.abc import EventPage
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores.jetstream._api import MessagePage, Pull, StoredMessage, Stream, read_page
from trio_eventlog.stores.jetstream._connection import ANSWER_TIMEOUT
from trio_eventlog.stores.jetstream._head import Head, decode_head
from trio_eventlog.stores.jetstream._messages import event_of
from trio_eventlog.stores.jetstream._subjects import Subjects, seq_of, tells_all

_MAX_PAGE: Final = 10_000

_FIRST_PAGE: Final = 500
"""Where not every message that is read is a wanted one."""

_MIN_PAGE: Final = 16

_NEAR: Final = 32
"""Events that are read through, rather than looking closer."""

_MAX_WALK: Final = 2_000
"""Messages that are asked for one by one, rather than a page of them."""

_MAX_PAGES: Final = 2
"""Pages that are asked for one by one, rather than having a server go on."""

_MAX_POINTS: Final = 512

_MAX_SURPLUS: Final = 1024 * 1024
"""Bytes of events that may be held in addition to what was asked for, so that the rest of the log is not read
through again for each of them."""

_LAG_PAUSE: Final = 0.01
"""Seconds between two looks at a replica that is behind."""

_STALE_TIMEOUT: Final = 20.0
"""Seconds. A leader that was cut off from the other replicas goes on as if it was one for up to 15."""


class Reader:
    """Reads a log: whole batches, and never fewer than it has seen.

    Unless the store went back to an earlier state. An appender finds that out when it writes, and says so
    with :meth:`start_again`; without one, the next call that reads raises an error.
    """

    def __init__(self, stream: Stream, subjects: Subjects, *, has_appender: bool) -> None:
        self.stream: Final = stream
        self.subjects: Final = subjects
        self._has_appender = has_appender
        self._seen: Head | None = None
        self._starts = 0
        self._behind_since: float | None = None
        # Seqs with the positions at which they lie, ascending: where a cursor stands is found from there.
        self._points: list[tuple[int, int]] = []

    def saw(self, head: Head) -> None:
        """The log has this head: from now on all that is read is at least as new."""
        self._behind_since = None
        if self._seen is None or head.position > self._seen.position:
            self._seen = head

    def start_again(self, head: Head | None) -> None:
        """The store went back, and the log has this head now."""
        self._seen = head
        self._starts += 1
        self._behind_since = None
        self._points.clear()

    async def last_head(self) -> Head | None:
        """The log's head as the stream's leader has it, whatever was seen before."""
        found = await self.stream.last(self.subjects.head)
        return None if found is None else decode_head(found.data, found.position)

    async def head(self) -> Head | None:
        """The log's head, None if it has none yet.

        Raises:
          StoreError: the server that answers has fallen behind what was seen before.
          StoreWentBack: the store has, and there is no appender here to say so; once.
          StoreUnusable: there is another log of this name now.
        """
        deadline = trio.current_time() + ANSWER_TIMEOUT
        while True:
            starts, seen_before = self._starts, self._seen
            head = await self.last_head()
            if starts != self._starts:
                continue  # what was asked for before the store went back may be of that time
            seen = self._seen
            if (
                seen is not seen_before
                and seen is not None
                and (head is None or head.position < seen.position)
            ):
                continue  # another task has asked later, and was answered first
            if seen is None:
                if head is not None:
                    self.saw(head)
                return head
            if head is not None and head.position >= seen.position:
                if head.log_id != seen.log_id:
                    raise StoreUnusable(f"{self.stream}: {another_log(self.subjects.log)}")
                if head.last_seq >= seen.last_seq:
                    self.saw(head)
                    return head
            if not self._has_appender and await self._is_authoritative(head):
                if self._seen is not seen:
                    continue  # another task has seen something else meanwhile
                self.start_again(head)
                raise StoreWentBack(0 if head is None else head.last_seq, seen.last_seq)
            if trio.current_time() >= deadline:
                raise StoreError(f"{self.stream}: the server that answers has fallen behind")
            await trio.sleep(_LAG_PAUSE)

    async def _is_authoritative(self, head: Head | None) -> bool:
        """Whether an old head is all that there is, and not what a server knows that was cut off."""
        if head is not None and self._seen is not None and head.position >= self._seen.position:
            # Its appender has gone on from there.
            return True
        now = trio.current_time()
        if self._behind_since is None:
            self._behind_since = now
            info = await self.stream.info()
            # Where there is one copy, no other server has a newer one.
            return info is not None and info["config"]["num_replicas"] == 1
        return now - self._behind_since >= _STALE_TIMEOUT

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """See :meth:`trio_eventlog.abc.EventStore.query`."""
        return (await self.query_page(query, math.inf)).events

    async def query_page(self, query: EventQuery, max_bytes: float) -> EventPage:
        """See :meth:`trio_eventlog.abc.PagedStore.query_page`."""
        if query.limit == 0:
            return EventPage([], is_complete=True)
        head = await self.head()
        after = query.after_seq or 0
        if head is None or after >= head.last_seq:
            return EventPage([], is_complete=True)
        in_order = after >= head.mixed_seq
        start = await self._start(after, head) if in_order else 1
        exact = self.subjects.filters(query)
        # What is left of a log, if it is short, is sooner had whole.
        filters = [self.subjects.all_events] if head.position - start <= _MAX_WALK else exact
        found: list[PersistedEvent] = []
        # Up to here nothing is missing.
        through = math.inf
        for subject in filters:
            is_exact = subject in exact and tells_all(query)
            with closing(Scan(self, subject, start, head)) as scan:
                if in_order:
                    page = await self._matching(query, scan, max_bytes, is_exact=is_exact)
                else:
                    page = await self._lowest(query, scan, max_bytes)
            found += page.events
            if not page.is_complete:
                through = min(through, page.events[-1].seq)
        if len(filters) > 1:
            found.sort(key=_seq)
        return _cut(found, query.limit, max_bytes, through)

    async def _matching(
        self, query: EventQuery, scan: Scan, max_bytes: float, *, is_exact: bool
    ) -> EventPage:
        """The first events of a scan that match, in the order of seqs; ``is_exact``: almost all do."""
        most = query.limit
        found: list[PersistedEvent] = []
        weight = read = read_bytes = 0
        size = _FIRST_PAGE
        time_slice = TimeSlice()
        while most is None or len(found) < most:
            if most is None:
                size = _MAX_PAGE
            elif is_exact:
                size = min(max(most - len(found), _MIN_PAGE), _MAX_PAGE)
            fitting = max_bytes * read // read_bytes if read_bytes else _MIN_PAGE
            messages = await scan.read(size if max_bytes == math.inf else int(max(min(size, fitting), 1)))
            if messages is None:
                break
            read += len(messages)
            read_bytes += sum(len(message.data) for message in messages)
            for message in messages:
                await time_slice.checkpoint_if_over()
                event = event_of(message.data)
                if query.matches(event):
                    if weight >= max_bytes:
                        return EventPage(found, is_complete=False)
                    found.append(event)
                    weight += len(message.data)
                    if len(found) == most or weight >= max_bytes:
                        self._note(event.seq, message.position, scan.head)
                    if len(found) == most:
                        break
            size = min(2 * size, _MAX_PAGE)
        return EventPage(found, is_complete=True)

    async def _lowest(self, query: EventQuery, scan: Scan, max_bytes: float) -> EventPage:
        """Of the events of a scan that match, in any order, those with the lowest seqs; all are looked at.

        Never holds much more than twice what may be returned.
        """
        found: list[PersistedEvent] = []
        weight = 0
        after = query.after_seq or 0
        most = math.inf if query.limit is None else query.limit
        through = math.inf
        time_slice = TimeSlice()
        while (messages := await scan.read(_MAX_PAGE)) is not None:
            for message in messages:
                await time_slice.checkpoint_if_over()
                # Most are passed over for their seqs, and need not be decoded for that.
                if not after < seq_of(message.subject) <= through:
                    continue
                event = event_of(message.data)
                if not query.matches(event):
                    continue
                found.append(event)
                weight += size_of(event)
                if len(found) > 2 * most + _NEAR or weight > 2 * max_bytes + _MAX_SURPLUS:
                    found, weight = _first_of(found, most, max_bytes)
                    through = found[-1].seq
        found.sort(key=_seq)
        return EventPage(found, is_complete=through == math.inf)

    # --- where a cursor stands --------------------------------------------------------------------

    def _note(self, seq: int, position: int, head: Head) -> None:
        if position <= head.mixed_through:
            return
        if self._seen is None or head.position > self._seen.position:
            return  # the store went back meanwhile
        point = (seq, position)
        index = bisect_right(self._points, point)
        if index and self._points[index - 1] == point:
            return
        insort(self._points, point)
        if len(self._points) > _MAX_POINTS:
            del self._points[::2]

    async def _start(self, after: int, head: Head) -> int:
        """A position before which no event has a seq above ``after``, and not far before the first that has.

        As long as events are appended in the order of their seqs, positions ascend with them: look where it
        should be, and halve what is left if it is not there.
        """
        if after == 0:
            return 1
        low = (head.mixed_seq, head.mixed_through)
        high = (head.last_seq, head.position)
        index = bisect_right(self._points, after, key=_first)
        if index:
            low = max(low, self._points[index - 1])
        if index < len(self._points):
            high = min(high, self._points[index])
        guesses = True
        while after - low[0] > _NEAR and high[1] - low[1] > _NEAR:
            middle = (low[1] + high[1]) // 2
            if guesses and high[0] > low[0]:
                share = (after - low[0]) * (high[1] - low[1]) // (high[0] - low[0])
                middle = low[1] + share - _NEAR // 2
            guesses = not guesses
            middle = min(max(middle, low[1] + 1), high[1] - 1)
            found = await self.stream.next(middle, self.subjects.all_events)
            if found is None or found.position >= high[1]:
                high = (high[0], middle)
                continue
            seq = seq_of(found.subject)
            if seq <= after:
                low = (seq, found.position)
            else:
                high = (seq, middle)
        self._note(*low, head)
        return low[1] + 1


def _cut(found: list[PersistedEvent], limit: int | None, max_bytes: float, through: float) -> EventPage:
    """Of events that ascend, those up to ``through`` that limit and bytes allow."""
    whole = found if limit is None else found[:limit]
    if max_bytes == math.inf:
        return EventPage(whole, is_complete=True)
    weight = 0
    for index, event in enumerate(whole):
        if weight >= max_bytes or event.seq > through:
            return EventPage(whole[:index], is_complete=False)
        weight += size_of(event)
    # With the limit reached there is nothing else to come, whatever was left unread.
    return EventPage(whole, is_complete=through == math.inf or len(whole) == limit)


def _first_of(found: list[PersistedEvent], most: float, max_bytes: float) -> tuple[list[PersistedEvent], int]:
    """Those with the lowest seqs, ``most`` or until they weigh ``max_bytes``; and what they weigh."""
    found.sort(key=_seq)
    weight = 0
    for index, event in enumerate(found):
        if index >= most or weight >= max_bytes:
            return found[:index], weight
        weight += size_of(event)
    return found, weight


def another_log(log: str) -> str:
    """What to say when the log that was opened is not there any more, and another one is."""
    return f"there is another log {log!r} in the place of the one that was opened; open the store anew"


def _seq(event: PersistedEvent) -> int:
    return event.seq


def _first(point: tuple[int, int]) -> int:
    return point[0]


@attrs.define
class Scan:
    """Goes through the messages of a subject, from a position to a head; to be closed.

    Replicas answer, which may be behind. So at the end the leader is asked whether that is the end. For every
    page that it is asked for, a server counts what comes after it, in time that grows with the stream: 0.1 s
    with 600,000 events. For a consumer, it counts once. A short piece of a log is sooner had from the leader,
    message by message.
    """

    _reader: Reader
    _subject: str
    _position: int
    head: Head
    _is_walking: bool = attrs.field(init=False)
    """Whether to go message by message."""
    _is_over: bool = attrs.field(default=False, init=False)
    _pages: int = attrs.field(default=0, init=False)
    _pull: Pull | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._is_walking = self._subject == self._reader.subjects.all_events

    async def read(self, most: int) -> list[StoredMessage] | None:
        """The next messages; None at the end."""
        while self._is_walking and self._pull is None and not self._is_over:
            if min(most, self.head.position - self._position) > _MAX_WALK:
                break
            if messages := await self._walk(most):
                return messages
        return await self._page(most)

    async def _walk(self, most: int) -> list[StoredMessage]:
        # One of them is the head of a batch, in a log of its own.
        end = min(self._position + most + most // 16 + 1, self.head.position)
        found, asked = await self._reader.stream.at(range(self._position, end))
        end = self._position + asked
        events = self._reader.subjects.events
        own = [
            message
            for message in found
            if message.subject.startswith(events) and not self.head.is_void(message.position)
        ]
        # If most are of other logs, the server is the one to leave them out.
        self._is_walking = 2 * len(own) >= end - self._position
        self._position = end
        self._is_over = end >= self.head.position
        return own

    async def _page(self, most: int) -> list[StoredMessage] | None:
        deadline = trio.current_time() + ANSWER_TIMEOUT
        stream = self._reader.stream
        while not self._is_over:
            page = await self._ask(most)
            messages = page.messages
            if messages:
                self._position = messages[-1].position + 1
                if self._position > self.head.position:
                    # What is behind the head belongs to batches that were not there when it was asked for.
                    self._is_over = True
                    messages = [message for message in messages if message.position <= self.head.position]
                elif self._position == self.head.position:
                    self._is_over = True
                if self.head.voids:
                    messages = [message for message in messages if not self.head.is_void(message.position)]
            if page.is_last and not self._is_over:
                following = await stream.next(self._position, self._subject)
                self._is_over = following is None or following.position > self.head.position
            if messages:
                return messages
            if not self._is_over:
                if trio.current_time() >= deadline:
                    raise StoreError(f"{stream}: a replica does not catch up")
                await trio.sleep(_LAG_PAUSE)
        return None

    async def _ask(self, most: int) -> MessagePage:
        stream = self._reader.stream
        if self._pages == _MAX_PAGES:
            try:
                if self._pull is None:
                    self._pull = Pull(stream)
                    await self._pull.begin(self._position, self._subject)
                if messages := await self._pull.page(most):
                    return MessagePage(messages, is_last=False)
            except StoreUnusable:
                raise
            except StoreError:
                pass  # whatever it was, a consumer is not needed to go on
            self.close()
        self._pages += 1
        return await read_page(stream, self._position, self._subject, most)

    def close(self) -> None:
        """Nothing more will be read."""
        self._pages = 0
        pull, self._pull = self._pull, None
        if pull is not None:
            pull.close()
