"""What people ask who look at a log: its latest events, and counts.

By time, type, member and module, most is read from the counts of the log. The rest is counted by SQLite, by
the index that a query has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Final, TypeVar, cast

import apsw
import attrs

from trio_eventlog._abilities._summaries import Facets, HistogramBucket
from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog.stores._common._bounds import Bounds
from trio_eventlog.stores._common._columns import MODULE, StoredColumns, event_of
from trio_eventlog.stores._common._summaries import (
    HistogramCounter,
    check_count,
    check_facets,
    check_histogram,
    check_latest,
    facet_of,
    facets_of,
)
from trio_eventlog.stores.sqlite import _select as queries
from trio_eventlog.stores.sqlite._checksums import checksum
from trio_eventlog.stores.sqlite._counts import Chunk, load, uncounted
from trio_eventlog.stores.sqlite._field_index import indexed_keys
from trio_eventlog.stores.sqlite._schema import Log, first_row

T = TypeVar("T")

_PAGE_BYTES: Final = 4 * 1024 * 1024
"""Of events that are looked at one by one."""

_COLUMNS: Final = {
    "module": f"CASE WHEN kind = {MODULE} THEN actor END",
}
"""How facets are read whose column has another name."""


class Summaries:
    """The part of a store that answers those questions."""

    async def _read(self, job: Callable[[apsw.Connection, Log], T]) -> T:
        raise NotImplementedError

    async def latest(
        self, query: EventQuery, *, before_seq: int | None = None, limit: int
    ) -> list[PersistedEvent]:
        """See :meth:`trio_eventlog.abc.LatestStore.latest`.

        Each filter at the cost of its index, as :meth:`query`. A window of time is read backwards from where
        the counts of the log say that it ends.
        """
        check_latest(query, before_seq, limit)
        return await self._read(partial(read_latest, query=query, before_seq=before_seq, limit=limit))

    async def count(self, query: EventQuery, *, at_most: int) -> int:
        """See :meth:`trio_eventlog.abc.CountingStore.count`.

        Trusts the columns and indexes that it counts by; :meth:`verify` checks them.
        """
        check_count(query, at_most)
        return await self._read(partial(count_events, query=query, at_most=at_most))

    async def histogram(self, query: EventQuery, *, bucket_ms: int) -> list[HistogramBucket]:
        """See :meth:`trio_eventlog.abc.HistogramStore.histogram`.

        By time, ``after_seq`` and types alone, it is read from the counts that the log keeps; only stretches
        of 256 events that reach over the end of a bucket, and what no appender has counted, are counted anew.
        With other filters the events that their index finds are counted. Trusts columns and indexes as
        :meth:`count` does.
        """
        check_histogram(query, bucket_ms)
        return await self._read(partial(count_by_time, query=query, bucket_ms=bucket_ms))

    async def facets(self, query: EventQuery, field: str, *, top: int = 10) -> Facets:
        """See :meth:`trio_eventlog.abc.FacetStore.facets`.

        Types, members and modules by time and ``after_seq`` alone are read from the counts that the log
        keeps, as in :meth:`histogram`; scopes of all events, from their index. Otherwise the events that are
        found are counted. Trusts columns and indexes as :meth:`count` does.
        """
        check_facets(query, field, top)
        return await self._read(partial(count_by_value, query=query, field=field, top=top))


# --- the latest -----------------------------------------------------------------------------------


def read_latest(
    db: apsw.Connection, log: Log, query: EventQuery, before_seq: int | None, limit: int
) -> list[PersistedEvent]:
    """See :meth:`Summaries.latest`; within a transaction."""
    before = MAX_STORED + 1 if before_seq is None else min(before_seq, MAX_STORED + 1)
    wanted = attrs.evolve(query, limit=limit)
    if query.since_ms is not None or query.until_ms is not None:
        found = _range_of_window(db, log, query)
        if found is None:
            return []
        # Where the window is, events are read in order, and the time of each is checked.
        wanted = attrs.evolve(wanted, after_seq=max(query.after_seq or 0, found[0] - 1))
        before = min(before, found[1] + 1)
    plan = queries.select(wanted, log.number, _indexed(db, log, query), before=before)
    if plan is None:
        return []
    events = _read_backwards(db, log, query, plan, limit)
    if before > log.last_seq and limit and plan.checked is None and queries.judge(query) is None:
        queries.check_end(db, log, events[0].seq if events else query.after_seq or 0)
    return events


def _read_backwards(
    db: apsw.Connection, log: Log, query: EventQuery, plan: queries.Select, limit: int
) -> list[PersistedEvent]:
    accepts, passes = queries.judges(query, plan)
    seed, last = log.seed, MAX_STORED + 1
    found: list[PersistedEvent] = []
    with closing(db.execute(plan.sql, plan.bindings)) as rows:
        for row in rows:
            values = row[:-1]
            if checksum(values, seed) != row[-1] or row[0] >= last:
                raise queries.damaged_event(db, log, query.after_seq or 0)
            last = row[0]
            event = event_of(cast("StoredColumns", values))
            if accepts is not None and not accepts(event):
                raise queries.damaged_index(db, log)
            if passes(event):
                found.append(event)
                if len(found) == limit:
                    break
    return found


def _range_of_window(db: apsw.Connection, log: Log, query: EventQuery) -> tuple[int, int] | None:
    """Seqs between which all events of a window of time are; None if there are none."""
    window = _Window.of(query)
    if window is None:
        return None
    after = query.after_seq or 0
    chunks = load(db, log, after)
    ends = [seq for chunk in chunks if window.meets(chunk) for seq in (chunk.first_seq, chunk.last_seq)]
    # What no chunk has counted may be far from the window, as the end of the log is from its begin.
    where = f"seq BETWEEN ? AND ? AND {window.condition}"
    sql = f"SELECT min(seq), max(seq) FROM {log.table} NOT INDEXED WHERE {where}"  # noqa: S608 - no values
    for first, last in uncounted(chunks, after + 1, log.last_seq):
        ends += (seq for seq in first_row(db, sql, (first, last, *window.bounds)) if seq is not None)
    return (min(ends), max(ends)) if ends else None


@attrs.frozen
class _Window:
    since_ms: int
    until_ms: int

    @classmethod
    def of(cls, query: EventQuery) -> _Window | None:
        """The window of a query that can match something; None if it cannot."""
        bounds = Bounds.of(query)
        if bounds is None:
            return None
        return cls(bounds.since_ms, MAX_STORED + 1 if bounds.until_ms is None else bounds.until_ms)

    @property
    def condition(self) -> str:
        """As SQL, with a parameter for each of its bounds."""
        return " AND ".join(("timestamp_ms >= ?", "timestamp_ms < ?")[: len(self.bounds)])

    @property
    def bounds(self) -> tuple[int, ...]:
        """Those that a database can hold."""
        return (self.since_ms, self.until_ms)[: 1 + (self.until_ms <= MAX_STORED)]

    def meets(self, chunk: Chunk) -> bool:
        """Whether an event of ``chunk`` may be in it."""
        return chunk.first_ms < self.until_ms and chunk.last_ms >= self.since_ms

    def has_all_of(self, chunk: Chunk) -> bool:
        """Whether all events of ``chunk`` are in it."""
        return self.since_ms <= chunk.first_ms and chunk.last_ms < self.until_ms


def _indexed(db: apsw.Connection, log: Log, query: EventQuery) -> frozenset[str]:
    return indexed_keys(db, log.table) if query.fields else frozenset()


# --- counting: by the chunks ----------------------------------------------------------------------


def _is_counted(query: EventQuery, *others: str) -> bool:
    """Whether a query has no filters but those that chunks can answer, and ``others``."""
    plain: dict[str, Any] = {"since_ms": None, "until_ms": None, "after_seq": None}
    return attrs.evolve(query, **plain, **dict.fromkeys(others)) == EventQuery()


def _split_up(
    db: apsw.Connection, log: Log, query: EventQuery, is_whole: Callable[[Chunk], bool]
) -> tuple[list[Chunk], list[tuple[int, int]]]:
    """The chunks that can be taken as they are, and the ranges of seqs that must be counted."""
    window = _Window.of(query)
    if window is None:
        return [], []
    after = query.after_seq or 0
    chunks = load(db, log, after)
    ranges = uncounted(chunks, after + 1, log.last_seq)
    whole: list[Chunk] = []
    for chunk in filter(window.meets, chunks):
        if chunk.first_seq > after and window.has_all_of(chunk) and is_whole(chunk):
            whole.append(chunk)
        else:
            ranges.append((max(chunk.first_seq, after + 1), chunk.last_seq))
    return whole, _joined(sorted(ranges))


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in ranges:
        if joined and joined[-1][1] + 1 == first:
            first = joined.pop()[0]  # noqa: PLW2901 - the range goes on
        joined.append((first, last))
    return joined


def _count_ranges(
    db: apsw.Connection, log: Log, query: EventQuery, ranges: Iterable[tuple[int, int]], *columns: str
) -> Iterable[tuple[Any, ...]]:
    """Count the events of these ranges of seqs that are in the window of ``query``."""
    window = _Window.of(query)
    if window is None:
        return
    sql = (
        f"SELECT {', '.join(columns)}, count(*) FROM {log.table} NOT INDEXED"  # noqa: S608 - no values
        f" WHERE seq BETWEEN ? AND ? AND {window.condition} GROUP BY {', '.join(columns)}"
    )
    for first, last in ranges:
        yield from db.execute(sql, (first, last, *window.bounds))


def count_by_time(db: apsw.Connection, log: Log, query: EventQuery, bucket_ms: int) -> list[HistogramBucket]:
    """See :meth:`Summaries.histogram`; within a transaction."""
    counter = HistogramCounter(bucket_ms)
    if not _is_counted(query, "event_types"):
        _count_time_of_matches(db, log, query, counter)
        return counter.result()
    types = frozenset(query.event_types)
    whole, ranges = _split_up(
        db, log, query, lambda chunk: counter.start_of(chunk.first_ms) == counter.start_of(chunk.last_ms)
    )
    for chunk in whole:
        for event_type, events in chunk.counts.types.items():
            if not types or event_type in types:
                counter.add(chunk.first_ms, event_type, events)
    columns = f"timestamp_ms / {bucket_ms:d}", "event_type"
    for number, event_type, events in _count_ranges(db, log, query, ranges, *columns):
        if number is None or event_type is None:
            raise _damaged(db, log)
        if not types or event_type in types:
            counter.add(number * bucket_ms, event_type, events)
    return counter.result()


def _damaged(db: apsw.Connection, log: Log) -> StoreUnusable:
    # A damaged file can have NULL where the layout forbids it.
    return queries.damaged_event(db, log, 0)


def count_by_value(db: apsw.Connection, log: Log, query: EventQuery, field: str, top: int) -> Facets:
    """See :meth:`Summaries.facets`; within a transaction."""
    if field not in _COUNTED or not _is_counted(query):
        return facets_of(_count_values_of_matches(db, log, query, field), top)
    name = _COUNTED[field]
    counts: Counter[str] = Counter()
    whole, ranges = _split_up(db, log, query, lambda _: True)
    for chunk in whole:
        counts.update(getattr(chunk.counts, name))
    for value, events in _count_ranges(db, log, query, ranges, _column_of(field)):
        if value is not None:
            counts[value] += events
    return facets_of(counts.items(), top)


_COUNTED: Final = {"event_type": "types", "member_id": "members", "module": "modules"}
"""What chunks count, by the name of the field."""


def _column_of(field: str) -> str:
    return _COLUMNS.get(field, field)


# --- counting: what an index finds ----------------------------------------------------------------


def count_events(db: apsw.Connection, log: Log, query: EventQuery, at_most: int) -> int:
    """See :meth:`Summaries.count`; within a transaction."""
    found = queries.matching(query, log.number)
    at_most = min(at_most, MAX_STORED)
    if found is None:
        return 0
    if found.checked is not None:
        return sum(1 for _ in _matches(db, log, attrs.evolve(query, limit=at_most)))
    sql = f"SELECT count(*) FROM (SELECT 1 {found.sql} LIMIT ?)"  # noqa: S608 - no values
    ((events,),) = db.execute(sql, (*found.bindings, at_most))
    return int(events)


def _count_time_of_matches(
    db: apsw.Connection, log: Log, query: EventQuery, counter: HistogramCounter
) -> None:
    found = queries.matching(query, log.number)
    if found is None:
        return
    if found.checked is not None:
        for event in _matches(db, log, query):
            counter.add(event.timestamp_ms, event.event.event_type)
        return
    width = counter.bucket_ms
    sql = f"SELECT timestamp_ms / {width:d}, event_type, count(*) {found.sql} GROUP BY 1, 2"
    for number, event_type, events in db.execute(sql, found.bindings):
        if number is None or event_type is None:
            raise _damaged(db, log)
        counter.add(number * width, event_type, events)


def _count_values_of_matches(
    db: apsw.Connection, log: Log, query: EventQuery, field: str
) -> Iterable[tuple[str, int]]:
    column = _column_of(field)
    if query == EventQuery() and field not in _COUNTED:
        # The index of a scope alone.
        access = f"FROM {log.table} INDEXED BY {log.table}_{field} WHERE {field} IS NOT NULL"
        return _counted(db.execute(f"SELECT {field}, count(*) {access} GROUP BY 1"))
    found = queries.matching(query, log.number)
    if found is None:
        return ()
    if found.checked is not None:
        values = (facet_of(event, field) for event in _matches(db, log, query))
        return Counter(value for value in values if value is not None).items()
    sql = f"SELECT {column}, count(*) {found.sql} GROUP BY 1"
    return _counted(db.execute(sql, found.bindings))


def _counted(rows: Iterable[Any]) -> list[tuple[str, int]]:
    return [(value, events) for value, events in rows if value is not None]


def _matches(db: apsw.Connection, log: Log, query: EventQuery) -> Iterable[PersistedEvent]:
    """The events that a query finds, read page by page."""
    is_complete = False
    while not is_complete:
        page = queries.read_page(db, log, query, _PAGE_BYTES)
        yield from page.events
        is_complete = page.is_complete
        if page.events:
            left = None if query.limit is None else query.limit - len(page.events)
            query = attrs.evolve(query, after_seq=page.events[-1].seq, limit=left)
