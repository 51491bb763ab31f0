"""Every error of this library, in one tree.

::

    EventLogError
    ├── CodecError            malformed JSON, or a value that JSON cannot carry
    ├── EventsLost            events that a caller waited for will not become durable
    ├── EventLogBroken        a defect in this library: please report it
    ├── StaleCursor           a cursor that this log never reached
    ├── EventsPruned          a reader came too late for these events
    ├── SpillError            a spill file that cannot be used
    └── StoreError            a store failed; trying again may help
        ├── EventRejected     a store can never hold these events
        ├── StoreWentBack     a store has lost what it had acknowledged
        └── StoreUnusable     a store failed; trying again will not help
            ├── LogNotFound        the log to be read is not in this store
            ├── SequenceConflict   another event has this seq
            └── LogBusy            the log is open for appending already; waiting helps

The first two are defined in ``_base_errors``, because the events raise them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from trio_eventlog._model._base_errors import CodecError, EventLogError, require_strings
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._numbers import check_integer

__all__ = [
    "CodecError",
    "EventLogBroken",
    "EventLogError",
    "EventRejected",
    "EventsLost",
    "EventsPruned",
    "LogBusy",
    "LogNotFound",
    "LossReason",
    "SequenceConflict",
    "SpillError",
    "StaleCursor",
    "StoreError",
    "StoreUnusable",
    "StoreWentBack",
]

T = TypeVar("T")

_MAX_SEQS_SHOWN: Final = 5
_MAX_NAMES_SHOWN: Final = 10


def _require_int(**arguments: object) -> None:
    for name, value in arguments.items():
        check_integer(name, value)


def _tuple_of(name: str, value: Iterable[T], kind: type) -> tuple[T, ...]:
    """The items of ``value``, each of which must be of ``kind``. A single string or event is an error."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected several, in a list or the like, got {type(value).__name__}")
    items = tuple(value)
    for index, item in enumerate(items):
        if type(item) is bool or not isinstance(item, kind):
            raise TypeError(f"{name}[{index}]: expected {kind.__name__}, got {type(item).__name__}")
    return items


class LossReason(StrEnum):
    """Why events were lost."""

    CAP = "cap"
    """More events waited than ``retry_buffer_cap`` or ``max_pending_bytes`` allows; the oldest went."""

    REJECTED = "rejected"
    """The store said that it can never hold them (:class:`EventRejected`)."""

    UNUSABLE = "unusable"
    """The store became unusable while they waited, or before they arrived."""

    SHUTDOWN = "shutdown"
    """They were not yet stored when the grace period ended."""

    BROKEN = "broken"
    """The log itself failed (:class:`EventLogBroken`)."""

    DAMAGED = "damaged"
    """Their lines in the spill file could not be read back. What they held is unknown, so they are in a
    :class:`SpillDamageReport` rather than in a :class:`LossReport`."""

    REVERTED = "reverted"
    """The store had acknowledged them and then went back to an older state (:class:`StoreWentBack`), and the
    log no longer had them in memory. They are in a :class:`RevertReport` rather than in a
    :class:`LossReport`."""


def _and_more(items: Sequence[object], shown: int) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""


class EventsLost(EventLogError):
    """Events that a caller waited for will not become durable.

    Raised by :meth:`EventLog.flush` for the events ingested before it, and on leaving
    :func:`open_event_log` for those that were pending when the body ended. The events themselves were
    reported before, to ``on_failure`` or to the logger; this error says how many they are.

    Attributes:
      count: how many events were lost.
      first_seq: lowest seq among them.
      last_seq: highest seq among them.
      by_reason: events lost per reason (see :class:`LossReason`), a read-only mapping.
    """

    def __init__(
        self, count: int, first_seq: int, last_seq: int, by_reason: Mapping[LossReason, int]
    ) -> None:
        _require_int(count=count, first_seq=first_seq, last_seq=last_seq)
        if not isinstance(by_reason, Mapping):
            raise TypeError(
                f"by_reason: expected a mapping of reasons to counts, got {type(by_reason).__name__}"
            )
        for reason, lost in by_reason.items():
            if not isinstance(reason, LossReason):
                raise TypeError(f"by_reason: expected LossReason for a key, got {type(reason).__name__}")
            check_integer(f"by_reason[{reason.name}]", lost)
        super().__init__(count, first_seq, last_seq, dict(by_reason))
        self.count = count
        self.first_seq = first_seq
        self.last_seq = last_seq

    @property
    def by_reason(self) -> Mapping[LossReason, int]:
        """Events lost per reason, read-only."""
        # Not an attribute: a read-only mapping cannot be pickled.
        return MappingProxyType(self.args[3])

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.by_reason.items())
        events = "event" if self.count == 1 else "events"
        return f"{self.count} {events} lost (seq {self.first_seq} to {self.last_seq}: {reasons})"


class EventLogBroken(EventLogError):
    """The log itself failed: a defect in this library, not in the store or in the program.

    Raised on leaving :func:`open_event_log`, whose body was cancelled. The defect is the ``__cause__``; an
    error of the body is the ``__context__``. Pending events are lost and were reported. Please report the
    traceback.
    """


class StaleCursor(EventLogError):
    """A cursor points beyond everything this log ever stored: it belongs to another log, or the log was
    replaced or went back to an older state. Or the log was restored from a backup that was made before the
    event at the cursor was stored, and has gone on in a new epoch.

    Raised by everything that reads from a cursor, possibly in the middle of an iteration.

    Attributes:
      after_seq: the cursor that was given.
      last_seq: the last seq of the log; with ``epoch_seq``, the last one that it had when the epoch began. If
        the cursor belongs to this log, everything after ``last_seq`` is new to its owner.
      epoch_seq: the seq of the event that began the epoch; None if the cursor is beyond the end.
    """

    def __init__(self, after_seq: int, last_seq: int, epoch_seq: int | None = None) -> None:
        _require_int(after_seq=after_seq, last_seq=last_seq)
        if epoch_seq is None:
            super().__init__(after_seq, last_seq)
        else:
            _require_int(epoch_seq=epoch_seq)
            super().__init__(after_seq, last_seq, epoch_seq)
        self.after_seq = after_seq
        self.last_seq = last_seq
        self.epoch_seq = epoch_seq

    def __str__(self) -> str:
        if self.epoch_seq is not None:
            return (
                f"cursor {self.after_seq} is of a state that is gone: the log was restored to seq"
                f" {self.last_seq}, and went on from seq {self.epoch_seq}"
            )
        return f"cursor {self.after_seq} lies beyond the last seq of the log, {self.last_seq}"


class EventsPruned(EventLogError):
    """Events after a reader's cursor were pruned before the reader got to them.

    Raised by everything that reads from a cursor: subscriptions, :func:`tail`, :func:`iter_events` and
    :func:`merge_events`. The reader's cursor is then at the end of the range, so iterating again continues
    after it. Whether the range held events that match the reader's query is no longer known.
    :func:`merge_events` names the log in a note.

    Attributes:
      first_seq: lowest seq that the pruned events can have had.
      last_seq: highest seq that they can have had.
    """

    def __init__(self, first_seq: int, last_seq: int) -> None:
        _require_int(first_seq=first_seq, last_seq=last_seq)
        super().__init__(first_seq, last_seq)
        self.first_seq = first_seq
        self.last_seq = last_seq

    def __str__(self) -> str:
        return f"events were pruned before they were read (seq {self.first_seq} to {self.last_seq})"


class SpillError(EventLogError):
    """A spill file cannot be used: it has events of another log, is not a spill file, or cannot be opened.

    Raised on entering :func:`open_event_log`; nothing was changed. The message says what to do.

    Attributes:
      path: of the file.
      reason: what is wrong.
    """

    def __init__(self, path: Path, reason: str) -> None:
        require_strings(reason=reason)
        if not isinstance(path, os.PathLike):
            raise TypeError(f"path: expected a Path, got {type(path).__name__}")
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class StoreError(EventLogError):
    """A store failed for a reason that may pass: busy, disk full, connection lost.

    Raised by every method of a store. Whether an append took effect is unknown; trying again is safe. The log
    keeps the events and retries with backoff.
    """


class EventRejected(StoreError):
    """A store can never hold these events: too large, out of its range, a string that it refuses.

    Raised by :meth:`EventStore.append_batch`; nothing of the batch was stored. The log reports the named
    events as lost and offers the rest again at once.

    Attributes:
      events: all events of the batch that the store can never hold, at least one.
      reason: why.
    """

    def __init__(self, events: Sequence[PersistedEvent], reason: str) -> None:
        require_strings(reason=reason)
        # Whether they are of the batch is for the log to tell, which knows what it has offered.
        self.events: tuple[PersistedEvent, ...] = _tuple_of("events", events, PersistedEvent)
        super().__init__(self.events, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (seq {self._seqs()})"

    def __repr__(self) -> str:
        # Whole events are long, and may be confidential.
        return f"<{type(self).__name__} of seq {self._seqs()}: {self.reason!r}>"

    def _seqs(self) -> str:
        seqs = ", ".join(str(event.seq) for event in self.events[:_MAX_SEQS_SHOWN])
        return f"{seqs}{_and_more(self.events, _MAX_SEQS_SHOWN)}"


class StoreWentBack(StoreError):
    """A store no longer has everything that it acknowledged: it was restored from a backup, or a lagging
    replica took over.

    Raised by :meth:`EventStore.append_batch`, once each time the store went back. Nothing of the batch was
    stored, and the next append continues after what the store has now. The log offers the events that it
    still has again, and reports the rest (:class:`RevertReport`).

    Attributes:
      last_seq: the last seq that the store has now.
      expected_seq: the highest seq that this store object had acknowledged, or had found on opening.
    """

    def __init__(self, last_seq: int, expected_seq: int) -> None:
        _require_int(last_seq=last_seq, expected_seq=expected_seq)
        super().__init__(last_seq, expected_seq)
        self.last_seq = last_seq
        self.expected_seq = expected_seq

    def __str__(self) -> str:
        return (
            f"the store went back: its last seq is {self.last_seq}, and it had acknowledged up to"
            f" {self.expected_seq}"
        )


class StoreUnusable(StoreError):
    """A store failed for a reason that will not pass by itself: closed, read-only, corrupt, not our file.

    Raised by every method of a store and on opening one. The log stops writing, reports the events that are
    pending and those that arrive later as lost, and raises this error when its block is left. The caller can
    open the store again once the reason is removed. For one reason, :exc:`LogBusy`, waiting is enough.
    """


class LogNotFound(StoreUnusable):
    """The log to be read is not in this file, database or server.

    Raised on opening a store for reading. Opening it for appending creates the log instead.

    Attributes:
      log: the name that was asked for.
      names: the names of the logs that exist, sorted by code point.
      place: where they are, as shown in messages: a path, or a URL without secrets.
    """

    def __init__(self, log: str, names: Sequence[str], place: str) -> None:
        require_strings(log=log, place=place)
        self.names: tuple[str, ...] = _tuple_of("names", names, str)
        super().__init__(log, self.names, place)
        self.log = log
        self.place = place

    def __str__(self) -> str:
        if not self.names:
            return f"there is no log {self.log!r} in {self.place}, nor any other"
        shown = ", ".join(repr(name) for name in self.names[:_MAX_NAMES_SHOWN])
        shown += _and_more(self.names, _MAX_NAMES_SHOWN)
        return f"there is no log {self.log!r} in {self.place}; it has {shown}"


class SequenceConflict(StoreUnusable):
    """Another event already has a seq of the batch; nothing of the batch was stored.

    Raised by :meth:`EventStore.append_batch`. It means that something else wrote to this log.

    Attributes:
      seqs: the seqs that are taken, ascending.
    """

    def __init__(self, seqs: Sequence[int]) -> None:
        self.seqs: tuple[int, ...] = _tuple_of("seqs", seqs, int)
        super().__init__(self.seqs)

    def __str__(self) -> str:
        shown = ", ".join(str(seq) for seq in self.seqs[:_MAX_SEQS_SHOWN])
        return f"another event already has seq {shown}" + (", …" if len(self.seqs) > _MAX_SEQS_SHOWN else "")


class LogBusy(StoreUnusable):
    """This log is open for appending already: in another process, through another store object of this
    process, or in another :func:`open_event_log` on the same store object.

    Raised on opening, where waiting helps: the caller can try again until the other one has closed. It can
    also open the log for reading, or use a log of another name.
    """
