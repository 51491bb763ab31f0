"""System calls of the spill file, and the search for lines in it. Blocking, no Trio."""

# ruff: noqa: PTH116, PTH108 - its tests let each system call fail, and so have to see it
from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

import attrs

from trio_eventlog._lock_file import give_to_owner, let_go
from trio_eventlog._log._spill_format import LINE_START, MAX_MARK, PREFIX, event_in, is_beginning, mark_in

BLOCK_SIZE: Final = 1024 * 1024
"""Bytes that are read at once."""

MAX_LAST_LINE: Final = 16 * 1024 * 1024
"""Bytes at the end of the file in which the last intact line is looked for."""


@attrs.frozen
class Survey:
    """What is in a file after its header."""

    lines: int
    """Lines with an event, damaged ones included."""

    end: int
    """Where the last line ends."""

    durable_seq: int
    """The highest seq of a mark; 0 if there is none."""


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


def is_at(path: Path, fd: int) -> bool:
    """Whether ``path`` is the name of the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is a replacement that a process was writing when it ended, and not a foreign file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        # The process, or the power, may have ended at any moment.
        begin = os.pread(fd, len(PREFIX), 0).partition(b"\0")[0]
        return PREFIX.startswith(begin)
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def read_at(fd: int, start: int, end: int) -> bytes:
    """The bytes from ``start`` to ``end``."""
    parts: list[bytes] = []
    while start < end:
        block = os.pread(fd, end - start, start)
        if not block:
            raise cut_off(start, end)
        parts.append(block)
        start += len(block)
    return b"".join(parts)


def write_at(fd: int, data: bytes, position: int) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        if not written:
            raise OSError(errno.EIO, "nothing more could be written")
        view = view[written:]
        position += written


def copy_range(fd: int, start: int, end: int, to_fd: int, position: int) -> None:
    """Copy the bytes from ``start`` to ``end`` to ``position`` of another file."""
    while start < end:
        block = read_at(fd, start, min(start + BLOCK_SIZE, end))
        write_at(to_fd, block, position)
        start += len(block)
        position += len(block)


def copy_file(path: Path, to_path: str) -> None:
    """Copy a file to a new one, durably."""
    fd = open_file(path)
    try:
        to_fd = open_file(Path(to_path), os.O_EXCL)
        try:
            copy_range(fd, 0, os.fstat(fd).st_size, to_fd, 0)
            os.fsync(to_fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(to_path)
            raise
        finally:
            let_go(to_fd)
    finally:
        let_go(fd)


def cut_off(size: int, expected: int) -> OSError:
    """The error for a file that is shorter than it was."""
    return OSError(errno.EIO, f"it ends at byte {size}, and should have {expected}")


def reason_of(exc: OSError, path: Path) -> str:
    """The message of the system, with the file it is about if that is another one."""
    what = exc.strerror or str(exc)
    is_of_another = exc.filename not in {None, str(path), path} and exc.errno != errno.ENOENT
    return f"{exc.filename}: {what}" if is_of_another else what


# --- where lines begin and end --------------------------------------------------------------------


def survey(fd: int, start: int) -> Survey:
    """Survey a file from byte ``start`` on, where a line begins."""
    lines, end, durable_seq, last_mark = 0, start, 0, -1
    position, before = start, b"\n"
    while block := os.pread(fd, BLOCK_SIZE, position):
        text = before + block
        lines += block.count(b"\n")
        at = text.find(b"\n" + PREFIX)
        while at >= 0:
            lines -= 1
            last_mark = position - len(before) + at + 1
            mark = mark_in(os.pread(fd, MAX_MARK, last_mark))
            durable_seq = max(durable_seq, mark[0] if mark is not None else 0)
            at = text.find(b"\n" + PREFIX, at + 1)
        if (last := block.rfind(b"\n")) >= 0:
            end = position + last + 1
        before = text[-len(PREFIX) :]
        position += len(block)
    return Survey(lines + (last_mark >= end), end, durable_seq)


def find_line(fd: int) -> int | None:
    """Where to read a file that has no header: the first byte of an intact event or mark.

    Returns:
      The end of the file if it has only zeros and the beginning of a header; None if it has something else
      and neither event nor mark.
    """
    position, before, is_nothing = 0, b"", True
    while block := os.pread(fd, BLOCK_SIZE, position):
        is_nothing = (
            is_nothing and is_beginning(block) if position == 0 else is_nothing and not block.strip(b"\0")
        )
        text = before + block
        for found in LINE_START.finditer(text):
            at = position - len(before) + found.start()
            line = line_at(fd, at)
            if mark_in(line + b"\n") is not None or event_in(line)[0] is not None:
                return at
        before = text[1 - len(PREFIX) :]
        position += len(block)
    return position if is_nothing else None


def line_at(fd: int, position: int) -> bytes:
    """The line that begins at ``position``, without zeros and its line break."""
    parts: list[bytes] = []
    while len(parts) < MAX_LAST_LINE // BLOCK_SIZE and (block := os.pread(fd, BLOCK_SIZE, position)):
        line, end, _ = block.partition(b"\n")
        parts.append(line)
        if end:
            break
        position += len(block)
    return b"".join(parts).replace(b"\0", b"")


def last_line_end(fd: int, start: int, size: int) -> int:
    """Where the last line ends that begins at byte ``start`` or later."""
    while size > start:
        begin = max(size - BLOCK_SIZE, start)
        last = os.pread(fd, size - begin, begin).rfind(b"\n")
        if last >= 0:
            return begin + last + 1
        size = begin
    return start
