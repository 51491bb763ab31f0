"""What a writer does, in the thread of its connection."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import apsw

from trio_eventlog._lock_file import FileLock
from trio_eventlog._model._errors import EventRejected, SequenceConflict, StoreError, StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog.stores._common._conflicts import conflicting_seqs, duplicate_seqs, new_seqs
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite._files import Content, Place
from trio_eventlog.stores.sqlite._layout import check_layout
from trio_eventlog.stores.sqlite._wal import WriteAheadLog


class Appender:
    """Appends to one log, and notices when its files are not what they were.

    A file can be put back to an older state at any moment, by a move over it, a copy into it, or SQLite's own
    backup into it. So nothing is remembered about it that is not compared with it, in the transaction of each
    append.
    """

    unique_id: str = ""
    """What tells the log from all others; once it is prepared."""

    def __init__(self, place: Place, lock: FileLock, log: str, synchronous: str) -> None:
        self._place = place
        self._lock = lock
        self._log = log
        self._synchronous = synchronous
        self._synced = survives(synchronous) == "power"
        self._content: Content | None = None
        self._acknowledged = 0
        self._version: int | None = None
        self._wal = WriteAheadLog(place.path)

    def prepare(self, db: apsw.Connection) -> None:
        """Make database and log ready for appends, creating what is not there."""
        schema.harden(db)
        # Before anything is written.
        schema.is_initialised(db)
        check_layout(db)
        found = schema.prepare_writer(db, self._log, self._synchronous)
        place = self._place.check()
        self.unique_id = found.unique_id
        self._acknowledged = schema.checked_seq(db, found.number, "last", found.last_seq)
        self._content = Content(self._place.path, place)
        if self._synced:
            # Earlier processes may have left more than they synced. It passes for stored from here on.
            self._content.sync()

    def end(self) -> None:
        """Close what is open besides the connection, and let the next writer in."""
        try:
            if self._content is not None:
                self._content.close()
        finally:
            self._lock.release()

    def last_seq(self, db: apsw.Connection) -> int:
        """The highest seq ever stored."""
        self._place.check()
        with schema.snapshot(db):
            schema.check_layout(db, self._log)
            log = schema.same_log(db, self._log, self.unique_id)
            return schema.checked_seq(db, log.number, "last", log.last_seq)

    def sync(self, db: apsw.Connection) -> None:
        """See that all that was appended survives a loss of power."""
        if (last_seq := self.last_seq(db)) < self._acknowledged:
            # With a report of the next append: what is there is not what was appended.
            raise StoreError(str(StoreWentBack(last_seq, self._acknowledged)))
        cast("Content", self._content).sync()
        # What is in a file that nobody will find again survives nothing.
        self._place.check()

    def append(self, db: apsw.Connection, events: Sequence[PersistedEvent]) -> Collection[int]:
        """See :meth:`SqliteStore.append_batch`."""
        content = cast("Content", self._content)
        place = self._place.check()
        # Should an earlier rollback have failed, its transaction is still open.
        schema.roll_back(db)
        if somebody_wrote := content.has_changed(place):
            # SQLite goes by a number in shared memory, which only its own writes raise.
            db.execute("PRAGMA shrink_memory")
        changes = db.total_changes()
        log: schema.Log | None = None
        try:
            db.execute("BEGIN IMMEDIATE")
            content.check_wal()
            log = schema.same_log(db, self._log, self.unique_id)
            if db.data_version() != self._version:
                # Another connection has written.
                schema.check_layout(db, self._log)
            self._check_log(db, log)
            if somebody_wrote:
                schema.probe(db, log)
            inserted = schema.insert(db, log.number, events)
            duplicates: Collection[int] = ()
            if inserted == len(events):
                highest = max(event.seq for event in events)
            else:
                held = schema.held_seqs(db, log.number, [event.id for event in events])
                if not all(event.id in held for event in events):
                    raise schema.damaged(db, "events were neither inserted nor there before")  # noqa: TRY301 - see below
                duplicates = duplicate_seqs(events, held)
                highest = max(held.values())
            schema.raise_last_seq(db, log, highest)
            db.execute("COMMIT")
        except BaseException as exc:
            schema.roll_back(db)
            if log is not None and isinstance(exc, apsw.ConstraintError):
                _raise_conflict(db, log.number, events, exc)
            if log is not None and isinstance(exc, apsw.TooBigError):
                _raise_rejected(db, log.number, events, exc)
            if isinstance(exc, apsw.IOError):
                content.raise_truncated(exc)
            raise
        self._version = db.data_version()
        self._wal.keep_small(db)
        # What went into a file that nobody will find again is not stored.
        content.note(self._place.check(), written=db.total_changes() != changes)
        if inserted < len(events) and self._synced:
            # Whoever wrote the others may not have synced them, and SQLite syncs nothing if nothing is new.
            content.sync()
            self._place.check()
        self._acknowledged = max(self._acknowledged, highest)
        return duplicates

    def _check_log(self, db: apsw.Connection, log: schema.Log) -> None:
        last_seq = schema.checked_seq(db, log.number, "last", log.last_seq)
        acknowledged, self._acknowledged = self._acknowledged, last_seq
        if last_seq < acknowledged:
            raise StoreWentBack(last_seq, acknowledged)


def survives(synchronous: str) -> str:
    """What an append that has returned survives, with a setting of ``synchronous``."""
    return "power" if synchronous in ("full", "extra") else "process"


def _raise_conflict(
    db: apsw.Connection, log_id: int, events: Sequence[PersistedEvent], exc: apsw.ConstraintError
) -> None:
    seqs = new_seqs(events, schema.held_seqs(db, log_id, [event.id for event in events]))
    conflicts = conflicting_seqs(seqs, schema.taken_seqs(db, log_id, seqs))
    if conflicts:
        raise SequenceConflict(conflicts) from exc


def _raise_rejected(
    db: apsw.Connection,
    log_id: int,
    events: Sequence[PersistedEvent],
    exc: apsw.TooBigError,
) -> None:
    too_big: list[PersistedEvent] = []
    db.execute("BEGIN IMMEDIATE")
    try:
        for event in events:
            try:
                schema.insert(db, log_id, [event])
            except apsw.TooBigError:
                too_big.append(event)
            except apsw.ConstraintError:
                # Small enough to get as far as its seq.
                pass
    finally:
        schema.roll_back(db)
    if too_big:
        msg = "larger than SQLite can hold"
        raise EventRejected(too_big, msg) from exc
