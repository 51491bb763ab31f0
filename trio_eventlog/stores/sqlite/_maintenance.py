"""Looking a log over, and taking old events out of it. Runs in the worker thread of a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import apsw
import attrs

from trio_eventlog._model._codec import from_json, scopes_of, to_json
from trio_eventlog._model._errors import CodecError
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._query import SCOPES
from trio_eventlog._model._reports import StoreVerification
from trio_eventlog.stores._common._statistics import Findings, Gaps
from trio_eventlog.stores.sqlite import _schema as schema

_PAGE: Final = 1000
"""Events that are looked at in one go; some 50 ms."""

PRUNED_TOGETHER: Final = 1000
"""Events that go in one transaction: a writer beside it waits for no longer than that takes."""

# As bytes: what is damaged need not be text.
_COLUMNS: Final = ", ".join(
    ["seq", "timestamp_ms", "kind"]
    + [f"CAST({name} AS BLOB)" for name in ("id", "actor", "event_type", "member_id", "payload", *SCOPES)]
)

_INDEXED: Final = ("id", "event_type", "timestamp_ms", "member_id", *SCOPES)

# --- verify ---------------------------------------------------------------------------------------


@attrs.define
class Verifier:
    """Collects what is wrong with a log, page by page."""

    findings: Findings
    events: int = 0
    gaps: Gaps = attrs.Factory(Gaps)

    def _guarded(self, what: Callable[[], str], work: Callable[[], None]) -> bool:
        """Whether ``work`` came to its end."""
        try:
            work()
        except (apsw.CorruptError, apsw.SQLError, apsw.NotADBError, UnicodeDecodeError) as exc:
            self.findings.add(f"{what()}: {exc}")
            return False
        return True

    def check_structure(self, db: apsw.Connection, log_id: int) -> bool:
        """What SQLite itself finds: pages, types, and each index against its table.

        Returns:
          Whether there is a log to look at.
        """
        self._guarded(lambda: "logs", lambda: self._check_registry(db))
        table = schema.table_of(log_id)
        is_there = self._guarded(lambda: table, lambda: self._check_layout(db, table))
        if is_there:
            self._guarded(lambda: table, lambda: self._check_table(db, table))
        return is_there

    def _check_registry(self, db: apsw.Connection) -> None:
        self._check_table(db, "logs")
        # Otherwise a log whose row is gone would pass for one that was never there.
        for table in schema.orphaned_tables(db):
            self.findings.add(f"{table}: the log that it belongs to is gone")

    def _check_layout(self, db: apsw.Connection, table: str) -> None:
        if not db.table_exists("main", table):
            msg = "the table is missing"
            raise apsw.CorruptError(msg)
        unique = dict(db.execute('SELECT name, "unique" FROM pragma_index_list(?)', (table,)))
        for column in _INDEXED:
            index = f"{table}_{column}"
            if index not in unique:
                self.findings.add(f"{index}: the index is missing")
            elif column == "id" and not unique[index]:
                self.findings.add(f"{index}: the index lets an id stand twice")

    def _check_table(self, db: apsw.Connection, table: str) -> None:
        for (line,) in db.execute(f"PRAGMA integrity_check('{table}')"):
            if line != "ok":
                self.findings.add(" ".join(str(line).split()))

    def check_ids(self, db: apsw.Connection, log_id: int) -> None:
        """An id stands once. Not by its index, which may be what is damaged."""
        self._guarded(lambda: "ids", lambda: self._check_ids(db, schema.table_of(log_id)))

    def _check_ids(self, db: apsw.Connection, table: str) -> None:
        counts = f"SELECT CAST(id AS BLOB), count(*) AS times, max(seq) FROM {table} NOT INDEXED GROUP BY id"  # noqa: S608 - no values
        sql = f"{counts} HAVING times > 1"
        for event_id, times, seq in db.execute(sql):
            self.findings.add(f"id {_text(event_id)!a} stands {times} times", seq)

    def check_page(self, db: apsw.Connection, log_id: int) -> int | None:
        """Look at the next events. Returns the last seq looked at, None at the end."""
        before = self.gaps.last_seq
        # Beyond damage there is no way: the rest hangs on the page that is damaged.
        is_whole = self._guarded(
            lambda: f"events after seq {self.gaps.last_seq}",
            lambda: self._check_page(db, schema.table_of(log_id)),
        )
        return self.gaps.last_seq if is_whole and self.gaps.last_seq != before else None

    def _check_page(self, db: apsw.Connection, table: str) -> None:
        # Not above 0: what is wrong may be the seq. There is no lower integer than this.
        after = -(2**63) if self.gaps.last_seq is None else self.gaps.last_seq
        sql = f"SELECT {_COLUMNS} FROM {table} NOT INDEXED WHERE seq > ? ORDER BY seq LIMIT {_PAGE}"  # noqa: S608 - no values
        for row in db.execute(sql, (after,)):
            self._check_row(row)

    def _check_row(self, row: Any) -> None:
        seq = row[0]
        previous = self.gaps.last_seq
        self.events += 1
        self.gaps.add(seq)
        if previous is not None and seq <= previous:
            self.findings.add(f"comes after seq {previous}", seq)
        problem = _flaw(row)
        if problem is not None:
            self.findings.add(problem, seq)

    def check_end(self, db: apsw.Connection, log_id: int) -> None:
        """The mark that pruning must not lower is not below what is held."""
        self._guarded(lambda: "logs", lambda: self._check_end(db, log_id))

    def _check_end(self, db: apsw.Connection, log_id: int) -> None:
        highest = schema.last_seq(db, log_id)
        # What came meanwhile raised it first.
        if self.gaps.last_seq is not None and self.gaps.last_seq > highest:
            self.findings.add(f"the log says that its highest seq is {highest}", self.gaps.last_seq)
        pruned = schema.pruned_seq(db, log_id)
        if not 0 <= pruned <= highest:
            self.findings.add(f"the log says that seq {pruned} was pruned, and its highest is {highest}")

    def result(self) -> StoreVerification:
        """All that was found."""
        return self.findings.report(self.events, self.gaps)


def _text(raw: bytes | None) -> str | None:
    # NULL where the layout forbids it: a damaged file can have anything.
    return None if raw is None else raw.decode(errors="backslashreplace")


def _flaw(row: Any) -> str | None:
    """What keeps a row from being the event that was stored there."""
    seq, timestamp_ms, kind, event_id, actor, event_type, member_id, payload, *scopes = row
    if seq < 1:
        return "seq: expected 1 to 2**63 - 1"
    if kind not in (0, 1):
        return f"kind is {kind!r:.50}, neither 0 nor 1"
    try:
        texts = [
            raw if raw is None else raw.decode() for raw in (event_id, actor, event_type, member_id, payload)
        ]
        event_id, actor, event_type, member_id, payload = texts
    except UnicodeDecodeError as exc:
        return f"a text is not UTF-8: {exc.reason}"
    event = schema.event_of((seq, event_id, timestamp_ms, kind, actor, event_type, member_id, payload))
    try:
        from_json(to_json(event), PersistedEvent)
    except CodecError as exc:
        return str(exc)
    found = scopes_of("null" if payload is None else payload)
    for name, column, value in zip(SCOPES, scopes, found, strict=True):
        if column != (None if value is None else value.encode()):
            return f"{name} is {value!a:.100} in the payload and {_text(column)!a:.100} in its column"
    return None


# --- prune ----------------------------------------------------------------------------------------


@attrs.frozen
class Cut:
    """Which events go: those up to a seq, and of these the ones before a time, if one is given."""

    through_seq: int
    before_ms: int | None

    @property
    def condition(self) -> tuple[str, tuple[int, ...]]:
        if self.before_ms is None:
            return "seq <= ?", (self.through_seq,)
        return "timestamp_ms < ? AND seq <= ?", (self.before_ms, self.through_seq)


def plan_cut(db: apsw.Connection, log_id: int, before_ms: int | None, keep: int | None) -> tuple[Cut, int]:
    """What is to go, and how many events that are. What comes later stays in any case."""
    table = schema.table_of(log_id)
    if keep is None:
        through = schema.last_seq(db, log_id)
    else:
        sql = f"SELECT seq FROM {table} ORDER BY seq DESC LIMIT 1 OFFSET ?"  # noqa: S608 - no values
        row = db.execute(sql, (keep,)).fetchone()
        through = 0 if row is None else row[0]
    cut = Cut(through, before_ms)
    where, bindings = cut.condition
    (count,) = schema.first_row(db, f"SELECT count(*) FROM {table} WHERE {where}", bindings)  # noqa: S608 - no values
    return cut, count


def prune_some(db: apsw.Connection, log: str, unique_id: str, cut: Cut) -> int:
    """Delete the oldest of them, in one transaction, and note what was deleted.

    Returns:
      How many; 0 when none is left.
    """
    where, bindings = cut.condition
    schema.roll_back(db)
    db.execute("BEGIN IMMEDIATE")
    try:
        found = schema.same_log(db, log, unique_id)
        schema.note_pruning(db)
        table = schema.table_of(found.number)
        some = f"SELECT seq FROM {table} WHERE {where} LIMIT {PRUNED_TOGETHER}"  # noqa: S608 - no values
        sql = f"DELETE FROM {table} WHERE seq IN ({some}) RETURNING seq"  # noqa: S608 - as above
        gone = [seq for (seq,) in db.execute(sql, bindings)]
        if gone:
            db.execute(
                "UPDATE logs SET pruned_seq = max(pruned_seq, ?) WHERE log_id = ?", (max(gone), found.number)
            )
        db.execute("COMMIT")
    except BaseException:
        schema.roll_back(db)
        raise
    return len(gone)
