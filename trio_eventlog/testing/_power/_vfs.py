"""Watching what a store does to its files by way of SQLite, with a VFS in front of SQLite's own."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw

from trio_eventlog.testing._arguments import check_integers, checked_path
from trio_eventlog.testing._power._journal import (
    ROOT,
    DirectorySynced,
    FileJournal,
    Named,
    Removed,
    Resized,
    Synced,
    SyncFailed,
    Written,
    parent_of,
)

_SYNCS_DIRECTORY: Final = (
    apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
)
"""With the first sync of such a file, SQLite's VFS for Unix syncs the directory, too."""

_NOT_KEPT: Final = ("-shm",)
"""Shared memory is worth nothing after a restart."""


class Watch:
    """What is watched, and where it is noted.

    Attributes:
      journal: where it is noted.
    """

    def __init__(self, directory: Path, journal: FileJournal, failing_syncs: frozenset[int]) -> None:
        self.journal: Final = journal
        self._root: Final = os.path.realpath(directory)
        self._files: dict[str, int] = journal.take_in(directory)
        self._failing_syncs = failing_syncs
        self._syncs = 0

    def relative(self, name: str | None) -> str | None:
        """The path of a file that is watched; None for any other."""
        if name is None or not name.startswith(self._root + os.sep) or name.endswith(_NOT_KEPT):
            return None
        return name[len(self._root) + 1 :].replace(os.sep, "/")

    def opened(self, path: str) -> int:
        """The file at a path, which is there. It may have come there without SQLite."""
        if path not in self._files:
            self._files[path] = file = self.journal.new_file()
            self.journal.note(Named(path, file))
            content = Path(self._root, path).read_bytes()
            if content:
                self.journal.note(Written(file, 0, content))
        return self._files[path]

    def removed(self, path: str, *, is_synced: bool) -> None:
        """A file was removed."""
        if self._files.pop(path, None) is not None:
            self.journal.note(Removed(path))
        if is_synced:
            self.journal.note(DirectorySynced(parent_of(path)))

    def sync(self, note: Callable[[], None], failed: SyncFailed | None) -> None:
        """Note a sync, or let it fail."""
        self._syncs += 1
        if self._syncs in self._failing_syncs:
            if failed is not None:
                self.journal.note(failed)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        note()

    def directory_of(self, fd: int) -> str | None:
        """The path of the directory that is open as ``fd``; None if it is none that is watched."""
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            for parent, _, _ in os.walk(self._root):
                if os.path.samestat(os.stat(parent), status):  # noqa: PTH116 - str all along
                    relative = os.path.relpath(parent, self._root).replace(os.sep, "/")
                    return ROOT if relative == "." else relative
        return None


class _RecordingVFS(apsw.VFS):
    def __init__(self, name: str, base: str, watch: Watch) -> None:
        self._base = base
        self._watch = watch
        super().__init__(name, base)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        path = self._watch.relative(filename)
        if path is None:
            return apsw.VFSFile(self._base, name, flags)
        with self._watch.journal.lock:
            file = _RecordedFile(self, self._base, name, flags, self._watch)
            file.number = self._watch.opened(path)
            file.path = path
            return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - apsw's
        path = self._watch.relative(filename)
        if path is None:
            super().xDelete(filename, syncdir)
            return
        with self._watch.journal.lock:
            super().xDelete(filename, False)
            self._watch.removed(path, is_synced=syncdir)


class _RecordedFile(apsw.VFSFile):
    number = 0
    path = ""

    def __init__(self, vfs: _RecordingVFS, base: str, name: Any, flags: list[int], watch: Watch) -> None:
        super().__init__(base, name, flags)
        # It must live as long as a file of it is open.
        self._vfs = vfs
        self._watch = watch
        self._journal = watch.journal
        self._syncs_directory = bool(flags[0] & _SYNCS_DIRECTORY and flags[0] & apsw.SQLITE_OPEN_CREATE)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's
        with self._journal.lock:
            super().xWrite(data, offset)
            self._journal.note(Written(self.number, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's
        with self._journal.lock:
            super().xTruncate(newsize)
            self._journal.note(Resized(self.number, newsize))

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802 - apsw's
        # Nothing is synced in truth: it takes long, and power is not lost in truth.
        with self._journal.lock:
            try:
                self._watch.sync(self._note_synced, SyncFailed(self.number))
            except OSError as exc:
                raise apsw.IOError("disk I/O error") from exc

    def _note_synced(self) -> None:
        self._journal.note(Synced(self.number))
        if self._syncs_directory:
            self._syncs_directory = False
            self._journal.note(DirectorySynced(parent_of(self.path)))


@contextmanager
def record_files(
    directory: str | os.PathLike[str], *, failing_syncs: Collection[int] = ()
) -> Iterator[FileJournal]:
    """Note what is done by way of SQLite to the files in a directory, for the length of a ``with`` block.

    For stores on apsw. Connections that are opened meanwhile with SQLite's default VFS are watched, and so
    are ``os.fsync`` and ``os.fdatasync`` of a directory. What was in the directory before counts as synced.
    Nothing is really synced meanwhile, so that this is fast.

    For the length of the block it changes SQLite's default VFS and those two functions, for the whole
    process. Files outside of the directory are not affected. One block at a time in a process.

    Args:
      directory: which; it must exist.
      failing_syncs: which syncs fail, by their number from 1 on; after each of them, what was written to
        that file before can no longer be made safe, as on Linux.

    Yields:
      The journal, which grows meanwhile.

    Raises:
      TypeError, ValueError: ``directory`` is not a path; the syncs are not integers of 1 or more.
      NotADirectoryError: the directory does not exist.
    """
    directory = checked_path("directory", directory)
    check_integers("failing_syncs", failing_syncs, 1)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    journal = FileJournal()
    watch = Watch(directory, journal, frozenset(failing_syncs))
    before = apsw.vfs_names()[0]
    name = f"trio_eventlog.testing {uuid.uuid4()}"
    vfs = _RecordingVFS(name, before, watch)
    apsw.set_default_vfs(name)
    try:
        with _watched_syncs(watch):
            yield journal
    finally:
        apsw.set_default_vfs(before)
        # Connections that are still open keep it alive by their files.
        vfs.unregister()


@contextmanager
def _watched_syncs(watch: Watch) -> Iterator[None]:
    """Watch syncs of directories, which SQLite's Python interface does not offer."""
    functions = {name: getattr(os, name) for name in ("fsync", "fdatasync") if hasattr(os, name)}

    def watched(function: Callable[[Any], None]) -> Callable[[Any], None]:
        def sync(fd: Any) -> None:
            path = watch.directory_of(fd if isinstance(fd, int) else fd.fileno())
            if path is None:
                function(fd)
                return
            with watch.journal.lock:
                watch.sync(lambda: watch.journal.note(DirectorySynced(path)), None)

        return sync

    for name, function in functions.items():
        setattr(os, name, watched(function))
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(os, name, function)
