"""What can be asked of a log, on the connections of a pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import attrs
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores._common._prune import PruneProgress
from trio_eventlog.stores._common._verify import Verifier, check_pages
from trio_eventlog.stores.postgres import _maintenance as maintenance
from trio_eventlog.stores.postgres import _rows as rows
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.stores.postgres import _select as queries
from trio_eventlog.stores.postgres._schema import Names

if TYPE_CHECKING:
    from trio_eventlog.stores.postgres._appender import Appender
    from trio_eventlog.stores.postgres._connection import TrioConnection
    from trio_eventlog.stores.postgres._pool import Pool

_ROWS_AT_ONCE: Final = 100
"""Rows that are taken from a result between two looks at the clock."""


@attrs.frozen
class LogReader:
    """Reads, checks and prunes a log. Every async method is a checkpoint."""

    pool: Pool
    names: Names
    log: str
    _found: int
    """The number of the log, where there is no appender."""
    _appender: Appender | None = None

    @property
    def number(self) -> int:
        """The number of the log. An appender checks that it is that of its own log."""
        return self._found if self._appender is None else self._appender.number

    async def select(self, plan: queries.Select | None) -> tuple[list[PersistedEvent], bool]:
        """The events of a plan, and whether the last of them is beyond what was asked for."""
        if plan is None:
            await trio.lowlevel.checkpoint()
            return [], False
        statement, parameters = self.names.sql(plan.sql), plan.parameters

        async def read(connection: TrioConnection) -> tuple[list[PersistedEvent], bool]:
            cursor = await connection.open_cursor(statement, *parameters)
            if not cursor.rowcount:
                await self._check_still_there(connection)
            found: list[PersistedEvent] = []
            is_cut = False
            time_slice = TimeSlice()
            while some := await cursor.fetchmany(_ROWS_AT_ONCE):
                found += map(self._event_of, some)
                is_cut = len(some[-1]) > rows.READ_COLUMNS and some[-1][-1]
                await time_slice.checkpoint_if_over()
            if cursor.rowcount > _ROWS_AT_ONCE:
                connection.free_memory()
            return found, is_cut

        return await self.pool.read(read)

    def _event_of(self, row: tuple[object, ...]) -> PersistedEvent:
        try:
            return rows.event_of(cast("rows.Row", row[: rows.READ_COLUMNS]))
        except ValueError as exc:
            raise StoreUnusable(
                f"{self.pool.label}: damaged: seq {row[0]} of log {self.log!r}: {exc}"
            ) from exc

    async def highest_seq(self, connection: TrioConnection) -> int:
        """The highest seq ever stored."""
        return await self._ask(connection, queries.HIGHEST)

    async def pruned_seq(self, connection: TrioConnection) -> int:
        """The highest seq ever pruned."""
        return await self._ask(connection, queries.PRUNED)

    async def _ask(self, connection: TrioConnection, statement: str) -> int:
        """The number that a statement about the row of the log returns."""
        found = await connection.fetch(self.names.sql(statement), self.number)
        if not found:
            await self._check_still_there(connection)
            raise StoreError(f"{self.pool.label}: log {self.log!r} was put back just now")
        return int(found[0][0])

    async def _check_still_there(self, connection: TrioConnection) -> None:
        await schema.check_still_there(connection, self.names, self.log, self.number, self.pool.label)

    async def describe(self, connection: TrioConnection, top: int) -> StoreDescription:
        """See :meth:`PostgresStore.describe`."""
        await self.pruned_seq(connection)
        return await maintenance.describe(connection, self.names, self.number, top)

    async def verify(
        self, most_findings: int, on_progress: Callable[[int], object] | None
    ) -> StoreVerification:
        """See :meth:`PostgresStore.verify`."""
        check = maintenance.LogCheck(self.names, self.number, Verifier(most_findings))
        await self.pool.read(check.check_structure)
        await check_pages(partial(self.pool.read, check.check_page), on_progress)
        await self.pool.read(check.check_ids)
        await self.pool.read(check.check_end)
        return check.verifier.result()

    async def prune(
        self,
        before_ms: int | None,
        keep: int | None,
        on_progress: Callable[[int, int], object] | None,
        *,
        dry_run: bool,
    ) -> int:
        """See :meth:`PostgresStore.prune`."""
        async with self.pool.connection() as connection:
            await self.pruned_seq(connection)
            plan = await maintenance.plan_prune(
                connection, self.names, self.number, before_ms=before_ms, keep=keep
            )
            pruner = maintenance.Pruner(connection, self.names, self.number, plan)
            total = await pruner.count()
            return total if dry_run else await PruneProgress(total, on_progress).run(pruner.delete_some)
