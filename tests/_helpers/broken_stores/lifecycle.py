"""Stores that break S15: leaving frees everything."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from tests._helpers.broken_stores._broken import Broken, file, memory
from tests._helpers.correct_stores import (
    CorrectFileStore,
    CorrectMemoryStore,
)

F = TypeVar("F", bound=CorrectFileStore)


# --- S15: leaving frees everything ----------------------------------------------------------------


@asynccontextmanager
async def opened_without_finally(cls: type[F], location: Path) -> AsyncIterator[F]:
    store = cls(location)
    await store._open()
    yield store
    await store._leave()


class CancelledLeavingKeepsLock(CorrectFileStore):
    async def _leave(self) -> None:
        await trio.lowlevel.checkpoint()
        await super()._leave()


class LeavesAThread(CorrectMemoryStore):
    async def _open(self) -> None:
        await super()._open()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class LeavesADescriptor(CorrectMemoryStore):
    async def _open(self) -> None:
        await super()._open()
        os.open(os.devnull, os.O_RDONLY)  # noqa: ASYNC230 - opens no disk


BROKEN: tuple[Broken, ...] = (
    Broken(
        "lock kept after an error", "S15", partial(opened_without_finally, CorrectFileStore), durable=True
    ),
    file("S15", "lock kept if left cancelled", CancelledLeavingKeepsLock),
    memory("S15", "a thread left behind", LeavesAThread),
    memory("S15", "a file descriptor left behind", LeavesADescriptor),
)
