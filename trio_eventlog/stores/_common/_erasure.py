"""What is left of an event whose payload was erased."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from trio_eventlog._model._epochs import is_epoch
from trio_eventlog._model._events import AgentEvent, ModuleEvent, PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._sealed import seal_persisted
from trio_eventlog._model._tombstones import ERASED, is_tombstone
from trio_eventlog.stores._common._arguments import check_query

MAX_PAGE_BYTES: Final = 16 * 2**20
"""Bytes of events that are erased at once, unless a single one is larger."""

Commitment: TypeAlias = Callable[[PersistedEvent], str]


def check_erase(query: object, reason: object, commitment: object) -> None:
    """Check the arguments of ``erase``."""
    check_query(query)
    if not isinstance(reason, str):
        raise TypeError(f"reason: expected a string, got {type(reason).__name__}")
    if not reason:
        raise ValueError("reason: expected a few words, got ''")
    try:
        reason.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"reason: expected text that UTF-8 can carry, got {reason!a}") from exc
    if commitment is not None and not callable(commitment):
        raise TypeError(f"commitment: expected a function or None, got {type(commitment).__name__}")


def has_nothing_to_erase(event: PersistedEvent) -> bool:
    """Whether an event is left alone: its payload was erased, or tells readers where an epoch began."""
    return is_tombstone(event.event.payload) or is_epoch(event)


def tombstone_of(
    event: PersistedEvent, reason: str, at_ms: int, commitment: Commitment | None
) -> PersistedEvent:
    """The event without its payload, sealed.

    Raises:
      TypeError: ``commitment`` returned something else than a string.
    """
    made: object = None if commitment is None else commitment(event)
    if commitment is not None and not isinstance(made, str):
        raise TypeError(f"commitment: expected it to return a string, got {type(made).__name__}")
    payload = {ERASED: {"reason": reason, "at_ms": at_ms, "commitment": made}}
    inner = event.event
    if isinstance(inner, AgentEvent):
        kept: AgentEvent | ModuleEvent = AgentEvent(inner.agent_id, inner.event_type, payload)
    else:
        kept = ModuleEvent(inner.module, inner.event_type, payload)
    return seal_persisted(PersistedEvent(event.id, event.seq, event.timestamp_ms, event.member_id, kept))


def next_query(query: EventQuery, after_seq: int, seen: int, most: int) -> EventQuery:
    """The query for up to ``most`` more events, after ``seen`` events up to a seq."""
    limit = most if query.limit is None else min(most, query.limit - seen)
    return attrs.evolve(query, after_seq=after_seq, limit=limit)
