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
            ├── SequenceConflict   another event sits on this seq
            └── LogBusy            somebody else appends to this log

Floor 0: attrs and the standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from trio_eventlog._model._events import PersistedEvent
    from trio_eventlog._model._reports import LossReason

T = TypeVar("T")


def _require_text(**arguments: object) -> None:
    for name, value in arguments.items():
        if not isinstance(value, str):
            msg = f"{name}: expected text, got {type(value).__name__}"
            raise TypeError(msg)


def _require_int(**arguments: object) -> None:
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int):
            msg = f"{name}: expected an integer, got {type(value).__name__}"
            raise TypeError(msg)


def _tuple_of(name: str, value: Iterable[T], kind: type) -> tuple[T, ...]:
    """What several of a kind are given as, unless a single one was meant, or something else."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        msg = f"{name}: expected several, in a list or the like, got {type(value).__name__}"
        raise TypeError(msg)
    found = tuple(value)
    for index, item in enumerate(found):
        if type(item) is bool or not isinstance(item, kind):
            msg = f"{name}[{index}]: expected {kind.__name__}, got {type(item).__name__}"
            raise TypeError(msg)
    return found


class EventLogError(Exception):
    """Base of all errors of this library."""


class CodecError(EventLogError, ValueError):
    """Text that is not the JSON of the type asked for, or a value that JSON cannot carry unchanged.

    Raised by :func:`from_json` and :func:`to_json`, and by :meth:`EventLog.ingest` in the frame of
    its caller; the event was not accepted. The caller can mend the field that ``path`` names.

    Attributes:
      path: the field, such as ``"event.payload.items[3]"``; empty if the whole text is meant.
      reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        _require_text(path=path, reason=reason)
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class EventsLost(EventLogError):
    """Events that a caller waited for will not become durable.

    Raised by :meth:`EventLog.flush` for events up to its mark, and on leaving
    :func:`open_event_log` for those that were pending when the body ended. The events themselves
    were reported before, to ``on_failure`` or to the logger; this error carries the account.

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
            msg = f"by_reason: expected a mapping of reasons to counts, got {type(by_reason).__name__}"
            raise TypeError(msg)
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

    Raised on leaving :func:`open_event_log`, whose body was cancelled; the defect is the
    ``__cause__``, an error of the body the ``__context__``. What was pending is lost and was
    reported. Please report the traceback.
    """


class StaleCursor(EventLogError):
    """A cursor points beyond everything this log ever stored: it belongs to another log, or the
    log was replaced or went back to an older state.

    Raised by whatever reads on from a cursor, also in the middle.

    Attributes:
      after_seq: the cursor that was given.
      last_seq: the last seq of the log.
    """

    def __init__(self, after_seq: int, last_seq: int) -> None:
        _require_int(after_seq=after_seq, last_seq=last_seq)
        super().__init__(after_seq, last_seq)
        self.after_seq = after_seq
        self.last_seq = last_seq

    def __str__(self) -> str:
        return f"cursor {self.after_seq} lies beyond the last seq of the log, {self.last_seq}"


class EventsPruned(EventLogError):
    """Events behind a reader's cursor were pruned before it got to them.

    Raised by whatever reads on from a cursor: subscriptions, :func:`tail`, :func:`iter_events` and
    :func:`merge_events`. The cursor of the reader is then past the range, so that iterating again goes on
    behind it. Whether the range held events that match the reader's query is not known any more.
    :func:`merge_events` names the log in a note.

    Attributes:
      first_seq: lowest seq that the pruned events can have.
      last_seq: highest seq that they can have.
    """

    def __init__(self, first_seq: int, last_seq: int) -> None:
        _require_int(first_seq=first_seq, last_seq=last_seq)
        super().__init__(first_seq, last_seq)
        self.first_seq = first_seq
        self.last_seq = last_seq

    def __str__(self) -> str:
        return f"events were pruned before they were read (seq {self.first_seq} to {self.last_seq})"


class SpillError(EventLogError):
    """A spill file cannot be used: it has events of another log, it is no spill file, or it cannot be opened.

    Raised on entering :func:`open_event_log`; nothing was changed. The message says what to do.

    Attributes:
      path: of the file.
      reason: what is wrong.
    """

    def __init__(self, path: Path, reason: str) -> None:
        _require_text(reason=reason)
        if not isinstance(path, os.PathLike):
            msg = f"path: expected a Path, got {type(path).__name__}"
            raise TypeError(msg)
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class StoreError(EventLogError):
    """A store could not do what it was asked, for a reason that may pass: busy, disk full,
    connection lost.

    Raised by every method of a store. Whether an append took effect is unknown; trying it again is
    safe. The log keeps the events and retries with backoff.
    """


class EventRejected(StoreError):
    """A store can never hold these events: too large, out of its range, text that it refuses.

    Raised by :meth:`EventStore.append_batch`; nothing of the batch was stored. The log sets the
    named events aside, reports them lost, and offers the rest again at once.

    Attributes:
      events: all events of the batch that the store can never hold, at least one.
      reason: why.
    """

    def __init__(self, events: Sequence[PersistedEvent], reason: str) -> None:
        _require_text(reason=reason)
        # Items of another kind are for the log to tell, which knows what it has offered.
        self.events: tuple[PersistedEvent, ...] = _tuple_of("events", events, object)
        super().__init__(self.events, reason)
        self.reason = reason

    def __str__(self) -> str:
        seqs = ", ".join(str(getattr(event, "seq", event)) for event in self.events[:5])
        more = f" and {len(self.events) - 5} more" if len(self.events) > 5 else ""  # noqa: PLR2004 - the 5 above
        return f"{self.reason} (seq {seqs}{more})"


class StoreWentBack(StoreError):
    """A store no longer has all that it acknowledged: it was restored from a backup, or a replica that
    lagged took over.

    Raised by :meth:`EventStore.append_batch`, once for each time that the store went back; nothing of the
    batch was stored, and the next append goes on from what the store has now. The log offers the events that
    it still has again, and reports the rest (:class:`RevertReport`).

    Attributes:
      last_seq: the last seq that the store has now.
      expected_seq: the highest seq that this instance of the store had acknowledged, or found on opening.
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
    """A store failed for a reason that will not pass: closed, read-only, corrupt, not our file.

    Raised by every method of a store and on opening one. The log stops writing, reports what is
    pending and what comes later as lost, and raises this error when its block is left. The caller
    can open the store again once the reason is removed.
    """


class LogNotFound(StoreUnusable):
    """The log that was to be read is not in this file, database or server.

    Raised on opening a store for reading. Opening it for appending creates the log instead.

    Attributes:
      log: the name that was asked for.
      names: the names of the logs that are there, ascending by code point.
      place: where they are, as messages show it: a path, or a URL without secrets.
    """

    def __init__(self, log: str, names: Sequence[str], place: str) -> None:
        _require_text(log=log, place=place)
        self.names: tuple[str, ...] = _tuple_of("names", names, str)
        super().__init__(log, self.names, place)
        self.log = log
        self.place = place

    def __str__(self) -> str:
        if not self.names:
            return f"there is no log {self.log!r} in {self.place}, nor any other"
        shown = ", ".join(repr(name) for name in self.names[:10])
        more = f" and {len(self.names) - 10} more" if len(self.names) > 10 else ""  # noqa: PLR2004 - the 10 above
        return f"there is no log {self.log!r} in {self.place}; it has {shown}{more}"


class SequenceConflict(StoreUnusable):
    """Another event already sits on a seq of the batch; nothing of the batch was stored.

    Raised by :meth:`EventStore.append_batch`. It means that something else wrote to this log.

    Attributes:
      seqs: the seqs that are taken, ascending.
    """

    def __init__(self, seqs: Sequence[int]) -> None:
        self.seqs: tuple[int, ...] = _tuple_of("seqs", seqs, int)
        super().__init__(self.seqs)

    def __str__(self) -> str:
        shown = ", ".join(str(seq) for seq in self.seqs[:5])
        return f"another event already sits on seq {shown}" + (", …" if len(self.seqs) > 5 else "")  # noqa: PLR2004 - the 5 above


class LogBusy(StoreUnusable):
    """Somebody else appends to this log: another process, another store object of this process, or
    another :func:`open_event_log` on the same store object.

    Raised on opening. The caller can wait for the other to close, open the log read-only, or use a
    log of another name.
    """
