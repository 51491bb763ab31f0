"""Following a log from within its process: the end, cancellation, being up to date, many readers."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing

from tests._helpers.fakes import BEHAVIOURS, FakeStore, delay, fail_with, numbered
from tests._helpers.readers import filled, seqs_of
from trio_eventlog import (
    EventLog,
    EventQuery,
    PersistedEvent,
    StoreError,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog.stores import MemoryStore

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
