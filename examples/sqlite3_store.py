"""A store of one's own: events as JSON text in a table, by the ``sqlite3`` of the standard library.

The tutorial "Write a store" makes it step by step. Run as a program, it checks itself against the contract.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import trio

from trio_eventlog import (
    EventQuery,
    LogBusy,
    PersistedEvent,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    from_json,
    to_json,
)
from trio_eventlog.testing import check_store

T = TypeVar("T")

LARGEST = 2**63 - 1
"""The largest seq, and the largest integer of SQLite."""


class Sqlite3Store:
    """A log in a SQLite database. It holds whatever SQLite does, up to 1 GB an event."""

    survives = "power"  # an append that has returned survives a loss of power; by the settings of connect

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        # A connection is for one thread at a time.
        self._limiter = trio.CapacityLimiter(1)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        try:
            # Waits for the thread even when cancelled: when this returns, nothing is under way any more.
            return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)
        except sqlite3.OperationalError as exc:  # such as a disk that is full
            raise StoreError(str(exc)) from exc
        except sqlite3.Error as exc:  # such as a connection that is closed, or a damaged file
            raise StoreUnusable(str(exc)) from exc

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """See ``EventStore``. Cancelled, it ends when the transaction has."""
        return await self._run(self._append, events)

    def _append(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        elsewhere = set()
        with self._db:  # a transaction: an exception rolls it back
            for event in events:
                known = self._db.execute("SELECT seq FROM events WHERE id = ?", (event.id,)).fetchone()
                if known is not None:
                    if known[0] != event.seq:
                        elsewhere.add(event.seq)
                    continue
                if self._db.execute("SELECT 1 FROM events WHERE seq = ?", (event.seq,)).fetchone():
                    raise SequenceConflict([event.seq])
                row = (event.seq, event.id, to_json(event).decode())
                self._db.execute("INSERT INTO events VALUES (?, ?, ?)", row)
        return elsewhere

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """See ``EventStore``. Cancelled, it ends when all is read."""
        return await self._run(self._query, query)

    def _query(self, query: EventQuery) -> list[PersistedEvent]:
        after_seq = min(query.after_seq or 0, LARGEST)
        limit = None if query.limit is None else min(query.limit, LARGEST)
        rows = self._db.execute("SELECT event FROM events WHERE seq > ? ORDER BY seq", (after_seq,))
        events = (from_json(text, PersistedEvent) for (text,) in rows)
        return list(islice(filter(query.matches, events), limit))

    async def last_seq(self) -> int:
        """See ``EventStore``."""
        return await self._run(self._last_seq)

    def _last_seq(self) -> int:
        (last_seq,) = self._db.execute("SELECT max(seq) FROM events").fetchone()
        return last_seq or 0

    async def aclose(self) -> None:
        """Close the connection, which gives the lock back."""
        await self._run(self._db.close)


@asynccontextmanager
async def open_store(location: Path) -> AsyncIterator[Sqlite3Store]:
    """Open the log in the directory ``location``.

    Raises:
      LogBusy: somebody else has it open.
      StoreError: the database cannot be opened now.
      StoreUnusable: it is none, or damaged.
    """
    store = Sqlite3Store(await trio.to_thread.run_sync(connect, location / "events.db"))
    try:
        yield store
    finally:
        # Also when cancelled; the thread is quick, and waited for in any case.
        with trio.move_on_after(5, shield=True):
            await store.aclose()


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, and keep everybody else out until the connection is closed."""
    try:
        # Do not wait for another appender.
        db = sqlite3.connect(path, timeout=0, check_same_thread=False)
    except sqlite3.Error as exc:
        raise StoreError(f"{path}: {exc}") from exc
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA synchronous = FULL")
        with db:
            db.execute("BEGIN EXCLUSIVE")  # takes the lock, which the setting above keeps
            db.execute(
                "CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, event TEXT)"
            )
            # Something to write, so that SQLite syncs what a process that was killed may not have.
            db.execute("PRAGMA user_version = 1")
    except sqlite3.Error as exc:
        db.close()
        if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise LogBusy(f"{path}: somebody else has the log open") from exc
        if isinstance(exc, sqlite3.OperationalError):
            raise StoreError(f"{path}: {exc}") from exc
        raise StoreUnusable(f"{path}: {exc}") from exc
    return db


if __name__ == "__main__":
    report = check_store(open_store, clauses=["S1", "S3", "S10", "S12", "S13"], max_examples=10)
    print(report)
    report.raise_if_failed()
