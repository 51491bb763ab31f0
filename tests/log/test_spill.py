"""A log with a spill file: what would be lost goes to disk, and from there to the store, in order.

The work of threads is done inline here, with pauses where a disk would take its time, so that virtual time
goes on only where somebody waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import FakeStore, Reports, fail, fail_with, hang, numbered, take, take_and_fail
from tests.log.test_log_properties import BEHAVIOUR_NAMES, BEHAVIOURS
from trio_eventlog import (
    EventEnvelope,
    EventLog,
    EventsLost,
    LogState,
    LossReason,
    RetryPolicy,
    SpillDamageReport,
    SpillError,
    SpillFailureReport,
    SpillReport,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog._log import _spill_queue

STEADY = RetryPolicy(jitter=0)


class Disk:
    """Does what a thread would do, taking so many seconds before and after each call."""

    def __init__(self) -> None:
        self.before = self.after = 0.0
        self.error: OSError | None = None
        self.fail_once = ""  # the name of a method
        self.calls = 0

    async def __call__(self, work: Callable[[], Any], *, discard: object = None) -> Any:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        # Opening and closing leave a lock, which a disk that fails does not keep them from.
        if discard is not None or work.func.__name__ == "close":  # type: ignore[attr-defined]
            return work()
        await trio.sleep(self.before)
        if self.error is not None:
            raise self.error
        if work.func.__name__ == self.fail_once:  # type: ignore[attr-defined]
            self.fail_once = ""
            raise OSError(errno.EIO, "broken")
        result = work()
        await trio.sleep(self.after)
        return result


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(_spill_queue, "in_thread", disk)
    return disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.spill"


def numbers(store: FakeStore) -> list[int]:
    return [event.event.payload["number"] for event in store.held.values()]


async def ingest(log: EventLog, first: int, last: int) -> None:
    """With a checkpoint after each, as tasks do."""
    for number in range(first, last + 1):
        log.ingest(numbered(number))
        await trio.sleep(0.001)


def balanced(log: EventLog) -> bool:
    books = log.statistics()
    return books.ingested == books.persisted + books.duplicate + books.pending + books.lost_total


# --- the story ------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", [fail, hang, take_and_fail])
async def test_an_outage_costs_nothing(disk, path, behaviour, autojump_clock):
    """Twenty times the cap come while the store is down; all are stored, in order, and the file is gone."""
    store, reports = FakeStore(otherwise=behaviour), Reports()
    async with open_event_log(
        store, retry_buffer_cap=50, batch_size=10, spill=path, on_failure=reports, retry=STEADY
    ) as log:
        await ingest(log, 1, 1000)
        books = log.statistics()
        assert books.pending == 1000
        assert books.spilled >= 900
        assert books.spill_bytes == path.stat().st_size
        store.otherwise = take
        await log.flush()
        assert path.stat().st_size < 200
        assert log.statistics().spilled == 0

    assert numbers(store) == list(range(1, 1001))
    assert store.seqs == list(range(1, 1001))
    assert not reports.losses
    assert not reports.spill_reports
    assert not path.exists()


async def test_a_healthy_store_needs_no_file(disk, path, autojump_clock):
    """Not even in bursts up to the cap; the disk is touched on opening and closing alone."""
    store = FakeStore()
    async with open_event_log(store, retry_buffer_cap=100, batch_size=10, spill=path) as log:
        for _ in range(20):
            for number in range(100):
                log.ingest(numbered(number))
            await log.flush()
    assert disk.calls == 2
    assert len(store.seqs) == 2000


async def test_what_is_left_is_delivered_by_the_next_run(disk, path, autojump_clock):
    """Under new seqs after those of the store, with the ids that they had, before what is new."""
    store, reports = FakeStore(otherwise=fail), Reports()
    async with open_event_log(
        store, retry_buffer_cap=20, batch_size=10, spill=path, on_failure=reports, grace_period=1
    ) as log:
        await ingest(log, 1, 100)
    assert reports.spill_reports == [SpillReport(path=path, events=100)]
    assert not reports.losses
    assert (log.statistics().pending, log.statistics().spilled, log.statistics().state) == (
        100,
        100,
        LogState.CLOSED,
    )

    again = FakeStore()
    again.first_last_seq = 7
    async with open_event_log(again, spill=path) as log:
        assert log.statistics().recovered == log.statistics().pending == 100
        assert log.ingest(numbered(101)) == 108
        await log.flush()
    assert numbers(again) == list(range(1, 102))
    assert again.seqs == list(range(8, 109))
    assert log.statistics().peak_pending >= 100
    assert not path.exists()


async def test_what_the_store_had_after_all_is_a_duplicate(disk, path, autojump_clock):
    store = FakeStore(otherwise=take_and_fail)
    async with open_event_log(store, batch_size=5, spill=path, grace_period=0.5, on_failure=Reports()) as log:
        await ingest(log, 1, 20)
    store.otherwise = take
    async with open_event_log(store, spill=path) as log:
        log.ingest(numbered(21))
        await log.flush()
        assert (log.statistics().duplicate, log.statistics().persisted) == (20, 1)
    assert numbers(store) == list(range(1, 22))


async def test_a_log_that_drains_needs_no_file(disk, path, autojump_clock):
    async with open_event_log(FakeStore([fail, fail]), spill=path, on_failure=Reports()) as log:
        log.ingest(numbered(1))
    assert not path.exists()


async def test_without_a_grace_period_all_is_spilled(disk, path, autojump_clock):
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, spill=path, grace_period=0, on_failure=reports) as log:
        log.ingest(numbered(1))
    assert reports.spill_reports == [SpillReport(path=path, events=1)]
    async with open_event_log(store, spill=path):
        pass
    assert numbers(store) == [1]


async def test_a_burst_without_a_checkpoint_is_bounded_by_the_cap(disk, path, autojump_clock):
    """Nobody can write to the file meanwhile, and memory is bounded."""
    store, reports = FakeStore(), Reports()
    async with open_event_log(
        store, retry_buffer_cap=20, batch_size=5, spill=path, on_failure=reports
    ) as log:
        for number in range(50):
            log.ingest(numbered(number))
    assert reports.lost == list(range(1, 31))


# --- unusable stores ------------------------------------------------------------------------------


async def test_an_unusable_store_loses_nothing(disk, path, autojump_clock):
    """What is pending and what comes later goes to the file; leaving still says what happened."""
    gone = StoreUnusable("gone")
    store, reports = FakeStore(otherwise=fail_with(gone)), Reports()
    with pytest.raises(StoreUnusable) as caught:
        async with open_event_log(store, batch_size=5, spill=path, on_failure=reports) as log:
            await ingest(log, 1, 5)
            with pytest.raises(StoreUnusable):
                await log.flush()
            assert log.statistics().state is LogState.UNUSABLE
            await ingest(log, 6, 10)
            await trio.testing.wait_all_tasks_blocked()
            assert log.statistics().spilled == 10
            with pytest.raises(StoreUnusable):
                await log.flush()
    assert caught.value is gone
    assert not reports.losses
    assert reports.spill_reports == [SpillReport(path=path, events=10)]
    store.otherwise = take
    async with open_event_log(store, spill=path):
        pass
    assert numbers(store) == list(range(1, 11))


async def test_who_waits_is_told_that_the_store_is_unusable(disk, path, autojump_clock):
    store = FakeStore([fail], otherwise=fail_with(StoreUnusable("gone")))
    with pytest.raises(StoreUnusable):
        async with (
            open_event_log(store, spill=path, on_failure=Reports()) as log,
            trio.open_nursery() as nursery,
        ):

            async def flush() -> None:
                with pytest.raises(StoreUnusable):
                    await log.flush()

            for _ in range(3):
                log.ingest(numbered(1))
                nursery.start_soon(flush)


async def test_who_waits_at_the_end_is_told_that_it_is_closed(disk, path, autojump_clock):
    async def flush(log: EventLog) -> None:
        with pytest.raises(trio.ClosedResourceError, match="the rest is in its spill file"):
            await log.flush()

    async with trio.open_nursery() as nursery:
        async with open_event_log(FakeStore(otherwise=fail), spill=path, on_failure=Reports()) as log:
            log.ingest(numbered(1))
            nursery.start_soon(flush, log)  # noqa: ASYNC111 - it is to outlive the log
            await trio.testing.wait_all_tasks_blocked()


async def test_waiting_for_room_ends_when_the_file_has_taken_some(disk, path, autojump_clock):
    store = FakeStore(otherwise=hang)
    async with open_event_log(
        store, retry_buffer_cap=20, batch_size=5, spill=path, grace_period=0, on_failure=Reports()
    ) as log:
        for number in range(200):
            await log.ingest_wait(numbered(number))
        books = log.statistics()
        assert books.pending - books.spilled <= 20
    assert log.statistics().lost == {}


async def test_a_batch_that_is_in_the_file_takes_no_room(disk, path, autojump_clock):
    """It cannot be lost, however long the store stays away."""
    store = FakeStore(otherwise=fail)
    options = {"batch_size": 5, "spill": path, "grace_period": 0, "on_failure": Reports()}
    async with open_event_log(store, retry_buffer_cap=50, **options) as log:
        await ingest(log, 1, 40)
    async with open_event_log(
        store, retry_buffer_cap=10, max_pending_bytes=2000, **options, max_event_bytes=500
    ) as log:
        await trio.sleep(10)
        books = log.statistics()
        assert books.spilled == 40
        assert 0 < books.pending_bytes < 2500
        with trio.fail_after(10):
            for number in range(41, 101):
                await log.ingest_wait(numbered(number))
        store.otherwise = take
        await log.flush()

    assert numbers(store) == list(range(1, 101))


async def test_rejected_events_are_not_offered_again(disk, path, autojump_clock):
    """Also when they are in the file: the next run does not meet them."""
    store, reports = FakeStore(otherwise=fail), Reports()
    async with open_event_log(
        store, retry_buffer_cap=20, batch_size=10, spill=path, on_failure=reports, grace_period=0
    ) as log:
        await ingest(log, 1, 100)
        store.script = [BEHAVIOURS["reject"], fail]
        store.otherwise = fail
        await trio.sleep(100)
    rejected = {loss.reason for loss in reports.losses}
    assert rejected == {LossReason.REJECTED}
    first = set(reports.lost)
    store.otherwise = BEHAVIOURS["reject"]
    with pytest.raises(EventsLost):
        async with open_event_log(store, spill=path, on_failure=reports):
            pass
    even = [loss.events for loss in reports.losses]
    ids = [event.id for events in even for event in events]
    assert len(ids) == len(set(ids)) == 50
    assert first
    assert numbers(store) == list(range(1, 101, 2))


# --- disks ----------------------------------------------------------------------------------------


async def test_a_full_disk_is_told_and_tried_again(disk, path, autojump_clock):
    """Meanwhile the cap takes events, as without a file; later nothing is missing but these."""
    store, reports = FakeStore(otherwise=fail), Reports()
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    async with open_event_log(
        store, retry_buffer_cap=50, batch_size=10, spill=path, on_failure=reports, retry=STEADY
    ) as log:
        await ingest(log, 1, 200)
        assert balanced(log)
        assert log.statistics().lost == {LossReason.CAP: 150}
        failures = [report for report in reports.spill_reports if isinstance(report, SpillFailureReport)]
        assert [failure.retry_in for failure in failures][:3] == [0.1, 0.2, 0.4][: len(failures[:3])]
        assert failures[0].error is disk.error
        assert failures[0].path == path
        disk.error = None
        await trio.sleep(60)
        await ingest(log, 201, 300)
        store.otherwise = take
    assert numbers(store) == list(range(151, 301))


async def test_the_bound_of_the_file(disk, path, autojump_clock):
    """Past it loss is reported as ever, and the books balance."""
    store, reports = FakeStore(otherwise=fail), Reports()
    async with open_event_log(
        store, retry_buffer_cap=20, batch_size=10, spill=path, max_spill_bytes=4096, on_failure=reports
    ) as log:
        await ingest(log, 1, 300)
        assert balanced(log)
        assert path.stat().st_size <= 4096
        store.otherwise = take
    assert log.statistics().lost[LossReason.CAP] == len(reports.lost) > 0
    assert sorted([*store.seqs, *reports.lost]) == list(range(1, 301))
    assert store.seqs == sorted(store.seqs)


async def test_a_disk_that_hangs_at_the_end(disk, path, autojump_clock):
    """The last write has a bound of its own; what it had is lost and in doubt, the rest is lost."""
    store, reports = FakeStore(otherwise=fail), Reports()
    with pytest.raises(EventsLost):
        async with open_event_log(store, spill=path, grace_period=2, on_failure=reports) as log:
            log.ingest(numbered(1))
            disk.before = math.inf
            closed_at = trio.current_time()
    assert trio.current_time() - closed_at <= 2 + 5 + 5
    assert [(loss.reason, loss.in_doubt) for loss in reports.losses] == [(LossReason.SHUTDOWN, True)]
    assert balanced(log)


async def test_a_read_that_fails_is_tried_again(disk, path, autojump_clock):
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, spill=path, grace_period=0, on_failure=Reports()) as log:
        await ingest(log, 1, 5)
        store.otherwise = hang
        await ingest(log, 6, 10)
    store.otherwise = take
    disk.error = OSError(errno.EIO, "broken")
    async with open_event_log(store, spill=path, on_failure=reports) as log:
        await trio.sleep(1)
        assert all(isinstance(report, SpillFailureReport) for report in reports.spill_reports)
        assert len(reports.spill_reports) >= 3
        disk.error = None
        await log.flush()
    assert numbers(store) == list(range(1, 11))


async def test_damage_is_counted_told_and_raised(disk, path, autojump_clock):
    store, reports = FakeStore(), Reports()
    async with open_event_log(store, spill=path, grace_period=0, on_failure=Reports()) as log:
        for number in range(1, 6):
            log.ingest(numbered(number))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"number":2', b'"number":0'))

    async with open_event_log(store, spill=path, on_failure=reports) as log:
        with pytest.raises(EventsLost) as caught:
            await log.flush()
        assert dict(caught.value.by_reason) == {LossReason.DAMAGED: 1}
        await log.flush()
        assert log.statistics().lost == {LossReason.DAMAGED: 1}
        assert balanced(log)
    (damage,) = reports.spill_reports
    assert isinstance(damage, SpillDamageReport)
    assert (damage.path, damage.events) == (path, 1)
    assert numbers(store) == [1, 3, 4, 5]
    (kept,) = path.parent.glob("*.damaged-*")
    assert b'"number":0' in kept.read_bytes()


async def test_a_spill_file_of_another_log(disk, path):
    store = FakeStore()
    store.log_id = "a"  # type: ignore[attr-defined]
    async with open_event_log(store, spill=path, grace_period=0, on_failure=Reports()) as log:
        log.ingest(numbered(1))
    other = FakeStore()
    other.log_id = "b"  # type: ignore[attr-defined]
    with pytest.raises(SpillError, match="events of another log"):
        async with open_event_log(other, spill=path):
            pytest.fail("opened")
    async with open_event_log(store, spill=path):
        pass
    assert numbers(store) == [1]


async def test_more_events_than_seqs(disk, path):
    store = FakeStore()
    async with open_event_log(store, spill=path, grace_period=0, on_failure=Reports()) as log:
        log.ingest(numbered(1))
        log.ingest(numbered(2))
    store.first_last_seq = 2**63 - 2
    with pytest.raises(SpillError, match="find no seq after"):
        async with open_event_log(store, spill=path):
            pytest.fail("opened")
    store.first_last_seq = 0
    async with open_event_log(store, spill=path):
        pass
    assert numbers(store) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"spill": 3}, TypeError, "spill: expected the path of a file as str or PathLike, got int"),
        ({"spill": b"x"}, TypeError, "spill: expected the path"),
        ({"spill": ""}, ValueError, "spill: expected the path of a file, got ''"),
        ({"spill": "a\0b"}, ValueError, "spill: expected the path"),
        (
            {"max_spill_bytes": 1.5},
            TypeError,
            "max_spill_bytes: expected a number of bytes as an int, got float",
        ),
        ({"max_spill_bytes": 4095}, ValueError, "max_spill_bytes: expected 4096 or more bytes, got 4095"),
    ],
)
async def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        async with open_event_log(FakeStore(), **arguments):
            pytest.fail("opened")


async def test_a_log_id_is_text():
    store = FakeStore()
    store.log_id = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="log_id of the store: expected a str, got int"):
        async with open_event_log(store):
            pytest.fail("opened")


# --- whatever happens -----------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("ingest"), st.integers(1, 40)),
    st.tuples(st.just("ingest_wait"), st.integers(1, 5)),
    st.tuples(st.just("flush"), st.floats(0, 5)),
    st.tuples(st.just("sleep"), st.floats(0, 10)),
    st.tuples(st.just("disk"), st.sampled_from(["well", "broken", "slow", "hangs"])),
    st.tuples(st.just("yield"), st.just(0)),
)

RUN = st.fixed_dictionaries(
    {
        "steps": st.lists(STEPS, max_size=15),
        "script": st.lists(BEHAVIOUR_NAMES, max_size=8),
        "otherwise": BEHAVIOUR_NAMES,
        "settings": st.fixed_dictionaries(
            {
                "batch_size": st.integers(1, 5),
                "retry_buffer_cap": st.integers(5, 30),
                "append_timeout": st.sampled_from([0.5, 30.0]),
                "grace_period": st.sampled_from([0.0, 1.0, 5.0]),
                "max_spill_bytes": st.sampled_from([4096, 10**9]),
            }
        ),
    }
)


class Campaign:
    """Several runs of a program on one store and one spill file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = FakeStore()
        self.disk = Disk()
        self.reports = Reports()
        self.ingested: set[str] = set()

    async def step(self, log: EventLog, settings: dict[str, Any], step: tuple[str, Any]) -> None:
        kind, value = step
        if kind.startswith("ingest"):
            for _ in range(value):
                event_id = f"e-{len(self.ingested)}"
                envelope = EventEnvelope.of(numbered(len(self.ingested)), event_id=event_id, timestamp_ms=1)
                if kind == "ingest":
                    log.ingest(envelope)
                    self.ingested.add(event_id)
                else:
                    with trio.move_on_after(3):
                        await log.ingest_wait(envelope)
                        self.ingested.add(event_id)
        elif kind == "flush":
            with trio.move_on_after(value):
                with contextlib.suppress(EventsLost, StoreUnusable):
                    await log.flush()
        elif kind == "sleep":
            await trio.sleep(value)
        elif kind == "disk":
            self.disk.error = OSError(errno.ENOSPC, "full") if value == "broken" else None
            self.disk.before = {"slow": 0.7, "hangs": math.inf}.get(value, 0.0)
            self.disk.after = 0.3 if value == "slow" else 0.0
        else:
            await trio.lowlevel.checkpoint()
        books = log.statistics()
        assert balanced(log)
        in_flight = len(self.store.appends[-1].seqs) if self.store.in_flight else 0
        # Beside the batch in flight: the one that is kept between two attempts is the same.
        assert books.pending - books.spilled - in_flight <= settings["retry_buffer_cap"]

    async def run(self, run: dict[str, Any]) -> None:
        self.store.script = [BEHAVIOURS[name] for name in run["script"]]
        self.store.otherwise = BEHAVIOURS[run["otherwise"]]
        first_append = len(self.store.appends)
        log: EventLog | None = None
        try:
            async with open_event_log(
                self.store, spill=self.path, on_failure=self.reports, **run["settings"]
            ) as log:
                for step in run["steps"]:
                    await self.step(log, run["settings"], step)
                ended_at = trio.current_time()
        except EventsLost:
            pass
        assert log is not None
        assert trio.current_time() <= ended_at + run["settings"]["grace_period"] + 10 + 1e-9
        books = log.statistics()
        assert balanced(log)
        assert books.pending == books.spilled
        # L4: whatever went first to the store ascends.
        highest = 0
        for append in self.store.appends[first_append:]:
            assert list(append.seqs) == sorted(set(append.seqs))
            assert append.seqs[0] <= highest + 1 or append.seqs[0] > highest
            highest = max(highest, append.seqs[-1])


@given(runs=st.lists(RUN, min_size=1, max_size=3))
def test_promises_hold_over_several_runs(runs: list[dict[str, Any]]) -> None:
    """Whatever store and disk do: in the end each event is stored or reported lost, both only in doubt."""
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        campaign = Campaign(Path(directory) / "spill")
        patch.setattr(_spill_queue, "in_thread", campaign.disk)

        async def main() -> None:
            for run in runs:
                await campaign.run(run)
            # All is well again.
            campaign.disk.error, campaign.disk.before, campaign.disk.after = None, 0.0, 0.0
            campaign.store.script, campaign.store.otherwise = [], BEHAVIOURS["reject"]
            async with open_event_log(
                campaign.store, spill=campaign.path, on_failure=campaign.reports
            ) as log:
                with contextlib.suppress(EventsLost):
                    await log.flush()
            assert log.statistics().pending == 0

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

        lost = [event for loss in campaign.reports.losses for event in loss.events]
        doubtful = {e.id for loss in campaign.reports.losses if loss.in_doubt for e in loss.events}
        assert campaign.ingested == set(campaign.store.held) | {event.id for event in lost}
        certain = {event.id for event in lost} - doubtful
        assert not certain & set(campaign.store.held)
        assert [one.name for one in Path(directory).iterdir()] == ["spill.lock"]
