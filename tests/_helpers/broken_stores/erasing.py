"""Stores that break S17: they can erase, and do it wrong."""

from __future__ import annotations

from functools import partial

import attrs

from tests._helpers.broken_stores._broken import Broken
from tests._helpers.correct_stores import (
    CorrectErasingFileStore,
    CorrectErasingStore,
    Held,
    open_erasing,
    open_erasing_file,
    opened_file,
    opened_memory,
)
from trio_eventlog import EventQuery, PersistedEvent

# --- S17: what was erased is gone, and nothing else -----------------------------------------------


class ErasesOneTooMany(CorrectErasingStore):
    def _chosen(self, found: list[Held]) -> list[Held]:
        others = [held for held in self.by_seq.values() if held not in found]
        return found + others[:1]


class DeletesEvents(CorrectErasingStore):
    """Nothing is left to show that there was an event."""

    def _put(self, held: Held, changed: Held) -> None:
        del self.by_seq[held.event.seq], self.by_id[held.event.id]


class ForgetsTheReason(CorrectErasingStore):
    def _tombstone(self, event: PersistedEvent, reason: str) -> PersistedEvent:
        return super()._tombstone(event, "")


class ChangesTheTime(CorrectErasingStore):
    """The moment of the erasure becomes that of the event."""

    def _tombstone(self, event: PersistedEvent, reason: str) -> PersistedEvent:
        return attrs.evolve(super()._tombstone(event, reason), timestamp_ms=1)


class KeepsScopes(CorrectErasingStore):
    """The index of scopes is that of before."""

    def _in_scopes(self, event: PersistedEvent, query: EventQuery) -> bool:
        before = self.before.get(event.seq, event)
        return super()._in_scopes(before, query)


class RepeatsBringItBack(CorrectErasingStore):
    """What was erased is taken for unknown."""

    def _known(self, event: PersistedEvent) -> Held | None:
        known = super()._known(event)
        if known is not None and event.seq in self.before:
            self.by_seq[event.seq] = self.by_id[event.id] = self._hold(event)
        return known


class CountsWhatWasErasedBefore(CorrectErasingStore):
    def _count(self, erased: int) -> int:
        return len(self.before)


class LeavesItInTheFile(CorrectErasingFileStore):
    """What it was is kept aside, as a backup."""

    def _rewrite(self) -> None:
        (self.location / "erased").write_bytes(self.path.read_bytes())
        super()._rewrite()


class ErasesInMemoryAlone(CorrectErasingFileStore):
    def _rewrite(self) -> None:
        pass


def _memory(name: str, cls: type[CorrectErasingStore]) -> Broken:
    return Broken(name, "S17", partial(opened_memory, cls), correct=open_erasing)


def _file(name: str, cls: type[CorrectErasingFileStore]) -> Broken:
    return Broken(name, "S17", partial(opened_file, cls), durable=True, correct=open_erasing_file)


BROKEN: tuple[Broken, ...] = (
    _memory("erases one event too many", ErasesOneTooMany),
    _memory("deletes what it is to erase", DeletesEvents),
    _memory("a tombstone without a reason", ForgetsTheReason),
    _memory("the time of an erased event is another", ChangesTheTime),
    _memory("an erased event stays in its scopes", KeepsScopes),
    _memory("a repeat brings back what was erased", RepeatsBringItBack),
    _memory("counts what was erased before", CountsWhatWasErasedBefore),
    _file("a copy of what was erased stays in a file", LeavesItInTheFile),
    _file("erases in memory alone", ErasesInMemoryAlone),
)
