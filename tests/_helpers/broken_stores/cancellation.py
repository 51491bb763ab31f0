"""Stores that break S11: checkpoints, cancellation, and blocking."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import trio

from tests._helpers.broken_stores._broken import WHILE, Broken, memory
from tests._helpers.correct_stores import (
    CorrectMemoryStore,
    Held,
)
from trio_eventlog import (
    EventQuery,
    PersistedEvent,
    StoreError,
)

# --- S11: checkpoints, cancellation, blocking -----------------------------------------------------


class EmptyBatchIsNoCheckpoint(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        self._check_usable()
        return await super().append_batch(events) if events else []


class LimitZeroIsNoCheckpoint(CorrectMemoryStore):
    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        self._check_usable()
        return [] if query.limit == 0 else await super().query(query)


class LastSeqIsNoCheckpoint(CorrectMemoryStore):
    async def last_seq(self) -> int:
        self._check_usable()
        return self.highest


class ShieldedAppend(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        with trio.CancelScope(shield=True):
            return await super().append_batch(events)


class SwallowsCancelled(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        try:
            await trio.sleep(WHILE)
        except trio.Cancelled:  # noqa: ASYNC103 - the fault
            return  # noqa: ASYNC104 - the fault
        await super()._commit(new)


class CancelledIsAnError(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except trio.Cancelled as exc:
            raise StoreError("aborted") from exc  # noqa: ASYNC104 - the fault


class BlocksAsleep(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        if len(events) >= 1_000:
            time.sleep(0.3)  # noqa: ASYNC251 - the fault
        return await super().append_batch(events)


class BlocksAtWork(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        end = time.thread_time() + 0.3
        while len(events) >= 1_000 and time.thread_time() < end:
            pass
        return await super().append_batch(events)


class SlowToCancel(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)
            raise

    async def _commit(self, new: Sequence[Held]) -> None:
        await trio.sleep(WHILE)
        await super()._commit(new)


class OneCallAtATime(CorrectMemoryStore):
    busy = False

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        return await self._alone(partial(super().append_batch, events))

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        return await self._alone(partial(super().query, query))

    async def _alone(self, call: Callable[[], Any]) -> Any:
        if self.busy:
            raise trio.BusyResourceError("another task uses this connection")
        self.busy = True
        try:
            return await call()
        finally:
            self.busy = False


BROKEN: tuple[Broken, ...] = (
    memory("S11", "an empty batch is no checkpoint", EmptyBatchIsNoCheckpoint),
    memory("S11", "limit 0 is no checkpoint", LimitZeroIsNoCheckpoint),
    memory("S11", "last_seq is no checkpoint", LastSeqIsNoCheckpoint),
    memory("S11", "a cancelled append stores and returns", ShieldedAppend),
    memory("S11", "swallows Cancelled", SwallowsCancelled, "S4", "S10"),
    memory("S11", "Cancelled becomes a StoreError", CancelledIsAnError, "S15"),
    memory("S11", "blocks the loop asleep", BlocksAsleep),
    memory("S11", "blocks the loop at work", BlocksAtWork),
    memory("S11", "slow to be cancelled", SlowToCancel, "S4"),
    memory("S11", "one call at a time", OneCallAtATime, "S4", "S10", "S12"),
)
