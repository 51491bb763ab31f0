"""A store that went back to an older state: what is at hand is stored again, the rest is counted and told."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import Behaviour, FakeStore, Reports, delay, fail, fail_with, hang, numbered, take
from trio_eventlog import (
    EventEnvelope,
    EventLog,
    EventQuery,
    EventsLost,
    LossReason,
    PersistedEvent,
    RetryPolicy,
    RevertReport,
    SpillReport,
    StoreError,
    StoreUnusable,
    StoreWentBack,
    Subscription,
    open_event_log,
)
from trio_eventlog._log import _spill_queue
from trio_eventlog._reading import _subscription
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import (
    Fault,
    FaultyStore,
    GoesBack,
    Slow,
    Works,
    check_accounts,
    fault_scripts,
    faults,
    run_in_virtual_time,
)

Clock = trio.testing.MockClock

STEADY = RetryPolicy(jitter=0)


def go_back(last_seq: int) -> Behaviour:
    """What a store does that was restored from a backup, and looks."""

    async def behaviour(store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
        expected = max(store.seqs)
        store.held = {event.id: event for event in store.held.values() if event.seq <= last_seq}
        raise StoreWentBack(last_seq, expected)

    return behaviour


async def filled(log: EventLog, count: int) -> None:
    """Ingest and flush."""
    for number in range(count):
        log.ingest(numbered(number))
    await log.flush()


async def seqs_in(store: Any) -> list[int]:
    """All that it holds, in the order of seq."""
    return [event.seq for event in await store.query(EventQuery())]


def at_hand(count: int) -> Any:
    """Let a log keep so few stored events."""
    return mock.patch.object(_subscription, "_RECENT_EVENTS", count)


# --- what becomes of the events -------------------------------------------------------------------


async def test_what_is_at_hand_is_stored_again(autojump_clock: Clock) -> None:
    """At once, before what was in flight, under the same ids and seqs; and all of it is told."""
    store, reports = FaultyStore(MemoryStore()), Reports()
    async with open_event_log(store, batch_size=4, on_failure=reports) as log:
        await filled(log, 10)
        before = await store.query(EventQuery())
        store.inner.go_back(6)  # type: ignore[attr-defined]
        started = trio.current_time()
        await filled(log, 4)

        assert trio.current_time() == started
        assert await seqs_in(store) == list(range(1, 15))
        assert (await store.query(EventQuery()))[:10] == before
        books = log.statistics()
        assert (books.ingested, books.persisted, books.pending, books.lost_total) == (14, 14, 0, 0)
        assert (books.failures, books.last_durable_seq) == (1, 14)
    assert [call.seqs for call in store.appends[-3:]] == [(11, 12, 13, 14), (7, 8, 9, 10), (11, 12, 13, 14)]
    [failure], [reverted] = reports.failures, reports.reversions
    assert isinstance(failure.error, StoreWentBack)
    assert (failure.events, failure.first_seq, failure.last_seq, failure.failures) == (4, 11, 14, 1)
    assert failure.retry_in == 0
    assert reverted == RevertReport(last_seq=6, expected_seq=10, again=4, lost=0, earlier=None)


async def test_what_a_store_did_to_its_events_does_not_come_again(autojump_clock: Clock) -> None:
    """It was given them, and may have changed them."""

    class Careless(MemoryStore):
        async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
            result = await super().append_batch(events)
            for event in events:
                event.event.payload["number"] = "spoilt"
            return result

    store = Careless()
    async with open_event_log(store, on_failure=lambda _report: None) as log:
        await filled(log, 3)
        store.go_back(0)
        await filled(log, 1)

        assert [event.event.payload["number"] for event in await log.query()] == [0, 1, 2, 0]


async def test_what_is_not_at_hand_is_lost_and_counted(autojump_clock: Clock) -> None:
    """Moved from persisted to lost, told once, and raised by the next flush that covers it."""
    store, reports = MemoryStore(), Reports()
    with at_hand(64):
        async with open_event_log(store, batch_size=1, on_failure=reports) as log:
            for _ in range(100):
                await filled(log, 1)
            store.go_back(20)
            log.ingest(numbered(100))
            await log.flush(through=20)
            await trio.sleep(1)
            books = log.statistics()
            assert (books.ingested, books.persisted, books.pending) == (101, 85, 0)
            assert books.lost == {LossReason.REVERTED: 16}
            with pytest.raises(EventsLost) as caught:
                await log.flush()
            lost = caught.value
            assert (lost.count, lost.first_seq, lost.last_seq) == (16, 21, 36)
            assert lost.by_reason == {LossReason.REVERTED: 16}
            await log.flush()
    assert await seqs_in(store) == [*range(1, 21), *range(37, 102)]
    assert reports.losses == []
    assert reports.reversions == [
        RevertReport(last_seq=20, expected_seq=100, again=64, lost=16, earlier=None)
    ]


async def test_what_is_at_hand_is_bounded_in_bytes(autojump_clock: Clock) -> None:
    """However few events that are."""
    store, reports = MemoryStore(), Reports()
    with mock.patch.object(_subscription, "_RECENT_BYTES", 5_000):
        async with open_event_log(store, batch_size=1, on_failure=reports) as log:
            for number in range(10):
                log.ingest(numbered(number).__class__("worker", "step", "x" * 1_000))
                await log.flush()
            store.go_back(0)
            with pytest.raises(EventsLost):
                await filled(log, 1)
    assert [(one.again, one.lost) for one in reports.reversions] == [(4, 6)]


async def test_a_large_append_is_not_forgotten_as_a_whole(autojump_clock: Clock) -> None:
    """Of one that is larger than what is kept, the end is kept."""
    store, reports = MemoryStore(), Reports()
    with at_hand(128):
        async with open_event_log(store, on_failure=reports) as log:
            await filled(log, 500)
            store.go_back(0)
            with pytest.raises(EventsLost):
                await filled(log, 1)
    assert [one.again + one.lost for one in reports.reversions] == [500]
    assert reports.reversions[0].again > 64


async def test_what_earlier_runs_stored_is_told_as_a_range(autojump_clock: Clock) -> None:
    """Nobody knows how many of them there were; each range once."""
    store, reports = MemoryStore(), Reports()
    async with open_event_log(store) as log:
        await filled(log, 10)
    async with open_event_log(store, on_failure=reports) as log:
        await filled(log, 2)
        store.go_back(7)
        await filled(log, 1)
        assert log.statistics().last_durable_seq == 13
        store.go_back(4)
        log.ingest(numbered(13))
        await trio.sleep(1.5)
        assert log.statistics().last_durable_seq == 14
    assert await seqs_in(store) == [1, 2, 3, 4, 11, 12, 13, 14]
    assert reports.reversions == [
        RevertReport(last_seq=7, expected_seq=12, again=2, lost=0, earlier=(8, 10)),
        RevertReport(last_seq=4, expected_seq=13, again=3, lost=0, earlier=(5, 7)),
    ]


async def test_last_durable_seq_goes_back(autojump_clock: Clock) -> None:
    """It says what is known to be in the store; also if that is of an earlier run."""
    store = FakeStore()
    async with open_event_log(store) as log:
        await filled(log, 5)
    async with open_event_log(store, batch_size=1, on_failure=lambda _report: None) as log:
        await filled(log, 5)
        for last_seq in (8, 3):
            store.script, store.otherwise = [go_back(last_seq)], fail
            log.ingest(numbered(0))
            await trio.sleep(100)
            assert log.statistics().last_durable_seq == last_seq
        store.otherwise = take


async def test_the_cap_takes_the_oldest(autojump_clock: Clock) -> None:
    """What comes again is older than all that waits; it is reported with its events, as ever."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, batch_size=4, retry_buffer_cap=6, on_failure=reports) as log:
        await filled(log, 4)
        store.script = [delay(5, go_back(0))]
        for number in range(4):
            log.ingest(numbered(number))
        await trio.sleep(0.1)
        log.ingest(numbered(4))
        await trio.sleep(20)
        with pytest.raises(EventsLost) as caught:
            await log.flush()
    assert (caught.value.count, caught.value.by_reason) == (3, {LossReason.CAP: 3})
    assert reports.lost == [1, 2, 3]
    assert [loss.in_doubt for loss in reports.losses] == [False]
    assert store.seqs == [4, 5, 6, 7, 8, 9]
    assert [(one.again, one.lost) for one in reports.reversions] == [(1, 0)]


async def test_a_batch_that_the_older_state_had_in_part(autojump_clock: Clock) -> None:
    """Offered with unknown outcome, and partly taken: what is there stays, the rest comes."""
    store, reports = FakeStore(), Reports()

    async def take_a_part(store: FakeStore, events: Sequence[PersistedEvent]) -> Collection[int]:
        store.keep(events[:2])
        msg = "connection lost"
        raise StoreError(msg)

    async def say_so(_store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
        raise StoreWentBack(5, 6)

    async with open_event_log(store, batch_size=3, on_failure=reports, retry=STEADY) as log:
        await filled(log, 3)
        store.script = [take_a_part, say_so]
        await filled(log, 3)
        assert log.statistics().persisted == 6
    assert store.seqs == [1, 2, 3, 4, 5, 6]
    assert [(one.again, one.lost, one.earlier) for one in reports.reversions] == [(0, 0, None)]
    assert [failure.retry_in for failure in reports.failures] == pytest.approx([0.1, 0])


async def test_duplicates_and_gaps(autojump_clock: Clock) -> None:
    """Only what was stored comes again, and the books balance."""
    store, reports = MemoryStore(), Reports()
    async with open_event_log(store, batch_size=1, on_failure=reports) as log:
        for event_id in ["a", "b", "a", "c", "b", "d"]:
            log.ingest(EventEnvelope.of(numbered(0), event_id=event_id))
        await log.flush()
        store.go_back(1)
        await filled(log, 1)
        books = log.statistics()
        assert (books.ingested, books.persisted, books.duplicate, books.lost_total) == (7, 5, 2, 0)
    assert await seqs_in(store) == [1, 2, 4, 6, 7]
    assert [(one.again, one.lost) for one in reports.reversions] == [(3, 0)]


async def test_a_flush_that_waits_is_settled_truthfully(autojump_clock: Clock) -> None:
    """It returns once what it waits for is stored again, and not before."""
    store = FakeStore()
    async with open_event_log(store, batch_size=4, on_failure=lambda _report: None) as log:
        await filled(log, 4)
        store.script = [go_back(2), hang]
        log.ingest(numbered(4))
        async with trio.open_nursery() as nursery:

            async def flush(through: int | None) -> None:
                await log.flush(through)
                assert set(range(1, (through or 5) + 1)) <= set(store.seqs)

            nursery.start_soon(flush, None)
            await trio.sleep(0.1)
            # What was durable when an earlier flush returned is not durable now.
            nursery.start_soon(flush, 4)
            await log.flush(2)
            assert store.seqs == [1, 2]


# --- stores that say it too often, or say nonsense ------------------------------------------------


@pytest.mark.parametrize(
    ("last_seq", "expected_seq"),
    [
        (5, 3),
        (3, 3),
        (-1, 3),
        (True, 3),
        (0, True),
        (7, 9),
        (2**63, 2**64),
        (1.0, 3),
        (None, None),
        ("1", "3"),
    ],
)
async def test_senseless_numbers_are_a_fault_of_the_store(
    last_seq: Any, expected_seq: Any, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Tried again after a wait, logged once; nothing is stored again or lost for them."""
    error = StoreWentBack(1, 3)
    error.last_seq, error.expected_seq = last_seq, expected_seq
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, on_failure=reports, retry=STEADY) as log:
        await filled(log, 3)
        store.script = [fail_with(error), fail_with(error)]
        await filled(log, 3)
        assert log.statistics().persisted == 6
    assert [failure.retry_in for failure in reports.failures] == pytest.approx([0.1, 0.2])
    assert reports.reversions == []
    assert len(store.appends) == 4
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "broke its contract" in caplog.text


async def test_a_store_that_says_it_again_and_again_is_given_time(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once, then it is a fault as any other, with longer and longer waits."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, on_failure=reports, retry=STEADY) as log:
        await filled(log, 3)
        store.otherwise = fail_with(StoreWentBack(1, 3))
        log.ingest(numbered(3))
        await trio.sleep(100)
        assert 5 < len(store.appends) < 20
        store.otherwise = take
        with suppress(EventsLost):
            await log.flush()
        assert log.statistics().pending == 0
    assert [failure.retry_in for failure in reports.failures][:4] == pytest.approx([0, 0.1, 0.2, 0.4])
    assert [(one.again, one.lost) for one in reports.reversions] == [(2, 0)]
    assert caplog.text.count("broke its contract") == 1


async def test_a_store_that_forgets_whatever_it_takes_is_given_time(autojump_clock: Clock) -> None:
    """It takes, goes back, takes: the log neither spins nor ends."""
    store, reports = FakeStore(), Reports()
    turn = 0

    async def take_and_forget(store: FakeStore, events: Sequence[PersistedEvent]) -> Collection[int]:
        nonlocal turn
        turn += 1
        return await (take if turn % 2 else go_back(0))(store, events)

    async with open_event_log(store, batch_size=8, on_failure=reports, retry=STEADY) as log:
        store.otherwise = take_and_forget
        for _ in range(8):
            log.ingest(numbered(0))
        await trio.sleep(1)
        log.ingest(numbered(0))
        await trio.sleep(10)
        # Two for each wait of 0.1 s.
        assert len(store.appends) < 250
        store.otherwise = take
        await log.flush()
        books = log.statistics()
        assert books.ingested == books.persisted == 9
    assert store.seqs == list(range(1, 10))


# --- the end --------------------------------------------------------------------------------------


async def test_going_back_in_the_drain(autojump_clock: Clock) -> None:
    """What is at hand is stored again, and what is not is raised on leaving."""
    store, reports = MemoryStore(), Reports()
    with at_hand(64), pytest.raises(EventsLost) as caught:
        async with open_event_log(store, batch_size=1, on_failure=reports) as log:
            for _ in range(80):
                await filled(log, 1)
            store.go_back(10)
            log.ingest(numbered(80))
    assert await seqs_in(store) == [*range(1, 11), *range(17, 82)]
    assert (caught.value.count, caught.value.first_seq, caught.value.last_seq) == (6, 11, 16)
    assert caught.value.by_reason == {LossReason.REVERTED: 6}
    assert log.statistics().pending == 0


async def test_going_back_at_the_last_attempt(autojump_clock: Clock) -> None:
    """There is time for another at once; what it does not take is lost, and reported."""
    store, reports = FakeStore(), Reports()
    with pytest.raises(EventsLost) as caught:
        async with open_event_log(store, on_failure=reports, grace_period=1.0, retry=STEADY) as log:
            await filled(log, 3)
            store.script = [go_back(1)]
            store.otherwise = fail
            log.ingest(numbered(3))
    assert caught.value.by_reason == {LossReason.SHUTDOWN: 3}
    assert reports.lost == [2, 3, 4]
    assert store.seqs == [1]


async def test_without_on_failure_it_is_logged(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """As an error, with what became of the events."""
    store = MemoryStore()
    async with open_event_log(store) as log:
        await filled(log, 4)
    async with open_event_log(store) as log:
        await filled(log, 4)
        store.go_back(2)
        await filled(log, 1)
    assert "the store went back from seq 8 to 2" in caplog.text
    assert "4 events of this run are kept, 0 lost; of earlier runs, seq 3 to 4 are gone" in caplog.text


# --- with a spill file ----------------------------------------------------------------------------


class Inline:
    """What a thread would do, done inline; a disk that fails closes its files all the same."""

    def __init__(self) -> None:
        self.is_full = False

    async def __call__(self, work: Any, *, discard: object = None) -> Any:
        await trio.lowlevel.checkpoint()
        if self.is_full and work.func.__name__ != "close" and discard is None:
            msg = "full"
            raise OSError(msg)
        return work()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Inline:
    disk = Inline()
    monkeypatch.setattr(_spill_queue, "in_thread", disk)
    return disk


async def log_with_spilled(log: EventLog, store: FakeStore) -> None:
    """Let 4 events be stored, 8 be in the spill file, and some in memory."""
    await filled(log, 4)
    store.otherwise = hang
    for number in range(4, 12):
        log.ingest(numbered(number))
        await trio.sleep(0.1)
    assert log.statistics().spilled >= 4


async def test_what_comes_again_is_stored_before_what_was_spilled(
    disk: Inline, tmp_path: Path, autojump_clock: Clock
) -> None:
    """It is older (L4)."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(
        store, batch_size=2, retry_buffer_cap=4, spill=tmp_path / "spill", on_failure=reports
    ) as log:
        await log_with_spilled(log, store)
        store.script, store.otherwise = [go_back(1)], take
        await trio.sleep(60)
        await log.flush()
        assert log.statistics().persisted == 12
    assert store.seqs == list(range(1, 13))
    assert [(one.again, one.lost) for one in reports.reversions] == [(3, 0)]
    assert reports.losses == []


@pytest.mark.parametrize("why", ["shutdown", "unusable"])
async def test_what_comes_again_outlives_the_run_in_the_spill_file(
    why: str, disk: Inline, tmp_path: Path, autojump_clock: Clock
) -> None:
    """In front of what is there; so the next run delivers it, in order."""
    store, reports = FakeStore(), Reports()
    settings: dict[str, Any] = {"batch_size": 2, "retry_buffer_cap": 4, "spill": tmp_path / "spill"}
    with suppress(StoreUnusable):
        async with open_event_log(store, on_failure=reports, **settings) as log:
            await log_with_spilled(log, store)
            store.script = [go_back(1)]
            store.otherwise = fail if why == "shutdown" else fail_with(StoreUnusable("gone"))
            await trio.sleep(60)
    books = log.statistics()
    assert (books.ingested, books.persisted, books.pending, books.spilled) == (12, 1, 11, 11)
    assert reports.losses == []
    [spilled] = [one for one in reports.spill_reports if isinstance(one, SpillReport)]
    assert spilled.events == 11

    store.script, store.otherwise = [], take
    async with open_event_log(store, **settings) as log:
        await log.flush()
    assert store.seqs == list(range(1, 13))
    assert [event.event.payload["number"] for event in store.held.values()] == [*range(4), *range(4, 12)]


async def test_what_comes_again_without_anything_spilled(
    disk: Inline, tmp_path: Path, autojump_clock: Clock
) -> None:
    """There is a file at the end, for it alone."""
    store = FakeStore()
    path = tmp_path / "spill"
    async with open_event_log(store, spill=path, grace_period=0.5, on_failure=lambda _report: None) as log:
        await filled(log, 3)
        store.script, store.otherwise = [go_back(1)], fail
        log.ingest(numbered(3))
    assert log.statistics().spilled == 3
    store.script, store.otherwise = [], take
    async with open_event_log(store, spill=path) as log:
        await log.flush()
    assert [event.event.payload["number"] for event in store.held.values()] == [0, 1, 2, 3]
    assert not path.exists()


async def test_what_comes_again_and_does_not_fit_the_spill_file_is_lost(
    disk: Inline, tmp_path: Path, autojump_clock: Clock
) -> None:
    """And reported; what was spilled stays."""
    store, reports = FakeStore(), Reports()
    with pytest.raises(EventsLost) as caught:
        async with open_event_log(
            store,
            spill=tmp_path / "spill",
            max_spill_bytes=4096,
            max_event_bytes=4000,
            grace_period=0.5,
            on_failure=reports,
        ) as log:
            for _ in range(3):
                log.ingest(numbered(0).__class__("worker", "step", "x" * 3_000))
            await log.flush()
            store.script, store.otherwise = [go_back(1)], fail
            log.ingest(numbered(3))
    assert caught.value.by_reason == {LossReason.SHUTDOWN: 2}
    assert reports.lost == [2, 3]
    books = log.statistics()
    assert (books.persisted, books.spilled, books.lost_total) == (1, 1, 2)


# --- those who follow -----------------------------------------------------------------------------


async def take_all(events: Subscription, got: list[int]) -> None:
    async for event in events:
        got.append(event.seq)  # noqa: PERF401 - what came before a cancellation counts


async def test_nobody_gets_an_event_twice_or_misses_one(autojump_clock: Clock) -> None:
    """Neither who was ahead nor who was behind, nor who comes meanwhile."""
    store = MemoryStore()
    ahead: list[int] = []
    behind: list[int] = []
    async with trio.open_nursery() as nursery:
        async with open_event_log(store, batch_size=4, on_failure=lambda _report: None) as log:
            async with log.subscribe(after_seq=0) as quick, log.subscribe(after_seq=0) as slow:
                nursery.start_soon(take_all, quick, ahead)  # noqa: ASYNC111 - cancelled inside
                await filled(log, 10)
                assert (await anext(slow)).seq == 1
                await trio.sleep(0.1)
                assert ahead == list(range(1, 11))
                store.go_back(4)
                # The log does not know it yet, and the slow one does not go past what is not there.
                nursery.start_soon(take_all, slow, behind)  # noqa: ASYNC111 - as above
                await trio.sleep(0.1)
                await filled(log, 4)
                await trio.sleep(0.1)
                assert ahead == list(range(1, 15))
                assert behind == list(range(2, 15))
                assert quick.is_caught_up
                nursery.cancel_scope.cancel(reason="all is read")


async def test_a_reader_of_the_store_waits_for_what_is_gone(autojump_clock: Clock) -> None:
    """With a filter the page does not show it: the store is asked for its end."""
    store = MemoryStore()
    async with open_event_log(store, batch_size=4, on_failure=lambda _report: None) as log:
        await filled(log, 10)
        store.go_back(4)
        for query in (EventQuery(), EventQuery(member_id="worker"), EventQuery(member_id="nobody")):
            async with log.subscribe(query, after_seq=2) as events:
                with trio.move_on_after(100) as scope:
                    while True:
                        await anext(events)
                assert scope.cancelled_caught
                assert events.cursor == 4
                assert not events.is_caught_up
        async with log.subscribe(EventQuery(member_id="worker"), after_seq=2) as events:
            got: list[int] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_all, events, got)
                await trio.sleep(1)
                await filled(log, 1)
                await events.wait_caught_up()
                nursery.cancel_scope.cancel(reason="all is read")
            assert got == list(range(3, 12))


async def test_a_store_that_goes_back_and_forth_while_it_is_read(autojump_clock: Clock) -> None:
    """Between a page and the question for the end: the page is of the older state, and is read again."""

    class Late(MemoryStore):
        log: EventLog | None = None

        async def last_seq(self) -> int:
            log, self.log = self.log, None
            if log is not None:
                await filled(log, 1)
            return await super().last_seq()

    store = Late()
    async with open_event_log(store, batch_size=4, on_failure=lambda _report: None) as log:
        await filled(log, 10)
        store.go_back(4)
        store.log = log
        async with log.subscribe(EventQuery(member_id="worker"), after_seq=2) as events:
            assert [(await anext(events)).seq for _ in range(9)] == list(range(3, 12))
        assert store.log is None


async def test_waiting_until_caught_up_does_not_wait_for_what_is_lost(autojump_clock: Clock) -> None:
    """What the store has now is all there is."""
    store = FakeStore()
    with at_hand(1):
        async with open_event_log(store, batch_size=1, on_failure=lambda _report: None) as log:
            await filled(log, 10)
            async with log.subscribe(after_seq=0) as events, trio.open_nursery() as nursery:
                held_back = trio.Event()

                async def follow() -> None:
                    async for event in events:
                        if event.seq == 4:
                            await held_back.wait()

                nursery.start_soon(follow)
                nursery.start_soon(events.wait_caught_up)
                await trio.sleep(1)
                store.script, store.otherwise = [go_back(4)], fail
                log.ingest(numbered(10))
                await trio.sleep(1)
                held_back.set()
                with trio.fail_after(100):
                    await events.wait_caught_up()
                await trio.sleep(1)
                assert len(nursery.child_tasks) == 1
                nursery.cancel_scope.cancel(reason="all is read")
            store.otherwise = take


async def test_a_closed_log_whose_store_went_back_says_so_once(autojump_clock: Clock) -> None:
    """Nobody stores again what a subscriber had still to read; after that, the iteration ends."""
    store = MemoryStore()
    async with open_event_log(store) as log:
        await filled(log, 10)
        subscription = log.subscribe(after_seq=2)
        events = await subscription.__aenter__()
    store.go_back(4)
    assert [(await anext(events)).seq for _ in range(2)] == [3, 4]
    with pytest.raises(StoreWentBack) as caught:
        await anext(events)
    assert (caught.value.last_seq, caught.value.expected_seq) == (4, 10)
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    await subscription.__aexit__(None, None, None)


# --- whatever happens -----------------------------------------------------------------------------


@given(
    script=fault_scripts(12, of=faults(max_seconds=2.0, goes_back=True)),
    steps=st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 0.1, 1.0, 5.0])), max_size=8),
    kept=st.sampled_from([1, 64, 4096]),
    page=st.integers(1, 6),
    cap=st.integers(6, 30),
)
def test_the_accounts_are_right_whatever_happens(
    script: list[Fault], steps: list[tuple[int, float]], kept: int, page: int, cap: int
) -> None:
    """Each event is stored, was reported lost, or was counted as lost by the store; a subscriber gets what is
    stored once, and in order."""
    store, reports = FaultyStore(MemoryStore(), script), Reports()
    followed: list[PersistedEvent] = []
    ingested: list[int | None] = []

    async def follow(log: EventLog, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC114 - below
        async with log.subscribe(after_seq=0) as events:
            task_status.started()
            # Once it may be told that the store went back.
            for _ in range(2):
                with suppress(StoreWentBack):
                    async for event in events:
                        followed.append(event)
                        await trio.sleep(0.05)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with suppress(EventsLost):
                async with open_event_log(
                    store,
                    batch_size=4,
                    retry_buffer_cap=cap,
                    append_timeout=2.0,
                    grace_period=1_000,
                    on_failure=reports,
                ) as log:
                    await nursery.start(follow, log)  # noqa: ASYNC111 - it ends with the log
                    for count, seconds in steps:
                        ingested.extend(log.ingest(numbered(number)) for number in range(count))
                        with trio.move_on_after(seconds), suppress(EventsLost):
                            await log.flush()
                        books = log.statistics()
                        assert (
                            books.ingested
                            == books.persisted + books.duplicate + books.pending + books.lost_total
                        )
        books = log.statistics()
        stored = await store.inner.query(EventQuery())
        check_accounts(ingested, stored, reports)
        assert books.lost.get(LossReason.REVERTED, 0) == sum(one.lost for one in reports.reversions)
        doubtful = {event.seq for loss in reports.losses if loss.in_doubt for event in loss.events}
        certain = {event.seq for event in stored} - doubtful
        assert books.persisted == len(certain)
        seqs = [event.seq for event in followed]
        assert seqs == sorted(set(seqs))
        assert certain <= set(seqs)

    with (
        at_hand(kept),
        mock.patch.object(_subscription, "_PAGE", page),
    ):
        run_in_virtual_time(main)


# --- going back on command ------------------------------------------------------------------------


async def test_a_memory_store_goes_back(autojump_clock: Clock) -> None:
    """The next append says so, once, and stores nothing; an event that comes again is stored."""
    store = MemoryStore()
    events = [PersistedEvent(f"e{seq}", seq, 0, "worker", numbered(seq)) for seq in range(1, 6)]
    await store.append_batch(events)
    await store.prune(keep=1)
    store.go_back(9)
    store.go_back(4)
    store.go_back(2)
    assert await store.last_seq() == await store.pruned_seq() == 2
    assert await store.append_batch([]) == ()
    with pytest.raises(StoreWentBack) as caught:
        await store.append_batch(events[2:])
    assert (caught.value.last_seq, caught.value.expected_seq) == (2, 5)
    assert await seqs_in(store) == []
    assert await store.append_batch(events[2:]) == ()
    assert await seqs_in(store) == [3, 4, 5]
    with pytest.raises(TypeError, match="last_seq: expected an integer, got bool"):
        store.go_back(True)
    with pytest.raises(ValueError, match="last_seq: expected 0 to"):
        store.go_back(-1)


async def test_a_faulty_store_goes_back(autojump_clock: Clock) -> None:
    """By this many events, or all that it has; with none it works."""
    store, reports = (
        FaultyStore(MemoryStore(), [GoesBack(), Works(), GoesBack(2), Works(), GoesBack(99)]),
        Reports(),
    )
    async with open_event_log(store, batch_size=1, on_failure=reports, retry=STEADY) as log:
        for _ in range(4):
            await filled(log, 1)
    assert await seqs_in(store) == [1, 2, 3, 4]
    assert [(one.last_seq, one.expected_seq) for one in reports.reversions] == [(0, 2), (0, 2)]


def test_what_cannot_go_back_is_refused() -> None:
    """Where the fault is given."""
    with pytest.raises(TypeError, match=r"script\[0\]: GoesBack needs a store with a method go_back"):
        FaultyStore(FakeStore(), [GoesBack()])
    with pytest.raises(TypeError, match="otherwise: GoesBack needs"):
        FaultyStore(FakeStore(), otherwise=Slow(1, GoesBack()))
    with pytest.raises(ValueError, match=r"query_script\[0\]: a store can only go back with an append"):
        FaultyStore(MemoryStore(), query_script=[GoesBack()])
    with pytest.raises(ValueError, match="events: expected 1 event or more, got 0"):
        GoesBack(0)
    with pytest.raises(TypeError, match="events: expected a number of events, got bool"):
        GoesBack(True)
