"""What a page that is cut off by its bytes must be, for every store that can cut it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.abc import EventStore, PagedStore

LARGE = 100_000
"""Bytes of the payload of a large event."""

FILTERS = {
    "everything": EventQuery(),
    "one type": EventQuery(event_types=("large",)),
    "types": EventQuery(event_types=("large", "small")),
    "more types than a statement merges": EventQuery(event_types=("large", *(f"t{n}" for n in range(50)))),
    "a run": EventQuery(run_id="r-1"),
    "time": EventQuery(since_ms=3, until_ms=19),
}


def large_and_small() -> list[PersistedEvent]:
    """Two large events, then two small ones, and so on."""
    return [
        PersistedEvent(
            f"e{seq}", seq, seq, "a", AgentEvent("a", kind, {"run_id": f"r-{seq % 2}", "text": text})
        )
        for seq in range(1, 25)
        for kind, text in [("small", "x") if (seq - 1) % 4 > 1 else ("large", "x" * LARGE)]
    ]


async def assert_pages_are_the_query(store: EventStore, filters: Sequence[str] = tuple(FILTERS)) -> None:
    """Read page by page, however small, it is what one query gives, and no page is much larger."""
    assert isinstance(store, PagedStore)
    for name in filters:
        for limit in (None, 5):
            query = attrs.evolve(FILTERS[name], limit=limit)
            expected = await store.query(query)
            assert expected
            for max_bytes in (1, LARGE + LARGE // 2, 3 * LARGE, 100 * LARGE):
                got: list[PersistedEvent] = []
                is_complete = False
                while not is_complete:
                    left = None if limit is None else limit - len(got)
                    after = got[-1].seq if got else None
                    page = await store.query_page(
                        attrs.evolve(query, after_seq=after, limit=left), max_bytes=max_bytes
                    )
                    is_complete = page.is_complete
                    assert page.events or is_complete
                    large = [event for event in page.events if event.event.event_type == "large"]
                    assert len(large) <= max_bytes // LARGE + 1
                    assert max_bytes > 1 or len(page.events) <= 1
                    got += page.events
                assert got == expected
    nothing = await store.query_page(EventQuery(limit=0), max_bytes=1)
    assert (nothing.events, nothing.is_complete) == ([], True)
    for wrong in (0, -1, 1.0, True, None):
        with pytest.raises((TypeError, ValueError), match=r"max_bytes: expected"):
            await store.query_page(EventQuery(), max_bytes=wrong)  # type: ignore[arg-type]


NAMES = ("id", "module", "type")


async def assert_pages_weigh_names(store: EventStore) -> None:
    """What is large need not be the payload."""
    assert isinstance(store, PagedStore)
    large = "\u00e9" * (LARGE // 2)
    events = []
    for seq in range(1, 13):
        name = NAMES[seq % len(NAMES)]
        texts = {one: f"{seq}{large if one == name else ''}" for one in NAMES}
        event = ModuleEvent(texts["module"], texts["type"])
        events.append(PersistedEvent(texts["id"], seq, seq, None, event))
    await store.append_batch(events)
    after = 0
    while after < len(events):
        page = await store.query_page(EventQuery(after_seq=after), max_bytes=LARGE + LARGE // 2)
        assert [event.seq for event in page.events] == [after + 1, after + 2]
        after += 2
        assert page.is_complete == (after == len(events))
