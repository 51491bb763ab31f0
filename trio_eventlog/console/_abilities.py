"""Abilities of stores that a console uses."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from trio_eventlog import EventQuery, PersistedEvent


@runtime_checkable
class LatestStore(Protocol):
    """A store that can read backwards."""

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        """The events with the highest seqs that match, in descending order of seq."""
        ...


@runtime_checkable
class CountingStore(Protocol):
    """A store that can count what matches without returning it."""

    async def count(self, query: EventQuery, *, at_most: int) -> int:
        """How many events match, ``at_most`` if there are more."""
        ...


@runtime_checkable
class HistogramStore(Protocol):
    """A store that can count by time and type."""

    async def histogram(self, query: EventQuery, *, bucket_ms: int) -> list[Any]:
        """How many events match, by buckets of time and types."""
        ...


@runtime_checkable
class FacetStore(Protocol):
    """A store that can count by the values of a field."""

    async def facets(self, query: EventQuery, field: str, *, top: int = 10) -> Any:
        """Which values of a field the events have that match, and how often."""
        ...
