"""What must hold whatever the program does and whatever its store does, in virtual time.

Hypothesis draws a program (bursts, waits, flushes, pauses) and a script for the store (takes, fails before
or after the commit, hangs, dawdles, rejects, breaks its contract), and the promises L1 to L4 and L6 are
checked after every step and at the end, by id.
"""

from __future__ import annotations

import math
from typing import Any

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import (
    BEHAVIOUR_NAMES,
    BEHAVIOURS,
    FakeStore,
    Reports,
    fail,
    numbered,
    take,
)
from trio_eventlog import (
    EventEnvelope,
    EventLog,
    EventsLost,
    LossReason,
    RetryPolicy,
    open_event_log,
)

STEPS = st.one_of(
    st.tuples(st.just("ingest"), st.integers(1, 40)),
    st.tuples(st.just("repeat"), st.integers(0, 20)),
    st.tuples(st.just("ingest_wait"), st.integers(1, 5)),
    st.tuples(st.just("flush"), st.floats(0, 5)),
    st.tuples(st.just("flush through"), st.integers(0, 50)),
    st.tuples(st.just("sleep"), st.floats(0, 10)),
    st.tuples(st.just("yield"), st.just(0)),
)

SETTINGS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(0, 8),
        "retry_buffer_cap": st.integers(8, 24),
        "flush_interval": st.sampled_from([0, 0.5, 1]),
        "append_timeout": st.sampled_from([0.5, 2.0, math.inf]),
        "grace_period": st.sampled_from([0, 1.0, 5.0]),
        "retry": st.just(RetryPolicy(initial=0.25, maximum=4, random=lambda: 0.5)),
    }
)


class Program:
    """Runs a drawn program, and keeps its own account of what should be true."""

    def __init__(self, log: EventLog, store: FakeStore, reports: Reports, settings: dict[str, Any]) -> None:
        self.log = log
        self.store = store
        self.reports = reports
        self.settings = settings
        self.ids: list[str] = []
        self.seqs: list[int] = []
        self.raised_up_to: list[int] = []

    def ingest(self, event_id: str) -> None:
        number = len(self.ids)
        seq = self.log.ingest(EventEnvelope.of(numbered(number), event_id=event_id, timestamp_ms=number))
        assert seq is not None
        self.ids.append(event_id)
        self.seqs.append(seq)

    async def run(self, steps: list[tuple[str, Any]]) -> None:
        for step, argument in steps:
            match step:
                case "ingest":
                    for _ in range(argument):
                        self.ingest(f"e{len(self.ids)}")
                case "repeat":
                    # An id that was used before: a duplicate, or lost, but never stored twice.
                    self.ingest(f"e{min(argument, len(self.ids))}")
                case "ingest_wait":
                    await self.ingest_wait(argument)
                case "flush":
                    await self.flush(None, argument)
                case "flush through":
                    await self.flush(min(argument, self.log.statistics().last_assigned_seq), 2.0)
                case "sleep":
                    await trio.sleep(argument)
                case _:
                    await trio.lowlevel.checkpoint()
            self.check()

    async def ingest_wait(self, count: int) -> None:
        for _ in range(count):
            number = len(self.ids)
            event = EventEnvelope.of(numbered(number), event_id=f"e{number}", timestamp_ms=number)
            lost = self.log.statistics().lost.get(LossReason.CAP, 0)
            with trio.move_on_after(3.0) as scope:
                seq = await self.log.ingest_wait(event)
                assert seq is not None
                self.ids.append(event.event_id)
                self.seqs.append(seq)
                # Of itself it never makes an event fall: what fell while it waited fell to a failed batch
                # that came back, beside events from a burst.
                if lost == self.log.statistics().lost.get(LossReason.CAP, 0):
                    assert self.log.statistics().pending <= self.settings["retry_buffer_cap"] + 8
            if scope.cancelled_caught:
                return

    async def flush(self, through: int | None, seconds: float) -> None:
        mark = self.log.statistics().last_assigned_seq if through is None else through
        done = False
        with trio.move_on_after(seconds):
            try:
                await self.log.flush(through)
            except EventsLost as exc:
                self.raised_up_to.append(exc.last_seq - mark)
            done = True
        assert all(excess <= 0 for excess in self.raised_up_to)
        if done:
            # Nothing up to the mark is pending: it is stored, was a duplicate, or is lost.
            lost = {event.seq for loss in self.reports.losses for event in loss.events}
            held = set(self.store.held)
            missing = [
                seq
                for seq, event_id in zip(self.seqs, self.ids, strict=True)
                if seq <= mark and event_id not in held and seq not in lost
            ]
            # Losses to the cap are reported within a second, so that some may not be reported yet.
            assert len(missing) <= self.log.statistics().lost_total - len(lost)

    def check(self) -> None:
        books = self.log.statistics()
        # L1: seqs ascend without a gap, as ingested.
        assert self.seqs == list(range(1, len(self.seqs) + 1))
        # L2: nothing is uncounted.
        assert books.ingested == len(self.ids)
        assert books.ingested == books.persisted + books.duplicate + books.pending + books.lost_total
        # L3: the cap, beside the batch in flight.
        in_flight = len(self.store.appends[-1].seqs) if self.store.in_flight else 0
        assert books.pending - in_flight <= self.settings["retry_buffer_cap"]
        # L4: one at a time, each batch ascending.
        assert self.store.most_in_flight <= 1
        assert all(list(append.seqs) == sorted(set(append.seqs)) for append in self.store.appends)


@given(
    steps=st.lists(STEPS, max_size=25),
    script=st.lists(BEHAVIOUR_NAMES, max_size=12),
    otherwise=BEHAVIOUR_NAMES,
    settings=SETTINGS,
)
def test_promises_hold_whatever_happens(
    steps: list[tuple[str, Any]], script: list[str], otherwise: str, settings: dict[str, Any]
) -> None:
    """Order, cap and conservation after each step; at the end everything is accounted for, by id."""
    store = FakeStore([BEHAVIOURS[name] for name in script], BEHAVIOURS[otherwise])
    reports = Reports()

    async def main() -> Program:
        program: Program | None = None
        ended_at = 0.0
        try:
            async with open_event_log(store, on_failure=reports, **settings) as log:
                program = Program(log, store, reports, settings)
                await program.run(steps)
                ended_at = trio.current_time()
        except EventsLost:
            pass
        assert program is not None
        assert trio.current_time() <= ended_at + settings["grace_period"] + 1e-9
        program.check()
        return program

    program = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    books = program.log.statistics()
    by_seq = dict(zip(program.seqs, program.ids, strict=True))
    assert books.pending == 0
    # Every lost event is reported once, and only events in doubt are stored and reported.
    assert len(reports.lost) == len(set(reports.lost)) == books.lost_total
    stored = {event.seq for event in store.held.values()}
    certain = {event.seq for loss in reports.losses if not loss.in_doubt for event in loss.events}
    assert not stored & certain
    # What is neither reported nor stored under its own seq is a duplicate of what is.
    duplicates = set(by_seq) - stored - set(reports.lost)
    assert all(by_seq[seq] in store.held for seq in duplicates)
    assert books.duplicate == len(duplicates)
    # Every event of the store is what was ingested under its seq.
    assert all(by_seq[event.seq] == event.id for event in store.held.values())
    # Every append that failed was told, once.
    assert books.failures == len(reports.failures)
    assert books.appends == len(store.appends)


@given(bursts=st.lists(st.integers(1, 60), min_size=1, max_size=6), cap=st.integers(1, 50))
def test_the_newest_survive_a_store_that_is_down(bursts: list[int], cap: int) -> None:
    """However the events come: once the store is back, it gets exactly the newest ``cap``, in order."""
    store, reports = FakeStore(otherwise=fail), Reports()

    async def main() -> int:
        async with open_event_log(
            store, batch_size=min(cap, 4), retry_buffer_cap=cap, on_failure=reports
        ) as log:
            for burst in bursts:
                for number in range(burst):
                    log.ingest(numbered(number))
                await trio.sleep(1.5)
            store.otherwise = take
        return log.statistics().last_assigned_seq

    last = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert store.seqs == list(range(max(1, last - cap + 1), last + 1))
    assert reports.lost == list(range(1, max(1, last - cap + 1)))
