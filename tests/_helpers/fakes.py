"""Stores that do on command what real ones do by accident, for tests of the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

import attrs
import trio
import trio.testing
from hypothesis import strategies as st

from trio_eventlog import (
    AgentEvent,
    EventLog,
    EventQuery,
    EventRejected,
    PersistedEvent,
    RetryPolicy,
    StoreError,
)
from trio_eventlog.testing import FailureReports

Clock = trio.testing.MockClock

STEADY = RetryPolicy(initial=1.0, maximum=8.0, multiplier=2.0, jitter=0)

Behaviour = Callable[["FakeStore", Sequence[PersistedEvent]], Awaitable[Collection[int]]]


@attrs.define(eq=False)
class Append:
    """One call of ``append_batch``."""

    started_at: float
    seqs: tuple[int, ...]


async def take(store: FakeStore, events: Sequence[PersistedEvent]) -> Collection[int]:
    """What a good store does."""
    return store.keep(events)


async def fail(_store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
    """What a store does that is down."""
    msg = "down"
    raise StoreError(msg)


async def hang(_store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
    """What a store does whose network eats packets."""
    await trio.sleep_forever()
    raise AssertionError


def delay(seconds: float, then: Behaviour = take) -> Behaviour:
    """What a slow store does."""

    async def behaviour(store: FakeStore, events: Sequence[PersistedEvent]) -> Collection[int]:
        await trio.sleep(seconds)
        return await then(store, events)

    return behaviour


def fail_with(error: BaseException) -> Behaviour:
    """Raises ``error``, the same object each time."""

    async def behaviour(_store: FakeStore, _events: Sequence[PersistedEvent]) -> Collection[int]:
        raise error

    return behaviour


async def take_and_fail(store: FakeStore, events: Sequence[PersistedEvent]) -> Collection[int]:
    """What a store does whose answer gets lost."""
    store.keep(events)
    msg = "connection lost after the commit"
    raise StoreError(msg)


class FakeStore:
    """Keeps events in a dict and does what ``script`` says, behaviour by behaviour, then ``otherwise``."""

    survives = "power"

    def __init__(self, script: Iterable[Behaviour] = (), otherwise: Behaviour = take) -> None:
        self.script = list(script)
        self.otherwise = otherwise
        self.held: dict[str, PersistedEvent] = {}
        self.appends: list[Append] = []
        self.max_batch: int | None = None
        self.first_last_seq = 0
        self.asked_last_seq = 0
        self.in_flight = 0
        self.most_in_flight = 0

    def keep(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, by the contract."""
        return [event.seq for event in events if self.held.setdefault(event.id, event).seq != event.seq]

    @property
    def seqs(self) -> list[int]:
        """The seqs that are held, in the order in which they were stored."""
        return [event.seq for event in self.held.values()]

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Do what comes next in the script."""
        self.appends.append(Append(trio.current_time(), tuple(event.seq for event in events)))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await trio.lowlevel.checkpoint()
            behaviour = self.script.pop(0) if self.script else self.otherwise
            return await behaviour(self, events)
        finally:
            self.in_flight -= 1

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """By the one definition of what a filter means."""
        await trio.lowlevel.checkpoint()
        found = sorted((e for e in self.held.values() if query.matches(e)), key=lambda event: event.seq)
        return found[: query.limit]

    async def last_seq(self) -> int:
        """The highest seq that is held, or the one set by the test."""
        await trio.lowlevel.checkpoint()
        self.asked_last_seq += 1
        return max(self.seqs, default=self.first_last_seq)


class Reports(FailureReports):
    """An ``on_failure`` that keeps what it is told, with the times."""

    @property
    def lost(self) -> list[int]:
        """Seqs of all lost events, in the order reported."""
        return list(self.lost_seqs)


def numbered(number: int) -> AgentEvent:
    """An event that can be told from others."""
    return AgentEvent("worker", "step", {"number": number})


def burst(log: EventLog, count: int) -> list[int | None]:
    """Ingest ``count`` events without a checkpoint."""
    return [log.ingest(numbered(n)) for n in range(count)]


async def reject_even(store: FakeStore, events: Sequence[PersistedEvent]) -> Any:
    """What a store does that cannot hold some events."""
    bad = [e for e in events if e.event.payload["number"] % 2 == 0 and e.id not in store.held]
    if bad:
        raise EventRejected(bad, "even")
    return store.keep(events)


async def break_the_contract(_store: FakeStore, _events: Sequence[PersistedEvent]) -> Any:
    """What a store does that lets the errors of its driver through."""
    msg = "of a driver"
    raise ValueError(msg)


BEHAVIOURS: dict[str, Behaviour] = {
    "take": take,
    "fail": fail,
    "take and fail": take_and_fail,
    "hang": hang,
    "slow": delay(0.7),
    "slow, then fail": delay(3.0, fail),
    "slow, take and fail": delay(0.2, take_and_fail),
    "reject": reject_even,
    "foreign": break_the_contract,
}

BEHAVIOUR_NAMES = st.sampled_from(list(BEHAVIOURS))


def event_at(seq: int) -> PersistedEvent:
    return PersistedEvent("of the test", seq, 0, None, numbered(0))
