"""Describing, verifying and pruning a log in PostgreSQL."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._model._reports import GAPS_SHOWN, StoreDescription
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores._common._prune import CHUNK_EVENTS, PrunePlan
from trio_eventlog.stores._common._statistics import Ranking, SeqGaps, Totals, description
from trio_eventlog.stores._common._verify import Verifier, problem_of_row
from trio_eventlog.stores.postgres import _rows as rows
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.stores.postgres import _select as queries
from trio_eventlog.stores.postgres._schema import Names

if TYPE_CHECKING:
    from trio_eventlog.stores.postgres._connection import TrioConnection

_PAGE_SIZE: Final = 1000
"""Events that are looked at in one statement."""


# --- describe -------------------------------------------------------------------------------------


async def describe(connection: TrioConnection, names: Names, log: int, top: int) -> StoreDescription:
    """See :meth:`PostgresStore.describe`. All numbers are of one moment."""
    await connection.run(b"begin isolation level repeatable read read only")
    ((size_bytes,),) = await connection.fetch(queries.SIZE, names.schema)
    (counted,) = await connection.fetch(names.sql(queries.TOTALS), log)
    totals = Totals(*counted)
    highest = await connection.fetch(names.sql(queries.HIGHEST), log)
    types = await _ranking(connection, names, log, "event_type", top)
    members = await _ranking(connection, names, log, "member_id", top)
    gaps = await _gaps(connection, names, log, totals.missing) if totals.missing else SeqGaps()
    await connection.run(b"rollback")
    return description(
        totals,
        types,
        members,
        gaps,
        highest_seq=highest[0][0] if highest else 0,
        size_bytes=size_bytes,
        schema_version=schema.SCHEMA_VERSION,
    )


async def _ranking(connection: TrioConnection, names: Names, log: int, column: str, top: int) -> Ranking:
    # One at least: it brings how many there are.
    found = await connection.fetch(names.sql(queries.frequencies(column)), log, max(top, 1))
    ranked: list[tuple[str, int]] = []
    for key, events, _ in found[:top]:
        long: bytes | None = None
        if rows.is_cut(key):
            ((long,),) = await connection.fetch(names.sql(queries.whole(column)), log, key)
        ranked.append((rows.whole_text(column, key, long), events))
    return Ranking(found[0][2] if found else 0, tuple(ranked))


async def _gaps(connection: TrioConnection, names: Names, log: int, missing: int) -> SeqGaps:
    found = await connection.fetch(names.sql(queries.GAPS), log, GAPS_SHOWN)
    gaps = SeqGaps()
    for first, last, _ in found:
        gaps.add_gap(first, last)
    # These were the lowest.
    gaps.count, gaps.missing = found[0][2] if found else 0, missing
    return gaps


# --- verify ---------------------------------------------------------------------------------------

_RELATIONS: Final = b"""
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

_CHECKED: Final = f"{rows.READ}, identity, mob_id, run_id, step_id"

_CHECKED_PAGE: Final = f"""
select {_CHECKED} from :s.events where log = $1::bigint and seq > $2::bigint order by seq limit {_PAGE_SIZE}
"""  # noqa: S608 - no values

# Not by the indexes, which may be what is damaged.
_WITHOUT_INDEXES: Final = b"""
begin read only;
set local enable_seqscan = on;
set local enable_indexscan = off;
set local enable_indexonlyscan = off;
set local enable_bitmapscan = off
"""


@attrs.define
class LogCheck:
    """Checks a log, page by page."""

    names: Names
    log: int
    verifier: Verifier

    async def check_structure(self, connection: TrioConnection) -> None:
        """No index is missing, and every event belongs to a log."""
        found = await connection.fetch(_RELATIONS, self.names.schema)
        there = {index: (unique, valid) for index, unique, valid in found}
        for index, unique in schema.INDEXES.items() if there else ():
            if index not in there:
                self.verifier.add_problem(f"{index}: the index is missing")
            elif not there[index][1]:
                self.verifier.add_problem(
                    f"{index}: the index is not valid, PostgreSQL does not use it; run REINDEX"
                )
            elif unique and not there[index][0]:
                self.verifier.add_problem(f"{index}: the index lets a value stand twice")
        if there:
            for (log,) in await connection.fetch(self.names.sql(_LOST_LOGS)):
                self.verifier.add_problem(f"log {log}: its events are there, and its name is gone")

    async def check_page(self, connection: TrioConnection) -> int | None:
        """Check the next events. Returns the last seq that was checked, None at the end."""
        # Not above 0: what is wrong may be the seq. There is no lower integer than this.
        last_seq = self.verifier.gaps.last_seq
        after = -(2**63) if last_seq is None else last_seq
        if after == MAX_STORED:
            return None
        found = await connection.fetch(self.names.sql(_CHECKED_PAGE), self.log, after)
        time_slice = TimeSlice()
        for row in found:
            await time_slice.checkpoint_if_over()
            seq, timestamp_ms, kind, *_ = row
            self.verifier.add_event(
                seq,
                "timestamp_ms: expected 0 to 2**63 - 1"
                if timestamp_ms < 0
                else problem_of_row(
                    seq,
                    kind,
                    partial(rows.event_of, row[: rows.READ_COLUMNS]),
                    row[rows.READ_COLUMNS :],
                    rows.key_of,
                ),
            )
        return self.verifier.gaps.last_seq if found else None

    async def check_ids(self, connection: TrioConnection) -> None:
        """Each id is there once."""
        await connection.run(_WITHOUT_INDEXES)
        found = await connection.fetch(self.names.sql(_REPEATED_IDS), self.log)
        await connection.run(b"rollback")
        for key, times, seq in found:
            event_id = key.decode(errors="backslashreplace")
            self.verifier.add_problem(f"id {event_id!a} stands {times} times", seq)

    async def check_end(self, connection: TrioConnection) -> None:
        """The row of the log is there."""
        if not await connection.fetch(self.names.sql(queries.PRUNED), self.log):
            self.verifier.add_problem("logs: the row of the log is gone")


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
    return statement.replace(":limit", str(CHUNK_EVENTS))


_PRUNE_BY_SEQ: Final = _prune(_OLDEST_BY_SEQ, "seq desc")
_PRUNE_BY_TIME: Final = _prune(_OLDEST_BY_TIME, "timestamp_ms desc, seq desc")


@attrs.define
class Pruner:
    """Deletes the events of a plan, the oldest first, in transactions of up to 1,000."""

    connection: TrioConnection
    names: Names
    log: int
    plan: PrunePlan
    _after_seq: int = -1
    """Where the last transaction ended."""
    _after_ms: int = -1

    async def count(self) -> int:
        """How many events are to go."""
        parameters = (self.log, self.plan.through_seq)
        if self.plan.before_ms is None:
            found = await self.connection.fetch(self.names.sql(_COUNT_BY_SEQ), *parameters)
        else:
            statement = self.names.sql(_COUNT_BY_TIME)
            found = await self.connection.fetch(statement, *parameters, self.plan.before_ms)
        return int(found[0][0])

    async def delete_some(self) -> int | None:
        """Delete the oldest of them, in one transaction. Returns how many; None when none is left.

        It may be none also while some are left, if another pruning took those that were found.
        """
        parameters = (self.log, self.plan.through_seq, self._after_seq)
        if self.plan.before_ms is None:
            found = await self.connection.fetch(self.names.sql(_PRUNE_BY_SEQ), *parameters)
        else:
            statement = self.names.sql(_PRUNE_BY_TIME)
            found = await self.connection.fetch(statement, *parameters, self._after_ms, self.plan.before_ms)
        if not found:
            return None
        gone, self._after_seq, *after_ms = found[0]
        if after_ms:
            (self._after_ms,) = after_ms
        return int(gone)


async def plan_prune(
    connection: TrioConnection, names: Names, log: int, *, before_ms: int | None, keep: int | None
) -> PrunePlan:
    """What is to go."""
    if keep is None:
        found = await connection.fetch(names.sql(queries.HIGHEST), log)
    else:
        found = await connection.fetch(names.sql(_KEPT_FROM), log, keep)
    return PrunePlan(found[0][0] if found else 0, before_ms)
