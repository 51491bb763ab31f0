"""For each field of a query, a value that some events match, for whatever has to know all fields."""

from __future__ import annotations

from typing import Any

import attrs

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent

MATCHING: dict[str, tuple[Any, list[int]]] = {
    "since_ms": (20, [2, 3]),
    "until_ms": (20, [1]),
    "member_id": ("b", [2]),
    "identity": ("b", [2]),
    "mob_id": ("b", [2]),
    "run_id": ("b", [2]),
    "step_id": ("b", [2]),
    "event_types": (("b",), [2]),
    "limit": (1, [1]),
    "after_seq": (1, [2, 3]),
    "module": ("m", [3]),
    "fields": ({"run_id": "b"}, [2]),
}
"""By field: what is asked for, and the seqs of the events of :func:`three_events` that match."""

FIELDS = [field.name for field in attrs.fields(EventQuery)]


def query_by(field: str) -> EventQuery:
    """A query with this field alone."""
    return EventQuery(**{field: MATCHING[field][0]})


def three_events() -> list[PersistedEvent]:
    """One with "a" in each place that a query can ask for, one with "b", and one with nothing there."""
    events = [
        PersistedEvent(f"id-{text}", seq, 10 * seq, text, AgentEvent(text, text, _scopes(text)))
        for seq, text in enumerate("ab", 1)
    ]
    return [*events, PersistedEvent("id-c", 3, 30, None, ModuleEvent("m", "t", ["b"]))]


def _scopes(text: str) -> dict[str, str]:
    return dict.fromkeys(("identity", "mob_id", "run_id", "step_id"), text)


async def assert_filters_by_every_field(store: Any) -> None:
    """``store`` is empty. The answer to a query by each field alone is right, also as pages by bytes."""
    await store.append_batch(three_events())
    for field in FIELDS:
        query, seqs = query_by(field), MATCHING[field][1]
        assert [event.seq for event in await store.query(query)] == seqs, field
        if hasattr(store, "query_page"):
            page = await store.query_page(query, max_bytes=2**20)
            assert [event.seq for event in page.events] == seqs, field
