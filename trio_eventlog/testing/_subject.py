"""The store under test, as it was described to the harness."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeAlias

import attrs

from trio_eventlog import EventStore
from trio_eventlog.testing._children import Children

StoreOpener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[EventStore]]
"""Opens the store at a location, for as long as the context lasts."""

StoreDropper: TypeAlias = Callable[[Path], Awaitable[object]]
"""Removes what the store keeps for a location."""


@attrs.frozen(kw_only=True)
class StoreUnderTest:
    """How to open the store that is tested, and what is known about it."""

    open_store: StoreOpener
    open_reader: StoreOpener | None = None
    drop_store: StoreDropper | None = None
    durable: bool = True
    op_timeout: float = 5.0
    """Seconds after which an operation counts as hung."""

    children: Children | None = None
    """How a child process uses the store; None if none can."""

    max_batch: int | None = None
    lock_timeout: float = 0.0

    @property
    def cancel_timeout(self) -> float:
        """Seconds within which a cancelled operation ends."""
        return self.op_timeout / 5

    @property
    def patience(self) -> float:
        """Seconds after which an example that does not let the harness run is abandoned."""
        return self.op_timeout * 1.5 + 2


def fresh_location(parent: Path) -> Path:
    """A new empty directory in ``parent``, with a name that no earlier run had."""
    location = parent / f"te_{os.urandom(10).hex()}"
    location.mkdir()
    return location
