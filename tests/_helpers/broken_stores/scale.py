"""Stores whose faults begin beyond a size: where a batch is divided, or between a kill and the next look."""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Sequence
from functools import partial

import attrs
import trio

from tests._helpers.broken_stores._broken import Broken, file, memory, reader
from tests._helpers.correct_stores import (
    CorrectFileReader,
    CorrectFileStore,
    CorrectMemoryStore,
    Held,
    event_of,
    in_thread,
    open_file_reader,
    opened_file,
)
from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent, SequenceConflict

# --- durable, and not atomic ----------------------------------------------------------------------


class SyncedEventByEvent(CorrectFileStore):
    """What it holds in memory changes in one step. Its file does not."""

    part = 1

    async def _commit(self, new: Sequence[Held]) -> None:
        for start in range(0, len(new), self.part):
            line = b"\t".join(held.text for held in new[start : start + self.part]) + b"\n"
            await in_thread(self._write, line)
        await CorrectMemoryStore._commit(self, new)


class SyncedInHundreds(SyncedEventByEvent):
    part = 100


class SyncedInThousands(SyncedEventByEvent):
    part = 1_000


class SyncedInPartsOf1024(SyncedEventByEvent):
    part = 1_024


class SyncedInPartsOf3000(SyncedEventByEvent):
    part = 3_000


class CommittedInPartsOf250(CorrectMemoryStore):
    part = 250

    async def _commit(self, new: Sequence[Held]) -> None:
        for start in range(0, len(new), self.part):
            self._store(new[start : start + self.part])
            await trio.lowlevel.checkpoint()


class CommittedInPartsOf1024(CommittedInPartsOf250):
    part = 1_024


class WritesOn(CorrectFileStore):
    """Correct: what the system did not take at once is written after it. A kill leaves the first part."""

    def _write(self, line: bytes) -> None:
        assert self.fd is not None
        rest = line
        while rest:
            rest = rest[os.write(self.fd, rest) :]
        os.fsync(self.fd)
        self.size += len(line)


class ReadsAnUnfinishedLine(CorrectFileReader):
    """What a process that was killed left behind is read until the next appender cuts it off."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        found = await super().query(query)
        texts = (await in_thread(self._unfinished)).split(b"\t")[:-1]
        return [*found, *(event for event in map(event_of, texts) if query.matches(event))]

    def _unfinished(self) -> bytes:
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(self.size)
            return file.read().rpartition(b"\n")[2]


class IndexAfterData(CorrectFileStore):
    """The rows of a batch and how many of them count are two writes, the second of them too early."""

    async def _commit(self, new: Sequence[Held]) -> None:
        half = (len(new) + 1) // 2
        for part in (new[:half], new[half:]):
            if part:
                await in_thread(self._write, b"\t".join(held.text for held in part) + b"\n")
        await CorrectMemoryStore._commit(self, new)


# --- where a batch is divided ---------------------------------------------------------------------


class KnownIn999(CorrectMemoryStore):
    """Looks for the first 999 ids of a batch."""

    def _sort_out(self, batch: Sequence[Held]) -> tuple[list[Held], list[int]]:
        first, seqs = super()._sort_out(batch[:999])
        known = [held for held in batch[999:] if held.event.seq not in self.by_seq]
        return [*first, *known], seqs


class RepeatsOfTheFirstPart(CorrectMemoryStore):
    """Of a batch in parts of 500 it returns the repeats of the first part."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        seqs = await super().append_batch(events)
        return [seq for seq in seqs if seq in {event.seq for event in events[:500]}]


class ConflictsInTheFirst1000(CorrectMemoryStore):
    def _taken(self, new: Sequence[Held]) -> set[int]:
        return super()._taken(new[:1_000])


class OverlooksFirstOfEachPart(CorrectMemoryStore):
    """Looks for conflicts in parts of 512 events, and begins each but the first an event too late."""

    def _taken(self, new: Sequence[Held]) -> set[int]:
        overlooked = {held.event.seq for held in new[512::512]}
        return super()._taken(new) - overlooked


class ConflictAfterTheFirstPart(CorrectMemoryStore):
    """Stores 4,096 events at once, and meets a conflict in what is left when these are stored."""

    def _refuse_taken(self, new: Sequence[Held]) -> None:
        if (taken := self._taken(new)) and not self._taken(new[:4_096]):
            self._store(new[:4_096])
        if taken:
            raise SequenceConflict(sorted(taken))


class ConflictNamesTheNext(CorrectMemoryStore):
    """Beyond 100 events, the seqs of a conflict are off by one."""

    def _refuse_taken(self, new: Sequence[Held]) -> None:
        if taken := self._taken(new):
            raise SequenceConflict([seq + (len(new) > 100) for seq in sorted(taken)])


class CancelledAfterThousands(CorrectMemoryStore):
    """Cancelled, it keeps the thousands that were stored."""

    async def _commit(self, new: Sequence[Held]) -> None:
        done = 0
        try:
            for _ in range(0, len(new), 1_000):
                await trio.sleep(0.02)
                done += 1_000
        except trio.Cancelled:
            await super()._commit(new[:done])  # noqa: ASYNC102 - has no checkpoint
            raise
        await super()._commit(new)


class SeenBeforeTheConflict(CorrectMemoryStore):
    """What comes before a conflict is stored, seen and taken back."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await super().append_batch(events)
        except SequenceConflict:
            batch = [self._hold(event) for event in events[:1_000]]
            if len(events) > 1_000 and not self._taken(batch):
                self._store(batch)
                await trio.sleep(0.005)  # noqa: ASYNC120 - what comes first does not matter
                for held in batch:
                    del self.by_id[held.event.id], self.by_seq[held.event.seq]
            raise


class PagesWithoutSnapshot(CorrectMemoryStore):
    """A query reads in pages of 1,000, and others append between two of them."""

    async def _select(self, query: EventQuery) -> list[Held]:
        if query.limit is not None:
            return await super()._select(query)
        found: list[Held] = []
        after = query.after_seq or 0
        while page := self._page(after):
            types = frozenset(map(self._key, self._types(query)))
            found += [held for held in page if self._matches(held.event, query, types)]
            after = page[-1].event.seq
            await trio.lowlevel.checkpoint()
        return found

    def _page(self, after: int) -> list[Held]:
        later = (held for seq, held in self.by_seq.items() if seq > after)
        return heapq.nsmallest(1_000, later, key=lambda held: held.event.seq)


class PayloadsOfTheSecondPart(CorrectMemoryStore):
    """From the 1,000th event of a batch on, payloads go through another, lesser codec."""

    def _store(self, new: Sequence[Held]) -> None:
        super()._store([held if index < 1_000 else self._lessened(held) for index, held in enumerate(new)])

    def _lessened(self, held: Held) -> Held:
        event = held.event
        if not isinstance(event.event.payload, list):
            return held
        payload = [None if item == "" else item for item in event.event.payload]
        return self._hold(attrs.evolve(event, event=ModuleEvent("m", "t", payload)))


class TailLost(CorrectMemoryStore):
    """Of a batch it stores 4,096 events."""

    async def _commit(self, new: Sequence[Held]) -> None:
        await super()._commit(new[:4_096])


class TailLostInTheFile(CorrectFileStore):
    async def _commit(self, new: Sequence[Held]) -> None:
        await in_thread(self._write, b"\t".join(held.text for held in new[:1_000]) + b"\n")
        await CorrectMemoryStore._commit(self, new)


def with_reader(clause: str, name: str, cls: type[CorrectFileStore], *also: str) -> Broken:
    return attrs.evolve(file(clause, name, cls, *also), open_reader=open_file_reader)


def slow(broken: Broken) -> Broken:
    return attrs.evolve(broken, is_slow=True)


BROKEN: tuple[Broken, ...] = (
    slow(file("S4", "synced event by event", SyncedEventByEvent)),
    slow(file("S4", "synced in hundreds", SyncedInHundreds)),
    slow(file("S4", "synced in thousands", SyncedInThousands)),
    slow(file("S4", "synced in parts of 1,024", SyncedInPartsOf1024)),
    slow(file("S4", "synced in parts of 3,000", SyncedInPartsOf3000)),
    slow(with_reader("S4", "synced in parts of 1,024, with a reader", SyncedInPartsOf1024, "S10")),
    memory("S4", "committed in parts of 250", CommittedInPartsOf250),
    memory("S4", "committed in parts of 1,024", CommittedInPartsOf1024),
    attrs.evolve(
        slow(reader("S4", "a reader reads an unfinished line", ReadsAnUnfinishedLine, "S10")),
        open_store=partial(opened_file, WritesOn),
    ),
    file("S4", "a batch is two writes", IndexAfterData),
    slow(with_reader("S4", "synced event by event, with a reader", SyncedEventByEvent, "S10")),
    slow(with_reader("S4", "synced in hundreds, with a reader", SyncedInHundreds, "S10")),
    memory("S1", "looks for 999 ids of a batch", KnownIn999),
    memory("S1", "returns the repeats of the first 500 events", RepeatsOfTheFirstPart),
    memory("S3", "looks for conflicts in 1,000 events", ConflictsInTheFirst1000),
    memory("S3", "overlooks the first of each part of 512", OverlooksFirstOfEachPart),
    memory("S3", "keeps 4,096 events before a conflict", ConflictAfterTheFirstPart),
    memory("S3", "names the seq after the one that is taken", ConflictNamesTheNext),
    slow(memory("S4", "cancelled, keeps whole thousands", CancelledAfterThousands)),
    memory("S4", "shows what comes before a conflict", SeenBeforeTheConflict),
    memory("S4", "reads in pages without a snapshot", PagesWithoutSnapshot),
    memory("S7", "another codec from the 1,000th event on", PayloadsOfTheSecondPart),
    memory("S10", "stores 4,096 events of a batch", TailLost),
    file("S10", "a reopen shows 1,000 events of a batch", TailLostInTheFile),
)
