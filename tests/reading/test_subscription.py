"""Following a log from within its process: each event once, in order, whatever happens to the wake-ups."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import BEHAVIOUR_NAMES, BEHAVIOURS, FakeStore, numbered
from tests._helpers.readers import QUERIES, STEPS, filled, play, seqs_of, varied
from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventLog,
    EventQuery,
    EventsLost,
    LossReason,
    PersistedEvent,
    RetryPolicy,
    StaleCursor,
    StoreError,
    Subscription,
    open_event_log,
)
from trio_eventlog._engine._recent_events import RecentEvents
from trio_eventlog._reading import _subscription
from trio_eventlog.stores import MemoryStore

# --- the property ---------------------------------------------------------------------------------


WAKE_UPS = st.lists(st.sampled_from(["on time", "never", "twice", "late"]), min_size=1, max_size=12)

READERS = st.lists(
    st.fixed_dictionaries(
        {
            "query": st.sampled_from(sorted(QUERIES)),
            "begins at": st.floats(0, 8),
            "after": st.sampled_from(["now", "the start", "a seq"]),
            # Seconds that it takes over an event, and after how many it goes away and comes back.
            "slowness": st.sampled_from([0, 0, 0.01, 0.3]),
            "leaves after": st.sampled_from([None, None, 1, 3]),
        }
    ),
    min_size=1,
    max_size=4,
)


class FaultyWakeUps:
    """Loses, repeats and delays what wakes the readers of a log; but the last, which says that it is over."""

    def __init__(self, feed: _subscription.Feed, fates: Sequence[str], nursery: trio.Nursery) -> None:
        self.feed = feed
        self.fates = fates
        self.nursery = nursery
        self.calls = 0
        self.deliver = feed.wake
        feed.wake = self.wake  # type: ignore[method-assign]

    def wake(self) -> None:
        fate = self.fates[self.calls % len(self.fates)]
        self.calls += 1
        if fate == "never" and not self.feed.is_over:
            return
        if fate == "late":
            self.nursery.start_soon(self.deliver_late)
            return
        self.deliver()
        if fate == "twice":
            self.deliver()
            self.nursery.start_soon(self.deliver_late)

    async def deliver_late(self) -> None:
        await trio.sleep(0.7)
        self.deliver()


class Reader:
    """Follows the log as drawn, and notes what it gets."""

    def __init__(self, log: EventLog, plan: dict[str, Any]) -> None:
        self.log = log
        self.plan = plan
        self.got: list[PersistedEvent] = []
        self.start: int | None = None

    async def run(self) -> None:
        await trio.sleep(self.plan["begins at"])
        try:
            await self.follow()
        except trio.ClosedResourceError:
            # It came too late, or came back too late.
            assert self.log.statistics().state in ("draining", "closed")

    async def follow(self) -> None:
        books = self.log.statistics()
        cursor = {
            "now": None,
            "the start": 0,
            "a seq": books.last_assigned_seq // 2,
        }[self.plan["after"]]
        start = books.last_durable_seq if cursor is None else cursor
        query = QUERIES[self.plan["query"]]
        is_over = False
        while not is_over:
            async with self.log.subscribe(query, after_seq=cursor) as events:
                self.start = start if self.start is None else self.start
                is_over = await self.read(events)
                cursor = events.cursor

    async def read(self, events: Subscription) -> bool:
        taken = 0
        async for event in events:
            assert event.seq <= self.log.statistics().last_durable_seq
            self.got.append(event)
            await trio.sleep(self.plan["slowness"])
            taken += 1
            if taken == self.plan["leaves after"]:
                return False
        return True

    def check(self, store: FakeStore) -> None:
        """What it got is what the store has, from where it began to where the log ended."""
        if self.start is None:
            return
        query = QUERIES[self.plan["query"]]
        last = self.log.statistics().last_durable_seq
        expected = sorted(
            (event for event in store.held.values() if self.start < event.seq <= last),
            key=lambda event: event.seq,
        )
        expected = [event for event in expected if query.matches(event)]
        # One that went away and came back too late has a part.
        if self.plan["leaves after"] is not None:
            expected = expected[: len(self.got)]

        assert self.got == expected


@given(
    steps=STEPS,
    script=st.lists(BEHAVIOUR_NAMES, max_size=6),
    readers=READERS,
    fates=WAKE_UPS,
    held_back=st.integers(1, 25),
    page=st.integers(1, 6),
    cap=st.integers(8, 24),
)
def test_each_event_once_and_in_order(  # noqa: PLR0917 - given by name
    steps: list[tuple[str, Any]],
    script: list[str],
    readers: list[dict[str, Any]],
    fates: list[str],
    held_back: int,
    page: int,
    cap: int,
) -> None:
    """Whatever the store does, whatever becomes of wake-ups, and wherever the events come from."""
    store = FakeStore([BEHAVIOURS[name] for name in script])
    log: EventLog | None = None
    following: list[Reader] = []

    async def write() -> None:
        nonlocal log
        async with trio.open_nursery() as nursery:
            # What is lost is no matter here.
            with suppress(EventsLost):
                async with open_event_log(
                    store,
                    batch_size=4,
                    retry_buffer_cap=cap,
                    append_timeout=2.0,
                    grace_period=20.0,
                    retry=RetryPolicy(initial=0.25, maximum=4, random=lambda: 0.5),
                    on_failure=lambda _report: None,
                ) as log:
                    FaultyWakeUps(log._feed, fates, nursery)
                    for plan in readers:
                        following.append(Reader(log, plan))
                        nursery.start_soon(following[-1].run)
                    await play(log, steps)

    with (
        mock.patch.object(_subscription, "_PAGE_SIZE", page),
        mock.patch.object(_subscription, "_RECENT_PAGE_SIZE", page),
        mock.patch.object(_subscription, "_MAX_RECENT_EVENTS", held_back),
    ):
        trio.run(write, clock=trio.testing.MockClock(autojump_threshold=0))
    for reader in following:
        reader.check(store)


# --- the newest events ----------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    most_events=st.integers(1, 12),
    most_bytes=st.sampled_from([100, 400, 100_000]),
    gaps=st.sets(st.integers(0, 11)),
    query=st.sampled_from(sorted(QUERIES)),
    most=st.integers(1, 8),
)
def test_what_is_at_hand_is_complete(  # noqa: PLR0917 - given by name
    sizes: list[int], most_events: int, most_bytes: int, gaps: set[int], query: str, most: int
) -> None:
    """From any seq on: all there is up to some seq, or the answer that it is not known."""
    recent = RecentEvents(5, most_events=most_events, most_bytes=most_bytes)
    stored: list[PersistedEvent] = []
    seq = 5
    complete_after = 5
    for index, size in enumerate(sizes):
        batch = []
        for _ in range(size):
            seq += 2 if index % 3 == 0 else 1
            inner = varied(seq)
            member_id = inner.agent_id if isinstance(inner, AgentEvent) else None
            batch.append(PersistedEvent(f"e{seq}", seq, seq, member_id, inner))
        stored += batch
        recent.add(batch, is_complete=index not in gaps)
        if index in gaps:
            complete_after = seq
        assert recent.durable_seq == seq

        for after in range(seq):
            found = recent.read(after, QUERIES[query], most)
            if found is None:
                continue
            events, through = found
            assert after >= complete_after
            assert after < through <= seq
            assert events == [
                event for event in stored if after < event.seq <= through and QUERIES[query].matches(event)
            ]
        in_memory = [after for after in range(seq) if recent.read(after, EventQuery(), most) is not None]
        assert sum(event.seq > min(in_memory, default=seq) for event in stored) <= most_events


async def test_subscribers_share_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """What one of them does to a payload, no other sees, nor does the store."""
    store = MemoryStore()
    async with open_event_log(store) as log, log.subscribe() as first, log.subscribe() as second:
        log.ingest(AgentEvent("worker-1", "step", {"items": [1]}))
        event = await anext(first)
        event.event.payload["items"].append(2)

        assert (await anext(second)).event.payload == {"items": [1]}
        assert (await log.query())[0].event.payload == {"items": [1]}


async def test_what_a_store_does_to_its_events_is_not_delivered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It was given them, and may have changed them."""

    async def spoil(store: FakeStore, events: Sequence[PersistedEvent]) -> Any:
        for event in events:
            event.event.payload["run_id"] = "spoilt"
        return store.keep(events)

    async with (
        open_event_log(FakeStore(otherwise=spoil)) as log,
        log.subscribe(EventQuery(run_id="r-1")) as events,
    ):
        log.ingest(AgentEvent("worker-1", "step", {"run_id": "r-1"}))

        assert (await anext(events)).event.payload == {"run_id": "r-1"}


# --- where to begin -------------------------------------------------------------------------------


async def nothing_comes(events: Subscription) -> None:
    """Assert that the next event is not there, however long one waits."""
    with trio.move_on_after(1_000) as scope:
        await anext(events)
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("after", "expected"), [(None, [6, 7]), (0, [1, 2, 3, 4, 5, 6, 7]), (3, [4, 5, 6, 7]), (5, [6, 7])]
)
async def test_the_cursor(
    after: int | None, expected: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    """None is from now on, 0 from the start; as an argument or in the query."""
    async with open_event_log(MemoryStore()) as log:
        await filled(log, 5)
        async with (
            log.subscribe(after_seq=after) as events,
            log.subscribe(EventQuery(after_seq=after)) as the_same,
        ):
            await filled(log, 2)

            assert await seqs_of(events, len(expected)) == expected
            assert await seqs_of(the_same, len(expected)) == expected
            assert events.cursor == 7
            await nothing_comes(events)


async def test_a_cursor_of_what_is_not_durable_yet(autojump_clock: trio.testing.MockClock) -> None:
    """What `ingest` returned is a place to begin behind, too."""
    async with open_event_log(MemoryStore()) as log:
        seq = log.ingest(numbered(1))
        async with log.subscribe(after_seq=seq) as events:
            log.ingest(numbered(2))

            assert (await anext(events)).seq == 2


async def test_a_stale_cursor(autojump_clock: trio.testing.MockClock) -> None:
    """Beyond the last seq given out: it belongs to another log."""
    async with open_event_log(MemoryStore()) as log:
        log.ingest(numbered(1))
        for after in (2, 2**64 - 1):
            with pytest.raises(StaleCursor) as caught:
                log.subscribe(after_seq=after)
            assert (caught.value.after_seq, caught.value.last_seq) == (after, 1)
        async with log.subscribe(after_seq=1):
            pass


async def test_bad_arguments(autojump_clock: trio.testing.MockClock) -> None:
    """Are named."""
    async with open_event_log(MemoryStore()) as log:
        with pytest.raises(TypeError, match="query: expected an EventQuery, got str"):
            log.subscribe("run-1")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="after_seq: expected an integer, got str"):
            log.subscribe(after_seq="1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"after_seq: expected 0 to 2\*\*64 - 1, got -1"):
            log.subscribe(after_seq=-1)
        with pytest.raises(ValueError, match="after_seq: given twice"):
            log.subscribe(EventQuery(after_seq=1), after_seq=1)


async def test_resuming_in_the_next_run(autojump_clock: trio.testing.MockClock) -> None:
    """A cursor outlives the log."""
    store = MemoryStore()
    async with open_event_log(store) as log, log.subscribe() as events:
        await filled(log, 5)
        await seqs_of(events, 3)
        cursor = events.cursor
    async with open_event_log(store) as log, log.subscribe(after_seq=cursor) as events:
        await filled(log, 2)

        assert await seqs_of(events, 4) == [4, 5, 6, 7]


# --- only what is stored, and stored now ----------------------------------------------------------


async def test_duplicates_are_not_delivered(autojump_clock: trio.testing.MockClock) -> None:
    """Only what the store newly took."""
    async with open_event_log(MemoryStore()) as log, log.subscribe() as events:
        for number, event_id in enumerate(["a", "b", "a", "c", "c", "d"]):
            log.ingest(EventEnvelope.of(numbered(number), event_id=event_id))

        assert [(await anext(events)).id for _ in range(4)] == ["a", "b", "c", "d"]
        await nothing_comes(events)
        assert events.cursor == 6


async def test_only_what_is_durable_is_delivered(autojump_clock: trio.testing.MockClock) -> None:
    """Not what the store shows before its append has returned."""

    async def show_early(store: FakeStore, events: Sequence[PersistedEvent]) -> Any:
        result = store.keep(events)
        await trio.sleep(10)
        return result

    store = FakeStore(otherwise=show_early)
    async with open_event_log(store, flush_interval=1) as log:
        await filled(log, 2)
        log.ingest(numbered(3))
        await trio.sleep(5)
        assert store.seqs == [1, 2, 3]
        async with log.subscribe(after_seq=0) as events:
            assert await seqs_of(events, 2) == [1, 2]
            before = trio.current_time()
            assert await seqs_of(events, 1) == [3]
            assert trio.current_time() - before == pytest.approx(6)


async def test_what_was_given_up_in_doubt_and_stored_after_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It is in the store, so it is delivered, in its place, also to those who are served from memory."""

    async def take_late(store: FakeStore, events: Sequence[PersistedEvent]) -> Any:
        store.keep(events)
        raise StoreError("connection lost after the commit")

    store = FakeStore([take_late])
    reports: list[Any] = []
    async with (
        open_event_log(store, batch_size=2, retry_buffer_cap=2, on_failure=reports.append) as log,
        log.subscribe() as events,
    ):
        log.ingest(numbered(1))
        log.ingest(numbered(2))
        await trio.sleep(0.05)
        # The cap takes both of them while the log waits to try again.
        log.ingest(numbered(3))
        log.ingest(numbered(4))
        await log.flush(through=0)
        assert log.statistics().lost == {LossReason.CAP: 2}

        assert await seqs_of(events, 4) == [1, 2, 3, 4]
