"""Copying a database while programs write to it: the jobs of it, which run in threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import apsw
import attrs

from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite._files import Place

_PAGES: Final = 1_000
"""Pages to copy in one job; a few megabytes."""

PART: Final = ".part"
"""At the end of the name until the copy is whole."""


_SIDE_FILES: Final = ("-journal", "-wal", "-shm")


def create(target: str) -> None:
    """Create the file that is copied to; StoreUnusable if there is one of the name that it is to get."""
    # SQLite would play a journal that is left of another file back into the copy.
    for name in (target, *(target + suffix for suffix in _SIDE_FILES)):
        if os.path.lexists(name):
            raise StoreUnusable(f"{name} already exists")
    create_part(target)


def create_part(target: str) -> None:
    """Create the file that is copied to, under the name that it has until it is whole."""
    # What an earlier copy has left that was killed.
    remove(target)
    os.close(os.open(target + PART, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def publish(target: str) -> None:
    """Give the copy its name, and make it survive a loss of power."""
    for name, flags in ((target + PART, os.O_RDWR), (None, os.O_RDONLY)):
        if name is None:
            os.rename(target + PART, target)  # noqa: PTH104 - str all along
            name = os.path.dirname(os.path.abspath(target))  # noqa: PTH100, PTH120, PLW2901 - as above
        descriptor = os.open(name, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(target: str) -> None:
    """Remove a copy that is not whole."""
    for suffix in ("", *_SIDE_FILES):
        with suppress(FileNotFoundError):
            os.unlink(target + PART + suffix)  # noqa: PTH108 - str all along


@attrs.define(eq=False)
class Backup:
    """A copy that is being made. Its methods are jobs for a connection to the original."""

    place: Place
    target: str
    on_progress: Callable[[int, int], object] | None
    pages: int = 0
    done: int = 0
    _copy: apsw.Connection | None = None
    _backup: apsw.Backup | None = None

    def begin(self, db: apsw.Connection) -> None:
        """Take a snapshot of the original."""
        self.place.check(side_files=False)
        self._copy = apsw.Connection(self.target + PART, flags=apsw.SQLITE_OPEN_READWRITE)
        # As long as this transaction is open, the copy need not begin anew when others write.
        db.execute("BEGIN")
        schema.first_row(db, "SELECT count(*) FROM sqlite_schema")
        self._backup = self._copy.backup("main", db, "main")

    def copy_some(self, _db: apsw.Connection) -> bool:
        """Copy the next pages. Returns whether there are more."""
        assert self._backup is not None, "it has begun"
        is_done = self._backup.step(_PAGES)
        self.pages = self._backup.page_count
        self.done = self.pages - self._backup.remaining
        return not is_done

    def end(self, db: apsw.Connection) -> None:
        """Complete the copy, in one file."""
        assert self._backup is not None and self._copy is not None, "it has begun"  # noqa: PT018 - for types
        self._backup.finish()
        db.execute("ROLLBACK")
        # Whoever opens it for writing gets a write-ahead log again.
        self._copy.execute("PRAGMA journal_mode = DELETE")
        self.dispose()
        self.place.check(side_files=False)

    def dispose(self) -> None:
        """Close what is open of the copy."""
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.close(True)

    def report(self) -> None:
        """Tell how far it is."""
        if self.on_progress is not None:
            self.on_progress(self.done, self.pages)
