"""S1 to S4: what an append does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import trio
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from trio_eventlog import AgentEvent, ModuleEvent, PersistedEvent
from trio_eventlog.testing._code import Series
from trio_eventlog.testing._model import Conflict
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._session import (
    AfterSeconds,
    AfterTicks,
    Cut,
    Session,
    Subject,
    Tested,
)


def plain(seq: int, *, event_id: str | None = None, payload: Any = None) -> PersistedEvent:
    """An event without anything special."""
    event_id = f"id-{seq}" if event_id is None else event_id
    # A whole second: what becomes of parts of it is the business of S7.
    return PersistedEvent(event_id, seq, 1_000, None, ModuleEvent("m", "t", payload))


def nested(levels: int) -> Any:
    """So many lists, one in the other."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def affordable(subject: Subject, sizes: Sequence[int]) -> list[int]:
    """Those of ``sizes`` that take no more than some hundred appends."""
    most = subject.max_batch
    return [size for size in sizes if most is None or size <= 200 * most] or [min(sizes)]


def cuts() -> SearchStrategy[Cut]:
    """When to cancel: stores without threads go by ticks, others by time."""
    ticks = st.sampled_from((1, 0, 2, 3, 4, 5, 7, 10, 15, 30)).map(AfterTicks)
    return ticks | st.sampled_from((0.001, 0.0, 0.002, 0.004, 0.008, 0.016)).map(AfterSeconds)


# --- S1 -------------------------------------------------------------------------------------------


@attrs.frozen
class Repeats:
    """Appends of which some repeat what was appended before."""

    batches: tuple[tuple[PersistedEvent, ...], ...]
    reopen_before: int | None
    """The index of the batch before which the store is opened again."""


@st.composite
def _repeats(draw: DrawFn, subject: Subject) -> Repeats:
    seen: list[PersistedEvent] = []
    batches: list[tuple[PersistedEvent, ...]] = []
    seq = 0
    for _ in range(draw(st.integers(1, 4))):
        batch: list[PersistedEvent] = []
        for _ in range(draw(st.integers(1, 4))):
            kind = draw(st.sampled_from(("new", "again", "other content", "other seq", "taken seq")))
            known = [*seen, *batch]
            if kind == "new" or not known:
                seq += 1
                event = plain(seq)
            else:
                event = draw(st.sampled_from(known))
                if kind == "other content":
                    event = attrs.evolve(
                        event, timestamp_ms=7, member_id="w", event=AgentEvent("w", "u", [1])
                    )
                elif kind == "other seq":
                    seq += 1
                    event = attrs.evolve(event, seq=seq)
                elif kind == "taken seq":
                    event = attrs.evolve(event, seq=draw(st.sampled_from(known)).seq)
            batch.append(event)
        seen += batch
        batches.append(tuple(batch))
    reopens = st.none() | st.integers(1, len(batches)) if subject.durable else st.none()
    return Repeats(tuple(batches), draw(reopens))


async def _try_repeats(session: Session, case: Repeats) -> None:
    first = case.batches[: case.reopen_before]
    rest = () if case.reopen_before is None else case.batches[case.reopen_before :]
    async with session.opened() as store:
        await _append_all(store, first)
    if case.reopen_before is not None:
        async with session.opened() as store:
            # Also what was stored before: an index that was built anew must know it.
            await _append_all(store, [*rest, case.batches[0]])


async def _append_all(store: Tested, batches: Sequence[Sequence[PersistedEvent]]) -> None:
    for batch in batches:
        await store.append(batch, returns=True)
    await store.query(values=True)


@attrs.frozen
class Later:
    """A repeat after much else."""

    newer: int
    seconds: float


def _later(subject: Subject) -> SearchStrategy[Later]:
    counts = affordable(subject, (150, 1_500, 12_000))
    return st.sampled_from([Later(0, 0.25), *(Later(count, 0.0) for count in counts)])


async def _try_later(session: Session, case: Later) -> None:
    async with session.opened() as store:
        old = [plain(1), plain(2)]
        await store.append(old)
        await store.append_series(3, case.newer)
        if case.seconds:
            session.script.add(f"await trio.sleep({case.seconds})")
            session.alive("waiting", expected_seconds=case.seconds)
            await trio.sleep(case.seconds)
        last = 3 + case.newer
        await store.append([*old, plain(last), plain(last + 1, event_id="id-1")], returns=True)


# --- S2 -------------------------------------------------------------------------------------------

_SEQS = (*range(1, 9), 2**31 - 1, 2**31, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1)


def _any_order(_subject: Subject) -> SearchStrategy[list[list[int]]]:
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


async def _try_any_order(session: Session, case: list[list[int]]) -> None:
    async with session.opened() as store:
        for number, seqs in enumerate(case):
            # Ids say nothing about seqs.
            await store.append([plain(seq, event_id=f"{number}-{index}") for index, seq in enumerate(seqs)])
        found = {event.seq for event in await store.found()}
        expected = {event.seq for event in session.model.events()}
        session.script.add(f"assert {{event.seq for event in await store.query(EventQuery())}} == {expected}")
        session.expect(
            found == expected,
            f"after these appends, seqs {sorted(found)} are stored, expected {sorted(expected)}",
        )


# --- S3 -------------------------------------------------------------------------------------------


@attrs.frozen
class Taken:
    """Some events, and a batch that meets them on their seqs."""

    held: tuple[PersistedEvent, ...]
    batch: tuple[PersistedEvent, ...]


@st.composite
def _taken(draw: DrawFn, _subject: Subject) -> Taken:
    held = tuple(plain(seq) for seq in range(1, draw(st.integers(1, 4)) + 1))
    seqs = st.integers(1, len(held) + 3)
    newcomers = st.builds(lambda seq, number: plain(seq, event_id=f"new-{number}"), seqs, st.integers(1, 4))
    known = st.builds(lambda event, seq: attrs.evolve(event, seq=seq), st.sampled_from(held), seqs)
    batch = draw(st.lists(newcomers | known, min_size=1, max_size=4, unique_by=lambda event: event.id))
    # That a batch need not be in order is the business of S2.
    return Taken(held, tuple(sorted(batch, key=lambda event: event.seq)))


def _taken_table(subject: Subject) -> list[Taken]:
    # In the last part of a batch that a store might cut in parts.
    if subject.max_batch is not None and subject.max_batch < 250:  # noqa: PLR2004 - the size of it
        return []
    batch = [*(plain(seq) for seq in range(1, 250)), plain(250, event_id="new")]
    return [Taken((plain(250),), tuple(batch))]


async def _try_taken(session: Session, case: Taken) -> None:
    async with session.opened() as store:
        await store.append(case.held)
        outcome, _ = session.model.expect(case.batch)
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


def _sizes(subject: Subject) -> SearchStrategy[int]:
    most = subject.max_batch
    return st.sampled_from([size for size in _SIZES if most is None or size <= most] or [1])


@attrs.frozen
class Watched:
    """Appends while others read."""

    sizes: tuple[int, ...]
    readers: int


def _watched(subject: Subject) -> SearchStrategy[Watched]:
    sizes = st.lists(_sizes(subject), min_size=1, max_size=3).map(tuple)
    return st.builds(Watched, sizes, st.integers(1, 3))


async def _try_watched(session: Session, case: Watched) -> None:
    batches: list[Series] = []
    for size in case.sizes:
        batches.append(Series(sum(map(len, batches)) + 1, size))
    # What a reader may see: nothing, the first batch, the first two, …
    whole = {sum(map(len, batches[:count])) for count in range(len(batches) + 1)}
    async with session.opened() as store:
        appending = True
        session.script.add("appending = True")
        with session.script.block("async def read() -> None:"):
            session.script.add("while appending:")
            session.script.add(f"    assert len(await store.query(EventQuery())) in {whole}")
            session.script.add("    await trio.sleep(0)")

        with session.script.block("async with trio.open_nursery() as nursery:"):
            async with trio.open_nursery() as nursery:
                for _ in range(case.readers):
                    session.script.add("nursery.start_soon(read)")
                    nursery.start_soon(store.watch, whole, lambda: appending)
                for batch in batches:
                    await store.append(batch)
                session.script.add("appending = False")
                appending = False
        await store.query()


@attrs.frozen
class CutAppends:
    """Appends that are cancelled and tried again."""

    sizes: tuple[int, ...]
    cuts: tuple[Cut, ...]


def _cut_appends(subject: Subject) -> SearchStrategy[CutAppends]:
    pairs = st.lists(st.tuples(_sizes(subject), cuts()), min_size=1, max_size=3)
    return pairs.map(lambda drawn: CutAppends(tuple(p[0] for p in drawn), tuple(p[1] for p in drawn)))


async def _try_cut_appends(session: Session, case: CutAppends) -> None:
    async with session.opened() as store:
        first = 1
        for size, cut in zip(case.sizes, case.cuts, strict=True):
            batch = Series(first, size)
            first += size
            # Whether an error or a swallowed cancellation is allowed is the business of S11.
            await store.append_cut(batch, cut)
            await store.settle(batch, must_be_there=False)
            # S1 makes it safe, whatever became of the first attempt.
            await store.append(batch)
            await store.query()


def _late(subject: Subject) -> SearchStrategy[tuple[int, Cut]]:
    return st.tuples(
        st.sampled_from([min(subject.max_batch or 3, 3)]),
        st.sampled_from((AfterTicks(1), AfterTicks(2), AfterTicks(4), AfterSeconds(0.002))),
    )


async def _try_late(session: Session, case: tuple[int, Cut]) -> None:
    size, cut = case
    async with session.opened() as store:
        await store.append([plain(1)])
        batch = [plain(seq) for seq in range(2, 2 + size)]
        await store.append_cut(batch, cut)
        script = session.script
        script.add("last_seq = await store.last_seq()")
        last_seq = await session.call("last_seq", store.store.last_seq)
        session.expect(type(last_seq) is int, f"last_seq returned {last_seq!r}, expected an integer")
        script.add("await trio.sleep(0.1)")
        session.alive("waiting", expected_seconds=0.1)
        await trio.sleep(0.1)
        script.add("assert await store.last_seq() == last_seq")
        later = await session.call("last_seq", store.store.last_seq)
        session.expect(
            later == last_seq,
            f"after a cancelled append last_seq was {last_seq}, 0.1 s later {later}: it landed in between",
        )
        script.add(
            "assert {event.seq for event in await store.query(EventQuery())} == set(range(1, last_seq + 1))"
        )
        found = [event.seq for event in await store.found()]
        session.expect(
            found == list(range(1, last_seq + 1)),
            f"last_seq is {last_seq} after a cancelled append, but seqs {found} are stored",
        )


async def _try_after_errors(session: Session, conflicts: int) -> None:
    async with session.opened() as store:
        await store.append([plain(1), plain(2)])
        for number in range(conflicts):
            batch = [plain(1, event_id=f"x-{number}"), plain(3, event_id=f"y-{number}")]
            if not await store.is_refused(batch):
                return
        await store.append([plain(4)])
        session.script.add("await store.last_seq()")
        await session.call("last_seq", store.store.last_seq)
        session.script.add("assert 4 in {event.seq for event in await store.query(EventQuery())}")
        found = {event.seq for event in await store.found()}
        session.expect(4 in found, "an append after a conflict returned, but its event is not stored")  # noqa: PLR2004 - the 4 above


def _after_errors(subject: Subject) -> SearchStrategy[int]:
    return st.just(0) if subject.max_batch == 1 else st.sampled_from((1, 2))


CHECKS: tuple[Check, ...] = (
    Check(clause="S1", name="repeats", cases=_repeats, run=_try_repeats),
    Check(clause="S1", name="much later", cases=_later, run=_try_later, fixed=4),
    Check(clause="S2", name="any order", cases=_any_order, run=_try_any_order, share=0.5),
    Check(clause="S3", name="seqs that are taken", cases=_taken, run=_try_taken, table=_taken_table),
    Check(clause="S4", name="readers", cases=_watched, run=_try_watched, share=0.2),
    Check(clause="S4", name="cancelled appends", cases=_cut_appends, run=_try_cut_appends, share=0.5),
    Check(clause="S4", name="after a cancelled append", cases=_late, run=_try_late, fixed=4),
    Check(clause="S4", name="after an error", cases=_after_errors, run=_try_after_errors, fixed=2),
)
