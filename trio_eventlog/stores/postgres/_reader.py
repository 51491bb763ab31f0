"""Reading, describing, verifying and pruning a log, on the connections of a pool."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import attrs
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import GAPS_SHOWN, StoreDescription, StoreVerification
from trio_eventlog._model._sealed import reseal, size_of
from trio_eventlog.abc import EventPage
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores._common._bounds import EVENT_OVERHEAD
from trio_eventlog.stores._common._prune import CHUNK_EVENTS, PrunePlan, PruneProgress
from trio_eventlog.stores._common._statistics import Ranking, SeqGaps, Totals, description
from trio_eventlog.stores._common._verify import Verifier, check_pages, problem_of_row
from trio_eventlog.stores.postgres import _fields as fields
from trio_eventlog.stores.postgres import _rows as rows
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.stores.postgres import _select as queries
from trio_eventlog.stores.postgres._names import Names

if TYPE_CHECKING:
    from trio_eventlog.stores.postgres._appender import Appender
    from trio_eventlog.stores.postgres._connection import TrioConnection
    from trio_eventlog.stores.postgres._pool import Pool

_HIGHEST: Final = f"select {schema.HIGHEST} from :s.logs where log = $1::bigint"  # noqa: S608 - no values

_PRUNED: Final = "select pruned_seq from :s.logs where log = $1::bigint"

_ROWS_AT_ONCE: Final = 100
"""Rows taken from a result between two looks at the clock."""

_FETCH: Final = b"fetch forward 200 from found"


@attrs.frozen
class LogReader:
    """Reads, verifies and prunes a log. Every async method is a checkpoint."""

    pool: Pool
    names: Names
    log: str
    _found: schema.FoundLog | None
    """The log as it was found, if there is no appender."""
    _appender: Appender | None = None

    @property
    def number(self) -> int:
        """The number of the log. An appender checks that it is still that of its log."""
        return self._log.number

    @property
    def unique_id(self) -> str:
        """What tells the log from all others."""
        return self._log.unique_id

    @property
    def _log(self) -> schema.FoundLog | Appender:
        found = self._found or self._appender
        assert found is not None, "one of them is given"
        return found

    async def query(
        self, query: EventQuery, max_bytes: float = math.inf, *, before: int | None = None
    ) -> EventPage:
        """The events that match, up to ``max_bytes`` of them; with ``before``, the newest first."""
        if query.fields:
            return await self._query_checked(query, max_bytes, before)
        if max_bytes == math.inf:
            found, _ = await self.select(queries.select(query, self.number, (), before))
            return EventPage(found, is_complete=True)
        found, is_cut = await self.select(queries.select_page(query, self.number, int(max_bytes)))
        return EventPage(found[:-1] if is_cut else found, is_complete=not is_cut)

    async def _query_checked(self, query: EventQuery, max_bytes: float, before: int | None) -> EventPage:
        """The same, where each event is still to be checked, and so no more are read than it takes."""
        if queries.select(query, self.number) is None:
            return EventPage((await self.select(None))[0], is_complete=True)

        async def read(connection: TrioConnection) -> EventPage:
            await self.pruned_seq(connection)
            indexed = await fields.indexed_keys(connection, query)
            plan = queries.select(query, self.number, indexed, before)
            assert plan is not None, "what can match does not depend on indexes"
            await connection.run(b"begin isolation level repeatable read read only")
            await connection.run(f"declare found no scroll cursor for {plan.sql}", *plan.parameters)
            page = await self._fetch_checked(connection, query, max_bytes)
            await connection.run(b"rollback")
            connection.free_memory()
            return page

        return await self.pool.read(read)

    async def _fetch_checked(
        self, connection: TrioConnection, query: EventQuery, max_bytes: float
    ) -> EventPage:
        found: list[PersistedEvent] = []
        weight = 0
        time_slice = TimeSlice()
        while some := await connection.fetch(_FETCH):
            for row in some:
                await time_slice.checkpoint_if_over()
                event = self.event_of(row)
                # An event remembers what it has decoded, and that is to be the reader's copy.
                if not query.matches_fields(reseal(event)):
                    continue
                if weight >= max_bytes:
                    return EventPage(found, is_complete=False)
                found.append(event)
                weight += EVENT_OVERHEAD + size_of(event)
                if len(found) == query.limit:
                    return EventPage(found, is_complete=True)
        return EventPage(found, is_complete=True)

    async def select(self, plan: queries.Select | None) -> tuple[list[PersistedEvent], bool]:
        """The events of a plan, and whether the last of them is beyond what was asked for."""
        if plan is None:
            await self.pool.require_open()
            await trio.lowlevel.checkpoint()
            return [], False

        async def read(connection: TrioConnection) -> tuple[list[PersistedEvent], bool]:
            cursor = await connection.open_cursor(plan.sql, *plan.parameters)
            if not cursor.rowcount:
                await self._check_still_there(connection)
            found: list[PersistedEvent] = []
            is_cut = False
            time_slice = TimeSlice()
            while some := await cursor.fetchmany(_ROWS_AT_ONCE):
                found += map(self.event_of, some)
                is_cut = len(some[-1]) > rows.READ_COLUMNS and some[-1][-1]
                await time_slice.checkpoint_if_over()
            if cursor.rowcount > _ROWS_AT_ONCE:
                connection.free_memory()
            return found, is_cut

        return await self.pool.read(read)

    def event_of(self, row: tuple[object, ...]) -> PersistedEvent:
        """The event of a row; StoreUnusable if it is damaged."""
        try:
            return rows.event_of(cast("rows.Row", row[: rows.READ_COLUMNS]))
        except ValueError as exc:
            raise StoreUnusable(
                f"{self.pool.label}: damaged: seq {row[0]} of log {self.log!r}: {exc}"
            ) from exc

    async def highest_seq(self, connection: TrioConnection) -> int:
        """The highest seq ever stored."""
        return await self._ask(connection, _HIGHEST)

    async def pruned_seq(self, connection: TrioConnection) -> int:
        """The highest seq ever pruned."""
        return await self._ask(connection, _PRUNED)

    async def _ask(self, connection: TrioConnection, statement: str) -> int:
        found = await connection.fetch(statement, self.number)
        if not found:
            await self._check_still_there(connection)
            raise StoreError(f"{self.pool.label}: log {self.log!r} was put back just now")
        return int(found[0][0])

    async def _check_still_there(self, connection: TrioConnection) -> None:
        await schema.check_still_there(connection, self.log, self.number)

    async def describe(self, connection: TrioConnection, top: int) -> StoreDescription:
        """See :meth:`PostgresStore.describe`."""
        await self.pruned_seq(connection)
        return await _describe(connection, self.number, top)

    async def verify(
        self, most_findings: int, on_progress: Callable[[int], object] | None
    ) -> StoreVerification:
        """See :meth:`PostgresStore.verify`."""
        check = _LogCheck(self.number, Verifier(most_findings))
        await self.pool.read(check.check_structure)
        await check_pages(partial(self.pool.read, check.check_page), on_progress)
        await self.pool.read(check.check_ids)
        await self.pool.read(check.check_end)
        return check.verifier.result()

    async def prune(
        self,
        before_ms: int | None,
        keep: int | None,
        through_seq: int | None,
        on_progress: Callable[[int, int], object] | None,
        *,
        dry_run: bool,
    ) -> int:
        """See :meth:`PostgresStore.prune`."""
        async with self.pool.connection() as connection:
            await self.pruned_seq(connection)
            statement, parameters = (_HIGHEST, ()) if keep is None else (_KEPT_FROM, (keep,))
            found = await connection.fetch(statement, self.number, *parameters)
            through: int = found[0][0] if found else 0
            if through_seq is not None:
                through = min(through, through_seq)
            plan = PrunePlan(through, before_ms)
            pruner = _Pruner(connection, self.number, plan)
            total = await pruner.count()
            return total if dry_run else await PruneProgress(total, on_progress).run(pruner.delete_some)


# --- describe -------------------------------------------------------------------------------------


_TOTALS: Final = """
select count(*), min(seq), max(seq), min(timestamp_ms), max(timestamp_ms)
from :s.events where log = $1::bigint
"""

_SIZE: Final = b"""
select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint from pg_class
where relnamespace = to_regnamespace(quote_ident($1::text)) and relkind = 'r'
"""

_GAPS: Final = """
select before + 1, seq - 1, count(*) over ()
from (select lag(seq) over (order by seq) as before, seq from :s.events where log = $1::bigint) as neighbours
where seq > before + 1 order by seq limit $2::bigint
"""

_RANKING: Final = """
select :column, count(*) as events, count(*) over () from :s.events
where log = $1::bigint and :column is not null
group by :column order by events desc, :column limit $2::bigint
"""
"""The most frequent values of a column: each key, its count, and the number of keys."""

_WHOLE: Final = "select long from :s.events where log = $1::bigint and :column = $2::bytea limit 1"
"""The whole string for which a key stands."""


async def _describe(connection: TrioConnection, log: int, top: int) -> StoreDescription:
    """See :meth:`PostgresStore.describe`. All numbers are of one moment."""
    await connection.run(b"begin isolation level repeatable read read only")
    ((size_bytes,),) = await connection.fetch(_SIZE, connection.names.schema)
    (counted,) = await connection.fetch(_TOTALS, log)
    totals = Totals(*counted)
    highest = await connection.fetch(_HIGHEST, log)
    types = await _ranking(connection, log, "event_type", top)
    members = await _ranking(connection, log, "member_id", top)
    gaps = await _gaps(connection, log, totals.missing) if totals.missing else SeqGaps()
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


async def _ranking(connection: TrioConnection, log: int, column: str, top: int) -> Ranking:
    # At least one row: it has the number of all values.
    found = await connection.fetch(_RANKING.replace(":column", column), log, max(top, 1))
    ranked: list[tuple[str, int]] = []
    for key, events, _ in found[:top]:
        long: bytes | None = None
        if rows.is_cut(key):
            ((long,),) = await connection.fetch(_WHOLE.replace(":column", column), log, key)
        ranked.append((rows.whole_text(column, key, long), events))
    return Ranking(found[0][2] if found else 0, tuple(ranked))


async def _gaps(connection: TrioConnection, log: int, missing: int) -> SeqGaps:
    found = await connection.fetch(_GAPS, log, GAPS_SHOWN)
    gaps = SeqGaps()
    for first, last, _ in found:
        gaps.add_gap(first, last)
    # What was found are only the lowest.
    gaps.count, gaps.missing = found[0][2] if found else 0, missing
    return gaps


# --- verify ---------------------------------------------------------------------------------------

_PAGE_SIZE: Final = 1000
"""Events to check in one statement."""

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

# Without the indexes, which may be what is damaged.
_WITHOUT_INDEXES: Final = b"""
begin read only;
set local enable_seqscan = on;
set local enable_indexscan = off;
set local enable_indexonlyscan = off;
set local enable_bitmapscan = off
"""


@attrs.define
class _LogCheck:
    """Checks a log, page by page."""

    log: int
    verifier: Verifier

    async def check_structure(self, connection: TrioConnection) -> None:
        """Check that no index is missing, and that every event belongs to a log."""
        found = await connection.fetch(_RELATIONS, connection.names.schema)
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
            for (log,) in await connection.fetch(_LOST_LOGS):
                self.verifier.add_problem(f"log {log}: its events are there, and its name is gone")

    async def check_page(self, connection: TrioConnection) -> int | None:
        """Check the next events. Returns the last seq that was checked, None at the end."""
        # Not from 0 on: the seq itself may be wrong. This is the lowest integer.
        last_seq = self.verifier.gaps.last_seq
        after = -(2**63) if last_seq is None else last_seq
        if after == MAX_STORED:
            return None
        found = await connection.fetch(_CHECKED_PAGE, self.log, after)
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
        """Check that each id is there once."""
        await connection.run(_WITHOUT_INDEXES)
        found = await connection.fetch(_REPEATED_IDS, self.log)
        await connection.run(b"rollback")
        for key, times, seq in found:
            event_id = key.decode(errors="backslashreplace")
            self.verifier.add_problem(f"id {event_id!a} stands {times} times", seq)

    async def check_end(self, connection: TrioConnection) -> None:
        """Check that the row of the log is there."""
        if not await connection.fetch(_PRUNED, self.log):
            self.verifier.add_problem("logs: the row of the log is gone")


# --- prune ----------------------------------------------------------------------------------------

_KEPT_FROM: Final = """
select seq from :s.events where log = $1::bigint order by seq desc limit 1 offset $2::bigint
"""

_COUNT_BY_SEQ: Final = "select count(*) from :s.events where log = $1::bigint and seq <= $2::bigint"

_COUNT_BY_TIME: Final = """
select count(*) from :s.events where log = $1::bigint and seq <= $2::bigint and timestamp_ms < $3::bigint
"""

# Each continues where the previous one ended: what is deleted stays in the indexes for a while. The row of
# the log is updated first: an append also locks it before rows of events, so that there is no deadlock.
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
class _Pruner:
    """Deletes the events of a plan, the oldest first, in transactions of up to 1,000."""

    connection: TrioConnection
    log: int
    plan: PrunePlan
    _after_seq: int = -1
    """Where the last transaction ended."""
    _after_ms: int = -1

    async def count(self) -> int:
        """How many events are to go."""
        parameters = (self.log, self.plan.through_seq)
        if self.plan.before_ms is None:
            found = await self.connection.fetch(_COUNT_BY_SEQ, *parameters)
        else:
            found = await self.connection.fetch(_COUNT_BY_TIME, *parameters, self.plan.before_ms)
        return int(found[0][0])

    async def delete_some(self) -> int | None:
        """Delete the oldest of them, in one transaction. Returns how many; None when none is left.

        It may be 0 while some are left, if another pruning took those that were found.
        """
        parameters = (self.log, self.plan.through_seq, self._after_seq)
        if self.plan.before_ms is None:
            found = await self.connection.fetch(_PRUNE_BY_SEQ, *parameters)
        else:
            found = await self.connection.fetch(
                _PRUNE_BY_TIME, *parameters, self._after_ms, self.plan.before_ms
            )
        if not found:
            return None
        gone, self._after_seq, *after_ms = found[0]
        if after_ms:
            (self._after_ms,) = after_ms
        return int(gone)
