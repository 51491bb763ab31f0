"""The stores that come with the library, and :func:`open_store`, which finds one by its URL.

Each keeps one log and implements :class:`trio_eventlog.abc.EventStore`. Floor 3: stores know the floors below
them, and neither each other nor the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_eventlog._util import adopt, adopt_public_names
from trio_eventlog.stores._common._epochs import begin_epoch as begin_epoch
from trio_eventlog.stores._open import LAZY, load
from trio_eventlog.stores._open import open_readers as open_readers
from trio_eventlog.stores._open import open_store as open_store
from trio_eventlog.stores._open import restore_backup as restore_backup
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
    "begin_epoch",
    "open_readers",
    "open_store",
    "restore_backup",
    "without_secrets",
]


def __getattr__(name: str) -> object:
    # A program that keeps its log in memory does not pay for loading a database driver.
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = load(name)
    return found


def __dir__() -> list[str]:
    # What is imported for the module's own use is not offered by completion.
    return __all__


adopt(__name__, MemoryStore, NullStore)
adopt_public_names(globals())
