"""One SQLite file."""

from trio_eventlog.stores.sqlite._store import SqliteStore as SqliteStore

__all__ = ["SqliteStore"]
