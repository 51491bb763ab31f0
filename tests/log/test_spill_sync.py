"""A spill file before a store whose appends do not survive a loss of power, and before one that was put back.

As in test_spill, the work of threads is done inline.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests._helpers.fakes import FakeStore, Reports, fail, numbered, take
from tests._helpers.spill import ingest
from trio_eventlog import (
    EventEnvelope,
    EventQuery,
    EventsLost,
    LossReport,
    PersistedEvent,
    Report,
    RetryPolicy,
    RevertReport,
    SpillDamageReport,
    SpillFailureReport,
    SpillReport,
    StoreError,
    StoreUnusable,
    StoreWentBack,
    open_event_log,
)
from trio_eventlog._reading import _subscription

STEADY = RetryPolicy(jitter=0)


class UnsyncedStore(FakeStore):
    """Has in memory what it acknowledged, and on its disk what it had when a sync began."""

    survives = "process"

    def __init__(self) -> None:
        super().__init__()
        self.synced: set[str] = set()
        self.syncs: list[float] = []
        self.seconds = 0.0
        self.errors: list[BaseException] = []
        self.error: BaseException | None = None

    async def sync(self) -> None:
        self.syncs.append(trio.current_time())
        held = set(self.held)
        await trio.sleep(self.seconds)
        if error := self.errors.pop(0) if self.errors else self.error:
            raise error
        self.synced |= held

    def lose_power(self) -> None:
        self.held = {event_id: event for event_id, event in self.held.items() if event_id in self.synced}


class StoreWithoutSync(FakeStore):
    survives = "process"


def ids_in(path: Path) -> set[str]:
    written = path.read_bytes() if path.exists() else b""
    return {event_id.decode() for event_id in re.findall(rb'"id":"(e-\d{1,3})"', written)}


def event(number: int) -> EventEnvelope:
    return EventEnvelope.of(numbered(number), event_id=f"e-{number}", timestamp_ms=1)


async def spill(log: Any, store: FakeStore, first: int, last: int) -> None:
    """Let events go to the spill file, and then the store be well."""
    store.otherwise = fail
    for number in range(first, last + 1):
        log.ingest(event(number))
        await trio.sleep(0.001)
    await trio.sleep(1)
    store.otherwise = take


def settings(path: Path, reports: Callable[[Report], None], **more: Any) -> dict[str, Any]:
    return {
        "spill": path,
        "on_failure": reports,
        "retry_buffer_cap": 10,
        "batch_size": 5,
        "retry": STEADY,
        **more,
    }


async def test_nothing_is_given_up_before_a_sync(disk, path, autojump_clock):
    """At every moment each event that was spilled is in the file, or would survive in the store."""
    store, reports = UnsyncedStore(), Reports()
    store.seconds = 3.0

    async def watch() -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked()
            assert spilled <= ids_in(path) | store.synced
            await trio.sleep(0.05)

    spilled: set[str] = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        async with open_event_log(store, **settings(path, reports)) as log:
            for first in (1, 101):
                await spill(log, store, first, first + 39)
                spilled |= ids_in(path)
                started = trio.current_time()
                await log.flush()
                # Nobody waited for the sync.
                assert trio.current_time() - started < 2
                assert ids_in(path) >= spilled - store.synced
                await trio.sleep(10)
                assert ids_in(path) == set()
        nursery.cancel_scope.cancel()
    assert len(spilled) > 60
    assert not path.exists()
    assert not reports.spill_reports
    assert len(store.syncs) <= 3


async def test_a_loss_of_power_before_the_sync_costs_nothing(disk, path, autojump_clock):
    """What the store forgets is in the file, and comes again, under seqs that nobody has read."""
    store, reports = UnsyncedStore(), Reports()
    store.error = StoreError("its disk is full")
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 40)
        await log.flush()
        highest = log.statistics().last_durable_seq
        assert len(store.held) == 40
    assert not any(isinstance(report, SpillReport) for report in reports.spill_reports)
    assert log.statistics().pending == 0
    left = ids_in(path)
    assert len(left) > 30
    store.lose_power()

    store.error, again = None, Reports()
    async with open_event_log(store, **settings(path, again)) as log:
        assert log.statistics().recovered == len(left)
        assert log.ingest(event(500)) > highest
        await log.flush()
    assert set(store.held) == left | {"e-500"}
    assert set(store.held) == store.synced | {"e-500"}
    assert not path.exists()
    (reverted,) = again.reversions
    assert (reverted.last_seq, reverted.expected_seq, reverted.earlier) == (0, highest, (1, highest))


async def test_only_what_was_acknowledged_before_the_sync_goes(disk, path, autojump_clock):
    """What comes to the store while it syncs waits for the next one."""
    store, reports = UnsyncedStore(), Reports()
    async with open_event_log(store, **settings(path, reports)) as log:
        store.seconds = 10.0
        await spill(log, store, 1, 20)
        await log.flush()
        await trio.sleep(0.1)
        assert len(store.syncs) == 1
        await spill(log, store, 21, 40)
        second = {f"e-{n}" for n in range(21, 41)} & ids_in(path)
        assert second
        await log.flush()
        await trio.sleep(9)
        assert second <= ids_in(path)
        assert not second & store.synced
        await trio.sleep(10)
        assert ids_in(path) == set()
        assert second <= store.synced
        assert len(store.syncs) == 2


@pytest.mark.parametrize(
    "error", [StoreError("busy"), ValueError("a defect"), ExceptionGroup("two", [StoreError("busy")])]
)
async def test_a_sync_that_fails_is_tried_again(disk, path, autojump_clock, error):
    """After waits that grow; meanwhile the file keeps what it has, and appends go on."""
    store, reports = UnsyncedStore(), Reports()
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        store.errors = [error, error, error]
        await log.flush()
        started = trio.current_time()
        await trio.sleep(0.25)
        assert ids_in(path)
        log.ingest(event(100))
        await log.flush()
        await trio.sleep(5)
        assert ids_in(path) == set()
    assert [round(at - started, 1) for at in store.syncs] == [0, 0.1, 0.3, 0.7]
    assert [(report.error, report.events, report.retry_in) for report in reports.spill_reports] == [
        (error, 0, 0.1),
        (error, 0, 0.2),
        (error, 0, 0.4),
    ]
    assert not path.exists()


async def test_a_sync_that_is_not_async_is_named(disk, path, autojump_clock, monkeypatch):
    """The report says which method of which store, and the file keeps what it has."""
    store, reports = UnsyncedStore(), Reports()
    monkeypatch.setattr(store, "sync", lambda: None, raising=False)
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        await log.flush()
        await trio.sleep(0.05)
    failures = [report for report in reports.spill_reports if isinstance(report, SpillFailureReport)]
    assert "sync of UnsyncedStore returned NoneType and nothing to await" in str(failures[0].error)
    assert path.exists()


@pytest.mark.parametrize("error", [SystemExit(3), BaseExceptionGroup("of a nursery", [KeyboardInterrupt()])])
async def test_a_sync_that_ends_the_program(disk, path, autojump_clock, error):
    """It ends the log. No report says that it took too long, and the file stays as it is."""
    store, reports = UnsyncedStore(), Reports()
    store.errors = [error]
    with pytest.raises(type(error)):
        async with open_event_log(store, **settings(path, reports)) as log:
            await spill(log, store, 1, 40)
            spilled = ids_in(path)
            await trio.sleep(10)
            pytest.fail("the body went on")
    assert len(spilled) > 5
    assert ids_in(path) >= spilled
    assert not [report for report in reports.spill_reports if isinstance(report, SpillFailureReport)]


async def test_a_sync_that_never_succeeds_is_not_tried_for_ever(disk, path, autojump_clock):
    store, reports = UnsyncedStore(), Reports()
    store.error = StoreUnusable("read-only")
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        await log.flush()
        await trio.sleep(100)
    assert len(store.syncs) == 1
    (report,) = reports.spill_reports
    assert isinstance(report, SpillFailureReport)
    assert report.retry_in == math.inf
    assert ids_in(path)


async def test_a_sync_that_hangs(disk, path, autojump_clock):
    """Appends do not wait for it, and leaving waits for as long as it does for the file."""
    store, reports = UnsyncedStore(), Reports()
    async with open_event_log(store, append_timeout=7, grace_period=2, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        store.seconds = math.inf
        await log.flush()
        started = trio.current_time()
        await trio.sleep(8)
        assert [type(report.error) for report in reports.spill_reports] == [TimeoutError]
        await trio.sleep_until(started + 7.1)
        log.ingest(event(100))
        await log.flush()
        ended = trio.current_time()
    assert trio.current_time() - ended <= 5
    assert len(ids_in(path)) > 5
    assert "at the end" in str(reports.spill_reports[-1].error)


async def test_a_sync_that_cannot_be_cancelled(disk, path, autojump_clock):
    """The block ends only with it. What is lost is told long before, and what is not synced is kept."""

    class StubbornStore(UnsyncedStore):
        async def sync(self) -> None:
            with trio.CancelScope(shield=True):
                await super().sync()

    store, told = StubbornStore(), []

    def on_failure(report: Report) -> None:
        told.append((trio.current_time(), type(report)))

    with pytest.raises(EventsLost):
        async with open_event_log(store, **settings(path, on_failure, grace_period=0)) as log:
            await spill(log, store, 1, 40)
            spilled = ids_in(path)
            store.seconds = 600
            await log.flush()
            disk.error = OSError(errno.EIO, "broken")
            store.otherwise = fail
            log.ingest(event(41))
            left_at = trio.current_time()
    assert [at - left_at for at, kind in told if kind is LossReport] == [pytest.approx(10)]
    assert trio.current_time() - left_at > 500
    assert len(spilled) > 5
    assert ids_in(path) == spilled


async def test_leaving_syncs_once_more(disk, path, autojump_clock):
    """Also what the drain delivered."""
    store, reports = UnsyncedStore(), Reports()
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 40)
        store.seconds = 1.0
    assert len(store.held) == 40
    assert not path.exists()
    assert not reports.spill_reports


async def test_what_is_pending_and_what_is_not_synced_is_left(disk, path, autojump_clock):
    """The report counts what is pending."""
    store, reports = UnsyncedStore(), Reports()
    async with open_event_log(store, grace_period=0, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        store.error = StoreError("busy")
        await log.flush()
        store.otherwise = fail
        for number in range(100, 105):
            log.ingest(event(number))
    assert [report.events for report in reports.spill_reports if isinstance(report, SpillReport)] == [5]
    assert log.statistics().spilled == log.statistics().pending == 5
    left = ids_in(path)
    assert len(left) > 5 + 10
    store.lose_power()
    store.error, store.otherwise = None, take
    async with open_event_log(store, **settings(path, Reports())):
        pass
    assert set(store.held) == left


async def test_an_unusable_store_is_not_asked_to_sync(disk, path, autojump_clock):
    store, reports = UnsyncedStore(), Reports()

    async def end(_store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
        raise StoreUnusable("gone")

    with pytest.raises(StoreUnusable):
        async with open_event_log(store, **settings(path, reports)) as log:
            await spill(log, store, 1, 20)
            store.error = StoreError("busy")
            await log.flush()
            store.otherwise = end
            log.ingest(event(50))
            with pytest.raises(StoreUnusable):
                await log.flush()
            store.error, syncs = None, len(store.syncs)
            await trio.sleep(5)
    assert len(store.syncs) == syncs
    assert len(ids_in(path)) > 10


async def test_much_that_waits_for_a_sync_is_not_left_to_wait(disk, path, autojump_clock, monkeypatch):
    """Long before the file has been read to its end, lest it has no room."""
    store, reports = UnsyncedStore(), Reports()
    store.max_batch = 5
    more = settings(path, reports, max_spill_bytes=16_384)
    async with open_event_log(store, **more) as log:
        await spill(log, store, 1, 80)
        size = log.statistics().spill_bytes
        assert size > 12_000

        async def slow(store: FakeStore, events: Sequence[PersistedEvent]) -> Collection[int]:
            await trio.sleep(1)
            return store.keep(events)

        store.otherwise = slow
        with trio.move_on_after(12):
            await log.flush()
        assert log.statistics().spilled
        assert store.syncs
        assert not ids_in(path) - set(store.held) - {f"e-{n}" for n in range(1, 81)}
        store.otherwise = take
    assert not path.exists()
    assert 2 <= len(store.syncs) <= 6


async def test_a_store_without_sync_keeps_its_copies(disk, path, autojump_clock):
    """The next run delivers them again, and the store knows them."""
    store, reports = StoreWithoutSync(), Reports()
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        await log.flush()
    left = ids_in(path)
    assert len(left) > 10
    assert not reports.spill_reports
    async with open_event_log(store, **settings(path, reports)) as log:
        await log.flush()
        assert log.statistics().duplicate == len(left)
    assert ids_in(path) == left


class Around:
    """A store around another that hands on what it must, and nothing that it may."""

    def __init__(self, inner: FakeStore) -> None:
        self.append_batch = inner.append_batch
        self.query = inner.query
        self.last_seq = inner.last_seq


class RestoredStore(UnsyncedStore):
    """It loses power while the log is open, and is back at once."""

    was: int | None = None

    def lose_power(self) -> None:
        self.was = max(self.seqs)
        super().lose_power()

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        if self.was is not None:
            await trio.lowlevel.checkpoint()
            was, self.was = self.was, None
            raise StoreWentBack(max(self.seqs, default=0), was)
        return await super().append_batch(events)

    async def sync(self) -> None:
        if self.was is not None:
            await trio.lowlevel.checkpoint()
            msg = "went back"
            raise StoreError(msg)
        await super().sync()


async def test_copies_stay_if_what_they_are_of_is_pending_again(disk, path, autojump_clock):
    """A kill would take what is in memory, whatever is synced meanwhile."""
    store, reports = RestoredStore(), Reports()
    async with open_event_log(store, **settings(path, reports)) as log:
        store.error = StoreError("busy")
        await spill(log, store, 1, 20)
        await log.flush()
        spilled = ids_in(path)
        await trio.sleep(0.01)  # a sync has failed
        store.lose_power()
        store.error = None
        # Back at once, and then down, so that everything waits.
        store.otherwise = fail
        log.ingest(event(21))
        await trio.sleep(30)
        assert [one.again for one in reports.reversions] == [9]
        assert spilled <= ids_in(path)
        assert reports.lost  # the cap is too low for all of them
        store.otherwise = take
    assert spilled <= ids_in(path)
    async with open_event_log(store, **settings(path, reports)) as log:
        await log.flush()
    assert spilled <= store.synced
    assert not path.exists()


@pytest.mark.parametrize("in_run", [1, 2])
async def test_copies_of_what_is_not_at_hand_stay_for_the_next_run(
    in_run, disk, path, autojump_clock, monkeypatch
):
    """The store lost them with its power, and they are no longer among the newest events of the log."""
    monkeypatch.setattr(_subscription, "_MAX_RECENT_EVENTS", 5)
    store, reports = RestoredStore(), Reports()
    store.error = StoreError("busy")
    for run in range(1, in_run + 1):
        async with open_event_log(store, **settings(path, reports)) as log:
            if run == 1:
                await spill(log, store, 1, 20)
            await log.flush()
            spilled = ids_in(path)
            if run == in_run:
                await trio.sleep(0.01)  # a sync has failed
                store.lose_power()
                store.error = None
                log.ingest(event(21))
                await log.flush(0)
                await trio.sleep(60)
    assert reports.reversions
    assert spilled <= ids_in(path)
    async with open_event_log(store, **settings(path, reports)) as log:
        await log.flush()
    assert spilled | {"e-21"} <= store.synced


async def test_a_store_that_does_not_say_is_taken_for_one_that_survives_little(disk, path, autojump_clock):
    """Such as one around another, whose appends nobody has synced."""
    store, reports = UnsyncedStore(), Reports()
    async with open_event_log(Around(store), **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        spilled = ids_in(path)
        await log.flush()
    store.lose_power()
    assert not store.held
    assert len(spilled) > 10
    async with open_event_log(Around(store), **settings(path, reports)) as log:
        await log.flush()
        assert spilled <= set(store.held)


async def test_a_store_that_can_sync_need_not_say_that_it_has_to(disk, path, autojump_clock):
    store, reports = UnsyncedStore(), Reports()
    around = Around(store)
    around.sync = store.sync  # type: ignore[attr-defined]
    async with open_event_log(around, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        spilled = ids_in(path)
        await log.flush()
    store.lose_power()
    assert spilled <= set(store.held)
    assert not path.exists()


async def test_copies_give_way_to_what_is_nowhere_else(disk, path, autojump_clock):
    """If the store can never make sure of them."""
    store, reports = StoreWithoutSync(), Reports()
    async with open_event_log(store, **settings(path, reports, max_spill_bytes=8192)) as log:
        for first in range(1, 800, 40):
            await spill(log, store, first, first + 29)
            await log.flush()
        assert path.stat().st_size <= 8192
        assert not log.statistics().lost
        assert not reports.spill_reports
    assert len(store.held) == 600
    assert ids_in(path)


async def test_copies_give_way_to_nothing_if_a_sync_can_make_sure_of_them(disk, path, autojump_clock):
    store, reports = UnsyncedStore(), Reports()
    store.error = StoreError("busy")
    async with open_event_log(store, **settings(path, reports, max_spill_bytes=8192)) as log:
        for first in range(1, 200, 40):
            await spill(log, store, first, first + 29)
            await log.flush(0)
        assert log.statistics().lost
        store.error = None
        await trio.sleep(60)
        assert path.stat().st_size < 200
    assert not path.exists()


@pytest.mark.parametrize(
    ("attribute", "value", "error", "message"),
    [
        ("survives", "fire", ValueError, "survives of the store: expected 'process' or 'power', got 'fire'"),
        ("survives", None, TypeError, "survives of the store: expected a str, got NoneType"),
        ("sync", 3, TypeError, "sync of the store: expected an async method, got int"),
    ],
)
async def test_what_a_store_says(attribute, value, error, message, path):
    store = UnsyncedStore()
    setattr(store, attribute, value)
    with pytest.raises(error, match=message):
        async with open_event_log(store, spill=path):
            pytest.fail("opened")
    assert not path.exists()


# --- stores that were put back --------------------------------------------------------------------


async def test_a_store_that_was_put_back_between_runs(disk, path, autojump_clock):
    """Whoever read up to what it had does not miss what is new, and it is told on opening."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, grace_period=0, **settings(path, reports)) as log:
        for number in range(1, 16):
            log.ingest(event(number))
            await log.flush()
        store.otherwise = fail
        for number in range(16, 21):
            log.ingest(event(number))
    # A backup of when it had ten.
    store.held = dict(list(store.held.items())[:10])
    store.otherwise = take

    told = Reports()
    async with open_event_log(store, **settings(path, told)) as log:
        assert told.reversions == [
            RevertReport(last_seq=10, expected_seq=15, again=0, lost=0, earlier=(11, 15))
        ]
        assert log.statistics().last_assigned_seq == 20
        assert log.ingest(event(100)) == 21
        await log.flush()
        assert [one.seq for one in await log.query(EventQuery(after_seq=15))] == [16, 17, 18, 19, 20, 21]
    assert store.seqs == [*range(1, 11), *range(16, 22)]
    assert not path.exists()

    told = Reports()
    async with open_event_log(store, **settings(path, told)):
        assert told.reversions == []


async def test_a_store_that_was_put_back_after_a_kill(disk, path, autojump_clock):
    """All that was delivered from the file was still in it: it comes again, and nothing gets a lower seq."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 40)
        content, spilled = path.read_bytes(), ids_in(path)
        await log.flush()
    assert len(store.held) == 40
    path.write_bytes(content)
    store.held = dict(list(store.held.items())[:5])

    async with open_event_log(store, **settings(path, reports)) as log:
        assert log.ingest(event(100)) > 40
        await log.flush()
    assert len(spilled) > 30
    assert spilled <= set(store.held)


async def test_a_store_that_is_as_it_was_left(disk, path, autojump_clock):
    """Numbers go on as if there were no file."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, grace_period=0, **settings(path, reports)) as log:
        log.ingest(event(1))
        await log.flush()
        store.otherwise = fail
        log.ingest(event(2))
    store.otherwise = take
    async with open_event_log(store, **settings(path, reports)) as log:
        assert log.ingest(event(3)) == 3
    assert reports.reversions == []
    assert store.seqs == [1, 2, 3]


async def test_a_file_of_zeros_does_not_block_the_start(disk, path, autojump_clock):
    """It is put aside and told; a file that nothing was written to does not matter at all."""
    for size, told in ((87, 0), (100_000, 1)):
        path.write_bytes(bytes(size))
        store, reports = FakeStore(), Reports()
        async with open_event_log(store, **settings(path, reports)) as log:
            log.ingest(event(1))
        assert [type(report) for report in reports.spill_reports] == [SpillDamageReport] * told
        assert len(list(path.parent.glob("*.damaged-*"))) == told
        assert list(store.held) == ["e-1"]
    assert (reports.spill_reports[0].events, reports.spill_reports[0].first_seq) == (0, 1)


async def test_a_file_that_is_cut_off_while_it_is_open(disk, path, autojump_clock):
    """What was in it is missed and told; what follows goes on."""
    store, reports = FakeStore(), Reports()
    store.max_batch = 5
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        spilled = log.statistics().spilled
        with path.open("r+b") as file:
            file.truncate(path.read_bytes().index(b"\n") + 1)
        with trio.fail_after(60):
            await trio.sleep(20)
        books = log.statistics()
        assert books.pending == 0
        assert books.lost_total + books.persisted == 20
        assert 0 < books.lost_total <= spilled
        log.ingest(event(100))
        await log.flush(0)
    (damage,) = [report for report in reports.spill_reports if isinstance(report, SpillDamageReport)]
    assert damage.events == log.statistics().lost_total
    assert "e-100" in store.held


async def test_a_file_whose_last_line_break_is_overwritten(disk, path, autojump_clock):
    """Its last event is missed and told; what is waited for comes to an end."""
    store, reports = FakeStore(), Reports()
    store.max_batch = 5
    async with open_event_log(store, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"x")
        with trio.fail_after(60), pytest.raises(EventsLost):
            await log.flush()
        assert (log.statistics().persisted, log.statistics().lost_total) == (19, 1)
    (damage,) = [report for report in reports.spill_reports if isinstance(report, SpillDamageReport)]
    assert damage.events == 1


async def test_clearing_that_fails_leaves_no_hole(disk, path, autojump_clock):
    """The disk fails for a moment while the file is emptied: the next run finds what is spilled then."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, grace_period=0, **settings(path, reports)) as log:
        await spill(log, store, 1, 20)
        disk.fail_once = "settle"
        await log.flush()
        await trio.sleep(1)
        store.otherwise = fail
        await ingest(log, 21, 60)
    assert len([report for report in reports.spill_reports if isinstance(report, SpillFailureReport)]) == 1
    assert b"\0" not in path.read_bytes()
    store.otherwise = take
    async with open_event_log(store, **settings(path, reports)):
        pass
    assert len(store.held) == 60
