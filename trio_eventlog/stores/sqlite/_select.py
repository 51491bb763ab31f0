"""How a query becomes SQL, version 1 of the layout.

Exactly one of a query's filters finds the rows: the one that usually leaves the fewest. Its index is
prescribed, all other filters are merely checked. So the plan never depends on what SQLite's planner assumes
about the data; on its own, it reads a whole log from the start for "everything since yesterday". Statements
contain only names from this library; every value is a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, Final, cast

import apsw
import attrs

from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import StoreDescription
from trio_eventlog._model._sealed import size_of
from trio_eventlog.abc import EventPage
from trio_eventlog.stores._common._bounds import EQUALITIES, EVENT_OVERHEAD, MAX_MERGED_TYPES, Bounds
from trio_eventlog.stores._common._columns import event_of
from trio_eventlog.stores._common._statistics import Ranking, SeqGaps, Totals, description
from trio_eventlog.stores.sqlite._schema import SCHEMA_VERSION, damaged, first_row, last_seq, table_of

READ: Final = "seq, id, timestamp_ms, kind, actor, event_type, member_id, payload"

_RANKS: Final = ("step_id", "run_id", "identity", "member_id", "event_types", "mob_id", "time")
"""The first of these that a query has finds the rows. With none, the log is read from ``after_seq`` on."""

_MAX_BOUND_TYPES: Final = 10_000
"""Event types that fit into a statement, which takes 32,766 parameters."""


@attrs.frozen
class Select:
    """A query as SQL."""

    sql: str
    bindings: tuple[str | int, ...]

    types: frozenset[str] | None = None
    """Event types to check in Python, because they do not fit into a statement."""

    limit: int = -1
    """Maximum number of events to take then; -1 for all."""


class _Terms:
    """Conditions, joined by AND, and their values."""

    def __init__(self) -> None:
        self._terms: list[str] = []
        self.bindings: list[str | int] = []

    def add(self, term: str, *values: str | int) -> None:
        self._terms.append(term)
        self.bindings += values

    def __str__(self) -> str:
        return f" WHERE {' AND '.join(self._terms)}" if self._terms else ""


def select(query: EventQuery, log_id: int) -> Select | None:
    """How to read what ``query`` asks for; None if nothing can match."""
    bounds = Bounds.of(query)
    if bounds is None:
        return None
    after = bounds.after
    limit = -1 if bounds.limit is None else bounds.limit
    types = tuple(dict.fromkeys(query.event_types))
    driver = _driver(query, types, timed=bounds.is_timed and not after)
    table = table_of(log_id)

    if driver == "time":
        window = _Terms()
        _add_time(window, bounds)
        inner = f"SELECT seq FROM {table} INDEXED BY {table}_timestamp_ms{window} ORDER BY seq LIMIT ?"  # noqa: S608 - no values
        sql = f"SELECT {READ} FROM {table} WHERE seq IN ({inner}) ORDER BY seq"  # noqa: S608 - no values
        return Select(sql, (*window.bindings, limit))

    terms = _Terms()
    if driver == "event_types":
        terms.add("event_type = ?", types[0])
    elif driver is not None:
        terms.add(f"{driver} = ?", getattr(query, driver))
    if after:
        terms.add("seq > ?", after)
    _add_time(terms, bounds)
    for name in EQUALITIES:
        if name != driver and getattr(query, name) is not None:
            terms.add(f"{name} = ?", getattr(query, name))
    unbound = len(types) > _MAX_BOUND_TYPES
    if types and driver != "event_types" and not unbound:
        terms.add(f"event_type IN ({','.join('?' * len(types))})", *types)
    # NOT INDEXED means by no index but seq itself.
    column = "event_type" if driver == "event_types" else driver
    access = "NOT INDEXED" if column is None else f"INDEXED BY {table}_{column}"
    one = f"SELECT {READ} FROM {table} {access}{terms}"  # noqa: S608 - no values
    if unbound:
        return Select(f"{one} ORDER BY seq", tuple(terms.bindings), frozenset(types), limit)
    if driver != "event_types":
        return Select(f"{one} ORDER BY seq LIMIT ?", (*terms.bindings, limit))
    # Each of these is in the order of seq, and SQLite merges them without sorting.
    merged = " UNION ALL ".join([one] * len(types))
    bindings = [value for name in types for value in (name, *terms.bindings[1:])]
    return Select(f"{merged} ORDER BY seq LIMIT ?", (*bindings, limit))


def _driver(query: EventQuery, types: tuple[str, ...], *, timed: bool) -> str | None:
    for name in _RANKS:
        if name == "event_types":
            applies = 1 <= len(types) <= MAX_MERGED_TYPES
        elif name == "time":
            # This index is not in the order of seq, so what it finds has to be sorted. It is used only for a
            # window alone; with a cursor, or with types to check, the log is read in order.
            applies = timed and not types
        else:
            applies = getattr(query, name) is not None
        if applies:
            return name
    return None


def _add_time(terms: _Terms, bounds: Bounds) -> None:
    if bounds.since_ms:
        terms.add("timestamp_ms >= ?", bounds.since_ms)
    if bounds.until_ms is not None:
        terms.add("timestamp_ms < ?", bounds.until_ms)


_PAYLOAD: Final = itemgetter(-1)
_PAYLOAD_TYPES: Final = frozenset({str, type(None)})

_ROWS_AT_ONCE: Final = 500
"""Rows whose payloads are checked together, which is faster."""


def _event(db: apsw.Connection, row: Any) -> PersistedEvent:
    if type(_PAYLOAD(row)) not in _PAYLOAD_TYPES:
        # Only in a damaged file. The payload could not be decoded later.
        raise damaged(db, f"the payload of seq {row[0]!r:.50} is no text")
    return event_of(row)


def read(db: apsw.Connection, log_id: int, query: EventQuery) -> list[PersistedEvent]:
    """The events that match, ascending by seq."""
    plan = select(query, log_id)
    if plan is None:
        return []
    if plan.types is not None:
        return _read_some(db, plan, math.inf).events
    found: list[PersistedEvent] = []
    with closing(db.execute(plan.sql, plan.bindings)) as cursor:
        while rows := list(islice(cursor, _ROWS_AT_ONCE)):
            is_sound = _PAYLOAD_TYPES.issuperset(map(type, map(_PAYLOAD, rows)))
            found += map(event_of if is_sound else partial(_event, db), rows)
    return found


def read_page(db: apsw.Connection, log_id: int, query: EventQuery, max_bytes: int) -> EventPage:
    """The same, cut off once they have ``max_bytes``."""
    plan = select(query, log_id)
    return EventPage([], is_complete=True) if plan is None else _read_some(db, plan, max_bytes)


def _read_some(db: apsw.Connection, plan: Select, max_bytes: float) -> EventPage:
    found: list[PersistedEvent] = []
    weight = 0
    # A statement that is not closed goes on reading, and so keeps the write-ahead log from restarting, for as
    # long as an error refers to it.
    with closing(db.execute(plan.sql, plan.bindings)) as rows:
        for row in rows:
            if weight >= max_bytes:
                return EventPage(found, is_complete=False)
            event = _event(db, row)
            if plan.types is None or event.event.event_type in plan.types:
                found.append(event)
                weight += EVENT_OVERHEAD + size_of(event)
                if len(found) == plan.limit:
                    break
    return EventPage(found, is_complete=True)


# --- what the log holds, in numbers ---------------------------------------------------------------


def describe(db: apsw.Connection, log_id: int, top: int, size_bytes: int, wal_bytes: int) -> StoreDescription:
    """See :meth:`SqliteStore.describe`; within a transaction, so that all numbers are of one moment."""
    table = table_of(log_id)
    (events,) = first_row(db, f"SELECT count(*) FROM {table}")  # noqa: S608 - no values
    first, last = first_row(db, f"SELECT (SELECT min(seq) FROM {table}), (SELECT max(seq) FROM {table})")  # noqa: S608 - no values
    earliest, latest = first_row(
        db,
        f"SELECT (SELECT min(timestamp_ms) FROM {table}), (SELECT max(timestamp_ms) FROM {table})",  # noqa: S608 - no values
    )
    totals = Totals(events, first, last, earliest, latest)
    return description(
        totals,
        _ranking(db, table, "event_type", top),
        _ranking(db, table, "member_id", top),
        _gaps(db, table) if totals.missing else SeqGaps(),
        highest_seq=last_seq(db, log_id),
        size_bytes=size_bytes,
        wal_bytes=wal_bytes,
        schema_version=SCHEMA_VERSION,
    )


def _ranking(db: apsw.Connection, table: str, column: str, top: int) -> Ranking:
    counts = (
        f"SELECT {column} AS value, count(*) AS events FROM {table} WHERE {column} IS NOT NULL GROUP BY 1"  # noqa: S608 - no values
    )
    (distinct,) = first_row(db, f"SELECT count(*) FROM ({counts})")  # noqa: S608 - no values
    ranked = db.execute(f"{counts} ORDER BY events DESC, value LIMIT ?", (top,)).fetchall()
    return Ranking(distinct, tuple(cast("list[tuple[str, int]]", ranked)))


def _gaps(db: apsw.Connection, table: str) -> SeqGaps:
    neighbours = f"SELECT lag(seq) OVER (ORDER BY seq) AS previous, seq FROM {table}"  # noqa: S608 - no values
    sql = f"SELECT previous + 1, seq - 1 FROM ({neighbours}) WHERE seq > previous + 1"  # noqa: S608 - no values
    gaps = SeqGaps()
    for first, last in cast("Iterable[tuple[int, int]]", db.execute(sql)):
        gaps.add_gap(first, last)
    return gaps
