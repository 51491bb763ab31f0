"""What people ask who look at a log: its latest events, and counts. PostgreSQL counts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_eventlog._abilities._summaries import Facets, HistogramBucket
from trio_eventlog._model._errors import StoreError
from trio_eventlog._model._events import MAX_U64, PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog.stores._common._columns import MODULE
from trio_eventlog.stores._common._summaries import (
    HistogramCounter,
    check_count,
    check_facets,
    check_histogram,
    check_latest,
    facet_of,
    facets_of,
)
from trio_eventlog.stores.postgres import _rows as rows
from trio_eventlog.stores.postgres import _select as queries
from trio_eventlog.stores.postgres._reader import LogReader

if TYPE_CHECKING:
    from trio_eventlog.stores.postgres._connection import TrioConnection


_ONE: Final = f"select {rows.READ} from :s.events where log = $1::bigint and :column = $2::bytea limit 1"  # noqa: S608 - no values


class Summaries:
    """The part of a store that answers those questions."""

    _reader: LogReader

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        """See :meth:`trio_eventlog.abc.LatestStore.latest`. Each filter by its index, as :meth:`query`."""
        check_latest(query, before_seq, limit)
        before = MAX_U64 if before_seq is None else before_seq
        return (await self._reader.query(attrs.evolve(query, limit=limit), before=before)).events

    async def count(self, query: EventQuery, *, at_most: int) -> int:
        """See :meth:`trio_eventlog.abc.CountingStore.count`."""
        check_count(query, at_most)
        if query.fields:
            return len((await self._reader.query(attrs.evolve(query, limit=at_most))).events)
        found = await self._counted(query, "1 as one", limit=at_most)
        return sum(events for _, events in found)

    async def histogram(self, query: EventQuery, *, bucket_ms: int) -> list[HistogramBucket]:
        """See :meth:`trio_eventlog.abc.HistogramStore.histogram`. Takes time for each event that matches."""
        check_histogram(query, bucket_ms)
        counter = HistogramCounter(bucket_ms)
        if query.fields:
            for event in (await self._reader.query(query)).events:
                counter.add(event.timestamp_ms, event.event.event_type)
            return counter.result()
        columns = f"timestamp_ms / {bucket_ms:d} as bucket, event_type as value"
        for number, event_type, events in await self._counted(query, columns, "event_type"):
            counter.add(number * bucket_ms, event_type, events)
        return counter.result()

    async def facets(self, query: EventQuery, field: str, *, top: int = 10) -> Facets:
        """See :meth:`trio_eventlog.abc.FacetStore.facets`. Takes time for each event that matches."""
        check_facets(query, field, top)
        if query.fields:
            values = (facet_of(event, field) for event in (await self._reader.query(query)).events)
            return facets_of(Counter(value for value in values if value is not None).items(), top)
        column = f"case when kind = {MODULE} then actor end" if field == "module" else field
        found = await self._counted(query, f"{column} as value", field)
        return facets_of(((value, events) for value, events in found if value is not None), top)

    async def _counted(
        self, query: EventQuery, columns: str, field: str | None = None, limit: int | None = None
    ) -> list[tuple[Any, ...]]:
        """Counts by columns, of which the last but one is the ``field`` if that is given."""
        reader = self._reader

        async def read(connection: TrioConnection) -> list[tuple[Any, ...]]:
            await reader.pruned_seq(connection)  # whether the log is still there
            plan = queries.count(query, reader.number, columns, limit)
            found = [] if plan is None else await connection.fetch(plan.sql, *plan.parameters)
            if field is None:
                return found
            texts: dict[bytes, str] = {}
            for *_, key, _events in found:
                if key is not None and key not in texts:
                    texts[key] = await _text_of(connection, reader, field, key)
            return [(*others, None if key is None else texts[key], events) for *others, key, events in found]

        return await reader.pool.read(read)


async def _text_of(connection: TrioConnection, reader: LogReader, field: str, key: bytes) -> str:
    """The string of a key. One that is too long for an index is looked up in an event."""
    if field == "module" or not rows.is_cut(key):
        return key.decode()
    found = await connection.fetch(_ONE.replace(":column", field), reader.number, key)
    text = facet_of(reader.event_of(found[0]), field) if found else None
    if text is None:
        raise StoreError(f"{reader.pool.label}: what was counted is not there any more")
    return text
