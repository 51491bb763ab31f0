"""How events enter a log: checked, numbered, and put where the flush task finds them. Floor 4: Trio.

This is the definition. Where the core in C is there, it does the same for what is usual, and hands the rest
to this.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol, TypeAlias, cast

import attrs
import trio

from trio_eventlog._log._settings import Filter, Settings
from trio_eventlog._model._errors import CodecError, EventLogError, LossReason
from trio_eventlog._model._events import (
    MAX_STORED,
    AgentEvent,
    EventEnvelope,
    ModuleEvent,
    PersistedEvent,
    UnifiedEvent,
    new_event_id,
    persisted,
    wall_clock_ms,
)
from trio_eventlog._model._payload import too_large
from trio_eventlog._model._sealed import check_envelope, event_size, seal_event
from trio_eventlog._speedups import core
from trio_eventlog._util import Forks

Prepared: TypeAlias = tuple[str, int, UnifiedEvent, int]
"""An event that only lacks its seq: its id, its timestamp, the sealed event, and the size in bytes."""

Refuse: TypeAlias = Callable[[PersistedEvent, LossReason], None]


class Ingress(Protocol):
    """Events that were ingested, and that the flush task has not taken yet.

    The flush task takes everything out when it has reason to run, as does a burst that fills it: see
    :meth:`Backlog.take_in`.
    """

    capacity: int
    """Most events in here."""

    last_seq: int
    """The last seq given out."""

    @property
    def count(self) -> int:
        """Events in here."""
        ...

    @property
    def size(self) -> int:
        """Their bytes."""
        ...

    check_count: int
    """The count from which on there may be something to do about them."""

    check_size: int
    """The same for their bytes."""

    filtered: int
    """Events that the filter or the transform kept out."""

    lost_from_now_on: LossReason | None
    """Why every further event is lost, if it is."""

    is_closed: bool
    """Whether the body of the log has ended."""

    look: Callable[[], None]
    """Called when there may be something to do."""

    def connect(self, take_in: Callable[[], None], refuse: Refuse) -> None:
        """Say how to make room, and how to lose an event."""
        ...

    def ingest(self, event: EventEnvelope | UnifiedEvent, /) -> int | None:
        """See :meth:`EventLog.ingest`."""
        ...

    def prepare(self, event: EventEnvelope | UnifiedEvent) -> Prepared | None:
        """Filter, transform, check, encode and measure. Errors are raised in the caller's frame."""
        ...

    def accept(self, prepared: Prepared) -> int:
        """Give out the next seq, and send the event on its way."""
        ...

    def take_all(self) -> list[PersistedEvent]:
        """Remove everything and return it."""
        ...

    def close_sending(self) -> None:
        """Take nothing more."""
        ...

    def close(self) -> None:
        """Neither take nor give any more."""
        ...


def _nothing() -> None:
    """Before it is said what is to be done."""


class _Checks:
    """What is the same, however events are kept."""

    # What the two classes below have.
    capacity: int
    last_seq: int
    count: int
    check_count: int
    check_size: int
    max_event_bytes: int
    filtered: int
    filter: Filter | None
    lost_from_now_on: LossReason | None
    is_closed: bool
    put: Callable[[PersistedEvent, int], bool]

    def __init__(self, settings: Settings, last_seq: int) -> None:
        # Limits are of any size, and the core counts in 64 bits.
        self.capacity = min(max(4 * settings.batch_size, 4), MAX_STORED)
        self.last_seq = last_seq
        self.check_count = self.check_size = 1
        # No event is larger than this.
        self.max_event_bytes = min(settings.max_event_bytes, MAX_STORED)
        self.filtered = 0
        self.filter = settings.filter
        self._transform = settings.transform
        self._selects = self.filter is not None or self._transform is not None
        self.lost_from_now_on = None
        self.is_closed = False
        self.look: Callable[[], None] = _nothing
        self._thread, self._forks = get_ident(), Forks.count

    def connect(self, take_in: Callable[[], None], refuse: Refuse) -> None:
        self._take_in = take_in
        self._refuse = refuse

    def prepare(self, event: EventEnvelope | UnifiedEvent, *, is_filtered: bool = False) -> Prepared | None:
        # For speed, the common case is one condition.
        if self.is_closed or Forks.count != self._forks or get_ident() != self._thread:
            check_home(self._thread, self._forks, "ingest")
            self._require_open()
        envelope: EventEnvelope | None = None
        if type(event) is AgentEvent or type(event) is ModuleEvent:
            bare: UnifiedEvent = event
        elif isinstance(event, EventEnvelope):
            envelope, bare = event, event.event
            _check_kind(bare, "an EventEnvelope of ")
        else:
            bare = event
            _check_kind(bare)
        # One condition for both, so that a log without either pays for one.
        if not is_filtered and self._selects:
            kept = self._select(bare)
            if kept is None:
                self.filtered += 1
                return None
        else:
            kept = bare
        if envelope is None:
            event_id, timestamp_ms, prefix = new_event_id(), wall_clock_ms(), ""
        else:
            check_envelope(envelope)
            event_id, timestamp_ms, prefix = envelope.event_id, envelope.timestamp_ms, "event."
        sealed = seal_event(kept, prefix, self.max_event_bytes)
        size = sealed._size
        if size is None or not event_id.isascii():
            size = event_size(event_id, sealed)
        else:
            size += len(event_id)
        if size > self.max_event_bytes:
            raise CodecError("event", too_large(self.max_event_bytes, size=size))
        return event_id, timestamp_ms, sealed, size

    def _select(self, event: UnifiedEvent) -> UnifiedEvent | None:
        """What the program wants to keep of an event; None for nothing."""
        if self.filter is not None and not self.filter(event):
            return None
        if self._transform is None:
            return event
        if event._text is not None:
            # An event that a log has handed out, whose text would stay what it is: a transform may also
            # change the payload that it is given.
            event = attrs.evolve(event)
        kept: object = self._transform(event)
        if kept is None or isinstance(kept, AgentEvent | ModuleEvent):
            return kept
        raise TypeError(f"transform: expected it to return an event or None, got {type(kept).__name__}")

    @trio.lowlevel.enable_ki_protection
    def accept(self, prepared: Prepared) -> int:
        if self.is_closed:
            self._require_open()
        # Before the seq is given out: this can call on_failure, which may ingest.
        while self.count >= self.capacity:
            self._take_in()
        seq = self.last_seq + 1
        if seq > MAX_STORED:
            raise EventLogError(f"the log has given out its last seq, {MAX_STORED}")
        event_id, timestamp_ms, sealed, size = prepared
        event = persisted(event_id, seq, timestamp_ms, sealed)
        self.last_seq = seq
        if self.lost_from_now_on is not None:
            self._refuse(event, self.lost_from_now_on)
        elif self.put(event, size):
            self.look()
        return seq

    def _require_open(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError("the event log is closed: the block of open_event_log has ended")


class ChannelIngress(_Checks):
    """Keeps events in a memory channel.

    No task waits in ``receive``, since then every event would wake it.
    """

    def __init__(self, settings: Settings, last_seq: int) -> None:
        super().__init__(settings, last_seq)
        self._send, self._receive = trio.open_memory_channel[PersistedEvent](self.capacity)
        self._send_nowait = self._send.send_nowait  # looked up once, not for each event
        self.count = self.size = 0

    def ingest(self, event: EventEnvelope | UnifiedEvent, /) -> int | None:
        prepared = self.prepare(event)
        return None if prepared is None else self.accept(prepared)

    def put(self, event: PersistedEvent, size: int) -> bool:
        """Send an event. Returns whether there may be something to do."""
        self._send_nowait(event)
        self.count += 1
        self.size += size
        return self.count >= self.check_count or self.size >= self.check_size

    def take_all(self) -> list[PersistedEvent]:
        receive = self._receive.receive_nowait
        arrivals = [receive() for _ in range(self.count)]
        self.count = self.size = 0
        self.check_count = self.check_size = 1
        return arrivals

    def close_sending(self) -> None:
        self._send.close()

    def close(self) -> None:
        self._send.close()
        self._receive.close()


if core is None:
    make_ingress: Callable[[Settings, int], Ingress] = ChannelIngress
else:

    class CoreIngress(_Checks, cast("Any", core.Intake)):  # type: ignore[misc]  # its base is known at run time
        """Keeps events in the core."""

        def _ingest_slowly(self, event: EventEnvelope | UnifiedEvent, is_filtered: bool) -> int | None:
            prepared = self.prepare(event, is_filtered=is_filtered)
            return None if prepared is None else self.accept(prepared)

        def close_sending(self) -> None:
            """There is nothing to close: what is not accepted is not sent."""

        def close(self) -> None:
            """Likewise."""

    class TransformingCoreIngress(CoreIngress):
        """The same for a log with a transform, of which the core knows nothing."""

        def ingest(self, event: EventEnvelope | UnifiedEvent, /) -> int | None:
            return self._ingest_slowly(event, is_filtered=False)

    def _make_core_ingress(settings: Settings, last_seq: int) -> Ingress:
        kind = CoreIngress if settings.transform is None else TransformingCoreIngress
        return kind(settings, last_seq)

    make_ingress = _make_core_ingress


def _check_kind(event: object, wrapping: str = "") -> None:
    if not isinstance(event, AgentEvent | ModuleEvent):
        raise TypeError(
            "expected an AgentEvent, a ModuleEvent or an EventEnvelope of one, got"
            f" {wrapping}{type(event).__name__}"
        )


def check_home(thread: int, forks: int, what: str) -> None:
    """Check that the caller runs in the thread and the process of a log."""
    if Forks.count != forks:
        raise RuntimeError(
            "an event log belongs to the process that opened it, and this one was forked from that: open"
            " the store and the log anew in a trio.run of this process"
        )
    if get_ident() != thread:
        how = "run_sync(log.ingest, event)" if what == "ingest" else f"run(log.{what})"
        raise RuntimeError(
            f"an event log belongs to the thread that opened it; from another one call trio.from_thread.{how}"
        )
