"""Waiting for room: ``ingest_wait``."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from tests._helpers.fakes import (
    STEADY,
    Behaviour,
    Clock,
    FakeStore,
    Reports,
    burst,
    delay,
    fail,
    fail_with,
    hang,
    numbered,
    take,
)
from tests._helpers.spill import Disk
from trio_eventlog import (
    AgentEvent,
    EventLog,
    StoreUnusable,
    open_event_log,
)


async def test_ingest_wait_makes_no_event_fall(autojump_clock: Clock) -> None:
    """It waits while channel, buffer and the batch in flight hold the cap together."""
    store, reports = FakeStore(otherwise=delay(1.0)), Reports()
    async with open_event_log(store, batch_size=2, retry_buffer_cap=4, on_failure=reports) as log:
        for n in range(40):
            await log.ingest_wait(numbered(n))
            assert log.statistics().pending <= 4

    assert store.seqs == list(range(1, 41))
    assert reports.losses == []


async def test_ingest_wait_does_not_make_the_batch_in_flight_fall_when_it_fails(
    autojump_clock: Clock,
) -> None:
    """The batch counts, since it may come back."""
    store, reports = FakeStore([delay(1.0, fail), delay(1.0, fail)]), Reports()
    async with open_event_log(store, batch_size=4, retry_buffer_cap=4, on_failure=reports) as log:
        for n in range(12):
            await log.ingest_wait(numbered(n))

    assert store.seqs == list(range(1, 13))
    assert reports.losses == []


async def test_waiting_tasks_are_served_in_the_order_of_their_calls(autojump_clock: Clock) -> None:
    """First come, first served, by seq; nobody overtakes them."""
    store, order = FakeStore([delay(1.0)]), []

    async def wait(n: int) -> None:
        order.append((n, await log.ingest_wait(numbered(n))))

    async with open_event_log(store, batch_size=3, retry_buffer_cap=3) as log, trio.open_nursery() as nursery:
        burst(log, 3)
        await trio.testing.wait_all_tasks_blocked()
        for n in range(5):
            nursery.start_soon(wait, n)
            await trio.testing.wait_all_tasks_blocked()

    assert sorted(order) == [(n, n + 4) for n in range(5)]


async def test_a_cancelled_wait_did_not_ingest(autojump_clock: Clock) -> None:
    """Cancelled means that the event was not accepted, and it spent no seq."""
    store = FakeStore([delay(5.0)])
    async with open_event_log(store, batch_size=2, retry_buffer_cap=2) as log:
        burst(log, 2)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await log.ingest_wait(numbered(2))
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel(reason="test")
            await log.ingest_wait(numbered(2))
        assert scope.cancelled_caught
        assert await log.ingest_wait(numbered(3)) == 3

    assert [event.event.payload["number"] for event in store.held.values()] == [0, 1, 3]


async def test_closing_ends_the_waits(autojump_clock: Clock) -> None:
    """Tasks that still wait when the body ends get the same error as those who come later."""
    ended = []

    async def wait(log: EventLog) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await log.ingest_wait(numbered(9))
        ended.append(trio.current_time())

    short = open_event_log(FakeStore([delay(2.0)]), batch_size=1, retry_buffer_cap=1)
    async with trio.open_nursery() as nursery, short as log:
        burst(log, 1)
        nursery.start_soon(wait, log)  # noqa: ASYNC111 - to outlive the log is what it is for
        await trio.testing.wait_all_tasks_blocked()

    assert ended == [0]
    assert log.statistics().persisted == 1


async def test_waiting_tasks_are_let_go_when_the_store_becomes_unusable(autojump_clock: Clock) -> None:
    """They get a seq, and their events are reported lost like all others."""
    reports, seqs = Reports(), []
    store = FakeStore([delay(1.0, fail_with(StoreUnusable("gone")))])
    with pytest.raises(StoreUnusable):
        async with open_event_log(store, batch_size=1, retry_buffer_cap=1, on_failure=reports) as log:
            burst(log, 1)
            seqs.append(await log.ingest_wait(numbered(9)))

    assert seqs == [2]
    assert reports.lost == [1, 2]


@pytest.mark.parametrize("order", ["cancelled first", "served first"])
async def test_who_is_cancelled_while_being_served_gets_one_of_both(
    order: str, autojump_clock: Clock
) -> None:
    """A wait for room ends with a seq, or cancelled and not ingested; never with both or neither."""
    for _ in range(20):  # Trio runs tasks of one moment in an order that it draws
        store, seqs = FakeStore([delay(1.0)]), []
        async with open_event_log(store, batch_size=1, retry_buffer_cap=1) as log:
            burst(log, 1)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1.0 if order == "served first" else 0.5):
                seqs.append(await log.ingest_wait(numbered(7)))

        assert len(store.held) == 1 + len(seqs)
        assert log.statistics().ingested == 1 + len(seqs)


async def test_tasks_that_wait_may_be_cancelled_as_the_block_ends(autojump_clock: Clock) -> None:
    """In the same moment, by the body's last statement."""
    async with trio.open_nursery() as nursery:
        async with open_event_log(FakeStore([delay(1.0)]), batch_size=1, retry_buffer_cap=1) as log:
            burst(log, 1)
            nursery.start_soon(log.ingest_wait, numbered(1))  # noqa: ASYNC111 - it is cancelled with the nursery
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel(reason="test")

    assert log.statistics().ingested == 1


# --- a task that waits for bytes ------------------------------------------------------------------


async def test_a_task_that_waits_for_bytes_makes_a_flush_due(autojump_clock: Clock) -> None:
    """Beside an idle, healthy store it does not wait for the interval."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(
        store, flush_interval=600.0, max_pending_bytes=1000, max_event_bytes=1000, on_failure=reports
    ) as log:
        log.ingest(numbered(1))
        await trio.testing.wait_all_tasks_blocked()
        await log.ingest_wait(AgentEvent("a", "t", "x" * 950))
        assert trio.current_time() == 0
        # So does the second of two that wait.
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(log.ingest_wait, AgentEvent("a", "t", "x" * 950))
        assert trio.current_time() == 0

    assert len(store.seqs) == 5
    assert reports.losses == []


async def test_a_task_that_waits_for_bytes_shortens_no_wait_after_a_failure(autojump_clock: Clock) -> None:
    """A store that is down is not asked more often for it (L6)."""
    store = FakeStore([fail, fail, fail])
    async with open_event_log(
        store,
        flush_interval=600.0,
        max_pending_bytes=1000,
        max_event_bytes=1000,
        on_failure=Reports(),
        retry=STEADY,
    ) as log:
        log.ingest(numbered(1))
        await log.ingest_wait(AgentEvent("a", "t", "x" * 950))
        assert [append.started_at for append in store.appends][:4] == [0, 1, 3, 7]


@pytest.mark.parametrize("behaviour", [fail, hang])
async def test_a_task_that_waits_for_bytes_has_events_spilled(
    behaviour: Behaviour, disk: Disk, path: Path, autojump_clock: Clock
) -> None:
    """Few of them as there are: a store that is down does not keep it waiting while there is a file."""
    store = FakeStore(otherwise=behaviour)
    async with open_event_log(
        store, batch_size=1, max_pending_bytes=1000, max_event_bytes=1000, spill=path, on_failure=Reports()
    ) as log:
        log.ingest(AgentEvent("a", "t", "x" * 300))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await log.ingest_wait(AgentEvent("a", "t", "x" * 950))
        assert log.statistics().spilled == 1
        store.otherwise = take
        await log.flush()

    assert len(store.seqs) == 2
