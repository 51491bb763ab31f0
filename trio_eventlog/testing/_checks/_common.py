"""What the checks share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.testing._example import AfterSeconds, AfterTicks, CancelPoint, Example
from trio_eventlog.testing._program import Series
from trio_eventlog.testing._subject import StoreUnderTest, fresh_location

BOOLEAN: Final = st.booleans()

DURABLE: Final = frozenset({"durable"})


def plain(seq: int, *, event_id: str | None = None, payload: Any = None) -> PersistedEvent:
    """An event without anything special."""
    event_id = f"id-{seq}" if event_id is None else event_id
    # A whole second: what becomes of parts of it is the business of S7.
    return PersistedEvent(event_id, seq, 1_000, None, ModuleEvent("m", "t", payload))


def plain_batches(sizes: Sequence[int]) -> list[list[PersistedEvent]]:
    """Batches of these sizes, on the seqs from 1 on."""
    batches: list[list[PersistedEvent]] = []
    first = 1
    for size in sizes:
        batches.append([plain(seq) for seq in range(first, first + size)])
        first += size
    return batches


def batch_sizes(_subject: StoreUnderTest) -> SearchStrategy[list[int]]:
    """A few small batches."""
    return st.lists(st.integers(1, 3), min_size=1, max_size=4)


def nested(levels: int) -> Any:
    """This many lists, each in the next."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def affordable(subject: StoreUnderTest, sizes: Sequence[int]) -> list[int]:
    """Those of ``sizes`` that take no more than some hundred appends."""
    max_batch = subject.max_batch
    return [size for size in sizes if max_batch is None or size <= 200 * max_batch] or [min(sizes)]


def cancel_points() -> SearchStrategy[CancelPoint]:
    """When to cancel: stores without threads go by ticks, others by time."""
    ticks = st.sampled_from((1, 0, 2, 3, 4, 5, 7, 10, 15, 30)).map(AfterTicks)
    return ticks | st.sampled_from((0.001, 0.0, 0.002, 0.004, 0.008, 0.016)).map(AfterSeconds)


def once(_subject: StoreUnderTest) -> SearchStrategy[None]:
    """For a check that has one case."""
    return st.none()


async def unless_lost(example: Example, size: int, attempt: Callable[[], Awaitable[None]]) -> None:
    """Await ``attempt``, which breaks no clause if the store keeps no batch of this size at all.

    That is the business of S10 alone.
    """
    try:
        await attempt()
    except Exception as exc:  # noqa: BLE001 - raised again, unless it is of no account
        error = exc
    else:
        return
    if example.violation is None or example.violation.out_of_reach or not await is_lost(example, size):
        raise error
    example.violation = None


async def is_lost(example: Example, size: int) -> bool:
    """Whether the store, at another location, loses events of a plain batch of this size."""
    location = fresh_location(example.location.parent)
    example.siblings.append(location)
    example.alive("appending a large batch", expected_seconds=example.subject.op_timeout)
    with suppress(Exception), trio.move_on_after(example.subject.op_timeout):
        async with example.subject.open_store(location) as store:
            await store.append_batch(list(Series(1, size)))
            return len(await store.query(EventQuery())) < size
    return False
