"""Epochs: the parts of a log between two times that it was restored. Pure.

Theory of operation
===================

A log that goes on in a backup would give out seqs again that the original gave out after the backup was made.
A reader that has seen those would take other events for them, and skip what it takes for known.

So it does not: an *epoch* begins, with an event that says so, at a seq that the log cannot have given out in
any earlier epoch: the time in microseconds since 1970. A log that gives out fewer than a million seqs per
second is always behind that. So no seq stands for two events, and a cursor tells by its value alone whether
it is of a state that is gone: it lies between the last seq that was there when the epoch began, which the
event names, and the seq of the event.

Being an event, the beginning of an epoch is in every store, copy, export and archive of the log.
"""

from __future__ import annotations

from typing import Final

import attrs

from trio_eventlog._model._events import MAX_STORED, ModuleEvent, PersistedEvent
from trio_eventlog._model._query import EventQuery

EPOCH_TYPE: Final = "trio_eventlog.epoch_began"
"""The type of the event that begins an epoch."""

_MODULE: Final = "trio_eventlog"

FIRST_EPOCH_SEQ: Final = 10**15
"""No epoch begins below this seq, which is a time in 2001. A log that has not come so far has only one."""

_STEP: Final = 10**9
"""How far to go on if the clock is behind the log."""


@attrs.frozen(kw_only=True)
class Epoch:
    """An epoch of a log, except its first: what :func:`list_epochs` returns."""

    id: str
    """No other epoch has it. The id of the event that began it."""

    seq: int
    """Of that event."""

    after_seq: int
    """The last seq that the log had then. A cursor between the two is stale."""

    timestamp_ms: int
    """The time when it began, in milliseconds since 1970-01-01 UTC."""

    reason: str
    """Why it began, in the words of whoever began it."""

    def is_stale(self, cursor: int) -> bool:
        """Whether a cursor is from a state of the log that is gone since the epoch began."""
        return self.after_seq < cursor < self.seq


def first_event(last_seq: int, *, now_us: int, event_id: str, reason: str) -> PersistedEvent:
    """The event that begins an epoch of a log.

    Args:
      last_seq: the last seq of the log.
      now_us: the time in microseconds since 1970-01-01 UTC.
      event_id: the id that it gets.
      reason: why the epoch begins.

    Raises:
      ValueError: the log has come so far that no seq is left.
    """
    seq = max(now_us, FIRST_EPOCH_SEQ)
    if seq <= last_seq:
        seq = last_seq + _STEP
    if seq >= MAX_STORED:
        raise ValueError(f"there is no seq for another epoch after seq {last_seq}")
    event = ModuleEvent(_MODULE, EPOCH_TYPE, {"after_seq": last_seq, "reason": reason})
    return PersistedEvent(event_id, seq, now_us // 1000, None, event)


def epochs_after(cursor: int) -> EventQuery:
    """The query for the events that began the epochs after a cursor."""
    return EventQuery(event_types=(EPOCH_TYPE,), after_seq=max(cursor, FIRST_EPOCH_SEQ - 1))


def epoch_of(event: PersistedEvent) -> Epoch | None:
    """The epoch that ``event`` began; None if it is an event of another kind, or began one of another log.

    If the event was erased, the log counts as having had nothing then.
    """
    if not _is_of_epochs(event):
        return None
    found: object = event.event.payload
    payload = found if isinstance(found, dict) else {}
    after, reason = payload.get("after_seq"), payload.get("reason")
    # Ingested into another log, it has the next seq there, and nothing is gone.
    if event.seq // 1000 != event.timestamp_ms and not (
        event.seq == FIRST_EPOCH_SEQ or type(after) is not int or event.seq == after + _STEP
    ):
        return None
    return Epoch(
        id=event.id,
        seq=event.seq,
        after_seq=after if type(after) is int else 0,
        timestamp_ms=event.timestamp_ms,
        reason=reason if isinstance(reason, str) else "",
    )


def is_epoch(event: PersistedEvent) -> bool:
    """Whether ``event`` began an epoch, and has nothing in it but what that takes."""
    if not _is_of_epochs(event):
        return False
    payload: object = event.event.payload
    return (
        isinstance(payload, dict)
        and set(payload) == {"after_seq", "reason"}
        and type(payload["after_seq"]) is int
        and isinstance(payload["reason"], str)
    )


def _is_of_epochs(event: PersistedEvent) -> bool:
    inner = event.event
    return inner.event_type == EPOCH_TYPE and isinstance(inner, ModuleEvent) and inner.module == _MODULE
