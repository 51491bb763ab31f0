"""S1 to S4: repeats, seqs in any order, seqs that are taken, and all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from trio_eventlog import AgentEvent, PersistedEvent
from trio_eventlog.testing._checks._common import affordable, cancel_points, plain
from trio_eventlog.testing._checks._scale import largest
from trio_eventlog.testing._example import AfterSeconds, AfterTicks, CancelPoint, Example
from trio_eventlog.testing._model import Conflict
from trio_eventlog.testing._open_store import OpenStore, opened, read_meanwhile
from trio_eventlog.testing._program import Series
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest

# --- S1 -------------------------------------------------------------------------------------------


@attrs.frozen
class Repeats:
    """Appends of which some repeat what was appended before."""

    batches: tuple[tuple[PersistedEvent, ...], ...]
    reopen_before: int | None
    """The index of the batch before which the store is opened again."""


_FEW = st.integers(1, 4)
_KIND = st.sampled_from(("new", "again", "other content", "other seq", "taken seq"))


@st.composite
def _repeats(draw: DrawFn, subject: StoreUnderTest) -> Repeats:
    seen: list[PersistedEvent] = []
    batches: list[tuple[PersistedEvent, ...]] = []
    seq = 0
    for _ in range(draw(_FEW)):
        batch: list[PersistedEvent] = []
        for _ in range(draw(_FEW)):
            kind = draw(_KIND)
            known = [*seen, *batch]
            if kind == "new" or not known:
                seq += 1
                event = plain(seq)
            else:
                event = known[draw(_index_in(len(known)))]
                if kind == "other content":
                    event = attrs.evolve(
                        event, timestamp_ms=7, member_id="w", event=AgentEvent("w", "u", [1])
                    )
                elif kind == "other seq":
                    seq += 1
                    event = attrs.evolve(event, seq=seq)
                elif kind == "taken seq":
                    event = attrs.evolve(event, seq=known[draw(_index_in(len(known)))].seq)
            batch.append(event)
        seen += batch
        batches.append(tuple(batch))
    return Repeats(tuple(batches), draw(_reopenings(len(batches) if subject.durable else 0)))


@cache
def _index_in(count: int) -> SearchStrategy[int]:
    return st.integers(0, count - 1)


@cache
def _reopenings(count: int) -> SearchStrategy[int | None]:
    return st.none() | st.integers(1, count) if count else st.none()


async def _try_repeats(example: Example, case: Repeats) -> None:
    first = case.batches[: case.reopen_before]
    rest = () if case.reopen_before is None else case.batches[case.reopen_before :]
    async with opened(example) as store:
        await _append_all(store, first)
    if case.reopen_before is not None:
        async with opened(example) as store:
            # Also what was stored before: an index that was built anew must know it.
            await _append_all(store, [*rest, case.batches[0]])


async def _append_all(store: OpenStore, batches: Sequence[Sequence[PersistedEvent]]) -> None:
    for batch in batches:
        await store.append(batch, returns=True)
    await store.query(values=True)


@attrs.frozen
class RepeatedLater:
    """A repeat after much else."""

    newer: int
    seconds: float


def _later(subject: StoreUnderTest) -> SearchStrategy[RepeatedLater]:
    counts = affordable(subject, (150, 1_500, 12_000))
    return st.sampled_from([RepeatedLater(0, 0.25), *(RepeatedLater(count, 0.0) for count in counts)])


async def _try_later(example: Example, case: RepeatedLater) -> None:
    async with opened(example) as store:
        old = [plain(1), plain(2)]
        await store.append(old)
        await store.append_series(3, case.newer)
        if case.seconds:
            await example.sleep(case.seconds)
        last = 3 + case.newer
        await store.append([*old, plain(last), plain(last + 1, event_id="id-1")], returns=True)


# --- S2 -------------------------------------------------------------------------------------------

_SEQS = (*range(1, 9), 2**31 - 1, 2**31, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1)


def _any_order(_subject: StoreUnderTest) -> SearchStrategy[list[list[int]]]:
    batches = st.lists(st.integers(1, 4), min_size=1, max_size=4)
    seqs = st.lists(st.sampled_from(_SEQS), min_size=1, max_size=8, unique=True)
    return st.builds(_dealt, seqs, batches)


def _dealt(seqs: list[int], sizes: list[int]) -> list[list[int]]:
    """``seqs`` in batches of these sizes, and what is left in one more."""
    batches: list[list[int]] = []
    for size in [*sizes, len(seqs)]:
        batches.append(seqs[:size])
        seqs = seqs[size:]
    return [batch for batch in batches if batch]


async def _try_any_order(example: Example, case: list[list[int]]) -> None:
    async with opened(example) as store:
        for number, seqs in enumerate(case):
            # Ids say nothing about seqs.
            await store.append([plain(seq, event_id=f"{number}-{index}") for index, seq in enumerate(seqs)])
        found = sorted({event.seq for event in await store.found()})
        expected = {event.seq for event in example.model.events()}
        example.check(
            "{event.seq for event in found} == $0",
            f"after these appends, seqs {found} are stored, expected {sorted(expected)}",
            expected,
        )


# --- S3 -------------------------------------------------------------------------------------------


@attrs.frozen
class Taken:
    """Some events, and a batch that meets them on their seqs."""

    held: tuple[PersistedEvent, ...]
    batch: tuple[PersistedEvent, ...]


@st.composite
def _taken(draw: DrawFn, _subject: StoreUnderTest) -> Taken:
    count = draw(_FEW)
    batch = draw(_meeting(count))
    # That a batch need not be in order is the business of S2.
    return Taken(tuple(map(plain, range(1, count + 1))), tuple(sorted(batch, key=lambda event: event.seq)))


@cache
def _meeting(count: int) -> SearchStrategy[list[PersistedEvent]]:
    """Batches that meet events on the first ``count`` seqs."""
    seqs = st.integers(1, count + 3)
    newcomers = st.builds(lambda seq, number: plain(seq, event_id=f"new-{number}"), seqs, _FEW)
    held = st.integers(1, count).map(plain)
    known = st.builds(lambda event, seq: attrs.evolve(event, seq=seq), held, seqs)
    return st.lists(newcomers | known, min_size=1, max_size=4, unique_by=lambda event: event.id)


def _taken_table(subject: StoreUnderTest) -> list[Taken]:
    # In the last part of a batch that a store might cut in parts.
    if subject.max_batch is not None and subject.max_batch < 250:  # noqa: PLR2004 - the size of it
        return []
    batch = [*(plain(seq) for seq in range(1, 250)), plain(250, event_id="new")]
    return [Taken((plain(250),), tuple(batch))]


async def _try_taken(example: Example, case: Taken) -> None:
    async with opened(example) as store:
        await store.append(case.held)
        outcome, _ = example.model.expect(case.batch)
        if len(store.pieces(case.batch)) > 1:
            return
        if not isinstance(outcome, Conflict):
            # Known ids are set aside first, wherever they want to sit.
            await store.append(case.batch)
            return
        await store.conflicting(case.batch)
        await store.query(values=True)


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


def _watched_table(subject: StoreUnderTest) -> list[Watched]:
    # However large the parts are that a store commits: a batch is larger.
    return [Watched((largest(subject),), 3)]


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
    Check(clause="S1", name="repeats", cases=_repeats, run=_try_repeats),
    Check(clause="S1", name="much later", cases=_later, run=_try_later, fixed=4),
    Check(clause="S2", name="any order", cases=_any_order, run=_try_any_order, share=0.5),
    Check(clause="S3", name="seqs that are taken", cases=_taken, run=_try_taken, table=_taken_table),
    Check(clause="S4", name="readers", cases=_watched, run=_try_watched, table=_watched_table, share=0.2),
    Check(
        clause="S4", name="cancelled appends", cases=_cancelled_appends, run=_try_cancelled_appends, share=0.5
    ),
    Check(clause="S4", name="after a cancelled append", cases=_late, run=_try_late, fixed=4),
    Check(clause="S4", name="after an error", cases=_conflicts, run=_try_after_errors, fixed=2),
)
