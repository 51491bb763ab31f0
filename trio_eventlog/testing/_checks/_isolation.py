"""S14: ids and seqs belong to one log."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._model import Model
from trio_eventlog.testing._open_store import opened
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest


@attrs.frozen
class TwoLogs:
    """What two logs get, in turns."""

    turns: tuple[tuple[int, int, str], ...]
    """Which log, which seq, which id."""


def _two_logs(_subject: StoreUnderTest) -> SearchStrategy[TwoLogs]:
    ids: SearchStrategy[str] = st.sampled_from(("x", "y", "z"))
    turns = st.lists(st.tuples(st.integers(0, 1), ids), min_size=2, max_size=6, unique=True)
    return turns.map(_numbered)


def _numbered(turns: Sequence[tuple[int, str]]) -> TwoLogs:
    """With the seqs of each log from 1 on, so that they meet those of the other."""
    numbered: list[tuple[int, int, str]] = []
    for log, event_id in turns:
        numbered.append((log, 1 + sum(log == other for other, _, _ in numbered), event_id))
    return TwoLogs(tuple(numbered))


async def _try_two_logs(example: Example, case: TwoLogs) -> None:
    sibling = example.sibling()
    async with (
        opened(example, name="first") as first,
        opened(example, location=sibling, name="second") as second,
    ):
        second.model = Model()
        stores = (first, second)
        for log, seq, event_id in case.turns:
            event = PersistedEvent(
                event_id, seq, 1_000, None, ModuleEvent("m", f"log-{log}", {"run_id": "r"})
            )
            await stores[log].append([event], returns=True)
        for store in stores:
            await store.query(values=True)
            await store.query(EventQuery(run_id="r"), values=True)
            await store.last_seq()


CHECKS: tuple[Check, ...] = (
    Check(clause="S14", name="two logs", cases=_two_logs, run=_try_two_logs, share=0.5),
)
