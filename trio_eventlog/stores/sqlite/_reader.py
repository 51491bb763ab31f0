"""What a store reads, checks and prunes, in the thread of a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import apsw
import attrs

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._payload import SCOPES
from trio_eventlog._model._reports import StoreDescription
from trio_eventlog.stores._common._columns import event_of
from trio_eventlog.stores._common._prune import CHUNK_EVENTS, PrunePlan, PruneProgress
from trio_eventlog.stores._common._verify import Verifier, problem_of_row
from trio_eventlog.stores.sqlite import _files as files
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _select as queries
from trio_eventlog.stores.sqlite._checksums import checksum
from trio_eventlog.stores.sqlite._counts import find_wrong, forget

T = TypeVar("T")


@attrs.define(eq=False)
class LogReader:
    """Reads one log. Checks each time that it is still that log, in the file that was opened."""

    place: files.Place
    log: str
    unique_id: str
    has_writer: bool
    """Whether the store also writes to the log. Then its writer checks the files, and everything that it has
    stored may be read."""

    _version: int | None = None

    def read(self, db: apsw.Connection, job: Callable[[apsw.Connection, schema.Log], T]) -> T:
        """Run ``job`` with the row of the log, in one transaction."""
        with schema.snapshot(db):
            log = schema.same_log(db, self.log, self.unique_id)
            version = db.data_version()
            if version != self._version:
                # Another connection has written.
                schema.check_not_blank(db, self.log)
                self._version = version
            result = job(db, log)
        self._check_place(db)
        return result

    def _check_place(self, db: apsw.Connection) -> None:
        if not self.has_writer:
            self.place.check(side_files=schema.uses_wal(db))

    def log_names(self, db: apsw.Connection) -> list[str]:
        """The names of all logs of the file."""
        names = schema.log_names(db)
        self._check_place(db)
        return names

    def data_version(self, db: apsw.Connection) -> int | None:
        """A number that changes when another connection writes; None if the file is not there any more."""
        try:
            self._check_place(db)
        except StoreUnusable:
            return None
        return schema.data_version(db)

    def describe(self, db: apsw.Connection, log: schema.Log, top: int) -> StoreDescription:
        """See :meth:`SqliteStore.describe`."""
        path = self.place.path
        wal_bytes = files.size_of(f"{path}-wal")
        return queries.describe(db, log, top, files.size_of(path) + wal_bytes, wal_bytes)


# --- verify ---------------------------------------------------------------------------------------

_PAGE_SIZE: Final = 1000
"""Events to check in one job; about 50 ms."""

# As bytes: in a damaged file it may not be text.
_COLUMNS: Final = ", ".join(
    ["seq", "timestamp_ms", "kind", "checksum"]
    + [f"CAST({name} AS BLOB)" for name in ("id", "actor", "event_type", "member_id", "payload", *SCOPES)]
)

_INDEXED: Final = ("id", "event_type", "timestamp_ms", "member_id", *SCOPES)


@attrs.frozen
class LogCheck:
    """The checks of one log, each for a job of its own; what they find is in ``verifier``."""

    verifier: Verifier

    def _guarded(self, what: Callable[[], str], work: Callable[[], None]) -> bool:
        """Whether ``work`` came to its end."""
        try:
            work()
        except (apsw.CorruptError, apsw.SQLError, apsw.NotADBError, UnicodeDecodeError) as exc:
            self.verifier.add_problem(f"{what()}: {exc}")
            return False
        return True

    def check_structure(self, db: apsw.Connection, log: schema.Log) -> bool:
        """SQLite's own check: pages, types, each index against its table. Returns whether there is a log."""
        self._guarded(lambda: "logs", lambda: self._check_registry(db))
        table = log.table
        is_there = self._guarded(lambda: table, lambda: self._check_layout(db, table))
        if is_there:
            self._guarded(lambda: table, lambda: self._check_table(db, table))
        return is_there

    def _check_registry(self, db: apsw.Connection) -> None:
        self._check_table(db, "logs")
        # Otherwise a log whose row is gone would look as if it had never been there.
        for table in schema.orphaned_tables(db):
            self.verifier.add_problem(f"{table}: the log that it belongs to is gone")

    def _check_layout(self, db: apsw.Connection, table: str) -> None:
        if not db.table_exists("main", table):
            raise apsw.CorruptError("the table is missing")
        unique = dict(db.execute('SELECT name, "unique" FROM pragma_index_list(?)', (table,)))
        for column in _INDEXED:
            index = f"{table}_{column}"
            if index not in unique:
                self.verifier.add_problem(f"{index}: the index is missing")
            elif column == "id" and not unique[index]:
                self.verifier.add_problem(f"{index}: the index lets an id stand twice")

    def _check_table(self, db: apsw.Connection, table: str) -> None:
        for (line,) in db.execute(f"PRAGMA integrity_check('{table}')"):
            if line != "ok":
                self.verifier.add_problem(" ".join(str(line).split()))

    def check_page(self, db: apsw.Connection, log: schema.Log) -> int | None:
        """Check the next events. Returns the last seq that was checked, None at the end."""
        gaps = self.verifier.gaps
        before = gaps.last_seq
        # There is no way past damage: the rest is only reached through the page that is damaged.
        is_whole = self._guarded(
            lambda: f"events after seq {gaps.last_seq}",
            lambda: self._check_page(db, log),
        )
        return gaps.last_seq if is_whole and gaps.last_seq != before else None

    def _check_page(self, db: apsw.Connection, log: schema.Log) -> None:
        # Not from 0 on: the seq itself may be wrong. This is the lowest integer.
        after = -(2**63) if self.verifier.gaps.last_seq is None else self.verifier.gaps.last_seq
        sql = f"SELECT {_COLUMNS} FROM {log.table} NOT INDEXED WHERE seq > ? ORDER BY seq LIMIT {_PAGE_SIZE}"  # noqa: S608 - no values
        for row in db.execute(sql, (after,)):
            self._check_row(row, log.seed)

    def _check_row(self, row: Any, seed: int) -> None:
        seq = row[0]
        previous = self.verifier.gaps.last_seq
        if previous is not None and seq <= previous:
            self.verifier.add_problem(f"comes after seq {previous}", seq)
        self.verifier.add_event(seq, _problem(row, seed))

    def check_end(self, db: apsw.Connection, log: schema.Log) -> None:
        """Check that each id is there once, and that the row of the log agrees with its events."""
        self._guarded(lambda: "ids", lambda: self._check_ids(db, log.table))
        self._guarded(lambda: "logs", lambda: self._check_marks(log))

    def _check_ids(self, db: apsw.Connection, table: str) -> None:
        # Without their index, which may be what is damaged.
        counts = f"SELECT CAST(id AS BLOB), count(*) AS times, max(seq) FROM {table} NOT INDEXED GROUP BY id"  # noqa: S608 - no values
        sql = f"{counts} HAVING times > 1"
        for event_id, times, seq in db.execute(sql):
            # A damaged file can have NULL where the layout forbids it.
            shown = None if event_id is None else event_id.decode(errors="backslashreplace")
            self.verifier.add_problem(f"id {shown!a} stands {times} times", seq)

    def _check_marks(self, log: schema.Log) -> None:
        last = self.verifier.gaps.last_seq
        # Read after the events: an append that came in between has raised it.
        if last is not None and last > log.last_seq:
            self.verifier.add_problem(f"the log says that its highest seq is {log.last_seq}", last)
        if not 0 <= log.pruned_seq <= log.last_seq:
            self.verifier.add_problem(
                f"the log says that seq {log.pruned_seq} was pruned, and its highest is {log.last_seq}"
            )


def _problem(row: Any, seed: int) -> str | None:
    """What keeps a row from being the event that was stored there."""
    seq, timestamp_ms, kind, found, *raw = row
    values: list[Any] = []

    def decode() -> PersistedEvent:
        event_id, actor, event_type, member_id, payload = map(_text, raw[:5])
        values[:] = (seq, event_id, timestamp_ms, kind, actor, event_type, member_id, payload)
        return event_of((seq, event_id, timestamp_ms, kind, actor, event_type, member_id, payload))

    problem = problem_of_row(seq, kind, decode, raw[5:])
    if problem is None and checksum(tuple(values), seed) != found:
        return "is not what was stored: its checksum is another"
    return problem


def _text(value: bytes | None) -> Any:
    # A damaged file can have None where the layout forbids it.
    return None if value is None else value.decode()


_CHUNKS: Final = 40
"""Chunks of counts to check in one job."""


@attrs.define
class CountCheck:
    """Checks the counts of a log; what it finds is in ``verifier``."""

    verifier: Verifier
    _checked_seq: int = 0

    def check_page(self, db: apsw.Connection, log: schema.Log) -> int | None:
        """Check the next chunks. Returns the last seq that was checked, None at the end."""
        try:
            problems, last_seq = find_wrong(db, log, self._checked_seq, _CHUNKS)
        except (apsw.CorruptError, apsw.SQLError, ValueError, StoreUnusable) as exc:
            problems, last_seq = [f"counts after seq {self._checked_seq}: {exc}"], None
        for problem in problems:
            self.verifier.add_problem(problem)
        self._checked_seq = last_seq or 0
        return last_seq


# --- prune ----------------------------------------------------------------------------------------


def _condition(plan: PrunePlan) -> tuple[str, tuple[int, ...]]:
    if plan.before_ms is None:
        return "seq <= ?", (plan.through_seq,)
    return "timestamp_ms < ? AND seq <= ?", (plan.before_ms, plan.through_seq)


def plan_prune(
    db: apsw.Connection,
    log: schema.Log,
    place: files.Place,
    *,
    before_ms: int | None,
    keep: int | None,
    through_seq: int | None,
) -> tuple[PrunePlan, int]:
    """Which events are to go, and how many that are."""
    # In a writer, too: the connection that prunes is opened by the name of the file.
    place.check(side_files=False)
    table = log.table
    if keep is None:
        through = log.last_seq if through_seq is None else min(through_seq, log.last_seq)
    else:
        sql = f"SELECT seq FROM {table} ORDER BY seq DESC LIMIT 1 OFFSET ?"  # noqa: S608 - no values
        row = db.execute(sql, (keep,)).fetchone()
        through = 0 if row is None else row[0]
    plan = PrunePlan(through, before_ms)
    where, bindings = _condition(plan)
    (count,) = schema.first_row(db, f"SELECT count(*) FROM {table} WHERE {where}", bindings)  # noqa: S608 - no values
    return plan, count


def prune_some(
    db: apsw.Connection,
    reader: LogReader,
    plan: PrunePlan,
    progress: PruneProgress,
    wal: files.WriteAheadLog,
) -> int:
    """Delete the oldest of them, in one transaction. Returns how many; 0 when none is left."""
    reader.place.check(side_files=False)
    where, bindings = _condition(plan)
    with schema.transaction(db):
        found = schema.same_log(db, reader.log, reader.unique_id)
        table = found.table
        some = f"SELECT seq FROM {table} WHERE {where} LIMIT {CHUNK_EVENTS}"  # noqa: S608 - no values
        sql = f"DELETE FROM {table} WHERE seq IN ({some}) RETURNING seq"  # noqa: S608 - as above
        gone = [seq for (seq,) in db.execute(sql, bindings)]
        if gone:
            found.note(db, pruned_seq=max(gone))
            forget(db, found, gone)
    # Counted here, because the caller may have been cancelled.
    progress.add(len(gone))
    wal.keep_small(db)
    return len(gone)
