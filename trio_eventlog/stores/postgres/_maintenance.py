"""Numbers about a log in PostgreSQL, looking it over, and taking old events out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import attrs
import trio

from trio_eventlog._model._codec import from_json, scopes_of, to_json
from trio_eventlog._model._errors import CodecError
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._query import SCOPES
from trio_eventlog._model._reports import GAPS_SHOWN, StoreDescription, StoreVerification
from trio_eventlog.stores._common._batches import Steps
from trio_eventlog.stores._common._statistics import Findings, Gaps
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.stores.postgres import _select as queries
from trio_eventlog.stores.postgres._schema import Names, int8, number, number_or_none

if TYPE_CHECKING:
    from trio_eventlog.stores.postgres._connection import Session

_PAGE: Final = 1000
"""Events that are looked at in one statement."""

PRUNED_TOGETHER: Final = 1000
"""Events that go in one transaction."""


# --- describe -------------------------------------------------------------------------------------


async def describe(session: Session, names: Names, log: int, top: int) -> StoreDescription:
    """See :meth:`PostgresStore.describe`. All numbers are of one moment."""
    await session.script(b"begin isolation level repeatable read read only")
    size = await session.execute(names.sql(queries.SIZE), [names.schema.encode()])
    size_bytes = number(size.get_value(0, 0))
    result = await session.execute(names.sql(queries.TOTALS), [int8(log)])
    events, first, last, earliest, latest = (number_or_none(result.get_value(0, i)) for i in range(5))
    highest = await session.execute(names.sql(queries.HIGHEST), [int8(log)])
    distinct_types, types = await _frequencies(session, names, log, "event_type", top)
    distinct_members, members = await _frequencies(session, names, log, "member_id", top)
    missing = 0 if first is None or last is None else last - first + 1 - cast("int", events)
    gaps, shown = await _gaps(session, names, log) if missing else (0, ())
    await session.script(b"rollback")
    return StoreDescription(
        events=cast("int", events),
        first_seq=first,
        last_seq=last,
        highest_seq=number(highest.get_value(0, 0)) if highest.ntuples else 0,
        first_timestamp_ms=earliest,
        last_timestamp_ms=latest,
        distinct_event_types=distinct_types,
        event_types=types,
        distinct_members=distinct_members,
        members=members,
        gaps=gaps,
        missing=missing,
        first_gaps=shown,
        size_bytes=size_bytes,
        schema_version=schema.SCHEMA_VERSION,
    )


async def _frequencies(
    session: Session, names: Names, log: int, column: str, top: int
) -> tuple[int, tuple[tuple[str, int], ...]]:
    # One at least: it brings how many there are.
    rows = await session.execute(names.sql(queries.frequencies(column)), [int8(log), int8(max(top, 1))])
    distinct = number(rows.get_value(0, 2)) if rows.ntuples else 0
    ranked: list[tuple[str, int]] = []
    for index in range(min(top, rows.ntuples)):
        key = rows.get_value(index, 0) or b""
        long: bytes | None = None
        if schema.is_cut(key):
            found = await session.execute(names.sql(queries.whole(column)), [int8(log), key])
            long = found.get_value(0, 0)
        ranked.append((schema.whole_text(column, key, long), number(rows.get_value(index, 1))))
    return distinct, tuple(ranked)


async def _gaps(session: Session, names: Names, log: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    rows = await session.execute(names.sql(queries.GAPS), [int8(log), int8(GAPS_SHOWN)])
    shown = tuple(
        (number(rows.get_value(index, 0)), number(rows.get_value(index, 1))) for index in range(rows.ntuples)
    )
    return number(rows.get_value(0, 2)) if shown else 0, shown


# --- verify ---------------------------------------------------------------------------------------

_RELATIONS: Final = """
select indexes.relname, index.indisunique, index.indisvalid and index.indisready
from pg_index as index
join pg_class as indexes on indexes.oid = index.indexrelid
where index.indrelid = to_regclass(quote_ident($1::text) || '.events')
"""

# From one log to the next by the index, since a table has few logs and many events.
_LOST_LOGS: Final = """
with recursive found as (
    select min(log) as log from :s.events
    union all
    select (select min(log) from :s.events where log > found.log) from found where found.log is not null
)
select log from found where log is not null and log not in (select log from :s.logs) order by log
"""

_REPEATED_IDS: Final = """
select id, count(*), max(seq) from :s.events where log = $1::bigint group by id having count(*) > 1
"""

_CHECKED: Final = f"{schema.READ}, identity, mob_id, run_id, step_id"

_CHECKED_PAGE: Final = f"""
select {_CHECKED} from :s.events where log = $1::bigint and seq > $2::bigint order by seq limit {_PAGE}
"""  # noqa: S608 - no values

_SCOPES_AT: Final = 9
"""Behind the columns of an event."""

# Not by the indexes, which may be what is damaged.
_WITHOUT_INDEXES: Final = b"""
begin read only;
set local enable_seqscan = on;
set local enable_indexscan = off;
set local enable_indexonlyscan = off;
set local enable_bitmapscan = off
"""


@attrs.define
class Verifier:
    """Collects what is wrong with a log, page by page."""

    names: Names
    log: int
    findings: Findings
    events: int = 0
    gaps: Gaps = attrs.Factory(Gaps)

    async def check_structure(self, session: Session) -> None:
        """No index is missing, and every event belongs to a log."""
        result = await session.execute(_RELATIONS.encode(), [self.names.schema.encode()])
        there = {
            (result.get_value(row, 0) or b"").decode(): (
                result.get_value(row, 1) == b"\1",
                result.get_value(row, 2) == b"\1",
            )
            for row in range(result.ntuples)
        }
        for index, unique in schema.INDEXES.items() if there else ():
            if index not in there:
                self.findings.add(f"{index}: the index is missing")
            elif not there[index][1]:
                self.findings.add(f"{index}: the index is not valid, PostgreSQL does not use it; run REINDEX")
            elif unique and not there[index][0]:
                self.findings.add(f"{index}: the index lets a value stand twice")
        if there:
            lost = await session.execute(self.names.sql(_LOST_LOGS))
            for row in range(lost.ntuples):
                self.findings.add(
                    f"log {number(lost.get_value(row, 0))}: its events are there, and its name is gone"
                )

    async def check_page(self, session: Session) -> int | None:
        """Look at the next events. Returns the last seq looked at, None at the end."""
        # Not above 0: what is wrong may be the seq. There is no lower integer than this.
        after = -(2**63) if self.gaps.last_seq is None else self.gaps.last_seq
        if after == MAX_STORED:
            await trio.lowlevel.checkpoint()
            return None
        result = await session.execute(self.names.sql(_CHECKED_PAGE), [int8(self.log), int8(after)])
        steps = Steps()
        for index, row in enumerate(schema.rows_of(result.get_value, result.ntuples)):
            if steps.is_over():
                await steps.rest()
            scopes = [result.get_value(index, _SCOPES_AT + number) for number in range(len(SCOPES))]
            self._check_row(row, scopes)
        return self.gaps.last_seq if result.ntuples else None

    def _check_row(self, row: schema.Row, scopes: list[bytes | None]) -> None:
        seq = row[0]
        self.events += 1
        self.gaps.add(seq)
        problem = _flaw(row, scopes)
        if problem is not None:
            self.findings.add(problem, seq)

    async def check_ids(self, session: Session) -> None:
        """An id stands once."""
        await session.script(_WITHOUT_INDEXES)
        result = await session.execute(self.names.sql(_REPEATED_IDS), [int8(self.log)])
        await session.script(b"rollback")
        for row in range(result.ntuples):
            event_id = (result.get_value(row, 0) or b"").decode(errors="backslashreplace")
            times = number(result.get_value(row, 1))
            self.findings.add(f"id {event_id!a} stands {times} times", number(result.get_value(row, 2)))

    async def check_end(self, session: Session) -> None:
        """The row of the log is there."""
        result = await session.execute(self.names.sql(queries.PRUNED), [int8(self.log)])
        if not result.ntuples:
            self.findings.add("logs: the row of the log is gone")

    def result(self) -> StoreVerification:
        """All that was found."""
        return self.findings.report(self.events, self.gaps)


def _flaw(row: schema.Row, columns: list[bytes | None]) -> str | None:
    """What keeps a row from being the event that was stored there."""
    seq, timestamp_ms, kind, *_, payload, _long = row
    if seq < 1:
        return "seq: expected 1 to 2**63 - 1"
    if timestamp_ms < 0:
        return "timestamp_ms: expected 0 to 2**63 - 1"
    if kind not in (schema.AGENT, schema.MODULE):
        return f"kind is {kind}, neither 0 nor 1"
    try:
        event = schema.event_of(row)
        from_json(to_json(event), PersistedEvent)
        found = scopes_of(b"null" if payload is None else payload)
    except UnicodeDecodeError as exc:
        return f"a text is not UTF-8: {exc.reason}"
    except CodecError as exc:
        return str(exc)
    except ValueError as exc:
        return str(exc)
    for name, column, value in zip(SCOPES, columns, found, strict=True):
        if column != (None if value is None else schema.key_of(value.encode())):
            shown = None if column is None else column.decode(errors="backslashreplace")
            return f"{name} is {value!a:.100} in the payload and {shown!a:.100} in its column"
    return None


# --- prune ----------------------------------------------------------------------------------------

_KEPT_FROM: Final = """
select seq from :s.events where log = $1::bigint order by seq desc limit 1 offset $2::bigint
"""

_COUNT_BY_SEQ: Final = "select count(*) from :s.events where log = $1::bigint and seq <= $2::bigint"

_COUNT_BY_TIME: Final = """
select count(*) from :s.events where log = $1::bigint and seq <= $2::bigint and timestamp_ms < $3::bigint
"""

# Each goes on where the one before ended: what is deleted stays in the indexes for a while. How far it went
# is noted first: an append locks the row of the log before those of events, too, and neither waits for the
# other with what the other needs.
_PRUNE: Final = """
with oldest as materialized (
    :oldest limit :limit
), noted as materialized (
    update :s.logs set last_seq = greatest(last_seq, (select max(seq) from oldest)),
        pruned_seq = greatest(pruned_seq, (select max(seq) from oldest))
    where log = $1::bigint and exists (select from oldest) returning log
), gone as (
    delete from :s.events using oldest
    where events.log = $1::bigint and events.seq = oldest.seq and (select count(*) from noted) = 1
    returning events.seq
)
select (select count(*) from gone), * from oldest order by :order limit 1
"""

_OLDEST_BY_SEQ: Final = """
select seq from :s.events where log = $1::bigint and seq > $3::bigint and seq <= $2::bigint order by seq
"""

_OLDEST_BY_TIME: Final = """
select seq, timestamp_ms from :s.events
where log = $1::bigint and timestamp_ms < $5::bigint and (timestamp_ms, seq) > ($4::bigint, $3::bigint)
and seq <= $2::bigint
order by timestamp_ms, seq
"""


def _prune(oldest: str, order: str) -> str:
    statement = _PRUNE.replace(":oldest", oldest.strip()).replace(":order", order)
    return statement.replace(":limit", str(PRUNED_TOGETHER))


_PRUNE_BY_SEQ: Final = _prune(_OLDEST_BY_SEQ, "seq desc")
_PRUNE_BY_TIME: Final = _prune(_OLDEST_BY_TIME, "timestamp_ms desc, seq desc")


@attrs.define
class Cut:
    """Which events go: those up to a seq, and of these the ones before a time, if one is given."""

    log: int
    through_seq: int
    before_ms: int | None
    after_seq: int = -1
    """Where the last ones that went ended."""

    after_ms: int = -1

    def _parameters(self) -> list[bytes]:
        return [int8(self.log), int8(self.through_seq)]

    async def count(self, session: Session, names: Names) -> int:
        """How many events are to go."""
        if self.before_ms is None:
            result = await session.execute(names.sql(_COUNT_BY_SEQ), self._parameters())
        else:
            parameters = [*self._parameters(), int8(self.before_ms)]
            result = await session.execute(names.sql(_COUNT_BY_TIME), parameters)
        return number(result.get_value(0, 0))

    async def prune_some(self, session: Session, names: Names) -> int | None:
        """Delete the oldest of them, in one transaction. Returns how many; None when none is left.

        It may be none also while some are left: somebody else who prunes took those that were looked at.
        """
        parameters = [*self._parameters(), int8(self.after_seq)]
        if self.before_ms is None:
            result = await session.execute(names.sql(_PRUNE_BY_SEQ), parameters)
        else:
            parameters += [int8(self.after_ms), int8(self.before_ms)]
            result = await session.execute(names.sql(_PRUNE_BY_TIME), parameters)
        if not result.ntuples:
            return None
        self.after_seq = number(result.get_value(0, 1))
        if self.before_ms is not None:
            self.after_ms = number(result.get_value(0, 2))
        return number(result.get_value(0, 0))


async def plan_cut(
    session: Session, names: Names, log: int, before_ms: int | None, keep: int | None
) -> tuple[Cut, int]:
    """What is to go, and how many events that are. What comes later stays in any case."""
    if keep is None:
        found = await session.execute(names.sql(queries.HIGHEST), [int8(log)])
    else:
        found = await session.execute(names.sql(_KEPT_FROM), [int8(log), int8(keep)])
    through = number(found.get_value(0, 0)) if found.ntuples else 0
    cut = Cut(log, through, before_ms)
    return cut, await cut.count(session, names)
