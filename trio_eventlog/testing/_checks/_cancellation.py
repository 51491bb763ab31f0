"""S11: every method is a checkpoint, can be cancelled, and does not block the event loop."""

from __future__ import annotations

import gc
import time
from typing import Final

import attrs
import trio
import trio.testing
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import EventQuery, EventStore, PersistedEvent
from trio_eventlog.testing._checks._common import batch_sizes, cancel_points, is_lost, plain, plain_batches
from trio_eventlog.testing._example import AfterTicks, CancelPoint, ClauseViolation, Example
from trio_eventlog.testing._open_store import as_list, opened
from trio_eventlog.testing._program import Series
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest

CALLS: Final[dict[str, tuple[str, object]]] = {
    "append_batch": ("append_batch", [plain(2)]),
    "append_batch with an empty batch": ("append_batch", []),
    "append_batch with a repeat": ("append_batch", [plain(1)]),
    "query": ("query", EventQuery()),
    "query with limit=0": ("query", EventQuery(limit=0)),
    "query after the end": ("query", EventQuery(after_seq=2**63 - 1)),
    "query of an empty window": ("query", EventQuery(since_ms=5, until_ms=5)),
    "last_seq": ("last_seq", None),
}
"""Each method with an argument, or with none."""


def calls(_subject: StoreUnderTest) -> SearchStrategy[str]:
    """The names of all calls."""
    return st.sampled_from(list(CALLS))


def arguments(name: str) -> list[object]:
    """The arguments of a call."""
    _, argument = CALLS[name]
    return [] if argument is None else [argument]


async def _try_checkpoint(example: Example, name: str) -> None:
    method, _ = CALLS[name]
    async with opened(example) as store:
        await store.append([plain(1)])
        with example.program.block("with trio.testing.assert_checkpoints():"):
            try:
                with trio.testing.assert_checkpoints():
                    # Whether an error is due is the business of others.
                    await store.attempt(method, *arguments(name), what=name)
            except ClauseViolation:
                raise
            except AssertionError as exc:
                example.violated(
                    f"{name} is not a checkpoint: it neither yields to the scheduler nor can it be cancelled",
                    exc,
                )


async def _try_entered_cancelled(example: Example, name: str) -> None:
    method, _ = CALLS[name]
    async with opened(example) as store:
        await store.append([plain(1)])
        outcome = await store.cancel(method, *arguments(name), point=AfterTicks(0))
        how = "returned" if outcome.error is None else f"raised {outcome.error!r}"
        message = f"{name}, entered cancelled, {how}; expected Cancelled"
        example.check("returned == []", message)
        if outcome.error is not None:
            example.violated(message, outcome.error)
        await store.call("query", EventQuery(limit=1))


@attrs.frozen
class CancelledCase:
    """A call that is cancelled while it is under way."""

    method: str
    size: int
    point: CancelPoint


def _cancelled_later(subject: StoreUnderTest) -> SearchStrategy[CancelledCase]:
    sizes = [size for size in (2, 200, 1_000) if size <= (subject.max_batch or 1_000)] or [1]
    methods = st.sampled_from(("append_batch", "query", "last_seq"))
    return st.builds(CancelledCase, methods, st.sampled_from(sizes), cancel_points())


async def _try_cancelled_later(example: Example, case: CancelledCase) -> None:
    held = Series(1, case.size)
    args: dict[str, list[object]] = {"append_batch": [held], "query": [EventQuery()], "last_seq": []}
    async with opened(example) as store:
        if case.method != "append_batch":
            await store.append(held)
        outcome = await store.cancel(case.method, *args[case.method], point=case.point)
        if outcome.error is not None:
            example.violated(
                f"{case.method}, cancelled, raised {outcome.error!r}; expected Cancelled, or a result",
                outcome.error,
            )
        if case.method == "append_batch":
            # The barrier of S4: whatever the append still does is done.
            await store.call("last_seq")
            # Half of it, if it raised Cancelled, is the business of S4.
            found = len(await store.found())
            if outcome.cancelled or found == case.size or not await is_lost(example, case.size):
                example.check(
                    "not returned or len(found) == $0",
                    f"append_batch, cancelled, returned, but {found} of {case.size} events are stored",
                    case.size,
                )
        else:
            condition = "returned in ([], [$0])"
            if case.method == "query":
                condition = "[len(events) for events in returned] in ([], [$0])"
                example.require(
                    "all(type(events) is list for events in returned)",
                    f"query, cancelled, returned {type(outcome.value).__name__}, expected a list",
                )
            result = len(outcome.value) if isinstance(outcome.value, list) else outcome.value
            message = f"{case.method}, cancelled, returned {result}, expected {case.size}"
            example.check(condition, message, case.size)


class StepTimer(trio.abc.Instrument):
    """Measures the longest step of any task."""

    longest = 0.0
    began = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's interface
        """Begin to measure."""
        self.began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's interface
        """Keep what was longest."""
        self.longest = max(self.longest, time.perf_counter() - self.began)


async def check_steps(store: EventStore, events: list[PersistedEvent]) -> None:
    """Check that no call blocks the event loop for more than 100 ms."""
    # The garbage of others must not count, nor the time that it takes to look for it.
    gc.collect()
    for what, call in (
        ("append_batch", lambda: store.append_batch(list(events))),
        ("query", lambda: store.query(EventQuery())),
        ("query with a filter", lambda: store.query(EventQuery(event_types=("t",)))),
        ("append_batch of repeats", lambda: store.append_batch(list(events))),
        ("last_seq", store.last_seq),
    ):
        timer = StepTimer()
        gc.freeze()
        timer.began = time.perf_counter()
        trio.lowlevel.add_instrument(timer)
        try:
            await call()
        finally:
            trio.lowlevel.remove_instrument(timer)
            gc.unfreeze()
        blocked = f"{what} with {len(events)} events blocked the event loop for {timer.longest * 1000:.0f} ms"
        assert timer.longest <= 0.1, f"{blocked}; at most 100 ms are allowed"  # noqa: PLR2004 - 100 ms


def _large(subject: StoreUnderTest) -> SearchStrategy[int]:
    return st.just(min(5_000, subject.max_batch or 5_000))


async def _try_steps(example: Example, size: int) -> None:
    async with opened(example):
        example.program.define(StepTimer)
        await example.run("a call", check_steps, "store", values=[Series(1, size)])


async def _try_together(example: Example, sizes: list[int]) -> None:
    async with opened(example) as store:
        for batch in plain_batches([size * 20 for size in sizes]):
            for piece in store.pieces(batch):
                store.model.append(piece)
                async with example.nursery() as nursery:
                    store.start(nursery, "append_batch", as_list(piece), what="append_batch beside a query")
                    store.start(nursery, "query", EventQuery(), what="query beside an append")
                    store.start(nursery, "last_seq", what="last_seq beside an append")
        await store.last_seq()


CHECKS: tuple[Check, ...] = (
    Check(clause="S11", name="checkpoints", cases=calls, run=_try_checkpoint, fixed=8),
    Check(clause="S11", name="entered cancelled", cases=calls, run=_try_entered_cancelled, fixed=8),
    Check(clause="S11", name="cancelled later", cases=_cancelled_later, run=_try_cancelled_later, share=0.6),
    Check(clause="S11", name="blocking the event loop", cases=_large, run=_try_steps, fixed=1, confirm=3),
    Check(clause="S11", name="appends beside queries", cases=batch_sizes, run=_try_together, share=0.1),
)
