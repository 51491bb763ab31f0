"""What can be asked of a store. Floor 0: attrs and the standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from trio_eventlog._model._events import MAX_U64, PersistedEvent

SCOPES = ("identity", "mob_id", "run_id", "step_id")
"""Payload keys whose string values put an event into a scope that a query can ask for."""


def _check_u64(_query: EventQuery, field: attrs.Attribute[int | None], value: object) -> None:
    if value is None:
        return
    # bool is an int to Python, but True is no time and no number of events.
    if type(value) is not int:
        msg = f"{field.name}: expected an integer, got {type(value).__name__}"
        raise TypeError(msg)
    if not 0 <= value <= MAX_U64:
        # Python refuses to turn very long integers into text.
        shown = str(value) if value.bit_length() < 128 else f"one of {value.bit_length()} bits"  # noqa: PLR2004 - long enough
        msg = f"{field.name}: expected 0 to 2**64 - 1, got {shown}"
        raise ValueError(msg)


def _check_text(_query: EventQuery, field: attrs.Attribute[str | None], value: object) -> None:
    if value is not None:
        _require_text(value, field.name)


def _check_texts(
    _query: EventQuery, field: attrs.Attribute[tuple[str, ...]], value: tuple[object, ...]
) -> None:
    for index, item in enumerate(value):
        _require_text(item, f"{field.name}[{index}]")


def _require_text(value: object, path: str) -> None:
    if type(value) is not str:
        msg = f"{path}: expected a string, got {type(value).__name__}"
        raise TypeError(msg)
    try:
        value.encode()
    except UnicodeEncodeError:
        msg = f"{path}: has a lone surrogate, which no JSON text can carry"
        raise ValueError(msg) from None


def _to_tuple(value: Iterable[str] | None) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        msg = f"event_types: expected a tuple of strings, got {type(value).__name__}"
        raise TypeError(msg)
    return tuple(value)


@attrs.frozen(kw_only=True)
class EventQuery:
    """A filter over a log, an order (always ascending by seq) and a limit.

    Every field is optional; those given must all hold (AND). Strings compare exactly: case, white
    space and accents count, and nothing is a wildcard. An empty string is a value like any other,
    not the absence of one.

    Args:
      since_ms: earliest ``timestamp_ms``, inclusive. Milliseconds since 1970-01-01 UTC.
      until_ms: latest ``timestamp_ms``, exclusive.
      member_id: the member's id. Module events have none.
      identity: value of ``identity`` at the top level of the payload.
      mob_id: value of ``mob_id`` there.
      run_id: value of ``run_id`` there.
      step_id: value of ``step_id`` there. Only strings count: an event whose payload is no object,
        or that carries a number under the key, belongs to no such scope and never matches.
      event_types: any of these types; empty for all of them.
      limit: at most so many events, those with the lowest seqs. 0 gives none.
      after_seq: only events with a higher seq: the cursor for paging.

    Integers range from 0 to 2**64 - 1. What lies beyond the range of a store (2**63 - 1) is legal
    and simply matches everything or nothing.

    Raises:
      TypeError: a field is of the wrong type (a bool is no integer); the message names it.
      ValueError: an integer is out of range, or a string carries a lone surrogate.
    """

    since_ms: int | None = attrs.field(default=None, validator=_check_u64)
    until_ms: int | None = attrs.field(default=None, validator=_check_u64)
    member_id: str | None = attrs.field(default=None, validator=_check_text)
    identity: str | None = attrs.field(default=None, validator=_check_text)
    mob_id: str | None = attrs.field(default=None, validator=_check_text)
    run_id: str | None = attrs.field(default=None, validator=_check_text)
    step_id: str | None = attrs.field(default=None, validator=_check_text)
    event_types: tuple[str, ...] = attrs.field(default=(), converter=_to_tuple, validator=_check_texts)
    limit: int | None = attrs.field(default=None, validator=_check_u64)
    after_seq: int | None = attrs.field(default=None, validator=_check_u64)

    def matches(self, event: PersistedEvent) -> bool:
        """Whether ``event`` passes every filter. The one definition of what a filter means.

        Knows nothing of ``limit`` and of order: those concern a result, not an event.
        """
        if self.after_seq is not None and event.seq <= self.after_seq:
            return False
        if self.since_ms is not None and event.timestamp_ms < self.since_ms:
            return False
        if self.until_ms is not None and event.timestamp_ms >= self.until_ms:
            return False
        if self.member_id is not None and event.member_id != self.member_id:
            return False
        if self.event_types and event.event.event_type not in self.event_types:
            return False
        return self._matches_scopes(event)

    def _matches_scopes(self, event: PersistedEvent) -> bool:
        wanted = [(key, value) for key in SCOPES if (value := getattr(self, key)) is not None]
        if not wanted:
            return True
        payload = event.event.payload
        if not isinstance(payload, dict):
            return False
        # An equal value of another type cannot stand in for a string, so == is exact here.
        return all(payload.get(key) == value for key, value in wanted)
