"""S7 to S9: what is read equals what was written, nothing is shared, and ``last_seq``."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent, UnifiedEvent
from trio_eventlog.testing._checks._common import BOOLEAN, nested, plain
from trio_eventlog.testing._checks._filters import KINDS, Reads, some, try_seqs, try_values
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._open_store import opened
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._strategies import FAMILIES, MAX_STORED, MAX_U64, NUMBERS, payloads, texts
from trio_eventlog.testing._subject import StoreUnderTest

# --- S7 -------------------------------------------------------------------------------------------


_SOME_PAYLOADS = st.lists(payloads(), min_size=1, max_size=5)


@st.composite
def _payloads(draw: DrawFn, _subject: StoreUnderTest) -> Reads:
    values = draw(_SOME_PAYLOADS)
    agents = draw(BOOLEAN)
    batch = tuple(
        PersistedEvent(
            f"id-{seq}",
            seq,
            0,
            "a" if agents else None,
            AgentEvent("a", "t", value) if agents else ModuleEvent("m", "t", value),
        )
        for seq, value in enumerate(values, start=1)
    )
    return Reads((batch,), (EventQuery(),))


@attrs.frozen
class PayloadValues:
    """Numbers, or texts that are alike, in one place of a payload."""

    values: tuple[Any, ...]
    place: str


_PLACES: dict[str, Callable[[Any], Any]] = {
    "payload": lambda value: value,
    "list": lambda value: [[value]],
    "value": lambda value: {"a": value},
    "key": lambda value: {str(value): 1},
}
_TOGETHER = "keys of one payload"


def _values_table(_subject: StoreUnderTest) -> list[PayloadValues]:
    kinds: tuple[tuple[Any, ...], ...] = (
        NUMBERS,
        (True, 1, 1.0, "1", "true", False, 0, 0.0, None, ""),
        *FAMILIES,
    )
    places = [*_PLACES, _TOGETHER]
    return [PayloadValues(tuple(values), place) for place in places for values in kinds]


def _values(subject: StoreUnderTest) -> SearchStrategy[PayloadValues]:
    return st.sampled_from(_values_table(subject)).flatmap(_fewer_values)


def _fewer_values(case: PayloadValues) -> SearchStrategy[PayloadValues]:
    return st.builds(PayloadValues, some(case.values).map(tuple), st.just(case.place))


async def _try_payload_values(example: Example, case: PayloadValues) -> None:
    wrapped: list[Any] = (
        [{str(value): number for number, value in enumerate(case.values)}]
        if case.place == _TOGETHER
        else list(map(_PLACES[case.place], case.values))
    )
    batch = tuple(plain(seq, payload=payload) for seq, payload in enumerate(wrapped, start=1))
    await try_values(example, Reads((batch,) if batch else (), (EventQuery(),)))


def _fields(_subject: StoreUnderTest) -> SearchStrategy[Reads]:
    seqs = st.sampled_from((1, 2, 3, 2**31, 2**53 + 1, MAX_STORED - 1, MAX_STORED))
    times = st.sampled_from((0, 1, 999, 1_001, 2**31 + 1, 2**53 + 1, MAX_STORED))
    member = st.none() | texts()
    events = st.builds(AgentEvent, texts(), texts()) | st.builds(ModuleEvent, texts(), texts())
    batches = st.lists(
        st.builds(PersistedEvent, texts(), seqs, times, member, events),
        min_size=1,
        max_size=3,
        unique_by=(lambda event: event.id, lambda event: event.seq),
    )
    return batches.map(lambda batch: Reads((tuple(sorted(batch, key=attrgetter("seq"))),), (EventQuery(),)))


def _bounds(_subject: StoreUnderTest) -> SearchStrategy[Reads]:
    batch = tuple(
        PersistedEvent(f"id-{seq}", seq, time, None, ModuleEvent("m", "t"))
        for seq, time in ((1, 0), (2**53 + 1, 2**53 + 1), (MAX_STORED, MAX_STORED))
    )
    names = st.sampled_from(("until_ms", "since_ms", "after_seq", "limit"))
    # None of them on an event: which side that falls is the business of S5.
    values = st.sampled_from((MAX_U64, MAX_STORED + 1, MAX_STORED - 1, 2**53 + 2, 2**53))
    query = st.builds(lambda name, value: EventQuery(**{name: value}), names, values)
    return st.lists(query, min_size=1, max_size=4).map(lambda queries: Reads((batch,), tuple(queries)))


_TEXT = "\U0001f600" * 128
"""512 bytes in UTF-8."""


def _floors(_subject: StoreUnderTest) -> SearchStrategy[Reads]:
    largest = {
        "run_id": _TEXT,
        "step_id": _TEXT,
        "mob_id": _TEXT,
        "identity": _TEXT,
        "deep": nested(31),
        "long": "y" * 60_000,
    }
    agent = PersistedEvent(_TEXT, 1, 0, _TEXT, AgentEvent(_TEXT, _TEXT, largest))
    module = PersistedEvent(_TEXT, 1, 0, None, ModuleEvent(_TEXT, _TEXT, largest))
    query = EventQuery(run_id=_TEXT, event_types=(_TEXT,))
    return st.sampled_from([Reads(((event,),), (EventQuery(), query)) for event in (module, agent)])


# --- S8 -------------------------------------------------------------------------------------------

_CHANGES = (
    '["items"].append(2)',
    '.update(run_id="changed")',
    '["deep"]["list"][0].clear()',
    ".clear()",
)


@attrs.frozen
class Changes:
    """What is changed after it was handed over."""

    kind: type[UnifiedEvent]
    given: str
    returned: str
    query: EventQuery


def _changes(_subject: StoreUnderTest) -> SearchStrategy[Changes]:
    which = st.sampled_from(_CHANGES)
    query = st.sampled_from((EventQuery(), EventQuery(run_id="r")))
    return st.builds(Changes, st.sampled_from(KINDS), which, which, query)


def _changeable(kind: type[UnifiedEvent]) -> PersistedEvent:
    payload = {"run_id": "r", "items": [1], "deep": {"list": [{"a": 1}]}}
    return PersistedEvent("id-1", 1, 0, "w" if kind is AgentEvent else None, kind("w", "t", payload))


async def _try_changes(example: Example, case: Changes) -> None:
    async with opened(example) as store:
        program = example.program
        example.model.adopt([_changeable(case.kind)])
        program.assign("batch", "[$0]", _changeable(case.kind))
        program.add("await store.append_batch(batch)")
        await example.faultless("append_batch", store.store.append_batch, program.variables["batch"])
        example.perform(f"batch[0].event.payload{case.given}")
        example.perform("batch.clear()")
        await store.query(values=True)

        found = await store.found(case.query)
        # One that was read before the change must not see it either.
        await store.found(case.query, result="before")
        example.check("len(found) == len(before) == 1", f"found {len(found)} events, expected 1")
        example.perform(f"found[0].event.payload{case.returned}")
        example.perform("found.clear()")
        await store.query(case.query, values=True)
        example.check(
            "before[0].event.payload == $0",
            "changing the result of one query changed the result of another",
            _changeable(case.kind).event.payload,
        )


# --- S9 -------------------------------------------------------------------------------------------


@attrs.frozen
class NumberedBatches:
    """Appends, some of them repeats under other seqs."""

    batches: tuple[tuple[PersistedEvent, ...], ...]
    reopens: bool


_SEQS = st.lists(st.sampled_from((*range(1, 9), 2**53 + 1, MAX_STORED)), min_size=1, max_size=6, unique=True)
_FREE_SEQ = st.integers(20, 30)


@st.composite
def _numbers(draw: DrawFn, subject: StoreUnderTest) -> NumberedBatches:
    seqs = draw(_SEQS)
    batches = [(plain(seq),) for seq in seqs]
    if draw(BOOLEAN):
        # A repeat on a seq of its own is not stored, and so raises nothing.
        free = draw(_FREE_SEQ)
        batches.append((plain(free, event_id=f"id-{seqs[0]}"),))
    return NumberedBatches(tuple(batches), subject.durable and draw(BOOLEAN))


async def _try_numbers(example: Example, case: NumberedBatches) -> None:
    async with opened(example) as store:
        await store.last_seq()
        for batch in case.batches:
            await store.append(batch)
            await store.last_seq()
        refused = [plain(example.model.highest, event_id="taken"), plain(15, event_id="refused")]
        if not await store.is_refused(refused):
            return
        await store.last_seq()
    if case.reopens:
        async with opened(example) as store:
            await store.last_seq()


CHECKS: tuple[Check, ...] = (
    Check(
        clause="S7",
        name="numbers and texts",
        cases=_values,
        run=_try_payload_values,
        table=_values_table,
        smaller=_fewer_values,
        share=0.2,
    ),
    Check(clause="S7", name="payloads", cases=_payloads, run=try_values),
    Check(clause="S7", name="other fields", cases=_fields, run=try_values),
    Check(clause="S7", name="bounds of queries", cases=_bounds, run=try_seqs, share=0.4),
    Check(clause="S7", name="what every store holds", cases=_floors, run=try_values, fixed=2),
    Check(clause="S8", name="changes after the fact", cases=_changes, run=_try_changes, share=0.4),
    Check(clause="S9", name="last_seq", cases=_numbers, run=_try_numbers, share=0.5),
)
