"""Stores that break S14: logs do not see each other."""

from __future__ import annotations

from pathlib import Path

from tests._helpers.broken_stores._broken import Broken, memory
from tests._helpers.correct_stores import (
    CorrectMemoryStore,
    Held,
)
from trio_eventlog import (
    EventQuery,
    PersistedEvent,
)

# --- S14: logs do not see each other --------------------------------------------------------------

# What is open, by the directory that the locations are in: one run of a check knows nothing of another.
DATABASES: dict[Path, list[OneDatabase]] = {}


class OneDatabase(CorrectMemoryStore):
    """Knows the other logs that are open. Correct as long as it makes nothing of that."""

    async def _open(self) -> None:
        await super()._open()
        self.siblings.append(self)

    def _free(self) -> None:
        if self in self.siblings:
            self.siblings.remove(self)

    @property
    def siblings(self) -> list[OneDatabase]:
        return DATABASES.setdefault(self.location.parent, [])


class IdsShared(OneDatabase):
    def _known(self, event: PersistedEvent) -> Held | None:
        found = (log.by_id.get(event.id) for log in self.siblings)
        return next((held for held in found if held is not None), None)


class QueriesShared(OneDatabase):
    def _candidates(self, query: EventQuery) -> list[Held]:
        return [held for log in self.siblings for held in log.by_seq.values()]


class LastSeqShared(OneDatabase):
    async def last_seq(self) -> int:
        await super().last_seq()
        return max(log.highest for log in self.siblings)


BROKEN: tuple[Broken, ...] = (
    memory("S14", "ids shared", IdsShared),
    memory("S14", "queries shared", QueriesShared),
    memory("S14", "last_seq shared", LastSeqShared),
)
