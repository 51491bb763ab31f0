"""What ``ingest`` takes and refuses, and its order in the store: the promises L1, L3, L4 and L10."""

from __future__ import annotations

import math
import threading
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
    fail,
    hang,
    numbered,
    take,
)
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventLog,
    EventsLost,
    LogState,
    LossReason,
    ModuleEvent,
    PersistedEvent,
    StoreError,
    open_event_log,
)


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
