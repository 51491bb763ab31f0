"""The layout of a SQLite database of logs, version 1.

::

    logs                      one row per log: its number, its name, the highest seq ever stored, an id that
                              no other log has, the highest seq ever pruned
    events_1, events_2, …     one table per log, so that appends go to the end of one b-tree

``seq`` is the rowid of an events table. So every index ends in it, and an equality on an index finds events
in the order of seq without sorting. Everything here runs in the worker thread of a connection.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, cast

import apsw
import attrs

from trio_eventlog._model._errors import LogNotFound, StoreUnusable
from trio_eventlog._model._payload import SCOPES

APPLICATION_ID: Final = 0x54454C47
"""Marks a database of this library: "TELG" in the header of the file."""

SCHEMA_VERSION: Final = 1
"""Kept in ``PRAGMA user_version``."""

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
    """The statements that make the events table of a log."""
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
    """Whether the database has the layout of this library. False if it is still blank, as when just created.

    Raises:
      StoreUnusable: it belongs to another program, or is newer than this library.
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


def prepare_writer(db: apsw.Connection, log: str, synchronous: str) -> Log:
    """Make database and log ready for appends, creating what is not there.

    Safe while any number of other processes do the same.
    """
    # Before anything is written: the file may belong to another program.
    prepare_reader(db)
    _use_wal(db)
    # With SQLite's own "off" the write-ahead log would be checkpointed without a sync, and restarted: a loss
    # of power could then destroy what writers of other logs of the file have synced.
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
        # A log has one appender at a time, but an earlier one may just have made it.
        if find_log(db, log) is None:
            db.execute(
                "INSERT INTO logs (name, last_seq, unique_id) VALUES (?, 0, lower(hex(randomblob(16))))",
                (log,),
            )
            db.execute(events_table(db.last_insert_rowid()))
        return same_log(db, log, None)


def _use_wal(db: apsw.Connection) -> None:
    # SQLite does not call its busy handler for every lock that this change needs, so two programs that open a
    # new file at the same time could both fail.
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
    """No other log has it, in this file or others."""

    last_seq: Any
    """The highest seq ever stored; in a damaged file, anything."""


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
    row = db.execute("SELECT log_id, unique_id, last_seq FROM logs WHERE name = ?", (log,)).fetchone()
    if row is None:
        return None
    # Only a damaged file has other types: the table is strict.
    number, unique_id, last_seq = row
    if not isinstance(number, int) or not isinstance(unique_id, str):
        raise damaged(db, f"the row of log {log!r} is {row!r:.100}")
    if not isinstance(last_seq, int):
        raise damaged(db, f"the last seq of log {number} is {last_seq!r:.50}")
    return Log(number, unique_id, last_seq)


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
    found = find_log(db, log)
    if found is None:
        orphans = orphaned_tables(db)
        if orphans:
            raise damaged(db, f"log {log!r} is not there, and {orphans[0]} belongs to no log")
        raise LogNotFound(log, log_names(db), db.filename)
    return found


def orphaned_tables(db: apsw.Connection) -> list[str]:
    """Tables of events that belong to no log."""
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
    """Read in one transaction: all of it is of one moment."""
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
        # Only in a damaged file: the table is strict.
        if not isinstance(name, str):
            raise damaged(db, f"the name of a log is {name!r:.50}")
    return cast("list[str]", names)


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


# --- the highest seqs -----------------------------------------------------------------------------


def last_seq(db: apsw.Connection, log_id: int) -> int:
    """The highest seq ever stored."""
    (seq,) = first_row(db, "SELECT last_seq FROM logs WHERE log_id = ?", (log_id,))
    return checked_seq(db, log_id, "last", seq)


def checked_seq(db: apsw.Connection, log_id: int, which: str, seq: object) -> int:
    """A seq from the table of logs; StoreUnusable if it is not an integer."""
    if type(seq) is not int:
        raise damaged(db, f"the {which} seq of log {log_id} is {seq!r:.50}")
    return seq


def probe(db: apsw.Connection, log: Log) -> None:
    """Check that a log ends where its row says, in its table and in the index of ids (StoreUnusable)."""
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
    """Add the column for the highest pruned seq to files that were made before it; within a transaction."""
    if _notes_pruning(db):
        return
    logs = [log_id for (log_id,) in db.execute("SELECT log_id FROM logs")]
    db.execute(f"ALTER TABLE logs ADD COLUMN {PRUNED}")
    for log_id in logs:
        db.execute("UPDATE logs SET pruned_seq = ? WHERE log_id = ?", (_before_first(db, log_id), log_id))


def _before_first(db: apsw.Connection, log_id: int) -> int:
    # Whether what is missing there was pruned or never stored is not known.
    (first,) = first_row(db, f"SELECT min(seq) FROM {table_of(log_id)}")  # noqa: S608 - no values
    return last_seq(db, log_id) if first is None else max(0, first - 1)


def pruned_seq(db: apsw.Connection, log_id: int) -> int:
    """The highest seq ever pruned; 0 if none was."""
    if not _notes_pruning(db):
        return _before_first(db, log_id)
    (seq,) = first_row(db, "SELECT pruned_seq FROM logs WHERE log_id = ?", (log_id,))
    return checked_seq(db, log_id, "pruned", seq)


# --- is it our layout? ----------------------------------------------------------------------------

# Excludes most of what is not ours; the rest is sorted out below.
_ENTRIES: Final = """
SELECT type, name, tbl_name, sql FROM sqlite_schema
WHERE lower(tbl_name) = 'logs' OR lower(name) = 'logs'
OR lower(tbl_name) GLOB 'events_[0-9]*' OR lower(name) GLOB 'events_[0-9]*'
"""

_STATEMENT: Final = re.compile(r"CREATE (?:UNIQUE )?(TABLE|INDEX) (\w+)[^;]*")

_OF_A_LOG: Final = re.compile(r"(events_(?:0|[1-9][0-9]*))(_[a-z_]+)?")

_ANY: Final = table_of(0)
"""Stands for the table of a log."""

_SPACE: Final = re.compile(r"\s*([(),])\s*|\s+")

_Entry = tuple[object, object, object]
"""Type, table and SQL."""


def check_layout(db: apsw.Connection) -> None:
    """Check that tables and indexes with our names are those that we make, and nothing else acts on them.

    A file that came from elsewhere may have our names for something else: a view, a generated column or the
    expression of an index can take all memory, or all time, when an event is read or written. Tables and
    views with other names are ignored. What is missing is found when it is needed.

    Raises:
      StoreUnusable: they are not.
    """
    for kind, name, table, sql in db.execute(_ENTRIES):
        made = _made(str(name))
        if made is None and _made(str(table)) is None:
            continue
        if made is None or ((kind, table, sql) not in made and (kind, table, _normal(sql)) not in made):
            where = "" if name == table else f" on {table!a:.100}"
            raise StoreUnusable(
                f"{db.filename}: the {kind} {name!a:.100}{where} is not what trio_eventlog makes: the file"
                " comes from elsewhere or was changed, and may not be safe to use"
            )


def _made(name: str) -> Collection[_Entry] | None:
    """What we make under a name, whose case SQLite ignores; None if nothing."""
    name = name.lower()
    found = _OF_A_LOG.fullmatch(name)
    if found is None:
        return _templates().get(name)
    made = _templates().get(_ANY + (found[2] or ""))
    return made and [(kind, found[1], str(sql).replace(_ANY, found[1])) for kind, _, sql in made]


@cache
def _templates() -> dict[str, Collection[_Entry]]:
    # SQLite makes this one by itself, because names are unique.
    made: dict[str, Collection[_Entry]] = {"sqlite_autoindex_logs_1": [("index", "logs", None)]}
    for table, script in (("logs", REGISTRY), (_ANY, events_table(0))):
        for statement in _STATEMENT.finditer(script):
            kind, sql = statement[1].lower(), statement[0].strip()
            made[statement[2]] = [(kind, table, sql), (kind, table, _normal(sql))]
    # Before there was a column for what was pruned.
    older = str(_normal(REGISTRY)).partition(";")[0].replace(f",{PRUNED}", "")
    made["logs"] = [*made["logs"], ("table", "logs", older)]
    return made


def _normal(sql: object) -> object:
    """SQL without superfluous space. Ours has no quotes, in which space would matter."""
    return sql if sql is None else _SPACE.sub(lambda space: space[1] or " ", str(sql)).strip()
