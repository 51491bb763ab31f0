"""Events as rows of a table, and how they are put into it. Runs in the thread of a connection."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import apsw

from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._sealed import encoded_payload
from trio_eventlog.stores._common._columns import Columns, columns_of
from trio_eventlog.stores.sqlite._schema import table_of

Row = tuple[Any, ...]
"""The values of :class:`Columns`, with the payload as text. It comes last: what is behind a long value is
reached only by walking through it."""

READ: Final = "seq, id, timestamp_ms, kind, actor, event_type, member_id, payload"


def row_of(event: PersistedEvent) -> Row:
    """The row of a sealed event, in the order of the table's columns."""
    columns = columns_of(event)
    payload = columns.payload
    return columns if payload is None else (*columns[:-1], payload.decode())


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
    row = f"({','.join('?' * len(Columns._fields))})"
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
