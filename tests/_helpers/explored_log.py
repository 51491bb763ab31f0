"""A log in use, to be explored: writers, flushes, subscribers and a store that fails, with L1 to L7 checked.

What it does depends on a seed and on the order of its tasks alone. Each task has chance of its own, so that
tasks in another order do the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import attrs
import trio

from trio_eventlog import (
    AgentEvent,
    EventLog,
    EventQuery,
    EventsLost,
    PersistedEvent,
    RetryPolicy,
    SpillFailureReport,
    open_event_log,
)
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import (
    Fails,
    FailureReports,
    Fault,
    FaultyStore,
    Hangs,
    Rejects,
    Slow,
    Works,
    check_accounts,
)

BATCH = 4
CAP = 16
FLUSH_INTERVAL = 1.0
APPEND_TIMEOUT = 8.0
GRACE_PERIOD = 120.0
RETRY = RetryPolicy(initial=0.5, maximum=16.0, random=lambda: 0.5)


class CountingStore(MemoryStore):
    """Counts the appends that are under way (L4)."""

    under_way = 0

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        self.under_way += 1
        try:
            assert self.under_way == 1, "L4: two appends at the same time"
            return await super().append_batch(events)
        finally:
            self.under_way -= 1


@attrs.define
class Life:
    """A log and all that is known about it."""

    log: EventLog
    store: FaultyStore
    reports: FailureReports
    spills: bool
    seqs: list[int] = attrs.Factory(list)
    seen: list[int] = attrs.Factory(list)
    ends_at: float = 0.0

    def check(self) -> None:
        books = self.log.statistics()
        assert self.seqs == list(range(1, len(self.seqs) + 1)), "L1: seqs do not ascend with the calls"
        accounted = books.persisted + books.duplicate + books.pending + books.lost_total
        assert books.ingested == accounted, f"L2: {books}"
        if not self.spills:
            # But for the batch that is being written, if one is.
            offered = len(self.store.appends[-1].seqs) if self.store.appends else 0
            assert books.pending <= CAP + offered, f"L3: {books.pending} events wait"
        assert self.seen == sorted(set(self.seen)), "a subscriber saw an event twice, or out of order"


def faults(chance: Random, is_over: list[bool]) -> Iterator[Fault]:
    """What the store does with each append, until it is to recover for good."""
    while not is_over:
        yield chance.choice(
            [
                *(Works(), Works(), Works(), Slow(0.7), Slow(3.0)),
                *(Fails(), Fails(after_commit=True), Slow(2.0, Fails()), Hangs(), Hangs(after_commit=True)),
                Rejects(lambda event: event.event.event_type == "bad"),
            ]
        )


async def write(life: Life, chance: Random, seconds: float) -> None:
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        for _ in range(chance.choice((1, 2, 3, 7))):
            seq = life.log.ingest(AgentEvent("worker", chance.choice(("good", "good", "bad"))))
            assert seq is not None
            life.seqs.append(seq)
        life.check()
        await trio.sleep(chance.choice((0, 0.25, 1, 1, 30)))


async def flush(life: Life, chance: Random, seconds: float) -> None:
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        mark = life.log.statistics().last_assigned_seq
        raised: EventsLost | None = None
        with trio.move_on_after(chance.choice((0.5, 20, 60))) as scope:
            try:
                await life.log.flush()
            except EventsLost as exc:
                raised = exc
        if raised is not None:
            assert raised.last_seq <= mark, "flush raised for events that came later"
        if not scope.cancelled_caught:
            stored = {event.seq for event in await life.store.inner.query(EventQuery())}
            due = set(range(1, mark + 1)) - stored - set(life.reports.lost_seqs)
            # Losses to the cap are reported within a second.
            unreported = life.log.statistics().lost_total - len(life.reports.lost_seqs)
            assert len(due) <= unreported, f"flush returned before {sorted(due)} were durable"
        life.check()
        await trio.sleep(chance.choice((0, 1, 5, 40)))


async def follow(life: Life, after_seq: int, is_cancelled_after: float) -> None:
    """Subscribe, and be cancelled; what was seen is in order, and is stored."""
    seen: list[int] = []
    with trio.move_on_after(is_cancelled_after):
        async with life.log.subscribe(after_seq=after_seq) as events:
            async for event in events:
                seen.append(event.seq)  # noqa: PERF401 - kept where it is cancelled
    assert all(one < other for one, other in pairwise(seen))
    stored = {event.seq for event in await life.store.inner.query(EventQuery())}
    assert set(seen) <= stored, "a subscriber saw what is not stored"


async def follow_all(life: Life, seen: list[int]) -> None:
    async with life.log.subscribe(after_seq=0) as events:
        async for event in events:
            seen.append(event.seq)  # noqa: PERF401 - looked at meanwhile


async def live(seed: int, seconds: float, spill: Path | None = None) -> None:
    """Use a log for some seconds of virtual time, and check what it promises."""
    if spill is not None:
        for path in spill.parent.glob(f"{spill.name}*"):
            path.unlink()
    chance = Random(seed)  # noqa: S311 - for a test
    is_over: list[bool] = []
    store = FaultyStore(CountingStore(), faults(Random(chance.random()), is_over))  # noqa: S311 - as above
    reports = FailureReports()
    seen: list[int] = []
    life: Life | None = None
    async with trio.open_nursery() as outer:
        try:
            async with open_event_log(
                store,
                batch_size=BATCH,
                flush_interval=FLUSH_INTERVAL,
                retry_buffer_cap=CAP,
                append_timeout=APPEND_TIMEOUT,
                grace_period=GRACE_PERIOD,
                retry=RETRY,
                on_failure=reports,
                spill=spill,
            ) as log:
                life = Life(log, store, reports, spill is not None, seen=seen)
                outer.start_soon(follow_all, life, seen)
                async with trio.open_nursery() as nursery:
                    for job in (write, write, flush):
                        nursery.start_soon(job, life, Random(chance.random()), seconds)  # noqa: S311 - as above
                    nursery.start_soon(follow, life, 0, seconds / 3)
                    nursery.start_soon(follow, life, 0, seconds / 2)
                is_over.append(True)
                store.otherwise = Works()
                body_ended = trio.current_time()
        except EventsLost:
            pass
    assert life is not None
    life.check()
    assert trio.current_time() <= body_ended + GRACE_PERIOD + 1e-9, "L7: leaving took longer"
    assert log.statistics().pending == 0, "L7: something is left, though the store works"
    stored = await store.inner.query(EventQuery())
    check_accounts(life.seqs, stored, reports)
    assert seen == [event.seq for event in stored], "the subscriber did not see what was stored"
    check_calls(store, reports)


def check_calls(store: FaultyStore, reports: FailureReports) -> None:
    """L4: ascending within a batch. L6: a wait after each failure, and a longer one after the next."""
    for call in store.appends:
        assert list(call.seqs) == sorted(set(call.seqs)), "L4: a batch does not ascend"
    for report in reports.failures:
        if report.retry_in is not None:
            assert 0 <= report.retry_in <= RETRY.maximum, "L6: a wait longer than the longest"
    assert not any(isinstance(report, SpillFailureReport) for report in reports.spill_reports)
