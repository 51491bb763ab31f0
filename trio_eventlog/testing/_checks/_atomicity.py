"""S4: all or nothing, for readers, after a cancellation and after an error."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog.testing._checks._common import cancel_points, plain
from trio_eventlog.testing._example import AfterSeconds, AfterTicks, CancelPoint, Example
from trio_eventlog.testing._open_store import opened, read_meanwhile
from trio_eventlog.testing._program import Series
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest

# --- S4 -------------------------------------------------------------------------------------------

_SIZES = (2, 3, 20, 150)


def _sizes(subject: StoreUnderTest) -> SearchStrategy[int]:
    max_batch = subject.max_batch
    return st.sampled_from([size for size in _SIZES if max_batch is None or size <= max_batch] or [1])


@attrs.frozen
class Watched:
    """Appends while others read."""

    sizes: tuple[int, ...]
    readers: int


def _watched(subject: StoreUnderTest) -> SearchStrategy[Watched]:
    sizes = st.lists(_sizes(subject), min_size=1, max_size=3).map(tuple)
    return st.builds(Watched, sizes, st.integers(1, 3))


async def _try_watched(example: Example, case: Watched) -> None:
    batches: list[Series] = []
    for size in case.sizes:
        batches.append(Series(sum(map(len, batches)) + 1, size))
    # What a reader may see: nothing, the first batch, the first two, …
    whole = {sum(map(len, batches[:count])) for count in range(len(batches) + 1)}
    async with opened(example) as store:
        async with read_meanwhile(example, case.readers, whole):
            for batch in batches:
                await store.append(batch)
        await store.query()


@attrs.frozen
class CancelledAppends:
    """Appends that are cancelled and tried again."""

    appends: tuple[tuple[int, CancelPoint], ...]
    """The size of each, and when it is cancelled."""


def _cancelled_appends(subject: StoreUnderTest) -> SearchStrategy[CancelledAppends]:
    appends = st.lists(st.tuples(_sizes(subject), cancel_points()), min_size=1, max_size=3)
    return appends.map(tuple).map(CancelledAppends)


async def _try_cancelled_appends(example: Example, case: CancelledAppends) -> None:
    async with opened(example) as store:
        first = 1
        for size, point in case.appends:
            batch = Series(first, size)
            first += size
            await store.cancel_append(batch, point)
            await store.settle(batch, must_be_there=False)
            # S1 makes it safe, whatever became of the first attempt.
            await store.append(batch)
            await store.query()


def _late(subject: StoreUnderTest) -> SearchStrategy[tuple[int, CancelPoint]]:
    return st.tuples(
        st.sampled_from([min(subject.max_batch or 3, 3)]),
        st.sampled_from((AfterTicks(1), AfterTicks(2), AfterTicks(4), AfterSeconds(0.002))),
    )


async def _try_late(example: Example, case: tuple[int, CancelPoint]) -> None:
    size, point = case
    async with opened(example) as store:
        await store.append([plain(1)])
        await store.cancel_append([plain(seq) for seq in range(2, 2 + size)], point)
        before = await store.call("last_seq", result="before")
        example.check("type(before) is int", f"last_seq returned {before!r}, expected an integer")
        await example.sleep(0.1)
        after = await store.call("last_seq", result="after")
        example.check(
            "after == before",
            f"after a cancelled append last_seq was {before}, 0.1 s later {after}: it landed in between",
        )
        found = [event.seq for event in await store.found()]
        example.check(
            "[event.seq for event in found] == list(range(1, before + 1))",
            f"last_seq is {before} after a cancelled append, but seqs {found} are stored",
        )


def _conflicts(subject: StoreUnderTest) -> SearchStrategy[int]:
    return st.just(0) if subject.max_batch == 1 else st.sampled_from((1, 2))


async def _try_after_errors(example: Example, conflicts: int) -> None:
    async with opened(example) as store:
        await store.append([plain(1), plain(2)])
        for number in range(conflicts):
            batch = [plain(1, event_id=f"x-{number}"), plain(3, event_id=f"y-{number}")]
            if not await store.is_refused(batch):
                return
        await store.append([plain(4)])
        await store.call("last_seq")
        await store.found()
        example.check(
            "4 in [event.seq for event in found]",
            "an append after a conflict returned, but its event is not stored",
        )


CHECKS: tuple[Check, ...] = (
    Check(clause="S4", name="readers", cases=_watched, run=_try_watched, share=0.2),
    Check(
        clause="S4", name="cancelled appends", cases=_cancelled_appends, run=_try_cancelled_appends, share=0.5
    ),
    Check(clause="S4", name="after a cancelled append", cases=_late, run=_try_late, fixed=4),
    Check(clause="S4", name="after an error", cases=_conflicts, run=_try_after_errors, fixed=2),
)
