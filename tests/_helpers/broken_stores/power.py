"""Stores that break S4 or S10 when power is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from tests._helpers.broken_stores._broken import Broken
from tests._helpers.correct_stores import Held, in_steps, in_thread, opened_file
from tests._helpers.disk_stores import ApswFile, CorrectDiskStore, OsFile, framed
from trio_eventlog import EventStore
from trio_eventlog.stores import SqliteStore


class NeverSyncs(CorrectDiskStore):
    def _sync(self) -> None:
        pass


class ForgetsTheDirectory(CorrectDiskStore):
    """The file is synced, and its name is not."""

    def _sync_directory(self) -> None:
        pass


class SyncsTooLate(CorrectDiskStore):
    """Each batch is synced when the next one comes."""

    def _write_batch(self, batch: bytes) -> None:
        assert self.file is not None
        self._sync()
        self.file.write(framed(batch), self.size)
        self.size += len(framed(batch))


class TakesPartsOfABatch(CorrectDiskStore):
    """How much of the file counts stands in a second file, and both are synced at the end, in any order.

    There are no checksums: events are read up to the first that cannot be.
    """

    ends: ApswFile | OsFile | None = None

    async def _open(self) -> None:
        await in_thread(self._acquire_lock)
        self.file = await in_thread(self._open_file, self.path)
        self.ends = await in_thread(self._open_file, self.location / "ends")
        await in_thread(self._sync_directory)
        for line in await in_thread(self._lines):
            try:
                self._store(await in_steps(self._hold_text, [line]))
            except ValueError:
                break
            self.size += len(line) + 1
        await in_thread(self._cut)

    def _lines(self) -> list[bytes]:
        assert self.file is not None
        assert self.ends is not None
        return self.file.read()[: int.from_bytes(self.ends.read() or b"\0")].split(b"\n")[:-1]

    def _write_batch(self, batch: bytes) -> None:
        assert self.file is not None
        assert self.ends is not None
        data = batch.replace(b"\t", b"\n") + b"\n"
        self.file.write(data, self.size)
        self.ends.write((self.size + len(data)).to_bytes(8), 0)
        self.file.sync()
        self.ends.sync()
        self.size += len(data)

    def _free(self) -> None:
        if self.ends is not None:
            self.ends.close()
        super()._free()


class LeavesAnEnd(CorrectDiskStore):
    """What was half written stays in the file, and what comes next is written behind it."""

    def _cut(self) -> None:
        assert self.file is not None
        self.size = len(self.file.read())


class BelievesTheSecondSync(CorrectDiskStore):
    """A batch is known from the moment that it was written, whether or not it was synced."""

    async def _commit(self, new: Sequence[Held]) -> None:
        self._store(new)
        await super()._commit(new)


class WrittenInPlace(CorrectDiskStore):
    """All batches are written anew with each one, over those that are there, without a copy."""

    def _write_batch(self, batch: bytes) -> None:
        assert self.file is not None
        content = self.file.read()[: self.size]
        self.file.truncate(0)
        self.file.write(content, 0)
        super()._write_batch(batch)


class CountsApart(CorrectDiskStore):
    """The last seq is in a file of its own, which is synced before the batch."""

    top: ApswFile | OsFile | None = None

    async def _open(self) -> None:
        self.top = await in_thread(self._open_file, self.location / "top")
        await super()._open()
        self.highest = int.from_bytes(await in_thread(self.top.read))

    async def _commit(self, new: Sequence[Held]) -> None:
        await in_thread(self._count, max(held.event.seq for held in new))
        await super()._commit(new)

    def _count(self, seq: int) -> None:
        assert self.top is not None
        self.top.write(max(seq, self.highest).to_bytes(8), 0)
        self.top.sync()

    def _free(self) -> None:
        if self.top is not None:
            self.top.close()
        super()._free()


@asynccontextmanager
async def open_normal(location: Path) -> AsyncIterator[EventStore]:
    async with SqliteStore.open(location / "log.db", synchronous="normal") as store:
        store.survives = "power"
        yield store


@asynccontextmanager
async def open_full(location: Path) -> AsyncIterator[EventStore]:
    async with SqliteStore.open(location / "log.db") as store:
        yield store


def _disk(clause: str, name: str, cls: type[CorrectDiskStore], *also: str) -> Broken:
    correct = partial(opened_file, CorrectDiskStore)
    return Broken(
        name, clause, partial(opened_file, cls), durable=True, also=frozenset(also), correct=correct
    )


BROKEN: tuple[Broken, ...] = (
    _disk("S4", "half a batch after a loss of power", TakesPartsOfABatch, "S10"),
    _disk("S9", "last_seq before its event", CountsApart),
    _disk("S10", "never synced", NeverSyncs),
    _disk("S10", "synced, and not its directory", ForgetsTheDirectory),
    _disk("S10", "synced with the next batch", SyncsTooLate),
    _disk("S10", "written behind what was half written", LeavesAnEnd),
    _disk("S10", "a sync that failed taken for one that did not", BelievesTheSecondSync),
    _disk("S10", "written in place", WrittenInPlace),
    Broken(
        "SQLite at normal, said to survive a loss of power",
        "S10",
        open_normal,
        durable=True,
        correct=open_full,
    ),
)
