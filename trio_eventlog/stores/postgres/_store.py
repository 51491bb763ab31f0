"""A store in a PostgreSQL database: many processes, one place."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from trio_eventlog._ki import ki_protected
from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog._numbers import check_integer
from trio_eventlog._threads import run_sync
from trio_eventlog._util import NoPublicConstructor, how_to_install
from trio_eventlog.abc import ChangeWatch, EventPage
from trio_eventlog.stores._common._arguments import (
    check_flag,
    check_log_name,
    check_name,
    check_prune,
    check_query,
    check_query_page,
    check_verify,
    checked_log_names,
    checked_top,
)
from trio_eventlog.stores._common._batches import sealed_batch
from trio_eventlog.stores._common._closing import read_only_error
from trio_eventlog.stores._common._erasure import check_erase
from trio_eventlog.stores._common._fields import checked_index
from trio_eventlog.stores.postgres import _erasing as erasing
from trio_eventlog.stores.postgres import _schema as tables
from trio_eventlog.stores.postgres._names import Names
from trio_eventlog.stores.postgres._reader import LogReader
from trio_eventlog.stores.postgres._summaries import Summaries

if TYPE_CHECKING:
    from types import ModuleType

    from trio_eventlog.stores.postgres._appender import Appender
    from trio_eventlog.stores.postgres._pool import Pool

__all__ = ["PostgresStore"]

DEFAULT_SCHEMA: Final = "trio_eventlog"

LOCK_TIMEOUT: Final = 15.0
"""See :attr:`PostgresStore.lock_timeout`."""

_MAX_SCHEMA_NAME_BYTES: Final = 63
_MAX_READERS: Final = 100
_MAX_PARTITIONS: Final = 1024


# A few lines over 300, with the documentation of its public methods.
class PostgresStore(Summaries, metaclass=NoPublicConstructor):
    """One log in a PostgreSQL database, version 14 or newer; made by :meth:`open`.

    A schema of the database holds any number of logs in one table, each with its own ids and seqs, and each
    open for writing once at a time, in any number of processes on any number of hosts. Keeps all clauses of
    :class:`trio_eventlog.abc.EventStore`.

    * **Cancellation** takes up to 0.75 seconds: the server is asked to stop the statement, and its end is
      awaited. A connection on which it does not end is dropped.
    * **A lost connection** is made again by the next call. What was under way raises :class:`StoreError`, and
      so does an appender until its lost session is gone, which it ends itself. If another appender has opened
      the log in between, it raises :class:`LogBusy`.
    * **Durability** is the server's: with its defaults, an append that has returned survives a loss of power
      there.
    * **Limits**: the strings and the payload of an event have at most 64 MiB together; beyond that it is
      rejected.
    * **Connections**: one for writing in an appender, and up to ``readers`` for reading, opened when they are
      needed. :meth:`prune`, :meth:`watch_changes` and :meth:`logs` have one of their own while they last.
    * **Threads**: none, except to look up host names and to load the driver.
    """

    lock_timeout: Final[float] = LOCK_TIMEOUT
    """Seconds until the lock of a dead appender is free. If its process was killed that takes milliseconds,
    or about a second if a statement was waiting; if its host or the network has vanished, it takes until the
    server notices."""

    log_id: Final[str]
    """Identifies this log among all others, in this database and elsewhere."""

    survives: Final[str]
    """What an append that has returned survives, ``"power"`` or ``"process"``, at the server.

    Only ``"process"``, the kill of the server's processes, if the server has ``fsync`` off, or the options of
    the connection set ``synchronous_commit`` to ``off``. ``full_page_writes``, which may be off on file
    systems that write a page as a whole, is not checked.
    """

    def __init__(self, reader: LogReader, appender: Appender | None, *, notify: bool) -> None:
        self._reader = reader
        self._pool = reader.pool
        self._appender = appender
        self._channel = reader.names.channel(reader.log)
        self._notify = notify
        self.log_id = reader.unique_id
        self.survives = "power" if appender is None else appender.survives

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
        return self._appender is None

    def __repr__(self) -> str:
        mode = "read-only" if self.read_only else "writing"
        log = self._reader
        return f"<PostgresStore {self._pool.label} schema={log.names.schema!r} log={log.log!r} {mode}>"

    @staticmethod
    @ki_protected
    @asynccontextmanager
    async def open(
        conninfo: str = "",
        *,
        log: str = "default",
        schema: str = DEFAULT_SCHEMA,
        read_only: bool = False,
        notify: bool = True,
        readers: int = 2,
        partitions: int = 0,
        index: Iterable[str] = (),
    ) -> AsyncIterator[PostgresStore]:
        """Open a log for the length of an ``async with`` block, creating schema and log if need be.

        Leaving the block releases lock and connections. It waits for an append that is still running, not for
        queries; after 10 seconds it gives up with a warning to the logger ``trio_eventlog``, and the lock is
        free once the server notices.

        Entering is a checkpoint and can be cancelled; leaving waits despite a cancellation, for up to those
        10 seconds.

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
          read_only: do not append. Takes no lock, and only the permission to read.
          notify: notify other stores after each append, for their :meth:`watch_changes`.
          readers: maximum number of connections for reading, 1 to 100.
          partitions: when the tables are made, spread the events over this many, by their log; 0 for a single
            table, at most 1,024. Ignored once they are there.
          index: keys of payloads whose values are indexed for ``EventQuery(fields=…)``, each of 1 to 128
            bytes in UTF-8, without quotes, backslashes and control characters. An index that is not there yet
            is made on opening, for all logs of the schema, which do not take appends meanwhile. It stays, and
            serves whoever reads them; each makes appends slower. Lists and objects under such a key are not
            found by it, but checked; and all events that have a NUL character in their payload are looked
            at. Needs a database in UTF-8. No effect with ``read_only``.

        Raises:
          ValueError: an argument is not as described.
          TypeError: an argument is of the wrong type.
          LogBusy: the log is open for writing elsewhere.
          LogNotFound: with ``read_only``, there is no such log, or no table yet.
          StoreUnusable: the database is not there, or may not be opened; the schema belongs to another
            program, or to a newer version of this library; or the driver is not installed.
          StoreError: the database cannot be reached now.
        """
        names = _checked(conninfo, log, schema, readers, partitions)
        check_flag("read_only", read_only)
        check_flag("notify", notify)
        index = checked_index(index)
        driver = await _load_driver()
        async with driver.open_connections(
            conninfo,
            names,
            log=None if read_only else log,
            readers=readers,
            partitions=partitions,
            index=index,
        ) as (pool, appender):
            found = None if appender is not None else (await _find_logs(pool, [log]))[log]
            reader = LogReader(pool, names, log, found, appender)
            yield PostgresStore._create(reader, appender, notify=notify)

    @staticmethod
    @ki_protected
    @asynccontextmanager
    async def open_readers(
        conninfo: str = "",
        *,
        logs: Iterable[str] | None = None,
        schema: str = DEFAULT_SCHEMA,
        readers: int = 2,
    ) -> AsyncIterator[dict[str, PostgresStore]]:
        """Open logs of one schema for reading, for the length of an ``async with`` block.

        They share up to ``readers`` connections, however many they are. For
        :func:`trio_eventlog.reading.merge_events`, for example. Entering and leaving are as with
        :meth:`open`.

        Args:
          conninfo: the database.
          logs: their names; by default all that are in the schema now.
          schema: where the tables are.
          readers: maximum number of connections, 1 to 100.

        Raises:
          ValueError, TypeError, LogNotFound, StoreUnusable, StoreError: as :meth:`open`.
        """
        wanted = checked_log_names(logs)
        names = _checked(conninfo, "default", schema, readers, 0)
        driver = await _load_driver()
        async with driver.open_connections(conninfo, names, readers=readers) as (pool, _):
            if wanted is None:
                wanted = await pool.read(tables.log_names)
            found = await _find_logs(pool, wanted)
            readings = (LogReader(pool, names, name, found[name]) for name in wanted)
            yield {reader.log: PostgresStore._create(reader, None, notify=False) for reader in readings}

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """See :meth:`trio_eventlog.abc.EventStore.append_batch`.

        In one round trip, unless the batch has more than 16 MiB. Cancelled, it is stopped at the server.

        Raises:
          EventRejected: also if an event has more than 64 MiB.
          StoreWentBack: the server was restored to an older state, or a standby that lagged took over.
          LogBusy: another appender has opened the log while the connection was lost.
          StoreError: the connection was lost, and may still be; the server is busy, full or shutting down,
            takes no writes, or refuses what it allowed before; or it stopped waiting for its standby.
          StoreUnusable: the store is closed, read-only, or the parent's in a forked child; the log is gone,
            or another one has its name; or the tables are not those that were made.
        """
        appender = await self._require_appender()
        batch = await sealed_batch(events)
        if not batch:
            await trio.lowlevel.checkpoint()
            return ()
        return await appender.append(batch, self._channel if self._notify else None)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """See :meth:`trio_eventlog.abc.EventStore.query`.

        Fast with any filter that has an index, alone or with others: all but ``module``, and ``fields`` whose
        key was not declared in :meth:`open`, which are checked. Time together with ``after_seq`` or
        ``event_types`` reads on from there. The whole result is in memory: page through a long one with
        :func:`trio_eventlog.reading.iter_events`.

        Cancelled, it is stopped at the server. Up to ``readers`` queries run at once, along with appends.

        Raises:
          StoreUnusable: the store is closed; the log is gone; or the tables are damaged, or not those that
            were made.
        """
        check_query(query)
        return (await self._reader.query(query)).events

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        """See :meth:`trio_eventlog.abc.PagedStore.query_page`.

        The server sends at most that many bytes and one more event.
        """
        check_query_page(query, max_bytes)
        return await self._reader.query(query, max_bytes)

    async def last_seq(self) -> int:
        """See :meth:`trio_eventlog.abc.EventStore.last_seq`.

        In an appender it comes after every append that began before, even one that was cancelled.

        Raises:
          LogBusy: another appender has opened the log while the connection was lost.
        """
        if self._appender is None:
            return await self._pool.read(self._reader.highest_seq)
        return await (await self._require_appender()).run(self._reader.highest_seq)

    async def sync(self) -> None:
        """See :meth:`trio_eventlog.abc.SyncableStore.sync`.

        Takes its turn with appends. With synchronous replication, it waits for the standby, too. Only where
        ``survives`` is ``"process"`` is there anything to do.

        Raises:
          LogBusy: another appender has opened the log while the connection was lost.
          StoreError: also if the server has ``fsync`` off.
        """
        await (await self._require_appender()).sync()

    async def pruned_seq(self) -> int:
        """See :meth:`trio_eventlog.abc.PrunedStore.pruned_seq`."""
        return await self._pool.read(self._reader.pruned_seq)

    async def _require_appender(self) -> Appender:
        await self._pool.require_open()
        if self._appender is None:
            await trio.lowlevel.checkpoint()
            raise read_only_error(self._pool.label)
        return self._appender

    @ki_protected
    @asynccontextmanager
    async def watch_changes(self) -> AsyncIterator[ChangeWatch]:
        """See :meth:`trio_eventlog.abc.WatchableStore.watch_changes`.

        Has a connection of its own, on which the server notifies of appends by stores that were opened with
        ``notify``, this one included. Costs nothing while there are none. If that connection is lost,
        ``wait`` raises :class:`StoreError`; the next call makes a new one, and returns once, since it may
        have missed something.
        """
        watch = await self._pool.open_watch(self._channel)
        try:
            yield watch
        finally:
            watch.close()

    async def describe(self, *, top: int = 10) -> StoreDescription:
        """See :meth:`trio_eventlog.abc.DescribableStore.describe`.

        ``size_bytes`` is that of all tables and indexes of the schema.
        """
        top = checked_top(top)
        return await self._pool.read(partial(self._reader.describe, top=top))

    async def verify(
        self, *, most_findings: int = 100, on_progress: Callable[[int], object] | None = None
    ) -> StoreVerification:
        """See :meth:`trio_eventlog.abc.VerifiableStore.verify`.

        Includes that no index is missing or invalid, and that no log of the schema has lost its name.
        PostgreSQL's own structures are not checked: ``pg_amcheck`` does that.
        """
        check_verify(most_findings, on_progress)
        return await self._reader.verify(most_findings, on_progress)

    async def prune(
        self,
        *,
        before_ms: int | None = None,
        keep: int | None = None,
        through_seq: int | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """See :meth:`trio_eventlog.abc.PrunableStore.prune`.

        In transactions of 1,000 events, through a connection of its own, while others may append. Nothing is
        left of a transaction that is cancelled. The tables do not shrink; new events take the room once
        PostgreSQL's autovacuum has run.
        """
        check_prune(before_ms, keep, through_seq, dry_run, on_progress)
        return await self._reader.prune(before_ms, keep, through_seq, on_progress, dry_run=dry_run)

    async def erase(
        self,
        query: EventQuery,
        *,
        reason: str,
        commitment: Callable[[PersistedEvent], str] | None = None,
    ) -> int:
        """See :meth:`trio_eventlog.abc.ErasableStore.erase`.

        In statements of up to 1,000 events, through a connection of its own, while others may append. No
        query finds what was erased any more, but PostgreSQL keeps old versions of rows in its files until
        ``VACUUM FULL``: the guide to retention and privacy has the statements.
        """
        check_erase(query, reason, commitment)
        return await erasing.erase(self._reader, query, reason, commitment)

    async def log_names(self) -> list[str]:
        """See :meth:`trio_eventlog.abc.MultiLogStore.log_names`."""
        return await self._pool.read(tables.log_names)

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
        async with driver.open_connections(conninfo, names, readers=1) as (pool, _):
            found: list[str] = await pool.read(tables.log_names)
            return found


async def _find_logs(pool: Pool, logs: Sequence[str]) -> dict[str, tables.FoundLog]:
    if not logs:
        return {}
    return await pool.read(partial(tables.find_readable_logs, logs=logs), opening=True)


# --- the driver -----------------------------------------------------------------------------------


async def _load_driver() -> ModuleType:
    """The module that needs the driver. A checkpoint."""
    try:
        # Importing psycopg takes more than the 100 ms for which the event loop may be blocked.
        return await run_sync(
            partial(importlib.import_module, "trio_eventlog.stores.postgres._pool"),
            abandon_on_cancel=False,
        )
    except ImportError as exc:
        raise StoreUnusable(f"PostgresStore needs psycopg: {how_to_install('postgres')} ({exc})") from exc
    except RuntimeError as exc:
        # No thread can be started.
        raise StoreError(f"PostgresStore: {exc}") from exc


# --- arguments ------------------------------------------------------------------------------------


def _checked(conninfo: object, log: str, schema_name: str, readers: object, partitions: object) -> Names:
    if not isinstance(conninfo, str):
        raise TypeError(f"conninfo must be a string, got {type(conninfo).__name__}")
    check_log_name(log)
    check_name("schema", schema_name, _MAX_SCHEMA_NAME_BYTES)
    if "\0" in schema_name or schema_name.startswith("pg_"):
        raise ValueError(
            f"schema: PostgreSQL does not take {schema_name!a}: no name begins with pg_, or has NUL in it"
        )
    check_integer("readers", readers, 1, _MAX_READERS)
    check_integer("partitions", partitions, 0, _MAX_PARTITIONS)
    return Names(schema_name)
