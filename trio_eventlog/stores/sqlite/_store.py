"""A store in a SQLite database: the durable default."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import ClassVar, TypeVar

import apsw
import attrs
import trio

from trio_eventlog._ki import ki_protected
from trio_eventlog._model._errors import StoreUnusable, StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._reports import StoreDescription, StoreVerification
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.abc import ChangeWatch, EventPage
from trio_eventlog.stores._common._arguments import (
    check_flag,
    check_log_name,
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
from trio_eventlog.stores._common._prune import PruneProgress
from trio_eventlog.stores._common._verify import Verifier, check_pages
from trio_eventlog.stores.sqlite import _backup as backups
from trio_eventlog.stores.sqlite import _copying as copying
from trio_eventlog.stores.sqlite import _erasing as erasing
from trio_eventlog.stores.sqlite import _files as files
from trio_eventlog.stores.sqlite import _reader as readers
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _select as queries
from trio_eventlog.stores.sqlite import _worker as workers
from trio_eventlog.stores.sqlite._appender import Appender, survives
from trio_eventlog.stores.sqlite._parts import Parts, start, start_reader
from trio_eventlog.stores.sqlite._reader import LogReader
from trio_eventlog.stores.sqlite._summaries import Summaries
from trio_eventlog.stores.sqlite._watch import Watch
from trio_eventlog.stores.sqlite._worker import SerialWorker

__all__ = ["SqliteStore"]

T = TypeVar("T")


# Over 300 lines, most of which are the documentation of its public methods.
@attrs.define(eq=False, repr=False, slots=False)
class SqliteStore(Summaries, metaclass=NoPublicConstructor):
    """One log in a SQLite database; made by :meth:`open`.

    The database is a file in WAL mode. It can hold many logs, each with its own ids and seqs, and each open
    for writing once at a time, in any number of processes. Keeps all clauses of
    :class:`trio_eventlog.abc.EventStore`, and states:

    * **Cancellation** is prompt: a call raises at once. An append that was cancelled may still be stored
      afterwards, and what else was begun ends by itself; later calls wait for it. A query is stopped.
    * **Waiting for locks**: writers of different logs of one file take turns, and wait up to 2.5 seconds
      before they raise :class:`StoreError`.
    * **Durability**: with ``synchronous="full"``, an append that has returned survives a loss of power, also
      of events that an earlier process had written and not synced. With ``"normal"`` it survives a kill of
      the process, and a loss of power may undo the latest appends, back to the last :meth:`sync`. ``"extra"``
      is the same as ``"full"``, and ``"off"`` as ``"normal"``: SQLite's own could harm other logs of a file.
    * **A store that went back**: an append compares what the log holds with what it held after the last one.
      If the file was restored from a backup, it raises :class:`StoreWentBack
      <trio_eventlog.StoreWentBack>` or, if it cannot go on, :class:`StoreUnusable`.
    * **Damage** to the file while nobody has it open is told (S16). Every row has a checksum, so what a query
      returns is what was stored. Events that it misses because an index was damaged are found by
      :meth:`verify`. A write-ahead log that a killed process has left is SQLite's: it ends where it is
      damaged, as if nothing had come after.
    * **Limits**: a string or an event that exceeds SQLite's maximum of a billion bytes is rejected.
    * **The lock** of a writer is on a side file, ``<path>.<16 hex digits>.lock``, which contains the holder's
      process id. The file stays; do not remove it. The lock itself ends with the store, or with the process.
      It needs ``flock``: on Windows a log can only be read.
    * **Threads**: Trio's, at most one at a time for reading and, in a writer, one for writing. They do not
      keep a process alive whose Trio run has ended. With Trio's ``autojump_clock``, time jumps while they
      work; use the real clock in tests.
    """

    _log_reader: LogReader
    _reader: SerialWorker
    _writer: SerialWorker | None = None
    _appender: Appender | None = None

    survives: str = "power"
    """What an append that has returned survives, ``"power"`` or ``"process"``."""

    detects_damage: bool = True
    """Damage to the file is told; see above for how far."""
    file_access: ClassVar[str] = "apsw"
    """See :class:`trio_eventlog.abc.FileStore`."""

    @property
    def log_id(self) -> str | None:
        """Identifies this log among all others, in this file and elsewhere."""
        return self._log_reader.unique_id

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading only."""
        return self._writer is None

    @property
    def _path(self) -> str:
        return self._log_reader.place.path

    def __repr__(self) -> str:
        mode = "read-only" if self.read_only else "writing"
        return f"<SqliteStore {self._path!r} log={self._log_reader.log!r} {mode}>"

    @staticmethod
    @ki_protected
    @asynccontextmanager
    async def open(
        path: str | os.PathLike[str],
        *,
        log: str = "default",
        read_only: bool = False,
        synchronous: str = "full",
        index: Iterable[str] = (),
    ) -> AsyncIterator[SqliteStore]:
        """Open a log for the length of an ``async with`` block, creating file and log if need be.

        A new file can be read and written only by its owner (mode 0600). Leaving the block releases lock,
        threads and files. It waits for an append that is still running, not for queries; after 10 seconds it
        gives up with a warning to the logger ``trio_eventlog``, and the lock stays taken until the append
        ends.

        Entering is a checkpoint and can be cancelled, even while a disk hangs: locking and opening the file
        then end in their threads. Once the file is open, what runs on it is waited for as on leaving. Leaving
        waits despite a cancellation or Ctrl-C, for up to those 10 seconds, and raises KeyboardInterrupt then.

        Args:
          path: the database file. Its directory must exist, and readers need to write there, too: SQLite
            keeps shared memory in it.
          log: name of the log, 1 to 512 bytes in UTF-8.
          read_only: do not append. Takes no lock; file and log must exist.
          synchronous: when to make sure that data has reached the disk: ``"full"`` (with each append) or
            ``"normal"`` (now and then, and with :meth:`sync`); also ``"extra"`` and ``"off"``, see above.
          index: keys of payloads whose values are indexed for ``EventQuery(fields=…)``, each of 1 to 128
            bytes in UTF-8, without quotes, backslashes and control characters. An index that is not there yet
            is made before the block is entered, in proportion to the log; other writers of the file wait for
            that. It stays, and serves whoever reads the log; each makes appends a little slower. Lists and
            objects under such a key are not found by it, but checked. No effect with ``read_only``.

        Raises:
          ValueError: an argument is not as described, or ``path`` is not UTF-8, which SQLite needs. SQLite's
            ``":memory:"`` is refused: use :class:`MemoryStore`.
          TypeError: an argument is of the wrong type.
          LogBusy: the log is open for writing elsewhere.
          LogNotFound: with ``read_only``, there is no such log in the file.
          StoreUnusable: the file is missing, or is not a database, belongs to another program or to a newer
            version of this library; or it may not be opened.
          StoreError: the file cannot be opened now: it is busy, the disk is full, or there are too many open
            files or threads.
        """
        path = files.checked_path(path)
        check_log_name(log)
        check_flag("read_only", read_only)
        if not isinstance(synchronous, str):
            raise TypeError(f"synchronous: expected a str, got {type(synchronous).__name__}")
        if synchronous not in schema.SYNCHRONOUS:
            raise ValueError(
                f"synchronous must be one of {', '.join(schema.SYNCHRONOUS)}, got {synchronous!r}"
            )
        index = checked_index(index)
        parts = Parts()
        try:
            yield await _opened(path, log, parts, index, read_only=read_only, synchronous=synchronous)
        finally:
            await parts.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside

    @staticmethod
    @ki_protected
    @asynccontextmanager
    async def open_readers(
        path: str | os.PathLike[str], *, logs: Iterable[str] | None = None
    ) -> AsyncIterator[dict[str, SqliteStore]]:
        """Open logs of one file for reading, for the length of an ``async with`` block.

        They share one connection, on which their queries run one after another. For
        :func:`trio_eventlog.reading.merge_events`, for example. Entering and leaving are as with
        :meth:`open`.

        Args:
          path: the database file.
          logs: their names; by default all that are in the file now.

        Raises:
          ValueError, TypeError, LogNotFound, StoreUnusable, StoreError: as :meth:`open`.
        """
        path = files.checked_path(path)
        names = checked_log_names(logs)
        parts = Parts()
        try:
            place = await workers.in_thread(path, partial(files.existing, path))
            reader = await start_reader(place, parts)
            if names is None:
                names = await reader.run(schema.log_names)
            found = [await reader.run(partial(schema.require_log, log=name)) for name in names]
            yield {
                name: SqliteStore._create(LogReader(place, name, log.unique_id, has_writer=False), reader)
                for name, log in zip(names, found, strict=True)
            }
        finally:
            await parts.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside

    @staticmethod
    async def logs(path: str | os.PathLike[str]) -> list[str]:
        """The names of the logs in a database, ascending by code point.

        A checkpoint; opens the file for reading and closes it again.

        Raises:
          ValueError: ``path`` does not name a file.
          StoreUnusable: there is no such file, or it is not a database of this library.
          StoreError: the file cannot be read now.
        """
        async with SqliteStore.open_readers(path) as stores:
            return list(stores)

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """See :meth:`trio_eventlog.abc.EventStore.append_batch`.

        Raises:
          EventRejected: also if an event exceeds SQLite's maximum of a billion bytes.
          StoreWentBack: the file was restored from a backup.
          StoreError: another writer kept the file busy for 2.5 seconds, or the disk is full.
          StoreUnusable: the store is closed, read-only, or the parent's in a forked child; or the file is
            damaged; or it or a file that belongs to it was moved, removed, replaced, overwritten or
            truncated; or the log is not in it any more.
        """
        writer, appender = await self._writing()
        sealed = await sealed_batch(events)
        # With nothing to append it waits for its turn all the same.
        job = partial(appender.append, events=sealed) if sealed else lambda _: ()
        try:
            return await writer.run(job)
        except StoreWentBack as exc:
            # Not before it is raised here: the next append reports what a cancelled one could not.
            appender.acknowledged = exc.last_seq
            raise

    async def _writing(self) -> tuple[SerialWorker, Appender]:
        if self._writer is None or self._appender is None:
            await trio.lowlevel.checkpoint()
            raise read_only_error(self._path)
        return self._writer, self._appender

    async def sync(self) -> None:
        """See :meth:`trio_eventlog.abc.SyncableStore.sync`.

        Whatever ``synchronous`` says. Includes what earlier processes wrote to this log, and takes its turn
        with appends.
        """
        writer, appender = await self._writing()
        await writer.run(appender.sync)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """See :meth:`trio_eventlog.abc.EventStore.query`.

        Fast with any filter that has an index, alone or with others; of several the most selective is used:
        ``step_id``, ``run_id``, ``fields`` whose key was declared in :meth:`open`, ``identity``,
        ``member_id``, ``event_types`` (up to 32), ``mob_id``, time, ``after_seq``. Time together with
        ``after_seq`` reads on from there. ``module`` and all other ``fields`` are checked.

        Queries run one after another, and at the same time as appends.

        Raises:
          StoreUnusable: the store is closed, or the file is damaged, or the log is not in it any more; or a
            reader's file was moved, removed or replaced.
        """
        check_query(query)
        return await self._read(partial(queries.read, query=query))

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        """See :meth:`trio_eventlog.abc.PagedStore.query_page`."""
        check_query_page(query, max_bytes)
        return await self._read(partial(queries.read_page, query=query, max_bytes=max_bytes))

    async def _read(self, job: Callable[[apsw.Connection, schema.Log], T]) -> T:
        return await self._reader.run(partial(self._log_reader.read, job=job))

    async def last_seq(self) -> int:
        """See :meth:`trio_eventlog.abc.EventStore.last_seq`.

        In a writer it comes after every append that began before, even one that was cancelled.
        """
        if self._writer is not None and self._appender is not None:
            return await self._writer.run(self._appender.last_seq)
        return await self._read(lambda _, log: log.last_seq)

    async def pruned_seq(self) -> int:
        """See :meth:`trio_eventlog.abc.PrunedStore.pruned_seq`.

        If the log was pruned by a version that did not record it, all seqs before its first event count as
        pruned.
        """
        return await self._read(lambda _, log: log.pruned_seq)

    @ki_protected
    @asynccontextmanager
    async def watch_changes(self) -> AsyncIterator[ChangeWatch]:
        """See :meth:`trio_eventlog.abc.WatchableStore.watch_changes`.

        While a task waits, checks 20 times a second whether another connection has written to the file, to
        this log or to another. Such a check is cheap: SQLite keeps a number for it in shared memory. A wait
        also ends when a reader's file was moved, removed or replaced; the next call then says so.
        """
        yield Watch(self._reader, self._log_reader, await self._reader.run(schema.data_version))

    async def describe(self, *, top: int = 10) -> StoreDescription:
        """See :meth:`trio_eventlog.abc.DescribableStore.describe`. A few million events take a second."""
        top = checked_top(top)
        return await self._read(partial(self._log_reader.describe, top=top))

    async def verify(
        self, *, most_findings: int = 100, on_progress: Callable[[int], object] | None = None
    ) -> StoreVerification:
        """See :meth:`trio_eventlog.abc.VerifiableStore.verify`.

        Includes SQLite's own check of the log's table and of its indexes, none of which may be missing, that
        its counts are those of its events, and that every table of events in the file belongs to a log.
        """
        check_verify(most_findings, on_progress)
        check = readers.LogCheck(Verifier(most_findings))
        if await self._read(check.check_structure):
            await check_pages(partial(self._read, check.check_page), on_progress)
            counts = readers.CountCheck(check.verifier)
            await check_pages(partial(self._read, counts.check_page), None)
            await self._read(check.check_end)
        return check.verifier.result()

    @trio.lowlevel.enable_ki_protection  # of closing the connection
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

        In transactions of 1,000 events, through a connection of its own; an append waits for at most one of
        them. The file does not shrink; new events use the space. If the call is cancelled, a transaction that
        is running is completed.
        """
        check_prune(before_ms, keep, through_seq, dry_run, on_progress)
        place = self._log_reader.place
        plan, total = await self._read(
            partial(readers.plan_prune, place=place, before_ms=before_ms, keep=keep, through_seq=through_seq)
        )
        if dry_run:
            return total
        progress = PruneProgress(total, on_progress)
        wal = files.WriteAheadLog(place.path)
        prune = partial(readers.prune_some, reader=self._log_reader, plan=plan, progress=progress, wal=wal)
        parts = Parts()
        try:
            worker = await start(place, parts, schema.harden, apsw.SQLITE_OPEN_READWRITE)
            while await worker.run(prune):
                progress.report()
            return progress.gone
        finally:
            await parts.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside
            # A transaction that outlived its caller was not reported yet.
            progress.report()

    @trio.lowlevel.enable_ki_protection  # of closing the connection
    async def erase(
        self,
        query: EventQuery,
        *,
        reason: str,
        commitment: Callable[[PersistedEvent], str] | None = None,
    ) -> int:
        """See :meth:`trio_eventlog.abc.ErasableStore.erase`.

        In transactions of 1,000 events, through a connection of its own. Then SQLite's ``VACUUM`` writes the
        whole file anew, and the write-ahead log is emptied, so that nothing is left in free pages, indexes or
        behind the end of what a page holds. Meanwhile appends wait; a log tries again what takes longer than
        2.5 seconds. It needs room on the disk for another copy of the file. What the file system keeps of
        blocks that it has freed is not erased.

        Raises:
          StoreError: also if a reader of another process stayed in a transaction all the time.
        """
        check_erase(query, reason, commitment)
        job = erasing.Erasure(self._log_reader, query, reason, commitment)
        parts = Parts()
        try:
            worker = await start(self._log_reader.place, parts, schema.harden, apsw.SQLITE_OPEN_READWRITE)
            while await worker.run(job.erase_some):
                pass
            await worker.run(job.clean)
            while not await worker.run(job.empty_wal):
                pass
            return job.erased
        finally:
            await parts.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside

    @trio.lowlevel.enable_ki_protection  # of closing the connection
    async def backup(
        self, path: str | os.PathLike[str], *, on_progress: Callable[[int, int], object] | None = None
    ) -> int:
        """Copy the whole file, with all of its logs, to a new one, and verify the copy. A checkpoint.

        The copy is of one moment, whatever programs write meanwhile, and they need not wait. It gets its name
        once it was verified and synced. Cancelled, it is removed. A log that is to go on in the copy is
        restored with :func:`trio_eventlog.stores.restore_backup`, which sees to it that no seq is given out a
        second time.

        Args:
          path: the file to create, with mode 0600.
          on_progress: called with the pages copied so far, and how many there are.

        Returns:
          The number of events in all logs of the copy.

        Raises:
          TypeError, ValueError: an argument is of the wrong type, or ``path`` does not name a file.
          StoreError: a file cannot be read or written now.
          StoreUnusable: there is a file of that name; or the copy has problems, as the original may have.
        """
        target = files.checked_path(path)
        check_verify(0, on_progress)
        await workers.in_thread(target, partial(backups.create, target), lambda _: backups.remove(target))
        try:
            await copying.copy_database(self._log_reader.place, target, on_progress)
            events = await verified_events(target + backups.PART)
            await workers.in_thread(target, partial(backups.publish, target))
            return events
        finally:
            # Nothing, once it has its name.
            backups.remove(target)

    async def log_names(self) -> list[str]:
        """See :meth:`trio_eventlog.abc.MultiLogStore.log_names`."""
        return await self._reader.run(self._log_reader.log_names)


# --- opening and closing --------------------------------------------------------------------------


async def _opened(
    path: str, log: str, parts: Parts, index: tuple[str, ...], *, read_only: bool, synchronous: str
) -> SqliteStore:
    if read_only:
        place = await workers.in_thread(path, partial(files.existing, path))
        reader = await start_reader(place, parts)
        found = await reader.run(partial(schema.require_log, log=log))
        log_reader = LogReader(place, log, found.unique_id, has_writer=False)
        return SqliteStore._create(log_reader, reader, survives=survives(synchronous))
    place, lock = await workers.in_thread(
        path, partial(files.acquire, path, log), lambda got: got[1].release()
    )
    parts.lock = lock
    appender = Appender(place, lock, log, synchronous, index)
    writer = await start(place, parts, appender.prepare, apsw.SQLITE_OPEN_READWRITE, at_end=appender.end)
    reader = await start_reader(place, parts)
    log_reader = LogReader(place, log, appender.unique_id, has_writer=True)
    return SqliteStore._create(log_reader, reader, writer, appender, survives(synchronous))


async def verified_events(path: str) -> int:
    """The number of events in all logs of a copy; StoreUnusable if it has problems."""
    events = 0
    async with SqliteStore.open_readers(path) as stores:
        for name, store in stores.items():
            found = await store.verify(most_findings=1)
            if found.problems:
                raise StoreUnusable(f"{path}: log {name!r} of the copy: {found.findings[0].problem}")
            events += found.events
    return events
