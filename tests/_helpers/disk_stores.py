"""A store that survives a loss of power, in a file that it writes by itself, for tests of what checks that.

Small and slow like its base. Its file operations are methods, so that a broken store can do without one.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import apsw

from tests._helpers.correct_stores import CorrectFileStore, Held, in_steps, in_thread

_OPEN = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_READWRITE, 0]


class ApswFile:
    """A file by way of SQLite's VFS."""

    def __init__(self, path: Path) -> None:
        self._file = apsw.VFSFile("", str(path), _OPEN)

    def read(self) -> bytes:
        return self._file.xRead(size, 0) if (size := self._file.xFileSize()) else b""

    def write(self, data: bytes, offset: int) -> None:
        # SQLite writes no more than 128 KiB at once, and says of more that the disk is full.
        for start in range(0, len(data), 2**16):
            self._file.xWrite(data[start : start + 2**16], offset + start)

    def truncate(self, size: int) -> None:
        self._file.xTruncate(size)

    def sync(self) -> None:
        try:
            self._file.xSync(apsw.SQLITE_SYNC_NORMAL)
        except apsw.IOError as exc:
            raise OSError(str(exc)) from exc

    def close(self) -> None:
        self._file.xClose()


class OsFile:
    """A file by way of the system."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def read(self) -> bytes:
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def write(self, data: bytes, offset: int) -> None:
        if os.pwrite(self._fd, data, offset) != len(data):
            raise OSError("disk full")

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class CorrectDiskStore(CorrectFileStore):
    """A log in a file of batches, each with its length and a checksum, and synced before it counts."""

    survives = "power"
    file_access = "apsw"
    file: ApswFile | OsFile | None = None

    async def _open(self) -> None:
        await in_thread(self._acquire_lock)
        self.file = await in_thread(self._open_file, self.path)
        for batch in await in_thread(self._batches):
            self._store(await in_steps(self._hold_text, batch.split(b"\t")))
            self.size += 8 + len(batch)
        await in_thread(self._begin)

    def _open_file(self, path: Path) -> ApswFile | OsFile:
        return ApswFile(path) if self.file_access == "apsw" else OsFile(path)

    def _batches(self) -> list[bytes]:
        assert self.file is not None
        content = self.file.read()
        batches: list[bytes] = []
        position = 0
        while len(head := content[position : position + 8]) == 8:
            batch = content[position + 8 : position + 8 + int.from_bytes(head[:4])]
            if not batch or len(batch) != int.from_bytes(head[:4]) or zlib.crc32(batch) != _number(head[4:]):
                break
            batches.append(batch)
            position += 8 + len(batch)
        return batches

    def _begin(self) -> None:
        self._cut()
        # What an earlier process wrote may not be on the disk yet.
        self._sync()
        self._sync_directory()

    def _cut(self) -> None:
        """Cut off a batch that is not whole."""
        assert self.file is not None
        self.file.truncate(self.size)

    def _sync(self) -> None:
        assert self.file is not None
        self.file.sync()

    def _sync_directory(self) -> None:
        fd = os.open(self.location, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _free(self) -> None:
        if self.file is not None:
            self.file.close()
        self._release_lock()

    async def _commit(self, new: Sequence[Held]) -> None:
        await in_thread(self._write_batch, b"\t".join(held.text for held in new))
        self._store(new)

    def _write_batch(self, batch: bytes) -> None:
        assert self.file is not None
        data = framed(batch)
        # Where the next one will be: after a sync that failed, all of it is written again.
        self.file.write(data, self.size)
        self._sync()
        self.size += len(data)


def framed(batch: bytes) -> bytes:
    return len(batch).to_bytes(4) + zlib.crc32(batch).to_bytes(4) + batch


def _number(data: bytes) -> int:
    return int.from_bytes(data)


class CorrectOsStore(CorrectDiskStore):
    """The same by way of the system."""

    file_access = "os"
