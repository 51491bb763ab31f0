"""One example: a store that is being tried, the model beside it, and the program that says what was done.

Every operation is written down before it is carried out, so that the program ends with what went wrong,
also if that never returns.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Never, TypeAlias, TypeVar

import attrs
import trio

from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventStore,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
)
from trio_eventlog.testing._children import Children
from trio_eventlog.testing._code import Script, Series, batch_code, query_code
from trio_eventlog.testing._model import Conflict, Model, Stored, difference

T = TypeVar("T")

OpenStore: TypeAlias = Callable[[Path], AbstractAsyncContextManager[EventStore]]
"""Opens the store at a location, for as long as the context lasts."""

DropStore: TypeAlias = Callable[[Path], Awaitable[object]]
"""Removes what the store keeps for a location."""


class ClauseViolation(AssertionError):
    """A store did not do what the contract says.

    Raised by the rules of :class:`StoreStateMachine`; :func:`check_store` makes a :class:`ClauseFailure`
    of it.

    Attributes:
      clause: which clause, for example ``"S5"``.
      message: what happened, and what should have.
      program: Python that does it again, if it is known.
      out_of_reach: whether the store never came back, so that its thread had to be left behind.
    """

    def __init__(self, clause: str, message: str, program: str = "") -> None:
        super().__init__(clause, message, program)
        self.clause = clause
        self.message = message
        self.program = program
        self.out_of_reach = False

    def __str__(self) -> str:
        return f"{self.clause}: {self.message}" + (f"\n\n{self.program}" if self.program else "")


@attrs.frozen(kw_only=True)
class Subject:
    """What is checked, and what is known about it."""

    open_store: OpenStore
    open_reader: OpenStore | None = None
    drop_store: DropStore | None = None
    durable: bool = True
    op_timeout: float = 5.0
    """Seconds after which an operation hangs."""

    children: Children | None = None
    """How to use the store in a process of its own; None if it cannot be."""

    max_batch: int | None = None
    lock_timeout: float = 0.0

    @property
    def reaction_time(self) -> float:
        """Seconds within which a cancelled operation ends."""
        return self.op_timeout / 5

    @property
    def patience(self) -> float:
        """Seconds after which an example is given up that does not even let the harness run."""
        return self.op_timeout * 1.5 + 2


# --- cancelling -----------------------------------------------------------------------------------


@attrs.frozen
class AfterTicks:
    """Cancel once the scheduler has come around so often."""

    ticks: int

    async def wait(self) -> None:
        """Until it is time."""
        for _ in range(self.ticks):
            await trio.lowlevel.checkpoint()

    def code(self) -> str:
        """The same as Python."""
        return f"for _ in range({self.ticks}):\n    await trio.lowlevel.checkpoint()"


@attrs.frozen
class AfterSeconds:
    """Cancel after a while."""

    seconds: float

    async def wait(self) -> None:
        """Until it is time."""
        await trio.sleep(self.seconds)

    def code(self) -> str:
        """The same as Python."""
        return f"await trio.sleep({self.seconds})"


Cut: TypeAlias = AfterTicks | AfterSeconds
"""When to cancel."""


@attrs.frozen
class Ended:
    """How an operation that was cancelled ended."""

    value: Any = None
    error: Exception | None = None
    cancelled: bool = False


# --- the example ----------------------------------------------------------------------------------


def fresh_location(parent: Path) -> Path:
    """A fresh empty directory in ``parent``, with a name that no run before had."""
    location = parent / f"te_{os.urandom(10).hex()}"
    location.mkdir()
    return location


class Session:
    """One example."""

    def __init__(self, subject: Subject, clause: str, location: Path) -> None:
        self.subject = subject
        self.clause = clause
        self.location = location
        self.model = Model()
        self.script = Script()
        self.violation: ClauseViolation | None = None
        self.last_sign_of_life = time.monotonic()
        self.in_progress = "opening the store"
        self.siblings: list[Path] = []

    def sibling(self) -> Path:
        """A second fresh location beside the first."""
        other = fresh_location(self.location.parent)
        self.siblings.append(other)
        return other

    def alive(self, doing: str, *, expected_seconds: float = 0.0) -> None:
        """Note that the example goes on, for whoever watches from outside."""
        self.in_progress = doing
        # What is known to take long may take its time.
        self.last_sign_of_life = time.monotonic() + expected_seconds

    def violated(self, message: str, cause: BaseException | None = None) -> Never:
        """End the example: the store broke the clause.

        Raises:
          ClauseViolation: always.
        """
        # Leaving the store may fail, too, or wrap this into a group: the first word counts.
        if self.violation is None:
            self.violation = ClauseViolation(self.clause, message)
        raise self.violation from cause

    def expect(self, condition: bool, message: str) -> None:
        """Go on only if ``condition`` holds."""
        if not condition:
            self.violated(message)

    # --- opening ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(
        self, *, location: Path | None = None, name: str = "store", reader: bool = False
    ) -> AsyncIterator[Tested]:
        """The store, open. What its opening or leaving raises breaks the clause, as does taking too long."""
        opener = self.subject.open_reader if reader else self.subject.open_store
        assert opener is not None
        function = "open_reader" if reader else "open_store"
        place = "location" if location is None else f"location.parent / {location.name!a}"
        entered = False
        body_error: BaseException | None = None
        # One scope around everything, its deadline moved: a scope around opening alone would be left
        # while the scopes that the store has opened are still entered.
        with trio.CancelScope(deadline=self._deadline()) as guard:
            self.alive("opening the store")
            try:
                with self.script.block(f"async with {function}({place}) as {name}:"):
                    async with opener(location or self.location) as store:
                        guard.deadline = math.inf
                        entered = True
                        try:
                            yield Tested(self, store, self.model, name)
                        except BaseException as exc:
                            body_error = exc
                            raise
                        finally:
                            guard.deadline = self._deadline()
                            self.alive("leaving the store")
            except Exception as exc:
                if self.violation is not None:
                    raise self.violation from exc
                if body_error is not None and holds(exc, body_error):
                    raise
                self.violated(f"{'leaving' if entered else 'opening'} the store raised {exc!r}", exc)
        if guard.cancelled_caught:
            self.violated(f"opening or leaving the store took longer than {self.subject.op_timeout} s")

    def _deadline(self) -> float:
        return trio.current_time() + self.subject.op_timeout

    async def call(
        self,
        what: str,
        function: Callable[..., Awaitable[T]],
        *args: object,
        passes: type[Exception] | tuple[()] = (),
    ) -> T:
        """Await a method of the store; it must end in time, and what it raises breaks the clause.

        Args:
          what: its name, for messages.
          function: the method.
          args: its arguments.
          passes: errors that may be due; they come out.

        Returns:
          What it returned.
        """
        try:
            return await self.call_raw(what, function, *args)
        except ClauseViolation:
            raise
        except passes:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is not due
            self.violated(f"{what} raised {exc!r}", exc)

    async def call_raw(self, what: str, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """The same, but what the method raises is passed on."""
        self.alive(what)
        results: list[T] = []
        with trio.move_on_after(self.subject.op_timeout) as scope:
            results.append(await function(*args))
        # Also if it swallowed that it was cancelled, and returned.
        if scope.cancel_called:
            self.violated(f"{what} took longer than {self.subject.op_timeout} s")
        return results[0]

    def note_cut(self, call: str, cut: Cut) -> None:
        """Write down that ``call``, arguments of ``start_soon``, is started and cancelled."""
        with self.script.block("async with trio.open_nursery() as nursery:"):
            self.script.add(f"nursery.start_soon({call})")
            self.script.add(cut.code())
            self.script.add("nursery.cancel_scope.cancel()")

    async def cut(self, what: str, cut: Cut, function: Callable[..., Awaitable[Any]], *args: object) -> Ended:
        """Call a method, cancel it, and wait for its end, which must come in time.

        Returns:
          How it ended.
        """
        self.alive(what)
        ended: Ended | None = None
        done = trio.Event()

        async def run() -> None:
            nonlocal ended
            try:
                ended = Ended(value=await function(*args))
            except Exception as exc:  # noqa: BLE001 - the caller judges it
                ended = Ended(error=exc)
            finally:
                done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await cut.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.move_on_after(self.subject.reaction_time):
                await done.wait()
            if not done.is_set():
                self.violated(f"{what}, cancelled, did not end within {self.subject.reaction_time} s")
        return Ended(cancelled=True) if ended is None else ended


def holds(group: BaseException, leaf: BaseException) -> bool:
    """Whether ``leaf`` is in ``group``, which nurseries of a store may have put around it."""
    if group is leaf:
        return True
    return isinstance(group, BaseExceptionGroup) and any(holds(exc, leaf) for exc in group.exceptions)


EVERYTHING: Final = EventQuery()


class Tested:
    """A store that is open, and what it should hold."""

    def __init__(self, session: Session, store: EventStore, model: Model, name: str) -> None:
        self.session = session
        self.store = store
        self.model = model
        self.name = name

    def pieces(self, batch: Sequence[PersistedEvent]) -> list[Sequence[PersistedEvent]]:
        """``batch`` in appends that the store declares it can take."""
        most = self.session.subject.max_batch
        if most is None or len(batch) <= most:
            return [batch]
        return [batch[start : start + most] for start in range(0, len(batch), most)]

    async def append(self, batch: Sequence[PersistedEvent], *, returns: bool = False) -> None:
        """Append events of which the model says that they are stored.

        Args:
          batch: the events; more than the store takes at once go one piece after the other.
          returns: check what the append returns.
        """
        for piece in self.pieces(batch):
            outcome = self.model.append(piece)
            assert isinstance(outcome, Stored), "the harness wanted a conflict here"
            code = batch_code(piece)
            if returns:
                self.session.script.add(
                    f"assert set(await {self.name}.append_batch({code})) == {_set_code(outcome.elsewhere)}"
                )
            else:
                self.session.script.add(f"await {self.name}.append_batch({code})")
            returned = await self._append(piece)
            if returns and (sorted(set(returned)) != sorted(outcome.elsewhere)):
                expected = list(outcome.elsewhere)
                self.session.violated(
                    f"append_batch returned {_listed(returned)}, expected {expected}: the seqs of the batch"
                    " whose id is held under another seq"
                )

    async def _append(self, batch: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            returned = await self.session.call(
                "append_batch", self.store.append_batch, list(batch), passes=SequenceConflict
            )
        except SequenceConflict as exc:
            self.session.violated(
                f"append_batch raised {exc!r}, though no new event sits on a seq that is taken", exc
            )
        whole = isinstance(returned, Collection) and not isinstance(returned, str | bytes)
        if not whole or not all(type(seq) is int for seq in returned):
            self.session.violated(f"append_batch returned {returned!r}, which is no collection of seqs")
        return returned

    async def append_series(self, first: int, count: int) -> None:
        """Append so many events, a thousand at a time, on the seqs from ``first`` on."""
        for start in range(first, first + count, 1_000):
            await self.append(Series(start, min(1_000, first + count - start)))

    async def watch(self, allowed: Collection[int], going: Callable[[], bool]) -> None:
        """Count the events again and again while ``going``, as a reader does beside an append."""
        reads = 0
        while going():
            found = len(await self.found())
            self.session.expect(
                found in allowed,
                f"a reader saw {found} events while batches were appended, expected one of {sorted(allowed)}",
            )
            # A reader that is never idle keeps Python's lock for itself: a store that writes in a thread
            # was seen to wait for it for ten seconds. The first reads find what lies between two ticks.
            reads += 1
            await trio.sleep(0.001 if reads > _READS_WITHOUT_PAUSE else 0)

    async def is_refused(self, batch: Sequence[PersistedEvent]) -> bool:
        """Append events that meet others on their seqs, and say whether that raised anything at all.

        For checks to which it does not matter what: that is the business of S3.
        """
        script = self.session.script
        script.add(f"try:\n    await {self.name}.append_batch({batch_code(batch)})")
        script.add("except Exception:\n    pass")
        try:
            await self.session.call_raw("append_batch", self.store.append_batch, list(batch))
        except ClauseViolation:
            raise
        except Exception:  # noqa: BLE001 - see above
            return True
        return False

    async def conflicting(self, batch: Sequence[PersistedEvent]) -> None:
        """Append events of which the model says that they meet others on their seqs."""
        outcome, _ = self.model.expect(batch)
        assert isinstance(outcome, Conflict), "the harness wanted no conflict here"
        script = self.session.script
        script.add(f"try:\n    await {self.name}.append_batch({_indented(batch_code(batch))})")
        script.add(
            "except SequenceConflict:\n    pass\nelse:\n    raise AssertionError('no SequenceConflict')"
        )
        try:
            await self.session.call(
                "append_batch", self.store.append_batch, list(batch), passes=SequenceConflict
            )
        except SequenceConflict as exc:
            named = tuple(exc.seqs)
            if not named or not set(named) <= set(outcome.seqs):
                self.session.violated(
                    f"SequenceConflict names seqs {list(named)}, expected {list(outcome.seqs)}"
                )
            return
        self.session.violated(
            f"append_batch raised no SequenceConflict, though other events sit on seqs {list(outcome.seqs)}"
        )

    async def query(self, query: EventQuery = EVERYTHING, *, values: bool = False) -> None:
        """Query, and compare with the model.

        Args:
          query: what to ask for.
          values: compare whole events, not their seqs alone.
        """
        expected = self.model.query(query)
        self._note_query(query, expected, values=values)
        found = await self.found(query)
        message = difference(found, expected) if values else _seq_difference(found, expected)
        if message is not None:
            self.session.violated(f"{query_code(query)} {message}")

    def _note_query(self, query: EventQuery, expected: list[PersistedEvent], *, values: bool) -> None:
        call = f"await {self.name}.query({query_code(query)})"
        if values and len(expected) <= _SHOWN_EVENTS:
            self.session.script.add(f"assert_same_events({call}, {batch_code(expected)})")
        elif len(expected) <= _SHOWN_SEQS:
            seqs = [event.seq for event in expected]
            self.session.script.add(f"assert [event.seq for event in {call}] == {seqs}")
        else:
            self.session.script.add(f"assert len({call}) == {len(expected)}")

    async def found(self, query: EventQuery = EVERYTHING) -> list[PersistedEvent]:
        """What a query returns, unjudged but for its type."""
        found = await self.session.call("query", self.store.query, query)
        self.session.expect(
            isinstance(found, list) and all(map(_is_event, found)),
            f"{query_code(query)} returned {_kind(found)}, expected a list of PersistedEvent",
        )
        return found

    async def last_seq(self) -> None:
        """Compare ``last_seq`` with the model."""
        self.session.script.add(f"assert await {self.name}.last_seq() == {self.model.highest}")
        found = await self.session.call("last_seq", self.store.last_seq)
        if type(found) is not int or found != self.model.highest:
            self.session.violated(f"last_seq returned {found!r}, expected {self.model.highest}")

    # --- cancelled appends ------------------------------------------------------------------------

    async def append_cut(self, batch: Sequence[PersistedEvent], cut: Cut) -> Ended:
        """Append and cancel. The outcome is unknown afterwards: see :meth:`settle`."""
        self.session.note_cut(f"{self.name}.append_batch, {batch_code(batch)}", cut)
        return await self.session.cut("append_batch", cut, self.store.append_batch, list(batch))

    async def settle(self, batch: Sequence[PersistedEvent], *, must_be_there: bool) -> None:
        """Find out what became of a cancelled append, and hold the store to it.

        Args:
          batch: what was appended, only new events.
          must_be_there: whether the append has returned.
        """
        script = self.session.script
        # Comes after the append in the backend's order, whatever the append still does.
        script.add(f"await {self.name}.last_seq()")
        await self.session.call("last_seq", self.store.last_seq)
        stored = {event.id for event in await self.found() if not self.model.holds(event.id)}
        there = [event for event in batch if event.id in stored]
        counts = "{0, " + str(len(batch)) + "}" if not must_be_there else "{" + str(len(batch)) + "}"
        script.add(f"stored = len(await {self.name}.query(EventQuery())) - {len(self.model)}")
        script.add(f"assert stored in {counts}, stored")
        if len(stored) != len(there):
            self.session.violated(f"events are stored that were never appended: {sorted(stored)[:5]}")
        if there and len(there) != len(batch):
            self.session.violated(f"{len(there)} of {len(batch)} events of a cancelled append are stored")
        if must_be_there and not there:
            self.session.violated("the append returned, but its events are not stored")
        self.model.adopt(there)


_READS_WITHOUT_PAUSE: Final = 50
_SHOWN_EVENTS: Final = 6
_SHOWN_SEQS: Final = 40


def _indented(code: str) -> str:
    return code.replace("\n", "\n    ")


def _set_code(seqs: Collection[int]) -> str:
    return "{" + ", ".join(map(str, seqs)) + "}" if seqs else "set()"


def _listed(value: Collection[int]) -> str:
    return str(sorted(value)) if all(type(item) is int for item in value) else repr(value)


def _is_event(value: object) -> bool:
    if not isinstance(value, PersistedEvent) or not isinstance(value.event, AgentEvent | ModuleEvent):
        return False
    return type(value.seq) is int


def _kind(found: Any) -> str:
    if not isinstance(found, list):
        return type(found).__name__
    kinds = sorted({type(item).__name__ for item in found})
    return f"a list of {', '.join(kinds)}"


def _seq_difference(found: Sequence[PersistedEvent], expected: Sequence[PersistedEvent]) -> str | None:
    if [event.seq for event in found] == [event.seq for event in expected]:
        return None
    return difference(found, expected)
