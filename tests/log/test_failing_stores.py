"""Stores that become unusable, reject events or break the contract: the promise L12."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from tests._helpers.fakes import (
    STEADY,
    Clock,
    FakeStore,
    Reports,
    burst,
    event_at,
    fail,
    fail_with,
    numbered,
    take,
)
from trio_eventlog import (
    EventEnvelope,
    EventQuery,
    EventRejected,
    EventsLost,
    LogState,
    LossReason,
    PersistedEvent,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    open_event_log,
)


async def test_an_unusable_store_ends_the_log_and_not_the_program(autojump_clock: Clock) -> None:
    """The body goes on; what is pending or comes later is lost and reported; leaving raises the error."""
    gone, reports = StoreUnusable("gone"), Reports()
    store = FakeStore([take, fail_with(gone)])
    with pytest.raises(StoreUnusable) as caught:
        async with open_event_log(store, batch_size=2, on_failure=reports) as log:
            burst(log, 2)
            await log.flush()
            burst(log, 3)
            with pytest.raises(EventsLost) as lost:
                await log.flush()
            assert lost.value.__cause__ is gone
            assert log.statistics().state == LogState.UNUSABLE
            assert reports.lost == [3, 4, 5]
            assert log.ingest(numbered(6)) == 6
            assert await log.ingest_wait(numbered(7)) == 7
            await trio.sleep(5)
            assert reports.lost == [3, 4, 5, 6, 7]
            assert await log.query(EventQuery(limit=1)) == [store.held[next(iter(store.held))]]

    assert caught.value is gone
    assert [(failure.error, failure.retry_in) for failure in reports.failures] == [(gone, math.inf)]
    assert log.statistics().state == LogState.UNUSABLE
    assert len(store.appends) == 2
    assert [loss.in_doubt for loss in reports.losses] == [True, False]


async def test_a_sequence_conflict_leaves_no_doubt(autojump_clock: Clock) -> None:
    """The store said that it took nothing of the batch."""
    reports = Reports()
    with pytest.raises(SequenceConflict):
        async with open_event_log(FakeStore([fail_with(SequenceConflict([1]))]), on_failure=reports) as log:
            burst(log, 2)

    assert [(loss.reason, loss.in_doubt) for loss in reports.losses] == [(LossReason.UNUSABLE, False)]


async def test_rejected_events_are_set_aside_and_the_rest_goes_again_at_once(autojump_clock: Clock) -> None:
    """One event that the store can never hold costs nothing but itself."""
    reports = Reports()

    async def picky(store: FakeStore, events: Sequence[PersistedEvent]) -> Any:
        bad = [event for event in events if event.event.payload["number"] % 3 == 0]
        if bad:
            raise EventRejected(bad, "divisible by three")
        return store.keep(events)

    store = FakeStore(otherwise=picky)
    async with open_event_log(store, on_failure=reports) as log:
        burst(log, 7)
        with pytest.raises(EventsLost) as caught:
            await log.flush()
        assert trio.current_time() == 0

    assert caught.value.by_reason == {LossReason.REJECTED: 3}
    assert store.seqs == [2, 3, 5, 6]
    assert [(loss.reason, loss.in_doubt, loss.count) for loss in reports.losses] == [
        (LossReason.REJECTED, False, 3)
    ]
    assert [(failure.error.reason, failure.retry_in) for failure in reports.failures] == [
        ("divisible by three", 0)
    ]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of a driver"),
        ExceptionGroup("of a nursery", [OSError()]),
        EventRejected([], "nobody"),
        EventRejected([event_at(99)], "a stranger"),
    ],
    ids=["foreign", "group", "rejects nobody", "rejects a stranger"],
)
async def test_a_store_that_breaks_the_contract_is_retried_and_logged_once(
    error: Exception, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """With the traceback, and with backoff like every failure."""
    store, reports = FakeStore([fail_with(error)] * 3), Reports()
    async with open_event_log(store, batch_size=1, retry=STEADY, on_failure=reports) as log:
        burst(log, 2)
        await log.flush()
        await trio.sleep(20)

    assert store.seqs == [1, 2]
    assert [failure.error for failure in reports.failures] == [error] * 3
    (record,) = [record for record in caplog.records if record.name == "trio_eventlog"]
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("returned", [None, 3, "1", [99], [True], ["1"]])
async def test_a_wrong_answer_of_append_batch_is_a_fault_of_the_store(
    returned: Any, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It must say which seqs are duplicates; anything else is retried, and logged with what was expected."""

    async def answer(store: FakeStore, events: Sequence[PersistedEvent]) -> Any:
        store.keep(events)
        return returned

    store = FakeStore([answer])
    async with open_event_log(store, on_failure=Reports()) as log:
        burst(log, 2)

    assert log.statistics().persisted == 2
    assert "append_batch must return" in caplog.text


async def test_duplicates_are_counted_as_such(autojump_clock: Clock) -> None:
    """An id that the store holds already is neither stored nor lost."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, on_failure=reports) as log:
        for event_id in ["a", "b", "a"]:
            log.ingest(EventEnvelope.of(numbered(1), event_id=event_id))
        await log.flush()
        books = log.statistics()

    assert (books.persisted, books.duplicate, books.pending, books.lost_total) == (2, 1, 0, 0)
    assert books.last_durable_seq == 2
    assert store.seqs == [1, 2]
    assert reports.losses == []


@pytest.mark.parametrize("named", [[1, 2], ["1"], [None]])
async def test_a_rejection_that_names_no_events_is_a_fault_of_the_store(
    named: Any, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Naming seqs instead of events is an easy slip; it must not cost the log."""

    async def reject(_store: FakeStore, _events: Sequence[PersistedEvent]) -> tuple[()]:
        await trio.lowlevel.checkpoint()
        raise EventRejected(named, "too big")

    store, reports = FakeStore([reject]), Reports()
    async with open_event_log(store, on_failure=reports) as log:
        burst(log, 2)

    assert store.seqs == [1, 2]
    assert re.match(r"events\[0\]: expected PersistedEvent", str(reports.failures[0].error))
    assert "broke its contract" in caplog.text


async def test_a_store_with_a_nursery_that_is_cut_off(autojump_clock: Clock) -> None:
    """What it raises beside being cancelled is told, and the body's exception leaves as it is."""
    own, closing = KeyError("of the body"), StoreError("connection reset while closing")

    async def connection() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise closing

    async def with_nursery(_store: FakeStore, _events: Sequence[PersistedEvent]) -> tuple[()]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection)
            await trio.sleep_forever()
        return ()

    reports = Reports()
    with pytest.raises(KeyError) as caught:
        async with open_event_log(FakeStore(otherwise=with_nursery), on_failure=reports) as log:
            burst(log, 1)
            raise own

    assert caught.value is own
    (failure,) = reports.failures
    assert isinstance(failure.error, ExceptionGroup)
    assert failure.error.exceptions == (closing,)
    assert [loss.reason for loss in reports.losses] == [LossReason.SHUTDOWN]


async def test_notes_that_are_no_list_do_not_replace_the_error(autojump_clock: Clock) -> None:
    """The body's exception is more important than our note on it."""
    own = KeyError("of the body")
    own.__notes__ = ("a tuple",)  # type: ignore[assignment]
    with pytest.raises(KeyError) as caught:
        async with open_event_log(FakeStore(otherwise=fail), on_failure=Reports()) as log:
            burst(log, 1)
            raise own

    assert caught.value is own
