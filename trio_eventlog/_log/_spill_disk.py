"""The spill file on its disk: locked, written durably, replaced in one step. Blocking, no Trio."""

# ruff: noqa: PTH105, PTH108, PTH116, PTH118 - its tests let each system call fail, and so have to see it
from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from trio_eventlog._lock_file import FileLock, give_to_owner, let_go, lock_open_file
from trio_eventlog._log._spill_format import BLOCK_SIZE, Read, may_begin, read_some
from trio_eventlog._model._errors import LogBusy

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What is said where a file cannot have a second name."""

_CANNOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM})
"""What is said of directories by file systems that cannot sync them, and of those that we may not open."""


@attrs.define(eq=False)
class SpillDisk:
    """A file that is open and locked.

    A system call that fails leaves the object as it was. If the file may then have more than the object knows
    of, or its name may not be on the disk, that is remembered, and mended before anything else is written.
    """

    path: Path
    _lock: FileLock
    _fd: int
    size: int = attrs.field(default=0, init=False)
    """Bytes of the file that are known. What comes after them does not count."""
    is_damaged: bool = attrs.field(default=False, init=False)
    """Whether to keep the file under another name when it is replaced or removed."""
    _needs_cut: bool = attrs.field(default=False, init=False)  # it may have more bytes, here or on the disk
    _missing_top: bytes = attrs.field(default=b"", init=False)  # to be written at its beginning
    _needs_name: bool = attrs.field(default=False, init=False)  # its name may not be on the disk

    @classmethod
    def open(cls, path: Path) -> SpillDisk:
        """Open and lock the file at a real path, creating it if necessary.

        Raises LogBusy if it is locked already, StoreUnusable or OSError if it cannot be opened or locked.
        """
        with contextlib.ExitStack() as undo:
            lock = FileLock.acquire(f"{path}.lock", f"the spill file {path}")
            undo.callback(lock.release)
            _take_up_leftover(path)
            fd = open_file(path)
            undo.callback(let_go, fd)
            # The lock file says who may replace the file. Another name of the file, or a lock file that was
            # removed, must not let two write into it either.
            try:
                lock_open_file(fd)
            except BlockingIOError:
                raise LogBusy(
                    f"the spill file {path} is open for writing already, perhaps under another name"
                ) from None
            disk = cls(path, lock, fd)
            if not disk.is_in_place:
                raise OSError(errno.ESTALE, "it was replaced while it was being opened; try again")
            undo.pop_all()
            return disk

    @property
    def is_closed(self) -> bool:
        """Whether it was closed: the number of its descriptor may be another file's by now."""
        return self._fd < 0

    @property
    def is_in_place(self) -> bool:
        """Whether the path still leads to the file."""
        return _is_at(self.path, self._fd)

    @property
    def real_size(self) -> int:
        """Bytes that the file has, whether or not they are known."""
        return os.fstat(self._fd).st_size

    def read(self, most: int, position: int) -> bytes:
        """At most ``most`` bytes from byte ``position`` on."""
        return os.pread(self._fd, most, position)

    # --- writing ----------------------------------------------------------------------------------

    def start_anew(self, top: bytes) -> None:
        """Let the file have ``top`` and nothing else."""
        self.take_up(0)
        self.append(top)

    def take_up(self, size: int) -> None:
        """Go on with the ``size`` bytes that were found in the file; its name may not have been synced."""
        self._needs_cut = self.real_size > size
        self.size, self._needs_name = size, True

    def append(self, data: bytes) -> None:
        """Write ``data`` after what is known, durably."""
        self.mend()
        try:
            _write_at(self._fd, data, self.size)
            os.fsync(self._fd)
        except BaseException:
            self._needs_cut = True
            with contextlib.suppress(OSError):
                self.mend()
            raise
        self.size += len(data)

    def truncate(self, size: int) -> None:
        """Keep the first ``size`` bytes. If this fails, they may be what is known all the same."""
        os.ftruncate(self._fd, size)
        self.size = size
        # Until the cut is on the disk, what is written could be mixed with what was there.
        self._needs_cut = True
        os.fsync(self._fd)
        self._needs_cut = False

    def was_cut_off(self, size: int, top: bytes) -> None:
        """Take note that only ``size`` bytes are left, or fewer, if ``top`` must be written again."""
        self.size = size
        self._missing_top = self._missing_top or top
        self._needs_cut = self.is_damaged = True

    def rewrite(self, head: bytes, start: int) -> None:
        """Replace the file by one with ``head`` and what it has from byte ``start`` on."""
        new_path = Path(f"{self.path}.new")
        if _is_leftover(new_path):
            os.unlink(new_path)
        fd = open_file(new_path, os.O_EXCL)
        put_back: Callable[[], None] | None = None
        try:
            lock_open_file(fd)
            _write_at(fd, head, 0)
            _copy(self.read, start, self.size, fd, len(head))
            os.fsync(fd)
            put_back = self._keep_aside()
            try:
                os.replace(new_path, self.path)
            except OSError:
                if not _is_at(self.path, fd):
                    raise
        except BaseException:
            let_go(fd)
            with contextlib.suppress(OSError):
                if put_back is not None:
                    self._needs_name = True  # on the disk it may still have none
                    put_back()
                # Not before: it is all that there is if the file could not be put back.
                os.unlink(new_path)
            raise
        old, self._fd = self._fd, fd
        self.size += len(head) - start
        self.is_damaged = self._needs_cut = False
        self._missing_top, self._needs_name = b"", True
        let_go(old)
        with contextlib.suppress(OSError):
            self._mend_name()

    def _keep_aside(self) -> Callable[[], None] | None:
        """Keep what is to be replaced under another name, if that may be of use: it is damaged, or not ours.

        Returns what undoes that.
        """
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            return None
        if os.path.samestat(there, os.fstat(self._fd)) and not self.is_damaged:
            return None
        aside = self._name_aside()
        try:
            os.link(self.path, aside)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            # If the process ends now, the next one takes up the replacement.
            try:
                os.replace(self.path, aside)
            except OSError:
                if not _is_at(Path(aside), self._fd):
                    raise
            return partial(os.replace, aside, self.path)
        return partial(os.unlink, aside)

    def _name_aside(self) -> str:
        suffix = f".damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"
        # A name has 255 bytes at most.
        name = os.fsencode(self.path.name)[: 255 - len(suffix)]
        return os.path.join(self.path.parent, os.fsdecode(name) + suffix)

    def mend(self) -> None:
        """Finish what could not be done before. Raises OSError if it still cannot."""
        if self._missing_top:
            _write_at(self._fd, self._missing_top, 0)
            self._missing_top = b""
        if self._needs_cut:
            os.ftruncate(self._fd, self.size)
            os.fsync(self._fd)
            self._needs_cut = False
        self._mend_name()

    def _mend_name(self) -> None:
        """A new name is on the disk only with its directory."""
        if not self._needs_name:
            return
        try:
            fd = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                with contextlib.suppress(OSError):
                    os.close(fd)
        except OSError as exc:
            if exc.errno not in _CANNOT_SYNC:
                raise
        self._needs_name = False

    # --- leaving ----------------------------------------------------------------------------------

    def remove(self) -> None:
        """Remove the file, or move it aside if it is damaged. A file that took its place is left alone."""
        if not self.is_in_place:
            return
        if self.is_damaged:
            os.replace(self.path, self._name_aside())
        else:
            os.unlink(self.path)
        self.size = 0

    def close(self) -> None:
        """Close the file, and let others have it."""
        fd, self._fd = self._fd, -1
        try:
            let_go(fd)
        finally:
            self._lock.release()


def reason_of(exc: OSError, path: Path) -> str:
    """The message of the system, with the file it is about if that is another one."""
    what = exc.strerror or str(exc)
    is_of_another = exc.filename not in {None, str(path), path} and exc.errno != errno.ENOENT
    return f"{exc.filename}: {what}" if is_of_another else what


def _take_up_leftover(path: Path) -> None:
    """What a killed process was writing anew: it is of use only if the file itself is gone."""
    new_path = Path(f"{path}.new")
    if not _is_leftover(new_path):
        return
    try:
        os.lstat(path)
    except FileNotFoundError:
        os.replace(new_path, path)
    else:
        os.unlink(new_path)


def _is_leftover(path: Path) -> bool:
    """Whether ``path`` is a replacement that a process was writing when it ended, and not a foreign file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        # The process, or the power, may have ended at any moment.
        return stat.S_ISREG(os.fstat(fd).st_mode) and may_begin(os.pread(fd, 64, 0))
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def _is_at(path: Path, fd: int) -> bool:
    """Whether ``path`` is the name of the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def open_file(path: Path, more_flags: int = 0) -> int:
    """Open a regular file for reading and writing, creating it if necessary. Returns the descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | more_flags
    fd = os.open(path, flags, 0o600)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")  # noqa: TRY301 - as what the system says
        if not status.st_size:
            give_to_owner(fd, str(path).removesuffix(".new"))
    except BaseException:
        let_go(fd)
        raise
    return fd


def _write_at(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        if not written:
            raise OSError(errno.EIO, "nothing more could be written")
        view = view[written:]
        position += written


def _copy(read: Read, start: int, end: int, to_fd: int, position: int) -> None:
    """Copy the bytes from ``start`` to ``end`` to ``position`` of another file."""
    while start < end:
        block = read_some(read, start, min(start + BLOCK_SIZE, end))
        _write_at(to_fd, block, position)
        start += len(block)
        position += len(block)
