"""The files of a SQLite database: finding and creating them, noticing that they were replaced, and keeping
the write-ahead log small.

Everything here that accesses a file blocks for a moment and belongs in a worker thread.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import apsw

from trio_eventlog._lock_file import FileLock
from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog.stores.sqlite._schema import BUSY_TIMEOUT

_logger: Final = logging.getLogger("trio_eventlog")

TRANSIENT_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
)
"""What the system refuses now and may grant later. SQLite reports all of them as "unable to open"."""

PERMANENT_ERRNOS: Final = frozenset(
    {errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EPERM, errno.EROFS}
)
"""What the system will keep refusing."""

_MAX_PATH_BYTES: Final = int(apsw.vfs_details()[0]["mxPathname"]) - len("-journal")
"""Bytes; SQLite needs room for the names of its side files."""

# A process loses its POSIX locks on a file when it closes any descriptor of it, those of SQLite
# included, and then the file can be damaged. So a database is opened here only when it is certainly
# new, and no other thread of this process looks at it meanwhile.
_creating = threading.Lock()


def _forget() -> None:
    # Another thread of the parent may have held it; here there is no such thread.
    global _creating  # noqa: PLW0603 - a lock cannot be taken by force
    _creating = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows
    os.register_at_fork(after_in_child=_forget)


def checked_path(path: str | os.PathLike[str]) -> str:
    """``path`` as a string; TypeError or ValueError if it cannot name a database file."""
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path must be a string, got {type(name).__name__}")
    if name in ("", ":memory:"):
        raise ValueError(f"{name!r} names no file; for a log in memory use MemoryStore")
    if "\0" in name:
        raise ValueError(f"path {name!r} has a NUL character")
    if os.path.basename(name) in ("", os.curdir, os.pardir):  # noqa: PTH119 - str all along
        raise ValueError(f"path {name!r} names a directory, not a file")
    if _utf8(name) is None:
        raise ValueError(f"path {name!a} is not UTF-8, which SQLite needs")
    return name


def _utf8(name: str) -> bytes | None:
    try:
        return name.encode()
    except UnicodeEncodeError:
        return None


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
            elif lock.noted:
                _require_content(real, log)
            return Place(real, lock.path), lock
        except BaseException:
            lock.release()
            raise


def _require_content(path: str, log: str) -> None:
    # A log that was cut off to nothing must not begin anew in silence.
    if not size_of(path):
        raise StoreUnusable(
            f"{path}: damaged: it is empty, and had log {log!r} before; to begin anew, remove it"
        )


def _real(path: str, *, strict: bool = False) -> str:
    real = os.path.realpath(path, strict=strict)
    encoded = _utf8(real)
    if encoded is None:
        raise StoreUnusable(f"{path} resolves to {real!a}, which is not UTF-8, as SQLite needs it")
    if len(encoded) > _MAX_PATH_BYTES:
        raise StoreUnusable(
            f"{path}: too long a path for SQLite: {len(encoded)} bytes with links followed, and it takes"
            f" {_MAX_PATH_BYTES}"
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
    """Where a database is; notices when it is no longer the one that was opened there."""

    def __init__(self, path: str, lock_path: str | None = None) -> None:
        self.path: Final = path
        self._side_files: Final = [path + suffix for suffix in _SIDE_FILES]
        self._known: dict[str, tuple[int, int]] = {}
        # Not yet the side files: until a connection of this store uses them, the last one of others may
        # remove them.
        self._note(path)
        if lock_path is not None:
            self._note(lock_path)

    def check(self, *, side_files: bool = True) -> os.stat_result:
        """Check that the database and what belongs to it are the same files as before, in microseconds.

        SQLite itself does not: it goes on with files that can no longer be found. The write-ahead log can
        also be lost because the program closed a descriptor of the database, and with it SQLite's locks.

        Args:
          side_files: check write-ahead log and shared memory, too. Only while a connection keeps a lock on
            the database, so that no other process removes them rightfully.

        Returns:
          The status of the database file.
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
        # SQLite creates its side files on first use.
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
"""Seconds to wait while another process checkpoints the write-ahead log into the database."""


class Content:
    """What is in a writer's files on the disk; notices when something other than SQLite writes there.

    For example ``cp`` of a backup onto the database: the file stays the same, and SQLite would go on with
    what it remembers of the old content, and mix the two. Files are opened through SQLite, which keeps its
    locks when they are closed.
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
        try:
            self._wal.xClose()
        finally:
            self._database.xClose()

    def sync(self) -> None:
        """Make everything that was written, by any process, survive a loss of power."""
        # In this order: what is checkpointed into the database meanwhile is then in one or the other.
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
            # Syncing a directory takes the permission to read it, and not every file system can. SQLite does
            # not insist either.
            if exc.errno not in (errno.EACCES, errno.EINVAL):
                raise StoreError(f"{name}: {exc.strerror}") from exc

    def has_changed(self, found: os.stat_result) -> bool:
        """Whether the database file was written to, or the write-ahead log restarted, since :meth:`note`.

        Usually by SQLite in another process, which checkpoints the log into the database. Raises
        StoreUnusable if it cannot have been SQLite, and StoreError if the writing goes on for too long.
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
        # The magic, the page size and the use of a write-ahead log never change, and the counter of changes
        # never decreases.
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
        """Check that the write-ahead log was not truncated. While no other connection can write."""
        # Restarting it changes the header.
        if self._wal.xRead(_WAL_HEADER, 0) == self._wal_header and self._wal.xFileSize() < self._wal_size:
            raise self._overwritten(f"{self._path}-wal")

    def note(self, found: os.stat_result, *, written: bool) -> None:
        """Remember the state of the files after a transaction of this store, which ``written`` something.

        Raises StoreUnusable if the write-ahead log is not there, so that what was written is lost.
        """
        self._wal_header = self._wal.xRead(_WAL_HEADER, 0)
        self._wal_size = self._wal.xFileSize()
        if written and self._wal_header[:4] not in _WAL_MAGIC:
            raise self._overwritten(f"{self._path}-wal")
        changed = _changed(found)
        if changed != self._changed:
            self._changed = changed if self._is_whole() else None

    def raise_truncated(self, exc: apsw.IOError) -> None:
        """Raise StoreUnusable instead if something was to be read beyond the end of the write-ahead log."""
        # An error that a hook of the program raises has no number.
        if getattr(exc, "extendedresult", None) == apsw.SQLITE_IOERR_SHORT_READ:
            raise self._overwritten(f"{self._path}-wal") from exc

    def _overwritten(self, name: str) -> StoreUnusable:
        return StoreUnusable(
            f"{name} was overwritten or truncated while the store was open; check the file with"
            " trio-eventlog verify before it is used again"
        )


def _changed(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _open(path: str, kind: int) -> apsw.VFSFile:
    try:
        return apsw.VFSFile("", path, [kind | apsw.SQLITE_OPEN_READWRITE, 0])
    except apsw.CantOpenError as exc:
        # The connection could open it just before: there may be too many open files.
        raise StoreError(f"{path}: {exc}") from exc


def _number(header: bytes, place: int) -> int:
    return int.from_bytes(header[place : place + 4])


def size_of(path: str) -> int:
    """The size of a file in bytes; 0 if it is not there."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - str all along
    except OSError:
        return 0


# --- the size of the write-ahead log --------------------------------------------------------------

# SQLite checkpoints the log into the database by itself, but restarts it only if a writer comes at a moment
# when no connection reads from it. A few readers that overlap leave no such moment, and a reader that stays
# in a transaction leaves none at all; then the log grows without bound. So a writer asks for such a moment
# once the log is large, and waits a little for it: new readers then read from the database alone.

_MIB: Final = 1024 * 1024

_LARGE: Final = 8 * _MIB
"""Bytes from which on it is to be restarted. SQLite checkpoints it from 4 MiB on."""

_VERY_LARGE: Final = 16 * _MIB
"""Bytes from which on it is worth a warning that it could not be restarted."""

_FIRST_WAIT: Final = 0.1
_MAX_WAIT: Final = 1.0
"""Seconds to wait for readers, doubled each time it was in vain. Other writers wait meanwhile."""

_SHARE: Final = 20
"""An attempt may take one part in this many of the time."""

_WARN_EVERY: Final = 600.0
"""Minimum number of seconds between two warnings."""


class WriteAheadLog:
    """The write-ahead log of a database, as one writer sees it."""

    def __init__(self, path: str) -> None:
        self._path: Final = path
        self._wait = _FIRST_WAIT
        self._next_attempt = self._next_warning = -math.inf

    def keep_small(self, db: apsw.Connection) -> None:
        """Restart it if it is large, after a transaction. Raises nothing; the next transaction shrinks it."""
        now = time.monotonic()
        if now < self._next_attempt or self.size_bytes() < _LARGE:
            return
        problem: str | None = None
        db.set_busy_timeout(round(self._wait * 1000))
        try:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            problem = _who_reads(self._path)
        except apsw.Error as exc:
            # What was appended is stored all the same.
            problem = str(exc)
        finally:
            db.set_busy_timeout(round(BUSY_TIMEOUT * 1000))
        took = time.monotonic() - now
        self._next_attempt = now + took * _SHARE
        if problem is None:
            self._wait = max(_FIRST_WAIT, min(self._wait, 2 * took))
            return
        self._wait = min(2 * self._wait, _MAX_WAIT)
        if self.size_bytes() >= _VERY_LARGE and now >= self._next_warning:
            self._next_warning = now + _WARN_EVERY
            _logger.warning(
                "%s-wal: the write-ahead log has %d MiB and grows, since it could not be begun anew: %s",
                self._path,
                self.size_bytes() // _MIB,
                problem,
            )

    def size_bytes(self) -> int:
        """Its size; 0 if there is none."""
        return size_of(f"{self._path}-wal")


# Only for messages: which files the threads of this process use, and since when.
_at_work: Final[set[tuple[str, int, float]]] = set()


@contextmanager
def at_work(path: str) -> Iterator[None]:
    """For the length of a block, this thread reads from a database or writes to it."""
    entry = (path, threading.get_ident(), time.monotonic())
    _at_work.add(entry)
    try:
        yield
    finally:
        _at_work.discard(entry)


def _who_reads(path: str) -> str:
    thread = threading.get_ident()
    since = [begun for name, other, begun in _at_work.copy() if name == path and other != thread]
    if not since:
        return "another connection, in this process or another, keeps reading from it"
    longest = time.monotonic() - min(since)
    readers = "a store" if len(since) == 1 else f"{len(since)} stores"
    return f"{readers} of this process read from it, the longest for {longest:.1f} s"
