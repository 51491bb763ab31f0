"""The layout of a SQLite database of logs, version 1, and how events are put into it.

::

    logs                      one row per log: its number, its name, the highest seq ever stored, what tells
                              it from all other logs, in this file and others, the highest seq ever pruned
    events_1, events_2, …     one table per log, so that appends go to the end of one b-tree

``seq`` is the rowid of an events table. Every index therefore ends in it, and what an equality on an
index finds comes in the order of seq without sorting. Everything here runs in the worker thread of a
connection, on which ``apsw.Connection`` then is synchronous.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import apsw
import attrs

from trio_eventlog._model._errors import LogNotFound, StoreUnusable
from trio_eventlog._model._payload import SCOPES

APPLICATION_ID: Final = 0x54454C47
"""Tells our databases from others: "TELG" in the header of the file."""

SCHEMA_VERSION: Final = 1
"""Of the layout written here; kept in ``PRAGMA user_version``."""

SYNCHRONOUS: Final = ("off", "normal", "full", "extra")

BUSY_TIMEOUT: Final = 2.5
"""Seconds that a statement waits for another connection's lock."""

_KEPT_WAL_BYTES: Final = 4 * 1024 * 1024

# --- the layout -----------------------------------------------------------------------------------

PRUNED: Final = "pruned_seq INTEGER NOT NULL DEFAULT 0"

REGISTRY: Final = f"""
CREATE TABLE logs (
    log_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL,
    unique_id TEXT NOT NULL,
    {PRUNED}
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


def events_table(log_id: int) -> str:
    """What makes the events table of a log."""
    table = table_of(log_id)
    optional = "\n".join(
        f"CREATE INDEX {table}_{column} ON {table} ({column}) WHERE {column} IS NOT NULL;"
        for column in ("member_id", *SCOPES)
    )
    return f"""
CREATE TABLE {table} (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    actor TEXT NOT NULL,
    event_type TEXT NOT NULL,
    member_id TEXT,
    identity TEXT,
    mob_id TEXT,
    run_id TEXT,
    step_id TEXT,
    payload TEXT
) STRICT;
CREATE UNIQUE INDEX {table}_id ON {table} (id);
CREATE INDEX {table}_event_type ON {table} (event_type);
CREATE INDEX {table}_timestamp_ms ON {table} (timestamp_ms);
{optional}
"""


def table_of(log_id: int) -> str:
    """The name of the events table of a log."""
    return f"events_{log_id:d}"


def is_initialised(db: apsw.Connection) -> bool:
    """Whether the database has our layout. False if it is still blank, as right after its creation.

    Raises:
      StoreUnusable: it is somebody else's, or newer than this library.
    """
    application_id, version, tables = first_row(
        db,
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
        # With parentheses, so that a table or view of that name is not taken for it.
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
    return True


def harden(db: apsw.Connection) -> None:
    """Settings that every connection of ours has."""
    db.set_busy_timeout(round(BUSY_TIMEOUT * 1000))
    # The file may come from anywhere: nothing in its schema gets to run code.
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)
    # The program may have hooks for all connections of its own, which change what a row is.
    db.row_trace = None
    db.exec_trace = None
    db.execute("PRAGMA cell_size_check = ON")


def prepare_writer(db: apsw.Connection, log: str, synchronous: str) -> Log:
    """Make database and log ready for appends, creating what is not there.

    Safe while any number of other processes do the same.
    """
    harden(db)
    # Before anything is written: it may not be our file.
    is_initialised(db)
    _use_wal(db)
    # With SQLite's own "off" the write-ahead log would be folded into the file without a sync, and be begun
    # anew: a loss of power could then take what writers of other logs of the file know to be on the disk.
    db.execute(f"PRAGMA synchronous = {'normal' if synchronous == 'off' else synchronous}")
    db.execute(f"PRAGMA journal_size_limit = {_KEPT_WAL_BYTES}")
    found = find_log(db, log)
    if found is not None and _notes_pruning(db):
        return found
    with transaction(db):
        if is_initialised(db):
            note_pruning(db)
        else:
            db.execute(REGISTRY)
        # One file has one appender per log, but others may have made this log and gone since.
        if find_log(db, log) is None:
            db.execute(
                "INSERT INTO logs (name, last_seq, unique_id) VALUES (?, 0, lower(hex(randomblob(16))))",
                (log,),
            )
            db.execute(events_table(db.last_insert_rowid()))
        return same_log(db, log, None)


def _use_wal(db: apsw.Connection) -> None:
    # SQLite does not call its busy handler for every lock that this change needs, so that two programs
    # which open a new file together would fail each other.
    give_up = time.monotonic() + BUSY_TIMEOUT
    mode = None
    while mode is None:
        try:
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

    unique_id: str
    """What tells the log from all other logs, in this file and others."""

    last_seq: Any
    """The highest seq ever stored; in a damaged file, anything."""


def uses_wal(db: apsw.Connection) -> bool:
    """Whether the connection uses a write-ahead log, and so keeps a lock on the database.

    A file that was made by ``VACUUM INTO`` has none until somebody opens it for writing.
    """
    (mode,) = first_row(db, "PRAGMA journal_mode")
    return bool(mode == "wal")


def find_log(db: apsw.Connection, log: str) -> Log | None:
    """What the database says of a log; None if it has no such log, or nothing yet."""
    if not is_initialised(db):
        return None
    return _find_log(db, log)


def _find_log(db: apsw.Connection, log: str) -> Log | None:
    row = db.execute("SELECT log_id, unique_id, last_seq FROM logs WHERE name = ?", (log,)).fetchone()
    if row is None:
        return None
    # Only a damaged file has others: the table is strict.
    number, unique_id, last_seq = row
    if not isinstance(number, int) or not isinstance(unique_id, str):
        raise damaged(db, f"the row of log {log!r} is {row!r:.100}")
    if not isinstance(last_seq, int):
        raise damaged(db, f"the last seq of log {number} is {last_seq!r:.50}")
    return Log(number, unique_id, last_seq)


def same_log(db: apsw.Connection, log: str, unique_id: str | None) -> Log:
    """What the database says of a log that was there before.

    Never remembered: another process may put the content of another file in the place of this one.

    Raises:
      StoreUnusable: it is not there any more, or is another log of that name.
    """
    try:
        found = _find_log(db, log)
    except apsw.SQLError:
        check_layout(db, log)
        raise
    if found is None:
        raise damaged(db, f"a row is missing: log {log!r} is not there any more{_RESTORED}")
    if unique_id not in (None, found.unique_id):
        raise StoreUnusable(f"{db.filename}: log {log!r} is another one than before{_RESTORED}; open it anew")
    return found


def check_layout(db: apsw.Connection, log: str) -> None:
    """See that a database that has a log still has our layout.

    Raises:
      StoreUnusable: it does not.
    """
    if not is_initialised(db):
        raise damaged(db, f"it is blank, and had log {log!r} before{_RESTORED}")


_RESTORED: Final = " (was the file restored from a backup while it was open?)"


def require_log(db: apsw.Connection, log: str) -> Log:
    """What the database says of a log that is to be read.

    Raises:
      LogNotFound: it is not there.
      StoreUnusable: there is a log that has lost its name, which may be this one.
    """
    found = find_log(db, log)
    if found is None:
        orphans = orphaned_tables(db)
        if orphans:
            raise damaged(db, f"log {log!r} is not there, and {orphans[0]} belongs to no log")
        raise LogNotFound(log, log_names(db), db.filename)
    return found


def orphaned_tables(db: apsw.Connection) -> list[str]:
    """Tables of events of which no log says that they are its own."""
    if not is_initialised(db):
        return []
    known = {table_of(log_id) for (log_id,) in db.execute("SELECT log_id FROM logs NOT INDEXED")}
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
    """Read in one transaction, and so what the file held at one moment."""
    roll_back(db)
    db.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(db)


def log_names(db: apsw.Connection) -> list[str]:
    """The names of all logs, ascending."""
    if not is_initialised(db):
        return []
    names: list[object] = [name for (name,) in db.execute("SELECT name FROM logs ORDER BY name")]
    for name in names:
        # Only a damaged file has that: the table is strict.
        if not isinstance(name, str):
            raise damaged(db, f"the name of a log is {name!r:.50}")
    return cast("list[str]", names)


def data_version(db: apsw.Connection) -> int:
    """A number that is another one after another connection has written to the file."""
    (version,) = first_row(db, "PRAGMA data_version")
    return int(version)


def roll_back(db: apsw.Connection) -> None:
    """End a transaction that is still open. SQLite may have ended it by itself."""
    if db.in_transaction:
        db.execute("ROLLBACK")


def first_row(db: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> Any:
    """The first row of a statement that always has one.

    Raises:
      StoreUnusable: it has none, in a damaged file.
    """
    rows = db.execute(sql, bindings).fetchall()
    if not rows:
        raise damaged(db, "a row is missing")
    return rows[0]


def damaged(db: apsw.Connection, what: str) -> StoreUnusable:
    """The error for a file that does not hold what it must."""
    return StoreUnusable(f"{db.filename}: damaged: {what}")


# --- the highest seqs -----------------------------------------------------------------------------


def raise_last_seq(db: apsw.Connection, log: Log, seq: int) -> None:
    """Note that ``seq`` was stored."""
    db.execute("UPDATE logs SET last_seq = ? WHERE log_id = ? AND last_seq < ?", (seq, log.number, seq))


def last_seq(db: apsw.Connection, log_id: int) -> int:
    """The highest seq ever stored."""
    (seq,) = first_row(db, "SELECT last_seq FROM logs WHERE log_id = ?", (log_id,))
    return checked_seq(db, log_id, "last", seq)


def checked_seq(db: apsw.Connection, log_id: int, which: str, seq: object) -> int:
    """A seq that the table of logs has.

    Raises:
      StoreUnusable: it is none.
    """
    if type(seq) is not int:
        raise damaged(db, f"the {which} seq of log {log_id} is {seq!r:.50}")
    return seq


def probe(db: apsw.Connection, log: Log) -> None:
    """See that a log ends where it says, in its table and in the index of ids; within a transaction.

    Raises:
      StoreUnusable: it does not.
    """
    table = table_of(log.number)
    (highest,) = first_row(db, f"SELECT max(seq) FROM {table}")  # noqa: S608 - no values
    if highest is None or highest != log.last_seq:
        if pruned_seq(db, log.number) < log.last_seq:
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


# --- what was pruned ------------------------------------------------------------------------------


def _notes_pruning(db: apsw.Connection) -> bool:
    (found,) = first_row(db, "SELECT count(*) FROM pragma_table_info('logs') WHERE name = 'pruned_seq'")
    return bool(found)


def note_pruning(db: apsw.Connection) -> None:
    """See that the table of logs has a place for the highest seq that was pruned; within a transaction.

    Files from before it had one are brought up to date by whoever writes to them first.
    """
    if _notes_pruning(db):
        return
    logs = [log_id for (log_id,) in db.execute("SELECT log_id FROM logs")]
    db.execute(f"ALTER TABLE logs ADD COLUMN {PRUNED}")
    for log_id in logs:
        db.execute("UPDATE logs SET pruned_seq = ? WHERE log_id = ?", (_before_first(db, log_id), log_id))


def _before_first(db: apsw.Connection, log_id: int) -> int:
    # Whether what is missing there was pruned or never stored, nobody knows any more.
    (first,) = first_row(db, f"SELECT min(seq) FROM {table_of(log_id)}")  # noqa: S608 - no values
    return last_seq(db, log_id) if first is None else max(0, first - 1)


def pruned_seq(db: apsw.Connection, log_id: int) -> int:
    """The highest seq ever pruned; 0 if none was."""
    if not _notes_pruning(db):
        return _before_first(db, log_id)
    (seq,) = first_row(db, "SELECT pruned_seq FROM logs WHERE log_id = ?", (log_id,))
    return checked_seq(db, log_id, "pruned", seq)
