"""Erasing payloads, so that nothing of them is left in the file. In the thread of a connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import apsw
import attrs

from trio_eventlog._model._errors import StoreError
from trio_eventlog._model._events import PersistedEvent, wall_clock_ms
from trio_eventlog._model._query import EventQuery
from trio_eventlog.stores._common._erasure import (
    MAX_PAGE_BYTES,
    has_nothing_to_erase,
    next_query,
    tombstone_of,
)
from trio_eventlog.stores._common._prune import CHUNK_EVENTS
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _select as queries
from trio_eventlog.stores.sqlite._appender import row_of
from trio_eventlog.stores.sqlite._reader import LogReader

_PATIENCE: Final = 10.0
"""Seconds to wait for a moment without readers."""

_WAIT: Final = 0.1
"""Seconds to wait for it at a time: nobody can append meanwhile, and a cancellation waits as well."""

_PAUSE: Final = 0.05
"""Seconds for others in between."""

# Those columns that are made from the payload, in the order of the table; the payload comes last.
_CHANGED: Final = ("identity", "mob_id", "run_id", "step_id", "checksum", "payload")


@attrs.define(eq=False)
class Erasure:
    """One call of :meth:`SqliteStore.erase`."""

    reader: LogReader
    query: EventQuery
    reason: str
    commitment: Callable[[PersistedEvent], str] | None
    erased: int = 0
    _at_ms: int = attrs.Factory(wall_clock_ms)
    _after_seq: int = attrs.field(default=0)
    _seen: int = 0
    _give_up: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._after_seq = self.query.after_seq or 0

    def erase_some(self, db: apsw.Connection) -> bool:
        """Erase the next events, in one transaction. Returns whether there may be more."""
        self.reader.place.check(side_files=False)
        query = next_query(self.query, self._after_seq, self._seen, CHUNK_EVENTS)
        with schema.transaction(db):
            log = schema.same_log(db, self.reader.log, self.reader.unique_id)
            found = queries.read_page(db, log, query, MAX_PAGE_BYTES).events
            rows = [
                row_of(tombstone_of(event, self.reason, self._at_ms, self.commitment), log.seed)
                for event in found
                if not has_nothing_to_erase(event)
            ]
            changes = ", ".join(f"{column} = ?" for column in _CHANGED)
            sql = f"UPDATE {log.table} SET {changes} WHERE seq = ?"  # noqa: S608 - no values
            db.executemany(sql, [(*row[-len(_CHANGED) :], row[0]) for row in rows])
        self.erased += len(rows)
        self._seen += len(found)
        if found:
            self._after_seq = found[-1].seq
        return bool(found)

    def clean(self, db: apsw.Connection) -> None:
        """Leave nothing of what was erased, by this call or by one that was killed, in the file."""
        self.reader.place.check(side_files=False)
        # Pages that were split or merged keep bytes behind what they hold; only a new file has none.
        db.execute("VACUUM")
        self._give_up = time.monotonic() + _PATIENCE
        db.set_busy_timeout(round(_WAIT * 1000))

    def empty_wal(self, db: apsw.Connection) -> bool:
        """Leave nothing in the write-ahead log either. Returns False if it is in use: call it again.

        Raises:
          StoreError: it has been in use for too long.
        """
        if not schema.first_row(db, "PRAGMA wal_checkpoint(TRUNCATE)")[0]:
            self.reader.place.check(side_files=False)
            return True
        if time.monotonic() > self._give_up:
            raise StoreError(
                f"{db.filename}: what was erased is still in the write-ahead log: a reader kept it from"
                " being emptied; erase again"
            )
        time.sleep(_PAUSE)
        return False
