"""The promises of the log, L1 to L12, one by one, on stores that do what the test says."""

from __future__ import annotations

import gc
import logging
import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests._helpers.fakes import (
    FakeStore,
    Reports,
    delay,
    fail,
    fail_with,
    hang,
    numbered,
    take,
    take_and_fail,
)
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventLog,
    EventQuery,
    EventRejected,
    EventsLost,
    LogBusy,
    LogState,
    LossReason,
    LossReport,
    ModuleEvent,
    PersistedEvent,
    Report,
    RetryPolicy,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    open_event_log,
)

Clock = trio.testing.MockClock

STEADY = RetryPolicy(initial=1.0, maximum=8.0, multiplier=2.0, jitter=0)


def burst(log: EventLog, count: int) -> list[int | None]:
    """Ingest ``count`` events without a checkpoint."""
    return [log.ingest(numbered(n)) for n in range(count)]


# --- L1: numbers ----------------------------------------------------------------------------------


async def test_seqs_go_on_after_the_stores_last(autojump_clock: Clock) -> None:
    """The first event gets the store's last seq plus one, and each call of ingest the next."""
    store = FakeStore()
    store.first_last_seq = 41
    async with open_event_log(store) as log:
        assert burst(log, 3) == [42, 43, 44]
        assert await log.ingest_wait(numbered(3)) == 45

    assert store.seqs == [42, 43, 44, 45]
    assert store.asked_last_seq == 1


async def test_a_second_run_goes_on_where_the_first_ended(autojump_clock: Clock) -> None:
    """Cursors stay valid from one run of the program to the next."""
    store = FakeStore()
    for _ in range(2):
        async with open_event_log(store) as log:
            burst(log, 5)

    assert store.seqs == list(range(1, 11))


async def test_an_envelope_keeps_its_id_and_time(autojump_clock: Clock) -> None:
    """What the program chose is what is stored, and the member comes from the agent."""
    store = FakeStore()
    async with open_event_log(store) as log:
        log.ingest(EventEnvelope("e-1", "agent", 1700000000000, AgentEvent("w", "x", [1])))
        log.ingest(EventEnvelope.of(ModuleEvent("m", "y"), event_id="e-2", timestamp_ms=0))

    assert list(store.held.values()) == [
        PersistedEvent("e-1", 1, 1700000000000, "w", AgentEvent("w", "x", [1])),
        PersistedEvent("e-2", 2, 0, None, ModuleEvent("m", "y")),
    ]


async def test_bare_events_get_ids_that_ascend(autojump_clock: Clock) -> None:
    """Ids are unique, and sort as the events came."""
    store = FakeStore()
    async with open_event_log(store) as log:
        burst(log, 100)

    ids = list(store.held)
    assert ids == sorted(set(ids))


# --- what ingest refuses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "path"),
    [
        (AgentEvent("w", "x", {"a": [1, (2,)]}), "payload.a[1]"),
        (AgentEvent("w", "x", math.nan), "payload"),
        (AgentEvent("w\ud800", "x"), "agent_id"),
        (AgentEvent("w", 5), "event_type"),  # type: ignore[arg-type]
        (ModuleEvent(None, "x"), "module"),  # type: ignore[arg-type]
        (EventEnvelope("e", "agent", 1, AgentEvent("w", "x", {1: 2})), "event.payload"),
        (EventEnvelope("e", "module", 1, AgentEvent("w", "x")), "source"),
        (EventEnvelope("e", "agent", 2**63, AgentEvent("w", "x")), "timestamp_ms"),
        (EventEnvelope("e", "agent", -1, AgentEvent("w", "x")), "timestamp_ms"),
        (EventEnvelope("e", "agent", True, AgentEvent("w", "x")), "timestamp_ms"),
        (EventEnvelope(7, "agent", 1, AgentEvent("w", "x")), "event_id"),  # type: ignore[arg-type]
    ],
)
async def test_malformed_events_are_refused_in_the_callers_frame(
    event: Any, path: str, autojump_clock: Clock
) -> None:
    """The error names the field, no seq is spent, and the log goes on."""
    store = FakeStore()
    async with open_event_log(store) as log:
        with pytest.raises(CodecError) as caught:
            log.ingest(event)
        with pytest.raises(CodecError):
            await log.ingest_wait(event)
        assert log.ingest(numbered(1)) == 1

    assert caught.value.path == path
    assert store.seqs == [1]


@pytest.mark.parametrize(
    "event", [{"kind": "agent"}, "text", None, EventEnvelope("e", "agent", 1, "no event")]
)
async def test_what_is_no_event_is_refused(event: Any, autojump_clock: Clock) -> None:
    """A dict is no event, whatever it holds."""
    async with open_event_log(FakeStore()) as log:
        with pytest.raises(TypeError, match="expected an AgentEvent"):
            log.ingest(event)


async def test_what_the_caller_changes_later_does_not_leak_in(autojump_clock: Clock) -> None:
    """The payload is taken at the call of ingest, not at the time of the append."""
    store, payload = FakeStore(), {"list": [1]}
    async with open_event_log(store) as log:
        log.ingest(AgentEvent("w", "x", payload))
        payload["list"].append(2)

    (event,) = store.held.values()
    assert event.event.payload == {"list": [1]}


async def test_what_a_store_changes_does_not_reach_the_retry(autojump_clock: Clock) -> None:
    """A store that spoils what it was given and then fails gets the event again as it was."""

    async def spoil(_store: FakeStore, events: Sequence[PersistedEvent]) -> tuple[()]:
        events[0].event.payload["number"] = "spoiled"
        msg = "down"
        raise StoreError(msg)

    store = FakeStore([spoil])
    async with open_event_log(store, on_failure=Reports()) as log:
        log.ingest(numbered(7))

    assert [event.event.payload for event in store.held.values()] == [{"number": 7}]


async def test_ingest_is_no_checkpoint_and_the_rest_are(autojump_clock: Clock) -> None:
    """Functions are always checkpoints or never."""
    async with open_event_log(FakeStore(), filter=lambda event: event.event_type == "step") as log:
        with trio.testing.assert_no_checkpoints():
            burst(log, 1000)
        with trio.testing.assert_checkpoints():
            await log.ingest_wait(numbered(1))
        with trio.testing.assert_checkpoints():
            await log.ingest_wait(AgentEvent("w", "filtered"))
        with trio.testing.assert_checkpoints():
            await log.flush()
        with trio.testing.assert_checkpoints():
            await log.flush()
        with trio.testing.assert_checkpoints():
            await log.query()


async def test_after_the_block_the_log_is_closed(autojump_clock: Clock) -> None:
    """Ingesting, flushing and querying raise; the statistics and the store go on working."""
    store = FakeStore()
    async with open_event_log(store) as log:
        log.ingest(numbered(1))

    with pytest.raises(trio.ClosedResourceError):
        log.ingest(numbered(2))
    with pytest.raises(trio.ClosedResourceError):
        await log.ingest_wait(numbered(2))
    with pytest.raises(trio.ClosedResourceError):
        await log.flush()
    with pytest.raises(trio.ClosedResourceError):
        await log.query()
    assert (log.statistics().persisted, log.statistics().state) == (1, LogState.CLOSED)
    assert log.store is store


async def test_a_foreign_thread_is_told_what_to_do(autojump_clock: Clock) -> None:
    """Calling from another thread is an error that names the right way, not a race."""
    caught: list[BaseException] = []

    def ingest(log: EventLog) -> None:
        try:
            log.ingest(numbered(1))
        except RuntimeError as exc:
            caught.append(exc)

    async with open_event_log(FakeStore()) as log:
        thread = threading.Thread(target=ingest, args=[log])
        thread.start()
        thread.join()

    assert "trio.from_thread.run_sync(log.ingest" in str(caught[0])
    assert log.statistics().ingested == 0


# --- L10: the filter ------------------------------------------------------------------------------


async def test_the_filter_keeps_events_out_without_a_seq(autojump_clock: Clock) -> None:
    """It sees the bare event; what it keeps out is counted and spends no seq."""
    seen: list[Any] = []

    def only_steps(event: Any) -> bool:
        seen.append(event)
        return bool(event.event_type == "step")

    store = FakeStore()
    async with open_event_log(store, filter=only_steps) as log:
        assert log.ingest(AgentEvent("w", "noise", object())) is None
        assert log.ingest(EventEnvelope.of(AgentEvent("w", "step"))) == 1
        assert await log.ingest_wait(AgentEvent("w", "noise")) is None
        assert (log.statistics().filtered, log.statistics().ingested) == (2, 1)

    assert [type(event) for event in seen] == [AgentEvent] * 3


async def test_a_raising_filter_raises_in_the_caller(autojump_clock: Clock) -> None:
    """The log goes on, and counts nothing."""
    error = ValueError("of the filter")

    def picky(event: Any) -> bool:
        if event.event_type == "bad":
            raise error
        return True

    store = FakeStore()
    async with open_event_log(store, filter=picky) as log:
        with pytest.raises(ValueError, match="of the filter") as caught:
            log.ingest(AgentEvent("w", "bad"))
        log.ingest(numbered(1))

    assert caught.value is error
    assert store.seqs == [1]
    assert log.statistics().filtered == 0


# --- L3: the cap ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cap", "batch_size"), [(1, 1), (5, 2), (64, 64), (100, 10), (1000, 1)])
async def test_a_burst_without_a_checkpoint_is_bounded_by_the_cap(
    cap: int, batch_size: int, autojump_clock: Clock
) -> None:
    """Whatever the channel holds: the newest ``cap`` events survive, the oldest are lost and reported."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, batch_size=batch_size, retry_buffer_cap=cap, on_failure=reports) as log:
        burst(log, 3 * cap)
        assert log.statistics().pending == cap

    assert store.seqs == list(range(2 * cap + 1, 3 * cap + 1))
    assert reports.lost == list(range(1, 2 * cap + 1))
    assert {(loss.reason, loss.in_doubt) for loss in reports.losses} == {(LossReason.CAP, False)}


@pytest.mark.parametrize("cap", [64, 100, 4096])
async def test_a_healthy_store_loses_nothing_that_fits_the_cap(cap: int, autojump_clock: Clock) -> None:
    """Exactly the cap is not too much."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, retry_buffer_cap=cap, on_failure=reports) as log:
        burst(log, cap)

    assert store.seqs == list(range(1, cap + 1))
    assert reports.losses == []


async def test_a_hung_append_costs_the_oldest_waiting(autojump_clock: Clock) -> None:
    """The batch in flight is not touched; beside it ``cap`` events wait, and older ones fall."""
    store, reports = FakeStore([take, hang]), Reports()
    with pytest.raises(EventsLost) as caught:
        async with open_event_log(store, batch_size=4, retry_buffer_cap=8, on_failure=reports) as log:
            burst(log, 1)
            await log.flush()
            burst(log, 4)
            await trio.testing.wait_all_tasks_blocked()
            burst(log, 20)
            statistics = log.statistics()
            assert (statistics.pending, statistics.lost) == (12, {LossReason.CAP: 12})

    # When the hung append is given up, its four rejoin at the front, and the front is what the cap cuts.
    assert caught.value.by_reason == {LossReason.CAP: 4}
    assert store.seqs == [1, *range(18, 26)]
    assert sorted(reports.lost) == list(range(2, 18))
    doubt = {event.seq: loss.in_doubt for loss in reports.losses for event in loss.events}
    assert [seq for seq, in_doubt in doubt.items() if in_doubt] == [2, 3, 4, 5]


# --- L4: one append at a time, in order -----------------------------------------------------------


async def test_a_failed_batch_goes_again_first_and_takes_later_ones_along(autojump_clock: Clock) -> None:
    """Order is kept, and there is never more than one append."""
    store = FakeStore([fail, fail])
    async with open_event_log(store, batch_size=2, retry=STEADY, on_failure=Reports()) as log:
        burst(log, 2)
        await trio.sleep(0.5)
        burst(log, 3)
        await log.flush()

    assert [append.seqs for append in store.appends] == [(1, 2), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5)]
    assert store.seqs == [1, 2, 3, 4, 5]
    assert store.most_in_flight == 1


async def test_what_a_store_declares_as_its_most_is_kept(autojump_clock: Clock) -> None:
    """More than ``max_batch`` goes in several appends, one right after the other."""
    store = FakeStore()
    store.max_batch = 10
    async with open_event_log(store, batch_size=25) as log:
        burst(log, 25)
        await trio.testing.wait_all_tasks_blocked()
        assert [len(append.seqs) for append in store.appends] == [10, 10, 5]


# --- L5: when a flush starts ----------------------------------------------------------------------


async def test_a_full_batch_goes_at_once(autojump_clock: Clock) -> None:
    """At the size, not at the interval; and what has gathered goes out together."""
    store = FakeStore()
    async with open_event_log(store, batch_size=10, flush_interval=60) as log:
        burst(log, 9)
        await trio.testing.wait_all_tasks_blocked()
        assert store.appends == []
        burst(log, 4)
        await trio.testing.wait_all_tasks_blocked()
        assert [len(append.seqs) for append in store.appends] == [13]
        assert trio.current_time() == 0


async def test_the_interval_counts_from_the_oldest_event(autojump_clock: Clock) -> None:
    """Later events do not postpone it, and each batch starts anew."""
    store = FakeStore()
    async with open_event_log(store, flush_interval=1.0) as log:
        await trio.sleep(5)
        for n in range(4):
            log.ingest(numbered(n))
            await trio.sleep(0.4)
        await trio.sleep(10)

    assert [(append.started_at, len(append.seqs)) for append in store.appends] == [
        (6.0, 3),
        (pytest.approx(7.2), 1),
    ]


class Schedulings(trio.abc.Instrument):
    """Counts how often each task runs."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count."""
        self.count[task.name] = self.count.get(task.name, 0) + 1


async def test_an_idle_log_wakes_nobody_and_a_busy_one_once_a_batch(autojump_clock: Clock) -> None:
    """The flush task sleeps while nothing comes, and is not woken for every event."""
    store, seen = FakeStore(), Schedulings()

    def writer_steps() -> int:
        return sum(
            count for name, count in seen.count.items() if name.endswith(("Writer.run", "Reporter.run"))
        )

    async with open_event_log(store, batch_size=100) as log:
        trio.lowlevel.add_instrument(seen)
        await trio.sleep(0.1)
        # The writer and the reporter start and go to sleep, once.
        assert writer_steps() == 2
        await trio.sleep(3600)
        assert writer_steps() == 2
        for n in range(99):
            log.ingest(numbered(n))
            await trio.lowlevel.checkpoint()
        assert writer_steps() == 2
        log.ingest(numbered(99))
        await trio.sleep(0.1)
        # Woken, and back from the one checkpoint of the store.
        assert writer_steps() == 4
        await trio.sleep(3600)
        assert writer_steps() == 4
        trio.lowlevel.remove_instrument(seen)

    assert [len(append.seqs) for append in store.appends] == [100]


# --- L6: failures ---------------------------------------------------------------------------------


async def test_failures_back_off_and_new_events_do_not_shorten_the_wait(autojump_clock: Clock) -> None:
    """Thousands of events against a store that is down cost as many appends as the waits allow."""
    store = FakeStore(otherwise=fail)
    reports = Reports()
    with pytest.raises(EventsLost):
        async with open_event_log(
            store, batch_size=1, retry=STEADY, on_failure=reports, grace_period=0
        ) as log:
            for n in range(6000):
                log.ingest(numbered(n))
                await trio.sleep(0.005)

    # 30 s: at 0 (the first event comes at 0), then after waits of 1, 2, 4, 8, 8 and 8 s.
    assert [append.started_at for append in store.appends] == pytest.approx([0, 1, 3, 7, 15, 23])
    assert [failure.retry_in for failure in reports.failures] == [1, 2, 4, 8, 8, 8]
    assert [failure.failures for failure in reports.failures] == [1, 2, 3, 4, 5, 6]


async def test_a_success_starts_the_waits_anew(autojump_clock: Clock) -> None:
    """The next failure waits for ``initial`` again."""
    store, reports = FakeStore([fail, fail, take, fail, take]), Reports()
    async with open_event_log(store, batch_size=1, retry=STEADY, on_failure=reports) as log:
        burst(log, 1)
        await trio.sleep(10)
        burst(log, 1)
        await trio.sleep(10)

    assert [failure.retry_in for failure in reports.failures] == [1, 2, 1]
    assert store.seqs == [1, 2]


async def test_a_flush_hurries_one_attempt_per_wait(autojump_clock: Clock) -> None:
    """The first flush ends the wait; more of them in the same wait do not."""
    store = FakeStore(otherwise=fail)
    async with open_event_log(
        store, batch_size=1, retry=RetryPolicy(initial=10, maximum=1000, jitter=0), on_failure=Reports()
    ) as log:
        burst(log, 1)
        await trio.sleep(1)
        assert len(store.appends) == 1
        for _ in range(5):
            with trio.move_on_after(1):
                await log.flush()
        # One attempt hurried in the wait of 10 s, one in the wait of 20 s that followed, and so on: each of
        # the five flushes met a new wait.
        assert [append.started_at for append in store.appends] == [0, 1, 2, 3, 4, 5]
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(log.flush)
            await trio.sleep(1)
            # Five at once: the first hurries, the others find its attempt under way or hurry the next wait.
            assert len(store.appends) - 6 <= 5
            nursery.cancel_scope.cancel(reason="test")
        store.otherwise = take


async def test_an_append_that_takes_too_long_is_cancelled_and_retried(autojump_clock: Clock) -> None:
    """It counts as failed with a TimeoutError, its outcome unknown."""
    store, reports = FakeStore([hang]), Reports()
    async with open_event_log(
        store, batch_size=1, append_timeout=30, retry=STEADY, on_failure=reports
    ) as log:
        burst(log, 1)
        await log.flush()
        assert trio.current_time() == 31

    (failure,) = reports.failures
    assert isinstance(failure.error, TimeoutError)
    assert "30 s" in str(failure.error)
    assert store.seqs == [1]


async def test_an_append_may_take_for_ever_if_told_so(autojump_clock: Clock) -> None:
    """``append_timeout=math.inf``."""
    store = FakeStore([delay(1e6)])
    async with open_event_log(store, batch_size=1, append_timeout=math.inf) as log:
        burst(log, 1)
        await log.flush()
        assert trio.current_time() == 1e6

    assert len(store.appends) == 1


async def test_a_lost_answer_stores_nothing_twice(autojump_clock: Clock) -> None:
    """The retry finds the events in the store under their own seqs: persisted, and no duplicates."""
    store = FakeStore([take_and_fail])
    async with open_event_log(store, on_failure=Reports()) as log:
        burst(log, 3)

    assert store.seqs == [1, 2, 3]
    assert (log.statistics().persisted, log.statistics().duplicate) == (3, 0)


async def test_closing_ends_a_wait_and_starts_over(autojump_clock: Clock) -> None:
    """A store that has recovered gets its events at once, however long the wait still is."""
    store = FakeStore([fail])
    retry = RetryPolicy(initial=1000, maximum=1000, jitter=0)
    async with open_event_log(store, batch_size=1, retry=retry, on_failure=Reports()) as log:
        burst(log, 1)
        await trio.sleep(10)

    assert store.seqs == [1]
    assert trio.current_time() == 10


async def test_the_drain_makes_sure_of_a_last_attempt(autojump_clock: Clock) -> None:
    """A store that recovers late in the grace period is not missed by a long wait."""
    store = FakeStore([fail, fail, fail])
    retry = RetryPolicy(initial=1, maximum=1000, multiplier=100, jitter=0)
    async with open_event_log(store, grace_period=5, retry=retry, on_failure=Reports()) as log:
        burst(log, 1)
        store.script = [fail, fail]

    # At once, after 1 s, and then not after another 100 s but 1 s before the end.
    assert [append.started_at for append in store.appends] == [0, 1, 4]
    assert store.seqs == [1]


# --- flush ----------------------------------------------------------------------------------------


async def test_flush_waits_for_what_was_ingested_before_it(autojump_clock: Clock) -> None:
    """It starts an append at once, and does not wait for what comes later."""
    store = FakeStore(otherwise=delay(1.0))
    async with open_event_log(store, flush_interval=60) as log:
        burst(log, 3)
        await log.flush()
        assert trio.current_time() == 1
        assert store.seqs == [1, 2, 3]


async def test_flush_through_a_seq(autojump_clock: Clock) -> None:
    """It returns once that seq is durable, though later events are still on their way."""
    store = FakeStore([take, hang])
    async with open_event_log(store, batch_size=2, on_failure=Reports(), grace_period=1) as log:
        burst(log, 2)
        await trio.testing.wait_all_tasks_blocked()
        burst(log, 2)
        await log.flush(through=2)
        assert store.seqs == [1, 2]
        with pytest.raises(ValueError, match="through"):
            await log.flush(through=5)
        with pytest.raises(ValueError, match="through"):
            await log.flush(through=-1)
        with pytest.raises(TypeError, match="through"):
            await log.flush(through="2")  # type: ignore[arg-type]

    # The hung append was cancelled early enough for another one.
    assert store.seqs == [1, 2, 3, 4]


async def test_flush_raises_losses_once(autojump_clock: Clock) -> None:
    """The first flush after a loss raises it, the next does not; one that went on meanwhile does."""
    store = FakeStore()
    async with open_event_log(store, batch_size=2, retry_buffer_cap=4, on_failure=Reports()) as log:
        burst(log, 10)
        with pytest.raises(EventsLost) as caught:
            await log.flush()
        await log.flush()

    assert (caught.value.count, caught.value.first_seq, caught.value.last_seq) == (6, 1, 6)
    assert caught.value.by_reason == {LossReason.CAP: 6}
    assert "6 events lost (seq 1 to 6: 6 cap)" in str(caught.value)


async def test_flushes_at_the_same_time_both_learn_of_a_loss(autojump_clock: Clock) -> None:
    """Neither is told that its events are durable when they are not."""
    store, told = FakeStore([delay(1.0, fail)]), []

    async def flush() -> None:
        try:
            await log.flush()
        except EventsLost as exc:
            told.append(exc.count)

    async with open_event_log(store, batch_size=2, retry_buffer_cap=4, on_failure=Reports()) as log:
        burst(log, 4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            nursery.start_soon(flush)
            await trio.testing.wait_all_tasks_blocked()
            burst(log, 2)

    assert told == [2, 2]


async def test_a_flush_that_begins_before_another_has_raised_a_loss(autojump_clock: Clock) -> None:
    """A task that waited for a flush and has not run since the loss has raised nothing by then."""
    store = FakeStore(otherwise=fail)
    raised: list[str] = []

    async def flush(name: str) -> None:
        with pytest.raises(EventsLost) as caught:
            await log.flush(1)
        assert (caught.value.count, caught.value.first_seq) == (1, 1)
        raised.append(name)

    with pytest.raises(EventsLost):
        async with open_event_log(
            store, retry_buffer_cap=1, batch_size=1, grace_period=0, on_failure=Reports()
        ) as log:
            burst(log, 1)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush, "first")
                await trio.testing.wait_all_tasks_blocked()
                burst(log, 1)  # the cap takes the first event
                assert raised == []
                await flush("second")
            await log.flush(1)

    assert sorted(raised) == ["first", "second"]


async def test_flush_through_old_events_says_nothing_of_newer_losses(autojump_clock: Clock) -> None:
    """Only losses up to the mark are raised; the rest waits for a flush that concerns it."""
    store = FakeStore([delay(1.0)])
    async with open_event_log(store, batch_size=2, retry_buffer_cap=2, on_failure=Reports()) as log:
        burst(log, 2)
        await trio.testing.wait_all_tasks_blocked()
        burst(log, 6)
        await log.flush(through=2)
        with pytest.raises(EventsLost) as caught:
            await log.flush(through=4)
        assert (caught.value.first_seq, caught.value.last_seq) == (3, 4)
        with pytest.raises(EventsLost) as caught:
            await log.flush()
        assert (caught.value.first_seq, caught.value.last_seq) == (5, 6)


async def test_a_cancelled_flush_consumes_nothing(autojump_clock: Clock) -> None:
    """The losses it would have raised are raised by the next."""
    store = FakeStore([delay(10.0)])
    async with open_event_log(store, batch_size=2, retry_buffer_cap=2, on_failure=Reports()) as log:
        burst(log, 2)
        await trio.testing.wait_all_tasks_blocked()
        burst(log, 3)
        with trio.move_on_after(1):
            await log.flush()
        with pytest.raises(EventsLost) as caught:
            await log.flush()
        assert caught.value.count == 1


async def test_a_flush_that_waits_gets_the_result_of_the_drain(autojump_clock: Clock) -> None:
    """A task outside the block is told what became of its events."""
    store, told = FakeStore(otherwise=fail), []
    logs: list[EventLog] = []

    async def flush() -> None:
        with pytest.raises(EventsLost) as caught:
            await logs[0].flush()
        told.append(caught.value.count)

    async with trio.open_nursery() as nursery:
        with pytest.raises(EventsLost):
            async with open_event_log(store, on_failure=Reports()) as log:
                logs.append(log)
                burst(log, 3)
                nursery.start_soon(flush)
                await trio.testing.wait_all_tasks_blocked()

    assert told == [3]


# --- ingest_wait ----------------------------------------------------------------------------------


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


# --- L9: reports ----------------------------------------------------------------------------------


async def test_losses_to_the_cap_come_together(autojump_clock: Clock) -> None:
    """After a second, or at 1,024 of them."""
    store, reports = FakeStore(otherwise=delay(100)), Reports()
    async with open_event_log(
        store, batch_size=1, retry_buffer_cap=1, append_timeout=1000, grace_period=1000, on_failure=reports
    ) as log:
        burst(log, 1)
        await trio.sleep(10)
        burst(log, 4)
        await trio.sleep(0.5)
        burst(log, 4)
        await trio.sleep(4.5)
        assert [(loss.count, time) for loss, time in zip(reports.losses, reports.times, strict=True)] == [
            (7, 11)
        ]
        burst(log, 2500)
        assert [loss.count for loss in reports.losses] == [7, 1024, 1024]
        await trio.sleep(2)
        assert [loss.count for loss in reports.losses] == [7, 1024, 1024, 452]
        assert (log.statistics().lost_total, len(reports.lost)) == (2507, 2507)


async def test_reports_come_with_the_books_in_order(autojump_clock: Clock) -> None:
    """Conservation holds inside on_failure, too."""
    seen = []

    def check(_report: Report) -> None:
        books = log.statistics()
        seen.append(books.ingested - books.persisted - books.duplicate - books.pending - books.lost_total)

    store = FakeStore([fail, fail_with(EventRejected([_event(1)], "too large")), fail])
    async with open_event_log(store, batch_size=1, retry_buffer_cap=4, on_failure=check) as log:
        burst(log, 6)
        await trio.sleep(5)
        burst(log, 1)

    assert set(seen) == {0}
    assert len(seen) >= 3


def _event(seq: int) -> PersistedEvent:
    return PersistedEvent("of the test", seq, 0, None, numbered(0))


async def test_what_on_failure_raises_is_logged_and_changes_nothing(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log goes on."""

    def raising(_report: object) -> None:
        msg = "of the callback"
        raise ValueError(msg)

    store = FakeStore([fail])
    async with open_event_log(store, on_failure=raising) as log:
        burst(log, 2)

    assert store.seqs == [1, 2]
    (record,) = [record for record in caplog.records if record.name == "trio_eventlog"]
    assert record.exc_info is not None
    assert "of the callback" in str(record.exc_info[1])


async def test_on_failure_may_ingest(autojump_clock: Clock) -> None:
    """A program that logs its failures into the log that fails does not run in circles."""
    reports = Reports()

    def ingest(report: Report) -> None:
        reports(report)
        log.ingest(AgentEvent("log", "failure"))

    store = FakeStore(otherwise=fail)
    with pytest.raises(StoreUnusable):
        async with open_event_log(
            store, batch_size=1, retry_buffer_cap=1, retry=STEADY, on_failure=ingest
        ) as log:
            burst(log, 3)
            await trio.sleep(3)
            store.otherwise = fail_with(StoreUnusable("gone"))
            await trio.sleep(30)

    books = log.statistics()
    assert books.ingested == books.lost_total == len(set(reports.lost)) == len(reports.lost)
    assert len(reports.times) < 60


async def test_without_on_failure_reports_go_to_the_logger(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The first at once, then at most one per 30 s, the rest summed up at the end."""
    caplog.set_level(logging.DEBUG, "trio_eventlog")
    store = FakeStore(otherwise=fail)
    retry = RetryPolicy(initial=1, maximum=1, multiplier=1, jitter=0)
    with pytest.raises(EventsLost):
        async with open_event_log(store, batch_size=1, retry=retry, grace_period=2) as log:
            burst(log, 1)
            await trio.sleep(60.5)

    records = [record for record in caplog.records if record.name == "trio_eventlog"]
    assert [record.levelname for record in records] == ["WARNING"] * 4 + ["ERROR"]
    assert "29 failed appends" in records[1].getMessage()
    assert "no further attempt" in records[3].getMessage()
    assert "lost 1 events" in records[4].getMessage()


# --- L12: unusable stores, rejected events, stores that break the contract -------------------------


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
        EventRejected([_event(99)], "a stranger"),
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


# --- opening --------------------------------------------------------------------------------------


async def test_one_log_at_a_time_on_one_store(autojump_clock: Clock) -> None:
    """Two would number twice."""
    store = FakeStore()
    async with open_event_log(store):
        with pytest.raises(LogBusy):
            async with open_event_log(store):
                pytest.fail("two logs on one store")
        async with open_event_log(FakeStore()):
            pass
    async with open_event_log(store):
        pass


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"batch_size": -1}, ValueError, "batch_size"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
        ({"batch_size": True}, TypeError, "batch_size"),
        ({"batch_size": 65, "retry_buffer_cap": 64}, ValueError, "batch_size"),
        ({"retry_buffer_cap": 0}, ValueError, "retry_buffer_cap"),
        ({"retry_buffer_cap": math.inf}, TypeError, "retry_buffer_cap"),
        ({"flush_interval": -0.1}, ValueError, "flush_interval"),
        ({"flush_interval": math.nan}, ValueError, "flush_interval"),
        ({"flush_interval": math.inf}, ValueError, "flush_interval"),
        ({"flush_interval": "1"}, TypeError, "flush_interval"),
        ({"append_timeout": 0}, ValueError, "append_timeout"),
        ({"append_timeout": math.nan}, ValueError, "append_timeout"),
        ({"grace_period": -1}, ValueError, "grace_period"),
        ({"grace_period": math.inf}, ValueError, "grace_period"),
        ({"grace_period": math.nan}, ValueError, "grace_period"),
        ({"retry": 3}, TypeError, "retry"),
        ({"filter": "no"}, TypeError, "filter"),
        ({"on_failure": []}, TypeError, "on_failure"),
    ],
)
async def test_bad_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], name: str, autojump_clock: Clock
) -> None:
    """Before anything is opened."""
    store = FakeStore()
    with pytest.raises(error, match=name):
        async with open_event_log(store, **arguments):
            pytest.fail("opened")

    assert store.asked_last_seq == 0


@pytest.mark.parametrize("store", [None, object(), FakeStore])
async def test_what_is_no_store_is_refused(store: Any, autojump_clock: Clock) -> None:
    """The class of a store is not a store, either."""
    with pytest.raises(TypeError, match="append_batch"):
        async with open_event_log(store):
            pytest.fail("opened")


@pytest.mark.parametrize("last_seq", [-1, 2**63, True, None, "7"])
async def test_a_wrong_answer_of_last_seq_is_an_error(last_seq: Any, autojump_clock: Clock) -> None:
    """Numbering cannot start from it."""

    class Confused(FakeStore):
        async def last_seq(self) -> Any:
            await trio.lowlevel.checkpoint()
            return last_seq

    with pytest.raises(StoreError, match="last_seq"):
        async with open_event_log(Confused()):
            pytest.fail("opened")


async def test_zero_means_the_least(autojump_clock: Clock) -> None:
    """A batch of 0 counts as 1 event, an interval of 0 as a millisecond."""
    store = FakeStore()
    async with open_event_log(store, batch_size=0) as log:
        burst(log, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert store.seqs == [1]
    async with open_event_log(store, flush_interval=0) as log:
        burst(log, 1)
        await trio.sleep(1)
    assert store.appends[-1].started_at == pytest.approx(0.001)


async def test_the_last_seq_of_all(autojump_clock: Clock) -> None:
    """A log that has given out 2**63 - 1 refuses, and what it accepted is stored."""
    store = FakeStore()
    store.first_last_seq = 2**63 - 2
    async with open_event_log(store) as log:
        assert log.ingest(numbered(1)) == 2**63 - 1
        with pytest.raises(Exception, match="last seq"):
            log.ingest(numbered(2))

    assert store.seqs == [2**63 - 1]


def test_a_log_has_no_public_constructor() -> None:
    """It comes from open_event_log alone."""
    with pytest.raises(TypeError, match="no public constructor"):
        EventLog()  # type: ignore[call-arg]


async def test_statistics_are_a_snapshot_of_everything(autojump_clock: Clock) -> None:
    """The fields agree with what happened, and the snapshot does not change."""
    store = FakeStore([fail])
    async with open_event_log(store, batch_size=4, retry=STEADY, on_failure=Reports()) as log:
        before = log.statistics()
        burst(log, 4)
        await log.flush()
        after = log.statistics()

    assert attrs.asdict(before) | {"lost": {}} == {
        "ingested": 0,
        "filtered": 0,
        "persisted": 0,
        "duplicate": 0,
        "lost": {},
        "recovered": 0,
        "pending": 0,
        "pending_bytes": 0,
        "spilled": 0,
        "spill_bytes": 0,
        "appends": 0,
        "failures": 0,
        "last_assigned_seq": 0,
        "last_durable_seq": 0,
        "peak_pending": 0,
        "peak_batch": 0,
        "state": LogState.OPEN,
    }
    assert (after.appends, after.failures, after.peak_batch, after.peak_pending) == (2, 1, 4, 4)
    assert (after.last_assigned_seq, after.last_durable_seq) == (4, 4)
    with pytest.raises(TypeError):
        after.lost[LossReason.CAP] = 1  # type: ignore[index]


async def test_query_asks_the_store(autojump_clock: Clock) -> None:
    """Only durable events are found; what is no query is refused."""
    async with open_event_log(FakeStore()) as log:
        burst(log, 3)
        assert await log.query() == []
        await log.flush()
        assert [event.seq for event in await log.query(EventQuery(after_seq=1))] == [2, 3]
        with pytest.raises(TypeError, match="query"):
            await log.query({"limit": 1})  # type: ignore[arg-type]


# --- what attacks found ---------------------------------------------------------------------------


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


async def test_a_flush_cancelled_at_the_moment_of_a_loss_does_not_swallow_it(autojump_clock: Clock) -> None:
    """Either it raises the loss, or the next flush does."""
    for _ in range(20):
        store, told = FakeStore([delay(5.0)]), 0
        async with open_event_log(
            store, batch_size=1, retry_buffer_cap=1, append_timeout=5.0, on_failure=Reports()
        ) as log:
            burst(log, 1)
            await trio.testing.wait_all_tasks_blocked()
            burst(log, 1)
            with trio.move_on_after(5.0):
                try:
                    await log.flush()
                except EventsLost as exc:
                    told += exc.count
            try:
                await log.flush()
            except EventsLost as exc:
                told += exc.count

        assert told == log.statistics().lost_total


@pytest.mark.parametrize("named", [[1, 2], ["1"], [None]])
async def test_a_rejection_that_names_no_events_is_a_fault_of_the_store(
    named: Any, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Naming seqs instead of events is an easy slip; it must not cost the log."""
    store = FakeStore([fail_with(EventRejected(named, "too big"))])
    async with open_event_log(store, on_failure=Reports()) as log:
        burst(log, 2)

    assert store.seqs == [1, 2]
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


class Raising(logging.Handler):
    """A handler that does not handle its own errors."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise."""
        msg = "of the handler"
        raise ValueError(msg)


async def test_a_handler_that_raises_changes_nothing(
    autojump_clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither for whoever ingests, nor for the exception of the body; its traceback goes to stderr."""
    own, logger, handler = KeyError("of the body"), logging.getLogger("trio_eventlog"), Raising()
    logger.addHandler(handler)
    try:
        with pytest.raises(KeyError) as caught:
            async with open_event_log(FakeStore(otherwise=fail), batch_size=1, retry_buffer_cap=1) as log:
                burst(log, 2000)
                raise own
    finally:
        logger.removeHandler(handler)

    assert caught.value is own
    assert "of the handler" in capsys.readouterr().err


@attrs.define(eq=False)
class Leaving:
    """An ``on_failure`` that keeps what it is told and then ends the program."""

    error: BaseException = attrs.field(factory=lambda: SystemExit(3))
    reports: list[Report] = attrs.field(factory=list)

    def __call__(self, report: Report) -> None:
        self.reports.append(report)
        raise self.error

    @property
    def lost(self) -> list[int]:
        return [e.seq for report in self.reports if isinstance(report, LossReport) for e in report.events]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_on_failure_may_end_the_program(
    error: BaseException, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not an Exception cancels the body, ends the drain, and leaves the block bare."""
    leave = Leaving(error)
    with pytest.raises(type(error)) as caught:
        async with open_event_log(FakeStore(otherwise=fail), on_failure=leave, grace_period=1000) as log:
            burst(log, 1)
            try:
                await trio.sleep_forever()
            finally:
                ended_at = trio.current_time()

    assert caught.value is error
    assert trio.current_time() == ended_at == 1.0
    assert leave.lost == [1]
    assert log.statistics().state == LogState.CLOSED
    assert "on_failure raised" not in caplog.text


async def test_on_failure_that_ends_the_program_has_the_error_of_the_body_as_context(
    autojump_clock: Clock,
) -> None:
    """Neither of the two is forgotten."""
    leave, own = Leaving(), KeyError("of the body")
    with pytest.raises(SystemExit) as caught:
        async with open_event_log(FakeStore(otherwise=fail), on_failure=leave) as log:
            burst(log, 1)
            raise own

    assert caught.value is leave.error
    assert caught.value.__context__ is own


@pytest.mark.parametrize("where", ["ingest", "flush", "at the end", "in time"])
async def test_on_failure_may_end_the_program_from_anywhere(where: str, autojump_clock: Clock) -> None:
    """Wherever it is called, the books stay right, and every loss is reported all the same."""
    leave = Leaving()
    store = FakeStore(otherwise=hang)
    with pytest.raises(SystemExit) as caught:
        async with open_event_log(
            store, batch_size=1, retry_buffer_cap=2, on_failure=leave, grace_period=1
        ) as log:
            if where == "ingest":
                # The 1,024th loss is reported within the call, and the one after it gets its number.
                assert burst(log, 1500)[-1] == 1500
                assert log.ingest(numbered(0)) == 1501
            elif where == "flush":
                burst(log, 4)
                await log.flush()
            elif where == "at the end":
                burst(log, 4)
            else:
                burst(log, 4)
                await trio.sleep_forever()

    assert caught.value is leave.error
    books = log.statistics()
    assert sorted(leave.lost) == list(range(1, books.ingested + 1))
    assert books.pending == 0
    assert books.lost_total == books.ingested


async def test_a_log_handler_may_end_the_program(autojump_clock: Clock) -> None:
    """What a handler of log records raises counts as if on_failure had raised it."""

    class Handler(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            raise SystemExit(4)

    logger, handler = logging.getLogger("trio_eventlog"), Handler()
    logger.addHandler(handler)
    try:
        with pytest.raises(SystemExit):
            async with open_event_log(FakeStore(otherwise=fail)) as log:
                burst(log, 1)
                await trio.sleep_forever()
    finally:
        logger.removeHandler(handler)

    assert log.statistics().lost_total == 1


async def test_an_event_per_lost_event_keeps_the_order(autojump_clock: Clock) -> None:
    """on_failure may ingest as much as it is told, and seqs still ascend and the books still balance."""
    sums = set()

    def ingest(report: Report) -> None:
        books = log.statistics()
        sums.add(books.ingested - books.persisted - books.duplicate - books.pending - books.lost_total)
        if isinstance(report, LossReport) and books.ingested < 10_000:
            burst(log, report.count)

    store = FakeStore()
    async with open_event_log(store, batch_size=1, retry_buffer_cap=4, on_failure=ingest) as log:
        burst(log, 5000)

    assert sums == {0}
    assert store.seqs == sorted(store.seqs)
    assert all(list(append.seqs) == sorted(append.seqs) for append in store.appends)


@pytest.mark.parametrize("seconds", [4.91, 4.95, 4.99])
async def test_a_slow_append_is_not_cut_for_another_one(seconds: float, autojump_clock: Clock) -> None:
    """A healthy store that needs nearly the whole grace period loses nothing."""
    store = FakeStore(otherwise=delay(seconds))
    async with open_event_log(store, grace_period=5.0) as log:
        burst(log, 1)

    assert store.seqs == [1]
    assert len(store.appends) == 1


async def test_many_slow_appends_in_the_drain(autojump_clock: Clock) -> None:
    """They have all of the grace period."""
    store = FakeStore(otherwise=delay(0.45))
    store.max_batch = 10
    async with open_event_log(store, batch_size=200, grace_period=5.0) as log:
        burst(log, 110)

    assert len(store.held) == 110


async def test_the_end_of_a_store_is_logged_at_once(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Also shortly after a record of something else."""
    gone = StoreUnusable("gone for good")
    store = FakeStore([fail, take, fail_with(gone)])
    with pytest.raises(StoreUnusable):
        async with open_event_log(store, batch_size=1) as log:
            burst(log, 1)
            await trio.sleep(1)
            burst(log, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert "gone for good" in caplog.text
            assert "reason: unusable" in caplog.text


@pytest.mark.parametrize("name", ["flush_interval", "append_timeout", "grace_period"])
async def test_seconds_beyond_every_float_are_refused(name: str, autojump_clock: Clock) -> None:
    """An int can be, and compares as less than infinity."""
    with pytest.raises(ValueError, match=name):
        async with open_event_log(FakeStore(), **{name: 10**400}):  # type: ignore[arg-type]
            pytest.fail("opened")


@pytest.mark.parametrize("name", ["filter", "on_failure"])
async def test_async_callbacks_are_refused(name: str, autojump_clock: Clock) -> None:
    """Nobody would await them, and a coroutine is true."""

    async def callback(_argument: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    with pytest.raises(TypeError, match=f"{name}: expected a plain function"):
        async with open_event_log(FakeStore(), **{name: callback}):  # type: ignore[arg-type]
            pytest.fail("opened")


@pytest.mark.parametrize(
    "event",
    [
        AgentEvent("w", "x", {"n": [10**5000]}),
        AgentEvent(10**5000, "x"),  # type: ignore[arg-type]
        AgentEvent([10**5000], "x"),  # type: ignore[arg-type]
        EventEnvelope("e", "agent", 10**5000, AgentEvent("w", "x")),
        EventEnvelope("e", 10**5000, 1, AgentEvent("w", "x")),  # type: ignore[arg-type]
    ],
    ids=["payload", "agent_id", "in a list", "timestamp_ms", "source"],
)
async def test_integers_too_long_to_print_are_refused_by_name(event: Any, autojump_clock: Clock) -> None:
    """Python refuses to turn them into text; the error must not trip over that."""
    async with open_event_log(FakeStore()) as log:
        with pytest.raises(CodecError) as caught:
            log.ingest(event)

    assert caught.value.path
    assert len(str(caught.value)) < 200


async def test_failed_appends_leave_no_garbage(autojump_clock: Clock) -> None:
    """A batch is freed when it is settled, not when the collector of cycles comes round."""
    errors = []

    async def fresh_error(_store: FakeStore, _events: Sequence[PersistedEvent]) -> tuple[()]:
        error = StoreError("down")
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.collect()
    gc.disable()
    try:
        store = FakeStore([fresh_error] * 5)
        async with open_event_log(store, batch_size=1, retry=STEADY, on_failure=lambda _: None) as log:
            burst(log, 1)
            await log.flush()
        assert len(errors) == 5
        assert [error for error in errors if error() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("drawn", [math.nan, None, -7.0, 2.0, ZeroDivisionError])
async def test_a_broken_source_of_randomness_costs_the_jitter_alone(
    drawn: Any, autojump_clock: Clock
) -> None:
    """Never the wait, and never the log."""

    def source() -> Any:
        if isinstance(drawn, type):
            raise drawn
        return drawn

    store = FakeStore(otherwise=fail)
    retry = RetryPolicy(initial=1.0, maximum=1.0, jitter=1.0, random=source)
    with pytest.raises(EventsLost):
        async with open_event_log(
            store, batch_size=1, retry=retry, grace_period=0, on_failure=Reports()
        ) as log:
            burst(log, 1)
            await trio.sleep(10.5)

    assert len(store.appends) == 11


async def test_notes_that_are_no_list_do_not_replace_the_error(autojump_clock: Clock) -> None:
    """The body's exception is more important than our note on it."""
    own = KeyError("of the body")
    own.__notes__ = ("a tuple",)  # type: ignore[assignment]
    with pytest.raises(KeyError) as caught:
        async with open_event_log(FakeStore(otherwise=fail), on_failure=Reports()) as log:
            burst(log, 1)
            raise own

    assert caught.value is own


async def test_many_flushes_at_once(autojump_clock: Clock) -> None:
    """Each is settled, and none looks at all the others."""
    store, done = FakeStore([delay(1.0)]), 0

    async def flush() -> None:
        nonlocal done
        await log.flush()
        done += 1

    async with open_event_log(store, batch_size=1) as log, trio.open_nursery() as nursery:
        burst(log, 1)
        for _ in range(5000):
            nursery.start_soon(flush)

    assert done == 5000
