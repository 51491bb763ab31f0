"""Stores that break S1 to S3: repeats, seqs in any order, and seqs that are taken."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

import attrs

from tests._helpers.broken_stores._broken import Broken, file, memory
from tests._helpers.correct_stores import (
    CorrectFileStore,
    CorrectMemoryStore,
    Held,
)
from trio_eventlog import (
    PersistedEvent,
    SequenceConflict,
    StoreError,
)

# --- S1: a repeat changes nothing -----------------------------------------------------------------


class OnlyWithinABatch(CorrectMemoryStore):
    def _known(self, event: PersistedEvent) -> Held | None:
        return None


class OnlyBetweenBatches(CorrectMemoryStore):
    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        new = [held for held in batch if self._known(held.event) is None]
        return new, super()._sort_out([held for held in batch if self._known(held.event)])[1]


class DuplicateDropsBatch(CorrectMemoryStore):
    repeats = False

    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        new, elsewhere = super()._sort_out(batch)
        self.repeats = len(new) < len(batch)
        return new, elsewhere

    async def _commit(self, new: Sequence[Held]) -> None:
        if not self.repeats:
            await super()._commit(new)


class LastWriteWins(CorrectMemoryStore):
    def _known(self, event: PersistedEvent) -> Held | None:
        known = super()._known(event)
        return known if known and known.event.seq != event.seq else None

    def _taken(self, new: Sequence[Held]) -> set[int]:
        return super()._taken([held for held in new if held.event.id not in self.by_id])


class WindowInCount(CorrectMemoryStore):
    """Knows the latest 1,000 events."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.numbers: dict[str, int] = {}

    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        for held in new:
            self.numbers[held.event.id] = len(self.numbers)

    def _known(self, event: PersistedEvent) -> Held | None:
        known = super()._known(event)
        return known if known and len(self.numbers) - self.numbers[event.id] <= 1_000 else None


class WindowInTime(CorrectMemoryStore):
    """Knows the events of the last 0.1 s."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.times: dict[str, float] = {}

    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        self.times.update((held.event.id, time.monotonic()) for held in new)

    def _known(self, event: PersistedEvent) -> Held | None:
        known = super()._known(event)
        return known if known and time.monotonic() - self.times[event.id] <= 0.1 else None


class IdsForgottenOnReopen(CorrectFileStore):
    async def _open(self) -> None:
        await super()._open()
        self.by_id.clear()


class RepeatIsAnError(CorrectMemoryStore):
    def _known(self, event: PersistedEvent) -> Held | None:
        if super()._known(event):
            raise StoreError("UNIQUE constraint failed")
        return None


class ElsewhereNotReturned(CorrectMemoryStore):
    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        await super().append_batch(events)
        return []


class AllRepeatsReturned(CorrectMemoryStore):
    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        new, _ = super()._sort_out(batch)
        return new, [held.event.seq for held in set(batch) - set(new)]


# --- S2: any order, and gaps ----------------------------------------------------------------------


class LowerSeqsRefused(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        if any(held.event.seq < self.highest for held in new):
            raise StoreError("out of order")
        await super()._commit(new)


class LowerSeqsDropped(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        await super()._commit([held for held in new if held.event.seq > self.highest])


class GapsClosed(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        last = self.highest
        renumbered: list[Held] = []
        for held in self._ordered(list(new)):
            last = max(last, min(held.event.seq, last + 1))
            moved = held.event.seq > last
            renumbered.append(self._hold(attrs.evolve(held.event, seq=last)) if moved else held)
        await super()._commit(renumbered)


class BatchMustBeSorted(CorrectMemoryStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        if list(new) != self._ordered(list(new)):
            raise StoreError("batch not in order")
        await super()._commit(new)


# --- S3: a seq that is taken ----------------------------------------------------------------------


class TakenSeqOverwritten(CorrectMemoryStore):
    def _taken(self, new: Sequence[Held]) -> set[int]:
        return set()


class TakenSeqIgnored(CorrectMemoryStore):
    def _taken(self, new: Sequence[Held]) -> set[int]:
        return set()

    def _store(self, new: Sequence[Held]) -> None:
        for held in new:
            if held.event.seq not in self.by_seq:
                super()._store([held])


class ConflictStoresTheRest(CorrectMemoryStore):
    def _refuse_taken(self, new: Sequence[Held]) -> None:
        if taken := self._taken(new):
            self._store([held for held in new if held.event.seq not in taken])
            raise SequenceConflict(sorted(taken))


class ConflictBeforeIds(CorrectMemoryStore):
    """A known event is set aside only if it comes with the seq that it has."""

    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        self._refuse_taken([held for held in batch if self._is_elsewhere(held.event)])
        return super()._sort_out(batch)

    def _is_elsewhere(self, event: PersistedEvent) -> bool:
        known = self._known(event)
        return known is not None and known.event.seq != event.seq


class ConflictWithinBatchUnnoticed(CorrectMemoryStore):
    def _taken(self, new: Sequence[Held]) -> set[int]:
        return {held.event.seq for held in new if held.event.seq in self.by_seq}


class ConflictIsAPlainError(CorrectMemoryStore):
    def _refuse_taken(self, new: Sequence[Held]) -> None:
        try:
            super()._refuse_taken(new)
        except SequenceConflict as exc:
            raise StoreError(str(exc)) from exc


BROKEN: tuple[Broken, ...] = (
    memory("S1", "idempotent only within a batch", OnlyWithinABatch, "S3", "S4", "S9", "S11"),
    memory("S1", "idempotent only between batches", OnlyBetweenBatches, "S3"),
    memory("S1", "a duplicate drops its whole batch", DuplicateDropsBatch),
    memory("S1", "last write wins", LastWriteWins),
    memory("S1", "ids known for 1,000 newer events", WindowInCount, "S11"),
    memory("S1", "ids known for 0.1 s", WindowInTime, "S11"),
    file("S1", "ids forgotten on reopen", IdsForgottenOnReopen),
    memory("S1", "a repeat is an error", RepeatIsAnError, "S3", "S4", "S9", "S11"),
    memory("S1", "repeats on another seq not returned", ElsewhereNotReturned),
    memory("S1", "all repeats returned", AllRepeatsReturned),
    memory("S2", "lower seqs refused", LowerSeqsRefused, "S5", "S9"),
    memory("S2", "lower seqs dropped", LowerSeqsDropped, "S5", "S9"),
    memory("S2", "gaps closed", GapsClosed, "S1", "S3", "S4", "S5", "S7", "S9", "S14"),
    memory("S2", "a batch must be sorted", BatchMustBeSorted, "S5", "S9"),
    memory("S3", "a taken seq is overwritten", TakenSeqOverwritten),
    memory("S3", "a newcomer on a taken seq is ignored", TakenSeqIgnored),
    memory("S3", "a conflict stores the rest of the batch", ConflictStoresTheRest, "S4", "S9"),
    memory("S3", "conflicts looked for before known ids are set aside", ConflictBeforeIds, "S1"),
    memory("S3", "conflicts within a batch unnoticed", ConflictWithinBatchUnnoticed),
    memory("S3", "a conflict is a plain StoreError", ConflictIsAPlainError),
)
