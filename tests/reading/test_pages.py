"""Reading in lists: `pages()` of streams, subscriptions and merged logs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from tests._helpers.fakes import numbered
from trio_eventlog import EventQuery, EventsPruned, PersistedEvent, StoreError, open_event_log
from trio_eventlog.reading import iter_events, merge_events, tail
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import Fails, FaultyStore, Works


def event(seq: int, time: int = 0) -> PersistedEvent:
    return PersistedEvent(f"e{seq}", seq, time, "worker", numbered(seq))


async def store_with(count: int) -> MemoryStore:
    store = MemoryStore()
    await store.append_batch([event(seq, seq) for seq in range(1, count + 1)])
    return store


async def seqs_of(pages: AsyncIterator[list[PersistedEvent]]) -> list[Any]:
    """The seqs of each page, and ranges of pruned ones in between."""
    found: list[Any] = []
    while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
        try:
            found.append([item.seq for item in await anext(pages)])
        except StopAsyncIteration:
            return found
        except EventsPruned as exc:
            found.append((exc.first_seq, exc.last_seq))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (EventQuery(), [[1, 2, 3], [4, 5, 6], [7]]),
        (EventQuery(limit=4), [[1, 2, 3], [4]]),
        (EventQuery(limit=0), []),
        (EventQuery(after_seq=5), [[6, 7]]),
        (EventQuery(member_id="another"), []),
    ],
)
async def test_pages_of_a_store(query: EventQuery, expected: list[Any]) -> None:
    events = iter_events(await store_with(7), query, page_size=3)

    assert await seqs_of(events.pages()) == expected
    assert await seqs_of(events.pages()) == []


async def test_pages_and_single_events_share_the_cursor() -> None:
    """One goes on where the other has stopped."""
    events = iter_events(await store_with(9), page_size=4)

    assert (await anext(events)).seq == 1
    assert [item.seq for item in await anext(events.pages())] == [2, 3, 4]
    assert events.cursor == 4
    assert (await anext(events)).seq == 5
    assert await seqs_of(events.pages()) == [[6, 7, 8], [9]]


async def test_a_page_belongs_to_whoever_has_it() -> None:
    """What is done to it does not matter to the stream."""
    events = iter_events(await store_with(4), page_size=4)
    page = await anext(events.pages())
    page.append(page[0])

    assert await seqs_of(events.pages()) == []


async def test_a_page_ends_where_events_were_pruned() -> None:
    """Each gap is reported in its place."""
    store = MemoryStore()
    times = {1: 10, 2: 10, 3: 1, 4: 10, 5: 1, 6: 1, 7: 10}
    await store.append_batch([event(seq, time) for seq, time in times.items()])
    await store.prune(before_ms=5)
    events = iter_events(store, EventQuery(after_seq=1), page_size=10)

    assert await seqs_of(events.pages()) == [[2], (3, 3), [4], (5, 6), [7]]


async def test_pages_of_a_subscription(autojump_clock: trio.testing.MockClock) -> None:
    """What is stored, and then what was stored in the meantime."""
    store = MemoryStore()
    async with open_event_log(store, flush_interval=0.01) as log:
        for number in range(10):
            log.ingest(numbered(number))
        await log.flush()
        async with log.subscribe(after_seq=0) as events, tail(store, after_seq=0) as tailed:
            for pages in (events.pages(), tailed.pages()):
                assert [item.seq for item in await anext(pages)] == list(range(1, 11))
            assert events.is_caught_up
            log.ingest(numbered(10))
            for pages in (events.pages(), tailed.pages()):
                assert [item.seq for item in await anext(pages)] == [11]


async def test_waiting_until_pages_are_caught_up(autojump_clock: trio.testing.MockClock) -> None:
    """Until the task that iterates has come back after the last of them."""
    done: list[int] = []
    async with (
        open_event_log(await store_with(600)) as log,
        log.subscribe(after_seq=0) as events,
        trio.open_nursery() as nursery,
    ):

        async def handle() -> None:
            async for page in events.pages():
                await trio.sleep(1)
                done.extend(item.seq for item in page)

        nursery.start_soon(handle)
        await events.wait_caught_up()
        assert done == list(range(1, 601))
        nursery.cancel_scope.cancel(reason="test")


async def test_a_failed_page_is_read_again() -> None:
    """An error skips nothing, and the same iterator goes on."""
    store = FaultyStore(await store_with(4), query_script=[Works(), Fails()])
    pages = iter_events(store, page_size=2).pages()

    assert [item.seq for item in await anext(pages)] == [1, 2]
    with pytest.raises(StoreError):
        await anext(pages)
    assert await seqs_of(pages) == [[3, 4]]


async def test_one_task_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    """For pages as for single events."""
    async with (
        open_event_log(MemoryStore()) as log,
        log.subscribe() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(anext, events.pages())
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(events.pages())
        with pytest.raises(trio.BusyResourceError):
            await anext(events)
        nursery.cancel_scope.cancel(reason="test")


async def test_pages_of_several_logs() -> None:
    """Ordered by time; a page ends where a store has to be asked, or at its size."""
    odd, even = MemoryStore(), MemoryStore()
    await odd.append_batch([event(seq, 2 * seq + 1) for seq in range(1, 6)])
    await even.append_batch([event(seq, 2 * seq) for seq in range(1, 6)])
    merged = merge_events({"odd": odd, "even": even}, page_size=3)
    first = await anext(merged)
    pages = [page async for page in merged.pages()]

    found = [first, *[item for page in pages for item in page]]
    assert [item.event.timestamp_ms for item in found] == list(range(2, 12))
    assert all(1 <= len(page) <= 3 for page in pages)
    assert merged.cursors == {"odd": 5, "even": 5}


async def test_cursors_of_merged_pages_are_those_of_what_was_handed_out() -> None:
    """And not of what was read."""
    a, b = await store_with(5), await store_with(5)
    merged = merge_events({"a": a, "b": b}, EventQuery(limit=3), page_size=5)

    assert [(item.log, item.event.seq) for item in await anext(merged.pages())] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
    ]
    assert merged.cursors == {"a": 2, "b": 1}
    assert [page async for page in merged.pages()] == []
