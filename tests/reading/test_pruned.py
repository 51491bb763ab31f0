"""Readers of a log from which events go: each event comes once, or is in one range that is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
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
    EventEnvelope,
    EventLog,
    EventQuery,
    EventsPruned,
    EventStore,
    PersistedEvent,
    StaleCursor,
    StoreError,
    open_event_log,
)
from trio_eventlog._reading import _subscription
from trio_eventlog.reading import EventStream, LogEvent, iter_events, merge_events, tail
from trio_eventlog.stores import MemoryStore, NullStore
from trio_eventlog.testing import FaultyStore

Clock = trio.testing.MockClock


class Asked(MemoryStore):
    """Counts what it is asked, and lets something happen before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.hooks: list[Callable[[], Any]] = []

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.hooks:
            await self.hooks.pop(0)()

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        await self._call("query")
        return await super().query(query)

    async def last_seq(self) -> int:
        await self._call("last_seq")
        return await super().last_seq()

    async def pruned_seq(self) -> int:
        await self._call("pruned_seq")
        return await super().pruned_seq()


async def asked_with(seqs: Sequence[int]) -> Asked:
    store = Asked()
    await store.append_batch([event(seq) for seq in seqs])
    return store


async def steps(events: Any, count: int = 1_000) -> list[Any]:
    """The next seqs, ranges that were pruned among them as pairs; until the end."""
    got: list[Any] = []
    while len(got) < count:
        try:
            found = await anext(events)
            got.append((found.event if isinstance(found, LogEvent) else found).seq)
        except EventsPruned as exc:
            got.append((exc.first_seq, exc.last_seq))
        except StopAsyncIteration:
            break
    return got


# --- iter_events ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (EventQuery(after_seq=2), [(3, 5), 6, 7, 8]),
        (EventQuery(after_seq=5), [6, 7, 8]),
        (EventQuery(after_seq=6), [7, 8]),
        (EventQuery(after_seq=0), [6, 7, 8]),
        (EventQuery(), [6, 7, 8]),
        (EventQuery(after_seq=2, event_types=("even",)), [(3, 5), 6, 8]),
        (EventQuery(after_seq=2, member_id="nobody"), [(3, 5)]),
        (EventQuery(after_seq=2, limit=0), []),
        (EventQuery(after_seq=2, limit=1), [(3, 5), 6]),
    ],
)
@pytest.mark.parametrize("page_size", [1, 2, 100])
async def test_a_cursor_behind_which_events_were_pruned(
    query: EventQuery, expected: list[Any], page_size: int
) -> None:
    """The range is told once, and then it goes on; who begins at the first event is told nothing."""
    store = await store_with(range(1, 9))
    await store.prune(keep=3)
    events = iter_events(store, query, page_size=page_size)

    assert await steps(events) == expected
    assert events.cursor == (8 if 8 in expected else max([query.after_seq or 0, *_ends(expected)]))
    assert await steps(events) == []


def _ends(expected: list[Any]) -> list[int]:
    return [item[1] if isinstance(item, tuple) else item for item in expected]


async def test_pruned_while_it_is_read() -> None:
    """Before the next page, and between a page and the question; what was fetched is not lost."""
    store = await asked_with(range(1, 13))
    events = iter_events(store, page_size=3)
    assert await steps(events, 2) == [1, 2]
    await store.prune(keep=6)
    assert await steps(events, 3) == [3, (4, 6), 7]

    # Asked for after the page, so that what goes while it is read is not missed.
    store.hooks.append(lambda: store.prune(keep=1))
    assert await steps(events) == [8, 9, (10, 11), 12]


async def test_gaps_in_the_middle() -> None:
    """By time events can go from anywhere: each gap that this can have made is told in its place."""
    store = MemoryStore()
    times = {1: 10, 2: 10, 3: 1, 4: 10, 5: 1, 6: 1, 7: 10}
    await store.append_batch([event(seq, time) for seq, time in times.items()])
    await store.prune(before_ms=5)
    events = iter_events(store, EventQuery(after_seq=1), page_size=10)

    assert await anext(events) == event(2, 10)
    assert await steps(events) == [(3, 3), 4, (5, 6), 7]


async def test_all_pruned() -> None:
    """There is nothing else."""
    store = await store_with(range(1, 9))
    await store.prune(keep=0)

    assert await steps(iter_events(store, EventQuery(after_seq=2))) == [(3, 8)]
    assert await steps(iter_events(store, EventQuery(after_seq=8))) == []
    assert await steps(iter_events(store)) == []


async def test_ordinary_reading_asks_for_no_more() -> None:
    """Without gaps nothing is asked for but pages."""
    store = await asked_with(range(1, 13))
    assert len(await steps(iter_events(store, page_size=5))) == 12
    assert len(await steps(iter_events(store, EventQuery(after_seq=2), page_size=3))) == 10
    assert set(store.calls) == {"query"}


async def test_stores_that_cannot_tell_behave_as_ever() -> None:
    """Gaps are gaps."""

    class Plain:
        def __init__(self, store: MemoryStore) -> None:
            self.append_batch, self.query, self.last_seq = store.append_batch, store.query, store.last_seq

    store = await store_with(range(1, 9))
    await store.prune(keep=3)
    plain: EventStore = Plain(store)

    assert await steps(iter_events(plain, EventQuery(after_seq=2))) == [6, 7, 8]
    assert await steps(iter_events(FaultyStore(plain), EventQuery(after_seq=2))) == [6, 7, 8]
    assert await steps(iter_events(FaultyStore(store), EventQuery(after_seq=2))) == [(3, 5), 6, 7, 8]


async def test_an_error_or_a_cancellation_of_the_question_skips_nothing() -> None:
    """Neither events nor the range, and nothing comes twice."""
    store = await asked_with(range(1, 9))
    await store.prune(keep=3)
    events = iter_events(store, EventQuery(after_seq=2))

    async def fail() -> None:
        raise StoreError("down")

    async def nothing() -> None:
        pass

    for _ in range(2):
        store.hooks = [nothing, fail]
        with pytest.raises(StoreError):
            await anext(events)
        store.hooks = [nothing, trio.sleep_forever]
        with trio.move_on_after(0.01) as scope:
            await anext(events)
        assert scope.cancelled_caught
        assert store.hooks == []
    assert await steps(events, 2) == [(3, 5), 6]
    with trio.CancelScope() as scope:
        scope.cancel(reason="test")
        await anext(events)
    assert await steps(events) == [7, 8]


# --- merge_events ---------------------------------------------------------------------------------


async def test_a_merge_names_the_log() -> None:
    """In a note; its cursor is past the range, and the other logs go on."""
    stores = {"a": await store_with(range(1, 9)), "b": await store_with(range(1, 5))}
    await stores["a"].prune(keep=3)
    events = merge_events(stores, cursors={"a": 2, "b": 1})
    with pytest.raises(EventsPruned) as caught:
        await anext(events)
    assert (caught.value.first_seq, caught.value.last_seq) == (3, 5)
    assert caught.value.__notes__ == ["in the log 'a'"]
    assert events.cursors == {"a": 5, "b": 1}
    assert await steps(events) == [2, 3, 4, 6, 7, 8]
    assert events.cursors == {"a": 8, "b": 4}


async def test_a_merge_whose_log_went_back() -> None:
    """The cursor is stale, and the log named, also in the middle."""
    stores = {"a": await store_with(range(1, 5)), "b": await store_with(range(1, 5))}
    events = merge_events(stores, page_size=2)
    assert await steps(events, 4) == [1, 1, 2, 2]
    stores["b"].go_back(1)
    with pytest.raises(StaleCursor) as caught:
        await anext(events)
    assert (caught.value.after_seq, caught.value.last_seq) == (2, 1)
    assert caught.value.__notes__ == ["in the log 'b'"]


# --- cursors beyond the end -----------------------------------------------------------------------


@pytest.mark.parametrize("query", [EventQuery(), EventQuery(member_id="worker-1")])
async def test_a_cursor_beyond_the_end_is_stale(query: EventQuery) -> None:
    """It belongs to another log, or this one was replaced; at the end it is not."""
    store = await asked_with([1, 2, 3])
    assert await steps(iter_events(store, attrs.evolve(query, after_seq=3))) == []
    for after in (4, 2**64 - 1):
        events = iter_events(store, attrs.evolve(query, after_seq=after))
        for _ in range(2):
            with pytest.raises(StaleCursor) as caught:
                await anext(events)
            assert (caught.value.after_seq, caught.value.last_seq) == (after, 3)
    store.calls.clear()
    assert await steps(iter_events(MemoryStore())) == []
    assert await steps(iter_events(store, EventQuery(after_seq=1))) == [2, 3]
    assert store.calls == ["query"]


async def test_a_log_that_goes_back_while_it_is_read_page_by_page() -> None:
    """The rest is gone, and that is not an end."""
    store = await store_with(range(1, 7))
    events = iter_events(store, page_size=3)
    assert await steps(events, 3) == [1, 2, 3]
    store.go_back(2)
    with pytest.raises(StaleCursor):
        await anext(events)


@pytest.mark.parametrize("query", [EventQuery(), EventQuery(member_id="worker-0")])
async def test_tail_of_a_store_that_goes_back(query: EventQuery, autojump_clock: Clock) -> None:
    """Beyond its end it is told; iterating again goes on once the store has got further."""
    store = await store_with(range(1, 7))
    async with tail(store, query, after_seq=0) as events:
        while not events.is_caught_up:
            await anext(events)
        assert events.cursor == 6
        store.go_back(3)
        for _ in range(2):
            with pytest.raises(StaleCursor) as caught:
                await anext(events)
            assert (caught.value.after_seq, caught.value.last_seq) == (6, 3)
        await events.wait_caught_up()
        with suppress(StoreError):
            await store.append_batch([event(4)])
        await store.append_batch([event(seq) for seq in (4, 5, 6)])
        with trio.move_on_after(10) as scope:
            await anext(events)
        assert scope.cancelled_caught
        await store.append_batch([event(7), event(8)])
        assert (await anext(events)).seq == (8 if query.member_id else 7)


@pytest.mark.parametrize("query", [EventQuery(), EventQuery(event_types=("even", "odd", "tick"))])
async def test_tail_does_not_go_past_what_is_not_there(query: EventQuery, autojump_clock: Clock) -> None:
    """A reader that is behind goes on to the end that there is now, and gets what is stored again."""
    store = await store_with(range(1, 11))
    with mock.patch.object(_subscription, "_PAGE_SIZE", 3):
        async with tail(store, query, after_seq=0) as events:
            assert await steps(events, 3) == [1, 2, 3]
            store.go_back(5)
            assert await steps(events, 2) == [4, 5]
            with trio.move_on_after(10) as scope:
                await anext(events)
            assert scope.cancelled_caught
            assert events.cursor == 5
            with suppress(StoreError):
                await store.append_batch([event(6)])
            await store.append_batch([event(seq) for seq in range(6, 9)])
            assert await steps(events, 3) == [6, 7, 8]


# --- those who follow -----------------------------------------------------------------------------


async def test_tail_of_a_store_that_is_pruned(autojump_clock: Clock) -> None:
    """Also one that began when there was nothing, and one whose filter finds nothing."""
    store = MemoryStore()
    async with tail(store) as new, tail(store, EventQuery(member_id="nobody")) as none:
        await store.append_batch([event(seq) for seq in range(1, 9)])
        await store.prune(keep=3)
        assert await steps(new, 3) == [(1, 5), 6, 7]
        assert await steps(none, 1) == [(1, 5)]
        assert none.cursor == 5
        await store.append_batch([event(9)])
        assert await steps(new, 2) == [8, 9]
        assert new.is_caught_up
        with trio.move_on_after(10) as scope:
            await anext(none)
        assert scope.cancelled_caught
        assert none.cursor == 9


async def test_a_slow_subscriber_is_told(autojump_clock: Clock) -> None:
    """What is not at hand and was pruned; a quick one gets it from memory, and is told nothing."""
    store = MemoryStore()
    with mock.patch.object(_subscription, "_MAX_RECENT_EVENTS", 2):
        async with open_event_log(store, batch_size=1) as log, log.subscribe() as slow:
            for number in range(8):
                log.ingest(numbered(number))
                await log.flush()
            await store.prune(keep=1)
            assert not slow.is_caught_up
            assert await steps(slow, 2) == [(1, 7), 8]
            assert slow.is_caught_up
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow.wait_caught_up)
                with trio.move_on_after(1):
                    await anext(slow)

            for number in range(8, 10):
                log.ingest(numbered(number))
                await log.flush()
            await store.prune(keep=0)
            assert await steps(slow, 2) == [9, 10]


async def test_a_slow_subscriber_of_a_store_that_keeps_nothing(autojump_clock: Clock) -> None:
    """What was appended was pruned at once."""
    with mock.patch.object(_subscription, "_MAX_RECENT_EVENTS", 2):
        async with open_event_log(NullStore(), batch_size=1) as log, log.subscribe() as events:
            for number in range(8):
                log.ingest(numbered(number))
                await log.flush()
            assert await steps(events, 1) == [(1, 8)]
            log.ingest(numbered(8))
            assert await steps(events, 1) == [9]


# --- whatever happens -----------------------------------------------------------------------------

PROGRAM = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.sampled_from([1, 1, 1, 3]), min_size=1, max_size=6)),
        st.tuples(st.just("keep"), st.integers(0, 12)),
        st.tuples(st.just("read"), st.integers(1, 6)),
    ),
    max_size=20,
)


class Pruned(MemoryStore):
    """One that is pruned at drawn moments: before it is asked for anything."""

    def __init__(self, keeps: list[int | None]) -> None:
        super().__init__()
        self.keeps = keeps

    async def _prune(self) -> None:
        keep = self.keeps.pop() if self.keeps else None
        if keep is not None:
            await super().prune(keep=keep)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        await self._prune()
        return await super().query(query)

    async def last_seq(self) -> int:
        await self._prune()
        return await super().last_seq()

    async def pruned_seq(self) -> int:
        await self._prune()
        return await super().pruned_seq()

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        await self._prune()
        return await super().append_batch(events)


@pytest.mark.parametrize("kind", ["tail", "subscribe", "iter_events"])
@given(
    program=PROGRAM,
    keeps=st.lists(st.none() | st.integers(0, 12), max_size=60),
    name=st.sampled_from(sorted(QUERIES)),
    page=st.integers(1, 5),
    kept=st.sampled_from([1, 3, 1_000]),
)
def test_each_event_comes_once_or_stands_in_one_range(  # noqa: PLR0917 - given by name
    kind: str, program: list[Any], keeps: list[int | None], name: str, page: int, kept: int
) -> None:
    """In order, whenever events are pruned; and nothing is told that was not."""
    query = QUERIES[name]
    store = Pruned(keeps)
    stored: list[PersistedEvent] = []
    got: list[int] = []
    told: list[tuple[int, int]] = []

    async def read(events: EventStream, count: int) -> None:
        for _ in range(count):
            reached = max([*got, *(last for _, last in told)], default=0)
            with trio.move_on_after(3) as scope:
                try:
                    got.append((await anext(events)).seq)
                except EventsPruned as exc:
                    told.append((exc.first_seq, exc.last_seq))
                except StopAsyncIteration:
                    return
                assert events.cursor > reached
            if scope.cancelled_caught:
                return

    async def append(log: EventLog, distances: list[int]) -> None:
        for distance in distances:
            one = event(log.statistics().last_assigned_seq + 1)
            log.ingest(EventEnvelope.of(one.event, event_id=one.id, timestamp_ms=one.timestamp_ms))
            stored.append(one)
            for _ in range(distance - 1):
                # A duplicate, which leaves a gap.
                log.ingest(EventEnvelope.of(one.event, event_id="first"))
        await log.flush()

    async def play(log: EventLog, events: EventStream | None) -> None:
        for step, argument in program:
            if step == "append":
                await append(log, argument)
            elif step == "keep":
                await MemoryStore.prune(store, keep=argument)
            elif events is not None:
                await read(events, argument)
        if events is not None:
            await read(events, 1_000)

    async def main() -> None:
        async with open_event_log(store, batch_size=2) as log:
            log.ingest(EventEnvelope.of(numbered(0), event_id="first", timestamp_ms=0))
            await log.flush()
            if kind == "tail":
                async with tail(store, query) as events:
                    await play(log, events)
            elif kind == "subscribe":
                async with log.subscribe(query) as events:
                    await play(log, events)
            else:
                await play(log, None)
                store.keeps = list(keeps)
                await read(iter_events(store, attrs.evolve(query, after_seq=1), page_size=page), 1_000)

    with (
        mock.patch.object(_subscription, "_PAGE_SIZE", page),
        mock.patch.object(_subscription, "_RECENT_PAGE_SIZE", page),
        mock.patch.object(_subscription, "_MAX_RECENT_EVENTS", kept),
    ):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    for one in stored:
        times = got.count(one.seq) + sum(first <= one.seq <= last for first, last in told)
        assert times == 1 if query.matches(one) else times <= 1
