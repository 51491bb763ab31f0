"""A store that is open, with what it should hold: the steps of which most examples are made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import attrs
import trio

from trio_eventlog import EventQuery, EventStore, PersistedEvent, SequenceConflict, StoreError
from trio_eventlog.abc import EventPage, PagedStore
from trio_eventlog.testing._example import CancelPoint, ClauseViolation, Example, Outcome, call_and_cancel
from trio_eventlog.testing._model import Accepted, Conflict, Model, difference
from trio_eventlog.testing._program import Series, code_of

EVERYTHING: Final = EventQuery()

_SERIES_BATCH: Final = 1_000


@asynccontextmanager
async def opened(
    example: Example, *, location: Path | None = None, name: str = "store", reader: bool = False
) -> AsyncIterator[OpenStore]:
    """Open the store, as :meth:`Example.opened` does."""
    async with example.opened(location=location, name=name, reader=reader) as store:
        example.program.variables[name] = LimitedStore(example, store)
        yield OpenStore(example, store, example.model, name)


async def read_until(done: trio.Event, store: EventStore, allowed: set[int]) -> None:
    """Count the events again and again, as a reader does during an append."""
    reads = 0
    while not done.is_set():
        found = len(await store.query(EventQuery()))
        expected = f"expected one of {sorted(allowed)}"
        assert found in allowed, f"a reader saw {found} events while batches were appended, {expected}"
        # A reader that is never idle keeps Python's lock for itself: a store that writes in a thread was seen
        # to wait for it for ten seconds. The first reads find what lies between two ticks.
        reads += 1 + found // 100
        await trio.sleep(0.001 if reads > 50 else 0)  # noqa: ASYNC110, PLR2004 - see above


@asynccontextmanager
async def read_meanwhile(
    example: Example, readers: int, allowed: set[int], *, name: str = "store"
) -> AsyncIterator[None]:
    """Let readers of a store count its events meanwhile, which must be one of the ``allowed`` numbers."""
    example.program.assign("done", "trio.Event()")
    async with example.nursery() as nursery:
        for _ in range(readers):
            example.start(nursery, "a query", read_until, "done", name, values=[allowed])
        try:
            yield
        finally:
            # Also where the example ends before: the readers of its program must end, too.
            example.perform("done.set()")


@attrs.frozen
class LimitedStore:
    """The store for helpers of an example: a method that takes too long, or raises, breaks the clause."""

    example: Example
    store: EventStore

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Append. An error of a store is for the helper to judge."""
        append = self.store.append_batch
        return await self.example.faultless("append_batch", append, events, due=StoreError)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """Query."""
        return await self.example.faultless("query", self.store.query, query)

    async def last_seq(self) -> int:
        """Ask for the last seq."""
        return await self.example.faultless("last_seq", self.store.last_seq)


@attrs.define
class OpenStore:
    """A store that is open.

    Attributes:
      example: the example that opened it.
      store: the store itself.
      model: what it should hold.
      name: the variable of the program that is the store.
    """

    example: Example
    store: EventStore
    model: Model
    name: str

    def pieces(self, batch: Sequence[PersistedEvent]) -> list[Sequence[PersistedEvent]]:
        """``batch`` in appends no larger than the store declares."""
        max_batch = self.example.subject.max_batch
        if max_batch is None or len(batch) <= max_batch:
            return [batch]
        return [batch[start : start + max_batch] for start in range(0, len(batch), max_batch)]

    # --- calling ----------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        *args: object,
        result: str | None = None,
        due: type[Exception] | tuple[()] = (),
    ) -> Any:
        """Call a method of the store, which must return in time, or raise what is ``due``.

        The program has what it returns in the variable ``result``, if anything looks at it.
        """
        program = self.example.program
        program.add(f"{f'{result} = ' if result else ''}await {self._code(method, args)}", *args)
        returned = await self.example.faultless(method, getattr(self.store, method), *copied(args), due=due)
        if result:
            program.variables[result] = returned
        return returned

    async def attempt(self, method: str, *args: object, what: str | None = None) -> Exception | None:
        """Call a method and return what it raises. The program has the error, or None, in ``error``."""
        program = self.example.program
        program.add("error = None")
        with program.block("try:"):
            program.add(f"await {self._code(method, args)}", *args)
        program.add("except Exception as exc:\n    error = exc")
        error: Exception | None = None
        try:
            await self.example.limited(what or method, getattr(self.store, method), *copied(args))
        except ClauseViolation:
            raise
        except Exception as exc:  # noqa: BLE001 - judged by the caller
            error = exc
        program.variables["error"] = error
        return error

    def start(self, nursery: trio.Nursery, method: str, *args: object, what: str) -> None:
        """Start a method in :meth:`Example.nursery`, where what it raises breaks the clause."""
        arguments = ", ".join([f"{self.name}.{method}", *(f"${index}" for index in range(len(args)))])
        self.example.program.add(f"nursery.start_soon({arguments})", *args)
        call = partial(self.example.faultless, what, getattr(self.store, method), *copied(args))
        nursery.start_soon(call)

    async def cancel(self, method: str, *args: object, point: CancelPoint, errors: bool = False) -> Outcome:
        """Call a method and cancel it, as :func:`call_and_cancel` does."""
        call = partial(getattr(self.store, method), *copied(args))
        code = self._code(method, args)
        return await call_and_cancel(self.example, method, code, args, call, point=point, errors=errors)

    def _code(self, method: str, args: Sequence[object]) -> str:
        return f"{self.name}.{method}({', '.join(f'${index}' for index in range(len(args)))})"

    # --- appending --------------------------------------------------------------------------------

    async def append(self, batch: Sequence[PersistedEvent], *, returns: bool = False) -> None:
        """Append events that the model accepts, in pieces if the store takes fewer at once.

        ``returns`` says whether what the append returns is checked.
        """
        for piece in self.pieces(batch):
            outcome = self.model.append(piece)
            assert isinstance(outcome, Accepted), "the harness wanted a conflict here"
            returned = await self._append(piece, returns=returns)
            if returns:
                self.example.check(
                    "set(returned) == $0",
                    f"append_batch returned {_listed(returned)}, expected {list(outcome.elsewhere)}: the seqs"
                    " of the batch whose id is held under another seq",
                    set(outcome.elsewhere),
                )

    async def _append(self, batch: Sequence[PersistedEvent], *, returns: bool) -> Collection[int]:
        example = self.example
        result = "returned" if returns else None
        try:
            returned: Any = await self.call(
                "append_batch", as_list(batch), result=result, due=SequenceConflict
            )
        except SequenceConflict as exc:
            example.violated(
                f"append_batch raised {exc!r}, though no new event sits on a seq that is taken", exc
            )
        if not isinstance(returned, Collection) or not example.program.evaluate(_ARE_SEQS, returned):
            if result is None:
                example.program.name_last("returned")
            example.program.add(f"assert {_ARE_SEQS.replace('$0', 'returned')}")
            example.violated(f"append_batch returned {returned!r}, which is not a collection of seqs")
        return cast("Collection[int]", returned)

    async def append_series(self, first: int, count: int) -> None:
        """Append this many events, a thousand at a time, on the seqs from ``first`` on."""
        for start in range(first, first + count, _SERIES_BATCH):
            await self.append(Series(start, min(_SERIES_BATCH, first + count - start)))

    async def is_refused(self, batch: Sequence[PersistedEvent]) -> bool:
        """Append events that meet others on their seqs, and say whether that raised anything at all.

        For checks that do not care what it raised: S3 does.
        """
        return await self.attempt("append_batch", as_list(batch)) is not None

    async def conflicting(self, batch: Sequence[PersistedEvent]) -> None:
        """Append events that meet others on their seqs, by the model."""
        outcome, _ = self.model.expect(batch)
        assert isinstance(outcome, Conflict), "the harness wanted no conflict here"
        error = await self.attempt("append_batch", as_list(batch))
        taken = list(outcome.seqs)
        self.example.check(
            "isinstance(error, SequenceConflict)",
            f"append_batch raised {error!r}, expected SequenceConflict: other events sit on seqs {taken}"
            if error
            else f"append_batch raised no SequenceConflict, though other events sit on seqs {taken}",
        )
        assert isinstance(error, SequenceConflict)
        self.example.require(
            "error.seqs and set(error.seqs) <= $0",
            f"SequenceConflict names seqs {list(error.seqs)}, expected {taken}",
            set(taken),
        )

    # --- reading ----------------------------------------------------------------------------------

    async def query(self, query: EventQuery = EVERYTHING, *, values: bool = False) -> None:
        """Query, and compare the seqs with the model, or with ``values`` whole events."""
        expected = self.model.query(query)
        found = await self.found(query)
        if values:
            self.example.perform(
                "assert_same_events(found, $0)", expected, failure=lambda exc: f"{code_of(query)} {exc}"
            )
        else:
            self.example.check(
                "[event.seq for event in found] == $0",
                lambda: f"{code_of(query)} {difference(found, expected)}",
                [event.seq for event in expected],
            )

    async def found(self, query: EventQuery = EVERYTHING, *, result: str = "found") -> list[PersistedEvent]:
        """What a query returns, of which only the type is checked. The program has it in ``result``."""
        found: list[PersistedEvent] = await self.call("query", query, result=result)
        self.example.require(
            _ARE_EVENTS.replace("found", result),
            lambda: f"{code_of(query)} returned {_kind(found)}, expected a list of PersistedEvent",
        )
        return found

    async def has_lost(self, seqs: range) -> bool:
        """Whether the last event of a batch of a thousand is not there, as far as small queries tell."""
        ends = {seqs[-1], *seqs[_SERIES_BATCH - 1 :: _SERIES_BATCH]}
        queries = [EventQuery(after_seq=seq - 1, limit=1) for seq in ends]
        found = [
            [event.seq for event in await self.example.faultless("query", self.store.query, query)]
            for query in queries
        ]
        return found != [[seq] for seq in ends]

    async def query_pages(self, max_bytes: int) -> None:
        """Read everything page by page, from a store that has ``query_page``, and compare with the model."""
        example = self.example
        after_seq = 0
        is_complete = not isinstance(self.store, PagedStore)
        while not is_complete:
            assert isinstance(self.store, PagedStore)
            query = EventQuery(after_seq=after_seq)
            call = partial(self.store.query_page, query, max_bytes=max_bytes)
            example.program.add(f"page = await {self.name}.query_page($0, max_bytes=$1)", query, max_bytes)
            page: Any = await example.faultless("query_page", call)
            example.program.variables["page"] = page
            example.require(
                f"isinstance(page, EventPage) and {_ARE_EVENTS.replace('found', 'page.events')}",
                f"query_page returned {_kind_of_page(page)}, expected an EventPage of events",
            )
            expected = [event.seq for event in self.model.query(query)]
            found = [event.seq for event in page.events]
            example.check(
                "[event.seq for event in page.events] == $0",
                f"query_page after seq {after_seq} found seqs {found}, expected {expected[: len(found)]}",
                expected[: len(found)],
            )
            is_complete = len(found) == len(expected)
            example.check(
                "page.is_complete is $0 and (page.events or page.is_complete)",
                f"query_page after seq {after_seq} found {len(found)} of {len(expected)} events, with"
                f" is_complete={page.is_complete}",
                is_complete,
            )
            after_seq = found[-1] if found else after_seq

    async def last_seq(self) -> None:
        """Compare ``last_seq`` with the model."""
        last_seq = await self.call("last_seq", result="last_seq")
        self.example.check(
            "type(last_seq) is int and last_seq == $0",
            f"last_seq returned {last_seq!r}, expected {self.model.highest}",
            self.model.highest,
        )

    # --- cancelled appends ------------------------------------------------------------------------

    async def cancel_append(self, batch: Sequence[PersistedEvent], point: CancelPoint) -> Outcome:
        """Append and cancel. The outcome is unknown afterwards: see :meth:`settle`.

        Whether an error is allowed is the business of S11.
        """
        return await self.cancel("append_batch", as_list(batch), point=point, errors=True)

    async def settle(self, batch: Sequence[PersistedEvent], *, must_be_there: bool) -> None:
        """Find out what became of a cancelled append of new events, and hold the store to it."""
        example = self.example
        # Comes after the append in the backend's order, whatever the append still does.
        await self.call("last_seq")
        held = len(self.model)
        stored = {event.id for event in await self.found() if not self.model.holds(event.id)}
        there = [event for event in batch if event.id in stored]
        example.check(
            "len(found) - $0 in $1",
            f"events are stored that were never appended: {sorted(stored)[:5]}"
            if len(stored) != len(there)
            else f"{len(there)} of {len(batch)} events of a cancelled append are stored"
            if there
            else "the append returned, but its events are not stored",
            held,
            {len(batch)} if must_be_there else {0, len(batch)},
        )
        example.require(
            "{event.id for event in found} <= $0",
            f"events are stored that were never appended: {sorted(stored)[:5]}",
            {event.id for event in [*self.model.events(), *batch]},
        )
        self.model.adopt(there)


_ARE_SEQS: Final = "type($0) not in (str, bytes) and all(type(seq) is int for seq in $0)"
_ARE_EVENTS: Final = (
    "type(found) is list and all(isinstance(event, PersistedEvent) and isinstance(event.event, AgentEvent |"
    " ModuleEvent) and type(event.seq) is int for event in found)"
)


def as_list(batch: Sequence[PersistedEvent]) -> list[PersistedEvent]:
    """A batch as a list. A series stays one, since a program has a short form for it."""
    return batch if isinstance(batch, list) else list(batch)


def copied(args: Sequence[object]) -> list[object]:
    """Arguments for the store, with lists of its own: it cannot change what the program shows."""
    return [list(arg) if isinstance(arg, list) else arg for arg in args]


def _listed(value: Collection[int]) -> str:
    return str(sorted(value)) if all(type(item) is int for item in value) else repr(value)


def _kind_of_page(page: Any) -> str:
    return f"an EventPage of {_kind(page.events)}" if isinstance(page, EventPage) else type(page).__name__


def _kind(found: Any) -> str:
    if not isinstance(found, list):
        return type(found).__name__
    kinds = sorted({type(item).__name__ for item in found})
    return f"a list of {', '.join(kinds)}"
