"""Opening the store once, before any clause is checked, and what it declares."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs

from trio_eventlog.abc import BoundedStore, EventStore, LeasedStore, LockingStore
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._search import Sandbox, run_watched
from trio_eventlog.testing._subject import fresh_location


@attrs.frozen(kw_only=True)
class Declared:
    """What a store says about itself in attributes."""

    max_batch: int | None
    has_lock: bool
    lock_timeout: float


def first_look(sandbox: Sandbox) -> Declared:
    """Open the store once. What goes wrong here breaks no clause: the store cannot be opened at all."""
    location = fresh_location(sandbox.root)
    example = Example(sandbox.subject, "", location)
    declared: Declared | None = None

    async def look() -> None:
        nonlocal declared
        context: Any = sandbox.subject.open_store(location)
        if not isinstance(context, AbstractAsyncContextManager):
            if hasattr(context, "close"):
                context.close()
            raise TypeError(
                f"open_store: expected it to return an async context manager, got {type(context).__name__};"
                " decorate an async generator function with contextlib.asynccontextmanager"
            )
        async with context as store:
            if not isinstance(store, EventStore):
                kind = type(store).__name__
                raise TypeError(
                    f"open_store: expected a store with append_batch, query and last_seq, got {kind}"
                )
            declared = declarations(store)
            example.alive("leaving the store")
        await sandbox.drop([location])

    error = run_watched(look, example)
    if example.violation is not None:
        raise TimeoutError(
            f"{example.in_progress} on a fresh location did not end: {example.violation.message}"
        )
    if error is not None:
        error.add_note("Raised by opening the store on a fresh location, before any clause was checked.")
        raise error
    assert declared is not None
    return declared


def declarations(store: EventStore) -> Declared:
    """What ``store`` declares.

    Raises:
      TypeError: one of its attributes is of the wrong type or out of range.
    """
    max_batch = store.max_batch if isinstance(store, BoundedStore) else None
    if max_batch is not None and (type(max_batch) is not int or max_batch < 1):
        raise TypeError(f"max_batch: expected None or an integer of at least 1, got {max_batch!r}")
    lock_timeout = store.lock_timeout if isinstance(store, LeasedStore) else 0.0
    if type(lock_timeout) not in (int, float) or not 0 <= lock_timeout < math.inf:
        raise TypeError(f"lock_timeout: expected seconds, finite and not negative, got {lock_timeout!r}")
    return Declared(
        max_batch=max_batch,
        has_lock=bool(store.has_lock) if isinstance(store, LockingStore) else True,
        lock_timeout=lock_timeout,
    )
