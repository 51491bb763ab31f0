"""Events to store, and what a store then holds."""

from tests._helpers import store_oracle as oracle
from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent


def agent(
    seq: int,
    *,
    event_id: str | None = None,
    time_ms: int | None = None,
    agent_id: str = "a",
    event_type: str = "t",
    payload: object = None,
) -> PersistedEvent:
    return PersistedEvent(
        f"id-{seq}" if event_id is None else event_id,
        seq,
        seq * 10 if time_ms is None else time_ms,
        agent_id,
        AgentEvent(agent_id, event_type, payload),
    )


def module(
    seq: int, *, event_id: str | None = None, event_type: str = "t", payload: object = None
) -> PersistedEvent:
    event_id = f"id-{seq}" if event_id is None else event_id
    return PersistedEvent(event_id, seq, seq * 10, None, ModuleEvent("m", event_type, payload))


async def everything(store):
    return [oracle.canonical(event) for event in await store.query(EventQuery())]


def ids(events):
    return [event.id for event in events]
