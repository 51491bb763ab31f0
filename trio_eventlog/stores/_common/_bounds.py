"""The bounds of a query, as a database takes them."""

from __future__ import annotations

from typing import Final

import attrs

from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._model._query import EventQuery

EQUALITIES: Final = ("step_id", "run_id", "identity", "member_id", "mob_id")
"""Filters for one string; the one that usually leaves the fewest events comes first."""

MAX_MERGED_TYPES: Final = 32
"""Up to this many event types are each read from the index and merged; more are checked."""

EVENT_OVERHEAD: Final = 100
"""Bytes of an event in addition to its long columns, roughly."""


@attrs.frozen
class Bounds:
    """The bounds of a query that can match something; no value is above 2**63 - 1. None: no bound."""

    after: int
    since_ms: int
    until_ms: int | None
    limit: int | None

    @classmethod
    def of(cls, query: EventQuery) -> Bounds | None:
        """The bounds of ``query``; None if nothing can match it."""
        after = query.after_seq or 0
        since_ms = query.since_ms or 0
        # What lies beyond what can be stored matches everything or nothing, and a database could not hold it.
        until_ms = None if query.until_ms is None or query.until_ms > MAX_STORED else query.until_ms
        limit = None if query.limit is None or query.limit > MAX_STORED else query.limit
        if limit == 0 or after >= MAX_STORED or since_ms > MAX_STORED:
            return None
        if until_ms is not None and until_ms <= since_ms:
            return None
        return cls(after, since_ms, until_ms, limit)

    @property
    def is_timed(self) -> bool:
        """Whether there is a bound on the time."""
        return self.since_ms > 0 or self.until_ms is not None
