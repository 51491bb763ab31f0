"""How a query becomes SQL for PostgreSQL, version 2 of the layout. Knows no driver.

PostgreSQL's planner chooses how to read by what it assumes about the data. Where that is wrong for a log, it
gets no choice: it assumes that timestamps are independent of seqs, and would look for "everything since
yesterday" from the first event on. Statements contain only names from this library; every value is a
parameter.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import attrs

from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._model._query import EventQuery
from trio_eventlog.stores._common._bounds import EQUALITIES, EVENT_OVERHEAD, MAX_MERGED_TYPES, Bounds
from trio_eventlog.stores._common._columns import MODULE
from trio_eventlog.stores.postgres._fields import VALUE, arms_of, pairs_of
from trio_eventlog.stores.postgres._rows import READ, ByteaArray, key_of

_UNBOUNDED: Final = ("payload", "actor", "long")
"""Columns whose length is not bounded."""


@attrs.frozen
class Select:
    """A query as SQL, with ``:s`` for the schema."""

    sql: str
    parameters: tuple[object, ...]


class _Terms:
    """Conditions, joined by AND, and all parameters of a statement."""

    def __init__(self, log: int) -> None:
        self.parameters: list[object] = []
        self._terms = [f"log = {self.value(log)}::bigint"]

    def value(self, value: object) -> str:
        """A parameter."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def add(self, term: str, value: object) -> None:
        """A condition, with ``?`` for the value."""
        self._terms.append(term.replace("?", self.value(value)))

    def __str__(self) -> str:
        return " and ".join(self._terms)


def select(
    query: EventQuery, log: int, indexed: Collection[str] = (), before: int | None = None
) -> Select | None:
    """How to read what ``query`` asks for; None if nothing can match.

    What it asks of ``fields`` is still to be checked, and the result to be limited then. ``indexed`` are the
    keys of payloads that have an index. With ``before``, the newest come first, of those with a lower seq.
    """
    bounds = Bounds.of(query)
    if bounds is None:
        return None
    types = tuple(dict.fromkeys(query.event_types))
    terms = _Terms(log)
    found_by_text = any(getattr(query, name) is not None for name in EQUALITIES)
    arms = arms_of(query, indexed) if query.fields else []
    limit = None if query.fields else bounds.limit
    others = found_by_text or query.module is not None or query.fields
    order = "" if before is None else " desc"
    if before is not None and before <= MAX_STORED:
        terms.add("seq < ?::bigint", before)
    if bounds.is_timed and not (bounds.after or types or others):
        # A window alone. Its index gives the seqs, which are sorted in a way that no index offers; then each
        # is looked up. Nothing here depends on how many the planner expects.
        _add_time(terms, "timestamp_ms", bounds)
        first = _limit(terms, bounds.limit)
        sql = f"""
with found as materialized (select seq from :s.events where {terms} order by seq + 0{order}{first})
select event.* from found, lateral (
    select {READ} from :s.events where log = $1::bigint and seq = found.seq offset 0
) as event order by found.seq{order}
"""  # noqa: S608 - no values
        return Select(sql, tuple(terms.parameters))
    _add_equalities(terms, query, bounds)
    for pair in () if arms else pairs_of(query):
        terms.add("position(?::bytea in payload) > 0", pair)
    # Not by their index, since seq comes first: see above.
    _add_time(terms, "timestamp_ms + 0", bounds)
    one = f"select {READ} from :s.events where {terms}"  # noqa: S608 - no values
    keys = [key_of(event_type.encode()) for event_type in types]
    if len(keys) == 1:
        one += f" and event_type = {terms.value(keys.pop())}::bytea"
    elif keys and (found_by_text or arms or len(keys) > MAX_MERGED_TYPES):
        one += f" and event_type = any({terms.value(ByteaArray(keys))}::bytea[])"
        keys = []
    end = f" order by seq{order}{_limit(terms, limit)}"
    # Each type comes in the order of seq, and is merged with the others without sorting.
    arms = arms or [(f"event_type = {VALUE}::bytea", key) for key in keys]
    parts = [f"({one} and {term.replace(VALUE, terms.value(value))}{end})" for term, value in arms]
    return Select((" union all ".join(parts) or one) + end, tuple(terms.parameters))


def count(query: EventQuery, log: int, columns: str, limit: int | None = None) -> Select | None:
    """How to count, by these columns, what matches a query without ``fields``; None if nothing can.

    With a ``limit``, only so many events are looked at.
    """
    bounds = Bounds.of(query)
    if bounds is None:
        return None
    terms = _Terms(log)
    _add_equalities(terms, query, bounds)
    _add_time(terms, "timestamp_ms", bounds)
    if query.event_types:
        keys = ByteaArray(key_of(event_type.encode()) for event_type in set(query.event_types))
        terms.add("event_type = any(?::bytea[])", keys)
    some = f"select {columns} from :s.events where {terms}"  # noqa: S608 - no values
    if limit is not None:
        some += _limit(terms, min(limit, MAX_STORED))
    numbers = ", ".join(str(number) for number in range(1, columns.count(" as ") + 1))
    sql = f"select *, count(*) from ({some}) as found group by {numbers}"  # noqa: S608 - no values
    return Select(sql, tuple(terms.parameters))


def select_page(query: EventQuery, log: int, max_bytes: int) -> Select | None:
    """The same, cut off once it weighs ``max_bytes``, and one event more if there is one.

    A column at the end marks that one. PostgreSQL knows the length of a value without reading it.
    """
    plan = select(query, log)
    if plan is None:
        return None
    most = f"${len(plan.parameters) + 1}::bigint"
    lengths = " + ".join(f"coalesce(octet_length({column}), 0)" for column in _UNBOUNDED)
    before = "rows between unbounded preceding and"
    sql = f"""
with page as materialized ({plan.sql}), weighed as (
    select seq, sum(weight) over (order by seq {before} 1 preceding) as weight,
        sum(weight) over (order by seq {before} 2 preceding) as weight_before
    from (select seq, {EVENT_OVERHEAD} + {lengths} as weight from page) as events
)
select {READ}, coalesce(weight, 0) >= {most} from page join weighed using (seq)
where coalesce(weight_before, 0) < {most} order by seq
"""  # noqa: S608 - no values
    return Select(sql, (*plan.parameters, min(max_bytes, MAX_STORED)))


def _add_equalities(terms: _Terms, query: EventQuery, bounds: Bounds) -> None:
    for name in EQUALITIES:
        text = getattr(query, name)
        if text is not None:
            terms.add(f"{name} = ?::bytea", key_of(text.encode()))
    if bounds.after:
        terms.add("seq > ?::bigint", bounds.after)
    if query.module is not None:
        terms.add(f"kind = {MODULE} and actor = ?::bytea", query.module.encode())


def _add_time(terms: _Terms, column: str, bounds: Bounds) -> None:
    if bounds.since_ms:
        terms.add(f"{column} >= ?::bigint", bounds.since_ms)
    if bounds.until_ms is not None:
        terms.add(f"{column} < ?::bigint", bounds.until_ms)


def _limit(terms: _Terms, limit: int | None) -> str:
    return "" if limit is None else f" limit {terms.value(limit)}::bigint"
