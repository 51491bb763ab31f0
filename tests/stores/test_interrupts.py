"""Ctrl-C while a store is entered or left: nothing stays open, whatever frame it hits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests._helpers.interrupts import interrupt_in, interrupt_in_contextlib
from trio_eventlog import _lock_file
from trio_eventlog.stores import SqliteStore, open_readers, open_store
from trio_eventlog.stores.sqlite import _worker

MANAGERS: dict[str, Callable[[str], AbstractAsyncContextManager[Any]]] = {
    "open": SqliteStore.open,
    "open_readers": SqliteStore.open_readers,
    "open_store": lambda path: open_store(f"sqlite:{path}"),
    "open_readers by URL": lambda path: open_readers(f"sqlite:{path}"),
}


@pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])
@pytest.mark.parametrize("manager", MANAGERS)
def test_s15_an_interrupt_in_contextlib_leaves_no_store_open(
    tmp_path: Path, manager: str, method: str
) -> None:
    """The log can be opened again in the same run, and a checkpoint raises the interrupt."""
    path = str(tmp_path / "events.db")

    async def main() -> None:
        async with SqliteStore.open(path):
            pass
        with pytest.raises(KeyboardInterrupt):
            with interrupt_in_contextlib(method):
                async with MANAGERS[manager](path):
                    pass
            await trio.lowlevel.checkpoint()
        assert not _lock_file._registry.held
        async with SqliteStore.open(path) as store:
            assert await store.last_seq() == 0

    trio.run(main)


@pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])
def test_s15_an_interrupt_in_contextlib_ends_a_watch(tmp_path: Path, method: str) -> None:
    """It leaves nothing behind either."""

    async def main() -> None:
        async with SqliteStore.open(tmp_path / "events.db") as store:
            with pytest.raises(KeyboardInterrupt):
                with interrupt_in_contextlib(method):
                    manager = store.watch_changes()
                    async with manager:
                        pass
                await trio.lowlevel.checkpoint()
            assert await store.last_seq() == 0

    trio.run(main)


@pytest.mark.parametrize(
    ("file", "function"), [("sqlite/_parts.py", "aclose"), ("sqlite/_worker.py", "aclose")]
)
def test_s15_an_interrupt_leaves_no_connection_of_a_prune_open(
    tmp_path: Path, file: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed, and a checkpoint raises the interrupt."""
    closed = []
    finish = _worker.SerialWorker._finish_now
    monkeypatch.setattr(
        _worker.SerialWorker, "_finish_now", lambda worker: (finish(worker), closed.append(worker))
    )

    async def main() -> None:
        async with SqliteStore.open(tmp_path / "events.db") as store:
            with pytest.raises(KeyboardInterrupt):
                with interrupt_in(file, function):
                    await store.prune(keep=0)
                await trio.lowlevel.checkpoint()
            assert len(closed) == 1

    trio.run(main)
