"""Stores that break S4: all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from tests._helpers.broken_stores._broken import WHILE, Broken, memory
from tests._helpers.correct_stores import (
    CorrectMemoryStore,
    Held,
)
from trio_eventlog import (
    StoreError,
)

# --- S4: all or nothing ---------------------------------------------------------------------------


class EventByEvent(CorrectMemoryStore):
    size = 1

    async def _commit(self, new: Sequence[Held]) -> None:
        for start in range(0, len(new), self.size):
            await super()._commit(new[start : start + self.size])
            await trio.lowlevel.checkpoint()


class ChunkByChunk(EventByEvent):
    size = 100


class PartStoredIfCancelled(CorrectMemoryStore):
    """No reader sees a part of a batch, unless it stays at that."""

    async def _commit(self, new: Sequence[Held]) -> None:
        done: list[Held] = []
        try:
            for held in new:
                done.append(held)
                await trio.lowlevel.checkpoint()
        finally:
            await super()._commit(done)  # noqa: ASYNC102 - has no checkpoint


class AbortedForEver(CorrectMemoryStore):
    aborted = False

    def _refuse_taken(self, new: Sequence[Held]) -> None:
        if self.aborted:
            raise StoreError("current transaction is aborted")
        self.aborted = bool(self._taken(new))
        super()._refuse_taken(new)


class CancelledAppendLandsLater(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        try:
            await trio.sleep(WHILE)
        except trio.Cancelled:
            # Whoever opened the store need not know of a nursery: a driver has threads.
            trio.lowlevel.spawn_system_task(self._land, new)
            raise
        await super()._commit(new)

    async def _land(self, new: Sequence[Held]) -> None:
        await trio.sleep(0.03)
        # It is late, and still clever enough to do nothing else wrong.
        if not self.closed:
            new, _ = self._sort_out(new)
            self._store([held for held in new if held.event.seq not in self.by_seq])


class CancelledAppendKeepsLock(CorrectMemoryStore):
    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.connection = trio.Semaphore(1)

    async def _commit(self, new: Sequence[Held]) -> None:
        await self.connection.acquire()
        try:
            await trio.sleep(WHILE)
            await super()._commit(new)
        except Exception:
            # Cancelled is no Exception.
            self.connection.release()
            raise
        self.connection.release()


BROKEN: tuple[Broken, ...] = (
    memory("S4", "committed event by event", EventByEvent),
    memory("S4", "committed in chunks of 100", ChunkByChunk),
    memory("S4", "part stored if cancelled", PartStoredIfCancelled),
    memory("S4", "aborted for ever by a conflict", AbortedForEver),
    memory("S4", "a cancelled append lands later", CancelledAppendLandsLater, "S10"),
    memory("S4", "a cancelled append keeps the inner lock", CancelledAppendKeepsLock, "S10", "S11"),
)
