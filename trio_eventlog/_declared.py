"""What a store says of itself, checked. Floor 2, beside the contract."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from types import FunctionType, MethodType
from typing import Any, Final, TypeVar, cast

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog._model._query import EventQuery
from trio_eventlog.abc import (
    BoundedStore,
    DurableStore,
    EventStore,
    IdentifiedStore,
    ReadOnlyCapableStore,
    SyncableStore,
)

T = TypeVar("T")

_MAX_BATCH: Final = 4096
"""Most events offered in one append to a store that declares no ``max_batch``."""


def check_count(name: str, value: object, minimum: int, unit: str = "events") -> int:
    if type(value) is not int:
        msg = f"{name}: expected a number of {unit} as an int, got {type(value).__name__}"
        raise TypeError(msg)
    if value < minimum:
        msg = f"{name}: expected {minimum} or more {unit}, got {value}"
        raise ValueError(msg)
    return value


_METHODS: Final = ("append_batch", "query", "last_seq")


def check_store(store: object) -> None:
    """Whether ``store`` is a store, and not what one is made of.

    Raises:
      TypeError: it is not; the message says what to write instead.
    """
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
        # Not the text itself: a URL may have a password in it.
        found = f"{type(store).__name__}; open it first: async with open_store(url) as store"
    elif hasattr(type(store), "__aenter__"):
        found = "an async context manager that was not entered; write: async with … as store"
    elif inspect.isawaitable(store):
        found = f"{type(store).__name__}, which was not awaited"
    else:
        missing = ", ".join(method for method in _METHODS if not hasattr(store, method))
        found = f"{type(store).__name__}, which has no {missing}"
    msg = f"store: expected an open store, an object with append_batch, query and last_seq, got {found}"
    raise TypeError(msg)


async def check_methods(store: EventStore) -> None:  # noqa: ASYNC910 - the checkpoint is the store's
    """Whether the log can append to ``store``.

    Raises:
      StoreUnusable: it is read-only.
      TypeError: a method of it is not async.
    """
    if isinstance(store, ReadOnlyCapableStore) and store.read_only is True:
        msg = f"{store!r} is read-only, and a log writes to its store: open it without read_only=True"
        raise StoreUnusable(msg)
    for name, nothing in (("append_batch", ()), ("query", EventQuery(limit=0))):
        method: Any = getattr(store, name)
        is_plain = isinstance(method, FunctionType | MethodType) and not inspect.iscoroutinefunction(method)
        if is_plain:
            # It may hand on to one that is async: ask it for nothing.
            await awaitable(store, name, method(nothing))


def awaitable(store: object, method: str, returned: T) -> T:
    """``returned``, which a method of ``store`` returned and which must be awaited.

    Raises:
      TypeError: it cannot be.
    """
    if inspect.isawaitable(returned):
        return returned
    msg = (
        f"store: {method} of {type(store).__name__} returned {type(returned).__name__} and nothing to await;"
        f" append_batch, query and last_seq must be async: async def {method}(…)"
    )
    raise TypeError(msg)


def max_batch_of(store: object) -> int:
    """Returns the most events of one append."""
    check_store(store)
    max_batch: object = store.max_batch if isinstance(store, BoundedStore) else None
    if max_batch is None:
        return _MAX_BATCH
    return check_count("max_batch of the store", max_batch, 1)


def log_id_of(store: object) -> str | None:
    """Returns what tells the log of ``store`` from all others; None if the store does not say."""
    log_id: object = store.log_id if isinstance(store, IdentifiedStore) else None
    if log_id is not None and not isinstance(log_id, str):
        msg = f"log_id of the store: expected a str, got {type(log_id).__name__}"
        raise TypeError(msg)
    return log_id


def survives_of(store: object) -> str:
    """Returns what an acknowledged append of ``store`` survives: ``"process"`` or ``"power"``."""
    # Of one that does not say, such as one around another that hands nothing on, the least: copies too many
    # cost room, copies too few cost events.
    survives: object = store.survives if isinstance(store, DurableStore) else "process"
    if not isinstance(survives, str):
        msg = f"survives of the store: expected a str, got {type(survives).__name__}"
        raise TypeError(msg)
    if survives not in {"process", "power"}:
        msg = f"survives of the store: expected 'process' or 'power', got {survives!r}"
        raise ValueError(msg)
    return survives


def sync_of(store: object) -> Callable[[], Awaitable[object]] | None:
    """Returns ``sync`` of a store whose appends do not survive a loss of power; None if it has none."""
    if survives_of(store) == "power" or not isinstance(store, SyncableStore):
        return None
    sync: object = store.sync
    # One around another that cannot sync may have None in place of the method.
    if sync is None:
        return None
    if not callable(sync):
        msg = f"sync of the store: expected an async method, got {type(sync).__name__}"
        raise TypeError(msg)
    return cast("Callable[[], Awaitable[object]]", sync)
