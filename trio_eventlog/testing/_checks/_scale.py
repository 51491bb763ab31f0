"""S1, S3, S4, S7 and S10 in large batches: what stores do to the end of one, and where they divide it."""

from __future__ import annotations

from itertools import cycle
from typing import Any, Final

import attrs
import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import ModuleEvent, PersistedEvent
from trio_eventlog.testing._checks._common import once, unless_lost
from trio_eventlog.testing._checks._filters import some
from trio_eventlog.testing._example import AfterSeconds, Example
from trio_eventlog.testing._open_store import OpenStore, opened, read_meanwhile
from trio_eventlog.testing._program import Series, numbered
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._strategies import FAMILIES, NUMBERS
from trio_eventlog.testing._subject import StoreUnderTest

LARGEST: Final = 5_000
"""Most events of a batch, for stores that declare no ``max_batch``."""

_LIMITS: Final = (100, 128, 250, 256, 500, 512, 999, 1_000, 1_024, 2_000, 2_048, 4_096)
"""How many rows, bindings or values engines and drivers take at once."""

_VALUE_LIMITS: Final = (999, 2_100, 32_766, 65_535)
"""How many values a statement may have."""

_COLUMNS: Final = (6, 7, 8, 9, 10, 12, 14, 16)
"""Of a table for events, so that a store may divide batches where a statement has enough values."""


def largest(subject: StoreUnderTest) -> int:
    """Most events of a batch."""
    return min(subject.max_batch or LARGEST, LARGEST)


def sizes(subject: StoreUnderTest) -> list[int]:
    """Sizes of batches, the largest first, then on both sides of each limit."""
    limits = (limit + more for limit in _LIMITS for more in (0, 1))
    most = largest(subject)
    return list(dict.fromkeys([most, *(size for size in limits if size <= most)]))


def divisions(size: int) -> list[int]:
    """Indices in a batch of this size between which stores may divide it, the last one included."""
    rows = {*_LIMITS, *(values // columns for values in _VALUE_LIMITS for columns in _COLUMNS)}
    indices = {index for limit in rows for index in (limit - 1, limit)}
    return sorted({index for index in indices if 0 <= index < size - 1} | {size - 1})


# --- S1 -------------------------------------------------------------------------------------------


@attrs.frozen
class LargeRepeats:
    """A large batch, some of whose events are known."""

    size: int
    same: tuple[int, ...]
    """Indices of events that are held as they are."""

    elsewhere: tuple[int, ...]
    """Indices of events that are held under another seq."""

    is_twice: bool
    """Whether the last event comes twice in the batch."""


def _large_repeats_table(subject: StoreUnderTest) -> list[LargeRepeats]:
    # The last event takes each part.
    return [_large_repeats(largest(subject), first) for first in (0, 1)]


def _large_repeats(size: int, first: int) -> LargeRepeats:
    indices = divisions(size)
    return LargeRepeats(size, tuple(indices[first::2]), tuple(indices[1 - first :: 2]), first == 1)


def _smaller_repeats(subject: StoreUnderTest) -> SearchStrategy[LargeRepeats]:
    return st.builds(_large_repeats, st.sampled_from(sizes(subject)), st.sampled_from((1, 0)))


def _fewer_repeats(case: LargeRepeats) -> SearchStrategy[LargeRepeats]:
    return st.builds(
        LargeRepeats,
        st.just(case.size),
        some(case.same, of_four=2).map(tuple),
        some(case.elsewhere, of_four=2).map(tuple),
        st.just(False) | st.just(case.is_twice),
    )


async def _try_large_repeats(example: Example, case: LargeRepeats) -> None:
    async def attempt() -> None:
        batch = list(map(numbered, range(1, case.size + 1)))
        held = [batch[index] for index in case.same]
        held += [attrs.evolve(batch[index], seq=LARGEST + 1 + index) for index in case.elsewhere]
        if case.is_twice and case.size > 1:
            batch[-1] = attrs.evolve(batch[0], seq=case.size)
        async with opened(example) as store:
            if held:
                await store.append(held)
            await store.append(batch, returns=True)
            await store.query(values=True)

    await unless_lost(example, case.size, attempt)


# --- S3 -------------------------------------------------------------------------------------------


@attrs.frozen
class LargeConflict:
    """A large batch, some of whose events meet others on their seqs."""

    size: int
    taken: tuple[int, ...]
    """Indices of these events."""


def _large_conflicts_table(subject: StoreUnderTest) -> list[LargeConflict]:
    size = largest(subject)
    return [LargeConflict(size, (size - 1,)), LargeConflict(size, tuple(divisions(size)))]


def _smaller_conflicts(subject: StoreUnderTest) -> SearchStrategy[LargeConflict]:
    return st.sampled_from([LargeConflict(size, (size - 1,)) for size in sizes(subject)])


def _fewer_conflicts(case: LargeConflict) -> SearchStrategy[LargeConflict]:
    taken = some(case.taken, of_four=2).map(lambda indices: tuple(indices) or case.taken[-1:])
    return st.builds(LargeConflict, st.just(case.size), taken)


def _meeting(case: LargeConflict) -> tuple[list[PersistedEvent], list[PersistedEvent]]:
    """What is held, and the batch."""
    held = [
        PersistedEvent(f"held-{index}", index + 1, 0, None, ModuleEvent("m", "t")) for index in case.taken
    ]
    return held, list(map(numbered, range(1, case.size + 1)))


async def _try_each_limit(example: Example, sizes_tried: list[int]) -> None:
    """The last event of each batch meets another: at the end of a part, or alone in the next."""
    async with opened(example) as store:
        await store.append([PersistedEvent("held", 1, 0, None, ModuleEvent("m", "t"))])
        for size in sizes_tried:
            last = attrs.evolve(numbered(1), id="last")
            await store.conflicting([*Series(2, size - 1), last])
        await store.query()


def _limits_table(subject: StoreUnderTest) -> list[list[int]]:
    return [sorted(sizes(subject))]


def _limits(subject: StoreUnderTest) -> SearchStrategy[list[int]]:
    return st.sampled_from(sizes(subject)).map(lambda size: [size])


def _fewer_limits(case: list[int]) -> SearchStrategy[list[int]]:
    return st.sampled_from(case).map(lambda size: [size])


async def _try_large_conflict(example: Example, case: LargeConflict) -> None:
    held, batch = _meeting(case)
    async with opened(example) as store:
        await store.append(held)
        await store.conflicting(batch)
        await store.query(values=True)


# --- S4 -------------------------------------------------------------------------------------------


def _large_failures_table(subject: StoreUnderTest) -> list[LargeConflict]:
    size = largest(subject)
    return [LargeConflict(size, (size - 1,))]


_REFUSALS: Final = 3
"""What is there for a moment only, a reader elsewhere may miss once."""


async def _is_refused_unseen(
    store: OpenStore, batch: list[PersistedEvent], allowed: set[int], name: str = "store"
) -> bool:
    """Whether a batch is refused, while a reader counts the events. If not, that is the business of S3."""
    async with read_meanwhile(store.example, 1, allowed, name=name):
        for _ in range(_REFUSALS):
            if not await store.is_refused(batch):
                return False
    return True


async def _try_large_failure(example: Example, case: LargeConflict) -> None:
    held, batch = _meeting(case)
    async with opened(example) as store:
        await store.append(held)
        if not await _is_refused_unseen(store, batch, {len(held)}):
            return
        if example.subject.open_reader is not None:
            async with opened(example, name="reader", reader=True):
                # A reader may lag.
                if not await _is_refused_unseen(store, batch, {0, len(held)}, name="reader"):
                    return
        await store.query()


_HALVINGS: Final = 7


async def _try_large_cancelled(example: Example, _case: None) -> None:
    size = largest(example.subject)

    async def attempt() -> None:
        async with opened(example) as store:
            began = trio.current_time()
            await store.append(Series(1, size))
            # Cancelled at the moment before which nothing is stored and after which all is, or near it.
            early, late = 0.0, 1.2 * (trio.current_time() - began)
            first = size + 1
            for _ in range(_HALVINGS):
                batch = Series(first, size)
                middle = round((early + late) / 2, 5)
                await store.cancel_append(batch, AfterSeconds(middle))
                await store.settle(batch, must_be_there=False)
                if store.model.holds(batch[0].id):
                    late = middle
                    first += size
                else:
                    early = middle
            # S1 makes it safe, whatever became of the attempts.
            await store.append(Series(first, size))
            await store.query()

    await unless_lost(example, size, attempt)


_BLOCKS: Final = 7
_STRADDLING: Final = 6
"""Batches; fewer than there are blocks, a prime, so that parts of some never add up to whole ones."""


def _blocks(subject: StoreUnderTest) -> SearchStrategy[int]:
    # More than the thousand that a store may read at once.
    return st.just(min(215, largest(subject)))


async def _try_straddling(example: Example, size: int) -> None:
    if largest(example.subject) < _BLOCKS:
        return
    # What is held leaves gaps for an event of each batch.
    ends = [number * (size + _STRADDLING) + size for number in range(_BLOCKS)]
    held = _BLOCKS * size
    allowed = {held + _BLOCKS * count for count in range(_STRADDLING + 1)}
    async with opened(example) as store:
        for end in ends:
            await store.append(Series(end - size + 1, size))
        async with read_meanwhile(example, 1, allowed):
            for number in range(1, _STRADDLING + 1):
                await store.append([numbered(end + number) for end in ends])
        await store.query()


# --- S7 -------------------------------------------------------------------------------------------


@attrs.frozen
class LargeValues:
    """A large batch with unusual payloads at some places."""

    size: int
    indices: tuple[int, ...]


_VALUES: Final[tuple[Any, ...]] = (
    *NUMBERS,
    True,
    False,
    None,
    *(text for family in FAMILIES for text in family),
)


def _large_values_table(subject: StoreUnderTest) -> list[LargeValues]:
    return [_large_values(largest(subject))]


def _large_values(size: int) -> LargeValues:
    return LargeValues(size, tuple(divisions(size)))


def _smaller_values(subject: StoreUnderTest) -> SearchStrategy[LargeValues]:
    return st.sampled_from(sizes(subject)).map(_large_values)


def _fewer_values(case: LargeValues) -> SearchStrategy[LargeValues]:
    return st.builds(LargeValues, st.just(case.size), some(case.indices, of_four=2).map(tuple))


async def _try_large_values(example: Example, case: LargeValues) -> None:
    async def attempt() -> None:
        batch = list(map(numbered, range(1, case.size + 1)))
        values = cycle(_VALUES)
        for index in case.indices:
            # A few values at each place, and all of them at one or the other.
            payload = [next(values) for _ in range(8)]
            batch[index] = attrs.evolve(batch[index], event=ModuleEvent("m", "t", payload))
        async with opened(example) as store:
            await store.append(batch)
            await store.query(values=True)

    await unless_lost(example, case.size, attempt)


# --- S10 ------------------------------------------------------------------------------------------


def _sizes(subject: StoreUnderTest) -> SearchStrategy[int]:
    return st.sampled_from(sizes(subject))


async def _try_large_read_back(example: Example, size: int) -> None:
    async with opened(example) as store:
        await store.append(Series(1, size))
        await store.query()
    if example.subject.durable:
        async with opened(example) as store:
            await store.query()


CHECKS: tuple[Check, ...] = (
    Check(
        clause="S1",
        name="repeats in a large batch",
        cases=_smaller_repeats,
        run=_try_large_repeats,
        table=_large_repeats_table,
        smaller=_fewer_repeats,
        fixed=3,
    ),
    Check(
        clause="S3",
        name="taken seqs in a large batch",
        cases=_smaller_conflicts,
        run=_try_large_conflict,
        table=_large_conflicts_table,
        smaller=_fewer_conflicts,
        fixed=2,
    ),
    Check(
        clause="S3",
        name="taken seqs on both sides of limits",
        cases=_limits,
        run=_try_each_limit,
        table=_limits_table,
        smaller=_fewer_limits,
        fixed=1,
    ),
    Check(
        clause="S4",
        name="an error at the end of a large batch",
        cases=_smaller_conflicts,
        run=_try_large_failure,
        table=_large_failures_table,
        fixed=1,
    ),
    Check(
        clause="S4",
        name="a large batch that is cancelled",
        cases=once,
        run=_try_large_cancelled,
        fixed=1,
        weight=0.8,
    ),
    Check(
        clause="S4",
        name="a batch between the seqs of others",
        cases=_blocks,
        run=_try_straddling,
        fixed=1,
    ),
    Check(
        clause="S7",
        name="values in a large batch",
        cases=_smaller_values,
        run=_try_large_values,
        table=_large_values_table,
        smaller=_fewer_values,
        fixed=1,
    ),
    Check(
        clause="S10",
        name="reading a large batch",
        cases=_sizes,
        run=_try_large_read_back,
        table=lambda subject: [largest(subject)],
        fixed=5,
    ),
)
