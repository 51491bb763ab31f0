"""The file that checkpoints are appended to. Everything here blocks: it is called in a thread.

A record is one line, written with one call and synced. If the process is killed in the middle, or the
machine loses its power, the last line is torn: it has no end, or has zeros in it. Whoever appends next writes
over it; whoever reads passes over it. Nothing is lost by that, since the tree goes on from the record before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._keys import Verifier
from trio_eventlog.audit._records import RECORD_BEGIN, Record, parse_record

if sys.platform != "win32":  # pragma: no branch
    import fcntl

_BLOCK: Final = 65_536


class CheckpointFile:
    """A file of checkpoints, open for appending by one at a time.

    Args:
      path: the file; created if it does not exist.
      verifier: the key of its notes.

    Attributes:
      last: the last record; None if there is none yet.

    Raises:
      AuditError: the file cannot be opened, another one has it open, or it does not end in a record of this
        key.
    """

    def __init__(self, path: str, verifier: Verifier) -> None:
        self.path = path
        self.last: Record | None = None
        self._end = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise self._error(exc) from exc
        try:
            self._lock()
            self._find_end(verifier)
            _sync_directory(path)
        except OSError as exc:
            os.close(self._fd)
            raise self._error(exc) from exc
        except BaseException:
            os.close(self._fd)
            raise

    def _error(self, exc: OSError) -> AuditError:
        return AuditError(f"{self.path}: {exc.strerror}")

    def _lock(self) -> None:
        # Elsewhere, logs cannot be locked either.
        if sys.platform != "win32":  # pragma: no branch
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AuditError(f"{self.path}: another recorder has this file open") from None

    def _find_end(self, verifier: Verifier) -> None:
        size = os.fstat(self._fd).st_size
        for start, line in _lines_backwards(self._fd, size):
            if is_torn(line):
                continue
            try:
                self.last = parse_record(line, verifier)
            except AuditError as exc:
                raise AuditError(f"{self.path}: its last line: {exc}") from exc
            self._end = start + len(line)
            return

    def append(self, record: Record) -> None:
        """Append a record, and sync it.

        Raises:
          AuditError: it cannot be written. The next call writes over what was written of it.
        """
        line = record.line()
        try:
            # What an earlier process, or call, has written of a record may be longer than this one.
            os.ftruncate(self._fd, self._end)
            rest, place = memoryview(line), self._end
            while rest:
                written = os.pwrite(self._fd, rest, place)
                rest, place = rest[written:], place + written
            os.fsync(self._fd)
        except OSError as exc:
            raise self._error(exc) from exc
        self._end += len(line)
        self.last = record

    def close(self) -> None:
        """Close the file, which also frees its lock."""
        os.close(self._fd)


def is_torn(line: bytes) -> bool:
    """Whether a line at the end of the file is a record that was not written to its end."""
    # Of anything else, such as a file that was named by mistake, nothing may be written over.
    begins = all(found in (0, wanted) for found, wanted in zip(line, RECORD_BEGIN, strict=False))
    return begins and (not line.endswith(b"\n") or b"\0" in line)


def read_lines(path: str) -> list[bytes]:
    """The lines of a file of checkpoints, without a torn one at its end.

    Raises:
      AuditError: it cannot be read.
    """
    try:
        lines = Path(path).read_bytes().splitlines(keepends=True)
    except OSError as exc:
        raise AuditError(f"{path}: {exc.strerror}") from exc
    while lines and is_torn(lines[-1]):
        lines.pop()
    return lines


def _lines_backwards(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from the last one on, each with its place. The first may lack its end."""
    start, data = size, b""
    while start or data:
        while start and b"\n" not in data[:-1]:
            length = min(max(_BLOCK, len(data)), start)
            start -= length
            data = os.pread(descriptor, length, start) + data
        line = data[data.rfind(b"\n", 0, max(len(data) - 1, 0)) + 1 :]
        data = data[: len(data) - len(line)]
        yield start + len(data), line


def _sync_directory(path: str) -> None:
    # For a file that is new. Not every file system can do it.
    with suppress(OSError):
        descriptor = os.open(Path(path).parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
