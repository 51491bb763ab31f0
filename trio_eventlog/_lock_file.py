"""The lock that lets one program at a time write to something on disk.

A side file locked with ``flock``, not what it guards: POSIX locks do not exclude the same process, and a
process loses all of them on a file when it closes any handle of it. All functions here block for a moment
and belong in a worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from typing import Final

from trio_eventlog._model._errors import LogBusy, StoreUnusable

if sys.platform != "win32":  # pragma: no branch
    import fcntl


class FileLock:
    """A lock that is held; it ends with :meth:`release` or with the process."""

    def __init__(self, path: str, fd: int, noted: str = "") -> None:
        self.path: Final = path
        self.noted: Final = noted
        """What an earlier holder noted for the next ones; empty if none did."""

        self._fd = fd

    @classmethod
    def acquire(cls, path: str, what: str, mode: int = 0o600, guarded: str | None = None) -> FileLock:
        """Take the lock at a real path, whose file is made if it is not there.

        ``what`` is what it guards, for messages, and ``guarded`` the path of that, by default its own without
        the ``.lock`` at the end: users who may write to it may lock it, as with SQLite's own side files, so
        the lock file gets ``mode``, and its owner and group. Raises LogBusy if the lock is held already, in
        this process or another, StoreUnusable if there are no such locks here, and OSError if the lock file
        cannot be made.
        """
        if sys.platform == "win32":  # pragma: no cover
            raise StoreUnusable(f"{what} cannot be written: this platform does not have flock")
        with _registry.mutex:
            if path in _registry.held:
                raise LogBusy(f"{what} is open for writing already, in this process")
            fd = _open(path, mode, path.removesuffix(".lock") if guarded is None else guarded)
            try:
                lock_open_file(fd)
            except BlockingIOError:
                by = _holder(fd)
                let_go(fd)
                raise LogBusy(f"{what} is open for writing elsewhere{by}") from None
            except OSError as exc:
                let_go(fd)
                if exc.errno == errno.ENOMEM:
                    raise
                raise StoreUnusable(f"{path} cannot be locked: {exc.strerror}") from exc
            lock = _registry.held[path] = cls(path, fd, _content(fd)[1])
        lock.note(lock.noted)
        return lock

    def note(self, text: str) -> None:
        """Leave a line for the next holders, if the system permits. Before it, for people, our process id."""
        content = f"{os.getpid()}\n" + (f"{text}\n" if text else "")
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, content.encode(), 0)

    def release(self) -> None:
        """Let the next appender in. Safe to call again, and in a child that inherited the object.

        The file stays: if it were removed, another process could lock a file that no longer has a name.
        """
        with _registry.mutex:
            if _registry.held.get(self.path) is self:
                del _registry.held[self.path]
                let_go(self._fd)


def lock_open_file(fd: int) -> None:
    """Lock the open file ``fd`` itself, until :func:`let_go`. A process that is forked off does not keep it.

    For a file that no other code opens while it is locked, except to find that out. Raises BlockingIOError if
    it is locked already, in this process or another, and OSError if it cannot be locked.
    """
    _registry.files.add(fd)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def let_go(fd: int) -> None:
    """Close ``fd``, and with it its lock if it has one. It is closed whatever the system says."""
    if fd in _registry.files:
        _registry.files.discard(fd)
        # At once: a process that was forked off just now may not have closed its copy yet.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
    with contextlib.suppress(OSError):
        os.close(fd)


def _open(path: str, mode: int, guarded: str) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags)
    # Not every file system has modes.
    with contextlib.suppress(OSError):
        # The umask has taken from the mode what the database has.
        os.fchmod(fd, mode)
    give_to_owner(fd, guarded)
    return fd


def give_to_owner(fd: int, beside: str) -> None:
    """Give the new file ``fd`` owner and group of the file ``beside`` it, as far as the system allows.

    Otherwise what root does once would lock out the owner. SQLite does the same with its own side files. If
    there is no file but the new one, its directory counts.
    """
    for path in (beside, os.path.dirname(beside)):  # noqa: PTH120 - str all along
        with contextlib.suppress(OSError):
            owner = os.stat(path)  # noqa: PTH116 - str all along
            if not os.path.samestat(owner, os.fstat(fd)):
                break
    else:  # pragma: no cover - a directory that is gone
        return
    # Only root may give a file away. Others may give it to one of their groups.
    for uid in (owner.st_uid, -1):
        with contextlib.suppress(OSError):
            os.fchown(fd, uid, owner.st_gid)
            return


def _holder(fd: int) -> str:
    holder, _ = _content(fd)
    return f" (process {holder})" if holder.isdigit() else ""


def _content(fd: int) -> tuple[str, str]:
    """The process id in a lock file, and what was noted there."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = os.pread(fd, _MAX_NOTE, 0).decode(errors="replace").splitlines()
    holder, noted, *_ = [*lines, "", ""]
    return holder.strip(), noted.strip()


_MAX_NOTE: Final = 200
"""Bytes of a lock file that are read."""


class _Registry:
    """The locks of this process.

    flock belongs to the open file, which a fork shares: a child would keep the lock alive after its
    parent died. So a child closes its copies, which leaves the parent's lock alone.
    """

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.held: dict[str, FileLock] = {}  # by lock file
        self.files: set[int] = set()  # descriptors that are locked, those of lock files included

    def forget(self) -> None:
        # Another thread of the parent may have held the mutex; here there is no such thread.
        self.mutex = threading.Lock()
        self.held.clear()
        files, self.files = self.files, set()
        for fd in files:
            with contextlib.suppress(OSError):
                os.close(fd)


_registry: Final = _Registry()

if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows
    os.register_at_fork(after_in_child=_registry.forget)
