"""What tests of readers share: programs that write, the events of these, and queries for them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio
import trio.testing
from hypothesis import strategies as st

from tests._helpers.fakes import numbered
from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventLog,
    EventQuery,
    EventsLost,
    ModuleEvent,
    PersistedEvent,
    Subscription,
)
from trio_eventlog.stores import MemoryStore

QUERIES = {
    "all": EventQuery(),
    "a run": EventQuery(run_id="r-1"),
    "a type": EventQuery(event_types=("even",)),
    "a member": EventQuery(member_id="worker-1", since_ms=10),
    "none": EventQuery(identity="nobody"),
}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ingest"), st.integers(1, 30)),
        st.tuples(st.just("repeat"), st.integers(0, 20)),
        st.tuples(st.just("flush"), st.floats(0, 3)),
        st.tuples(st.just("sleep"), st.floats(0, 4)),
    ),
    max_size=12,
)


def varied(number: int) -> AgentEvent | ModuleEvent:
    """An event that some of the queries find."""
    if number % 7 == 0:
        return ModuleEvent("scheduler", "tick", {"number": number})
    payload = {"number": number, "run_id": f"r-{number % 3}"}
    return AgentEvent(f"worker-{number % 2}", "odd" if number % 2 else "even", payload)


async def play(log: EventLog, steps: list[tuple[str, Any]]) -> None:
    """The program whose events are followed."""
    number = 0
    for step, argument in steps:
        match step:
            case "ingest":
                for _ in range(argument):
                    log.ingest(EventEnvelope.of(varied(number), event_id=f"e{number}", timestamp_ms=number))
                    number += 1
            case "repeat":
                event_id = f"e{min(argument, number)}"
                log.ingest(EventEnvelope.of(varied(number), event_id=event_id, timestamp_ms=number))
                number += 1
            case "flush":
                with trio.move_on_after(argument), suppress(EventsLost):
                    await log.flush()
            case _:
                await trio.sleep(argument)


def event(seq: int, timestamp_ms: int | None = None) -> PersistedEvent:
    """One for a store."""
    inner = varied(seq)
    member_id = inner.agent_id if isinstance(inner, AgentEvent) else None
    return PersistedEvent(f"e{seq}", seq, seq if timestamp_ms is None else timestamp_ms, member_id, inner)


async def store_with(seqs: Sequence[int]) -> MemoryStore:
    """Some events."""
    store = MemoryStore()
    await store.append_batch([event(seq) for seq in seqs])
    return store


async def filled(log: EventLog, count: int) -> None:
    """Ingest and flush."""
    for number in range(count):
        log.ingest(numbered(number))
    await log.flush()


async def seqs_of(events: Subscription, count: int) -> list[int]:
    """The next ones."""
    return [(await anext(events)).seq for _ in range(count)]
