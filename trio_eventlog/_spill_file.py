"""A file for events that memory cannot hold any longer. Floor 3, beside the log; blocking, no Trio.

Layout: lines of UTF-8. The first is a header in JSON. Each of the others is one event, the CRC-32 of its JSON
in eight hexadecimal digits, a blank, and the JSON (:func:`to_json` never writes a line break)::

    {"trio_eventlog": "spill", "version": 1, "log_id": "…"}
    1c291ca3 {"id": "…", "seq": 17, …}

A line that is damaged costs itself and no other. A last line without its line break was being written when
the process ended; it was never acknowledged, and goes.

The file is a queue. Its oldest events are read as a batch, which counts as settled when the next is asked
for; what is settled is dead, and goes when all is settled, when the dead outweigh the living, and at the
end. A process that is killed leaves dead events behind: they are delivered again, and the store knows them.

Each method takes the lock of the object, so that a thread which was given up on does not meet the next.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import threading
import time
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs

from trio_eventlog._codec import from_json, give_seq, seal_persisted, to_json
from trio_eventlog._errors import CodecError, SpillError, StoreUnusable
from trio_eventlog._events import PersistedEvent
from trio_eventlog._lockfile import FileLock, give_to_owner
from trio_eventlog._util import fork_count

VERSION: Final = 1
"""Of the layout above."""

_BLOCK: Final = 1024 * 1024
"""Bytes that are read at once."""

_LONGEST_HEADER: Final = 64 * 1024

_MOST_DEAD: Final = 4 * 1024 * 1024
"""Bytes of settled events for which the file is not written anew."""

_CHECKED: Final = re.compile(rb"[0-9a-f]{8} \{")
"""Where an event may begin."""

_MOST_SEARCHED: Final = 16
"""Places in one line where an event may begin; each costs a checksum of the rest."""


class SpillFull(OSError):
    """The file has reached its bound; nothing was written."""


@attrs.frozen
class Load:
    """What one read brought."""

    events: list[PersistedEvent]
    """Intact events, ascending by seq."""

    end: int
    """The byte where the read ended."""


class SpillFile:
    """An open spill file, locked against all others.

    Args:
      path: of the file, made with mode 0600 if it is not there.
      log_id: what tells the log from all others; None if its store does not say.
      max_bytes: most bytes that the file may have.

    Raises:
      SpillError: the file belongs to another log, is no spill file, or cannot be opened.
      LogBusy: another log, in this process or another, has it open.
    """

    def __init__(self, path: str | os.PathLike[str], log_id: str | None, max_bytes: int) -> None:
        self.path: Final = Path(os.path.realpath(path))
        self._log_id = log_id
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._forks = fork_count()
        self._closing = False
        self._header = _header(log_id)
        self._damaged = False
        try:
            self._lock = FileLock.acquire(f"{self.path}.lock", f"the spill file {self.path}")
            try:
                self._fd = _open(self.path)
                try:
                    self.recovered: int = self._begin()
                except BaseException:
                    os.close(self._fd)
                    raise
            except BaseException:
                self._lock.release()
                raise
        except StoreUnusable as exc:
            if type(exc) is not StoreUnusable:
                raise
            raise SpillError(self.path, str(exc)) from exc
        except OSError as exc:
            raise SpillError(self.path, exc.strerror or str(exc)) from exc
        self._base = 0
        self._old_unread = self.recovered
        """Lines of an earlier run that were not read yet."""

    def _begin(self) -> int:
        """Check the header and find the ends. Returns how many lines of an earlier run there are."""
        size = os.fstat(self._fd).st_size
        head = os.pread(self._fd, _LONGEST_HEADER, 0)
        end_of_header = head.find(b"\n") + 1
        if not end_of_header and size < _LONGEST_HEADER and self._header.startswith(head):
            # New, or killed while it was new.
            self._clear()
            return 0
        self._check_header(head[: end_of_header or None])
        if end_of_header == size:
            # Without events it may be any log's.
            self._clear()
            return 0
        lines, end = _count_lines(self._fd, end_of_header)
        os.ftruncate(self._fd, end)
        self._first = self._live_from = self._read_to = end_of_header
        self._end = end
        return lines

    def _check_header(self, line: bytes) -> None:
        try:
            header: Any = json.loads(line)
            is_ours = header["trio_eventlog"] == "spill"
            version, log_id = header["version"], header["log_id"]
        except (ValueError, KeyError, TypeError):
            is_ours, version, log_id = False, 0, None
        if not is_ours:
            raise SpillError(self.path, "this is no spill file; name another one, or move this one away")
        if version != VERSION:
            msg = f"written by another version of trio_eventlog (layout {version}, this one knows {VERSION})"
            raise SpillError(self.path, msg)
        if log_id is not None and self._log_id is not None and log_id != self._log_id:
            msg = (
                f"it has events of another log ({log_id}, not {self._log_id}); open that log with it once, or"
                " move it away"
            )
            # Not before it is known that there are any.
            if os.fstat(self._fd).st_size > len(line):
                raise SpillError(self.path, msg)

    def _clear(self) -> None:
        """Let the file have a header and nothing else."""
        os.ftruncate(self._fd, 0)
        _write(self._fd, self._header, 0)
        os.fsync(self._fd)
        _sync_directory(self.path)
        self._first = self._live_from = self._read_to = self._end = len(self._header)
        self._old_unread = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return self._end

    def number_from(self, first_seq: int) -> None:
        """Let the events of an earlier run have new seqs, ``first_seq`` and up, line by line."""
        self._base = first_seq + self.recovered

    def _require_own_process(self) -> None:
        # Who forked this process goes on writing there, and may have held the mutex.
        if fork_count() != self._forks:
            msg = "the spill file belongs to the process that forked this one"
            raise OSError(errno.EPERM, msg)

    # --- in and out -------------------------------------------------------------------------------

    def append(self, events: Sequence[PersistedEvent]) -> None:
        """Write events, younger than all in the file, and see to it that they are on the disk.

        Raises:
          SpillFull: they do not fit; nothing was written.
          OSError: the write failed; nothing was written.
        """
        lines = b"".join(_line(event) for event in events)
        self._require_own_process()
        with self._mutex:
            dead = self._live_from - self._first
            is_mostly_dead = dead > max(_MOST_DEAD, self._end - self._live_from)
            needs_room = dead and self._end + len(lines) > self._max_bytes
            # Removed under us, what it held is still ours.
            if is_mostly_dead or needs_room or not self._is_in_place():
                self._rewrite(())
            if self._end + len(lines) > self._max_bytes:
                msg = (
                    f"spill_max_bytes is {self._max_bytes}; the file has {self._end} bytes, and"
                    f" {len(lines)} more do not fit"
                )
                raise SpillFull(errno.EFBIG, msg)
            try:
                _write(self._fd, lines, self._end)
                os.fsync(self._fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._end)
                raise
            self._end += len(lines)

    def read(self, most: int, most_bytes: int) -> Load:
        """The oldest events that were not read yet; those of the read before count as settled now.

        Args:
          most: most lines to read.
          most_bytes: bytes after which no further line is read.

        Raises:
          OSError: the file cannot be read; nothing has changed.
        """
        self._require_own_process()
        with self._mutex:
            raw, at = self._raw_lines(most, most_bytes)
            self._live_from = self._read_to
            self._read_to = at
            events: list[PersistedEvent] = []
            for line in raw:
                seq = self._base - self._old_unread if self._old_unread else None
                self._old_unread -= seq is not None
                event, is_whole = _event_of(line)
                self._damaged = self._damaged or not is_whole
                if event is None:
                    continue
                if seq is not None:
                    give_seq(event, seq)
                events.append(event)
            return Load(events, self._read_to)

    def _raw_lines(self, most: int, most_bytes: int) -> tuple[list[bytes], int]:
        lines: list[bytes] = []
        at, rest, taken = self._read_to, b"", 0
        position = at
        while len(lines) < most and taken < most_bytes and position < self._end:
            block = os.pread(self._fd, min(_BLOCK, self._end - position), position)
            if not block:
                msg = f"it ends at byte {position}, and should have {self._end}"
                raise OSError(errno.EIO, msg)
            position += len(block)
            *complete, rest = (rest + block).split(b"\n")
            for line in complete:
                if len(lines) == most or taken >= most_bytes:
                    break
                lines.append(line)
                at += len(line) + 1
                taken += len(line) + 1
        return lines, at

    def settle(self, through: int) -> None:
        """All that was written up to byte ``through`` (a ``size_bytes``) is settled: forget it.

        Does nothing if more was written since.
        """
        self._require_own_process()
        with self._mutex:
            if through == self._end:
                self._forget_all()

    def _forget_all(self) -> None:
        if self._damaged:
            self.path.replace(self._name_aside())
            os.close(self._fd)
            self._fd = _open(self.path)
            self._damaged = False
        self._clear()

    def _name_aside(self) -> str:
        return f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _rewrite(self, first: Sequence[PersistedEvent], start: int | None = None) -> None:
        """Write ``first`` and all from byte ``start`` on (by default all that lives) into a new file."""
        start = self._live_from if start is None else start
        new_path = Path(f"{self.path}.new")
        with contextlib.suppress(FileNotFoundError):
            new_path.unlink()
        fd = _open(new_path)
        try:
            head = self._header + b"".join(_line(event) for event in first)
            _write(fd, head, 0)
            for position in range(start, self._end, _BLOCK):
                block = os.pread(self._fd, min(_BLOCK, self._end - position), position)
                _write(fd, block, len(head) + position - start)
            os.fsync(fd)
            if self._damaged and self._is_in_place():
                os.link(self.path, self._name_aside())
            new_path.replace(self.path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                new_path.unlink()
            raise
        _sync_directory(self.path)
        os.close(self._fd)
        self._fd = fd
        self._damaged = False
        moved = len(head) - start
        self._first = self._live_from = len(self._header)
        self._read_to = max(self._read_to + moved, len(self._header))
        self._end += moved

    def close(self, first: Sequence[PersistedEvent] | None, *, is_exact: bool = True) -> None:
        """Leave the file to the next run, or remove it if nothing is pending.

        Args:
          first: of the events that were read, those that are still pending; None if nothing at all is.
          is_exact: False if a read was given up on, so that nobody knows what was read.
        """
        self._require_own_process()
        with self._mutex:
            if self._closing:
                return
            self._closing = True
            try:
                if first is None:
                    if self._damaged:
                        self.path.replace(self._name_aside())
                    elif self._is_in_place():
                        self.path.unlink()
                elif is_exact and self._read_to > self._first:
                    self._rewrite(first, self._read_to)
            finally:
                os.close(self._fd)
                self._lock.release()


def _open(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    if not os.fstat(fd).st_size:
        give_to_owner(fd, str(path).removesuffix(".new"))
    return fd


def _header(log_id: str | None) -> bytes:
    return json.dumps({"trio_eventlog": "spill", "version": VERSION, "log_id": log_id}).encode() + b"\n"


def _line(event: PersistedEvent) -> bytes:
    text = to_json(event)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _event_of(line: bytes) -> tuple[PersistedEvent | None, bool]:
    """The event of a line, if one is intact, and whether the whole line is.

    A line whose first event is damaged is searched for another: it may have lost its line break.
    """
    for found in islice(_CHECKED.finditer(line), _MOST_SEARCHED):
        checksum, text = line[found.start() :][:8], line[found.start() + 9 :]
        if zlib.crc32(text) == int(checksum, 16):
            with contextlib.suppress(CodecError):
                # Sealed: its payload stays text, and what a store does to it changes nothing here.
                return seal_persisted(from_json(text, PersistedEvent)), found.start() == 0
    return None, False


def _count_lines(fd: int, start: int) -> tuple[int, int]:
    """How many lines there are from byte ``start`` on, and where the last of them ends."""
    lines, end = 0, start
    position = start
    while block := os.pread(fd, _BLOCK, position):
        lines += block.count(b"\n")
        last = block.rfind(b"\n")
        if last >= 0:
            end = position + last + 1
        position += len(block)
    return lines, end


def _write(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written


def _sync_directory(path: Path) -> None:
    """A new name is durable only with its directory. Not every file system can do that."""
    with contextlib.suppress(OSError):
        fd = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
