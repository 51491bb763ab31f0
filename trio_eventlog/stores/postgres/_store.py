"""A store in a PostgreSQL database: many processes, one place."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from trio_eventlog._handover import giving_way
from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog._util import NoPublicConstructor, how_to_install
from trio_eventlog.abc import ChangeWatch, EventPage
from trio_eventlog.stores._common._arguments import (
    check_criteria,
    check_log_name,
    check_max_bytes,
    check_name,
    checked_log_names,
    checked_top,
)
from trio_eventlog.stores._common._batches import Steps, sealed_copies
from trio_eventlog.stores._common._statistics import Findings
from trio_eventlog.stores.postgres import _maintenance as upkeep
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.stores.postgres import _select as queries
from trio_eventlog.stores.postgres._schema import Names, int8, number

if TYPE_CHECKING:
    from types import ModuleType

    from trio_eventlog.stores.postgres._connection import Session
    from trio_eventlog.stores.postgres._pool import Connections

DEFAULT_SCHEMA: Final = "trio_eventlog"

LOCK_TIMEOUT: Final = 15.0
"""See :attr:`PostgresStore.lock_timeout`."""

_MOST_SCHEMA_NAME_BYTES: Final = 63
_MOST_READERS: Final = 100
_MOST_PARTITIONS: Final = 1024


class PostgresStore(metaclass=NoPublicConstructor):
    """One log in a PostgreSQL database, version 14 or newer; made by :meth:`open`.

    A schema of the database holds any number of logs in one table, each with its own ids and seqs, and each
    open for writing once at a time, in any number of processes on any number of hosts. Keeps all clauses of
    :class:`trio_eventlog.abc.EventStore`, and states:

    * **Cancellation** takes up to 0.75 seconds: the server is asked to stop what runs, and that is awaited. A
      connection on which it does not stop is dropped.
    * **A lost connection** is made again by the next call. What was under way raises :class:`StoreError`, and
      so does an appender until its lost session is gone, which it sees to itself. If somebody else has opened
      the log in between it raises :class:`LogBusy`.
    * **Durability** is the server's: with its defaults, an append that has returned survives a loss of power
      there.
    * **Limits**: texts and payload of an event have at most 64 MiB together; beyond that it is rejected.
    * **Connections**: one for writing in an appender, and up to ``readers`` for reading, opened when they are
      needed. :meth:`prune`, :meth:`watch_changes` and :meth:`logs` have one of their own while they last.
    * **Threads**: none, but for looking up host names, and for loading the driver.
    """

    lock_timeout: Final[float] = LOCK_TIMEOUT
    """Seconds within which the lock of an appender that has died is free. If its process was killed that
    takes milliseconds, or about a second if a statement of it was waiting; if its host or the network has
    vanished, until the server notices."""

    log_id: Final[str | None]
    """Tells this log from all others, in this database and others; None in a store that is read-only."""

    survives: Final[str]
    """What an append that has returned survives, ``"power"`` or ``"process"``, at the server.

    Only ``"process"``, the kill of the server's processes, if the server has ``fsync`` off, or the options of
    the connection set ``synchronous_commit`` to ``off``. Whether ``full_page_writes`` is off is not looked
    at, which is for file systems that write a page as a whole.
    """

    def __init__(
        self,
        connections: Connections,
        log: str,
        *,
        found: int,
        notify: bool,
    ) -> None:
        self._connections = connections
        self._label = connections.label
        self._names = connections.names
        self._writer = connections.writer
        self._log = log
        self._notify = notify
        self._found = found
        self.log_id = None if self._writer is None else self._writer.unique_id
        self.survives = "power" if self._writer is None else self._writer.survives

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
        return self._writer is None

    def __repr__(self) -> str:
        mode = "read-only" if self.read_only else "writing"
        return f"<PostgresStore {self._label} schema={self._names.schema!r} log={self._log!r} {mode}>"

    @staticmethod
    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection  # not of the body of the block
    async def open(
        conninfo: str = "",
        *,
        log: str = "default",
        schema: str = DEFAULT_SCHEMA,
        read_only: bool = False,
        notify: bool = True,
        readers: int = 2,
        partitions: int = 0,
    ) -> AsyncIterator[PostgresStore]:
        """Open a log for the length of an ``async with`` block, creating schema and log if need be.

        Leaving the block frees lock and connections. It waits for an append that is still running, not for
        queries; after 10 seconds it gives up with a warning to the logger ``trio_eventlog``, and the lock is
        free once the server notices.

        Entering is a checkpoint and can be cancelled; leaving waits in spite of a cancellation, for as long
        as said above.

        Args:
          conninfo: the database, as libpq takes it:
            ``"postgresql://user:password@host:port/database?option=value"`` or ``"host=… dbname=…"``. What it
            leaves out comes from libpq's variables (``PGHOST`` and so on) and files. Of several hosts, a
            writer takes the first that can be written to, unless ``target_session_attrs`` says otherwise.
            ``connect_timeout`` holds for each address; without it, an address has 5 seconds to answer if
            there are others, and 30 if there are not.
          log: name of the log, 1 to 512 bytes in UTF-8.
          schema: the schema of the database in which the tables are, 1 to 63 bytes in UTF-8. It is created if
            it is not there, which takes the permission to create schemas in the database.
          read_only: do not write. Needs no lock, and only the permission to read.
          notify: tell other stores after each append, for their :meth:`watch_changes`.
          readers: most connections for reading, 1 to 100.
          partitions: when the tables are made, spread the events over so many of them, by their log; 0 for a
            single table, at most 1,024. Of no consequence once they are there.

        Raises:
          ValueError: an argument is not as described.
          TypeError: an argument is of the wrong type.
          LogBusy: somebody else has the log open for writing.
          LogNotFound: with ``read_only``, there is no such log, or no table yet.
          StoreUnusable: the database is not there, or may not be opened; the schema belongs to another
            program, or to a newer version of this library; or the driver is not installed.
          StoreError: the database cannot be reached now.
        """
        names = _checked(conninfo, log, schema, readers, partitions)
        driver = await _load_driver()
        async with driver.open_connections(
            conninfo, names, log=None if read_only else log, readers=readers, partitions=partitions
        ) as connections:
            if connections.writer is not None:
                found = connections.writer.number
            else:
                found = (await connections.find_logs([log]))[log]
            yield PostgresStore._create(connections, log, found=found, notify=notify)

    @staticmethod
    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection  # as above
    async def open_readers(
        conninfo: str = "",
        *,
        logs: Iterable[str] | None = None,
        schema: str = DEFAULT_SCHEMA,
        readers: int = 2,
    ) -> AsyncIterator[dict[str, PostgresStore]]:
        """Open logs of one schema for reading, for the length of an ``async with`` block.

        However many they are, they share up to ``readers`` connections. For
        :func:`trio_eventlog.reading.merge_events`, for example. Entering and leaving are as with
        :meth:`open`.

        Args:
          conninfo: the database.
          logs: their names; by default all that are in the schema now.
          schema: where the tables are.
          readers: most connections, 1 to 100.

        Raises:
          ValueError, TypeError, LogNotFound, StoreUnusable, StoreError: as :meth:`open`.
        """
        wanted = checked_log_names(logs)
        names = _checked(conninfo, "default", schema, readers, 0)
        driver = await _load_driver()
        async with driver.open_connections(
            conninfo, names, log=None, readers=readers, partitions=0
        ) as connections:
            if wanted is None:
                wanted = await connections.log_names()
            found = await connections.find_logs(wanted)
            yield {
                name: PostgresStore._create(connections, name, found=found[name], notify=False)
                for name in wanted
            }

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, all of it or nothing; see :meth:`trio_eventlog.abc.EventStore.append_batch`.

        In one round trip, unless the batch has more than 16 MiB. A checkpoint, also for an empty batch.
        Cancelled, it is stopped, and raises within a second; whether the batch was stored is unknown.

        Raises:
          EventRejected: a seq is not in 1 to 2**63 - 1, a timestamp is above 2**63 - 1, a payload is not
            JSON, a text has a lone surrogate, or an event has more than 64 MiB. Names all such events;
            nothing was stored.
          SequenceConflict: an event of another id already sits on a seq; nothing was stored.
          StoreWentBack: the log does not go as far as it did: the server was restored to an older state, or a
            standby that lagged took over. Once; nothing was stored, and the next append goes on from there.
          LogBusy: somebody else has opened the log while the connection was lost.
          StoreError: the connection was lost, or is lost yet; the server is busy, full or shutting down,
            takes no writes, or refuses what it allowed before; or it stopped waiting for its standby.
          StoreUnusable: the store is closed, read-only, or the parent's in a forked child; the log is gone,
            or another one has its name; or the tables are not those that were made.
        """
        await self._check_open()
        if self._writer is None:
            msg = f"{self._label}: the store was opened read-only"
            raise StoreUnusable(msg)
        copies = await sealed_copies(events)
        if not copies:
            return ()
        channel = self._names.channel(self._log) if self._notify else None
        return await self._connections.append(copies, channel)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """All events that match, ascending by seq; see :meth:`trio_eventlog.abc.EventStore.query`.

        Fast with any filter, alone or with others: each has an index. Time together with ``after_seq`` or
        ``event_types`` reads on from there. The whole result is in memory: page through a long one with
        :func:`trio_eventlog.reading.iter_events`.

        A checkpoint. Cancelled, it is stopped, and raises within a second. Up to ``readers`` queries run at
        once, beside appends.

        Raises:
          StoreError: the query failed and may succeed later.
          StoreUnusable: the store is closed; the log is gone; or the tables are damaged, or not those that
            were made.
        """
        await self._check_open()
        plan = queries.select(query, self._number)
        found, _ = await self._connections.read(lambda session: self._read(session, plan))
        return found

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        """What :meth:`query` returns, cut off once it weighs ``max_bytes``; see
        :meth:`trio_eventlog.abc.PagedStore.query_page`. The server sends no more than that, and one event.

        A checkpoint, and cancelled as :meth:`query` is.

        Raises:
          TypeError, ValueError: ``max_bytes`` is not an integer of 1 or more.
          StoreError, StoreUnusable: as :meth:`query`.
        """
        check_max_bytes(max_bytes)
        await self._check_open()
        plan = queries.select_page(query, self._number, max_bytes)
        found, is_cut = await self._connections.read(lambda session: self._read(session, plan))
        return EventPage(found[:-1] if is_cut else found, is_complete=not is_cut)

    async def _read(self, session: Session, plan: queries.Select | None) -> tuple[list[PersistedEvent], bool]:
        """The events of a plan, and whether the last of them is beyond what was asked for."""
        if plan is None:
            await trio.lowlevel.checkpoint()
            return [], False
        result = await session.execute(self._names.sql(plan.sql), plan.parameters)
        if not result.ntuples:
            await self._connections.check_there(session, self._log, self._number)
        found: list[PersistedEvent] = []
        steps = Steps()
        for row in schema.rows_of(result.get_value, result.ntuples):
            try:
                found.append(schema.event_of(row))
            except ValueError as exc:
                msg = f"{self._label}: damaged: seq {row[0]} of log {self._log!r}: {exc}"
                raise StoreUnusable(msg) from exc
            if steps.is_over():
                await steps.rest()
        is_cut = (
            result.nfields > schema.READ_COLUMNS
            and bool(found)
            and (result.get_value(result.ntuples - 1, schema.READ_COLUMNS) == b"\1")
        )
        return found, is_cut

    async def last_seq(self) -> int:
        """The highest seq ever stored, 0 before the first.

        A checkpoint; cancelled, it raises within a second. In an appender it comes after every append that
        began before, also one that was cancelled.

        Raises:
          LogBusy: somebody else has opened the log while the connection was lost.
          StoreError: the server cannot be asked now.
          StoreUnusable: the store is closed; or the tables are damaged, or not those that were made.
        """
        await self._check_open()
        if self._writer is not None:
            return await self._writer.run(self._last_seq)
        return await self._connections.read(self._last_seq)

    async def _last_seq(self, session: Session) -> int:
        return await self._number_of(session, queries.HIGHEST)

    async def _number_of(self, session: Session, statement: str) -> int:
        """What a statement about the row of the log returns."""
        found = await session.execute(self._names.sql(statement), [int8(self._number)])
        if not found.ntuples:
            await self._connections.check_there(session, self._log, self._number)
            msg = f"{self._label}: log {self._log!r} was put back just now"
            raise StoreError(msg)
        return number(found.get_value(0, 0))

    @property
    def _number(self) -> int:
        # An appender sees to it that it is that of its own log.
        return self._found if self._writer is None else self._writer.number

    async def sync(self) -> None:
        """Return once all that ``append_batch`` returned from before survives a loss of power at the server.

        Also what other processes wrote before. Only where ``survives`` is ``"process"`` is
        there anything to do. It takes its turn with appends; with synchronous replication, it waits for the
        standby, too.

        A checkpoint. Cancelled, it raises within a second.

        Raises:
          LogBusy: somebody else has opened the log while the connection was lost.
          StoreError: the server cannot be asked now, or has ``fsync`` off.
          StoreUnusable: the store is closed or read-only.
        """
        await self._check_open()
        if self._writer is None:
            msg = f"{self._label}: the store was opened read-only"
            raise StoreUnusable(msg)
        await self._connections.sync()

    async def pruned_seq(self) -> int:
        """The highest seq of all events that were ever pruned from this log, 0 if none was.

        A checkpoint; cancelled, it raises within a second.

        Raises:
          StoreError: the server cannot be asked now.
          StoreUnusable: the store is closed; or the log is gone.
        """
        await self._check_open()
        return await self._connections.read(lambda session: self._number_of(session, queries.PRUNED))

    async def _check_open(self) -> None:
        await trio.lowlevel.checkpoint()
        self._connections.check_open()

    @asynccontextmanager
    async def watch_changes(self) -> AsyncIterator[ChangeWatch]:
        """Watch for appends to this log, for the length of an ``async with`` block.

        Has a connection of its own, on which the server tells of appends by stores that were opened with
        ``notify``, this one included. Costs nothing while there are none. If that connection is lost,
        ``wait`` raises :class:`StoreError`; the next call makes a new one, and returns once, since it may
        have missed something.

        Entering is a checkpoint.

        Raises:
          StoreError: the server cannot be reached now.
          StoreUnusable: the store is closed; or the server refuses the connection.
        """
        await self._check_open()
        watch = await self._connections.open_watch(self._names.channel(self._log))
        try:
            yield watch
        finally:
            watch.close()

    async def describe(self, *, top: int = 10) -> StoreDescription:
        """What the log holds, in numbers, all of one moment.

        ``size_bytes`` is that of all tables and indexes of the schema. Takes time in proportion to the log. A
        checkpoint; cancelled, it is stopped.

        Args:
          top: how many event types and members to name, the most frequent first; 0 or more.

        Raises:
          TypeError: ``top`` is no integer.
          ValueError: ``top`` is negative.
          StoreError: the server cannot be asked now.
          StoreUnusable: the store is closed; or the tables are damaged, or not those that were made.
        """
        top = checked_top(top)
        await self._check_open()

        async def work(session: Session) -> StoreDescription:
            await self._number_of(session, queries.PRUNED)
            return await upkeep.describe(session, self._names, self._number, top)

        return await self._connections.read(work)

    async def verify(
        self, *, most_findings: int = 100, on_progress: Callable[[int], object] | None = None
    ) -> StoreVerification:
        """Look the log over: does it hold what was stored, and nothing else?

        No index is missing or invalid; each event can be read, its columns agree with its payload, seqs
        ascend, and ids stand once. No log of the schema has lost its name. A program may write meanwhile.
        PostgreSQL's own structures are not looked into: ``pg_amcheck`` does that.

        A checkpoint. Cancelled, what runs is stopped.

        Args:
          most_findings: most problems that are named, 0 or more; all are counted.
          on_progress: called with a seq now and then; all up to it were looked at.

        Raises:
          StoreError: the server cannot be asked now.
          StoreUnusable: the store is closed; or the tables are not those that were made.
        """
        await self._check_open()
        verifier = upkeep.Verifier(self._names, self._number, Findings(most_findings))
        await self._connections.read(verifier.check_structure)
        while (seq := await self._connections.read(verifier.check_page)) is not None:
            if on_progress is not None:
                on_progress(seq)
        await self._connections.read(verifier.check_ids)
        await self._connections.read(verifier.check_end)
        return verifier.result()

    async def prune(
        self,
        *,
        before_ms: int | None = None,
        keep: int | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Take old events out of a log, for good. ``last_seq`` stays what it was.

        In transactions of 1,000 events, through a connection of its own, beside whoever writes to the log.
        Events that come meanwhile stay. The tables do not shrink; once PostgreSQL's autovacuum was there, new
        events take the room. Also in a store that was opened read-only, which means that it does not append.
        :meth:`pruned_seq` then tells how far it went.

        A checkpoint. Cancelled, it stops between two transactions, or in the midst of one, of which nothing
        is left then; what is gone is gone, and calling it again goes on.

        Args:
          before_ms: events before this time go, milliseconds since 1970-01-01 UTC.
          keep: all but so many events, those with the highest seqs, go; 0 or more.
          dry_run: only count them.
          on_progress: called with how many are gone, and how many there were, after each transaction.

        Returns:
          How many events went, or would go.

        Raises:
          ValueError: not exactly one of ``before_ms`` and ``keep`` is given, or it is negative.
          StoreUnusable: the store is closed; the role may not delete; the server takes no writes; the log is
            gone; or the tables are not those that were made.
          StoreError: the server cannot be asked now.
        """
        check_criteria(before_ms, keep)
        await self._check_open()
        gone = 0
        async with self._connections.session() as session:
            await self._number_of(session, queries.PRUNED)
            cut, total = await upkeep.plan_cut(session, self._names, self._number, before_ms, keep)
            if dry_run:
                return total
            while (some := await cut.prune_some(session, self._names)) is not None:
                gone += some
                if on_progress is not None:
                    on_progress(gone, total)
        return gone

    async def log_names(self) -> list[str]:
        """The names of all logs in the schema, ascending by code point.

        A checkpoint. Cancelled, it is stopped.

        Raises:
          StoreError: the server cannot be asked now.
          StoreUnusable: the store is closed; or there are no tables, or not those that were made.
        """
        await self._check_open()
        return await self._connections.log_names()

    @staticmethod
    async def logs(conninfo: str = "", *, schema: str = DEFAULT_SCHEMA) -> list[str]:
        """The names of the logs in a schema, ascending by code point.

        A checkpoint; opens a connection for it and closes it again.

        Raises:
          ValueError, TypeError, StoreError: as :meth:`open`.
          StoreUnusable: the same; or there is no such schema, or no log was ever opened in it.
        """
        names = _checked(conninfo, "default", schema, 1, 0)
        driver = await _load_driver()
        async with driver.open_connections(conninfo, names, log=None, readers=1, partitions=0) as connections:
            found: list[str] = await connections.log_names()
            return found


# --- the driver ---------------------------------------------------------------------------------------


async def _load_driver() -> ModuleType:
    """The module that needs the driver. A checkpoint."""
    try:
        # Importing psycopg takes more than the 100 ms for which the loop may stand still.
        with giving_way():
            return await trio.to_thread.run_sync(
                importlib.import_module,
                "trio_eventlog.stores.postgres._pool",
                limiter=trio.CapacityLimiter(1),
            )
    except ImportError as exc:
        msg = f"PostgresStore needs psycopg: {how_to_install('postgres')} ({exc})"
        raise StoreUnusable(msg) from exc
    except RuntimeError as exc:
        # No thread is to be had.
        msg = f"PostgresStore: {exc}"
        raise StoreError(msg) from exc


# --- arguments ------------------------------------------------------------------------------------


def _checked(conninfo: object, log: str, schema_name: str, readers: object, partitions: object) -> Names:
    if not isinstance(conninfo, str):
        msg = f"conninfo must be text, got {type(conninfo).__name__}"
        raise TypeError(msg)
    check_log_name(log)
    check_name("schema", schema_name, _MOST_SCHEMA_NAME_BYTES)
    if "\0" in schema_name or schema_name.startswith("pg_"):
        msg = f"schema: PostgreSQL does not take {schema_name!a}: no name begins with pg_, or has NUL in it"
        raise ValueError(msg)
    for name, value, least, most in (
        ("readers", readers, 1, _MOST_READERS),
        ("partitions", partitions, 0, _MOST_PARTITIONS),
    ):
        if type(value) is not int:
            msg = f"{name}: expected an integer, got {type(value).__name__}"
            raise TypeError(msg)
        if not least <= value <= most:
            msg = f"{name}: expected {least} to {most}, got {value}"
            raise ValueError(msg)
    return Names(schema_name)
