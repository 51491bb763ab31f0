"""Events as columns of a table, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from trio_eventlog._model._events import AgentEvent, ModuleEvent, PersistedEvent, persisted, sealed
from trio_eventlog._model._sealed import encoded_payload, scopes_of_event
from trio_eventlog._speedups import core

AGENT: Final = 0
MODULE: Final = 1

COLUMNS: Final = (
    *("seq", "id", "timestamp_ms", "kind", "actor", "event_type", "member_id"),
    *("identity", "mob_id", "run_id", "step_id", "payload"),
)
"""``kind`` is :data:`AGENT` or :data:`MODULE`; ``actor`` is the id of the agent or the name of the module."""

Columns: TypeAlias = tuple[
    *tuple[int, str, int, int, str, str],
    *tuple[str | None, str | None, str | None, str | None, str | None, bytes | str | None],
]
"""An event, as :data:`COLUMNS` lists them. The payload is JSON, and None for a payload of None."""


def columns_of(event: PersistedEvent) -> Columns:
    """The columns of a sealed event."""
    content = event.event
    payload = encoded_payload(content)
    if isinstance(content, AgentEvent):
        kind, actor = AGENT, content.agent_id
    else:
        kind, actor = MODULE, content.module
    identity, mob_id, run_id, step_id = scopes_of_event(content)
    return (
        event.seq,
        event.id,
        event.timestamp_ms,
        kind,
        actor,
        content.event_type,
        event.member_id,
        identity,
        mob_id,
        run_id,
        step_id,
        None if payload == ("null" if isinstance(payload, str) else b"null") else payload,
    )


StoredColumns: TypeAlias = tuple[int, str, int, int, str, str, str | None, bytes | str | None]
"""Of these, the ones that an event is made from: all but the scopes, which are in the payload too."""


def event_of_in_python(columns: StoredColumns) -> PersistedEvent:
    """See :data:`event_of`."""
    seq, event_id, timestamp_ms, kind, actor, event_type, member_id, payload = columns
    content = sealed(
        AgentEvent if kind == AGENT else ModuleEvent,
        actor,
        event_type,
        b"null" if payload is None else payload,
    )
    if member_id == (actor if kind == AGENT else None):
        # Nearly always. Reading takes a third longer with the constructor.
        return persisted(event_id, seq, timestamp_ms, content)
    return PersistedEvent(event_id, seq, timestamp_ms, member_id, content)


event_of: Final[Callable[[StoredColumns], PersistedEvent]] = (
    event_of_in_python if core is None else core.event_of
)
"""The event of these columns. Its payload stays JSON until it is first read."""
