"""Which lines of an input an earlier run has already stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from rich.console import Console

from trio_eventlog import EventEnvelope, EventQuery
from trio_eventlog.abc import EventStore
from trio_eventlog.cli._reading import PruneReporter, next_page
from trio_eventlog.cli._running import retrying
from trio_eventlog.reading import iter_events

_MAX_SEARCHES: Final = 4
"""How often the log is searched for the start of a file, whose first lines may not have been stored."""

_MAX_MISSES: Final = 1000
"""Lines in a row that are not found before the rest is assumed to be new."""

_MARGIN: Final = 100
"""Events that may stand between those of a block, in addition to as many as the block has."""


class Repeats:
    """Finds the events of an input that the log already holds.

    The log would also recognize them by their ids, but only once they have a seq, which then is missing as if
    an event had been lost. The first repeat is found by its time; the others come right after it, since a run
    stores events in the order of its input.

    Args:
      store: the store of the log.
      end: its last seq before anything is added.
      console: where to report that the store fails.
    """

    def __init__(self, store: EventStore, end: int, console: Console) -> None:
        self._store = store
        self._end = end
        self._console = console
        self._after: int | None = None
        """Seq of the last event that was found."""

        self._misses = 0
        self._searches_left = 0

    def begin_file(self) -> None:
        """What comes next may be anywhere in the log."""
        self._searches_left = _MAX_SEARCHES

    async def find(self, envelopes: Sequence[EventEnvelope]) -> set[str]:
        """The ids of those that are already stored, though perhaps not all of them.

        Args:
          envelopes: the next envelopes of the input.

        Raises:
          StoreError: the store failed permanently.
        """
        ids = {envelope.event_id for envelope in envelopes}
        if not self._end or not ids:
            return set()
        found: dict[str, int] = {}
        if self._after is not None:
            found = await self._find_after(self._after, ids)
        if not found and self._searches_left:
            self._searches_left -= 1
            found = await self._find_anywhere(envelopes, ids)
        if found:
            self._after, self._misses = max(found.values()), 0
        else:
            self._misses += len(ids)
            if self._misses > _MAX_MISSES:
                self._after = None
        return set(found)

    async def _find_after(self, after: int, ids: set[str]) -> dict[str, int]:
        # There may be events between them whose lines were changed since.
        return await self._find(EventQuery(after_seq=after, limit=2 * len(ids) + _MARGIN), ids)

    async def _find_anywhere(self, envelopes: Sequence[EventEnvelope], ids: set[str]) -> dict[str, int]:
        times = [envelope.timestamp_ms for envelope in envelopes]
        return await self._find(
            EventQuery(since_ms=min(times), until_ms=min(max(times) + 1, 2**64 - 1), after_seq=0), ids
        )

    async def _find(self, query: EventQuery, ids: set[str]) -> dict[str, int]:
        """The ids among ``ids`` of events that match, with their seqs."""
        events = iter_events(self._store, query)
        # An event that was pruned is no longer stored, so it is not a repeat.
        pruned = PruneReporter(self._console, ignored_through=2**63 - 1)
        found: dict[str, int] = {}
        while page := await retrying(partial(next_page, events, pruned), self._console):
            found |= {event.id: event.seq for event in page if event.id in ids and event.seq <= self._end}
            if page[-1].seq >= self._end or len(found) == len(ids):
                break
        return found
