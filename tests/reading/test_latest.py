"""The latest events: of stores that read backwards, and of those that do not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest
import trio.testing

from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent, StoreError
from trio_eventlog._reading import _latest
from trio_eventlog.reading import latest_events
from trio_eventlog.stores import MemoryStore


class ForwardStore:
    """Reads only forwards, and counts what it reads."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.read = 0

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        return await self.inner.append_batch(events)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        found = await self.inner.query(query)
        self.read += len(found)
        return found

    async def last_seq(self) -> int:
        return await self.inner.last_seq()


def event(seq: int) -> PersistedEvent:
    return PersistedEvent(f"id-{seq}", seq, seq, None, ModuleEvent("m", f"t{seq % 100}"))


@pytest.mark.parametrize("step", [1, 7, 1_000])
@pytest.mark.parametrize("page_size", [1, 3, 1_000])
async def test_a_store_that_reads_forwards_answers_as_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch, step: int, page_size: int
) -> None:
    """Whatever the steps; with gaps, a cursor, filters and bounds."""
    monkeypatch.setattr(_latest, "_FIRST_STEP", step)
    monkeypatch.setattr(_latest, "_PAGE_SIZE", page_size)
    store = ForwardStore()
    await store.append_batch([event(seq) for seq in range(1, 121) if seq % 7 and not 40 < seq < 60])
    for query in (EventQuery(), EventQuery(after_seq=30), EventQuery(event_types=("t3", "t95"))):
        for before_seq in (None, 0, 1, 35, 50, 121, 2**64 - 1):
            for limit in (0, 1, 5, 200, 2**64 - 1):
                expected = await store.inner.latest(query, before_seq=before_seq, limit=limit)
                found = await latest_events(store, query, before_seq=before_seq, limit=limit)
                assert found == expected, (query, before_seq, limit)
                assert found == await latest_events(store.inner, query, before_seq=before_seq, limit=limit)


async def test_only_the_end_of_a_log_is_read() -> None:
    """Of a store that reads forwards, more only as far as it takes."""
    store = ForwardStore()
    await store.append_batch([event(seq) for seq in range(1, 20_001)])
    assert [found.seq for found in await latest_events(store, limit=3)] == [20_000, 19_999, 19_998]
    assert store.read <= 1_000
    store.read = 0
    assert await latest_events(store, EventQuery(event_types=("absent",)), limit=3) == []
    assert store.read == 0


async def test_an_empty_log() -> None:
    for store in (MemoryStore(), ForwardStore()):
        with trio.testing.assert_checkpoints():
            assert await latest_events(store, limit=5) == []
        with trio.testing.assert_checkpoints():
            assert await latest_events(store, limit=0) == []


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"query": "all", "limit": 1}, TypeError, "query: expected an EventQuery"),
        ({"query": EventQuery(limit=3), "limit": 1}, ValueError, "query: has a limit"),
        ({"limit": -1}, ValueError, "limit: expected 0 to"),
        ({"limit": True}, TypeError, "limit: expected an integer"),
        ({"limit": 1, "before_seq": 2**64}, ValueError, "before_seq: expected 0 to"),
        ({"limit": 1, "before_seq": "5"}, TypeError, "before_seq: expected an integer"),
    ],
)
async def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], told: str) -> None:
    for store in (MemoryStore(), ForwardStore()):
        with pytest.raises(error, match=f"^{told}"):
            await latest_events(store, **arguments)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((), "a list of events, got tuple"),
        ([1], "PersistedEvents, got int"),
        ([event(3), event(5)], "events in descending order of seq"),
        ([event(9)], "seqs below 9, got 9"),
        ([event(6), event(5), event(4), event(3)], "at most 3 events, got 4"),
        ([event(2)], "events in descending order of seq, got seq 2 after 2"),
    ],
)
async def test_a_wrong_answer_names_the_store(answer: Any, told: str) -> None:
    class Wrong(MemoryStore):
        async def latest(self, *_args: object, **_kwargs: object) -> Any:
            return answer

    with pytest.raises(StoreError, match=rf"^latest of .* must return {told}"):
        await latest_events(Wrong(), EventQuery(after_seq=2), before_seq=9, limit=3)
