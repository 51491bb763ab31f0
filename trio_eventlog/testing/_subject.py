"""The store under test as it was described to the harness, and how a child process opens it.

A child runs a program made of text, the same that a report shows. It must therefore be able to import
what opens the store.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from trio_eventlog import EventStore
from trio_eventlog.testing._importing import Opening
from trio_eventlog.testing._power._watching import Watcher

_START_TIMEOUT: Final = 60.0
"""Seconds. A loaded machine takes long to start Python."""

_IS_CHILD: Final = "TRIO_EVENTLOG_HARNESS_CHILD"
"""A variable of child processes. A script that runs the harness when it is imported would have no end."""


@attrs.frozen
class Children:
    """How a child process opens the store."""

    opening: str
    """Statements after which ``open_store`` opens it."""

    reading: str | None = None
    """Statements after which ``open_reader`` does; None if a child process cannot have it."""

    def environment(self) -> dict[str, str]:
        """The variables of this process, and its import path."""
        path = os.pathsep.join([entry or os.getcwd() for entry in sys.path])  # noqa: PTH109 - text
        return {**os.environ, "PYTHONPATH": path, _IS_CHILD: "1"}


def import_problem(opening: Opening) -> str | None:
    """Why a child process cannot open the store; None if it can."""
    if opening.problem is not None:
        return f"a child process cannot import open_store: {opening.problem}"
    importlib.invalidate_caches()
    try:
        result = subprocess.run(  # noqa: S603 - our own Python, on a statement of ours
            [sys.executable, "-c", opening.code],
            env=Children(opening.code).environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a child process did not import open_store within {_START_TIMEOUT:.0f} s"
    if result.returncode:
        last = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        return f"a child process cannot import open_store: {last}"
    return None


def find_children(opening: Opening, reading: Opening | None = None) -> Children | str:
    """How a child process can open the store; or why none can be used."""
    if sys.platform == "win32":
        return "processes cannot be killed as they are on POSIX"
    return import_problem(opening) or Children(
        opening.code, None if reading is None or reading.problem is not None else reading.code
    )


def refuse_in_child() -> None:
    """Raise RuntimeError if this process is one that the harness has started."""
    if os.environ.get(_IS_CHILD):
        raise RuntimeError(
            "a child process ran the harness when it imported open_store: call it below"
            ' `if __name__ == "__main__":`'
        )


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
    watcher: Watcher | None = None
    """What watches what the store does to its files; None if nothing does."""

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
