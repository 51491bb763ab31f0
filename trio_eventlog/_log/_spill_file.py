"""A file for events that memory can no longer hold. Blocking, no Trio.

Layout: lines of UTF-8. The first is a header in JSON. Each of the others is one event, the CRC-32 of its
JSON in eight hexadecimal digits, a blank, and the JSON (:func:`to_json` never writes a line break), or a
mark, which says up to which seq the store had acknowledged events when it was written::

    {"trio_eventlog": "spill", "version": 1, "log_id": "…"}
    {"trio_eventlog": "spill", "durable_seq": 16, "crc": "8a0b4d3e"}
    1c291ca3 {"id": "…", "seq": 17, …}

A damaged line costs itself and no other. A last line without its line break was being written when the
process ended; it was never acknowledged, and is cut off. Zeros, as file systems leave them after a loss of
power, are ignored.

The file is a queue. Its oldest events are read as a batch, which counts as settled when the next is asked
for. What is settled and survives in the store what it survives here is *dead*, and goes when all is dead,
when the dead outweigh the living, when there is no room, and at the end. A process that is killed leaves
dead events behind: they are delivered again, and the store knows them.

Positions count every byte that was ever in the file, so that no position is used twice.

A system call that fails leaves the object as it was. If the file may then have more than the object knows of,
or its name may not be on the disk, that is remembered, and mended before anything else is written.

Each method takes the lock of the object, because a thread that was abandoned may still be running.
"""

# ruff: noqa: PTH105, PTH108, PTH118 - its tests let each system call fail, and so have to see it
from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

import attrs

from trio_eventlog._lock_file import FileLock, let_go, lock_open_file
from trio_eventlog._log._spill_disk import (
    BLOCK_SIZE,
    MAX_LAST_LINE,
    copy_file,
    copy_range,
    cut_off,
    find_line,
    is_at,
    is_leftover,
    last_line_end,
    open_file,
    read_at,
    reason_of,
    survey,
    write_at,
)
from trio_eventlog._log._spill_format import (
    PREFIX,
    VERSION,
    event_in,
    header_of,
    is_beginning,
    line_of,
    mark_in,
    mark_of,
)
from trio_eventlog._model._errors import LogBusy, SpillError, StoreUnusable
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._util import Forks

_MAX_HEADER: Final = 64 * 1024

_MAX_DEAD: Final = 4 * 1024 * 1024
"""Bytes of dead events for which the file is not written anew while there is room."""

_DEAD_SHARE: Final = 8
"""Nor is it for room, unless one byte of this many is dead: each byte of room would cost too much writing."""

_MAX_EMPTY: Final = 4096
"""A file that has nothing but zeros and is no longer than this block had not even got its header."""

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What is said where a file cannot have a second name."""

_CANNOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM})
"""What is said of directories by file systems that cannot sync them, and of those that we may not open."""


class SpillFull(OSError):
    """The file has reached its bound; nothing was written."""


class Keep(Enum):
    """How long the file keeps what is settled."""

    NOT = auto()
    """It goes at once: the store makes it survive a loss of power."""

    UNTIL_TOLD = auto()
    """Until :meth:`SpillFile.settle` says that the store has made sure of it."""

    UNTIL_FULL = auto()
    """Until there is no room for what comes: the store can never make sure of it."""


@attrs.frozen
class Load:
    """What one read brought."""

    events: list[PersistedEvent]
    """Intact events, ascending by seq."""

    end: int
    """The position where the read ended."""

    is_last: bool
    """Whether there was no more to read."""


class SpillFile:
    """An open spill file, locked against all others.

    Args:
      path: of the file, made with mode 0600 if it is not there.
      log_id: what tells the log from all others; None if its store does not say.
      max_bytes: most bytes that the file may have.
      keep: how long it keeps what is settled.

    Raises:
      SpillError: the file belongs to another log, is no spill file, or cannot be opened.
      LogBusy: another log, in this process or another, has it open.
    """

    def __init__(  # noqa: PLR0915 - all that is known of the file
        self, path: str | os.PathLike[str], log_id: str | None, max_bytes: int, *, keep: Keep = Keep.NOT
    ) -> None:
        self.path: Final = Path(os.path.realpath(path))
        self._new_path = Path(f"{self.path}.new")
        self._log_id = log_id
        self._max_bytes = max_bytes
        self.keep = keep
        """Whoever sets it does so between two calls, or lets what runs go by the one or the other."""
        self._mutex = threading.Lock()
        self._forks = Forks.count
        self._header = header_of(log_id)
        self._top = self._header  # what the file begins with: the header, and a mark if one follows
        self._top_seq = 0  # of that mark
        self._marked_seq = 0  # of the last mark
        self._stored_seq = 0
        self._needs_cut = False  # the file may have more than we know of, here or on disk
        self._needs_top = False
        self._needs_name = False  # its name may not be on the disk
        self._damaged = False
        self._no_tidying_below = 0
        self._shift = 0  # of each position, bytes that are no longer there
        self._end = self._read_to = self._settled = self._dead_to = self._old_end = 0
        self.known_seq: int = 0
        """Highest seq that a store has acknowledged, as far as the file and this run know."""
        self.was_damaged: bool = False
        """Whether the file was put aside on opening, since it did not begin like one."""
        self.is_last_chance: bool = False
        """Whether to write the file anew even for little room: what comes next has nowhere else to go."""
        what = f"the spill file {self.path}"
        try:
            self._lock = FileLock.acquire(f"{self.path}.lock", what)
            try:
                self._take_up_leftover()
                self._fd = open_file(self.path)
                try:
                    self._lock_itself()
                    self.recovered: int = self._begin()
                    """Lines of an earlier run."""
                    self._last_line_seq = self._find_last_seq()
                except BaseException:
                    let_go(self._fd)
                    raise
            except BaseException:
                self._lock.release()
                raise
        except StoreUnusable as exc:
            if type(exc) is not StoreUnusable:
                raise
            raise SpillError(self.path, str(exc)) from exc
        except OSError as exc:
            raise SpillError(self.path, reason_of(exc, self.path)) from exc
        self._size = self._end - self._shift
        self._next_old_seq = 1

    # --- opening ----------------------------------------------------------------------------------

    def _lock_itself(self) -> None:
        # The lock file says who may replace the file. Another name of the file, or a lock file that somebody
        # has removed, must not let two write into it either.
        try:
            lock_open_file(self._fd)
        except BlockingIOError:
            raise LogBusy(
                f"the spill file {self.path} is open for writing already, perhaps under another name"
            ) from None

    def _take_up_leftover(self) -> None:
        """What a killed process was writing anew: it is of use only if the file itself is gone."""
        if not is_leftover(self._new_path):
            return
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            os.replace(self._new_path, self.path)
        else:
            os.unlink(self._new_path)

    def _begin(self) -> int:
        """Find out what the file is and where its lines are. Returns how many of an earlier run there are."""
        if not is_at(self.path, self._fd):
            raise OSError(errno.ESTALE, "it was replaced while it was being opened; try again")
        size = os.fstat(self._fd).st_size
        head = os.pread(self._fd, _MAX_HEADER, 0)
        if size <= _MAX_EMPTY and is_beginning(head):
            # New, or its process ended while it was new.
            return self._start_anew()
        header = head[: head.find(b"\n") + 1]
        is_header, log_id = self._parse(header)
        start = len(header) if is_header else find_line(self._fd)
        if start is None:
            raise SpillError(self.path, "this is no spill file; name another one, or move this one away")
        is_anothers = log_id is not None and self._log_id is not None and log_id != self._log_id
        if log_id is not None and self._log_id is None:
            # Whoever does not say which log it is leaves it as it is.
            self._header = header
        self.was_damaged = self._damaged = not is_header
        self._top = header
        if is_header and (mark := mark_in(head, start)) is not None:
            self._top_seq, self._top = mark[0], header + mark[1]
            start = len(self._top)
        found = survey(self._fd, start)
        if is_anothers and found.lines:
            raise SpillError(
                self.path,
                f"it has events of another log ({log_id}, not {self._log_id}); open that log with it once, or"
                " move it away",
            )
        self.known_seq = max(found.durable_seq, self._top_seq)
        is_stale = header != self._header and not found.lines
        if is_anothers or (is_header and not found.lines and not self.known_seq):
            # Without events it may be any log's. Nor is it certain that a header which is there was synced.
            return self._start_anew()
        self._start_at(start, found.end)
        self._needs_cut = size > found.end
        if self._damaged or is_stale:
            self._rewrite()
            self._start_at(len(self._top), self._end - self._shift)
        self._needs_name = True
        self._mend_name()
        return found.lines

    def _start_at(self, start: int, end: int | None = None) -> int:
        self._shift = 0
        self._read_to = self._settled = self._dead_to = start
        self._end = self._old_end = start if end is None else end
        return 0

    def _start_anew(self) -> int:
        """Let the file have a header and nothing else."""
        os.ftruncate(self._fd, 0)
        write_at(self._fd, self._header, 0)
        os.fsync(self._fd)
        self._needs_name = True
        self._mend_name()
        self._top, self._top_seq, self.known_seq = self._header, 0, 0
        return self._start_at(len(self._header))

    def _parse(self, line: bytes) -> tuple[bool, str | None]:
        """Whether ``line`` is a header, and which log it names."""
        try:
            header: Any = json.loads(line)
            is_ours = header["trio_eventlog"] == "spill"
            version, log_id = header["version"], header["log_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False, None
        if is_ours and version != VERSION:
            raise SpillError(
                self.path,
                f"written by another version of trio_eventlog (layout {version}, this one knows {VERSION})",
            )
        return is_ours, log_id if is_ours else None

    def _find_last_seq(self) -> int:
        """The seq of the last intact line, as it was written; 0 if there is none."""
        most = BLOCK_SIZE
        while True:
            begin = max(self._end - most, self._dead_to)
            text = read_at(self._fd, begin - self._shift, self._end - self._shift)
            for line in reversed(text.split(b"\n")):
                event, _ = event_in(line)
                if event is not None:
                    return event.seq
            if begin == self._dead_to or most >= MAX_LAST_LINE:
                return 0
            most *= 4

    def number_after(self, last_seq: int) -> int:
        """After which seq numbers go on, if the store has ``last_seq``.

        A store that was put back to an older state has a lower one than the file knows of. Who read beyond it
        must not miss what is new: that comes after everything that the file has a number of.
        """
        after = max(last_seq, self.known_seq)
        if self._last_line_seq == last_seq + self.recovered >= after:
            # What the store has lost is here, and gets the seqs that it had.
            return last_seq
        # The line that was last then gets no lower seq than it had. Lines that are missing are lost events.
        as_before = self._last_line_seq - self.recovered
        return max(after, as_before) if as_before + self.recovered < MAX_STORED else after

    def number_from(self, first_seq: int) -> None:
        """Let the events of an earlier run have new seqs, ``first_seq`` and up, line by line."""
        self._next_old_seq = first_seq

    def note_stored(self, seq: int) -> None:
        """The store has acknowledged events up to ``seq``, in this run or before."""
        self._stored_seq = max(self._stored_seq, seq)
        self.known_seq = max(self.known_seq, seq)

    @property
    def start(self) -> int:
        """The position of the first line."""
        return len(self._top) + self._shift

    @property
    def end(self) -> int:
        """The position where the last line ends."""
        return self._end

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return self._size

    @contextlib.contextmanager
    def _work(self) -> Iterator[None]:
        # Who forked this process goes on writing there, and may have held the mutex.
        if Forks.count != self._forks:
            raise OSError(errno.EPERM, "the spill file belongs to the process that forked this one")
        with self._mutex:
            if self._fd < 0:
                # The number of its descriptor may be another file's by now.
                raise OSError(errno.EBADF, "the spill file is closed")
            try:
                yield
            finally:
                self._size = self._end - self._shift

    # --- in and out -------------------------------------------------------------------------------

    def append(self, events: Sequence[PersistedEvent]) -> None:
        """Write events, younger than all in the file, and see to it that they are on the disk.

        Raises:
          SpillFull: they do not fit; nothing was written.
          OSError: the write failed. They count as not written; after a kill they may be there all the same.
        """
        lines = b"".join(map(line_of, events))
        with self._work():
            self._mend()
            self._look_for_the_end()
            self._make_room(len(lines))
            self._mend()
            data = self._news() + lines
            size = self._end - self._shift
            if size + len(data) > self._max_bytes:
                raise SpillFull(
                    errno.EFBIG,
                    f"max_spill_bytes is {self._max_bytes}; the file has {size} bytes, and"
                    f" {len(data)} more do not fit",
                )
            self._put(data)

    def _news(self) -> bytes:
        """The mark that the file still lacks, if any."""
        return mark_of(self.known_seq) if self.known_seq > self._marked_seq else b""

    def _put(self, data: bytes) -> None:
        known_seq = self.known_seq
        try:
            write_at(self._fd, data, self._end - self._shift)
            os.fsync(self._fd)
        except BaseException:
            self._needs_cut = True
            with contextlib.suppress(OSError):
                self._mend()
            raise
        self._end += len(data)
        self._marked_seq = max(self._marked_seq, known_seq)

    def _make_room(self, wanted: int) -> None:
        """Drop what is dead, if that is worth it."""
        size = self._end - self._shift
        lacks_room = size + wanted + len(self._news()) > self._max_bytes
        if lacks_room and self.keep is Keep.UNTIL_FULL:
            # Copies of what the store has; what comes is nowhere yet.
            self._dead_to = max(self._dead_to, self._settled)
        dead = self._dead_to - self.start
        is_much = dead == self._end - self.start or dead * _DEAD_SHARE >= size or self.is_last_chance
        if not self._is_in_place() or (lacks_room and dead and is_much):
            # Removed under us, what it held is still ours.
            self._drop_dead()
        elif dead > max(_MAX_DEAD, self._end - self._dead_to, self._no_tidying_below):
            try:
                self._drop_dead()
            except OSError:
                # It can wait: there is room. Nor is it tried with each write.
                self._no_tidying_below = 2 * dead

    def read(self, most: int, most_bytes: int, *, through: int | None = None) -> Load:
        """The oldest events that were not read yet; those of the read before count as settled now.

        Args:
          most: most lines to read.
          most_bytes: bytes after which no further line is read.
          through: the position up to which to read; by default all.

        Raises:
          OSError: the file cannot be read; nothing has changed.
        """
        with self._work():
            self._look_for_the_end()
            limit = self._end if through is None else min(through, self._end)
            lines, at = self._raw_lines(most, most_bytes, limit)
            self._settled = max(self._settled, self._read_to)
            if self.keep is Keep.NOT:
                self._dead_to = self._settled
            self._read_to = at
            events: list[PersistedEvent] = []
            for position, line in lines:
                if line.startswith(PREFIX):
                    continue
                event, is_whole = event_in(line)
                self._damaged = self._damaged or not is_whole
                if position < self._old_end:
                    seq, self._next_old_seq = self._next_old_seq, self._next_old_seq + 1
                    if event is not None:
                        event = attrs.evolve(event, seq=seq)
                if event is not None:
                    events.append(event)
            return Load(events, at, at >= limit)

    def _raw_lines(self, most: int, most_bytes: int, limit: int) -> tuple[list[tuple[int, bytes]], int]:
        """Lines with their positions, and where the last one ends."""
        lines: list[tuple[int, bytes]] = []
        start = at = position = self._read_to
        parts: list[bytes] = []
        while position < limit and len(lines) < most and at - start < most_bytes:
            block = os.pread(self._fd, min(BLOCK_SIZE, limit - position), position - self._shift)
            if not block:
                raise cut_off(position - self._shift, limit - self._shift)
            begin = 0
            while len(lines) < most and at - start < most_bytes:
                end = block.find(b"\n", begin)
                if end < 0:
                    break
                parts.append(block[begin:end])
                # No line of ours has zeros, and a run of them can be as long as the file.
                whole = b"".join(parts)
                lines.append((at, whole.replace(b"\0", b"")))
                self._damaged = self._damaged or len(lines[-1][1]) != len(whole)
                parts.clear()
                begin = end + 1
                at = position + begin
            else:
                break
            rest = block[begin:]
            if rest:
                parts.append(rest if rest.strip(b"\0") else b"\0")
            position += len(block)
        return lines, at

    def settle(self, through: int) -> None:
        """All before position ``through`` is settled, and survives in the store what it survives here.

        With :attr:`Keep.UNTIL_FULL` only that it is settled, since the rest is never certain.

        Raises:
          OSError: it could not be dropped from the disk. It is forgotten all the same, and goes later.
        """
        with self._work():
            through = min(through, self._end)
            self._settled = max(self._settled, through)
            self._read_to = max(self._read_to, through)
            if self.keep is Keep.UNTIL_FULL:
                return
            self._dead_to = max(self._dead_to, through)
            if self._dead_to == self._end > self.start:
                self._drop_dead()

    # --- what is dead -----------------------------------------------------------------------------

    def _drop_dead(self) -> None:
        is_all = self._dead_to == self._end
        # What nobody else would know goes into the new file.
        knows_more = self.known_seq > max(self._stored_seq, self._top_seq)
        if not is_all or knows_more or not self._is_in_place() or self._damaged:
            self._rewrite()
            return
        os.ftruncate(self._fd, len(self._top))
        self._shift = self._end - len(self._top)
        self._marked_seq = self._top_seq
        # Until the cut is on the disk, what is written could be mixed with what was there.
        self._needs_cut = True
        os.fsync(self._fd)
        self._needs_cut = False

    def _rewrite(self, first: Sequence[PersistedEvent] = (), start: int | None = None) -> None:
        """Write ``first`` and all from position ``start`` on (by default all that lives) into a new file."""
        start = self._dead_to if start is None else start
        known_seq = self.known_seq
        top = self._header + (mark_of(known_seq) if known_seq else b"")
        head = top + b"".join(map(line_of, first))
        if is_leftover(self._new_path):
            os.unlink(self._new_path)
        fd = open_file(self._new_path, os.O_EXCL)
        aside: str | None = None
        try:
            lock_open_file(fd)
            write_at(fd, head, 0)
            copy_range(self._fd, start - self._shift, self._end - self._shift, fd, len(head))
            os.fsync(fd)
            aside = self._keep_aside()
            try:
                os.replace(self._new_path, self.path)
            except OSError:
                if not is_at(self.path, fd):
                    raise
        except BaseException:
            let_go(fd)
            for path in (self._new_path, aside):
                with contextlib.suppress(OSError):
                    if path is not None:
                        os.unlink(path)
            raise
        old, self._fd = self._fd, fd
        self._shift = start - len(head)
        self._top, self._top_seq, self._marked_seq = top, known_seq, known_seq
        self._dead_to = self.start
        self._settled = max(self._settled, self.start)
        self._read_to = max(self._read_to, self.start)
        self._damaged = self._needs_cut = self._needs_top = False
        self._no_tidying_below = 0
        self._needs_name = True
        let_go(old)
        with contextlib.suppress(OSError):
            self._mend_name()

    def _keep_aside(self) -> str | None:
        """Give a second name to what is to be replaced, if that may be of use: it is damaged, or not ours."""
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            return None
        if os.path.samestat(there, os.fstat(self._fd)) and not self._damaged:
            return None
        aside = self._name_aside()
        try:
            os.link(self.path, aside)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            copy_file(self.path, aside)
        return aside

    def _name_aside(self) -> str:
        suffix = f".damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"
        # A name has 255 bytes at most.
        name = os.fsencode(self.path.name)[: 255 - len(suffix)]
        return os.path.join(self.path.parent, os.fsdecode(name) + suffix)

    # --- what others do to the file, and what was left half done ------------------------------------

    def _is_in_place(self) -> bool:
        return is_at(self.path, self._fd)

    def _mend(self) -> None:
        """Finish what could not be done before. Raises OSError if it still cannot."""
        if self._needs_top:
            write_at(self._fd, self._top, 0)
            self._needs_top = False
        if self._needs_cut:
            os.ftruncate(self._fd, self._end - self._shift)
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

    def _look_for_the_end(self) -> None:
        """Notice that somebody has cut the file off: what was there is gone, and is missed when it is due."""
        size = os.fstat(self._fd).st_size
        known = self._end - self._shift
        if size >= known:
            return
        self._needs_top = self._needs_top or size < len(self._top)
        end = last_line_end(self._fd, len(self._top), size)
        shift = self._end - end
        # Nothing may get a position that something else had.
        self._dead_to, self._settled, self._read_to, self._old_end = (
            min(position - self._shift, end) + shift
            for position in (self._dead_to, self._settled, self._read_to, self._old_end)
        )
        self._shift = shift
        self._marked_seq = 0
        self._needs_cut = self._damaged = True

    # --- leaving ----------------------------------------------------------------------------------

    def close(
        self,
        first: Sequence[PersistedEvent] | None,
        *,
        again: Sequence[PersistedEvent] = (),
        is_exact: bool = True,
    ) -> None:
        """Leave the file to the next run, or remove it if it has nothing to tell.

        Whatever is raised: afterwards it is closed, and free for others.

        Args:
          first: of the events that were read, those that are still pending; None if nothing of the file is.
          again: older events that the file is to have in front of them.
          is_exact: False if a read was given up on, so that nobody knows what was read.

        Raises:
          SpillFull: there is no room for ``again``.
          OSError: it could not be left in order. It has all that it had, and perhaps none of ``again``.
        """
        if self._fd < 0:
            return
        with self._work():
            try:
                self._leave(first, again, is_exact=is_exact)
            finally:
                fd, self._fd = self._fd, -1
                try:
                    let_go(fd)
                finally:
                    self._lock.release()

    def _leave(
        self, first: Sequence[PersistedEvent] | None, again: Sequence[PersistedEvent], *, is_exact: bool
    ) -> None:
        if self.keep is Keep.NOT and first is None:
            self._dead_to = self._settled = self._read_to = self._end
        if first is None and not again and self._dead_to == self._end:
            if self.known_seq > self._stored_seq:
                # The store was put back, and nothing has come to it since: only the file knows.
                self._rewrite()
            elif self._is_in_place():
                if self._damaged:
                    os.replace(self.path, self._name_aside())
                else:
                    os.unlink(self.path)
                self._end = self._shift
            return
        self._look_for_the_end()
        is_exact = is_exact and self.keep is Keep.NOT and first is not None
        start, lines = (
            (self._read_to, (*again, *(first or ()))) if is_exact else (self._dead_to, tuple(again))
        )
        if again:
            self._require_room(lines, start)
        can_shrink = start > self.start and (is_exact or self.keep is not Keep.NOT)
        if again or can_shrink or not self._is_in_place():
            self._rewrite(lines, start)
            self._mend()
            return
        self._mend()
        news = self._news()
        if news and self._end - self._shift + len(news) <= self._max_bytes:
            self._put(news)

    def _require_room(self, lines: Sequence[PersistedEvent], start: int) -> None:
        size = len(self._header) + sum(len(line_of(event)) for event in lines) + self._end - start
        if size > max(self._max_bytes, self._end - self._shift):
            raise SpillFull(
                errno.EFBIG, f"max_spill_bytes is {self._max_bytes}; {len(lines)} more events do not fit"
            )
