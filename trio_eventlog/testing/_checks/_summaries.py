"""S18: the latest events, and counts, of stores that have them."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any, Final

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent, UnifiedEvent
from trio_eventlog.abc import (
    FACETS,
    CountingStore,
    Facets,
    FacetStore,
    HistogramBucket,
    HistogramStore,
    LatestStore,
)
from trio_eventlog.testing._checks._common import BOOLEAN, affordable
from trio_eventlog.testing._checks._filters import some
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._model import Model
from trio_eventlog.testing._open_store import OpenStore, opened
from trio_eventlog.testing._program import Series, code_of
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest


@attrs.frozen
class Ask:
    """What is asked for: a query, and the arguments beside it."""

    query: EventQuery
    arguments: tuple[tuple[str, Any], ...]


@attrs.frozen
class Asked:
    """What is stored, in batches, and what is asked."""

    batches: tuple[tuple[PersistedEvent, ...], ...]
    asks: tuple[Ask, ...]
    reopens: bool = True


# --- what should be answered ------------------------------------------------------------------------


def _latest(
    model: Model, query: EventQuery, before_seq: int | None = None, limit: int = 0
) -> list[PersistedEvent]:
    events = [event for event in model.query(query) if before_seq is None or event.seq < before_seq]
    return events[::-1][:limit]


def _count(model: Model, query: EventQuery, at_most: int) -> int:
    return min(len(model.query(query)), at_most)


def _histogram(model: Model, query: EventQuery, bucket_ms: int) -> list[HistogramBucket]:
    counts = Counter(
        (event.timestamp_ms // bucket_ms * bucket_ms, event.event.event_type) for event in model.query(query)
    )
    return [HistogramBucket(*key, counts[key]) for key in sorted(counts)]


def _facets(model: Model, query: EventQuery, field: str, top: int = 10) -> Facets:
    values = [_value_of(event, field) for event in model.query(query)]
    counts = Counter(value for value in values if value is not None)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Facets(len(ranked), tuple(ranked[:top]))


def _value_of(event: PersistedEvent, field: str) -> str | None:
    inner, payload = event.event, event.event.payload
    found: object
    if field == "event_type":
        found = inner.event_type
    elif field == "member_id":
        found = event.member_id
    elif field == "module":
        found = inner.module if isinstance(inner, ModuleEvent) else None
    else:
        found = payload.get(field) if isinstance(payload, dict) else None
    return found if isinstance(found, str) else None


_EXPECTED: Final[dict[str, Any]] = {
    "latest": _latest,
    "count": _count,
    "histogram": _histogram,
    "facets": _facets,
}
_ABILITIES: Final[dict[str, Any]] = {
    "latest": LatestStore,
    "count": CountingStore,
    "histogram": HistogramStore,
    "facets": FacetStore,
}


async def _ask(store: OpenStore, method: str, ask: Ask) -> None:
    """Call a method of the store, and compare what it answers with the model."""
    if not isinstance(store.store, _ABILITIES[method]):
        return
    example, arguments = store.example, dict(ask.arguments)
    expected = _EXPECTED[method](store.model, ask.query, **arguments)
    names = [f"{name}=${number}" for number, name in enumerate(arguments, start=1)]
    example.program.add(
        f"found = await {store.name}.{method}({', '.join(['$0', *names])})", ask.query, *arguments.values()
    )
    found = await example.faultless(method, _called(store, method, ask))
    example.program.variables["found"] = found
    shown = f"{method}({code_of(ask.query)}, {arguments})"
    if method == "latest":
        example.require(
            "isinstance(found, list) and all(isinstance(event, PersistedEvent) for event in found)",
            f"{shown} returned {type(found).__name__}, expected a list of PersistedEvent",
        )
        seqs = [event.seq for event in expected]
        example.check(
            "[event.seq for event in found] == $0",
            lambda: f"{shown} found seqs {[event.seq for event in found]}, expected {seqs}",
            seqs,
        )
        example.perform("assert_same_events(found, $0)", expected, failure=lambda exc: f"{shown}: {exc}")
    else:
        example.check("found == $0", f"{shown} returned {found!r:.500}, expected {expected!r:.500}", expected)


def _called(store: OpenStore, method: str, ask: Ask) -> Any:
    async def call() -> Any:
        return await getattr(store.store, method)(ask.query, **dict(ask.arguments))

    return call


async def _try(example: Example, case: Asked, method: str) -> None:
    async with opened(example) as store:
        for batch in case.batches:
            await store.append(batch)
            # What was counted before must not be what is answered after.
            await _ask(store, method, case.asks[0])
        for ask in case.asks[1:]:
            await _ask(store, method, ask)
    if example.subject.durable and case.reopens:
        async with opened(example) as store:
            for ask in case.asks:
                await _ask(store, method, ask)


async def _try_latest(example: Example, case: Asked) -> None:
    await _try(example, case, "latest")


async def _try_count(example: Example, case: Asked) -> None:
    await _try(example, case, "count")


async def _try_histogram(example: Example, case: Asked) -> None:
    await _try(example, case, "histogram")


async def _try_facets(example: Example, case: Asked) -> None:
    await _try(example, case, "facets")


# --- what is tried ----------------------------------------------------------------------------------

_WORDS = ("a", "b", "A")
_WORD = st.sampled_from(_WORDS)
_MOMENT = st.sampled_from((0, 1, 2, 9, 10, 100, 2**63 - 1))
_SCOPES = ("identity", "mob_id", "run_id", "step_id")
_PAYLOAD = st.none() | st.dictionaries(
    st.sampled_from(_SCOPES), _WORD | st.sampled_from((1, None, ["a"])), max_size=3
)
_CONTENT = st.builds(ModuleEvent, _WORD, _WORD, _PAYLOAD) | st.builds(AgentEvent, _WORD, _WORD, _PAYLOAD)


def _query_of(fields: dict[str, Any]) -> EventQuery:
    return EventQuery(**fields)


_QUERIES: Final = st.fixed_dictionaries(
    {},
    optional={
        "after_seq": st.integers(0, 10),
        "since_ms": st.sampled_from((0, 1, 9, 11)),
        "until_ms": st.sampled_from((0, 2, 10, 11, 2**63)),
        "event_types": st.lists(_WORD, min_size=1, max_size=2).map(tuple),
        "member_id": _WORD,
        "module": _WORD,
        "run_id": _WORD,
        "fields": st.dictionaries(st.sampled_from(_SCOPES), st.sampled_from(("a", 1)), max_size=1),
    },
).map(_query_of)
_FEW_QUERIES: Final = st.just(EventQuery()) | _QUERIES

_ARGUMENTS: Final[dict[str, SearchStrategy[dict[str, Any]]]] = {
    "latest": st.fixed_dictionaries(
        {
            "before_seq": st.none() | st.integers(0, 12) | st.sampled_from((2**63 - 1, 2**64 - 1)),
            "limit": st.sampled_from((0, 1, 2, 5, 100, 2**64 - 1)),
        }
    ),
    "count": st.fixed_dictionaries({"at_most": st.sampled_from((0, 1, 3, 100, 2**64 - 1))}),
    "histogram": st.fixed_dictionaries({"bucket_ms": st.sampled_from((1, 2, 3, 10, 1_000, 2**63 - 1))}),
    "facets": st.fixed_dictionaries(
        {"field": st.sampled_from(FACETS), "top": st.sampled_from((0, 1, 2, 10))}
    ),
}


@cache
def _asks(method: str) -> SearchStrategy[Ask]:
    return st.builds(Ask, _FEW_QUERIES, _ARGUMENTS[method].map(lambda found: tuple(found.items())))


def _member_of(event: UnifiedEvent) -> str | None:
    return event.agent_id if isinstance(event, AgentEvent) else None


@st.composite
def _drawn(draw: DrawFn, method: str) -> Asked:
    count = draw(st.integers(1, 10))
    batches: list[list[PersistedEvent]] = [[]]
    for seq in draw(st.permutations(range(1, count + 1))):
        event = draw(_CONTENT)
        batches[-1].append(PersistedEvent(f"id-{seq}", seq, draw(_MOMENT), _member_of(event), event))
        if draw(BOOLEAN):
            # Some of them once more.
            batches.append(batches[-1][:1] if draw(BOOLEAN) else [])
    asks = draw(st.lists(_asks(method), min_size=1, max_size=6))
    return Asked(tuple(tuple(batch) for batch in batches if batch), tuple(asks), draw(BOOLEAN))


def _table(method: str) -> list[Asked]:
    """Events of both kinds with every value, and each facet and filter by itself."""
    events = [
        PersistedEvent(f"id-{seq}", seq, 5 * seq, _member_of(event), event)
        for seq, event in enumerate(
            (
                kind(who, what, {**dict.fromkeys(_SCOPES, who), "n": 1})
                for kind in (ModuleEvent, AgentEvent)
                for who in _WORDS
                for what in "aab"
            ),
            start=1,
        )
    ]
    arguments: dict[str, list[dict[str, Any]]] = {
        "latest": [{"limit": 2}, {"before_seq": 7, "limit": 3}, {"before_seq": 0, "limit": 9}],
        "count": [{"at_most": 100}, {"at_most": 2}],
        "histogram": [{"bucket_ms": 10}, {"bucket_ms": 7}],
        "facets": [{"field": field, "top": top} for field in FACETS for top in (1, 10)],
    }
    queries = (
        *(EventQuery(), EventQuery(event_types=("b",)), EventQuery(member_id="a"), EventQuery(module="A")),
        *(EventQuery(since_ms=20, until_ms=50), EventQuery(after_seq=4), EventQuery(run_id="b")),
        EventQuery(fields={"n": 1, "run_id": "a"}),
    )
    asks = tuple(Ask(query, tuple(given.items())) for query in queries for given in arguments[method])
    half = len(events) // 2
    return [Asked((tuple(events[:half]), tuple(events[half:])), asks)]


def _fewer(case: Asked) -> SearchStrategy[Asked]:
    batches = st.tuples(*(some(batch).map(tuple) for batch in case.batches)).map(
        lambda found: tuple(batch for batch in found if batch)
    )
    asks = some(case.asks, of_four=2).map(tuple).map(lambda found: found or case.asks[:1])
    return st.builds(Asked, batches, asks, BOOLEAN)


# --- many events, some of which come again ----------------------------------------------------------


async def _try_many(example: Example, count: int) -> None:
    """Past whatever a store may count in advance, in batches of all sizes, with repeats and a gap."""
    async with opened(example) as store:
        first = 1
        for share in (1, 3, 100, count):
            await store.append_series(first, share)
            first += share + (share == 3)  # noqa: PLR2004 - the gap
        await store.append(list(Series(first - 3, 5)))
        await store.append(list(Series(5, 1)))
        for _ in range(3):
            first = store.model.highest + 1
            await store.append(list(Series(first, 1)))
        await _ask_all(store, count)
    if example.subject.durable:
        async with opened(example) as store:
            await store.append_series(store.model.highest + 1, 20)
            await _ask_all(store, count)


async def _ask_all(store: OpenStore, count: int) -> None:
    window = EventQuery(since_ms=50, until_ms=count // 2, after_seq=20)
    for query in (EventQuery(), window):
        await _ask(store, "latest", Ask(query, (("limit", 5),)))
        await _ask(store, "count", Ask(query, (("at_most", 10 * count),)))
        await _ask(store, "histogram", Ask(query, (("bucket_ms", 100),)))
        await _ask(store, "histogram", Ask(query, (("bucket_ms", 2**40),)))
        await _ask(store, "facets", Ask(query, (("field", "event_type"),)))
        await _ask(store, "facets", Ask(query, (("field", "module"),)))


def _sizes(subject: StoreUnderTest) -> SearchStrategy[int]:
    return st.sampled_from(affordable(subject, (1_500, 150)))


def _check(clause: str, name: str, method: str, run: Any) -> Check:
    need = frozenset({method})
    return Check(
        clause=clause,
        name=name,
        cases=lambda _subject: _drawn(method),
        run=run,
        table=lambda _subject: _table(method),
        smaller=_fewer,
        share=0.1,
        needs=need,
    )


CHECKS: tuple[Check, ...] = (
    _check("S18", "newest first", "latest", _try_latest),
    _check("S18", "how many match", "count", _try_count),
    _check("S18", "by time and type", "histogram", _try_histogram),
    Check(
        clause="S18",
        name="many events",
        cases=_sizes,
        run=_try_many,
        fixed=1,
        needs=frozenset({"histogram"}),
    ),
    _check("S18", "by value", "facets", _try_facets),
)
