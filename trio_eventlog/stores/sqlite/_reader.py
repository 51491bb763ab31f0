"""What a store reads, in the thread of a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import apsw
import attrs

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._reports import StoreDescription
from trio_eventlog.stores._common._prune import PrunePlan, PruneProgress
from trio_eventlog.stores.sqlite import _files as files
from trio_eventlog.stores.sqlite import _maintenance as maintenance
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _select as queries
from trio_eventlog.stores.sqlite._layout import check_layout
from trio_eventlog.stores.sqlite._wal import WriteAheadLog

T = TypeVar("T")


def prepare_reader(db: apsw.Connection) -> None:
    """Make a connection ready for reading.

    Raises:
      StoreUnusable: the database is not one of this library.
    """
    schema.harden(db)
    schema.is_initialised(db)
    check_layout(db)


@attrs.define(eq=False)
class LogReader:
    """Reads one log. Checks each time that it still is that log, in the file that was opened."""

    place: files.Place
    log: str
    unique_id: str
    has_writer: bool
    """Whether the same store writes to the log. Then the writer checks its files, and what it has stored may
    be read to the end."""

    _version: int | None = None

    def read(self, db: apsw.Connection, job: Callable[[apsw.Connection, int], T]) -> T:
        """Run ``job`` with the number of the log, in one transaction."""
        with schema.snapshot(db):
            log = schema.same_log(db, self.log, self.unique_id)
            version = db.data_version()
            if version != self._version:
                # Another connection has written.
                schema.check_layout(db, self.log)
                self._version = version
            result = job(db, log.number)
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

    def describe(self, db: apsw.Connection, log_id: int, top: int) -> StoreDescription:
        """See :meth:`SqliteStore.describe`."""
        path = self.place.path
        wal_bytes = WriteAheadLog(path).size_bytes()
        return queries.describe(db, log_id, top, files.size_of(path) + wal_bytes, wal_bytes)

    def plan_prune(
        self, db: apsw.Connection, log_id: int, before_ms: int | None, keep: int | None
    ) -> tuple[PrunePlan, int]:
        """What is to go, and how many events that are."""
        # In a writer, too: the connection that prunes goes by the name of the file.
        self.place.check(side_files=False)
        return maintenance.plan_prune(db, log_id, before_ms, keep)


@attrs.frozen(eq=False)
class Pruner:
    """Deletes events, in the thread of a connection of its own."""

    reader: LogReader
    plan: PrunePlan
    progress: PruneProgress
    _wal: WriteAheadLog = attrs.field(
        init=False,
        default=attrs.Factory(lambda self: WriteAheadLog(self.reader.place.path), takes_self=True),
    )

    def prune_some(self, db: apsw.Connection) -> int:
        """One transaction. Returns how many events went; 0 when none is left."""
        self.reader.place.check(side_files=False)
        some = maintenance.prune_some(db, self.reader.log, self.reader.unique_id, self.plan)
        # Here, since the caller may be gone.
        self.progress.add(some)
        self._wal.keep_small(db)
        return some
