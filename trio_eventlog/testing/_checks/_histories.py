"""S4 and S10: whatever several tasks, instances and processes do at once has a history that may be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import accumulate
from typing import Final

import attrs
import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import EventQuery, EventStore, PersistedEvent, StoreError
from trio_eventlog.testing._checks._common import plain
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._history._recorder import History, recording
from trio_eventlog.testing._history._report import (
    ABORTED,
    DUPLICATE,
    INTERMEDIATE,
    LOST,
    NON_MONOTONIC,
    PHANTOM,
    REAL_TIME,
    STALE,
    HistoryReport,
)
from trio_eventlog.testing._open_store import opened
from trio_eventlog.testing._processes import child_meanwhile, opened_by_child, wait_until_free
from trio_eventlog.testing._program import Series, code_of
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest

_NOT_ATOMIC: Final = {INTERMEDIATE, ABORTED}
"""What breaks S4."""

_NOT_READ: Final = {LOST, DUPLICATE, NON_MONOTONIC, REAL_TIME, STALE, PHANTOM}
"""What breaks S10. A seq with two events is the business of S3."""

# --- what programs do as well ---------------------------------------------------------------------


async def append_in_turn(
    store: EventStore, batches: Sequence[list[PersistedEvent]], patience: Sequence[float | None]
) -> None:
    """Append batches, some of which are cancelled after a while; of these, every other one is tried again.

    After each that is there, a batch is refused. Which errors are right is not the question here.
    """
    for number, (batch, seconds) in enumerate(zip(batches, patience, strict=True)):
        with trio.CancelScope() as scope, suppress(StoreError):
            if seconds is not None:
                scope.deadline = trio.current_time() + seconds
            await store.append_batch(batch)
        if scope.cancelled_caught and number % 2:
            await store.last_seq()
            continue
        taken = batch[0].seq
        with suppress(StoreError):
            if scope.cancelled_caught:
                await store.append_batch(batch)
            if taken in {event.seq for event in await store.query(EventQuery(after_seq=taken - 1))}:
                free = 1_000_000 + number
                refused = [plain(free, event_id=f"in-vain-{free}"), plain(taken, event_id=f"other-{taken}")]
                await store.append_batch(refused)
        await trio.sleep(0.001)


async def read_on(store: EventStore, follows: bool, pause: float, done: trio.Event) -> None:
    """Read everything again and again, or only what is new; and once more when all is ``done``."""
    after_seq = reads = 0
    is_last = False
    while not is_last:
        is_last = done.is_set()
        found = await store.query(EventQuery(after_seq=after_seq))
        await store.last_seq()
        if follows and found:
            after_seq = found[-1].seq
        reads += 1
        # Out of step with others, and with time left for them.
        await trio.sleep(pause * (reads % 4))


async def use_at_once(
    stores: Sequence[EventStore],
    history: History,
    batches: Sequence[list[PersistedEvent]],
    patience: Sequence[float | None],
) -> None:
    """Append to the first of ``stores`` in one task, and read from all of them in others."""
    store, *readers = stores
    done = trio.Event()
    async with trio.open_nursery() as nursery:
        for number, (follows, pause) in enumerate(((False, 0.0004), (False, 0.0007), (True, 0.0003))):
            reading = recording(store, history, process=f"task {number}")
            nursery.start_soon(read_on, reading, follows, pause, done)
        for number, reader in enumerate(readers):
            reading = recording(reader, history, process=f"reader {number}", read_only=True)
            nursery.start_soon(read_on, reading, False, 0.0005, done)
            nursery.start_soon(read_on, reading, True, 0.0003, done)
        try:
            await append_in_turn(recording(store, history, process="appender"), batches, patience)
        finally:
            done.set()


async def read_for(store: EventStore, history: History, seconds: float) -> None:
    """Read from a read-only instance for a while."""
    done = trio.Event()
    reading = recording(store, history, process="reader", read_only=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_on, reading, False, 0.0005, done)
        nursery.start_soon(read_on, reading, True, 0.0003, done)
        await trio.sleep(seconds)
        done.set()


async def go_on(store: EventStore, history: History, batch: list[PersistedEvent]) -> None:
    """Append to a log where another process had stopped."""
    store = recording(store, history, process="next")
    await store.last_seq()
    await store.query(EventQuery())
    await store.append_batch(batch)
    await store.query(EventQuery())


# --- tasks and instances --------------------------------------------------------------------------


@attrs.frozen
class AtOnce:
    """Batches of these sizes, and after how many seconds to cancel each."""

    sizes: tuple[int, ...]
    patience: tuple[float | None, ...]


def _at_once(subject: StoreUnderTest) -> SearchStrategy[AtOnce]:
    sizes = st.sampled_from([size for size in (2, 1, 5, 30) if size <= (subject.max_batch or 30)])
    patience = st.none() | st.sampled_from((0.001, 0.003, 0.01))
    batches = st.lists(st.tuples(sizes, patience), min_size=6, max_size=12)
    return batches.map(lambda pairs: AtOnce(*zip(*pairs, strict=True)))


def _series(sizes: Sequence[int]) -> list[list[PersistedEvent]]:
    """Batches of these sizes, on the seqs from 1 on."""
    firsts = accumulate(sizes, initial=1)
    return [Series(first, size) for first, size in zip(firsts, sizes, strict=False)]


async def _try_at_once(names: set[str], example: Example, case: AtOnce) -> None:
    for helper in (plain, append_in_turn, read_on):
        example.program.define(helper)
    example.program.assign("history", "History()")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(opened(example))
        opened_names = ["store"]
        if example.subject.open_reader is not None:
            for name in ("reader", "other"):
                await stack.enter_async_context(opened(example, name=name, reader=True))
                opened_names.append(name)
        example.program.assign("stores", f"[{', '.join(opened_names)}]")
        values = [_series(case.sizes), list(case.patience)]
        await example.run("operations at once", use_at_once, "stores", "history", values=values)
    _judge(example, names)


def _judge(example: Example, names: set[str]) -> None:
    """Judge the history of the example."""
    example.alive("judging the history")
    program = example.program
    program.assign("report", "check_history(history)")
    program.add("print(report)")
    report: HistoryReport = program.variables["report"]
    wrong = [anomaly for anomaly in report.anomalies if anomaly.name in names]
    example.check("not report.counts.keys() & $0", lambda: str(wrong[0]), names)


# --- processes ------------------------------------------------------------------------------------

_APPENDER: Final = """\
import sys
from pathlib import Path

import trio

from trio_eventlog import ModuleEvent, PersistedEvent
from trio_eventlog.testing import History, recording
{opening}


async def main():
    with History.to_file(sys.argv[1] + ".jsonl") as history:
        async with open_store(Path(sys.argv[1])) as store:
            print("opened", flush=True)
            store = recording(store, history, process="killed")
            for batch in {batches}:
                await store.append_batch(batch)
            sys.stdin.read()


trio.run(main)
"""


@attrs.frozen
class Killed:
    """Batches of this size, appended by a process that is killed after some seconds."""

    size: int
    seconds: float


def _killed(subject: StoreUnderTest) -> SearchStrategy[Killed]:
    sizes = [size for size in (20, 2, 200) if size <= (subject.max_batch or 200)] or [1]
    return st.builds(Killed, st.sampled_from(sizes), st.sampled_from((0.02, 0.005, 0.05, 0.1)))


@asynccontextmanager
async def _reader_if_any(example: Example) -> AsyncIterator[bool]:
    if example.subject.open_reader is None:
        yield False
        return
    async with opened(example, name="reader", reader=True):
        yield True


async def _try_killed(example: Example, case: Killed) -> None:
    children, program = example.subject.children, example.program
    assert children is not None
    *batches, last = _series([case.size] * 60)
    source = _APPENDER.format(opening=children.opening, batches=code_of(batches))
    for helper in (read_on, opened_by_child):
        program.define(helper)
    program.assign("history", "History()")
    async with child_meanwhile(example, source, opened_by_child), _reader_if_any(example) as has_reader:
        if has_reader:
            await example.run("reading", read_for, "reader", "history", values=[case.seconds])
        else:
            await example.sleep(case.seconds)
    await wait_until_free(example)
    program.variables["location"] = example.location
    example.perform('history.merge(History.read(f"{location}.jsonl"))')
    async with opened(example):
        await example.run("going on", go_on, "store", "history", values=[last])
    _judge(example, _NOT_READ)


CHECKS: tuple[Check, ...] = (
    Check(
        clause="S4",
        name="operations at once",
        cases=_at_once,
        run=partial(_try_at_once, _NOT_ATOMIC),
        share=0.2,
    ),
    Check(
        clause="S10",
        name="operations at once",
        cases=_at_once,
        run=partial(_try_at_once, _NOT_READ),
        share=0.2,
    ),
    Check(
        clause="S10",
        name="processes at once",
        cases=_killed,
        run=_try_killed,
        share=0.03,
        needs=frozenset({"durable", "children"}),
    ),
)
