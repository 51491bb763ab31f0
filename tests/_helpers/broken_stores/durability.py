"""Stores that break S10: what was appended is readable, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests._helpers.broken_stores._broken import ANY, REOPENED, Broken, file, memory, reader
from tests._helpers.correct_stores import (
    CorrectFileReader,
    CorrectFileStore,
    CorrectMemoryStore,
    Held,
)
from trio_eventlog import (
    EventQuery,
)

# --- S10: readable and kept -----------------------------------------------------------------------


class FirstReadCached(CorrectMemoryStore):
    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.cache: dict[EventQuery, list[Held]] = {}

    async def _select(self, query: EventQuery) -> list[Held]:
        if query not in self.cache:
            self.cache[query] = await super()._select(query)
        return self.cache[query]


class SeenOneAppendLater(CorrectMemoryStore):
    latest: Sequence[Held] = ()

    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        self.latest = new

    def _candidates(self, query: EventQuery) -> list[Held]:
        latest = set(self.latest)
        return [held for held in super()._candidates(query) if held not in latest]


class LostOnClose(CorrectFileStore):
    """A batch is written when the next one comes."""

    pending = b""

    def _write(self, line: bytes) -> None:
        written, self.pending = self.pending, line
        super()._write(written)


class LostOnKill(LostOnClose):
    def _free(self) -> None:
        if self.pending:
            self._write(b"")
        super()._free()


class FirstBatchSurvives(CorrectFileStore):
    def _new_lines(self) -> list[bytes]:
        return super()._new_lines()[:1]


class ReaderGoesBack(CorrectFileReader):
    """Every third query is answered from a backup, which has the first batch."""

    backup: list[Held] | None = None
    queries = 0

    def _store(self, new: Sequence[Held]) -> None:
        super()._store(new)
        if self.backup is None:
            self.backup = list(new)

    def _candidates(self, query: EventQuery) -> list[Held]:
        self.queries += 1
        return super()._candidates(query) if self.queries % 3 else self.backup or []


class ReaderSeesHalf(CorrectFileReader):
    """The second half of a batch is seen with the next query."""

    late: Sequence[Held] = ()

    def _store(self, new: Sequence[Held]) -> None:
        half = (len(new) + 1) // 2
        super()._store([*self.late, *new[:half]])
        self.late = new[half:]

    async def _refresh(self) -> None:
        late, self.late = self.late, ()
        super()._store(late)
        await super()._refresh()


BROKEN: tuple[Broken, ...] = (
    memory("S10", "first read cached for ever", FirstReadCached, *ANY),
    memory("S10", "seen one append later", SeenOneAppendLater, *ANY),
    file("S10", "last batch lost on close", LostOnClose, *REOPENED),
    file("S10", "last batch lost on a kill", LostOnKill),
    file("S10", "first batch alone survives a reopen", FirstBatchSurvives, *REOPENED),
    reader("S10", "a reader goes back", ReaderGoesBack),
    reader("S10", "a reader sees half a batch", ReaderSeesHalf, "S4"),
)
