"""Events in order, and how many bytes they have. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import attrs

from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._sealed import SealedEvents, size_of


@attrs.frozen
class Batch:
    """Events that are handled together, ascending by seq, and their bytes as :func:`size_of` counts them."""

    events: SealedEvents = SealedEvents()  # noqa: RUF009 - immutable
    bytes: int = 0

    @classmethod
    def of(cls, events: Iterable[PersistedEvent]) -> Batch:
        """A batch of ``events``, whose bytes are counted."""
        events = SealedEvents(events)
        return cls(events, sum(map(size_of, events)))

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[PersistedEvent]:
        return iter(self.events)


EMPTY = Batch()


@attrs.define(eq=False)
class EventQueue:
    """A queue of events that knows its bytes, as :func:`size_of` counts them."""

    _events: deque[PersistedEvent] = attrs.field(factory=deque, init=False)
    bytes: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[PersistedEvent]:
        return iter(self._events)

    @property
    def first_seq(self) -> int:
        """Seq of the oldest event; there must be one."""
        return self._events[0].seq

    def extend(self, events: Iterable[PersistedEvent], size: int) -> None:
        """Add ``events`` at the end, which have ``size`` bytes."""
        self._events.extend(events)
        self.bytes += size

    def put_back(self, batch: Batch) -> None:
        """Add ``batch`` at the front."""
        self._events.extendleft(reversed(batch.events))
        self.bytes += batch.bytes

    def pop(self) -> PersistedEvent:
        """Remove the oldest event and return it."""
        event = self._events.popleft()
        self.bytes -= size_of(event)
        return event

    def take(self, max_events: int, max_bytes: float) -> Batch:
        """Remove the oldest events, at most ``max_events`` and none after ``max_bytes``, and return them."""
        if len(self._events) <= max_events and self.bytes <= max_bytes:
            # Usually: then nothing has to be asked for each event.
            batch = Batch(SealedEvents(self._events), self.bytes)
            self.clear()
            return batch
        before = self.bytes
        events: list[PersistedEvent] = []
        while self._events and len(events) < max_events and before - self.bytes < max_bytes:
            events.append(self.pop())
        return Batch(SealedEvents(events), before - self.bytes)

    def clear(self) -> None:
        """Remove all events."""
        self._events.clear()
        self.bytes = 0
