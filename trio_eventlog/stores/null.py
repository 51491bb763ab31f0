"""A store that keeps nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import trio

from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery


class NullStore:
    """Keeps nothing: the declared choice to have no log, without a change to the program.

    Every append succeeds and discards its events, every query finds nothing, and ``last_seq`` is
    always 0, so that each log on it numbers from 1. It therefore does not keep clauses S1 (a repeat
    is not recognised), S3 (no seq is ever taken), S7 (nothing is read back), S9 (``last_seq`` stays
    0), S10 (nothing appended is read) and S12 as far as events are concerned (nothing is rejected).
    The others hold, S11 among them: every method is a checkpoint, and cancellation has no effect
    other than ``Cancelled``. To readers, what was appended was pruned at once.
    """

    survives: str = "power"
    """Nothing is kept, and so nothing is lost with the power; a spill file need keep no copies for it."""

    def __init__(self) -> None:
        self._pruned = 0

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Discard ``events``. A checkpoint.

        Returns:
          Always empty.
        """
        await trio.lowlevel.checkpoint()
        if events:
            self._pruned = max(self._pruned, *[event.seq for event in events])
        return ()

    async def query(self, query: EventQuery) -> list[PersistedEvent]:  # noqa: ARG002 - the protocol's
        """Nothing: always a new empty list. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return []

    async def last_seq(self) -> int:
        """Always 0. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return 0

    async def pruned_seq(self) -> int:
        """The highest seq that was ever appended to this object. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return self._pruned
