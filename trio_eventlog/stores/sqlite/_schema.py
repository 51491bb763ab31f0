"""The database of a store: its connections, and the table of its logs.

Everything here runs in the worker thread of a connection.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apsw
import attrs

from trio_eventlog._model._errors import LogNotFound, StoreUnusable
from trio_eventlog._speedups import core
from trio_eventlog.stores.sqlite._checksums import checksum, seed_of
from trio_eventlog.stores.sqlite._field_index import indexed_keys, make_indexes
from trio_eventlog.stores.sqlite._layout import (
    APPLICATION_ID,
    REGISTRY,
    SCHEMA_VERSION,
    check_layout,
    counts_of,
    counts_table,
    events_table,
    table_of,
)

SYNCHRONOUS: Final = ("off", "normal", "full", "extra")

BATCHES: Final = "trio_eventlog_batch"
"""The table of the core from which a batch is read, by its number."""

BUSY_TIMEOUT: Final = 2.5
"""Seconds that a statement waits for another connection's lock."""

PAGE_SIZE: Final = 8192
"""Bytes. Larger ones are faster for large batches, and cost the flush of a single event more."""

_KEPT_WAL_BYTES: Final = 4 * 1024 * 1024


def is_initialised(db: apsw.Connection) -> bool:
    """Whether the database has the layout of this library. False if it is still blank, as when just created.

    Raises:
      StoreUnusable: it belongs to another program, or has another version of the layout.
    """
    application_id, version, tables = first_row(
        db,
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
        # With parentheses, so that it cannot be a table or view of that name.
        " FROM pragma_application_id(), pragma_user_version()",
    )
    if application_id == 0 and version == 0 and tables == 0:
        return False
    if application_id != APPLICATION_ID:
        raise StoreUnusable(f"{db.filename}: a SQLite database of another program, not an event log")
    if version > SCHEMA_VERSION:
        raise StoreUnusable(
            f"{db.filename}: written by a newer trio_eventlog (layout {version}, this one knows"
            f" {SCHEMA_VERSION}): upgrade trio_eventlog to open it"
        )
    if version < SCHEMA_VERSION:
        raise StoreUnusable(
            f"{db.filename}: written before trio_eventlog was released (layout {version}, this one knows"
            f" {SCHEMA_VERSION}): export it with what wrote it"
        )
    return True


def harden(db: apsw.Connection) -> None:
    """Settings of every connection."""
    db.set_busy_timeout(round(BUSY_TIMEOUT * 1000))
    # The file may come from anywhere: nothing in its schema may run code.
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)
    # The program may have hooks for all connections, which change what a row is.
    db.row_trace = None
    db.exec_trace = None
    db.execute("PRAGMA cell_size_check = ON")


def prepare_reader(db: apsw.Connection) -> None:
    """Make a connection ready for reading.

    Raises:
      StoreUnusable: the database does not have the layout of this library.
    """
    harden(db)
    is_initialised(db)
    check_layout(db)


def prepare_writer(db: apsw.Connection, log: str, synchronous: str, index: tuple[str, ...] = ()) -> Log:
    """Make database and log ready for appends, creating what is not there; ``index``: keys of payloads.

    Safe while any number of other processes do the same.
    """
    prepared = _prepare_writer(db, log, synchronous)
    lacks_counts = not db.table_exists("main", counts_of(prepared.number))
    if lacks_counts or not indexed_keys(db, prepared.table).issuperset(index):
        with transaction(db):
            if lacks_counts:
                db.execute(counts_table(prepared.number))
            make_indexes(db, prepared.table, index)
    return prepared


def _prepare_writer(db: apsw.Connection, log: str, synchronous: str) -> Log:
    # Before anything is written: the file may belong to another program.
    prepare_reader(db)
    _use_wal(db)
    # With SQLite's own "off" the write-ahead log would be checkpointed without a sync, and restarted: a loss
    # of power could then destroy what writers of other logs of the file have synced.
    db.execute(f"PRAGMA synchronous = {'normal' if synchronous == 'off' else synchronous}")
    db.execute(f"PRAGMA journal_size_limit = {_KEPT_WAL_BYTES}")
    found = find_log(db, log)
    if found is not None:
        return found
    with transaction(db):
        if not is_initialised(db):
            db.execute(REGISTRY)
        # A log has one appender at a time, but an earlier one may just have made it.
        return find_log(db, log) or _new_log(db, log)


def load_core(db: apsw.Connection) -> Any:
    """The core, after which the connection can read its batches; None where there is none, or it cannot.

    SQLite can have been built without extensions, or be unable to open the file that Python has imported.
    """
    if core is None:
        return None
    try:
        db.enable_load_extension(True)
        try:
            db.load_extension(core.__file__, "trio_eventlog_rows_init")
        finally:
            db.enable_load_extension(False)
    except (AttributeError, UnicodeEncodeError, apsw.Error):
        return None
    return core


def _new_log(db: apsw.Connection, log: str) -> Log:
    check_no_orphans(db, log)
    (number,) = first_row(db, "SELECT 1 + ifnull(max(log_id), 0) FROM logs")
    made = Log(number, log, 0, os.urandom(16).hex(), 0)
    db.execute("INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?)", made.row())
    db.execute(events_table(number))
    db.execute(counts_table(number))
    return made


def _use_wal(db: apsw.Connection) -> None:
    # SQLite does not call its busy handler for every lock that this change needs, so two programs that open a
    # new file at the same time could both fail.
    give_up = time.monotonic() + BUSY_TIMEOUT
    mode = None
    while mode is None:
        try:
            # Of a new file. One that is there keeps its own.
            db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            (mode,) = first_row(db, "PRAGMA journal_mode = wal")
        except apsw.BusyError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise StoreUnusable(
            f"{db.filename}: this file system does not carry SQLite's write-ahead log (mode {mode})"
        )


@attrs.frozen
class Log:
    """A row of the table of logs."""

    number: int
    name: str

    last_seq: int
    """The highest seq ever stored."""

    unique_id: str
    """No other log has it, in this file or others."""

    pruned_seq: int
    """The highest seq ever pruned; 0 if none was."""

    @property
    def table(self) -> str:
        """The name of its events table."""
        return table_of(self.number)

    @property
    def seed(self) -> int:
        """What the checksums of its events begin with."""
        return seed_of(self.unique_id)

    def row(self) -> tuple[int | str, ...]:
        """Its row, with the checksum."""
        values = self.number, self.name, self.last_seq, self.unique_id, self.pruned_seq
        return (*values, checksum(values))

    def note(self, db: apsw.Connection, *, last_seq: int = 0, pruned_seq: int = 0) -> None:
        """Raise what the row says to these seqs; within a transaction in which it was read."""
        seqs = max(self.last_seq, last_seq), max(self.pruned_seq, pruned_seq)
        if seqs != (self.last_seq, self.pruned_seq):
            values = self.number, self.name, seqs[0], self.unique_id, seqs[1]
            db.execute(
                "UPDATE logs SET last_seq = ?, pruned_seq = ?, checksum = ? WHERE log_id = ?",
                (*seqs, checksum(values), self.number),
            )


def uses_wal(db: apsw.Connection) -> bool:
    """Whether the connection uses a write-ahead log, and so keeps a lock on the database.

    A file made by ``VACUUM INTO`` has none until it is opened for writing.
    """
    (mode,) = first_row(db, "PRAGMA journal_mode")
    return bool(mode == "wal")


def find_log(db: apsw.Connection, log: str) -> Log | None:
    """The row of a log; None if there is no such log, or no table yet."""
    return _find_log(db, log) if is_initialised(db) else None


def _find_log(db: apsw.Connection, log: str) -> Log | None:
    row = db.execute(f"{_LOGS} WHERE name = ?", (log,)).fetchone()
    if row is not None:
        found = _checked(db, row)
        if found.name != log:
            raise damaged(db, f"the name {log!r} leads to log {found.name!r}")
        return found
    # Unless the index of names is damaged.
    if any(other.name == log for other in _all_logs(db)):
        raise damaged(db, f"log {log!r} is not in the index of names")
    return None


_LOGS: Final = "SELECT log_id, name, last_seq, unique_id, pruned_seq, checksum FROM logs"


def _all_logs(db: apsw.Connection) -> Iterator[Log]:
    return (_checked(db, row) for row in db.execute(f"{_LOGS} NOT INDEXED"))


def _checked(db: apsw.Connection, row: Any) -> Log:
    *values, found = row
    if checksum(tuple(values)) != found:
        raise damaged(db, f"the row of log {row[1]!r:.100} is not what was written")
    return Log(*values)


def same_log(db: apsw.Connection, log: str, unique_id: str | None) -> Log:
    """The row of a log that was there before. Never cached: the content of the file may be replaced.

    Raises:
      StoreUnusable: it is not there any more, or is another log of that name.
    """
    try:
        found = _find_log(db, log)
    except apsw.SQLError:
        check_not_blank(db, log)
        raise
    if found is None:
        raise damaged(db, f"a row is missing: log {log!r} is not there any more{_RESTORED}")
    if unique_id not in (None, found.unique_id):
        raise StoreUnusable(f"{db.filename}: log {log!r} is another one than before{_RESTORED}; open it anew")
    return found


def check_not_blank(db: apsw.Connection, log: str) -> None:
    """Check that a database that had a log still has tables of this library; StoreUnusable if not."""
    if not is_initialised(db):
        raise damaged(db, f"it is blank, and had log {log!r} before{_RESTORED}")


_RESTORED: Final = " (was the file restored from a backup while it was open?)"


def require_log(db: apsw.Connection, log: str) -> Log:
    """The row of a log that is to be read.

    Raises:
      LogNotFound: it is not there.
      StoreUnusable: there is a log that has lost its name, which may be this one.
    """
    with snapshot(db):
        found = find_log(db, log)
        if found is None:
            check_no_orphans(db, log)
            raise LogNotFound(log, log_names(db), db.filename)
        return found


def check_no_orphans(db: apsw.Connection, log: str) -> None:
    """Check that a log that is not there cannot be one that has lost its row; within a transaction.

    Raises:
      StoreUnusable: there is a table of events that belongs to no log.
    """
    orphans = orphaned_tables(db)
    if orphans:
        raise damaged(db, f"log {log!r} is not there, and {orphans[0]} belongs to no log")


def orphaned_tables(db: apsw.Connection) -> list[str]:
    """Tables of events that belong to no log."""
    if not is_initialised(db):
        return []
    known = {log.table for log in _all_logs(db)}
    tables = [
        str(table)
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    ]
    return [table for table in tables if _EVENTS_TABLE.fullmatch(table) and table not in known]


_EVENTS_TABLE: Final = re.compile("events_[0-9]+")


@contextmanager
def transaction(db: apsw.Connection) -> Iterator[None]:
    """Write in one transaction, undone if the block raises."""
    roll_back(db)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        roll_back(db)
        raise


@contextmanager
def snapshot(db: apsw.Connection) -> Iterator[None]:
    """Read in one transaction: all of it is of one moment."""
    roll_back(db)
    db.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(db)


def log_names(db: apsw.Connection) -> list[str]:
    """The names of all logs, ascending."""
    return sorted(log.name for log in _all_logs(db)) if is_initialised(db) else []


def data_version(db: apsw.Connection) -> int:
    """A number that changes when another connection writes to the file."""
    (version,) = first_row(db, "PRAGMA data_version")
    return int(version)


def roll_back(db: apsw.Connection) -> None:
    """End a transaction that is still open. SQLite may have ended it by itself."""
    if db.in_transaction:
        db.execute("ROLLBACK")


def first_row(db: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> Any:
    """The first row of a statement that always has one, except in a damaged file (StoreUnusable)."""
    rows = db.execute(sql, bindings).fetchall()
    if not rows:
        raise damaged(db, "a row is missing")
    return rows[0]


def damaged(db: apsw.Connection, what: str) -> StoreUnusable:
    """The error for a damaged file."""
    return StoreUnusable(f"{db.filename}: damaged: {what}")


# --- the end of a log -----------------------------------------------------------------------------


def probe(db: apsw.Connection, log: Log) -> None:
    """Check that a log ends where its row says, in its table and in the index of ids (StoreUnusable)."""
    table = log.table
    (highest,) = first_row(db, f"SELECT max(seq) FROM {table}")  # noqa: S608 - no values
    if highest is None or highest != log.last_seq:
        if log.pruned_seq < log.last_seq:
            raise damaged(
                db, f"log {log.number} says that its last seq is {log.last_seq}, it has {highest}{_RESTORED}"
            )
        if highest is None:
            return
    one = f"SELECT id FROM {table} NOT INDEXED WHERE seq = ?"  # noqa: S608 - no values
    sql = f"SELECT count(*) FROM {table} INDEXED BY {table}_id WHERE id = ({one})"  # noqa: S608 - no values
    (found,) = first_row(db, sql, (highest,))
    if found != 1:
        raise damaged(db, f"seq {highest} of log {log.number} is not in the index of ids{_RESTORED}")
