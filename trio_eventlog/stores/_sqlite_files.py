"""The files of a SQLite database: finding, creating and watching them.

What reaches for a file here blocks for a moment and belongs in a worker thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from trio_eventlog._errors import StoreError, StoreUnusable
from trio_eventlog._handover import giving_way
from trio_eventlog._lockfile import FileLock

T = TypeVar("T")

PASSING_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
)
"""What the system refuses now and may grant later. To SQLite, all of these are "unable to open"."""

_STAYING: Final = frozenset(
    {errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EPERM, errno.EROFS}
)

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
    """``path`` as text that names a file.

    Raises:
      TypeError: it is no text.
      ValueError: it can be no name of a database.
    """
    name = os.fspath(path)
    if not isinstance(name, str):
        msg = f"path must be text, got {type(name).__name__}"
        raise TypeError(msg)
    if name in ("", ":memory:"):
        msg = f"{name!r} names no file; for a log in memory use MemoryStore"
        raise ValueError(msg)
    if "\0" in name:
        msg = f"path {name!r} has a NUL character"
        raise ValueError(msg)
    if not _is_utf8(name):
        msg = f"path {name!a} is not UTF-8, which SQLite needs"
        raise ValueError(msg)
    return name


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


async def in_thread(path: str, work: Callable[[], T]) -> T:
    """Run ``work``, with the errors of the system as errors of a store. Not cancelled once it runs."""
    # A limiter of its own: a program that keeps Trio's default one busy shall not keep us waiting.
    try:
        with giving_way():
            return await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))
    except (FileNotFoundError, NotADirectoryError) as exc:
        msg = f"{path}: no such file or directory"
        raise StoreUnusable(msg) from exc
    except OSError as exc:
        other = f" ({exc.filename})" if exc.filename not in (None, path) else ""
        msg = f"{path}: {exc.strerror}{other}"
        raise (StoreUnusable if exc.errno in _STAYING else StoreError)(msg) from exc
    except RuntimeError as exc:
        # No thread is to be had.
        msg = f"{path}: {exc}"
        raise StoreError(msg) from exc


def existing(path: str) -> Place:
    """Find a database that is there."""
    with _creating:
        real = _real(path, strict=True)
        _require_file(real, os.R_OK)
        return Place(real)


def claim(path: str, log: str) -> tuple[Place, FileLock]:
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
            lock = FileLock.acquire(lock_path, f"log {log!r} in {real}", 0o600 if mode is None else mode)
        except FileNotFoundError as exc:
            msg = f"{path}: the directory {os.path.dirname(real)} does not exist"  # noqa: PTH120 - str all along
            raise StoreUnusable(msg) from exc
        try:
            if mode is None:
                os.close(os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return Place(real), lock
        except FileExistsError:
            # By another process, for another log, just now.
            return Place(real), lock
        except BaseException:
            lock.release()
            raise


def _real(path: str, *, strict: bool = False) -> str:
    real = os.path.realpath(path, strict=strict)
    if not _is_utf8(real):
        msg = f"{path} stands for {real!a}, which is not UTF-8, as SQLite needs it"
        raise StoreUnusable(msg)
    return real


def _require_file(path: str, access: int) -> int:
    mode = os.stat(path).st_mode  # noqa: PTH116 - str all along
    if not stat.S_ISREG(mode):
        msg = f"{path} is no regular file"
        raise StoreUnusable(msg)
    # SQLite does not say why it could not open a file.
    if not os.access(path, access, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return stat.S_IMODE(mode)


class Place:
    """Where a database is, to notice when it no longer is the one that was opened there."""

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self._known: dict[str, tuple[int, int]] = {}
        # Not yet the write-ahead log: until a connection of ours uses it, the last one of others may take it
        # away.
        self._check(path)

    def check(self) -> None:
        """See that database and write-ahead log are the files that they were. Takes a few microseconds.

        The first call comes once a connection has read from the database.

        SQLite itself does not: it goes on with files that nobody will find again. Another way to lose
        the write-ahead log is that somebody closed a descriptor of the database in this process, and
        with it SQLite's locks.

        Raises:
          StoreUnusable: they are not.
          StoreError: that cannot be told now.
        """
        self._check(self.path)
        self._check(f"{self.path}-wal")

    def _check(self, name: str) -> None:
        found = _identity(name)
        known = self._known.get(name)
        if known is None:
            # SQLite creates the write-ahead log when it is first needed.
            if found is not None:
                self._known[name] = found
        elif found != known:
            msg = f"{name} was moved, removed or replaced while the store was open"
            raise StoreUnusable(msg)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - str all along
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        msg = f"{path}: {exc.strerror}"
        raise StoreError(msg) from exc
    return found.st_dev, found.st_ino


def size_of(path: str) -> int:
    """The size of a file in bytes; 0 if it is not there."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - str all along
    except OSError:
        return 0
