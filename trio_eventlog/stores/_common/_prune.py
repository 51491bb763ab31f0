"""Pruning a log: what goes, and deleting it in chunks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs

CHUNK_EVENTS: Final = 1000
"""Events to delete in one transaction: an append waits for one of them at most."""


@attrs.frozen
class PrunePlan:
    """Which events go: those up to a seq, and of these, if a time is given, the ones before it."""

    through_seq: int
    before_ms: int | None = None


@attrs.define
class PruneProgress:
    """How many of the events that are to go are gone."""

    total: int
    _on_progress: Callable[[int, int], object] | None
    gone: int = 0
    _reported: int = 0

    def add(self, events: int) -> None:
        """This many more are gone."""
        self.gone += events

    def report(self) -> None:
        """Call ``on_progress``, if any event went since the last call."""
        if self.gone != self._reported:
            self._reported = self.gone
            if self._on_progress is not None:
                self._on_progress(self.gone, self.total)

    async def run(self, delete_some: Callable[[], Awaitable[int | None]]) -> int:
        """Call ``delete_some``, which returns how many events went, until it returns None; the sum."""
        while (some := await delete_some()) is not None:
            self.add(some)
            self.report()
        return self.gone
