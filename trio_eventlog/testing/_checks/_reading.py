"""S5 to S9: what a query and ``last_seq`` answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent, UnifiedEvent
from trio_eventlog.testing._checks._appending import affordable, nested, plain
from trio_eventlog.testing._code import numbered_types, query_code
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._session import Session, Subject
from trio_eventlog.testing._strategies import FAMILIES, MAX_STORED, MAX_U64, NUMBERS, payloads, texts

T = TypeVar("T")

_SCOPES = ("identity", "mob_id", "run_id", "step_id")


@attrs.frozen
class Reads:
    """What is stored, in batches, and what is asked."""

    batches: tuple[tuple[PersistedEvent, ...], ...]
    queries: tuple[EventQuery, ...]
    reopens: bool = True


async def _try_seqs(session: Session, case: Reads) -> None:
    """Which events are found, and in which order."""
    await _try_reads(session, case, values=False)


async def _try_values(session: Session, case: Reads) -> None:
    """What they are, too."""
    await _try_reads(session, case, values=True)


async def _try_reads(session: Session, case: Reads, *, values: bool) -> None:
    async with session.opened() as store:
        for batch in case.batches:
            await store.append(batch)
        for query in case.queries:
            await store.query(query, values=values)
    if session.subject.durable and case.reopens:
        # What was answered from memory may look otherwise when it is read back.
        async with session.opened() as store:
            for query in case.queries:
                await store.query(query, values=values)


def _asking(field: str, asked: Any) -> EventQuery:
    value: Any = (asked,) if field == "event_types" else asked
    return EventQuery(**{field: value})


def _some(items: Sequence[T], *, of_four: int = 3) -> SearchStrategy[list[T]]:
    """Most of ``items``, in order; shrinks to few.

    A list of random length would seldom have both of two that are alike.
    """
    kept = st.tuples(*(st.integers(0, 3) for _ in items))
    return kept.map(lambda numbers: [item for item, n in zip(items, numbers, strict=True) if n > 3 - of_four])


_FIELDS = ("member_id", "event_types", *_SCOPES)


# --- S5 -------------------------------------------------------------------------------------------

_WORDS = ("a", "b", "c")
_MOMENTS = (0, 1, 2, 9, 10, 100)
"""As text, they would come in another order."""

_KINDS: tuple[type[UnifiedEvent], ...] = (ModuleEvent, AgentEvent)


def _plain_event() -> SearchStrategy[UnifiedEvent]:
    words = st.sampled_from(_WORDS)
    payload = st.none() | st.dictionaries(st.sampled_from(_SCOPES), words, max_size=4) | st.just(["a"])
    return st.builds(ModuleEvent, words, words, payload) | st.builds(AgentEvent, words, words, payload)


@st.composite
def _filtered(draw: DrawFn, _subject: Subject) -> Reads:
    count = draw(st.integers(1, 10))
    seqs = draw(st.permutations(range(1, count + 1)))
    batches: list[list[PersistedEvent]] = [[]]
    for seq in seqs:
        event = draw(_plain_event())
        member = event.agent_id if isinstance(event, AgentEvent) else None
        batches[-1].append(PersistedEvent(f"id-{seq}", seq, draw(st.sampled_from(_MOMENTS)), member, event))
        if draw(st.booleans()):
            batches.append([])
    queries = draw(st.lists(_plain_queries(count), min_size=1, max_size=8))
    return Reads(tuple(tuple(batch) for batch in batches if batch), tuple(queries), draw(st.booleans()))


def _plain_queries(count: int) -> SearchStrategy[EventQuery]:
    words = st.sampled_from(_WORDS)
    fields: dict[str, SearchStrategy[Any]] = {
        "after_seq": st.integers(0, count + 1),
        "limit": st.sampled_from((0, 1, 2, 3, 100)),
        "since_ms": st.sampled_from((*_MOMENTS, 11, 101)),
        "until_ms": st.sampled_from((*_MOMENTS, 11, 101)),
        "member_id": words,
        "event_types": st.lists(words, max_size=3).map(tuple),
        **dict.fromkeys(_SCOPES, words),
    }
    names = st.lists(st.sampled_from(list(fields)), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.builds(EventQuery, **{name: fields[name] for name in chosen}))


_ALONE = ("after_seq", "limit", "since_ms", "until_ms", "member_id", "event_types", *_SCOPES)


@attrs.frozen
class Alone:
    """One filter, with a limit and without, on events of both kinds that pass it and that do not."""

    field: str
    events: tuple[tuple[type[UnifiedEvent], str], ...]
    values: tuple[Any, ...]
    limits: tuple[int | None, ...]


_ALL_EVENTS = tuple((kind, word) for word in _WORDS for kind in _KINDS)


def _limits(field: str) -> tuple[int | None, ...]:
    return (None,) if field == "limit" else (None, 1, 2)


def _alone_table(_subject: Subject) -> list[Alone]:
    return [
        Alone(
            field,
            _ALL_EVENTS,
            _WORDS if field in _FIELDS else (0, 3, 6),
            _limits(field),
        )
        for field in _ALONE
    ]


def _alone(_subject: Subject) -> SearchStrategy[Alone]:
    return st.sampled_from(_ALONE).flatmap(_alone_by)


def _alone_by(field: str) -> SearchStrategy[Alone]:
    values: Sequence[Any] = _WORDS if field in _FIELDS else range(8)
    limits = _some(_limits(field))
    return st.builds(
        Alone, st.just(field), _some(_ALL_EVENTS).map(tuple), _some(values).map(tuple), limits.map(tuple)
    )


async def _try_alone(session: Session, case: Alone) -> None:
    batch = tuple(
        PersistedEvent(
            f"id-{seq}",
            seq,
            seq,
            word if kind is AgentEvent else None,
            kind(word, word, dict.fromkeys(_SCOPES, word)),
        )
        for seq, (kind, word) in enumerate(case.events, start=1)
    )
    queries = [
        _asking(case.field, value) if limit is None else attrs.evolve(_asking(case.field, value), limit=limit)
        for limit in case.limits
        for value in case.values
    ]
    await _try_seqs(session, Reads((batch,) if batch else (), tuple(queries)))


def _page_sizes(subject: Subject) -> SearchStrategy[int]:
    return st.sampled_from(affordable(subject, (120, 1_200, 12_000)))


async def _try_page_size(session: Session, count: int) -> None:
    async with session.opened() as store:
        await store.append_series(1, count)
        await store.query()
        await store.query(EventQuery(event_types=("t", "u"), limit=count))


def _type_counts(_subject: Subject) -> SearchStrategy[int]:
    # Past the number of variables that SQLite, drivers and PostgreSQL allow.
    return st.sampled_from((40, 1_100, 33_000, 70_000))


async def _try_many_types(session: Session, count: int) -> None:
    async with session.opened() as store:
        # The first event has the last type, for those who ask for some types after the others.
        types = (f"type-{count - 1}", "type-3", "other", "type-7")
        await store.append(
            [
                PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", event_type))
                for seq, event_type in enumerate(types, start=1)
            ]
        )
        await store.query(EventQuery(event_types=numbered_types(count)))
        await store.query(EventQuery(event_types=numbered_types(count), limit=1))
        await store.query(EventQuery(event_types=numbered_types(count), after_seq=2, limit=5))


# --- S6 -------------------------------------------------------------------------------------------

# Values that are no texts, beside the texts that look like them.
_LOOKALIKES: tuple[tuple[str, Any], ...] = (
    ("1", 1),
    ("1.0", 1.0),
    ("true", True),
    ("True", True),
    ("null", None),
    ("None", None),
    ("", None),
    ('["a"]', ["a"]),
    ("a", ["a"]),
    ('{"a":"a"}', {"a": "a"}),
    ("a", dict.fromkeys(_SCOPES, "a")),
    ("a", [dict.fromkeys(_SCOPES, "a")]),
)


def _named(seq: int, text: str) -> PersistedEvent:
    """An event that has ``text`` wherever a query can ask for one."""
    return PersistedEvent(f"id-{seq}", seq, 0, text, AgentEvent(text, text, dict.fromkeys(_SCOPES, text)))


@attrs.frozen
class Similar:
    """Texts of a family that are stored, and texts of it that are asked for, by some fields."""

    family: tuple[str, ...]
    stored: tuple[str, ...]
    asked: tuple[str, ...]
    fields: tuple[str, ...]


def _similar_table(_subject: Subject) -> list[Similar]:
    # A few fields at a time: a slow store must come to the end of one.
    pairs = [_FIELDS[start : start + 2] for start in range(0, len(_FIELDS), 2)]
    return [Similar(family, family, family, pair) for pair in pairs for family in FAMILIES]


def _similar(_subject: Subject) -> SearchStrategy[Similar]:
    return st.sampled_from(FAMILIES).flatmap(_similar_in)


def _similar_in(family: tuple[str, ...]) -> SearchStrategy[Similar]:
    texts_of_it = _some(family).map(tuple)
    return st.builds(Similar, st.just(family), texts_of_it, texts_of_it, _some(_FIELDS, of_four=2).map(tuple))


async def _try_similar(session: Session, case: Similar) -> None:
    batch = tuple(_named(seq, text) for seq, text in enumerate(case.stored, start=1))
    queries = tuple(_asking(field, text) for text in case.asked for field in case.fields)
    await _try_seqs(session, Reads((batch,) if batch else (), queries))


def _lookalikes(_subject: Subject) -> SearchStrategy[Reads]:
    return st.builds(_lookalike_reads, _some(_LOOKALIKES), _some(_SCOPES, of_four=2))


def _lookalike_reads(pairs: Sequence[tuple[str, Any]], scopes: Sequence[str]) -> Reads:
    batch = tuple(
        PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", "t", dict.fromkeys(_SCOPES, value)))
        for seq, (_, value) in enumerate(pairs, start=1)
    )
    queries = tuple(_asking(scope, text) for text, _ in pairs for scope in scopes)
    return Reads((batch,) if batch else (), queries)


def _lookalike_table(_subject: Subject) -> list[Reads]:
    return [_lookalike_reads(_LOOKALIKES, (scope,)) for scope in _SCOPES]


def _similar_ids_table(_subject: Subject) -> list[list[str]]:
    return [list(family) for family in FAMILIES]


def _similar_ids(_subject: Subject) -> SearchStrategy[list[str]]:
    return st.sampled_from(FAMILIES).flatmap(_some)


async def _try_similar_ids(session: Session, ids: list[str]) -> None:
    async with session.opened() as store:
        for seq, event_id in enumerate(ids, start=1):
            await store.append([plain(seq, event_id=event_id)])
        await store.query()


# --- S7 -------------------------------------------------------------------------------------------


@st.composite
def _payloads(draw: DrawFn, _subject: Subject) -> Reads:
    values = draw(st.lists(payloads(), min_size=1, max_size=5))
    agents = draw(st.booleans())
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
class Values:
    """Numbers, or texts that are alike, in one place of a payload."""

    values: tuple[Any, ...]
    place: str


_PLACES: dict[str, Callable[[Any], Any]] = {
    "payload": lambda value: value,
    "list": lambda value: [[value]],
    "value": lambda value: {"a": value},
    "key": lambda value: {str(value): 1},
}


def _values_table(_subject: Subject) -> list[Values]:
    return [Values(tuple(values), place) for place in _PLACES for values in (NUMBERS, *FAMILIES)]


def _values(subject: Subject) -> SearchStrategy[Values]:
    return st.sampled_from(_values_table(subject)).flatmap(_fewer_values)


def _fewer_values(case: Values) -> SearchStrategy[Values]:
    return st.builds(Values, _some(case.values).map(tuple), st.just(case.place))


async def _try_payload_values(session: Session, case: Values) -> None:
    wrap = _PLACES[case.place]
    batch = tuple(plain(seq, payload=wrap(value)) for seq, value in enumerate(case.values, start=1))
    await _try_values(session, Reads((batch,) if batch else (), (EventQuery(),)))


@st.composite
def _fields(draw: DrawFn, _subject: Subject) -> Reads:
    seqs = st.sampled_from((1, 2, 3, 2**31, 2**53 + 1, MAX_STORED - 1, MAX_STORED))
    times = st.sampled_from((0, 1, 999, 1_001, 2**31 + 1, 2**53 + 1, MAX_STORED))
    member = st.none() | texts()
    events = st.builds(AgentEvent, texts(), texts()) | st.builds(ModuleEvent, texts(), texts())
    batch = st.lists(
        st.builds(PersistedEvent, texts(), seqs, times, member, events),
        min_size=1,
        max_size=3,
        unique_by=(lambda event: event.id, lambda event: event.seq),
    )
    return Reads((tuple(sorted(draw(batch), key=lambda event: event.seq)),), (EventQuery(),))


def _bounds(_subject: Subject) -> SearchStrategy[Reads]:
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


def _floors(_subject: Subject) -> SearchStrategy[Reads]:
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

_CHANGES: tuple[tuple[str, Callable[[Any], object]], ...] = (
    ('["items"].append(2)', lambda payload: payload["items"].append(2)),
    ('["run_id"] = "changed"', lambda payload: payload.__setitem__("run_id", "changed")),
    ('["deep"]["list"][0].clear()', lambda payload: payload["deep"]["list"][0].clear()),
    (".clear()", lambda payload: payload.clear()),
)


@attrs.frozen
class Changes:
    """What is changed after it was handed over."""

    kind: type[UnifiedEvent]
    given: int
    returned: int
    query: EventQuery


def _changes(_subject: Subject) -> SearchStrategy[Changes]:
    which = st.integers(0, len(_CHANGES) - 1)
    query = st.sampled_from((EventQuery(), EventQuery(run_id="r")))
    return st.builds(Changes, st.sampled_from(_KINDS), which, which, query)


def _changeable(kind: type[UnifiedEvent]) -> PersistedEvent:
    payload = {"run_id": "r", "items": [1], "deep": {"list": [{"a": 1}]}}
    return PersistedEvent("id-1", 1, 0, "w" if kind is AgentEvent else None, kind("w", "t", payload))


async def _try_changes(session: Session, case: Changes) -> None:
    async with session.opened() as store:
        script = session.script
        session.model.adopt([_changeable(case.kind)])
        given = _changeable(case.kind)
        name = case.kind.__name__
        script.add('payload = {"run_id": "r", "items": [1], "deep": {"list": [{"a": 1}]}}')
        member = '"w"' if case.kind is AgentEvent else "None"
        script.add(f'batch = [PersistedEvent("id-1", 1, 0, {member}, {name}("w", "t", payload))]')
        script.add("await store.append_batch(batch)")
        batch = [given]
        await session.call("append_batch", store.store.append_batch, batch)
        code, change = _CHANGES[case.given]
        script.add(f"payload{code}\nbatch.clear()")
        change(given.event.payload)
        batch.clear()
        await store.query(values=True)

        script.add(f"found = await store.query({query_code(case.query)})")
        found = await store.found(case.query)
        before = await store.found(case.query)
        session.expect(len(found) == len(before) == 1, f"found {len(found)} events, expected 1")
        code, change = _CHANGES[case.returned]
        script.add(f"found[0].event.payload{code}\nfound.clear()")
        change(found[0].event.payload)
        found.clear()
        await store.query(case.query, values=True)
        # One that was read before the change must not see it either.
        session.expect(
            before[0].event.payload == _changeable(case.kind).event.payload,
            "changing the result of one query changed the result of another",
        )


# --- S9 -------------------------------------------------------------------------------------------


@attrs.frozen
class Numbers:
    """Appends, some of them repeats under other seqs."""

    batches: tuple[tuple[PersistedEvent, ...], ...]
    reopens: bool


@st.composite
def _numbers(draw: DrawFn, subject: Subject) -> Numbers:
    pool = (*range(1, 9), 2**53 + 1, MAX_STORED)
    seqs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=6, unique=True))
    batches = [(plain(seq),) for seq in seqs]
    if draw(st.booleans()):
        # A repeat on a seq of its own is not stored, and so raises nothing.
        free = draw(st.integers(20, 30))
        batches.append((plain(free, event_id=f"id-{seqs[0]}"),))
    return Numbers(tuple(batches), subject.durable and draw(st.booleans()))


async def _try_numbers(session: Session, case: Numbers) -> None:
    async with session.opened() as store:
        await store.last_seq()
        for batch in case.batches:
            await store.append(batch)
            await store.last_seq()
        refused = [plain(session.model.highest, event_id="taken"), plain(15, event_id="refused")]
        if not await store.is_refused(refused):
            return
        await store.last_seq()
    if case.reopens:
        async with session.opened() as store:
            await store.last_seq()


CHECKS: tuple[Check, ...] = (
    Check(clause="S5", name="filters, order and limit", cases=_filtered, run=_try_seqs),
    Check(
        clause="S5",
        name="each filter alone",
        cases=_alone,
        run=_try_alone,
        table=_alone_table,
        smaller=lambda case: _alone_by(case.field),
        share=0.3,
    ),
    Check(clause="S5", name="large results", cases=_page_sizes, run=_try_page_size, fixed=3),
    Check(clause="S5", name="many event types", cases=_type_counts, run=_try_many_types, fixed=4),
    Check(
        clause="S6",
        name="texts that look alike",
        cases=_similar,
        run=_try_similar,
        table=_similar_table,
        smaller=lambda case: _similar_in(case.family),
        share=0.3,
    ),
    Check(
        clause="S6",
        name="values that look like texts",
        cases=_lookalikes,
        run=_try_seqs,
        table=_lookalike_table,
        share=0.1,
    ),
    Check(
        clause="S6",
        name="ids that look alike",
        cases=_similar_ids,
        run=_try_similar_ids,
        table=_similar_ids_table,
        smaller=_some,
        share=0.2,
    ),
    Check(
        clause="S7",
        name="numbers and texts",
        cases=_values,
        run=_try_payload_values,
        table=_values_table,
        smaller=_fewer_values,
        share=0.2,
    ),
    Check(clause="S7", name="payloads", cases=_payloads, run=_try_values),
    Check(clause="S7", name="other fields", cases=_fields, run=_try_values),
    Check(clause="S7", name="bounds of queries", cases=_bounds, run=_try_seqs, share=0.4),
    Check(clause="S7", name="what every store holds", cases=_floors, run=_try_values, fixed=2),
    Check(clause="S8", name="changes after the fact", cases=_changes, run=_try_changes, share=0.4),
    Check(clause="S9", name="last_seq", cases=_numbers, run=_try_numbers, share=0.5),
)
