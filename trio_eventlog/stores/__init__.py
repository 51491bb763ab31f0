"""The stores that come with the library, and :func:`open_store`, which finds one by its URL.

Each keeps one log and implements :class:`trio_eventlog.abc.EventStore`. Floor 4: stores know the
floors below the log, never each other and never the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_eventlog.stores._open import open_readers as open_readers
from trio_eventlog.stores._open import open_store as open_store
from trio_eventlog.stores._urls import without_secrets as without_secrets
from trio_eventlog.stores.memory import MemoryStore as MemoryStore
from trio_eventlog.stores.null import NullStore as NullStore

if TYPE_CHECKING:
    from trio_eventlog.stores.jetstream._store import JetStreamStore as JetStreamStore
    from trio_eventlog.stores.postgres._store import PostgresStore as PostgresStore
    from trio_eventlog.stores.sqlite._store import SqliteStore as SqliteStore


__all__ = [
    "JetStreamStore",
    "MemoryStore",
    "NullStore",
    "PostgresStore",
    "SqliteStore",
    "open_readers",
    "open_store",
    "without_secrets",
]


def __getattr__(name: str) -> object:
    # A program that keeps its log in memory shall not pay for loading a database driver.
    if name == "SqliteStore":
        from trio_eventlog.stores.sqlite._store import SqliteStore  # noqa: PLC0415 - see above

        globals()[name] = SqliteStore
        return SqliteStore
    if name == "JetStreamStore":
        from trio_eventlog.stores.jetstream._store import JetStreamStore  # noqa: PLC0415 - see above

        globals()[name] = JetStreamStore
        return JetStreamStore
    if name == "PostgresStore":
        from trio_eventlog.stores.postgres._store import PostgresStore  # noqa: PLC0415 - see above

        globals()[name] = PostgresStore
        return PostgresStore
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
