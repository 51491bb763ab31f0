"""The fault campaign: programs of everything that a log can meet, against a model, in virtual time.

Hypothesis draws several runs on one store, with or without a spill file. Each run is a list of steps (events
in bursts and one by one, flushes, waiting tasks, faults of store and disk, time) and an end: the body
returns, raises, or is cancelled from outside at any moment. After every step the promises L1 to L4 are
checked. After the last run, in which all is well, each event that was ever accepted is stored, a duplicate
of what is stored, or was reported lost, and what is both stored and reported was in doubt.

`tests/crashes/test_campaign.py` plays some hundreds of programs, ``nox -s campaign`` 100,000 steps and more.
"""

from __future__ import annotations

import contextlib
import errno
import math
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import strategies as st

from tests._helpers.fakes import (
    Behaviour,
    FakeStore,
    Reports,
    delay,
    fail,
    hang,
    numbered,
    take,
    take_and_fail,
)
from trio_eventlog import (
    EventEnvelope,
    EventLog,
    EventQuery,
    EventRejected,
    EventsLost,
    LogStatistics,
    LossReason,
    LossReport,
    ModuleEvent,
    PersistedEvent,
    Report,
    RetryPolicy,
    StoreUnusable,
    StoreWentBack,
    Subscription,
    open_event_log,
)
from trio_eventlog._log import _spill_queue

# --- what can go wrong ----------------------------------------------------------------------------


class Store(FakeStore):
    """Keeps the contract while it fails, and checks what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Sequence[PersistedEvent]] = []
        # Not raised: the log would take it for a failure of the store.
        self.violations: list[str] = []
        self.number_of: dict[str, int] = {}
        self.gone: set[str] = set()  # ids of what went when the store went back, also if it came again
        self.never: set[str] = set()  # rejected once: what a store can never hold it will never hold

    def refuse(self, events: Sequence[PersistedEvent]) -> None:
        self.never |= {event.id for event in events}
        raise EventRejected(events, "of three")

    def keep(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """L4: what is stored first comes first, over all runs; so no seq is ever taken twice, either."""
        refused = [event for event in events if event.id in self.never and event.id not in self.held]
        if refused:
            self.refuse(refused)
        highest = max(self.seqs, default=0)
        for event in events:
            if event.id not in self.held:
                self.require(event.seq > highest, f"{event.seq} is stored after {highest}")
                highest = event.seq
        return super().keep(events)

    def require(self, is_so: bool, complaint: str) -> None:
        if not is_so:
            self.violations.append(complaint)

    def go_back(self, events: int) -> None:
        """Be restored from a backup that lacks this many of the newest."""
        highest = max(self.seqs, default=0)
        gone = sorted(self.held.values(), key=lambda event: event.seq)[-events:]
        self.gone |= {event.id for event in gone}
        for event in gone:
            del self.held[event.id]
        # What it rejects it rejects again.
        raise StoreWentBack(max(self.seqs, default=0), highest)

    def catch_up(self) -> None:
        """S4: appends that were cancelled finish before whatever comes later."""
        late, self.late = self.late, []
        for events in late:
            with contextlib.suppress(EventRejected):
                self.keep(events)

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        seqs = [event.seq for event in events]
        self.require(self.in_flight == 0, "two appends at a time")
        self.require(sorted(set(seqs)) == seqs, f"the batch does not ascend: {seqs}")
        self.catch_up()
        return await super().append_batch(events)

    async def last_seq(self) -> int:
        self.catch_up()
        return await super().last_seq()


async def commit_late(store: FakeStore, events: Sequence[PersistedEvent]) -> Collection[int]:
    """What a store does whose driver gives a call up at once while the server goes on."""
    try:
        return await hang(store, events)
    finally:
        store.late.append(events)  # type: ignore[attr-defined]


def is_rejected(event: PersistedEvent) -> bool:
    return event.event.payload["number"] % 3 == 0


async def reject(store: FakeStore, events: Sequence[PersistedEvent]) -> Collection[int]:
    """What a store does that can never hold some events."""
    rejected = [event for event in events if is_rejected(event) and event.id not in store.held]
    if rejected:
        store.refuse(rejected)  # type: ignore[attr-defined]
    return store.keep(events)


async def go_back_a_little(store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
    return _go_back(store, _events, 3)


async def go_back_far(store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
    return _go_back(store, _events, 40)


def _go_back(store: FakeStore, events: Sequence[PersistedEvent], count: int) -> Collection[int]:
    if store.held:
        store.go_back(count)  # type: ignore[attr-defined]
    return store.keep(events)


async def raise_something(_store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
    msg = "of a driver"
    raise ValueError(msg)


async def end(_store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
    msg = "gone"
    raise StoreUnusable(msg)


BEHAVIOURS: dict[str, Behaviour] = {
    "take": take,
    "fail": fail,
    "take and fail": take_and_fail,
    "hang": hang,
    "commit late": commit_late,
    "slow": delay(0.7),
    "slow, then fail": delay(3.0, fail),
    "slow, take and fail": delay(0.2, take_and_fail),
    "reject": reject,
    "foreign": raise_something,
    "go back a little": go_back_a_little,
    "go back far": go_back_far,
    "unusable": end,
}


class Disk:
    """Does in the task what a thread would do with the spill file, in the time that a disk takes for it."""

    def __init__(self) -> None:
        self.state = "well"

    async def __call__(self, work: Any, *, discard: object = None) -> Any:
        await trio.lowlevel.checkpoint()
        # Opening and closing hold a lock, which a disk that fails does not keep them from leaving.
        if discard is not None or work.func.__name__ == "close":
            return work()
        await trio.sleep({"slow": 0.7, "hangs": math.inf}.get(self.state, 0.0))
        if self.state == "broken":
            raise OSError(errno.ENOSPC, "full")
        result = work()
        await trio.sleep(0.3 if self.state == "slow" else 0.0)
        return result


# --- programs -------------------------------------------------------------------------------------

Step = tuple[str, Any]

_SECONDS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 7.0])

STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("ingest"), st.integers(1, 3)),
    st.tuples(st.just("burst"), st.integers(4, 50)),
    st.tuples(st.just("repeat"), st.integers(0, 100)),
    st.tuples(st.just("ingest_wait"), st.integers(1, 8)),
    st.tuples(st.just("flush"), _SECONDS),
    st.tuples(st.just("flush through"), st.tuples(st.integers(0, 60), _SECONDS)),
    st.tuples(st.just("flush in a task"), _SECONDS),
    st.tuples(st.just("query"), st.integers(0, 30)),
    st.tuples(st.just("sleep"), _SECONDS),
    st.tuples(st.just("sleep"), st.sampled_from([60.0, 600.0])),
    st.tuples(st.just("yield"), st.integers(1, 6)),
    st.tuples(
        st.just("store"),
        st.tuples(st.lists(st.sampled_from(list(BEHAVIOURS)), max_size=4), st.sampled_from(list(BEHAVIOURS))),
    ),
    st.tuples(st.just("store"), st.just(([], "take"))),
    st.tuples(st.just("disk"), st.sampled_from(["well", "broken", "slow", "hangs"])),
    st.tuples(st.just("wall clock"), st.integers(0, 10**6)),
)


@attrs.frozen
class Run:
    """One run of a program."""

    settings: dict[str, Any]
    steps: list[Step]
    end: str  # "return" or "raise"
    cancel_at: tuple[float, int] | None  # from outside: after so many seconds, and so many checkpoints
    on_failure_ingests: bool


RUNS = st.builds(
    Run,
    settings=st.fixed_dictionaries(
        {
            "batch_size": st.integers(0, 6),
            "retry_buffer_cap": st.integers(6, 24),
            "max_pending_bytes": st.sampled_from([500, 1000, 2**26]),
            "max_event_bytes": st.just(400),
            "flush_interval": st.sampled_from([0, 0.5, 1.0]),
            "append_timeout": st.sampled_from([0.5, 2.0, 30.0, math.inf]),
            "grace_period": st.sampled_from([0.0, 0.3, 1.0, 5.0]),
            "max_spill_bytes": st.sampled_from([4096, 10**9]),
            "retry": st.just(RetryPolicy(initial=0.25, maximum=4, random=lambda: 0.5)),
        }
    ),
    steps=st.lists(STEPS, max_size=25),
    end=st.sampled_from(["return", "return", "raise"]),
    cancel_at=st.one_of(st.none(), st.tuples(_SECONDS, st.integers(0, 12))),
    on_failure_ingests=st.booleans(),
)

PROGRAMS = st.tuples(st.lists(RUNS, min_size=1, max_size=3), st.booleans())


class Boom(Exception):
    """What the body of a run raises."""


@attrs.define(eq=False)
class _Books:
    """What a run should have in its books."""

    first_seq: int
    recovered: int
    accepted: list[str] = attrs.Factory(list)  # ids, in the order of their seqs
    waiting: int = 0
    """Tasks in ``ingest_wait``: what the log has accepted of theirs may not be noted yet."""

    unsure: list[set[str]] = attrs.Factory(list)
    """For each flush that returned: ids up to its mark that were not in the store."""


class Campaign:
    """Plays a program, and keeps its own account of what must be true."""

    def __init__(self, spill: Path | None) -> None:
        self.spill = spill
        self.store = Store()
        self.disk = Disk()
        self.steps = 0
        self.wall_clock = 10**6
        self._numbers = 0
        self.accepted: Counter[str] = Counter()  # by id, over all runs
        self.losses: list[PersistedEvent] = []
        self.followed: list[PersistedEvent] = []  # by a subscriber that is resumed in each run
        self.cursor = 0
        self.last_assigned = 0
        self.doubtful: set[str] = set()

    # One run.

    async def play(self, run: Run) -> None:
        """Run the block, end it as drawn, and check what it left."""
        reports, boom = Reports(), Boom()
        log: EventLog | None = None
        books: _Books | None = None
        outcome: BaseException | None = None
        ended_at = -math.inf
        to_ingest = 3 if run.on_failure_ingests else 0

        def on_failure(report: Report) -> None:
            nonlocal to_ingest
            reports(report)
            if to_ingest and log is not None and books is not None:
                to_ingest -= 1
                with contextlib.suppress(trio.ClosedResourceError):
                    self.ingest(log, books)

        with trio.CancelScope() as outside:
            async with trio.open_nursery() as nursery:
                if run.cancel_at is not None:
                    nursery.start_soon(self._cancel, outside, run.cancel_at)
                try:
                    async with open_event_log(
                        self.store, spill=self.spill, on_failure=on_failure, **run.settings
                    ) as log:
                        before = log.statistics()
                        books = _Books(before.last_assigned_seq - before.recovered + 1, before.recovered)
                        highest = max(self.store.seqs, default=0)
                        # L1; a spill file may know of higher ones, given out before.
                        most = highest if self.spill is None else max(highest, self.last_assigned)
                        assert highest < books.first_seq <= most + 1
                        # What it had read of an older state may be gone, and the seqs given out again.
                        self.cursor = min(self.cursor, books.first_seq - 1)
                        try:
                            await self._body(log, books, run)
                            if run.end == "raise":
                                raise boom
                        finally:
                            ended_at = trio.current_time()
                            self.last_assigned = max(self.last_assigned, log.statistics().last_assigned_seq)
                except BaseException as exc:  # noqa: ASYNC103 - a cancellation is raised, the rest is looked at
                    outcome = exc
                    if _is_cancellation(exc):
                        raise
                finally:
                    nursery.cancel_scope.cancel()
        if log is None or books is None:
            # Cancelled before it was open.
            assert outside.cancelled_caught
            return
        self._check_end(run, log, books, reports, outcome, boom, ended_at)

    async def _cancel(self, scope: trio.CancelScope, at: tuple[float, int]) -> None:
        seconds, checkpoints = at
        await trio.sleep(seconds)
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def _body(self, log: EventLog, books: _Books, run: Run) -> None:
        async with log.subscribe(after_seq=self.cursor) as events, trio.open_nursery() as tasks:
            tasks.start_soon(self._follow, events)
            for step in run.steps:
                await self._step(log, books, tasks, step)
                self.steps += 1
                self._check(log, books, run.settings)
            if run is LAST:
                await events.wait_caught_up()
            tasks.cancel_scope.cancel()

    async def _follow(self, events: Subscription) -> None:
        try:
            async for event in events:
                self.followed.append(event)
                if event.seq % 5 == 0:
                    await trio.sleep(0.3)
        finally:
            self.cursor = events.cursor

    async def _step(self, log: EventLog, books: _Books, tasks: trio.Nursery, step: Step) -> None:
        match step:
            case "ingest" | "burst", count:
                for _ in range(count):
                    self.ingest(log, books)
            case "repeat", which:
                # An id that was used before, by this run or another.
                known = sorted(self.accepted)
                self.ingest(log, books, known[which % len(known)] if known else None)
            case "ingest_wait", count:
                tasks.start_soon(self._ingest_wait, log, books, count)
            case "flush", seconds:
                await self._flush(log, books, None, seconds)
            case "flush through", (through, seconds):
                await self._flush(log, books, min(through, log.statistics().last_assigned_seq), seconds)
            case "flush in a task", seconds:
                tasks.start_soon(self._flush, log, books, None, seconds)
            case "query", limit:
                found = [event.seq for event in await log.query(EventQuery(limit=limit))]
                assert found == sorted(found)
                assert len(found) == min(limit, len(self.store.held))
            case "sleep", seconds:
                await trio.sleep(seconds)
            case "yield", count:
                for _ in range(count):
                    await trio.lowlevel.checkpoint()
            case "store", (script, otherwise):
                self.store.script = [BEHAVIOURS[name] for name in script]
                self.store.otherwise = BEHAVIOURS[otherwise]
            case "disk", state:
                self.disk.state = state
            case _, now:
                self.wall_clock = now

    def _event(self, event_id: str | None = None) -> EventEnvelope:
        self._numbers += 1
        number = self._numbers
        if event_id is not None:
            # The first write wins, whatever the repeat carries; what is rejected stays rejected.
            number = self.store.number_of[event_id]
        event_id = event_id or f"e-{number}"
        self.store.number_of[event_id] = number
        event = numbered(number) if number % 2 else ModuleEvent("m", "step", {"number": number})
        return EventEnvelope.of(event, event_id=event_id, timestamp_ms=self.wall_clock)

    def ingest(self, log: EventLog, books: _Books, event_id: str | None = None) -> None:
        event, last = self._event(event_id), log.statistics().last_assigned_seq
        seq = log.ingest(event)
        self._accepted(books, event, seq)
        # What it made fall was reported meanwhile, and whoever is told may ingest.
        assert seq is not None
        assert seq >= last + 1

    def _accepted(self, books: _Books, event: EventEnvelope, seq: int | None) -> None:
        """L1: the next seq, in the order of the calls."""
        assert seq is not None
        index = seq - books.first_seq - books.recovered
        books.accepted += [""] * (index + 1 - len(books.accepted))
        assert books.accepted[index] == "", "no seq is given twice"
        books.accepted[index] = event.event_id
        self.accepted[event.event_id] += 1

    async def _ingest_wait(self, log: EventLog, books: _Books, count: int) -> None:
        books.waiting += 1
        try:
            for _ in range(count):
                event = self._event()
                self._accepted(books, event, await log.ingest_wait(event))
        finally:
            books.waiting -= 1

    async def _flush(self, log: EventLog, books: _Books, through: int | None, seconds: float) -> None:
        mark = log.statistics().last_assigned_seq if through is None else through
        with trio.move_on_after(seconds):
            try:
                await log.flush(through)
            except EventsLost as exc:
                self.store.require(exc.last_seq <= mark, f"flush to {mark} raised {exc.last_seq}")
            except StoreUnusable:
                assert self.spill is not None
                return
            # Durable now, or lost; which of them are lost may be told a second later.
            ids = books.accepted[: max(mark - books.first_seq - books.recovered + 1, 0)]
            # Not those of a task that does not know yet that its event was accepted.
            books.unsure.append({event_id for event_id in ids if event_id} - set(self.store.held))

    # What must be true.

    def _check(self, log: EventLog, books: _Books, settings: dict[str, Any]) -> None:
        now = log.statistics()
        self._check_balance(now, books)
        assert self.store.violations == []
        # L3: beside the batch in flight.
        in_flight = self.store.appends[-1].seqs if self.store.in_flight else ()
        assert now.pending - now.spilled - len(in_flight) <= settings["retry_buffer_cap"]
        if not (in_flight or now.spilled):
            assert now.pending_bytes <= settings["max_pending_bytes"]

    def _check_balance(self, now: LogStatistics, books: _Books) -> None:
        """L1 and L2: numbers without a hole, and nothing uncounted."""
        noted = len(books.accepted) - books.accepted.count("")
        assert 0 <= now.ingested - books.recovered - noted <= books.waiting
        assert now.ingested == now.persisted + now.duplicate + now.pending + now.lost_total

    def _check_end(  # noqa: PLR0917 - all that is known of the run
        self,
        run: Run,
        log: EventLog,
        books: _Books,
        reports: Reports,
        outcome: BaseException | None,
        boom: Boom,
        ended_at: float,
    ) -> None:
        now = log.statistics()
        self._check_balance(now, books)
        spilled = now.spilled if self.spill else 0
        assert now.pending == spilled
        # L7: leaving takes its grace period, and 5 s twice for the spill file.
        assert (
            trio.current_time() <= ended_at + run.settings["grace_period"] + (10 if self.spill else 0) + 1e-6
        )
        # L8: what left the block.
        assert (
            outcome is None
            or outcome is boom
            or isinstance(outcome, EventsLost | StoreUnusable)
            or _is_cancellation(outcome)
        )
        # L2: every loss in one report.
        lost = [event for loss in reports.losses for event in loss.events]
        assert len({event.seq for event in lost}) == len(lost)
        reverted = sum(one.lost for one in reports.reversions)
        assert reverted == now.lost.get(LossReason.REVERTED, 0)
        assert len(lost) == now.lost_total - reverted
        for event in lost:
            own = event.seq - books.first_seq - books.recovered
            assert own < 0 or books.accepted[own] == event.id
        for ids in books.unsure:
            assert ids <= {event.id for event in lost} | self.store.gone
        self.losses += lost
        self.doubtful |= {e.id for loss in reports.losses if _is_doubtful(loss) for e in loss.events}

    def check_all(self) -> None:
        """After the last run: each event came to its end."""
        assert self.store.violations == []
        # A subscriber got what is stored, once and in order, whatever happened to the runs.
        gone, held = self.store.gone, set(self.store.held)
        stored = sorted(self.store.held.values(), key=lambda event: event.seq)
        assert [event for event in self.followed if event.id not in gone] == [
            event for event in stored if event.id not in gone
        ]
        assert held <= {event.id for event in self.followed}
        reported = Counter(event.id for event in self.losses)
        for event_id, times in self.accepted.items():
            is_refused = event_id in self.store.never and event_id not in held and self.spill is not None
            is_gone = event_id in gone - held
            if is_refused or is_gone:
                # A run that cannot rewrite the file leaves it to the next one, which is told the same.
                assert is_refused or reported[event_id] <= times
                # What the store lost by going back is reported as a number.
                assert is_gone or reported[event_id] >= times
                continue
            if event_id not in held:
                assert reported[event_id] == times, "neither stored nor reported"
            elif times == 1 and reported[event_id]:
                assert event_id in self.doubtful, "stored and reported, and not in doubt"
            assert reported[event_id] <= times
        assert held <= set(self.accepted)


def _is_cancellation(exc: BaseException) -> bool:
    """Also that of several tasks together."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)


def _is_doubtful(loss: LossReport) -> bool:
    return loss.in_doubt


LAST = Run(
    settings={"grace_period": 5.0, "retry_buffer_cap": 4096, "max_pending_bytes": 2**26},
    steps=[("store", ([], "take")), ("disk", "well"), ("flush", math.inf)],
    end="return",
    cancel_at=None,
    on_failure_ingests=False,
)


def play(program: tuple[list[Run], bool]) -> int:
    """Play a program.

    Returns:
      How many steps it had.
    """
    runs, spills = program
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        campaign = Campaign(Path(directory, "log.spill") if spills else None)
        patch.setattr(_spill_queue, "in_thread", campaign.disk)

        async def main() -> None:
            for run in [*runs, LAST]:
                await campaign.play(run)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        campaign.check_all()
        assert {one.name for one in Path(directory).iterdir()} <= {"log.spill.lock"}
    return campaign.steps
