"""S5 and S6: filters, order and limit, and how strings compare."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, product
from typing import Any, TypeVar

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent, UnifiedEvent
from trio_eventlog.testing._checks._common import BOOLEAN, affordable, plain
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._open_store import opened
from trio_eventlog.testing._program import numbered_types
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._strategies import FAMILIES
from trio_eventlog.testing._subject import StoreUnderTest

T = TypeVar("T")

_SCOPES = ("identity", "mob_id", "run_id", "step_id")


@attrs.frozen
class Reads:
    """What is stored, in batches, and what is asked."""

    batches: tuple[tuple[PersistedEvent, ...], ...]
    queries: tuple[EventQuery, ...]
    reopens: bool = True


async def try_seqs(example: Example, case: Reads) -> None:
    """Which events are found, and in which order."""
    await try_reads(example, case, values=False)


async def try_values(example: Example, case: Reads) -> None:
    """What they are, too."""
    await try_reads(example, case, values=True)


async def try_reads(example: Example, case: Reads, *, values: bool) -> None:
    async with opened(example) as store:
        for batch in case.batches:
            await store.append(batch)
        for query in case.queries:
            await store.query(query, values=values)
    if example.subject.durable and case.reopens:
        # What was answered from memory may look otherwise when it is read back.
        async with opened(example) as store:
            for query in case.queries:
                await store.query(query, values=values)


def _asking(field: str, asked: Any) -> EventQuery:
    value: Any = {"event_types": (asked,), "fields": {"run_id": asked}}.get(field, asked)
    return EventQuery(**{field: value})


def some(items: Sequence[T], *, of_four: int = 3) -> SearchStrategy[list[T]]:
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

KINDS: tuple[type[UnifiedEvent], ...] = (ModuleEvent, AgentEvent)


_WORD = st.sampled_from(_WORDS)
_MOMENT = st.sampled_from(_MOMENTS)
_PAYLOAD = st.none() | st.dictionaries(st.sampled_from(_SCOPES), _WORD, max_size=4) | st.just(["a"])
_EVENT = st.builds(ModuleEvent, _WORD, _WORD, _PAYLOAD) | st.builds(AgentEvent, _WORD, _WORD, _PAYLOAD)
_COUNT = st.integers(1, 10)


@st.composite
def _filtered(draw: DrawFn, _subject: StoreUnderTest) -> Reads:
    count = draw(_COUNT)
    seqs = draw(_shuffled(count))
    batches: list[list[PersistedEvent]] = [[]]
    for seq in seqs:
        event = draw(_EVENT)
        member = event.agent_id if isinstance(event, AgentEvent) else None
        batches[-1].append(PersistedEvent(f"id-{seq}", seq, draw(_MOMENT), member, event))
        if draw(BOOLEAN):
            batches.append([])
    queries = draw(_some_queries(count))
    return Reads(tuple(tuple(batch) for batch in batches if batch), tuple(queries), draw(BOOLEAN))


@cache
def _shuffled(count: int) -> SearchStrategy[list[int]]:
    return st.permutations(range(1, count + 1))


@cache
def _some_queries(count: int) -> SearchStrategy[list[EventQuery]]:
    return st.lists(_plain_queries(count), min_size=1, max_size=8)


_ALONE = (
    *("after_seq", "limit", "since_ms", "until_ms"),
    *("member_id", "module", "event_types", *_SCOPES, "fields"),
)
_NUMBERED = ("after_seq", "limit", "since_ms", "until_ms")
_NAMES = st.lists(st.sampled_from(_ALONE), min_size=1, max_size=3, unique=True)
_BOUND = st.sampled_from((*_MOMENTS, 11, 101))
_FIELD: dict[str, SearchStrategy[Any]] = {
    "limit": st.sampled_from((0, 1, 2, 3, 100)),
    "since_ms": _BOUND,
    "until_ms": _BOUND,
    "member_id": _WORD,
    "module": _WORD,
    "fields": st.dictionaries(st.sampled_from(_SCOPES), _WORD, min_size=1, max_size=2),
    "event_types": st.lists(_WORD, max_size=3).map(tuple),
    **dict.fromkeys(_SCOPES, _WORD),
}


@st.composite
def _plain_queries(draw: DrawFn, count: int) -> EventQuery:
    # Drawn one by one: a strategy that is built for each query takes longer than all the rest.
    fields: dict[str, SearchStrategy[Any]] = {"after_seq": _cursors(count), **_FIELD}
    return EventQuery(**{name: draw(fields[name]) for name in draw(_NAMES)})


@cache
def _cursors(count: int) -> SearchStrategy[int]:
    return st.integers(0, count + 1)


def _pairs_table(_subject: StoreUnderTest) -> list[Reads]:
    """Each two filters together: a store may write one of them into its statement only without the other."""
    batch = tuple(
        PersistedEvent(
            f"id-{seq}",
            seq,
            seq // 2,
            worker if kind is AgentEvent else None,
            kind(worker, word, dict.fromkeys(_SCOPES, word if seq % 3 else "c")),
        )
        for seq, (kind, worker, word) in enumerate(product(KINDS, "ab", "abc"), start=1)
    )
    value: dict[str, Any] = {
        "after_seq": 4,
        "limit": 1,
        "since_ms": 2,
        "until_ms": 5,
        "member_id": "a",
        "module": "a",
        "event_types": ("a", "b"),
        "fields": {"mob_id": "a", "run_id": "a"},
        **dict.fromkeys(_SCOPES, "a"),
    }
    queries = [EventQuery(**{name: value[name] for name in pair}) for pair in combinations(_ALONE, 2)]
    # Windows whose ends are events, or the wrong way round.
    queries += [EventQuery(since_ms=since, until_ms=until) for since, until in ((2, 3), (3, 3), (5, 2))]
    return [Reads((batch,), tuple(queries))]


def _fewer_reads(case: Reads) -> SearchStrategy[Reads]:
    (batch,) = case.batches
    batches = some(batch).map(lambda events: (tuple(events),) if events else ())
    return st.builds(Reads, batches, some(case.queries, of_four=2).map(tuple), BOOLEAN)


@attrs.frozen
class Alone:
    """One filter, with a limit and without, on events of both kinds that pass it and that do not."""

    field: str
    events: tuple[tuple[type[UnifiedEvent], str], ...]
    values: tuple[Any, ...]
    limits: tuple[int | None, ...]


_ALL_EVENTS = tuple((kind, word) for word in _WORDS for kind in KINDS)


def _limits(field: str) -> tuple[int | None, ...]:
    return (None,) if field == "limit" else (None, 1, 2)


def _alone_table(_subject: StoreUnderTest) -> list[Alone]:
    return [
        Alone(
            field,
            _ALL_EVENTS,
            (0, 3, 6) if field in _NUMBERED else _WORDS,
            _limits(field),
        )
        for field in _ALONE
    ]


def _alone(_subject: StoreUnderTest) -> SearchStrategy[Alone]:
    return st.sampled_from(_ALONE).flatmap(_alone_by)


@cache
def _alone_by(field: str) -> SearchStrategy[Alone]:
    values: Sequence[Any] = range(8) if field in _NUMBERED else _WORDS
    limits = some(_limits(field))
    return st.builds(
        Alone, st.just(field), some(_ALL_EVENTS).map(tuple), some(values).map(tuple), limits.map(tuple)
    )


async def _try_alone(example: Example, case: Alone) -> None:
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
    await try_seqs(example, Reads((batch,) if batch else (), tuple(queries)))


def _page_sizes(subject: StoreUnderTest) -> SearchStrategy[int]:
    # What is first is tried first: most stores that cut off their results do so at 1,000.
    return st.sampled_from(affordable(subject, (1_200, 120, 12_000)))


async def _try_page_size(example: Example, count: int) -> None:
    async with opened(example) as store:
        await store.append_series(1, count)
        if await store.has_lost(range(1, count + 1)):
            # The business of S10.
            return
        await store.query()
        await store.query(EventQuery(event_types=("t", "u"), limit=count))
        await store.query_pages(max_bytes=20 * count)


def _type_counts(_subject: StoreUnderTest) -> SearchStrategy[int]:
    # Past the number of variables that SQLite, drivers and PostgreSQL allow. What is first is tried first.
    return st.sampled_from((1_100, 40, 33_000, 70_000))


@attrs.frozen
class Listed:
    """Types that are stored, and lists of types that are asked for."""

    stored: tuple[str, ...]
    asked: tuple[tuple[str, ...], ...]


async def _try_listed(example: Example, case: Listed) -> None:
    batch = tuple(
        PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", text))
        for seq, text in enumerate(case.stored, start=1)
    )
    queries = [EventQuery(event_types=types, limit=limit) for types in case.asked for limit in (None, 2)]
    await try_seqs(example, Reads((batch,) if batch else (), tuple(queries)))


def _twice_table(_subject: StoreUnderTest) -> list[Listed]:
    return [Listed(("a", "b", "a", "c"), (("a", "a"), ("b", "a", "b"), ("c", "c", "c"), ("x", "x")))]


def _fewer_listed(case: Listed) -> SearchStrategy[Listed]:
    return st.builds(Listed, some(case.stored).map(tuple), some(case.asked, of_four=2).map(tuple))


async def _try_many_types(example: Example, count: int) -> None:
    async with opened(example) as store:
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
        # Named again after all the others.
        await store.query(EventQuery(event_types=(*numbered_types(count), "type-3")))


# --- S6 -------------------------------------------------------------------------------------------

_SEPARATORS = (
    *",;|/&:=+-._ \t\n\r\0",
    *("\r\n", ", ", "', '", '", "', "','", '","', "}{", "\x1f", "\x1e", "::"),
)
"""What a list of texts may be joined with."""


def _joined(separator: str) -> Listed:
    joined = f"a{separator}b"
    stored = ("a", "b", joined, f"a{separator}", f"{separator}b", separator)
    return Listed(stored, (("a", "b"), (joined,), ("b", joined), (f"a{separator}", "b"), (separator,)))


def _joined_table(_subject: StoreUnderTest) -> list[Listed]:
    return [_joined(separator) for separator in _SEPARATORS]


def _joined_cases(_subject: StoreUnderTest) -> SearchStrategy[Listed]:
    return st.sampled_from(_SEPARATORS).map(_joined).flatmap(_fewer_listed)


def _twice(subject: StoreUnderTest) -> SearchStrategy[Listed]:
    return st.sampled_from(_twice_table(subject)).flatmap(_fewer_listed)


# Values that are not strings, each with the string that it looks like.
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


def _similar_table(_subject: StoreUnderTest) -> list[Similar]:
    # A few fields at a time: a slow store must come to the end of one.
    pairs = [_FIELDS[start : start + 2] for start in range(0, len(_FIELDS), 2)]
    return [Similar(family, family, family, pair) for pair in pairs for family in FAMILIES]


def _similar(_subject: StoreUnderTest) -> SearchStrategy[Similar]:
    return st.sampled_from(FAMILIES).flatmap(_similar_in)


@cache
def _similar_in(family: tuple[str, ...]) -> SearchStrategy[Similar]:
    texts_of_it = some(family).map(tuple)
    return st.builds(Similar, st.just(family), texts_of_it, texts_of_it, some(_FIELDS, of_four=2).map(tuple))


async def _try_similar(example: Example, case: Similar) -> None:
    batch = tuple(_named(seq, text) for seq, text in enumerate(case.stored, start=1))
    queries = tuple(_asking(field, text) for text in case.asked for field in case.fields)
    await try_seqs(example, Reads((batch,) if batch else (), queries))


def _lookalikes(_subject: StoreUnderTest) -> SearchStrategy[Reads]:
    return st.builds(_lookalike_reads, some(_LOOKALIKES), some(_SCOPES, of_four=2))


def _lookalike_reads(pairs: Sequence[tuple[str, Any]], scopes: Sequence[str]) -> Reads:
    batch = tuple(
        PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", "t", dict.fromkeys(_SCOPES, value)))
        for seq, (_, value) in enumerate(pairs, start=1)
    )
    queries = tuple(_asking(scope, text) for text, _ in pairs for scope in scopes)
    return Reads((batch,) if batch else (), queries)


def _lookalike_table(_subject: StoreUnderTest) -> list[Reads]:
    return [_lookalike_reads(_LOOKALIKES, (scope,)) for scope in _SCOPES]


def _similar_ids_table(_subject: StoreUnderTest) -> list[list[str]]:
    return [list(family) for family in FAMILIES]


def _similar_ids(_subject: StoreUnderTest) -> SearchStrategy[list[str]]:
    return st.sampled_from(FAMILIES).flatmap(_some_of)


@cache
def _some_of(family: tuple[str, ...]) -> SearchStrategy[list[str]]:
    return some(family)


async def _try_similar_ids(example: Example, ids: list[str]) -> None:
    async with opened(example) as store:
        for seq, event_id in enumerate(ids, start=1):
            await store.append([plain(seq, event_id=event_id)])
        await store.query()


CHECKS: tuple[Check, ...] = (
    Check(
        clause="S5",
        name="filters, order and limit",
        cases=_filtered,
        run=try_seqs,
        table=_pairs_table,
        smaller=_fewer_reads,
    ),
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
    Check(
        clause="S5",
        name="an event type that is named twice",
        cases=_twice,
        run=_try_listed,
        table=_twice_table,
        smaller=_fewer_listed,
        fixed=1,
    ),
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
        name="event types that look like lists",
        cases=_joined_cases,
        run=_try_listed,
        table=_joined_table,
        smaller=_fewer_listed,
        share=0.1,
    ),
    Check(
        clause="S6",
        name="values that look like texts",
        cases=_lookalikes,
        run=try_seqs,
        table=_lookalike_table,
        share=0.1,
    ),
    Check(
        clause="S6",
        name="ids that look alike",
        cases=_similar_ids,
        run=_try_similar_ids,
        table=_similar_ids_table,
        smaller=some,
        share=0.2,
    ),
)
