"""Events as columns of a table, and back."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from trio_eventlog._model._events import AgentEvent, ModuleEvent, PersistedEvent, sealed
from trio_eventlog._model._sealed import encoded_payload, scopes_of_event

AGENT: Final = 0
MODULE: Final = 1


class Columns(NamedTuple):
    """A sealed event, column by column."""

    seq: int
    id: str
    timestamp_ms: int
    kind: int
    """:data:`AGENT` or :data:`MODULE`."""
    actor: str
    """The id of the agent, or the name of the module."""
    event_type: str
    member_id: str | None
    identity: str | None
    mob_id: str | None
    run_id: str | None
    step_id: str | None
    payload: bytes | None
    """As JSON; None for a payload of None."""


def columns_of(event: PersistedEvent) -> Columns:
    """The columns of a sealed event."""
    content = event.event
    encoded = encoded_payload(content)
    payload = encoded.encode() if isinstance(encoded, str) else encoded
    if isinstance(content, AgentEvent):
        kind, actor = AGENT, content.agent_id
    else:
        kind, actor = MODULE, content.module
    identity, mob_id, run_id, step_id = scopes_of_event(content)
    return Columns(
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
        None if payload == b"null" else payload,
    )


StoredColumns: TypeAlias = tuple[int, str, int, int, str, str, str | None, bytes | str | None]
"""Of :class:`Columns`, those that an event is made from: all but the scopes, which are in the payload too."""


def event_of(columns: StoredColumns) -> PersistedEvent:
    """The event of these columns. Its payload stays JSON until it is first read."""
    seq, event_id, timestamp_ms, kind, actor, event_type, member_id, payload = columns
    cls = AgentEvent if kind == AGENT else ModuleEvent
    content = sealed(cls, actor, event_type, b"null" if payload is None else payload)
    return PersistedEvent(event_id, seq, timestamp_ms, member_id, content)
