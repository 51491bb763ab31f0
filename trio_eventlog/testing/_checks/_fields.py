"""S5 and S6 again: modules, and values in payloads, as queries ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.testing._checks._filters import Reads, some, try_seqs
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._strategies import FAMILIES
from trio_eventlog.testing._subject import StoreUnderTest


@attrs.frozen
class Stored:
    """Payloads that are stored, and fields that are asked for, with a limit and without."""

    payloads: tuple[Any, ...]
    asked: tuple[dict[str, Any], ...]
    limits: tuple[int | None, ...] = (None,)


async def _try_stored(example: Example, case: Stored) -> None:
    batch = tuple(
        PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", "t", payload))
        for seq, payload in enumerate(case.payloads, start=1)
    )
    queries = tuple(EventQuery(fields=fields, limit=limit) for fields in case.asked for limit in case.limits)
    await try_seqs(example, Reads((batch,) if batch else (), queries))


def _fewer_stored(case: Stored) -> SearchStrategy[Stored]:
    asked = some(case.asked, of_four=2).map(tuple)
    return st.builds(Stored, some(case.payloads).map(tuple), asked, some(case.limits).map(tuple))


# --- S5: where a value is looked for ----------------------------------------------------------------

_PLACES: tuple[Any, ...] = (
    {"k": 1},
    {"k": 2},
    {"k": 1, "l": 2},
    {"l": 2, "k": 1, "m": None},
    {"l": 1},
    {"k": None},
    {},
    None,
    ["k", 1],
    [{"k": 1}],
    {"a": {"k": 1}},
    {"a": [{"k": 1}]},
    {"a": '"k":1'},
    {"k": {"k": 1}},
    {"k": [1]},
    "k",
    1,
    {"k": 1, "a": "x" * 5_000},
)
"""Payloads with a value under a key, without it, and with it elsewhere."""

_LOOKED_FOR = (
    {"k": 1},
    {"k": None},
    {"k": 1, "l": 2},
    {"k": 2, "l": 2},
    {"x": 1},
    {"k": {"k": 1}},
    {"k": [1]},
)


def _places(_subject: StoreUnderTest) -> list[Stored]:
    return [Stored(_PLACES, _LOOKED_FOR, (None, 1, 2))]


def _some_places(subject: StoreUnderTest) -> SearchStrategy[Stored]:
    return _fewer_stored(_places(subject)[0])


# --- S6: which values are the same ------------------------------------------------------------------

_VALUE_FAMILIES: tuple[tuple[Any, ...], ...] = (
    (1, 1.0, True, "1", "1.0", "true", [1], "[1]", 10, 1.5, -1),
    (0, 0.0, -0.0, False, "", None, [], {}, "0", "null", "{}", "false"),
    (2**53, 2**53 + 1, float(2**53), 2**63 - 1, 2**63, float(2**63), 2**64 - 1, -(2**63)),
    (0.1, 0.1 + 0.2, 0.3, 1e22, 10**19, 1e19, 5e-324, 0.30000000000000004, 1.7976931348623157e308),
    ([1, 2], [2, 1], [1], [1, 2, 3], [1.0, 2], [[1, 2]], ["1", "2"], [True, 2]),
    (
        *({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1.0, "b": 2}),
        *({"a": {"b": [1, None]}}, {"a": {"b": [1, False]}}, [{"b": 2, "a": 1}], {"": 1}, {"a": None}),
    ),
)
"""Values that something takes for the same."""


def _value_table(_subject: StoreUnderTest) -> list[Stored]:
    families = (*_VALUE_FAMILIES, *FAMILIES)
    return [_of_values(family, family, "k") for family in families]


def _of_values(stored: Sequence[Any], asked: Sequence[Any], key: str) -> Stored:
    return Stored(tuple({key: value} for value in stored), tuple({key: value} for value in asked))


def _some_values(_subject: StoreUnderTest) -> SearchStrategy[Stored]:
    return st.sampled_from((*_VALUE_FAMILIES, *FAMILIES)).flatmap(
        lambda family: st.builds(_of_values, some(family), some(family, of_four=2), st.just("k"))
    )


def _key_families() -> list[tuple[str, ...]]:
    # Long keys say nothing that long texts do not.
    return [family for family in FAMILIES if all(len(text) < 100 for text in family)]  # noqa: PLR2004 - as above


def _of_keys(stored: Sequence[str], asked: Sequence[str]) -> Stored:
    # Also what a path would lead to.
    nested = ({"a": {"b": 1}}, {"a": {"": 1}}, {"a": [1]})
    return Stored((*({key: 1} for key in stored), *nested), tuple({key: 1} for key in asked))


def _key_table(_subject: StoreUnderTest) -> list[Stored]:
    return [_of_keys(family, family) for family in _key_families()]


def _some_keys(_subject: StoreUnderTest) -> SearchStrategy[Stored]:
    return st.sampled_from(_key_families()).flatmap(
        lambda family: st.builds(_of_keys, some(family), some(family, of_four=2))
    )


# --- S6: modules ------------------------------------------------------------------------------------


@attrs.frozen
class Modules:
    """Names that are stored, each as a module and as an agent, and names that are asked for."""

    stored: tuple[str, ...]
    asked: tuple[str, ...]


async def _try_modules(example: Example, case: Modules) -> None:
    events = [kind(name, "t") for name in case.stored for kind in (AgentEvent, ModuleEvent)]
    batch = tuple(PersistedEvent(f"id-{seq}", seq, 0, None, event) for seq, event in enumerate(events, 1))
    queries = tuple(EventQuery(module=name) for name in case.asked)
    await try_seqs(example, Reads((batch,) if batch else (), queries))


def _module_table(_subject: StoreUnderTest) -> list[Modules]:
    return [Modules(family, family) for family in FAMILIES]


def _some_modules(_subject: StoreUnderTest) -> SearchStrategy[Modules]:
    return st.sampled_from(FAMILIES).flatmap(_some_names)


@cache
def _some_names(family: tuple[str, ...]) -> SearchStrategy[Modules]:
    names = some(family).map(tuple)
    return st.builds(Modules, names, names)


CHECKS: tuple[Check, ...] = (
    Check(
        clause="S5",
        name="fields of payloads",
        cases=_some_places,
        run=_try_stored,
        table=_places,
        smaller=_fewer_stored,
        share=0.1,
    ),
    Check(
        clause="S6",
        name="values that look alike",
        cases=_some_values,
        run=_try_stored,
        table=_value_table,
        smaller=_fewer_stored,
        share=0.3,
    ),
    Check(
        clause="S6",
        name="keys that look alike",
        cases=_some_keys,
        run=_try_stored,
        table=_key_table,
        smaller=_fewer_stored,
        share=0.2,
    ),
    Check(
        clause="S6",
        name="modules that look alike",
        cases=_some_modules,
        run=_try_modules,
        table=_module_table,
        smaller=lambda case: _some_names(case.stored),
        share=0.2,
    ),
)
