"""What a store did to its files, in order.

A file is known by a number, since names come and go: what was written to a file is one thing, and under which
name it can be found is another. Each becomes durable by a sync of its own, of the file or of the directory.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from trio_eventlog.testing._arguments import check_integer

ROOT: Final = ""
"""The path of the directory that is watched. All paths are relative to it, with ``/`` between their parts."""


@attrs.frozen
class Named:
    """A name in a directory now stands for a file: one that was created, or one that has other names."""

    path: str
    file: int


@attrs.frozen
class Removed:
    """A name is gone: of a file, or of an empty directory."""

    path: str


@attrs.frozen
class Renamed:
    """A name was replaced by another, in one step."""

    path: str
    new_path: str


@attrs.frozen
class DirectoryMade:
    """There is a new directory."""

    path: str


@attrs.frozen
class DirectorySynced:
    """The names in a directory survive from here on."""

    path: str


@attrs.frozen
class Written:
    """Bytes were written."""

    file: int
    offset: int
    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} bytes>")


@attrs.frozen
class Resized:
    """A file was cut, or made longer with zeros."""

    file: int
    size: int


@attrs.frozen
class Synced:
    """What a file contains survives from here on."""

    file: int


@attrs.frozen
class SyncFailed:
    """A sync failed.

    Linux then takes the pages for clean: what was written before may get lost, however often the file is
    synced afterwards.
    """

    file: int


@attrs.frozen
class Acknowledged:
    """The store has promised something: so many batches are stored."""

    count: int


NameOperation: TypeAlias = Named | Removed | Renamed | DirectoryMade
DataOperation: TypeAlias = Written | Resized
Operation: TypeAlias = NameOperation | DataOperation | DirectorySynced | Synced | SyncFailed | Acknowledged


class FileJournal:
    """What happened in a directory, in order; made by :func:`record_files`.

    Attributes:
      operations: what happened so far, in an order in which it can have happened.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.lock: threading.Lock = threading.Lock()
        """Held while something happens and is noted, so that the order is true."""

        self.settled: int = 0
        """The operations that made what was there at first. Power is lost after them."""

        self._files = 0

    def __repr__(self) -> str:
        return f"<FileJournal: {len(self.operations)} operations>"

    def new_file(self) -> int:
        """A number for a file."""
        self._files += 1
        return self._files

    def note(self, operation: Operation) -> None:
        """Append an operation."""
        self.operations.append(operation)

    def acknowledge(self, count: int) -> None:
        """Note that from here on ``count`` batches are promised.

        Call it as soon as ``append_batch`` has returned. May be called in any thread.

        Raises:
          TypeError, ValueError: it is not an integer of 0 or more.
        """
        check_integer("count", count, 0)
        with self.lock:
            self.note(Acknowledged(count))

    def take_in(self, directory: Path) -> dict[str, int]:
        """Note what is in a directory, as synced; returns the files by their paths."""
        found: dict[str, int] = {}
        synced: list[Operation] = [DirectorySynced(ROOT)]
        for parent, directories, names in os.walk(directory):
            relative = Path(parent).relative_to(directory)
            for name in sorted(directories):
                path = (relative / name).as_posix()
                self.note(DirectoryMade(path))
                synced.append(DirectorySynced(path))
            for name in sorted(names):
                path = (relative / name).as_posix()
                found[path] = file = self.new_file()
                self.note(Named(path, file))
                self.note(Written(file, 0, (Path(parent) / name).read_bytes()))
                synced.append(Synced(file))
        for operation in synced:
            self.note(operation)
        self.settled = len(self.operations)
        return found


def parent_of(path: str) -> str:
    """The directory of a path; ``""`` for the one that is watched."""
    return path.rpartition("/")[0]
