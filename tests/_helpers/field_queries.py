"""Events with alike values under a few keys, and queries for them, drawn from a seed."""

from __future__ import annotations

import random
from typing import Any

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.stores import MemoryStore

KEY = "it's?:s.%d $1 é"
"""A key that statements must not take for something else."""

VALUES: tuple[Any, ...] = (
    *(1, 1.0, True, "1", None, 0.0, -0.0, 2**53, 2**53 + 1, float(2**53), 2**64 - 1, 5e-324),
    *("é", "e\u0301", "a\0", "a", "\\u0000", "q'q", '"', "\U0001f600", "", "x" * 3_000),
    *([1], [1.0], [], {}, {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"k": 1}),
)


def events_with_fields(count: int, seed: int = 0) -> list[PersistedEvent]:
    """On the seqs from 1 on."""
    chance = random.Random(seed)  # noqa: S311 - a test
    return [_event(seq, chance) for seq in range(1, count + 1)]


def _event(seq: int, chance: random.Random) -> PersistedEvent:
    payload: Any = {key: chance.choice(VALUES) for key in ("k", KEY, 'a"b') if chance.random() < 0.8}
    if chance.random() < 0.1:
        payload = chance.choice([None, [payload], {"nested": payload}, "k"])
    kind = chance.choice((AgentEvent, ModuleEvent))
    return PersistedEvent(
        f"id-{seq}", seq, seq, None, kind(chance.choice("mn"), chance.choice("tu"), payload)
    )


def field_queries(count: int, most: int, seed: int = 0) -> list[EventQuery]:
    """By a module, by fields, or by both, with other filters; ``most`` is the highest seq."""
    chance = random.Random(seed)  # noqa: S311 - a test
    return [_query(most, chance) for _ in range(count)]


def _query(most: int, chance: random.Random) -> EventQuery:
    fields = {key: chance.choice(VALUES) for key in ("k", KEY, 'a"b') if chance.random() < 0.4}
    others: dict[str, Any] = {
        "module": chance.choice("mn"),
        "event_types": chance.choice([("t",), ("t", "u")]),
        "limit": chance.choice([0, 1, 2, 5, 300]),
        "after_seq": chance.randrange(most),
        "since_ms": chance.randrange(most),
    }
    given = {name: value for name, value in others.items() if chance.random() < 0.3}
    return EventQuery(fields=fields, **given)


async def assert_finds_as_memory_does(
    store: Any, events: list[PersistedEvent], queries: list[EventQuery]
) -> None:
    """``store`` holds the events. What it finds, also in pages by bytes, is what the model defines."""
    memory = MemoryStore()
    await memory.append_batch(events)
    found = 0
    for query in queries:
        expected = await memory.query(query)
        found += len(expected)
        assert await store.query(query) == expected, query
        page = await store.query_page(query, max_bytes=3_000)
        assert page.events == expected[: len(page.events)], query
        assert page.is_complete == (len(page.events) == len(expected)), query
        assert page.events or page.is_complete
    assert found > len(queries)
