"""The files of a SQLite database: finding, creating and watching them.

What reaches for a file here blocks for a moment and belongs in a worker thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
from contextlib import suppress
from typing import Final

import apsw

from trio_eventlog._lock_file import FileLock
from trio_eventlog._model._errors import StoreError, StoreUnusable

TRANSIENT_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
)
"""What the system refuses now and may grant later. To SQLite, all of these are "unable to open"."""

PERMANENT_ERRNOS: Final = frozenset(
    {errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EPERM, errno.EROFS}
)
"""What the system will go on refusing."""

_LONGEST_PATH: Final = int(apsw.vfs_details()[0]["mxPathname"]) - len("-journal")
"""Bytes; SQLite wants room for the names of its side files."""

# A process loses its POSIX locks on a file when it closes any descriptor of it, those of SQLite
# included, and then the file can be damaged. So a database is opened here only when it is certainly
# new, and nobody else of this process looks at it meanwhile.
_creating = threading.Lock()


def _forget() -> None:
    # Another thread of the parent may have held it; here there is no such thread.
    global _creating  # noqa: PLW0603 - a lock cannot be taken by force
    _creating = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows
    os.register_at_fork(after_in_child=_forget)


def checked_path(path: str | os.PathLike[str]) -> str:
    """Check that ``path`` can name a database file, and return it as a string.

    Raises:
      TypeError: it is not a string.
      ValueError: it cannot.
    """
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path must be a string, got {type(name).__name__}")
    if name in ("", ":memory:"):
        raise ValueError(f"{name!r} names no file; for a log in memory use MemoryStore")
    if "\0" in name:
        raise ValueError(f"path {name!r} has a NUL character")
    if os.path.basename(name) in ("", os.curdir, os.pardir):  # noqa: PTH119 - str all along
        raise ValueError(f"path {name!r} names a directory, not a file")
    if not _is_utf8(name):
        raise ValueError(f"path {name!a} is not UTF-8, which SQLite needs")
    return name


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def existing(path: str) -> Place:
    """Find a database that is there."""
    with _creating:
        real = _real(path, strict=True)
        _require_file(real, os.R_OK)
        return Place(real)


def acquire(path: str, log: str) -> tuple[Place, FileLock]:
    """Lock ``log`` for writing in a database, which is created if it is not there."""
    real = _real(path)
    with _creating:
        try:
            mode = _require_file(real, os.R_OK | os.W_OK)
        except FileNotFoundError:
            mode = None
        # The lock first: what cannot be locked is not created.
        try:
            lock_path = f"{real}.{hashlib.sha256(log.encode()).hexdigest()[:16]}.lock"
            lock = FileLock.acquire(
                lock_path, f"log {log!r} in {real}", 0o600 if mode is None else mode, real
            )
        except FileNotFoundError as exc:
            raise StoreUnusable(
                f"{path}: the directory {os.path.dirname(real)} does not exist"  # noqa: PTH120 - str all along
            ) from exc
        try:
            if mode is None:
                # Unless by another process, for another log, just now.
                with suppress(FileExistsError):
                    os.close(os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return Place(real, lock.path), lock
        except BaseException:
            lock.release()
            raise


def _real(path: str, *, strict: bool = False) -> str:
    real = os.path.realpath(path, strict=strict)
    if not _is_utf8(real):
        raise StoreUnusable(f"{path} stands for {real!a}, which is not UTF-8, as SQLite needs it")
    size = len(real.encode())
    if size > _LONGEST_PATH:
        raise StoreUnusable(
            f"{path}: too long a path for SQLite: {size} bytes, links followed; it takes {_LONGEST_PATH}"
        )
    return real


def _require_file(path: str, access: int) -> int:
    mode = os.stat(path).st_mode  # noqa: PTH116 - str all along
    if not stat.S_ISREG(mode):
        raise StoreUnusable(f"{path} is no regular file")
    # SQLite does not say why it could not open a file.
    if not os.access(path, access, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return stat.S_IMODE(mode)


_SIDE_FILES: Final = ("-wal", "-shm")


class Place:
    """Where a database is, to notice when it no longer is the one that was opened there."""

    def __init__(self, path: str, lock_path: str | None = None) -> None:
        self.path: Final = path
        self._side_files: Final = [path + suffix for suffix in _SIDE_FILES]
        self._known: dict[str, tuple[int, int]] = {}
        # Not yet the side files: until a connection of ours uses them, the last one of others may take them
        # away.
        self._note(path)
        if lock_path is not None:
            self._note(lock_path)

    def check(self, *, side_files: bool = True) -> os.stat_result:
        """See that the database and what belongs to it are the files that they were, in some microseconds.

        SQLite itself does not: it goes on with files that nobody will find again. Another way to lose
        the write-ahead log is that somebody closed a descriptor of the database in this process, and
        with it SQLite's locks.

        Args:
          side_files: look at write-ahead log and shared memory, too. The first time, a connection has read
            from the database and keeps its lock, so that nobody else takes them away rightfully.

        Returns:
          What the system says of the database.

        Raises:
          StoreUnusable: they are not.
          StoreError: that cannot be told now.
        """
        found = self._check(self.path)
        for name in self._known:
            if name != self.path:
                self._check(name)
        if side_files:
            for name in self._side_files:
                if name not in self._known:
                    self._note(name)
        return found

    def _check(self, name: str) -> os.stat_result:
        found = _stat(name)
        if found is None or (found.st_dev, found.st_ino) != self._known.get(name):
            raise StoreUnusable(f"{name} was moved, removed or replaced while the store was open")
        return found

    def _note(self, name: str) -> None:
        found = _stat(name)
        # SQLite creates its side files when they are first needed.
        if found is not None:
            self._known[name] = found.st_dev, found.st_ino


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - str all along
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc


_HEADER: Final = 100
"""Bytes at the beginning of a database."""

_WAL_HEADER: Final = 32

_WAL_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")

_SETTLE: Final = 2.5
"""Seconds to wait while another process folds the write-ahead log into the database."""


class Content:
    """What is in a writer's files on the disk, to notice when something else than SQLite writes there.

    Such as ``cp`` of a backup onto the database, which keeps the file and changes what is in it: SQLite would
    go on with what it remembers of the old content, and mix the two. All of it runs in the thread of the
    writer's connection. Files are opened through SQLite, which keeps its locks when they are closed.
    """

    def __init__(self, path: str, found: os.stat_result) -> None:
        self._path = path
        self._changed: tuple[int, int, int] | None = _changed(found)
        self._database = _open(path, apsw.SQLITE_OPEN_MAIN_DB)
        try:
            self._wal = _open(f"{path}-wal", apsw.SQLITE_OPEN_WAL)
        except BaseException:
            self._database.xClose()
            raise
        self._header = self._database.xRead(_HEADER, 0)
        self._wal_header = self._wal.xRead(_WAL_HEADER, 0)
        self._wal_size = self._wal.xFileSize()

    def close(self) -> None:
        """Close the files."""
        try:
            self._wal.xClose()
        finally:
            self._database.xClose()

    def sync(self) -> None:
        """See that all that was written, by whomever, survives a loss of power.

        Raises:
          apsw.IOError, StoreError: the system could not.
        """
        # In this order: what is folded into the database meanwhile is then in the one or in the other.
        self._wal.xSync(apsw.SQLITE_SYNC_NORMAL)
        self._database.xSync(apsw.SQLITE_SYNC_NORMAL)
        # The names of new files.
        name = os.path.dirname(self._path)  # noqa: PTH120 - str all along
        try:
            directory = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as exc:
            # Who may not read a directory cannot sync it, nor can everybody who may. SQLite does not insist.
            if exc.errno not in (errno.EACCES, errno.EINVAL):
                raise StoreError(f"{name}: {exc.strerror}") from exc

    def has_changed(self, found: os.stat_result) -> bool:
        """Whether the database file was written to, or the write-ahead log begun anew, since :meth:`note`.

        As a rule that is SQLite in another process, which folds the write-ahead log into the database.

        Args:
          found: what the system says of the database now.

        Raises:
          StoreUnusable: it cannot have been SQLite.
          StoreError: it still goes on.
        """
        changed = _changed(found)
        if changed == self._changed:
            return self._wal.xRead(_WAL_HEADER, 0) != self._wal_header
        give_up = time.monotonic() + _SETTLE
        # SQLite writes the first page before it writes the last ones.
        while not self._is_whole():
            if time.monotonic() > give_up:
                now = _stat(self._path)
                if now is None or _changed(now) == changed:
                    raise self._overwritten(self._path)
                raise StoreError(
                    f"{self._path}: another process has been writing to it for more than {_SETTLE} seconds"
                )
            time.sleep(0.01)
        return True

    def _is_whole(self) -> bool:
        header = self._database.xRead(_HEADER, 0)
        # What never changes: the magic, the size of pages, that there is a write-ahead log. And whenever the
        # file grows, a number does.
        if (
            len(header) < _HEADER
            or header[:20] != self._header[:20]
            or _number(header, 24) < _number(self._header, 24)
        ):
            raise self._overwritten(self._path)
        page_size = int.from_bytes(header[16:18]) or 65536
        if self._database.xFileSize() < _number(header, 28) * (65536 if page_size == 1 else page_size):
            return False
        self._header = header
        return True

    def check_wal(self) -> None:
        """See that the write-ahead log has not been cut off. While no other writer has the turn.

        Raises:
          StoreUnusable: it has.
        """
        # It is begun anew with another header.
        if self._wal.xRead(_WAL_HEADER, 0) == self._wal_header and self._wal.xFileSize() < self._wal_size:
            raise self._overwritten(f"{self._path}-wal")

    def note(self, found: os.stat_result, *, written: bool) -> None:
        """Remember how the files are after a transaction of ours, which may have folded in the log.

        Args:
          found: what the system says of the database now.
          written: whether there was something to write.

        Raises:
          StoreUnusable: the write-ahead log is not there, so that what was just written will not be found.
        """
        self._wal_header = self._wal.xRead(_WAL_HEADER, 0)
        self._wal_size = self._wal.xFileSize()
        if written and self._wal_header[:4] not in _WAL_MAGIC:
            raise self._overwritten(f"{self._path}-wal")
        changed = _changed(found)
        if changed != self._changed:
            self._changed = changed if self._is_whole() else None

    def raise_truncated(self, exc: apsw.IOError) -> None:
        """Raise the right error if something that is in the write-ahead log is beyond its end."""
        # One that is raised by a hook of the program has no number.
        if getattr(exc, "extendedresult", None) == apsw.SQLITE_IOERR_SHORT_READ:
            raise self._overwritten(f"{self._path}-wal") from exc

    def _overwritten(self, name: str) -> StoreUnusable:
        return StoreUnusable(
            f"{name} was overwritten or truncated while the store was open; look the file over with"
            " trio-eventlog verify before it is used again"
        )


def _changed(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _open(path: str, kind: int) -> apsw.VFSFile:
    try:
        return apsw.VFSFile("", path, [kind | apsw.SQLITE_OPEN_READWRITE, 0])
    except apsw.CantOpenError as exc:
        # The connection could, just before: there may be too many open files.
        raise StoreError(f"{path}: {exc}") from exc


def _number(header: bytes, place: int) -> int:
    return int.from_bytes(header[place : place + 4])


def size_of(path: str) -> int:
    """The size of a file in bytes; 0 if it is not there."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - str all along
    except OSError:
        return 0
