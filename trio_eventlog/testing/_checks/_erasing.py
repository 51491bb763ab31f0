"""S17: what becomes of events that are erased, and of what they said."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.abc import ErasableStore
from trio_eventlog.testing._checks._common import BOOLEAN
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._open_store import OpenStore, opened
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest

_MARK: Final = "ann-7f3c91d2"
"""Stands in everything that is to be erased, and in nothing else."""

_REASON: Final = "the harness asks"


@attrs.frozen
class Erasing:
    """What is stored, and what of it is erased."""

    events: tuple[PersistedEvent, ...]
    query: EventQuery
    seqs: frozenset[int]
    """What the query matches."""


def _event(seq: int, *, is_marked: bool, is_long: bool = False) -> PersistedEvent:
    name = _MARK if is_marked else "bob"
    text = f"{name} " * (2_000 if is_long else 1)
    payload = {"identity": name, "run_id": f"run of {name}", f"key of {name}": [text]}
    if seq % 2:
        return PersistedEvent(f"id-{seq}", seq, 1_000 * seq, "w", AgentEvent("w", f"t-{seq % 3}", payload))
    return PersistedEvent(f"id-{seq}", seq, 1_000 * seq, None, ModuleEvent("m", f"t-{seq % 3}", payload))


def _case(events: Sequence[PersistedEvent], query: EventQuery) -> Erasing:
    return Erasing(tuple(events), query, frozenset(event.seq for event in events if query.matches(event)))


def _table(_subject: StoreUnderTest) -> Sequence[Erasing]:
    by_name = EventQuery(identity=_MARK)
    few = [_event(seq, is_marked=seq % 3 == 0) for seq in range(1, 8)]
    many = [_event(seq, is_marked=seq % 3 == 0, is_long=seq % 10 == 0) for seq in range(1, 61)]
    return (_case(few, by_name), _case(many, by_name), _case(few, EventQuery(identity="nobody")))


@st.composite
def _cases(draw: DrawFn, _subject: StoreUnderTest) -> Erasing:
    marks = draw(st.lists(BOOLEAN, min_size=1, max_size=8))
    events = [_event(seq, is_marked=mark, is_long=draw(BOOLEAN)) for seq, mark in enumerate(marks, 1)]
    narrower: dict[str, Any] = draw(
        st.sampled_from(
            (
                {},
                {"after_seq": 2},
                {"since_ms": 2_000, "until_ms": 5_000},
                {"event_types": ("t-1", "t-2")},
                {"member_id": "w"},
            )
        )
    )
    return _case(events, EventQuery(identity=_MARK, **narrower))


async def _try_erasing(example: Example, case: Erasing) -> None:
    async with opened(example) as store:
        await store.append(case.events)
        await _erase(example, store, case.query, len(case.seqs))
        await _check_events(example, store, case)
        # A repeat is still known as one, and does not bring back what was erased.
        for piece in store.pieces(case.events):
            await store.call("append_batch", list(piece))
        await _check_events(example, store, case)
        if not example.subject.durable:
            await _erase(example, store, case.query, 0)
        await store.last_seq()
    if not example.subject.durable:
        return
    marked = {event.seq for event in case.events if EventQuery(identity=_MARK).matches(event)}
    if marked == case.seqs:
        example.program.define(files_with)
        files = files_with(example.location, _MARK)
        example.program.variables["files"] = files
        example.program.add("files = files_with(location, $0)", _MARK)
        example.check("not files", f"what was erased is still in {', '.join(files)}")
    async with opened(example) as store:
        await _check_events(example, store, case)
        # Not before the files were searched: it may do what the first one did not.
        await _erase(example, store, case.query, 0)
        await store.last_seq()


def files_with(location: Path, text: str) -> list[str]:
    """The names of files that have a text in them."""
    files = sorted(path for path in location.rglob("*") if path.is_file())
    return [path.name for path in files if text.encode() in path.read_bytes()]


async def _erase(example: Example, store: OpenStore, query: EventQuery, count: int) -> None:
    assert isinstance(store.store, ErasableStore)
    example.program.add(f"erased = await {store.name}.erase($0, reason=$1)", query, _REASON)
    erased: Any = await example.faultless("erase", partial(store.store.erase, query, reason=_REASON))
    example.program.variables["erased"] = erased
    example.check("erased == $0", f"erase returned {erased!r}, and {count} events match", count)


async def _check_events(example: Example, store: OpenStore, case: Erasing) -> None:
    found = await store.found()
    example.check(
        "[(event.seq, event.id, event.timestamp_ms, event.member_id) for event in found] == $0",
        lambda: (
            f"after erase the events are those of seqs {[event.seq for event in found]}, or their fields"
            " are others; expected all as they were"
        ),
        [(event.seq, event.id, event.timestamp_ms, event.member_id) for event in case.events],
    )
    example.check(
        "all((event.seq in $0) == (list(event.event.payload or ()) == ['@erased']) for event in found)",
        lambda: "of seqs {} the payloads are erased, expected {}".format(
            [event.seq for event in found if list(event.event.payload or ()) == ["@erased"]],
            sorted(case.seqs),
        ),
        set(case.seqs),
    )
    example.check(
        "all(event.event.payload['@erased']['reason'] == $1 for event in found if event.seq in $0)",
        "a tombstone does not have the reason that was given",
        set(case.seqs),
        _REASON,
    )
    example.perform(
        "assert_same_events([event for event in found if event.seq not in $0], $1)",
        set(case.seqs),
        [event for event in case.events if event.seq not in case.seqs],
        failure=lambda exc: f"erase changed events that do not match: {exc}",
    )
    scoped = await store.found(EventQuery(identity=_MARK), result="scoped")
    example.check(
        "not [event for event in scoped if event.seq in $0]",
        lambda: f"a query still finds seqs {[event.seq for event in scoped]} by what was erased",
        set(case.seqs),
    )


CHECKS: tuple[Check, ...] = (
    Check(
        clause="S17",
        name="erasing",
        cases=_cases,
        run=_try_erasing,
        table=_table,
        share=0.2,
        needs=frozenset({"erase"}),
    ),
)
