"""Reading what is there: page by page, and several logs as one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import numbered
from tests._helpers.readers import QUERIES, event, store_with
from trio_eventlog import (
    EventQuery,
    PersistedEvent,
    StaleCursor,
    StoreError,
)
from trio_eventlog.reading import LogEvent, iter_events, merge_events
from trio_eventlog.stores import MemoryStore, SqliteStore

# --- page by page ---------------------------------------------------------------------------------


@given(
    seqs=st.sets(st.integers(1, 60)),
    name=st.sampled_from(sorted(QUERIES)),
    limit=st.none() | st.integers(0, 30),
    after=st.none() | st.floats(0, 1),
    page_size=st.integers(1, 20),
)
def test_it_is_what_one_query_gives(
    seqs: set[int], name: str, limit: int | None, after: float | None, page_size: int
) -> None:
    """However large the pages, and never more at once than one of them."""
    cursor = None if after is None else round(after * max(seqs, default=0))
    query = attrs.evolve(QUERIES[name], limit=limit, after_seq=cursor)

    async def main() -> None:
        store = await store_with(sorted(seqs))
        expected = await store.query(query)
        with mock.patch.object(store, "query", wraps=store.query) as spied:
            got = [found async for found in iter_events(store, query, page_size=page_size)]

        assert got == expected
        assert all(call.args[0].limit <= page_size for call in spied.call_args_list)
        assert spied.call_count <= len(expected) // page_size + 1

    trio.run(main)


async def test_what_comes_meanwhile_is_read_too() -> None:
    """Until the end was found once."""
    store = await store_with([1, 2, 3])
    events = iter_events(store, page_size=2)
    assert (await anext(events)).seq == 1
    await store.append_batch([event(4)])
    assert [found.seq async for found in events] == [2, 3, 4]
    assert events.cursor == 4
    await store.append_batch([event(5)])

    assert [found.seq async for found in events] == []
    assert [found.seq async for found in iter_events(store, EventQuery(after_seq=events.cursor))] == [5]


async def test_an_error_or_a_cancellation_skips_nothing() -> None:
    """Another `async for` goes on."""
    store = await store_with(range(1, 6))
    events = iter_events(store, page_size=2)
    got = []
    for turn in range(5):
        with mock.patch.object(store, "query", side_effect=StoreError("down")):
            if turn % 2 == 0:
                with pytest.raises(StoreError):
                    got.append((await anext(events)).seq)
        with trio.CancelScope() as scope:
            scope.cancel(reason="test")
            got.append((await anext(events)).seq)
        got.append((await anext(events)).seq)

    assert got == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"page_size": 0}, ValueError, "page_size: expected 1 or more events, got 0"),
        ({"page_size": 1.0}, TypeError, "page_size: expected a number of events as an int, got float"),
        ({"query": "all"}, TypeError, "query: expected an EventQuery, got str"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Are named, where it is called."""
    with pytest.raises(error, match=message):
        iter_events(MemoryStore(), **arguments)


async def test_a_page_can_be_as_large_as_it_likes() -> None:
    """Beyond the largest limit of a query, too."""
    stores = await logs_of({"a": [0, 0, 0]})

    assert [found.seq async for found in iter_events(stores["a"], page_size=2**70)] == [1, 2, 3]
    assert [found.event.seq async for found in merge_events(stores, page_size=2**70)] == [1, 2, 3]


# --- several logs as one --------------------------------------------------------------------------

TIMES = st.lists(st.integers(0, 20), max_size=12)


async def logs_of(times: dict[str, list[int]]) -> dict[str, MemoryStore]:
    """Logs whose events have these times."""
    stores = {}
    for name, values in times.items():
        stores[name] = MemoryStore()
        await stores[name].append_batch([event(seq, time) for seq, time in enumerate(values, 1)])
    return stores


@given(
    times=st.dictionaries(st.sampled_from("abcd"), TIMES.map(sorted)),
    name=st.sampled_from(sorted(QUERIES)),
    limit=st.none() | st.integers(0, 20),
    page_size=st.integers(1, 4),
    cuts=st.lists(st.integers(1, 5), max_size=8),
)
def test_merged_by_time_log_and_seq(
    times: dict[str, list[int]], name: str, limit: int | None, page_size: int, cuts: list[int]
) -> None:
    """Also if it is left again and again, and resumed from its cursors."""
    query = attrs.evolve(QUERIES[name], limit=limit)

    async def main() -> None:
        stores = await logs_of(times)
        expected = await sorted_events(stores, QUERIES[name])
        got = [item async for item in merge_events(stores, query, page_size=page_size)]
        assert got == expected[:limit]

        pieces: list[LogEvent] = []
        cursors: dict[str, int] = {}
        for cut in [*cuts, 1_000]:
            some = attrs.evolve(QUERIES[name], limit=cut)
            events = merge_events(stores, some, cursors=cursors, page_size=page_size)
            pieces += [item async for item in events]
            cursors = events.cursors
        assert pieces == expected

    trio.run(main)


async def sorted_events(stores: dict[str, MemoryStore], query: EventQuery) -> list[LogEvent]:
    """All of them, by time, log and seq."""
    items = [LogEvent(log, found) for log, store in stores.items() for found in await store.query(query)]
    return sorted(items, key=lambda item: (item.event.timestamp_ms, item.log, item.event.seq))


@given(times=st.dictionaries(st.sampled_from("abc"), TIMES, min_size=1), cut=st.integers(0, 20))
def test_the_order_of_a_log_wins_over_its_clock(times: dict[str, list[int]], cut: int) -> None:
    """Clocks go back: every event still comes once, each log in its order, and resuming changes nothing."""

    async def main() -> None:
        stores = await logs_of(times)
        whole = [item async for item in merge_events(stores)]
        for log, values in times.items():
            assert [item.event.seq for item in whole if item.log == log] == list(range(1, len(values) + 1))
        # The earliest of what comes next, always.
        cursors = dict.fromkeys(stores, 0)
        for item in whole:
            heads = [(times[log][seq], log) for log, seq in cursors.items() if seq < len(times[log])]
            assert (item.event.timestamp_ms, item.log) == min(heads)
            cursors[item.log] += 1

        first = merge_events(stores, EventQuery(limit=cut))
        begun = [item async for item in first]
        rest = [item async for item in merge_events(stores, cursors=first.cursors)]
        assert begun + rest == whole

    trio.run(main)


async def test_a_cursor_that_is_saved() -> None:
    """Knows what was handed out, and keeps what it is told of other logs."""
    stores = await logs_of({"a": [1, 3], "b": [2]})
    events = merge_events(stores, cursors={"gone": 7})
    assert events.cursors == {"gone": 7}
    await anext(events)
    await anext(events)

    assert events.cursors == {"a": 1, "b": 1, "gone": 7}
    with pytest.raises(StaleCursor) as caught:
        await anext(merge_events(stores, cursors={"a": 2, "b": 2}))
    assert (caught.value.after_seq, caught.value.last_seq) == (2, 1)
    assert caught.value.__notes__ == ["in the log 'b'"]


async def test_a_merge_that_fails_or_is_cancelled_skips_nothing() -> None:
    """In whichever log."""

    class Flaky(MemoryStore):
        calls = 0

        async def query(self, query: EventQuery) -> list[PersistedEvent]:
            self.calls += 1
            if self.calls % 2:
                await trio.lowlevel.checkpoint()
                raise StoreError("down")
            return await super().query(query)

    stores = {"a": Flaky(), "b": Flaky()}
    for name, times in (("a", [1, 4, 5]), ("b", [2, 3, 6])):
        await stores[name].append_batch([event(seq, time) for seq, time in enumerate(times, 1)])
    events = merge_events(stores, page_size=2)
    got: list[tuple[str, int]] = []
    failures = 0
    while True:
        with trio.CancelScope() as scope:
            scope.cancel(reason="test")
            await anext(events)
        try:
            item = await anext(events)
        except StoreError:
            failures += 1
        except StopAsyncIteration:
            break
        else:
            got.append((item.log, item.event.seq))

    assert got == [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]
    assert failures == 4


async def test_one_task_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    """Two would tear the order apart."""

    class Slow(MemoryStore):
        async def query(self, query: EventQuery) -> list[PersistedEvent]:
            await trio.sleep(1)
            return await super().query(query)

    events = merge_events({"a": Slow()})
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            with pytest.raises(StopAsyncIteration):
                await anext(events)

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(events)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"query": EventQuery(after_seq=0)}, ValueError, "query: has an after_seq"),
        ({"query": "all"}, TypeError, "query: expected an EventQuery, got str"),
        ({"stores": [MemoryStore()]}, TypeError, "stores: expected a mapping from names to stores, got list"),
        ({"cursors": [1]}, TypeError, "cursors: expected a mapping from names to seqs, got list"),
        ({"cursors": {"a": -1}}, ValueError, "cursors.'a'.: expected 0 or more, got -1"),
        ({"cursors": {"b": 2**64}}, ValueError, f"cursors.'b'.: expected at most 2..64 - 1, got {2**64}"),
        ({"stores": {1: MemoryStore()}}, TypeError, "stores: expected names as str, got int"),
        ({"stores": {}, "page_size": 0}, ValueError, "page_size: expected 1 or more events, got 0"),
        ({"cursors": {"a": True}}, TypeError, "cursors.'a'.: expected an integer, got bool"),
        ({"page_size": 0}, ValueError, "page_size: expected 1 or more events, got 0"),
    ],
)
def test_bad_arguments_of_a_merge(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Are named, where it is called."""
    with pytest.raises(error, match=message):
        merge_events(**{"stores": {"a": MemoryStore()}, **arguments})


# --- the logs of one file -------------------------------------------------------------------------


async def append(path: Path, log: str, seqs: Collection[int]) -> None:
    """Write to a log of a file."""
    async with SqliteStore.open(path, log=log, synchronous="off") as store:
        await store.append_batch([PersistedEvent(f"e{seq}", seq, seq, None, numbered(seq)) for seq in seqs])


async def test_the_logs_of_a_file(tmp_path: Path) -> None:
    """All of them, or those that are named, through one connection."""
    path = tmp_path / "events.db"
    for name, seqs in (("b", [1, 3]), ("a", [2, 3]), ("c", [1])):
        await append(path, name, seqs)

    async with SqliteStore.open_readers(path) as stores:
        assert list(stores) == ["a", "b", "c"]
        got = [(item.log, item.event.seq) async for item in merge_events(stores)]
        assert got == [("b", 1), ("c", 1), ("a", 2), ("a", 3), ("b", 3)]
        assert len({store._reader for store in stores.values()}) == 1
        # What is written later is seen, too.
        await append(path, "c", [4])
        assert await stores["c"].last_seq() == 4
        with pytest.raises(StoreError, match="read-only"):
            await stores["c"].append_batch([])
    with pytest.raises(StoreError, match="closed"):
        await stores["a"].last_seq()

    async with SqliteStore.open_readers(path, logs=["b"]) as stores:
        assert [(item.log, item.event.seq) async for item in merge_events(stores)] == [("b", 1), ("b", 3)]


async def test_logs_that_cannot_be_opened(tmp_path: Path) -> None:
    """As with one log."""
    with pytest.raises(StoreError, match=r"events\.db"):
        async with SqliteStore.open_readers(tmp_path / "events.db"):
            pass
    with pytest.raises(TypeError, match="logs: expected names, got a single string"):
        async with SqliteStore.open_readers(tmp_path / "events.db", logs="a"):
            pass
    with pytest.raises(ValueError, match="a log name has 1 to 512 bytes"):
        async with SqliteStore.open_readers(tmp_path / "events.db", logs=[""]):
            pass
