"""Which lines of an input an earlier run has stored already."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import trio
from rich.console import Console

from trio_eventlog import EventEnvelope, EventQuery, EventStore
from trio_eventlog.cli._pages import Pruned, next_page
from trio_eventlog.cli._patience import patiently
from trio_eventlog.reading import iter_events

_LOOKS: Final = 4
"""How often the log is searched for what a file begins with: its first lines may be none that were stored."""

_MOST_MISSES: Final = 1000
"""Lines without a find after which what follows is taken for new."""

_MORE: Final = 100


class Repeats:
    """Finds what the log holds of an input that is read once more.

    The log would know these events by their ids, too; but only once they have a seq, which then is missing
    from the log as if an event had been lost. A store can be asked for the time of an event, which finds the
    first of them; the next ones stand right behind it, since a run stores them in the order of its input.

    Args:
      store: where they are.
      end: its last seq before anything is added.
      console: where the user hears of a store that fails.
    """

    def __init__(self, store: EventStore, end: int, console: Console) -> None:
        self._store = store
        self._end = end
        self._console = console
        self._after: int | None = None
        """Seq of the last event that was found."""

        self._misses = 0
        self._looks = 0

    def begin_file(self) -> None:
        """What comes next may stand anywhere in the log."""
        self._looks = _LOOKS

    async def find(self, envelopes: Sequence[EventEnvelope]) -> set[str]:
        """The ids of those that are stored already; perhaps not all. A checkpoint.

        Args:
          envelopes: what comes next in the input.

        Raises:
          StoreError: the store has failed for good.
        """
        await trio.lowlevel.checkpoint()
        ids = {envelope.event_id for envelope in envelopes}
        if not self._end or not ids:
            return set()
        found: dict[str, int] = {}
        if self._after is not None:
            found = await self._find_behind(self._after, ids)
        if not found and self._looks:
            self._looks -= 1
            found = await self._find_anywhere(envelopes, ids)
        if found:
            self._after, self._misses = max(found.values()), 0
        else:
            self._misses += len(ids)
            if self._misses > _MOST_MISSES:
                self._after = None
        return set(found)

    async def _find_behind(self, after: int, ids: set[str]) -> dict[str, int]:
        # Others between them are those of lines that were changed since.
        return await self._find(EventQuery(after_seq=after, limit=2 * len(ids) + _MORE), ids)

    async def _find_anywhere(self, envelopes: Sequence[EventEnvelope], ids: set[str]) -> dict[str, int]:
        times = [envelope.timestamp_ms for envelope in envelopes]
        return await self._find(
            EventQuery(since_ms=min(times), until_ms=min(max(times) + 1, 2**64 - 1), after_seq=0), ids
        )

    async def _find(self, query: EventQuery, ids: set[str]) -> dict[str, int]:
        """Those of ``ids`` that an event has which matches, with its seq."""
        events = iter_events(self._store, query)
        # What was pruned is not stored any more, and so no repeat.
        pruned = Pruned(self._console, before=2**63 - 1)
        found: dict[str, int] = {}
        while page := await patiently(partial(next_page, events, pruned), self._console):
            found |= {event.id: event.seq for event in page if event.id in ids and event.seq <= self._end}
            if page[-1].seq >= self._end or len(found) == len(ids):
                break
        return found
