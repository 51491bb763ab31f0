"""The layout of a SQLite database of logs, version 1, and how events are put into it.

::

    logs                      one row per log: its number, its name, the highest seq ever stored, and what
                              tells it from all other logs, in this file and others
    events_1, events_2, …     one table per log, so that appends go to the end of one b-tree

``seq`` is the rowid of an events table. Every index therefore ends in it, and what an equality on an
index finds comes in the order of seq without sorting. Everything here runs in the worker thread of a
connection, on which ``apsw.Connection`` then is synchronous.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import apsw

from trio_eventlog._codec import (
    encoded_payload,
    persisted_event,
    scopes_of,
    sealed_agent_event,
    sealed_module_event,
)
from trio_eventlog._errors import StoreUnusable
from trio_eventlog._events import AgentEvent, PersistedEvent
from trio_eventlog._query import SCOPES

APPLICATION_ID: Final = 0x54454C47
"""Tells our databases from others: "TELG" in the header of the file."""

SCHEMA_VERSION: Final = 1
"""Of the layout written here; kept in ``PRAGMA user_version``."""

SYNCHRONOUS: Final = ("off", "normal", "full", "extra")

BUSY_TIMEOUT: Final = 2.5
"""Seconds that a statement waits for another connection's lock."""

_KEPT_WAL_BYTES: Final = 64 * 1024 * 1024

Row = tuple[str | int | None, ...]

_COLUMNS: Final = (
    "seq",
    "id",
    "timestamp_ms",
    "kind",
    "actor",
    "event_type",
    "member_id",
    *SCOPES,
    # Last: what stands behind a long value is reached only by walking through it.
    "payload",
)

READ: Final = "seq, id, timestamp_ms, kind, actor, event_type, member_id, payload"

_AGENT: Final = 0
_MODULE: Final = 1

# --- the layout -----------------------------------------------------------------------------------

_REGISTRY: Final = f"""
CREATE TABLE logs (
    log_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL,
    unique_id TEXT NOT NULL
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


def _events_table(log_id: int) -> str:
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
        " FROM pragma_application_id, pragma_user_version",
    )
    if application_id == 0 and version == 0 and tables == 0:
        return False
    if application_id != APPLICATION_ID:
        msg = f"{db.filename}: a SQLite database of another program, not an event log"
        raise StoreUnusable(msg)
    if version > SCHEMA_VERSION:
        msg = (
            f"{db.filename}: written by a newer trio_eventlog (layout {version}, this one knows"
            f" {SCHEMA_VERSION}): upgrade trio_eventlog to open it"
        )
        raise StoreUnusable(msg)
    return True


def harden(db: apsw.Connection) -> None:
    """Settings that every connection of ours has."""
    db.set_busy_timeout(round(BUSY_TIMEOUT * 1000))
    # The file may come from anywhere: nothing in its schema gets to run code.
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    # The program may have hooks for all connections of its own, which change what a row is.
    db.row_trace = None
    db.exec_trace = None


def prepare_writer(db: apsw.Connection, log: str, synchronous: str) -> int:
    """Make database and log ready for appends, creating what is not there.

    Safe while any number of other processes do the same.

    Returns:
      The number of the log.
    """
    harden(db)
    # Before anything is written: it may not be our file.
    is_initialised(db)
    _use_wal(db)
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute(f"PRAGMA journal_size_limit = {_KEPT_WAL_BYTES}")
    log_id = find_log(db, log)
    if log_id is not None:
        return log_id
    db.execute("BEGIN IMMEDIATE")
    try:
        if not is_initialised(db):
            db.execute(_REGISTRY)
        # One file has one appender per log, but others may have made this log and gone since.
        log_id = find_log(db, log)
        if log_id is None:
            db.execute(
                "INSERT INTO logs (name, last_seq, unique_id) VALUES (?, 0, lower(hex(randomblob(16))))",
                (log,),
            )
            log_id = db.last_insert_rowid()
            db.execute(_events_table(log_id))
        db.execute("COMMIT")
    except BaseException:
        roll_back(db)
        raise
    return log_id


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
        msg = f"{db.filename}: this file system does not carry SQLite's write-ahead log (mode {mode})"
        raise StoreUnusable(msg)


def find_log(db: apsw.Connection, log: str) -> int | None:
    """The number of a log; None if the database has no such log, or nothing yet."""
    if not is_initialised(db):
        return None
    row = db.execute("SELECT log_id FROM logs WHERE name = ?", (log,)).fetchone()
    return None if row is None else int(row[0])


def unique_id(db: apsw.Connection, log_id: int) -> str:
    """What tells the log from all other logs, in this file and others."""
    (found,) = first_row(db, "SELECT unique_id FROM logs WHERE log_id = ?", (log_id,))
    return str(found)


def log_names(db: apsw.Connection) -> list[str]:
    """The names of all logs, ascending."""
    if not is_initialised(db):
        return []
    return [name for (name,) in db.execute("SELECT name FROM logs ORDER BY name")]


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


# --- rows -----------------------------------------------------------------------------------------


def row_of(event: PersistedEvent) -> Row:
    """The row of a sealed event, in the order of the table's columns."""
    content = event.event
    encoded = encoded_payload(content)
    payload = encoded if isinstance(encoded, str) else encoded.decode()
    if isinstance(content, AgentEvent):
        kind, actor = _AGENT, content.agent_id
    else:
        kind, actor = _MODULE, content.module
    identity, mob_id, run_id, step_id = scopes_of(encoded)
    return (
        event.seq,
        event.id,
        event.timestamp_ms,
        kind,
        actor,
        content.event_type,
        event.member_id,
        identity,
        mob_id,
        run_id,
        step_id,
        None if payload == "null" else payload,
    )


def event_of(row: Any) -> PersistedEvent:
    """The event of a row as :data:`READ` selects it; its payload stays text until somebody looks."""
    seq, event_id, timestamp_ms, kind, actor, event_type, member_id, payload = row
    make = sealed_agent_event if kind == _AGENT else sealed_module_event
    encoded = "null" if payload is None else payload
    return persisted_event(event_id, seq, timestamp_ms, member_id, make(actor, event_type, encoded))


# Each statement is a wait for the interpreter, which beside a busy program takes longer than the insert: few
# large ones. SQLite takes 32,766 values, which is 2,730 rows; its driver keeps compiled statements only below
# 16 KB of text, which is 630 rows, so that sizes below that are few, too.
_CHUNKS: Final = (2048, 512, 64, 8, 1)

# While values are bound to a statement, no other thread runs Python.
_CHUNK_BYTES: Final = 1024 * 1024


def insert(db: apsw.Connection, log_id: int, events: Sequence[PersistedEvent]) -> int:
    """Insert sealed events except those whose id is held; within a transaction.

    Returns:
      How many went in.

    Raises:
      apsw.ConstraintError: an event with a new id has a seq that is taken. The transaction is spoilt.
    """
    before = db.total_changes()
    for chunk in _chunks(events):
        # Making rows and binding them each keep the loop waiting for a millisecond or more. It shall not wait
        # for both at once, nor for the rows of more than one statement.
        rows = [row_of(event) for event in chunk]
        time.sleep(0)
        insert_rows(db, log_id, rows)
    return db.total_changes() - before


def insert_rows(db: apsw.Connection, log_id: int, rows: Sequence[Row]) -> None:
    """Insert the rows of at most 2,048 events in one statement."""
    bindings: list[str | int | None] = []
    for row in rows:
        bindings += row
    db.execute(_insert_sql(log_id, len(rows)), bindings)


def _chunks(events: Sequence[PersistedEvent]) -> Iterator[Sequence[PersistedEvent]]:
    # Payloads are what is long.
    ends = [0, *accumulate(len(encoded_payload(event.event)) for event in events)]
    start = 0
    while start < len(events):
        size = next(
            size
            for size in _CHUNKS
            if size == 1 or (start + size <= len(events) and ends[start + size] - ends[start] <= _CHUNK_BYTES)
        )
        yield events[start : start + size]
        start += size


@lru_cache(maxsize=64)
def _insert_sql(log_id: int, size: int) -> str:
    row = f"({','.join('?' * len(_COLUMNS))})"
    # The conflict target matters: a known id is passed over, a taken seq under a new id is an error.
    return f"INSERT INTO {table_of(log_id)} VALUES {','.join([row] * size)} ON CONFLICT (id) DO NOTHING"  # noqa: S608 - no values


_LOOKUP: Final = 512


def held_seqs(db: apsw.Connection, log_id: int, ids: Sequence[str]) -> dict[str, int]:
    """Those of ``ids`` that are held, with their seqs."""
    table = table_of(log_id)
    found: dict[str, int] = {}
    for start in range(0, len(ids), _LOOKUP):
        some = ids[start : start + _LOOKUP]
        marks = ",".join("?" * len(some))
        found.update(db.execute(f"SELECT id, seq FROM {table} WHERE id IN ({marks})", some))  # noqa: S608 - no values
    return found


def taken_seqs(db: apsw.Connection, log_id: int, seqs: Sequence[int]) -> set[int]:
    """Those of ``seqs`` that are held."""
    table = table_of(log_id)
    found: set[int] = set()
    for start in range(0, len(seqs), _LOOKUP):
        some = seqs[start : start + _LOOKUP]
        marks = ",".join("?" * len(some))
        found.update(seq for (seq,) in db.execute(f"SELECT seq FROM {table} WHERE seq IN ({marks})", some))  # noqa: S608 - no values
    return found


def raise_last_seq(db: apsw.Connection, log_id: int, seq: int) -> None:
    """Note that ``seq`` was stored."""
    db.execute("UPDATE logs SET last_seq = ? WHERE log_id = ? AND last_seq < ?", (seq, log_id, seq))
    if not db.changes():
        # It is as high already, unless the log is gone.
        last_seq(db, log_id)


def last_seq(db: apsw.Connection, log_id: int) -> int:
    """The highest seq ever stored."""
    (seq,) = first_row(db, "SELECT last_seq FROM logs WHERE log_id = ?", (log_id,))
    if type(seq) is not int:
        raise damaged(db, f"the last seq of log {log_id} is {seq!r:.50}")
    return seq
