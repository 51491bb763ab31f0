"""Stores that break S13: one appender."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tests._helpers.broken_stores._broken import Broken, file
from tests._helpers.correct_stores import (
    CorrectFileStore,
)
from trio_eventlog import (
    LogBusy,
    StoreError,
)

# --- S13: one appender ----------------------------------------------------------------------------


class NoLock(CorrectFileStore):
    def _acquire_lock(self) -> None:
        pass


LOCKED: set[Path] = set()


class LockWithinProcess(CorrectFileStore):
    locked = False

    def _acquire_lock(self) -> None:
        if self.location in LOCKED:
            raise LogBusy("somebody else appends to this log")
        LOCKED.add(self.location)
        self.locked = True

    def _release_lock(self) -> None:
        if self.locked:
            LOCKED.remove(self.location)


class LockOutlivesProcess(CorrectFileStore):
    def _acquire_lock(self) -> None:
        try:
            self.lock_fd = os.open(self.location / "lock", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        except FileExistsError:
            raise LogBusy("somebody else appends to this log") from None

    def _release_lock(self) -> None:
        if self.lock_fd is not None:
            (self.location / "lock").unlink()
        super()._release_lock()


class LockOfTheProcess(CorrectFileStore):
    """POSIX locks belong to the process: to itself it grants any number."""

    def _acquire_lock(self) -> None:
        self.lock_fd = os.open(self.location / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.lockf(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LogBusy("somebody else appends to this log") from None


class BusyIsAPlainError(CorrectFileStore):
    def _acquire_lock(self) -> None:
        try:
            super()._acquire_lock()
        except LogBusy:
            raise StoreError("database is locked") from None


BROKEN: tuple[Broken, ...] = (
    file("S13", "no lock", NoLock),
    file("S13", "lock within the process", LockWithinProcess),
    file("S13", "lock outlives its process", LockOutlivesProcess, "S10"),
    file("S13", "lock of the process", LockOfTheProcess),
    file("S13", "busy is a plain StoreError", BusyIsAPlainError),
)
