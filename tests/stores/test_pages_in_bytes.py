"""Pages are bounded in bytes, too, whether the store can help with that or not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from tests._helpers.pages_in_bytes import (
    assert_pages_are_the_query,
    assert_pages_weigh_names,
    large_and_small,
)
from trio_eventlog import AgentEvent, EventQuery, PersistedEvent
from trio_eventlog.reading import iter_events, merge_events, tail
from trio_eventlog.stores import MemoryStore, SqliteStore

MIB = 2**20


async def test_pages_of_sqlite(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "events.db") as store:
        await store.append_batch(large_and_small())

        await assert_pages_are_the_query(store)
    async with SqliteStore.open(tmp_path / "events.db", log="names") as store:
        await assert_pages_weigh_names(store)


async def test_more_types_than_a_statement_takes(tmp_path: Path) -> None:
    """They are checked in Python: the page ends at its bytes all the same."""
    types = ("large", *(f"t{n}" for n in range(11_000)))
    async with SqliteStore.open(tmp_path / "events.db") as store:
        await store.append_batch(large_and_small())
        page = await store.query_page(EventQuery(event_types=types), max_bytes=1)

        assert [event.seq for event in page.events] == [1]
        assert not page.is_complete


class Watched:
    """Without `query_page`, and with a note of what each query brought."""

    def __init__(self) -> None:
        self._inner = MemoryStore()
        self.brought: list[list[int]] = []

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        return await self._inner.append_batch(events)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        found = await self._inner.query(query)
        self.brought.append([event.seq for event in found])
        return found

    async def last_seq(self) -> int:
        return await self._inner.last_seq()


def mebibytes(seqs: Sequence[int]) -> list[PersistedEvent]:
    """An event of a mebibyte for each."""
    text = "x" * MIB
    return [PersistedEvent(f"e{seq}", seq, seq, "a", AgentEvent("a", "t", {"text": text})) for seq in seqs]


async def test_a_store_that_counts_events_is_asked_for_few_large_ones() -> None:
    """After the first page, for as many as fit; for more again once they are small."""
    store = Watched()
    await store.append_batch(mebibytes(range(1, 61)))
    small = [PersistedEvent(f"e{seq}", seq, seq, "a", AgentEvent("a", "t")) for seq in range(61, 1061)]
    await store.append_batch(small)

    assert [event.seq async for event in iter_events(store)] == list(range(1, 1061))
    assert [len(page) for page in store.brought[:4]] == [32, 3, 3, 3]
    assert max(len(page) for page in store.brought) > 100


async def test_every_reader_holds_few_large_events(tmp_path: Path) -> None:
    """Whatever follows or merges: it asks the store for pages that fit."""
    sizes: list[int] = []

    class Measured(SqliteStore):
        async def query_page(self, query, *, max_bytes):  # type: ignore[no-untyped-def]
            page = await super().query_page(query, max_bytes=max_bytes)
            sizes.append(len(page.events))
            return page

    async with SqliteStore.open(tmp_path / "events.db") as store:
        for start in range(1, 21, 5):
            await store.append_batch(mebibytes(range(start, start + 5)))
        store.__class__ = Measured
        expected = list(range(1, 21))
        assert [event.seq async for event in iter_events(store)] == expected
        assert [item.event.seq async for item in merge_events({"a": store})] == expected
        async with tail(store, EventQuery(limit=20), after_seq=0) as events:
            assert [event.seq async for event in events] == expected

    assert max(sizes) == 4
