"""The newest stored events of a log. Pure.

They are kept for subscriptions: a hundred of them would otherwise ask the store the same question a hundred
times for each batch. And they are kept for a store that goes back to an older state, which gets them again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs

from trio_eventlog._model._events import AgentEvent, ModuleEvent, PersistedEvent, UnifiedEvent
from trio_eventlog._model._payload import SCOPES
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._sealed import reseal, scopes_of_event, size_of

_BATCH_SIZE: Final = 64
"""Highest number of events that are forgotten together: a large append is not forgotten as a whole."""


class _Batch:
    """Events that were stored one after another, ascending by seq."""

    def __init__(self, events: Sequence[PersistedEvent], size: int) -> None:
        self.events: Final = tuple(events)
        self.bytes: Final = size
        self.last: Final = events[-1].seq
        self._seqs: list[int] | None = None
        self._outlines: list[PersistedEvent] | None = None

    @property
    def seqs(self) -> list[int]:
        """Their seqs. Made on first use, since usually they are not needed."""
        if self._seqs is None:
            self._seqs = [event.seq for event in self.events]
        return self._seqs

    @property
    def outlines(self) -> list[PersistedEvent]:
        """The events as queries see them: their payloads have only the scopes.

        Made once for all subscriptions. The payloads need not be decoded, and what the store may have done to
        the events that it was given plays no part.
        """
        if self._outlines is None:
            self._outlines = [_outline(event) for event in self.events]
        return self._outlines


def _outline(event: PersistedEvent) -> PersistedEvent:
    inner = event.event
    scopes = zip(SCOPES, scopes_of_event(inner), strict=True)
    payload = {key: value for key, value in scopes if value is not None}
    outline: UnifiedEvent
    if isinstance(inner, AgentEvent):
        outline = AgentEvent(inner.agent_id, inner.event_type, payload)
    else:
        outline = ModuleEvent(inner.module, inner.event_type, payload)
    return PersistedEvent(event.id, event.seq, event.timestamp_ms, event.member_id, outline)


class RecentEvents:
    """The events that were stored last, within bounds.

    Args:
      durable_seq: the highest seq that is durable now.
      most_events: highest number of events.
      most_bytes: highest number of their bytes, as :func:`size_of` counts them.
    """

    def __init__(self, durable_seq: int, *, most_events: int, most_bytes: int) -> None:
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._batches: deque[_Batch] = deque()
        self._events = self._bytes = 0
        # Above this seq, all durable events are here.
        self._complete_after = durable_seq
        self.durable_seq = durable_seq
        """The highest seq that is durable."""

    def start_anew(self) -> None:
        """Give out nothing of what is here any more: there may be other events in between."""
        self._complete_after = self.durable_seq

    def add(self, events: Sequence[PersistedEvent], *, is_complete: bool, size: int | None = None) -> None:
        """Keep what was stored just now.

        Args:
          events: sealed events, ascending by seq and above all before them; at least one.
          is_complete: whether no other event can have been stored since :attr:`durable_seq`. If not, neither
            these events nor those before can be read from here.
          size: their bytes, if known.
        """
        self.durable_seq = events[-1].seq
        size = sum(map(size_of, events)) if size is None else size
        for start in range(0, len(events), _BATCH_SIZE):
            part = events[start : start + _BATCH_SIZE]
            # An estimate: asking each event for its size would take as long as all else here.
            self._append(_Batch(part, size * len(part) // len(events)))
        while self._events > self._most_events or self._bytes > self._most_bytes:
            oldest = self._batches.popleft()
            self._events -= len(oldest.events)
            self._bytes -= oldest.bytes
            self._complete_after = max(self._complete_after, oldest.last)
        if not is_complete:
            self.start_anew()

    def _append(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._events += len(batch.events)
        self._bytes += batch.bytes

    def go_back(self, last_seq: int) -> list[PersistedEvent]:
        """The store no longer has anything above ``last_seq``.

        Returns:
          Copies of the events above it that were kept here, ascending by seq. They are no longer kept.
        """
        gone: deque[PersistedEvent] = deque()
        while self._batches and self._batches[-1].last > last_seq:
            newest = self._batches.pop()
            self._events -= len(newest.events)
            self._bytes -= newest.bytes
            stays = bisect_right(newest.seqs, last_seq)
            gone.extendleft(reversed(newest.events[stays:]))
            if stays:
                self._append(_Batch(newest.events[:stays], newest.bytes * stays // len(newest.events)))
        self.durable_seq = min(self.durable_seq, last_seq)
        if self._batches and self._batches[-1].last == self.durable_seq:
            self._complete_after = min(self._complete_after, self.durable_seq)
        else:
            self.start_anew()
        return [reseal(event) for event in gone]

    def read(self, after: int, query: EventQuery, most: int) -> tuple[list[PersistedEvent], int] | None:
        """Copies of the next events that match.

        Args:
          after: the seq after which to begin; below :attr:`durable_seq`.
          query: what to look for; its cursor and its limit play no part.
          most: how many events to look at.

        Returns:
          The events, and the seq up to which there are no others. None if that is not known here.
        """
        if after < self._complete_after:
            return None
        index = len(self._batches) - 1
        while index > 0 and self._batches[index - 1].last > after:
            index -= 1
        batch = self._batches[index]
        start = bisect_right(batch.seqs, after)
        stop = min(start + most, len(batch.seqs))
        through = batch.seqs[stop - 1]
        if query == _EVERYTHING:
            return [reseal(event) for event in batch.events[start:stop]], through
        outlines, by_outline = batch.outlines, attrs.evolve(query, fields=None)
        found = [
            reseal(batch.events[place]) for place in range(start, stop) if by_outline.matches(outlines[place])
        ]
        # An event remembers what it has decoded, and that is to be the reader's copy.
        return list(filter(query.matches_fields, found)), through


_EVERYTHING: Final = EventQuery()
