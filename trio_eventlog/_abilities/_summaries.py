"""What people who look at a log ask for: its latest events, and counts; public as ``trio_eventlog.abc``."""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

import attrs

from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery

FACETS: Final = ("event_type", "member_id", "module", "identity", "mob_id", "run_id", "step_id")
"""What :meth:`FacetStore.facets` counts by. Each can be asked for in a query."""


@runtime_checkable
class LatestStore(Protocol):
    """A store that can read backwards."""

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        """The events with the highest seqs that match, in descending order of seq.

        * **S18** It returns what :meth:`EventStore.query` would, of that only what is below ``before_seq``,
          turned round, and only then limited. S6 to S8, S10 and S11 hold for it as for a query.

        The lowest seq of a page is ``before_seq`` of the next.

        Args:
          query: which events. It has no limit of its own.
          before_seq: only events with a lower seq, 0 to 2**64 - 1.
          limit: at most this many events, 0 to 2**64 - 1.

        Raises:
          TypeError: ``query`` is no query, or a number is not an integer.
          ValueError: ``query`` has a limit, or a number is out of range.
          StoreError: the query failed and may succeed later.
          StoreUnusable: the query failed and will never succeed.
        """
        ...


@runtime_checkable
class CountingStore(Protocol):
    """A store that can count what matches without returning it."""

    async def count(self, query: EventQuery, *, at_most: int) -> int:
        """How many events match, ``at_most`` if there are more.

        * **S18** The number is that of the events which :meth:`EventStore.query` would return.

        S11 holds. It takes no more time than finding ``at_most`` events.

        Args:
          query: which events. It has no limit.
          at_most: where to stop counting, 0 to 2**64 - 1.

        Raises:
          TypeError, ValueError, StoreError, StoreUnusable: as :meth:`LatestStore.latest`.
        """
        ...


@attrs.frozen
class HistogramBucket:
    """How many events of a type are in a bucket of time."""

    start_ms: int
    """Where the bucket begins, in milliseconds since 1970-01-01 UTC. A multiple of its width."""

    event_type: str
    """The type."""

    events: int
    """How many there are, 1 or more."""


@runtime_checkable
class HistogramStore(Protocol):
    """A store that can count by time and type."""

    async def histogram(self, query: EventQuery, *, bucket_ms: int) -> list[HistogramBucket]:
        """How many events match, by buckets of time and types.

        * **S18** Each event that matches is counted once: in the bucket that begins at ``timestamp_ms -
          timestamp_ms % bucket_ms``, under its type. The list ascends by time, then by type in order of code
          points, and has nothing that counts 0. All numbers are of one moment.

        S11 holds. There may be as many buckets as there are events; ask for no more than can be shown.

        Args:
          query: which events. It has no limit.
          bucket_ms: the width of a bucket in milliseconds, 1 to 2**63 - 1.

        Raises:
          TypeError, ValueError, StoreError, StoreUnusable: as :meth:`LatestStore.latest`.
        """
        ...


@attrs.frozen
class Facets:
    """Which values there are, and how often; what :meth:`FacetStore.facets` returns."""

    distinct: int
    """How many values there are."""

    top: tuple[tuple[str, int], ...]
    """The most frequent ones, each with the number of events that have it, in descending order of that
    number, then in order of code points."""


@runtime_checkable
class FacetStore(Protocol):
    """A store that can count by the values of a field."""

    async def facets(self, query: EventQuery, field: str, *, top: int = 10) -> Facets:
        """Which values of a field the events have that match, and how often.

        * **S18** Each event that matches and has a value is counted once: for an event type the type, for a
          module that of a module event, for a scope its string at the top level of the payload. Strings are
          told apart as S6 has it. All numbers are of one moment.

        S11 holds.

        Args:
          query: which events. It has no limit.
          field: one of :data:`FACETS`.
          top: how many values to name, 0 or more. All are counted.

        Raises:
          TypeError, ValueError, StoreError, StoreUnusable: as :meth:`LatestStore.latest`; also ValueError if
            ``field`` is none of these.
        """
        ...
