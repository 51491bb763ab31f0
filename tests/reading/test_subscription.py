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

from tests._helpers.fakes import FakeStore, delay, fail_with, numbered
from tests.log.test_log_properties import BEHAVIOUR_NAMES, BEHAVIOURS
from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventLog,
    EventQuery,
    EventsLost,
    LossReason,
    ModuleEvent,
    PersistedEvent,
    RetryPolicy,
    StaleCursor,
    StoreError,
    StoreUnusable,
    Subscription,
    open_event_log,
)
from trio_eventlog._engine._recent_events import RecentEvents
from trio_eventlog._reading import _subscription
from trio_eventlog.stores import MemoryStore

# --- the property ---------------------------------------------------------------------------------

QUERIES = {
    "all": EventQuery(),
    "a run": EventQuery(run_id="r-1"),
    "a type": EventQuery(event_types=("even",)),
    "a member": EventQuery(member_id="worker-1", since_ms=10),
    "none": EventQuery(identity="nobody"),
}

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


async def filled(log: EventLog, count: int) -> None:
    """Ingest and flush."""
    for number in range(count):
        log.ingest(numbered(number))
    await log.flush()


async def seqs_of(events: Subscription, count: int) -> list[int]:
    """The next ones."""
    return [(await anext(events)).seq for _ in range(count)]


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


# --- the end --------------------------------------------------------------------------------------


async def test_the_iteration_ends_with_the_log(autojump_clock: trio.testing.MockClock) -> None:
    """After the last durable event, those of the drain included; from a nursery around the block."""
    got: list[int] = []

    async def follow(log: EventLog, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC114 - below
        async with log.subscribe() as events:
            task_status.started()
            async for event in events:
                got.append(event.seq)  # noqa: PERF401 - what came before a cancellation counts
            # Also when asked again.
            with pytest.raises(StopAsyncIteration):
                await anext(events)

    async with (
        trio.open_nursery() as nursery,
        open_event_log(FakeStore(otherwise=delay(0.5)), flush_interval=60) as log,
    ):
        await nursery.start(follow, log)  # noqa: ASYNC111 - it ends with the log
        for number in range(5):
            log.ingest(numbered(number))

    assert got == [1, 2, 3, 4, 5]


async def test_a_nursery_inside_the_block(autojump_clock: trio.testing.MockClock) -> None:
    """It waits for its subscriber, as for every child: cancel it, as the reference says."""
    got: list[int] = []

    async def follow(log: EventLog) -> None:
        async with log.subscribe(after_seq=0) as events:
            async for event in events:
                got.append(event.seq)  # noqa: PERF401 - what came before a cancellation counts

    with trio.fail_after(60):
        async with open_event_log(MemoryStore()) as log:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, log)
                await filled(log, 3)
                await trio.sleep(1)
                nursery.cancel_scope.cancel(reason="the work is done")

    assert got == [1, 2, 3]


async def test_another_thread(autojump_clock: trio.testing.MockClock) -> None:
    """Has no business here; it is told how it has."""
    async with open_event_log(MemoryStore()) as log:

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run\(log\.subscribe\)"):
                log.subscribe()

        await trio.to_thread.run_sync(elsewhere)


async def test_a_closed_log_is_not_followed(autojump_clock: trio.testing.MockClock) -> None:
    """There is nothing to wait for; what is stored can be read from the store."""
    async with open_event_log(MemoryStore()) as log:
        pass
    with pytest.raises(trio.ClosedResourceError, match="subscribe"):
        log.subscribe()


async def test_the_rest_after_the_log_has_closed(autojump_clock: trio.testing.MockClock) -> None:
    """A slow subscriber still gets all of it."""
    async with open_event_log(MemoryStore()) as log:
        events_of = log.subscribe(after_seq=0)
        events = await events_of.__aenter__()
        log.ingest(numbered(1))
    rest = [event.seq async for event in events]
    await events_of.__aexit__(None, None, None)

    assert rest == [1]


async def test_the_limit_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    """After so many events, however many pages they come in."""
    async with open_event_log(MemoryStore(), batch_size=1) as log:
        await filled(log, 3)
        for limit in (0, 1, 5):
            async with log.subscribe(EventQuery(limit=limit), after_seq=0) as events:
                await filled(log, 3)

                assert [event.seq async for event in events] == list(range(1, limit + 1))
                assert events.cursor == limit


async def test_after_the_block(autojump_clock: trio.testing.MockClock) -> None:
    """Its subscription is no more; whoever waits is told."""
    async with open_event_log(MemoryStore()) as log:
        async with trio.open_nursery() as nursery:

            async def wait(what: Any) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await what()

            async with log.subscribe(after_seq=0) as events:
                nursery.start_soon(wait, events.__anext__)  # noqa: ASYNC111 - told when it is left
                await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await anext(events)
        with pytest.raises(trio.ClosedResourceError):
            await events.wait_caught_up()


async def test_breaking_out_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing is kept for a subscriber that is gone."""
    async with open_event_log(MemoryStore()) as log:
        async with log.subscribe() as events:
            await filled(log, 10)
            async for event in events:
                if event.seq == 3:
                    break
            assert log._feed.recent.read(5, EventQuery(), 1) is not None
        await filled(log, 1)

        assert log._feed.recent.read(5, EventQuery(), 1) is None
        assert events.cursor == 3


# --- cancellation and errors ----------------------------------------------------------------------


async def test_a_cancelled_step_skips_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """At whichever checkpoint it comes."""
    store = FakeStore()
    async with open_event_log(store, batch_size=1) as log, log.subscribe(after_seq=0) as events:
        got: list[int] = []
        await filled(log, 40)
        turns = 0
        while len(got) < 80:
            with trio.CancelScope() as scope:
                if turns % 3 == 0:
                    scope.cancel(reason="test")
                elif turns % 3 == 1:
                    scope.deadline = trio.current_time() + 0.001
                got.append((await anext(events)).seq)
            turns += 1
            if len(got) == 40 and turns % 5 == 0 and log.statistics().ingested < 80:
                await filled(log, 40)
        assert turns > 100
        assert got == list(range(1, 81))


async def test_an_error_of_the_store_skips_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """It reaches who iterates, who may go on."""
    store = FakeStore()
    async with open_event_log(store) as log:
        await filled(log, 3)
        async with log.subscribe(after_seq=0) as events:
            down = StoreError("down")
            with mock.patch.object(store, "query", side_effect=down), pytest.raises(StoreError) as caught:
                await anext(events)
            assert caught.value is down

            assert await seqs_of(events, 3) == [1, 2, 3]


async def test_a_store_that_is_lost_to_the_log(autojump_clock: trio.testing.MockClock) -> None:
    """No more comes, and the iteration ends when the log does."""
    got: list[int] = []

    async def follow(log: EventLog, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC114 - below
        async with log.subscribe() as events:
            task_status.started()
            async for event in events:
                got.append(event.seq)  # noqa: PERF401 - what came before a cancellation counts

    store = FakeStore([BEHAVIOURS["take"], fail_with(StoreUnusable("gone"))])
    with pytest.RaisesGroup(StoreUnusable):
        async with (
            trio.open_nursery() as nursery,
            open_event_log(store, on_failure=lambda _report: None) as log,
        ):
            await nursery.start(follow, log)  # noqa: ASYNC111 - it ends with the log
            await filled(log, 2)
            log.ingest(numbered(3))

    assert got == [1, 2]


async def test_one_task_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    """Two would tear the order apart."""
    async with (
        open_event_log(MemoryStore()) as log,
        log.subscribe() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(events.__anext__)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(events)
        await filled(log, 1)


# --- being up to date -----------------------------------------------------------------------------


async def test_waiting_until_caught_up(autojump_clock: trio.testing.MockClock) -> None:
    """Until what was stored at the call was dealt with, not just handed out."""
    dealt_with: list[int] = []

    async with open_event_log(MemoryStore(), batch_size=1) as log:
        await filled(log, 3)
        async with log.subscribe(after_seq=0) as events, trio.open_nursery() as nursery:

            async def follow() -> None:
                async for event in events:
                    await trio.sleep(10)
                    dealt_with.append(event.seq)

            assert not events.is_caught_up
            nursery.start_soon(follow)
            await events.wait_caught_up()
            assert dealt_with == [1, 2, 3]
            assert events.is_caught_up

            before = trio.current_time()
            await events.wait_caught_up()
            assert trio.current_time() == before
            await filled(log, 2)
            await events.wait_caught_up()
            assert dealt_with == [1, 2, 3, 4, 5]
            nursery.cancel_scope.cancel(reason="test")


async def test_handed_out_is_not_dealt_with(autojump_clock: trio.testing.MockClock) -> None:
    """Who waits while the last event is being dealt with waits for that."""
    async with open_event_log(MemoryStore()) as log:
        await filled(log, 3)
        async with log.subscribe(after_seq=0) as events, trio.open_nursery() as nursery:

            async def follow() -> None:
                async for _event in events:
                    await trio.sleep(10)

            nursery.start_soon(follow)
            await trio.sleep(25)
            assert events.cursor == 3
            assert events.is_caught_up
            before = trio.current_time()
            await events.wait_caught_up()
            assert trio.current_time() - before == 5
            # Of more that is at hand, only what was there at the call counts.
            await filled(log, 10)
            waited = trio.current_time()
            nursery.start_soon(filled, log, 10)
            await events.wait_caught_up()
            assert trio.current_time() - waited == 100
            nursery.cancel_scope.cancel(reason="test")


async def test_caught_up_with_what_does_not_match(autojump_clock: trio.testing.MockClock) -> None:
    """Events that are passed over are dealt with."""
    async with open_event_log(MemoryStore()) as log:
        await filled(log, 100)
        async with (
            log.subscribe(EventQuery(run_id="none"), after_seq=0) as events,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(events.__anext__)
            await events.wait_caught_up()
            assert events.cursor == 100
            nursery.cancel_scope.cancel(reason="test")


async def test_waiting_for_a_subscription_that_ends(autojump_clock: trio.testing.MockClock) -> None:
    """By its limit: it has what it wanted. By being left: an error."""
    async with open_event_log(MemoryStore()) as log:
        await filled(log, 5)
        async with log.subscribe(EventQuery(limit=2), after_seq=0) as events:
            assert [event.seq async for event in events] == [1, 2]
            await events.wait_caught_up()
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await events.wait_caught_up()

            async with log.subscribe(after_seq=0) as events:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()


async def test_a_program_of_one_task_sees_that_it_is_caught_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Without waiting, which it cannot do for itself."""
    async with open_event_log(MemoryStore()) as log:
        await filled(log, 3)
        async with log.subscribe(after_seq=0) as events:
            async for event in events:
                assert events.is_caught_up == (event.seq == 3)
                if events.is_caught_up:
                    break


# --- many of them ---------------------------------------------------------------------------------


class CountingStore(MemoryStore):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = 0

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        self.queries += 1
        return await super().query(query)


async def test_live_subscribers_do_not_ask_the_store(autojump_clock: trio.testing.MockClock) -> None:
    """However many: what has become durable is at hand. Only what is old is read, once each."""
    store = CountingStore()
    got: list[list[int]] = [[] for _ in range(60)]
    async with open_event_log(store) as log:
        await filled(log, 10)
        async with trio.open_nursery() as nursery:

            async def follow(index: int) -> None:
                # Half of them begin at the start.
                async with log.subscribe(after_seq=None if index % 2 else 0) as events:
                    got[index].extend([(await anext(events)).seq for _ in range(300 + 10 * (1 - index % 2))])

            for index in range(60):
                nursery.start_soon(follow, index)
            await trio.testing.wait_all_tasks_blocked()
            assert store.queries == 30
            for _ in range(10):
                await filled(log, 30)

    assert store.queries == 30
    assert got[0] == list(range(1, 311))
    assert got[1] == list(range(11, 311))
    assert all(seqs in (got[0], got[1]) for seqs in got)


async def test_a_slow_subscriber_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """Neither the log nor another one; and what it missed it reads later."""
    async with (
        open_event_log(MemoryStore(), retry_buffer_cap=100, flush_interval=0.1) as log,
        log.subscribe() as slow,
        log.subscribe() as quick,
    ):
        before = trio.current_time()
        for _ in range(100):
            for number in range(100):
                log.ingest(numbered(number))
            await seqs_of(quick, 100)
        assert trio.current_time() - before < 100
        assert log.statistics().lost_total == 0

        assert await seqs_of(slow, 10_000) == list(range(1, 10_001))


async def test_other_tasks_run_between_events(autojump_clock: trio.testing.MockClock) -> None:
    """However quickly events are taken: at each step."""
    async with open_event_log(MemoryStore()) as log, trio.open_nursery() as nursery:
        await filled(log, 500)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await trio.lowlevel.checkpoint()
                ticks += 1

        nursery.start_soon(tick)
        async with log.subscribe(after_seq=0) as events:
            longest = 0
            seen = ticks
            run = 0
            for _ in range(500):
                await anext(events)
                run = run + 1 if ticks == seen else 1
                seen = ticks
                longest = max(longest, run)
        nursery.cancel_scope.cancel(reason="test")
        # Trio may let two tasks run twice in a row, the one and the other.
        assert longest <= 2


async def test_nothing_is_kept_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """Without subscribers."""
    async with open_event_log(MemoryStore()) as log:
        await filled(log, 10)

        assert log._feed.recent.read(0, EventQuery(), 1) is None
        assert log._feed.recent.durable_seq == 10
