"""What a store declares about itself, checked. Floor 2, next to the contract."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from types import FunctionType, MethodType
from typing import Any, Final

from trio_eventlog._answers import awaitable
from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._query import EventQuery
from trio_eventlog._numbers import check_integer
from trio_eventlog.abc import (
    BoundedStore,
    DurableStore,
    EventStore,
    IdentifiedStore,
    ReadOnlyCapableStore,
    SyncableStore,
)

_MAX_BATCH: Final = 4096
"""Most events offered in one append to a store that declares no ``max_batch``."""


_METHODS: Final = ("append_batch", "query", "last_seq")


def check_store(store: object) -> None:
    """Raise TypeError unless ``store`` is an open store; the message says what to write instead."""
    if isinstance(store, type):
        way = (
            f"async with {store.__name__}.open(…) as store"
            if hasattr(store, "open")
            else f"{store.__name__}()"
        )
        found = f"the class {store.__name__}; write: {way}"
    elif isinstance(store, EventStore):
        return
    elif isinstance(store, str | bytes | os.PathLike):
        # Not the string itself: a URL can contain a password.
        found = f"{type(store).__name__}; open it first: async with open_store(url) as store"
    elif hasattr(type(store), "__aenter__"):
        found = "an async context manager that was not entered; write: async with … as store"
    elif inspect.isawaitable(store):
        found = f"{type(store).__name__}, which was not awaited"
    else:
        missing = ", ".join(method for method in _METHODS if not hasattr(store, method))
        found = f"{type(store).__name__}, which has no {missing}"
    raise TypeError(
        f"store: expected an open store, an object with append_batch, query and last_seq, got {found}"
    )


async def check_methods(store: EventStore) -> None:  # noqa: ASYNC910 - not a checkpoint in itself
    """Raise StoreUnusable if ``store`` is read-only, and TypeError if a method of it is not async."""
    read_only: object = store.read_only if isinstance(store, ReadOnlyCapableStore) else False
    if not isinstance(read_only, bool):
        raise TypeError(f"read_only of the store: expected a bool, got {type(read_only).__name__}")
    if read_only:
        raise StoreUnusable(
            f"{store!r} is read-only, and a log writes to its store: open it without read_only=True"
        )
    for name, nothing in (("append_batch", ()), ("query", EventQuery(limit=0))):
        method: Any = getattr(store, name)
        is_plain = isinstance(method, FunctionType | MethodType) and not inspect.iscoroutinefunction(method)
        if is_plain:
            # It can call an async method and return what that returns. Try it with nothing to do.
            await awaitable(store, name, method(nothing))


def max_batch_of(store: object) -> int:
    """The most events of one append."""
    check_store(store)
    max_batch: object = store.max_batch if isinstance(store, BoundedStore) else None
    if max_batch is None:
        return _MAX_BATCH
    return check_integer("max_batch of the store", max_batch, 1, unit="events")


def log_id_of(store: object) -> str | None:
    """What identifies the log of ``store``; None if the store does not say."""
    log_id: object = store.log_id if isinstance(store, IdentifiedStore) else None
    if log_id is not None and not isinstance(log_id, str):
        raise TypeError(f"log_id of the store: expected a str, got {type(log_id).__name__}")
    return log_id


def survives_of(store: object) -> str:
    """What an acknowledged append of ``store`` survives: ``"process"`` or ``"power"``."""
    # If a store does not say, for example one that wraps another, assume the least: needless copies cost
    # space, missing copies cost events.
    survives: object = store.survives if isinstance(store, DurableStore) else "process"
    if not isinstance(survives, str):
        raise TypeError(f"survives of the store: expected a str, got {type(survives).__name__}")
    if survives not in {"process", "power"}:
        raise ValueError(f"survives of the store: expected 'process' or 'power', got {survives!r}")
    return survives


def sync_of(store: object) -> Callable[[], Awaitable[object]] | None:
    """``sync`` of a store whose appends alone do not survive a loss of power; None if it has none."""
    if survives_of(store) == "power" or not isinstance(store, SyncableStore):
        return None
    sync: Callable[[], Awaitable[object]] | None = store.sync
    # A store that wraps one without the method can have None in its place.
    if sync is None:
        return None
    if not callable(sync):
        raise TypeError(f"sync of the store: expected an async method, got {type(sync).__name__}")
    return lambda: awaitable(store, "sync", sync())
