"""A Hypothesis state machine that uses a store as a log and its readers do, and more."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from hypothesis.strategies import SearchStrategy

from trio_eventlog import AgentEvent, EventQuery, EventStore, PersistedEvent, UnifiedEvent
from trio_eventlog.testing._check_store import declarations
from trio_eventlog.testing._checks._common import cancel_points
from trio_eventlog.testing._example import CancelPoint, ClauseViolation, Example
from trio_eventlog.testing._importing import opening_of
from trio_eventlog.testing._model import Conflict
from trio_eventlog.testing._open_store import OpenStore, opened, read_meanwhile
from trio_eventlog.testing._portal import Portal, PortalStuck
from trio_eventlog.testing._processes import run_killed
from trio_eventlog.testing._strategies import MAX_STORED, batches, events, queries
from trio_eventlog.testing._subject import (
    Children,
    StoreUnderTest,
    find_children,
    fresh_location,
)

T = TypeVar("T")

_MAX_BATCH = 200
"""Larger ones are for :func:`check_store`; here they would fill the log for all later queries."""

_CLOSE_TIMEOUT = 30.0


def _drawn_batches() -> SearchStrategy[list[PersistedEvent]]:
    return st.runner().flatmap(lambda machine: batches(max_batch=machine.most_per_batch))


@attrs.define(eq=False)
class _HeldStore:
    """A store that a task of its own keeps open: rules come and go."""

    example: Example
    store: OpenStore | None = None
    error: Exception | None = None
    _leave: trio.Event = attrs.Factory(trio.Event)
    _left: trio.Event = attrs.Factory(trio.Event)

    async def hold(self, task_status: trio.TaskStatus[None]) -> None:
        """Keep the store open until :meth:`close`."""
        try:
            async with opened(self.example) as self.store:
                task_status.started()
                await self._leave.wait()
        except Exception as exc:
            if self.store is None:
                raise
            self.error = exc
        finally:
            self._left.set()

    async def close(self) -> None:
        """Leave the store. What that raises comes out."""
        self._leave.set()
        await self._left.wait()
        self.check()

    def check(self) -> None:
        """Raise what the task ended with, if it did."""
        if self.error is not None:
            raise self.error


class StoreStateMachine(RuleBasedStateMachine):
    """A state machine for your store: subclass it, and override :meth:`open_store`.

    Its rules append (any batch, and as a log does), redeliver what was appended before (the same, a
    suffix, with newer events, with other content), meet seqs that are taken, query with any filter, page
    by cursor, read while appends run, cancel appends, lose the answer of an append, reopen the store and
    kill a process that appends. After each the store must answer as a model does. Hypothesis finds the
    shortest sequence of rules that it does not survive. The rules of an example share one Trio run, on the
    real clock, in the thread that calls them; so they cannot be run from within Trio.

    Run it as any state machine: ``TestMyStore = MyMachine.TestCase`` for pytest and unittest, or
    :func:`hypothesis.stateful.run_state_machine_as_test`. A violation is a :class:`ClauseViolation` that
    names the clause and carries the program so far.

    Attributes:
      durable: whether the store keeps its events when it is left; False leaves out reopening and kills.
      kills: whether a process that appends is killed, at most once in an example; each takes about as long
        as Python takes to start. Left out also if a child process cannot import the class.
      op_timeout: seconds after which an operation hangs, as in :func:`check_store`.
      most_per_batch: most events of a batch, unless the store declares a lower ``max_batch``.
    """

    durable: ClassVar[bool] = True
    kills: ClassVar[bool] = True
    op_timeout: ClassVar[float] = 5.0
    most_per_batch: int = _MAX_BATCH

    _children: ClassVar[dict[type[StoreStateMachine], Children | str]] = {}

    def open_store(self, location: Path) -> AbstractAsyncContextManager[EventStore]:
        """Open your store at ``location``, as for :func:`check_store`.

        For kills a child process must be able to call it: the class stands at the top level of a module,
        and this method uses nothing of ``self`` but what the class has.
        """
        raise NotImplementedError

    async def drop_store(self, location: Path) -> None:
        """Remove what the store keeps for ``location`` outside of its directory; called at the end."""
        del location
        await trio.lowlevel.checkpoint()

    def __init__(self) -> None:
        """Open the store on a fresh location."""
        super().__init__()
        self._root = tempfile.TemporaryDirectory(prefix="trio_eventlog_", ignore_cleanup_errors=True)
        location = fresh_location(Path(self._root.name))
        opener = _Opener(type(self))
        self._subject = StoreUnderTest(open_store=opener, durable=self.durable, op_timeout=self.op_timeout)
        self._example = Example(self._subject, "S10", location)
        self._opening = opening_of(opener).code
        self._given: list[list[PersistedEvent]] = []
        self._killed = False
        self._ids = 0
        self._held: _HeldStore | None = None
        self._portal = Portal(patience=self._patience)
        try:
            self._do("S10", self._open)
        except BaseException:
            self.teardown()
            raise

    def _patience(self) -> float:
        return self._example.last_sign_of_life + self._subject.patience - time.monotonic()

    def _do(self, clause: str, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Carry out a step of a rule; what goes wrong breaks ``clause``."""
        example = self._example
        example.clause = clause
        example.alive(getattr(function, "__name__", "a step").strip("_"))
        try:
            return self._portal.call(function, *args)
        except PortalStuck as exc:
            violation = ClauseViolation("S11", f"{example.in_progress}: {exc}")
        except Exception:
            if example.violation is None:
                raise
            violation = example.violation
        example.violation = violation
        why = f"{violation.clause}: {violation.message}"
        program = example.program.code(self._opening, why)
        raise ClauseViolation(violation.clause, violation.message, program) from violation.__cause__

    # --- opening and leaving ----------------------------------------------------------------------

    async def _open(self) -> None:
        assert self._portal.nursery is not None
        held = _HeldStore(self._example)
        await self._portal.nursery.start(held.hold)
        self._held = held
        held.check()
        declared = declarations(self._store.store)
        if declared.max_batch is not None:
            self.most_per_batch = min(self.most_per_batch, declared.max_batch)
        # After a kill the lock of a network store is waited for.
        self._subject = attrs.evolve(self._subject, lock_timeout=declared.lock_timeout)
        self._example.subject = self._subject

    async def _close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held.close()

    @property
    def _store(self) -> OpenStore:
        assert self._held is not None
        assert self._held.store is not None
        return self._held.store

    # --- appending --------------------------------------------------------------------------------

    async def _append(self, batch: Sequence[PersistedEvent]) -> None:
        outcome, _ = self._example.model.expect(batch)
        if isinstance(outcome, Conflict):
            self._example.clause = "S3"
            await self._store.conflicting(batch)
        else:
            await self._store.append(batch, returns=True)
            self._given.append(list(batch))

    def _next(self, content: Sequence[UnifiedEvent]) -> list[PersistedEvent]:
        """New events as a log makes them; none once the seqs have come to their end."""
        first = self._example.model.highest + 1
        new: list[PersistedEvent] = []
        for seq, event in enumerate(content, start=first):
            if seq > MAX_STORED:
                break
            self._ids += 1
            member = event.agent_id if isinstance(event, AgentEvent) else None
            new.append(PersistedEvent(f"new-{self._ids}", seq, seq % 10, member, event))
        return new[: self.most_per_batch]

    @rule(batch=_drawn_batches())
    def append(self, batch: list[PersistedEvent]) -> None:
        """Append anything: new events, repeats, some on seqs that are taken."""
        self._do("S1", self._append, batch)

    @rule(content=st.lists(events(), min_size=1, max_size=5), twice=st.booleans())
    def append_as_a_log(self, content: list[UnifiedEvent], twice: bool) -> None:
        """Append new events on ascending seqs, perhaps one of them twice in the batch."""
        batch = self._next(content)
        if twice:
            batch = [*batch, *batch[:1]][-self.most_per_batch :]
        self._do("S1", self._append, batch)

    @precondition(lambda self: self._given)
    @rule(index=st.integers(0, 20), start=st.integers(0, 3), content=st.lists(events(), max_size=3))
    def redeliver(self, index: int, start: int, content: list[UnifiedEvent]) -> None:
        """Append an old batch again, or a suffix of it, with newer events behind."""
        old = self._given[index % len(self._given)]
        batch = [*old[min(start, len(old)) :], *self._next(content)]
        self._do("S1", self._append, batch[: self.most_per_batch])

    @precondition(lambda self: self._given)
    @rule(index=st.integers(0, 20), content=events(), same_seq=st.booleans())
    def redeliver_changed(self, index: int, content: UnifiedEvent, same_seq: bool) -> None:
        """Append an old event again, with other content under the same id, perhaps on another seq."""
        old = self._given[index % len(self._given)][:1]
        fresh = self._example.model.highest + 1
        changed = [
            attrs.evolve(event, event=content, seq=event.seq if same_seq or fresh > MAX_STORED else fresh)
            for event in old
        ]
        self._do("S1", self._append, changed)

    # No precondition: whether a cancelled append has landed must not decide which rules there are.
    @rule(index=st.integers(0, 20), content=st.lists(events(), max_size=2))
    def conflict(self, index: int, content: list[UnifiedEvent]) -> None:
        """Append new events of which the last sits on a seq that is taken."""
        held = self._example.model.events()
        if not held:
            return
        self._ids += 1
        taken = attrs.evolve(held[index % len(held)], id=f"other-{self._ids}")
        self._do("S3", self._append, [*self._next(content), taken][-self.most_per_batch :])

    @rule(content=st.lists(events(), min_size=1, max_size=5), point=cancel_points())
    def cancel_append(self, content: list[UnifiedEvent], point: CancelPoint) -> None:
        """Cancel an append of new events; then find out what became of it."""
        self._do("S4", self._append_and_cancel, self._next(content), point)

    async def _append_and_cancel(self, batch: list[PersistedEvent], point: CancelPoint) -> None:
        if not batch:
            return
        outcome = await self._store.cancel_append(batch, point)
        returned = not outcome.cancelled and outcome.error is None
        await self._store.settle(batch, must_be_there=returned)
        self._given.append(batch)

    @rule(content=st.lists(events(), min_size=1, max_size=5))
    def lose_an_answer(self, content: list[UnifiedEvent]) -> None:
        """Append, take it for failed, and append it all again, as a log does after a timeout."""
        batch = self._next(content)
        self._do("S1", self._append, batch)
        self._do("S1", self._append, batch)

    # --- reading ----------------------------------------------------------------------------------

    @rule(query=queries())
    def query(self, query: EventQuery) -> None:
        """Ask for anything."""
        self._do("S5", self._query, query)

    async def _query(self, query: EventQuery) -> None:
        await self._store.query(query)
        self._example.clause = "S7"
        await self._store.query(query, values=True)

    @rule(limit=st.integers(1, 5), query=queries())
    def page(self, limit: int, query: EventQuery) -> None:
        """Read all results page by page."""
        self._do("S5", self._page, limit, query)

    async def _page(self, limit: int, query: EventQuery) -> None:
        after_seq = query.after_seq
        for _ in range(_MAX_PAGES):
            page = attrs.evolve(query, limit=limit, after_seq=after_seq)
            await self._store.query(page)
            expected = self._example.model.query(page)
            if len(expected) < limit:
                return
            after_seq = expected[-1].seq

    @rule()
    def last_seq(self) -> None:
        """Ask for the end of the log."""
        self._do("S9", self._store.last_seq)

    @rule(content=st.lists(events(), min_size=2, max_size=5), readers=st.integers(1, 3))
    def read_while_appending(self, content: list[UnifiedEvent], readers: int) -> None:
        """Several readers while an append runs: they see all of it or nothing."""
        self._do("S4", self._read_while_appending, self._next(content), readers)

    async def _read_while_appending(self, batch: list[PersistedEvent], readers: int) -> None:
        if not batch:
            return
        held = len(self._example.model)
        async with read_meanwhile(self._example, readers, {held, held + len(batch)}):
            await self._append(batch)

    # --- opening again ----------------------------------------------------------------------------

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        """Leave the store, and open it again."""
        self._do("S15", self._close)
        self._do("S15", self._open)
        self._do("S9", self._store.last_seq)
        self._do("S10", self._query, EventQuery())

    @precondition(lambda self: self._can_kill())
    @rule(content=st.lists(events(), min_size=1, max_size=3), point=st.none() | cancel_points())
    def kill_the_writer(self, content: list[UnifiedEvent], point: CancelPoint | None) -> None:
        """Let another process append, and kill it, perhaps in the midst of that."""
        self._killed = True
        batch = self._next(content)
        if not batch:
            return
        self._do("S15", self._close)
        acknowledged = self._do("S10", run_killed, self._example, [batch], point)
        self._do("S13", self._open)
        self._do("S10", self._settle, batch, bool(acknowledged))

    async def _settle(self, batch: list[PersistedEvent], acknowledged: bool) -> None:
        await self._store.settle(batch, must_be_there=acknowledged)
        self._given.append(batch)

    def _can_kill(self) -> bool:
        if self._killed or not (self.durable and self.kills and self._given):
            return False
        kind = type(self)
        if kind not in self._children:
            self._children[kind] = find_children(opening_of(_Opener(kind)))
        children = self._children[kind]
        if not isinstance(children, Children):
            return False
        self._subject = attrs.evolve(self._subject, children=children)
        self._example.subject = self._subject
        return True

    def teardown(self) -> None:
        """Compare everything once more, if nothing went wrong, and leave the store."""
        try:
            if self._example.violation is None and self._held is not None:
                self._do("S10", self._query, EventQuery())
                self._do("S15", self._close)
        finally:
            self._example.alive("leaving the store", expected_seconds=_CLOSE_TIMEOUT)
            try:
                self._portal.close(self._drop)
            finally:
                self._root.cleanup()

    async def _drop(self) -> None:
        with trio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            await self.drop_store(self._example.location)


_MAX_PAGES = 20


@attrs.frozen
class _Opener:
    """Calls ``open_store`` of a machine that was never started, here or in a child process."""

    machine: type[StoreStateMachine]

    def __call__(self, location: Path) -> AbstractAsyncContextManager[EventStore]:
        """Open the store."""
        bare: Any = object.__new__(self.machine)
        opened: AbstractAsyncContextManager[EventStore] = self.machine.open_store(bare, location)
        return opened
