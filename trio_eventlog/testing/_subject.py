"""The store under test as it was described to the harness, and how a child process opens it.

A child runs a program made of text, the same that a report shows. It must therefore be able to import
what opens the store.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from trio_eventlog import EventStore
from trio_eventlog.testing._power._watching import Watcher

_START_TIMEOUT: Final = 60.0
"""Seconds. A loaded machine takes long to start Python."""


@attrs.frozen
class Children:
    """How a child process opens the store."""

    opening: str
    """Statements after which ``open_store`` opens it."""

    def environment(self) -> dict[str, str]:
        """The variables of this process, and its import path."""
        path = os.pathsep.join([entry or os.getcwd() for entry in sys.path])  # noqa: PTH109 - text
        return {**os.environ, "PYTHONPATH": path}


def import_statement(function: Callable[..., Any], name: str = "open_store") -> str | None:
    """Statements that bring ``function`` into a program as ``name``; None if no import does."""
    module: object = getattr(function, "__module__", None)
    qualname: object = getattr(function, "__qualname__", None)
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        module, qualname = owner.__module__, f"{owner.__qualname__}.{function.__name__}"
    elif owner is not None and not isinstance(owner, type(sys)):
        return _method_statement(function, owner, name)
    if not isinstance(module, str) or not isinstance(qualname, str) or _reached(module, qualname) != function:
        return None
    top, _, rest = qualname.partition(".")
    if rest:
        return f"from {module} import {top}\n\n{name} = {qualname}"
    return f"from {module} import {top}" + ("" if top == name else f" as {name}")


def _method_statement(function: Callable[..., Any], owner: object, name: str) -> str | None:
    # An object without state, such as an instance of a test class, is made again.
    kind = type(owner)
    if getattr(owner, "__dict__", None) or _reached(kind.__module__, kind.__qualname__) is not kind:
        return None
    if not all(base.__init__ is object.__init__ for base in kind.__mro__):
        return None
    top = kind.__qualname__.partition(".")[0]
    return f"from {kind.__module__} import {top}\n\n{name} = {kind.__qualname__}().{function.__name__}"


def _reached(module: str, qualname: str) -> Any:
    if module == "__main__" or "<" in qualname:
        return None
    value: Any = sys.modules.get(module)
    for part in qualname.split("."):
        value = getattr(value, part, None)
    return value


def opening_statements(function: Callable[..., Any], name: str = "open_store") -> str | None:
    """The same, by way of pickle where no import does it."""
    statement = import_statement(function, name)
    if statement is not None:
        return statement
    if getattr(function, "__module__", None) == "__main__":
        # Pickle would only say that it is found in a module of this name, and another process has its own.
        return None
    try:
        pickled = pickle.dumps(function)
    except Exception:  # noqa: BLE001 - it is not picklable, for whatever reason
        return None
    return f"import pickle\n\n{name} = pickle.loads(bytes.fromhex({pickled.hex()!r}))"


def find_children(function: Callable[..., Any]) -> Children | str:
    """How a child process can open the store that this process opens by ``function``; or why it cannot."""
    if sys.platform == "win32":
        return "processes cannot be killed as they are on POSIX"
    opening = opening_statements(function)
    if opening is None:
        return "a child process cannot import open_store: it must be a function of a module"
    importlib.invalidate_caches()
    children = Children(opening)
    try:
        result = subprocess.run(  # noqa: S603 - our own Python, on a statement of ours
            [sys.executable, "-c", opening],
            env=children.environment(),
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
    return children


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
