"""S12: errors are those of trio_eventlog, and say whether to try again."""

from __future__ import annotations

from typing import Final

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import AgentEvent, EventRejected, ModuleEvent, PersistedEvent
from trio_eventlog.testing._checks._cancellation import CALLS, arguments, calls
from trio_eventlog.testing._checks._common import nested, once, plain
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._open_store import OpenStore, opened
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreUnderTest


async def _try_after_leaving(example: Example, name: str) -> None:
    method, _ = CALLS[name]
    async with opened(example) as store:
        await store.append([plain(1)])
    what = f"{name} after the store was left"
    error = await store.attempt(method, *arguments(name), what=what)
    unusable = "isinstance(error, StoreUnusable)"
    how = "returned" if error is None else f"raised {error!r}"
    example.check(
        # In memory, nothing needs to be closed.
        unusable if example.subject.durable else f"error is None or {unusable}",
        f"{what} {how}; expected StoreUnusable",
    )


@attrs.frozen
class Extreme:
    """An event beyond what every store must hold."""

    where: str
    size: int


_SIZES: Final = {
    "payload": (70_000, 300_000, 1_200_000),
    "levels": (33, 100, 200),
    "id": (600, 3_000, 70_000),
    "member_id": (600, 3_000, 70_000),
    "event_type": (600, 3_000, 70_000),
    "run_id": (600, 3_000, 70_000),
    "module": (600, 3_000, 70_000),
}


def _max_extremes(subject: StoreUnderTest) -> int:
    return max(1, min(3, (subject.max_batch or 5) - 1))


def _extremes(subject: StoreUnderTest) -> SearchStrategy[list[Extreme]]:
    places = st.sampled_from(list(_SIZES))
    extreme = places.flatmap(lambda where: st.builds(Extreme, st.just(where), st.sampled_from(_SIZES[where])))
    return st.lists(extreme, min_size=1, max_size=_max_extremes(subject))


def _extremes_table(subject: StoreUnderTest) -> list[list[Extreme]]:
    # Several in a batch, since all must be named.
    count = _max_extremes(subject)
    return [[Extreme(where, size) for size in sizes[-count:]] for where, sizes in _SIZES.items()]


def _extreme_event(seq: int, extreme: Extreme) -> PersistedEvent:
    # A long text whose every prefix is unlike that of its neighbours, so that ids differ.
    text = chr(ord("a") + seq % 26) * extreme.size
    match extreme.where:
        case "payload":
            return plain(seq, payload=text)
        case "levels":
            return plain(seq, payload=nested(extreme.size))
        case "id":
            return plain(seq, event_id=text)
        case "member_id":
            return PersistedEvent(f"id-{seq}", seq, 0, text, AgentEvent(text, "t"))
        case "event_type":
            return PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", text))
        case "run_id":
            return plain(seq, payload={"run_id": text})
        case _:
            return PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent(text, "t"))


async def _try_extremes(example: Example, case: list[Extreme]) -> None:
    extreme = [_extreme_event(seq, item) for seq, item in enumerate(case, start=2)]
    batch = [plain(1), *extreme, plain(len(extreme) + 2)]
    async with opened(example) as store:
        if len(store.pieces(batch)) > 1:
            batch = extreme[:1]
        named = await _rejected(store, batch, extreme)
        if named:
            # A store that takes them breaks no clause either.
            example.program.add("if error is None:\n    return")
            await store.query(values=True)
            # Alone it is rejected again, and what was not named is taken.
            for event in named:
                await _rejected(store, [event], extreme)
                example.check(
                    "error is not None", f"the event on seq {event.seq} was rejected, and then stored"
                )
        rest = [event for event in batch if event not in named]
        if named:
            again = await _rejected(store, rest, extreme)
            example.check(
                "error is None",
                f"EventRejected named seqs {[event.seq for event in named]}, and of the others in the batch"
                f" then {[event.seq for event in again]}; it must name all at once",
            )
        example.model.adopt(rest)
        found = [event.seq for event in await store.found()]
        example.perform(
            "assert_same_events(found, $0)",
            example.model.events(),
            failure=lambda exc: (
                f"seqs {found} were read back, expected {[event.seq for event in rest]},"
                f" all of them unchanged: {exc}"
            ),
        )


async def _rejected(
    store: OpenStore, batch: list[PersistedEvent], extreme: list[PersistedEvent]
) -> list[PersistedEvent]:
    """The events that the store names when it rejects ``batch``; none if it takes it."""
    example = store.example
    error = await store.attempt("append_batch", batch)
    example.check(
        "error is None or isinstance(error, EventRejected)",
        f"append_batch of events that are too large raised {error!r}; expected EventRejected",
    )
    if not isinstance(error, EventRejected):
        return []
    example.require(
        "error is None or (error.events and all(event in $0 for event in error.events))",
        f"EventRejected names {len(error.events)} events that are not in the batch",
        batch,
    )
    named = [event for event in batch if event in error.events]
    example.check(
        "error is None or {event.seq for event in error.events} <= $0",
        f"EventRejected names seqs {[event.seq for event in named if event not in extreme]}, which every"
        " store must hold",
        {event.seq for event in extreme},
    )
    return named


async def _try_reader_appends(example: Example, _case: None) -> None:
    async with opened(example) as store:
        await store.append([plain(1)])
        async with opened(example, name="reader", reader=True) as reader:
            what = "append_batch of a reader"
            error = await reader.attempt("append_batch", [plain(2)], what=what)
            how = "returned" if error is None else f"raised {error!r}"
            example.check("isinstance(error, StoreUnusable)", f"{what} {how}; expected StoreUnusable")
        await store.query()


CHECKS: tuple[Check, ...] = (
    Check(clause="S12", name="after leaving", cases=calls, run=_try_after_leaving, fixed=8),
    Check(
        clause="S12",
        name="events that are too large",
        cases=_extremes,
        run=_try_extremes,
        table=_extremes_table,
        share=0.3,
    ),
    Check(
        clause="S12",
        name="a reader that appends",
        cases=once,
        run=_try_reader_appends,
        fixed=1,
        needs=frozenset({"reader"}),
    ),
)
