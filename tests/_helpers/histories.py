"""Histories of a store that keeps its contract, and what a broken store would have made of them."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.testing import (
    AppendOperation,
    LastSeqOperation,
    Operation,
    Outcome,
    QueryOperation,
)

CLOCK = "a clock"


@attrs.define(eq=False)
class Step:
    """An operation; for a query, also what was visible to it, in groups that became visible together."""

    operation: Any
    visible: tuple[tuple[PersistedEvent, ...], ...] = ()

    def answered(self) -> Operation:
        """The operation, for a query with the result that follows."""
        if not isinstance(self.operation, QueryOperation) or self.operation.outcome is not Outcome.OK:
            return self.operation
        return attrs.evolve(self.operation, found=result_of(self.operation.query, self.visible))


def result_of(query: EventQuery, visible: tuple[tuple[PersistedEvent, ...], ...]) -> tuple[Any, ...]:
    events = sorted((event for group in visible for event in group), key=lambda event: event.seq)
    found = [(event.seq, event.id) for event in events if query.matches(event)]
    return tuple(found[: query.limit])


@attrs.define
class Simulation:
    """One appender at a time, readers that lag, and operations that overlap."""

    random: Random
    steps: list[Step] = attrs.Factory(list)
    log: list[tuple[PersistedEvent, ...]] = attrs.Factory(list)
    now: float = 100.0
    appender: int = 1
    free_from: float = 0.0  # when the appender's latest append had ended
    limbo: tuple[PersistedEvent, ...] | None = None  # of an unknown outcome
    ids: int = 0
    seen_by: dict[str, int] = attrs.Factory(dict)  # how many groups each reader has seen

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def chance(self, of: int) -> bool:
        return self.number(1, of) == 1

    # --- the store ---

    def held(self) -> list[PersistedEvent]:
        return [event for group in self.log for event in group]

    def land(self, batch: tuple[PersistedEvent, ...]) -> frozenset[int] | None:
        """What append_batch returns, or None for a conflict."""
        by_id = {event.id: event for event in self.held()}
        taken = {event.seq for event in self.held()}
        new: list[PersistedEvent] = []
        elsewhere = set()
        for event in batch:
            known = by_id.get(event.id)
            if known is None:
                if event.seq in taken:
                    return None
                new.append(event)
                by_id[event.id] = event
                taken.add(event.seq)
            elif known.seq != event.seq:
                elsewhere.add(event.seq)
        if new:
            self.log.append(tuple(new))
        return frozenset(elsewhere)

    def settle(self) -> None:
        batch, self.limbo = self.limbo, None
        if batch is not None and self.chance(2):
            self.land(batch)

    # --- operations ---

    def times(self, *, sequential: bool = False) -> dict[str, float]:
        self.now += self.number(1, 20)
        if sequential:
            self.now = max(self.now, self.free_from + 2)
        began = self.now - self.number(1, 30)
        if sequential:
            began = max(began, self.free_from + 1)
        ended = self.now + self.number(1, 30)
        if sequential:
            self.free_from = ended
        return {"began": began, "ended": ended}

    def who(self, name: str, *, read_only: bool) -> dict[str, Any]:
        return {"process": name, "instance": name, "read_only": read_only, "clock": CLOCK}

    def fresh(self) -> list[PersistedEvent]:
        """New events, mostly on ascending seqs; a seq may have been given out in vain before."""
        taken = {event.seq for event in self.held()}
        highest = max(taken, default=0)
        events = []
        for _ in range(self.number(1, 4)):
            self.ids += 1
            seq = highest + self.number(1, 2)
            if self.chance(10):
                lower = [free for free in range(1, highest) if free not in taken]
                seq = lower[0] if lower else seq
            taken.add(seq)
            highest = max(highest, seq)
            kind = self.random.choice("ab")
            events.append(PersistedEvent(f"id-{self.ids}", seq, seq, None, ModuleEvent("m", kind)))
        return events

    def batch(self) -> tuple[PersistedEvent, ...]:
        held = self.held()
        if held and self.chance(5):
            # A repeat, maybe with other seqs, maybe with new events behind it.
            again = held[-self.number(1, min(3, len(held))) :]
            if self.chance(2):
                again = [attrs.evolve(event, seq=event.seq + 1000 + self.ids) for event in again]
            return (*again, *(self.fresh() if self.chance(2) else ()))
        if held and self.chance(8):
            (first, *others) = self.fresh()
            return (*others, attrs.evolve(first, seq=self.random.choice(held).seq))
        return tuple(self.fresh())

    def append(self) -> None:
        who = self.who(f"appender-{self.appender}", read_only=False)
        limbo = self.limbo
        retried = limbo is not None and self.chance(2)
        times = self.times(sequential=True)
        self.settle()
        batch = self.batch()
        if retried:
            known = {event.id for event in limbo}
            seqs = {event.seq for event in limbo}
            batch = (*limbo, *(e for e in batch if e.id not in known and e.seq not in seqs))
        fate = self.number(1, 5)
        operation = AppendOperation(**who, **times, batch=batch)
        if fate == 1:
            # Cancelled: it lands later, or never.
            self.limbo = batch
            self.steps.append(Step(attrs.evolve(operation, error="Cancelled: cancelled")))
            return
        returned = self.land(batch)
        if returned is None:
            self.steps.append(
                Step(attrs.evolve(operation, outcome=Outcome.FAILED, error="SequenceConflict: it"))
            )
        elif fate == 2:
            self.steps.append(Step(attrs.evolve(operation, error="StoreError: connection lost")))
        else:
            self.steps.append(Step(attrs.evolve(operation, outcome=Outcome.OK, returned=returned)))

    def reopen(self) -> None:
        if any(step.operation.instance == f"appender-{self.appender}" for step in self.steps):
            self.settle()
            self.appender += 1
            # Its first operation begins after all of the one before.
            self.now = max([self.now, *(step.operation.ended for step in self.steps)]) + 31
            self.free_from = self.now

    def question(self) -> EventQuery:
        fields: dict[str, Any] = {}
        if self.chance(2):
            fields["after_seq"] = self.number(0, max([3, *(event.seq for event in self.held())]))
        if self.chance(3):
            fields["limit"] = self.number(0, 4)
        if self.chance(4):
            fields["event_types"] = (self.random.choice("ab"),)
        return EventQuery(**fields)

    def query(self, name: str, *, read_only: bool) -> None:
        times = self.times()
        if self.limbo is not None and self.chance(4):
            self.settle()
        seen = len(self.log)
        if read_only:
            seen = self.number(self.seen_by.get(name, 0), len(self.log))
            self.seen_by[name] = seen
        operation = QueryOperation(
            **self.who(name, read_only=read_only), **times, outcome=Outcome.OK, query=self.question()
        )
        self.steps.append(Step(operation, tuple(self.log[:seen])))

    def last_seq(self, name: str, *, read_only: bool) -> None:
        times = self.times()
        if not read_only:
            self.settle()
        seen = len(self.log)
        if read_only:
            seen = self.number(self.seen_by.get(name, 0), len(self.log))
            self.seen_by[name] = seen
        highest = max((event.seq for group in self.log[:seen] for event in group), default=0)
        who = self.who(name, read_only=read_only)
        self.steps.append(Step(LastSeqOperation(**who, **times, outcome=Outcome.OK, last_seq=highest)))

    def run(self, count: int) -> list[Step]:
        for _ in range(count):
            step = self.number(1, 12)
            appender = f"appender-{self.appender}"
            reader = f"reader-{self.number(1, 2)}"
            if step <= 4:
                self.append()
            elif step <= 7:
                self.query(appender, read_only=False)
            elif step <= 9:
                self.query(reader, read_only=True)
            elif step == 10:
                self.last_seq(appender, read_only=False)
            elif step == 11:
                self.last_seq(reader, read_only=True)
            else:
                self.reopen()
        return self.steps


def _run(seed: int, steps: int) -> list[Step]:
    return Simulation(Random(seed)).run(steps)  # noqa: S311 - for examples


def legal_histories(max_steps: int = 40) -> SearchStrategy[list[Step]]:
    """Steps of runs in which the store does nothing wrong. A shorter run is the beginning of a longer one.

    From seeds: to draw every choice takes a hundred times as long, and what is small here are the steps.
    """
    return st.builds(_run, st.integers(0, 2**32), st.integers(1, max_steps))


def operations_of(steps: list[Step]) -> list[Operation]:
    return [step.answered() for step in steps]
