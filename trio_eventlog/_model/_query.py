"""What a store can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from trio_eventlog._model._checks import check_string, check_unsigned
from trio_eventlog._model._events import ModuleEvent, PersistedEvent
from trio_eventlog._model._fields import NO_FIELDS, to_fields
from trio_eventlog._model._payload import SCOPES


def _check(check: Callable[[object], object], value: object, name: str) -> None:
    try:
        check(value)
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"{name}: {exc}") from None


def _check_integer(_query: EventQuery, field: attrs.Attribute[int | None], value: object) -> None:
    if value is not None:
        _check(check_unsigned, value, field.name)


def _check_string(_query: EventQuery, field: attrs.Attribute[str | None], value: object) -> None:
    if value is not None:
        _check(check_string, value, field.name)


def _check_strings(
    _query: EventQuery, field: attrs.Attribute[tuple[str, ...]], value: tuple[object, ...]
) -> None:
    for index, item in enumerate(value):
        _check(check_string, item, f"{field.name}[{index}]")


def _to_tuple(value: Iterable[str] | None) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"event_types: expected a tuple of strings, got {type(value).__name__}")
    return tuple(value)


# A new field has to be known to:
#
# * `matches`, by which MemoryStore, JetStream's reader and recent events filter;
# * what looks at less than an event: the outlines in _engine/_recent_events.py, is_unfiltered in
#   _reading/_pages.py (which compares with EventQuery()), subjects and `is_exact` in stores/jetstream;
# * the statements in stores/sqlite/_select.py and stores/postgres/_select.py, with stores/_common/_bounds.py;
# * users: the options in cli/_options.py, and the harness in testing/_checks/_filters.py.
#
# tests/model/test_query_fields.py, and its twin for servers, ask each of them for every field.
@attrs.frozen(kw_only=True)
class EventQuery:
    """A filter over a log, an order (always ascending by seq) and a limit.

    Every field is optional; an event must match all that are given (AND). Strings compare exactly: case,
    white space and accents matter, and there are no wildcards. An empty string is a value like any other, not
    the absence of one.

    Args:
      since_ms: earliest ``timestamp_ms``, inclusive. Milliseconds since 1970-01-01 UTC.
      until_ms: latest ``timestamp_ms``, exclusive.
      member_id: the member's id. Module events have none.
      identity: value of ``identity`` at the top level of the payload.
      mob_id: value of ``mob_id`` there.
      run_id: value of ``run_id`` there.
      step_id: value of ``step_id`` there. Only strings count: an event whose payload is not an object, or has
        a number under the key, is in no such scope and never matches.
      event_types: any of these types; empty for all types.
      limit: at most this many events, those with the lowest seqs. 0 gives none.
      after_seq: only events with a higher seq: the cursor for paging.
      module: the module. Events of agents have none.
      fields: JSON values by key: at the top level of the payload, each of these keys must hold the same
        value. Values are the same if they are of one type (1, 1.0 and true are three values) and equal: the
        same number (0.0 and -0.0 are two), the same characters, the same items in the same order, the same
        values under the same keys in any order. None is JSON's null, and not a key that is absent. What is
        kept is immutable, and a copy.

    In the wire form, ``module`` and ``fields`` are left out like all others if they are not set. Integers
    range from 0 to 2**64 - 1. A value beyond the range of a store (2**63 - 1) is legal and simply
    matches everything or nothing.

    Raises:
      TypeError: a field has the wrong type (a bool is not an integer); the message names the field.
      ValueError: an integer is out of range, a string has a lone surrogate, or a value of ``fields`` is not
        JSON.
    """

    since_ms: int | None = attrs.field(default=None, validator=_check_integer)
    until_ms: int | None = attrs.field(default=None, validator=_check_integer)
    member_id: str | None = attrs.field(default=None, validator=_check_string)
    identity: str | None = attrs.field(default=None, validator=_check_string)
    mob_id: str | None = attrs.field(default=None, validator=_check_string)
    run_id: str | None = attrs.field(default=None, validator=_check_string)
    step_id: str | None = attrs.field(default=None, validator=_check_string)
    event_types: tuple[str, ...] = attrs.field(default=(), converter=_to_tuple, validator=_check_strings)
    limit: int | None = attrs.field(default=None, validator=_check_integer)
    after_seq: int | None = attrs.field(default=None, validator=_check_integer)
    module: str | None = attrs.field(default=None, validator=_check_string)
    fields: Mapping[str, Any] = attrs.field(default=NO_FIELDS, converter=to_fields)

    def matches(self, event: PersistedEvent) -> bool:
        """Whether ``event`` passes every filter. This is the definition of what a filter means.

        ``limit`` plays no part: it concerns a result, not an event.
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
        if self.module is not None and not is_of_module(event, self.module):
            return False
        return self._matches_scopes(event) and self.matches_fields(event)

    def matches_fields(self, event: PersistedEvent) -> bool:
        """Whether the payload of ``event`` has what :attr:`fields` asks for."""
        return not self.fields or to_fields(self.fields).are_in(event.event.payload)

    def _matches_scopes(self, event: PersistedEvent) -> bool:
        wanted = [(key, value) for key in SCOPES if (value := getattr(self, key)) is not None]
        if not wanted:
            return True
        payload = event.event.payload
        if not isinstance(payload, dict):
            return False
        # No JSON value of another type is equal to a string.
        return all(payload.get(key) == value for key, value in wanted)


def is_of_module(event: PersistedEvent, module: str) -> bool:
    """Whether an event is one of this module."""
    return isinstance(event.event, ModuleEvent) and event.event.module == module
