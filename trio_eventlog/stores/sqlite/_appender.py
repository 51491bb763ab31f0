"""What a writer does, in the thread of its connection."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from typing import Any, Final, TypeAlias, cast

import apsw

from trio_eventlog._lock_file import FileLock
from trio_eventlog._model._errors import EventRejected, SequenceConflict, StoreError, StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._sealed import encoded_payload
from trio_eventlog.stores._common._columns import COLUMNS, columns_of
from trio_eventlog.stores._common._conflicts import conflicting_seqs, duplicate_seqs, new_seqs
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite._checksums import checksum, values_of
from trio_eventlog.stores.sqlite._counts import CountKeeper
from trio_eventlog.stores.sqlite._files import Content, Place, WriteAheadLog
from trio_eventlog.stores.sqlite._layout import table_of
from trio_eventlog.stores.sqlite._schema import BATCHES
from trio_eventlog.stores.sqlite._select import READ


class Appender:
    """Appends to one log, and notices when its files are not what they were.

    A file can be put back to an older state at any moment: moved over, copied into, or restored by SQLite's
    own backup. So whatever is remembered about it is compared with it in the transaction of each append.
    """

    unique_id: str = ""
    """Identifies the log among all others; set by :meth:`prepare`."""

    def __init__(
        self, place: Place, lock: FileLock, log: str, synchronous: str, index: tuple[str, ...] = ()
    ) -> None:
        self._place = place
        self._lock = lock
        self._log = log
        self._synchronous = synchronous
        self._index = index
        self._synced = survives(synchronous) == "power"
        self._content: Content | None = None
        self.acknowledged: int = 0
        """The log's highest seq is at least this, unless it went back and an append has reported that."""
        self._version: int | None = None
        self._wal = WriteAheadLog(place.path)
        self._counts = CountKeeper()
        self._core: Any = None

    def prepare(self, db: apsw.Connection) -> None:
        """Make database and log ready for appends, creating what is not there."""
        found = schema.prepare_writer(db, self._log, self._synchronous, self._index)
        self._core = schema.load_core(db)
        place = self._place.check()
        self.unique_id = found.unique_id
        self.acknowledged = found.last_seq
        self._content = Content(self._place.path, place)
        # Earlier processes may have written more than they synced; it counts as stored from here on. And what
        # a log is known by must not be lost while its spill file or its lock file names it.
        if self._synced or not self.acknowledged:
            self._content.sync()
        self._counts.begin(db, found)
        # So that the next writer knows that an empty file is not a new one.
        self._lock.note(f"log {found.unique_id}")

    def end(self) -> None:
        """Close what else is open, and let the next writer in."""
        try:
            if self._content is not None:
                self._content.close()
        finally:
            self._lock.release()

    def last_seq(self, db: apsw.Connection) -> int:
        """The highest seq ever stored."""
        self._place.check()
        with schema.snapshot(db):
            schema.check_not_blank(db, self._log)
            return schema.same_log(db, self._log, self.unique_id).last_seq

    def sync(self, db: apsw.Connection) -> None:
        """Make everything that was appended survive a loss of power."""
        if (last_seq := self.last_seq(db)) < self.acknowledged:
            # The next append reports it: what is there is not what was appended.
            raise StoreError(str(StoreWentBack(last_seq, self.acknowledged)))
        cast("Content", self._content).sync()
        # What is in a file that can no longer be found survives nothing.
        self._place.check()

    def append(self, db: apsw.Connection, events: Sequence[PersistedEvent]) -> Collection[int]:
        """See :meth:`SqliteStore.append_batch`."""
        content = cast("Content", self._content)
        place = self._place.check()
        # Should an earlier rollback have failed, its transaction is still open.
        schema.roll_back(db)
        if is_changed := content.has_changed(place):
            # Drop SQLite's cache: it relies on a number in shared memory, which only its own writes raise.
            db.execute("PRAGMA shrink_memory")
        changes = db.total_changes()
        log: schema.Log | None = None
        try:
            db.execute("BEGIN IMMEDIATE")
            content.check_wal()
            log = schema.same_log(db, self._log, self.unique_id)
            if db.data_version() != self._version:
                # Another connection has written.
                schema.check_not_blank(db, self._log)
            self._check_log(log)
            if is_changed:
                schema.probe(db, log)
            inserted = insert(db, log, events, self._core)
            duplicates: Collection[int] = ()
            stored = events
            if inserted == len(events):
                highest = max(map(_SEQ, events))
            else:
                held = checked_held_seqs(db, log, [event.id for event in events])
                if not all(event.id in held for event in events):
                    raise schema.damaged(db, "events were neither inserted nor there before")  # noqa: TRY301 - see below
                duplicates = duplicate_seqs(events, held)
                highest = max(held.values())
                # Of those with one id, the first.
                by_id = {event.id: event for event in reversed(events) if held[event.id] == event.seq}
                stored = list(by_id.values())
            self._counts.count(db, log, stored, inserted, is_same=not is_changed)
            log.note(db, last_seq=highest)
            db.execute("COMMIT")
        except BaseException as exc:
            schema.roll_back(db)
            if log is not None and isinstance(exc, apsw.ConstraintError):
                _raise_conflict(db, log, events, exc)
            if log is not None and isinstance(exc, apsw.TooBigError):
                _raise_rejected(db, log, events, exc)
            if isinstance(exc, apsw.IOError):
                content.raise_truncated(exc)
            raise
        self._counts.keep()
        self._version = db.data_version()
        self._wal.keep_small(db)
        # What went into a file that can no longer be found is not stored.
        content.note(self._place.check(), written=db.total_changes() != changes)
        if inserted < len(events) and self._synced:
            # Another process may have written the others without a sync, and SQLite syncs only what is new.
            content.sync()
            self._place.check()
        self.acknowledged = max(self.acknowledged, highest)
        return duplicates

    def _check_log(self, log: schema.Log) -> None:
        if log.last_seq < self.acknowledged:
            raise StoreWentBack(log.last_seq, self.acknowledged)
        self.acknowledged = log.last_seq


def survives(synchronous: str) -> str:
    """What an append that has returned survives, with a setting of ``synchronous``."""
    return "power" if synchronous in ("full", "extra") else "process"


def _raise_conflict(
    db: apsw.Connection, log: schema.Log, events: Sequence[PersistedEvent], exc: apsw.ConstraintError
) -> None:
    seqs = new_seqs(events, held_seqs(db, log, [event.id for event in events]))
    conflicts = conflicting_seqs(seqs, taken_seqs(db, log, seqs))
    if conflicts:
        raise SequenceConflict(conflicts) from exc


def _raise_rejected(
    db: apsw.Connection,
    log: schema.Log,
    events: Sequence[PersistedEvent],
    exc: apsw.TooBigError,
) -> None:
    too_big: list[PersistedEvent] = []
    db.execute("BEGIN IMMEDIATE")
    try:
        for event in events:
            try:
                insert(db, log, [event])
            except apsw.TooBigError:
                too_big.append(event)
            except apsw.ConstraintError:
                # Small enough to get as far as its seq.
                pass
    finally:
        schema.roll_back(db)
    if too_big:
        raise EventRejected(too_big, "larger than SQLite can hold") from exc


# --- events as rows --------------------------------------------------------------------------------


_SEQ: Final = attrgetter("seq")

Row: TypeAlias = tuple[str | int | None, ...]


def row_of(event: PersistedEvent, seed: int) -> Row:
    """The row of a sealed event, in the order of the table's columns. ``seed`` is that of the log."""
    # One by one, which is a quarter faster than slices.
    columns = columns_of(event)
    seq, event_id, timestamp_ms, kind, actor, event_type, member, identity, mob, run, step, payload = columns
    text = payload.decode() if isinstance(payload, bytes) else payload
    found = checksum((seq, event_id, timestamp_ms, kind, actor, event_type, member, text), seed)
    # The text comes last: SQLite reaches what is behind a long value only by walking through it.
    return seq, event_id, timestamp_ms, kind, actor, event_type, member, identity, mob, run, step, found, text


# Few large statements: each waits for the interpreter, which in a busy program takes longer than the insert.
# SQLite takes 32,766 values, which is 2,730 rows; its driver caches compiled statements only below 16 KB of
# text, which is 630 rows, so there are few sizes below that, too.
_CHUNKS: Final = (2048, 512, 64, 8, 1)

# While values are bound to a statement, no other thread runs Python.
_CHUNK_BYTES: Final = 1024 * 1024


def insert(db: apsw.Connection, log: schema.Log, events: Sequence[PersistedEvent], core: Any = None) -> int:
    """Insert sealed events except those whose id is held; within a transaction. Returns how many went in.

    ``core`` is what :func:`load_core` returned for the connection.

    Raises apsw.ConstraintError if an event with a new id has a seq that is taken; the transaction must be
    rolled back then.
    """
    before = db.total_changes()
    seed = log.seed
    if core is not None and (batch := core.make_batch(events, seed)) is not None:
        # SQLite reads the events in place, without the interpreter, as long as the batch is there.
        insert_batch(db, log.number, batch)
        return db.total_changes() - before
    for chunk in _chunks(events):
        # Making rows and binding them each keep the event loop waiting for a millisecond or more. It must not
        # wait for both at once, nor for the rows of more than one statement.
        rows = [row_of(event, seed) for event in chunk]
        time.sleep(0)
        insert_rows(db, log.number, rows)
    return db.total_changes() - before


def insert_batch(db: apsw.Connection, log_id: int, batch: Any) -> None:
    """Insert a batch of the core in one statement."""
    db.execute(_batch_sql(log_id), (batch.number,))


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
    row = f"({','.join('?' * (len(COLUMNS) + 1))})"
    # The conflict target matters: a known id is skipped, a taken seq under a new id is an error.
    return f"INSERT INTO {table_of(log_id)} VALUES {','.join([row] * size)} ON CONFLICT (id) DO NOTHING"  # noqa: S608 - no values


@lru_cache(maxsize=64)
def _batch_sql(log_id: int) -> str:
    columns = ", ".join((*COLUMNS[:-1], "checksum", COLUMNS[-1]))
    table = f"INSERT INTO {table_of(log_id)} SELECT {columns} FROM {BATCHES}(?)"  # noqa: S608 - no values
    # SQLite cannot tell ON CONFLICT from the ON of a join otherwise.
    return f"{table} WHERE true ON CONFLICT (id) DO NOTHING"


_LOOKUP: Final = 512


def held_seqs(db: apsw.Connection, log: schema.Log, ids: Sequence[str]) -> dict[str, int]:
    """Those of ``ids`` that are held, with their seqs."""
    return dict(cast("Iterator[tuple[str, int]]", _look_up(db, log, "id, seq", "id", ids)))


def checked_held_seqs(db: apsw.Connection, log: schema.Log, ids: Sequence[str]) -> dict[str, int]:
    """The same, checked: what is taken for held is not stored again.

    Raises:
      StoreUnusable: an event is in the index of ids and not in the table, or is damaged there.
    """
    held = held_seqs(db, log, ids)
    seqs = sorted(held.values())
    values = values_of(list(_look_up(db, log, READ, "seq", seqs)), log.seed)
    if values is None or {event_id: seq for seq, event_id, *_ in values} != held:
        raise schema.damaged(db, f"events of log {log.number} are not what the index of ids says")
    return held


def taken_seqs(db: apsw.Connection, log: schema.Log, seqs: Sequence[int]) -> set[int]:
    """Those of ``seqs`` that are held."""
    return {seq for (seq,) in _look_up(db, log, "seq", "seq", seqs)}


def _look_up(
    db: apsw.Connection, log: schema.Log, what: str, column: str, values: Sequence[str] | Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(values), _LOOKUP):
        some = values[start : start + _LOOKUP]
        marks = ",".join("?" * len(some))
        sql = f"SELECT {what} FROM {log.table} WHERE {column} IN ({marks})"  # noqa: S608 - no values
        yield from db.execute(f"{sql} ORDER BY seq" if column == "seq" else sql, some)
