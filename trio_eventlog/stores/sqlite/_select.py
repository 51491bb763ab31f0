"""How a query becomes SQL, and its answer, version 2 of the layout.

Exactly one of a query's filters finds the rows: the one that usually leaves the fewest. Its index is
prescribed, all other filters are merely checked. So the plan never depends on what SQLite's planner assumes
about the data; on its own, it reads a whole log from the start for "everything since yesterday". Statements
contain only names from this library, and keys that have an index; every value is a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from itertools import islice
from typing import Final, cast

import apsw
import attrs

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._fields import to_fields
from trio_eventlog._model._payload import SCOPES
from trio_eventlog._model._query import EventQuery, is_of_module
from trio_eventlog._model._reports import StoreDescription
from trio_eventlog._model._sealed import reseal, scopes_of_event, size_of
from trio_eventlog.abc import EventPage
from trio_eventlog.stores._common._bounds import EQUALITIES, EVENT_OVERHEAD, MAX_MERGED_TYPES, Bounds
from trio_eventlog.stores._common._columns import MODULE, StoredColumns, event_of
from trio_eventlog.stores._common._fields import is_plain
from trio_eventlog.stores._common._statistics import Ranking, SeqGaps, Totals, description
from trio_eventlog.stores.sqlite._checksums import checksum, values_of
from trio_eventlog.stores.sqlite._field_index import (
    ANY,
    HAS_NUL,
    expression_of,
    index_name,
    indexed_keys,
    path_of,
)
from trio_eventlog.stores.sqlite._layout import SCHEMA_VERSION, table_of
from trio_eventlog.stores.sqlite._schema import Log, damaged, first_row

READ: Final = "seq, id, timestamp_ms, kind, actor, event_type, member_id, payload, checksum"
"""The columns that an event is made of, and their checksum."""

_RANKS: Final = ("step_id", "run_id", "fields", "identity", "member_id", "event_types", "mob_id", "time")
"""The first of these that a query has finds the rows. With none, the log is read from ``after_seq`` on."""

_MAX_BOUND_TYPES: Final = 10_000
"""Event types that fit into a statement, which takes 32,766 parameters."""


@attrs.frozen
class Select:
    """A query as SQL."""

    sql: str
    bindings: tuple[str | int, ...]

    checked: EventQuery | None = None
    """What to check in Python, because a statement cannot say it: more event types than fit into one, or
    fields that are lists or objects."""

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


def select(
    query: EventQuery, log_id: int, indexed: Collection[str] = (), *, before: int | None = None
) -> Select | None:
    """How to read what ``query`` asks for; None if nothing can match.

    ``indexed`` are the keys of payloads that have an index. With ``before``, the newest come first, of those
    with a lower seq.
    """
    bounds = Bounds.of(query)
    if bounds is None:
        return None
    after = bounds.after
    limit = -1 if bounds.limit is None else bounds.limit
    types = tuple(dict.fromkeys(query.event_types))
    others = before is not None or query.fields or query.module is not None
    is_timed = bounds.is_timed and not (after or others)
    fields = _comparable(query)
    key = next((key for key in fields if key in indexed), None)
    driver = _driver(query, types, timed=is_timed, has_key=key is not None)
    table = table_of(log_id)
    if driver == "time":
        return _select_window(table, bounds, limit)
    terms = _Terms()
    firsts: tuple[str, ...] = ()
    if driver == "event_types":
        terms.add("event_type = ?", types[0])
        firsts = types
    elif driver == "fields" and key is not None:
        firsts = (fields.pop(key), ANY)
        terms.add(f"{expression_of(key)} = ?", firsts[0])
    elif driver is not None:
        terms.add(f"{driver} = ?", getattr(query, driver))
    if after:
        terms.add("seq > ?", after)
    if before is not None and before <= MAX_STORED:
        terms.add("seq < ?", before)
    _add_time(terms, bounds)
    _add_equalities(terms, query, driver, fields)
    unbound = len(types) > _MAX_BOUND_TYPES
    if types and driver != "event_types" and not unbound:
        terms.add(f"event_type IN ({','.join('?' * len(types))})", *types)
    one = f"SELECT {READ} FROM {_access(table, driver, key)}{terms}"  # noqa: S608 - no values
    checked: EventQuery | None = None
    if unbound or query.fields:
        checked = EventQuery(event_types=types if unbound else (), fields=query.fields)
    # What is checked here is limited here, too.
    end = f" ORDER BY seq{'' if before is None else ' DESC'} LIMIT ?"
    most = limit if checked is None else -1
    if not firsts:
        return Select(one + end, (*terms.bindings, most), checked, limit)
    # Each of these is in the order of seq, and SQLite merges them without sorting.
    merged = " UNION ALL ".join([one] * len(firsts))
    bindings = [value for first in firsts for value in (first, *terms.bindings[1:])]
    return Select(merged + end, (*bindings, most), checked, limit)


def _select_window(table: str, bounds: Bounds, limit: int) -> Select:
    window = _Terms()
    _add_time(window, bounds)
    index = f"{table} INDEXED BY {table}_timestamp_ms"
    inner = f"SELECT seq AS found FROM {index}{window} ORDER BY seq LIMIT ?"  # noqa: S608 - no values
    # An event that is in the index alone comes as a row of NULLs, which has no good checksum. The order is
    # that of the inner statement, and is checked.
    sql = f"SELECT {READ} FROM ({inner}) LEFT JOIN {table} ON seq = found"  # noqa: S608 - no values
    return Select(sql, (*window.bindings, limit))


def matching(query: EventQuery, log_id: int) -> Select | None:
    """What comes behind the columns of a statement about all events that match; None if none can.

    If it is ``checked``, there is no such statement.
    """
    bounds = Bounds.of(query)
    if bounds is None:
        return None
    types = tuple(dict.fromkeys(query.event_types))
    if len(types) > _MAX_BOUND_TYPES or query.fields:
        return Select("", (), query)
    driver = _driver(query, types, timed=bounds.is_timed and not bounds.after, has_key=False)
    terms = _Terms()
    if bounds.after:
        terms.add("seq > ?", bounds.after)
    _add_time(terms, bounds)
    _add_equalities(terms, query, None, {})
    if types:
        terms.add(f"event_type IN ({','.join('?' * len(types))})", *types)
    table = table_of(log_id)
    access = f"{table} INDEXED BY {table}_timestamp_ms" if driver == "time" else ""
    return Select(f"FROM {access or _access(table, driver, None)}{terms}", tuple(terms.bindings))


def _access(table: str, driver: str | None, key: str | None) -> str:
    if driver is None:
        # By no index but seq itself.
        return f"{table} NOT INDEXED"
    if driver == "fields" and key is not None:
        return f"{table} INDEXED BY {index_name(table, key)}"
    return f"{table} INDEXED BY {table}_{'event_type' if driver == 'event_types' else driver}"


def _comparable(query: EventQuery) -> dict[str, str]:
    """The fields that a statement can compare, more or less, with their JSON."""
    fields = to_fields(query.fields)
    return {key: text for key, text in fields.texts if is_plain(key) and fields.is_scalar(key)}


def _driver(query: EventQuery, types: tuple[str, ...], *, timed: bool, has_key: bool) -> str | None:
    for name in _RANKS:
        if name == "fields":
            applies = has_key
        elif name == "event_types":
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


def _add_equalities(terms: _Terms, query: EventQuery, driver: str | None, fields: dict[str, str]) -> None:
    for name in EQUALITIES:
        if name != driver and getattr(query, name) is not None:
            terms.add(f"{name} = ?", getattr(query, name))
    if query.module is not None:
        terms.add("kind = ? AND actor = ?", MODULE, query.module)
    for name, text in fields.items():
        terms.add(f"(payload -> ? = ? OR {HAS_NUL})", path_of(name), text)


def _add_time(terms: _Terms, bounds: Bounds) -> None:
    if bounds.since_ms:
        terms.add("timestamp_ms >= ?", bounds.since_ms)
    if bounds.until_ms is not None:
        terms.add("timestamp_ms < ?", bounds.until_ms)


_ROWS_AT_ONCE: Final = 500
"""Rows that are checked together, which is faster."""


def judge(query: EventQuery) -> Callable[[PersistedEvent], bool] | None:
    """Whether an event passes the filters of a query, but for ``after_seq`` and ``fields``; None without
    others.

    SQLite has found the event, but an index may be damaged; and the columns of the scopes have no checksum.
    """
    since_ms = query.since_ms or 0
    until_ms = math.inf if query.until_ms is None else query.until_ms
    types = frozenset(query.event_types)
    wanted = [getattr(query, name) for name in SCOPES]
    is_scoped = any(scope is not None for scope in wanted)
    others = query.member_id, query.module
    if not (since_ms or until_ms < math.inf or types or is_scoped or others != (None, None)):
        return None

    def accepts(event: PersistedEvent) -> bool:
        if not since_ms <= event.timestamp_ms < until_ms or (types and event.event.event_type not in types):
            return False
        if query.member_id is not None and event.member_id != query.member_id:
            return False
        if query.module is not None and not is_of_module(event, query.module):
            return False
        found = scopes_of_event(event.event) if is_scoped else wanted
        return all(want is None or want == scope for want, scope in zip(wanted, found, strict=True))

    return accepts


def _select(db: apsw.Connection, log: Log, query: EventQuery) -> Select | None:
    return select(query, log.number, indexed_keys(db, log.table) if query.fields else ())


def read(db: apsw.Connection, log: Log, query: EventQuery) -> list[PersistedEvent]:
    """The events that match, ascending by seq; StoreUnusable if they are not what was stored."""
    plan = _select(db, log, query)
    if plan is None:
        return []
    if plan.checked is not None:
        return _read_some(db, log, query, plan, math.inf).events
    accepts = judge(query)
    last = query.after_seq or 0
    found: list[PersistedEvent] = []
    with closing(db.execute(plan.sql, plan.bindings)) as cursor:
        while rows := list(islice(cursor, _ROWS_AT_ONCE)):
            values = values_of(rows, log.seed)
            if values is None or values[0][0] <= last:
                raise damaged_event(db, log, last)
            last = values[-1][0]
            events = list(map(event_of, values))
            if accepts is not None and not all(map(accepts, events)):
                raise damaged_index(db, log)
            found += events
    if accepts is None and len(found) != query.limit:
        check_end(db, log, last)
    return found


def read_page(db: apsw.Connection, log: Log, query: EventQuery, max_bytes: int) -> EventPage:
    """The same, cut off once they have ``max_bytes``."""
    plan = _select(db, log, query)
    return EventPage([], is_complete=True) if plan is None else _read_some(db, log, query, plan, max_bytes)


def _read_some(db: apsw.Connection, log: Log, query: EventQuery, plan: Select, max_bytes: float) -> EventPage:
    checked = plan.checked
    accepts, passes = judges(query, plan)
    seed = log.seed
    last = query.after_seq or 0
    found: list[PersistedEvent] = []
    weight = 0
    # A statement that is not closed goes on reading, and so keeps the write-ahead log from restarting, for as
    # long as an error refers to it.
    with closing(db.execute(plan.sql, plan.bindings)) as rows:
        # One by one, since they may be large.
        for row in rows:
            values = row[:-1]
            if checksum(values, seed) != row[-1] or row[0] <= last:
                raise damaged_event(db, log, last)
            last = row[0]
            event = event_of(cast("StoredColumns", values))
            if accepts is not None and not accepts(event):
                raise damaged_index(db, log)
            if passes(event):
                if weight >= max_bytes:
                    return EventPage(found, is_complete=False)
                found.append(event)
                weight += EVENT_OVERHEAD + size_of(event)
                if len(found) == plan.limit:
                    break
    if accepts is None and checked is None and len(found) != query.limit:
        check_end(db, log, last)
    return EventPage(found, is_complete=True)


def judges(
    query: EventQuery, plan: Select
) -> tuple[Callable[[PersistedEvent], bool] | None, Callable[[PersistedEvent], bool]]:
    """Whether an event that SQLite has found is one that it should have, and whether it is wanted."""
    checked = plan.checked
    if checked is not None and checked.event_types:
        # What is checked here is no judgement about SQLite's answer.
        query = attrs.evolve(query, event_types=())
    return judge(query), _check_of(checked)


def _check_of(checked: EventQuery | None) -> Callable[[PersistedEvent], bool]:
    """Whether an event has one of the types and all of the fields."""
    if checked is None:
        return lambda _: True
    types = frozenset(checked.event_types)

    def passes(event: PersistedEvent) -> bool:
        if types and event.event.event_type not in types:
            return False
        # An event remembers what it has decoded, and that is to be the reader's.
        return not checked.fields or checked.matches_fields(reseal(event))

    return passes


def check_end(db: apsw.Connection, log: Log, last: int) -> None:
    """Check that a log ends where it should, if ``last`` is its last seq; StoreUnusable if it does not."""
    # A page that is lost takes its events along. Those at the end are missed at once, others by ``verify``.
    if last < log.last_seq and log.pruned_seq < log.last_seq:
        raise damaged(db, f"events of log {log.name!r} after seq {last} are missing, up to {log.last_seq}")


def damaged_event(db: apsw.Connection, log: Log, last: int) -> StoreUnusable:
    """The error for an event that is not what was stored."""
    return damaged(db, f"an event of log {log.name!r} after seq {last} is not what was stored")


def damaged_index(db: apsw.Connection, log: Log) -> StoreUnusable:
    """The error for an index that is not that of the events."""
    return damaged(db, f"an index of log {log.name!r} leads to events that do not match")


# --- what the log holds, in numbers ---------------------------------------------------------------


def describe(db: apsw.Connection, log: Log, top: int, size_bytes: int, wal_bytes: int) -> StoreDescription:
    """See :meth:`SqliteStore.describe`; within a transaction, so that all numbers are of one moment."""
    table = log.table
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
        highest_seq=log.last_seq,
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
