"""A file for events that memory can no longer hold: a queue. Blocking, no Trio.

What the file looks like is described in ``_spill_format``, how it gets to the disk in ``_spill_disk``.

The oldest events are read as a batch, which counts as settled when the next is asked for. What is settled and
survives in the store what it survives here is *dead*, and goes when all is dead, when the dead outweigh the
living, when there is no room, and at the end. A process that is killed leaves dead events behind: they are
delivered again, and the store knows them.

A system call that fails leaves the object as it was.

Each method takes the lock of the object, because a thread that was abandoned may still be running.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Final

import attrs

from trio_eventlog._log._spill_disk import SpillDisk, reason_of
from trio_eventlog._log._spill_format import (
    Contents,
    contents_of,
    event_in,
    header_of,
    is_event,
    line_of,
    lines_in,
    mark_of,
    survey,
)
from trio_eventlog._model._errors import SpillError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._util import Forks

_MAX_DEAD: Final = 4 * 1024 * 1024
"""Bytes of dead events for which the file is not written anew while there is room."""

_DEAD_SHARE: Final = 8
"""Nor is it for room, unless one byte of this many is dead: each byte of room would cost too much writing."""


class SpillFull(OSError):
    """The file has reached its bound; nothing was written."""

    def __init__(self, max_bytes: int, what: str) -> None:
        super().__init__(errno.EFBIG, f"max_spill_bytes is {max_bytes}; {what}")


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

    events: list[PersistedEvent]  # intact ones, ascending by seq
    end: int  # the position where the read ended
    is_last: bool  # whether there was no more to read


@attrs.define
class Positions:
    """Where the queue stands. Pure.

    Positions count every byte that was ever in the file, so that no position is used twice.
    """

    dead_to: int
    end: int
    settled_to: int = attrs.field(init=False)
    read_to: int = attrs.field(init=False)
    old_end: int = attrs.field(init=False)  # where the lines of an earlier run end

    def __attrs_post_init__(self) -> None:
        self.settled_to = self.read_to = self.dead_to
        self.old_end = self.end

    def settle(self, through: int) -> None:
        """All before ``through`` is settled."""
        self.settled_to = max(self.settled_to, through)
        self.read_to = max(self.read_to, through)

    def drop(self, start: int) -> None:
        """The lines now begin at ``start``."""
        self.dead_to = start
        self.settle(start)

    def lose(self, count: int) -> None:
        """The last ``count`` bytes are gone. What is left moves: nothing may get a position that they had."""
        self.dead_to, self.settled_to, self.read_to, self.old_end = (
            min(position + count, self.end)
            for position in (self.dead_to, self.settled_to, self.read_to, self.old_end)
        )


@attrs.define
class Marks:
    """What the file says of the store, and what it should say. Pure."""

    header: bytes  # what a file that is written anew begins with
    top: bytes  # what the file begins with: a header, and a mark if one follows
    top_seq: int  # of that mark
    known_seq: int  # highest seq that a store has acknowledged, as far as the file and this run know
    stored_seq: int = 0  # the same of the store as it is now
    marked_seq: int = 0  # of the last mark

    def note(self, seq: int) -> None:
        """The store has acknowledged events up to ``seq``, in this run or before."""
        self.stored_seq = max(self.stored_seq, seq)
        self.known_seq = max(self.known_seq, seq)

    def news(self) -> bytes:
        """The mark that the file still lacks, if any."""
        return mark_of(self.known_seq) if self.known_seq > self.marked_seq else b""


class SpillFile:
    """An open spill file, locked against all others; made with mode 0600 if it is not there.

    ``log_id`` tells the log from all others, and is None if its store does not say. Raises SpillError if the
    file belongs to another log, is not a spill file or cannot be opened, and LogBusy if another log has it.
    """

    def __init__(
        self, path: str | os.PathLike[str], log_id: str | None, max_bytes: int, *, keep: Keep = Keep.NOT
    ) -> None:
        self.path: Final = Path(os.path.realpath(path))
        self._max_bytes = max_bytes
        self.keep = keep
        """Set between two calls, or while one runs to which it does not matter."""
        self.is_last_chance: bool = False
        """Whether to write the file anew even for little room: what comes next has nowhere else to go."""
        self._mutex = threading.Lock()
        self._forks = Forks.count
        self._no_tidying_below = 0
        try:
            self._disk = SpillDisk.open(self.path)
            try:
                found = self._begin(log_id)
            except BaseException:
                self._disk.close()
                raise
        except StoreUnusable as exc:
            if type(exc) is not StoreUnusable:
                raise
            raise SpillError(self.path, str(exc)) from exc
        except OSError as exc:
            raise SpillError(self.path, reason_of(exc, self.path)) from exc
        self.recovered: Final = found.lines
        """Lines of an earlier run."""
        self.was_damaged: Final = not found.header
        """Whether the file was put aside on opening, since it did not begin like one."""
        self.number_after: Final = found.number_after
        self._next_old_seq = 1

    def _begin(self, log_id: str | None) -> Contents:
        """Take up what is in the file, or begin a new one. Returns what the file has."""
        disk = self._disk
        found = contents_of(disk.read, disk.real_size, log_id)
        # A log that does not say which one it is leaves the header as it is.
        header = found.header if log_id is None and found.log_id is not None else header_of(log_id)
        if found.is_empty:
            # Without events it may be any log's. Nor is it certain that a header which is there was synced.
            found = Contents(header, top=header, start=len(header), end=len(header))
            disk.start_anew(header)
        else:
            disk.take_up(found.end)
            disk.is_damaged = not found.header
        self._marks = Marks(header, found.top, found.top_seq, found.known_seq)
        self._positions = Positions(found.start, found.end)
        if disk.is_damaged or (header != found.header and not found.lines):
            self._rewrite()
            self._positions = Positions(len(self._marks.top), disk.size)
        disk.mend()
        return found

    # --- what is known ----------------------------------------------------------------------------

    @property
    def known_seq(self) -> int:
        """Highest seq that a store has acknowledged, as far as the file and this run know."""
        return self._marks.known_seq

    def note_stored(self, seq: int) -> None:
        """The store has acknowledged events up to ``seq``, in this run or before."""
        self._marks.note(seq)

    def number_from(self, first_seq: int) -> None:
        """Let the events of an earlier run have new seqs, ``first_seq`` and up, line by line."""
        self._next_old_seq = first_seq

    @property
    def _shift(self) -> int:  # of positions against bytes of the file
        return self._positions.end - self._disk.size

    @property
    def start(self) -> int:
        """The position of the first line."""
        return len(self._marks.top) + self._shift

    @property
    def end(self) -> int:
        """The position where the last line ends."""
        return self._positions.end

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return self._disk.size

    @contextlib.contextmanager
    def _work(self) -> Iterator[None]:
        # The process that forked this one goes on writing there, and may have held the mutex.
        if Forks.count != self._forks:
            raise OSError(errno.EPERM, "the spill file belongs to the process that forked this one")
        with self._mutex:
            if self._disk.is_closed:
                raise OSError(errno.EBADF, "the spill file is closed")
            yield

    # --- in and out -------------------------------------------------------------------------------

    def append(self, events: Sequence[PersistedEvent]) -> None:
        """Write events, younger than all in the file, and see to it that they are on the disk.

        Raises OSError (SpillFull if they do not fit). They count as not written then; unless they did not
        fit, they may be there all the same after a kill.
        """
        lines = b"".join(map(line_of, events))
        with self._work():
            # Before the disk mends anything, which could make the file as long as it was.
            self._look_for_the_end()
            self._make_room(len(lines))
            self._put(lines)

    def _put(self, lines: bytes) -> None:
        # First: a higher one may be noted at any moment.
        known_seq = self.known_seq
        data = self._marks.news() + lines
        size = self._disk.size
        if size + len(data) > self._max_bytes:
            raise SpillFull(self._max_bytes, f"the file has {size} bytes, and {len(data)} more do not fit")
        self._disk.append(data)
        self._positions.end += len(data)
        self._marks.marked_seq = max(self._marks.marked_seq, known_seq)

    def _make_room(self, wanted: int) -> None:
        """Drop what is dead, if that is worth it."""
        positions, size = self._positions, self._disk.size
        lacks_room = size + wanted + len(self._marks.news()) > self._max_bytes
        if lacks_room and self.keep is Keep.UNTIL_FULL:
            # Copies of what the store has; what comes is nowhere yet.
            positions.dead_to = max(positions.dead_to, positions.settled_to)
        dead = positions.dead_to - self.start
        is_much = dead == positions.end - self.start or dead * _DEAD_SHARE >= size or self.is_last_chance
        if not self._disk.is_in_place or (lacks_room and dead and is_much):
            # Removed under us, what it held is still ours.
            self._drop_dead()
        elif dead > max(_MAX_DEAD, positions.end - positions.dead_to, self._no_tidying_below):
            try:
                self._drop_dead()
            except OSError:
                # It can wait: there is room. Nor is it tried with each write.
                self._no_tidying_below = 2 * dead

    def read(self, most: int, most_bytes: int, *, through: int | None = None) -> Load:
        """The oldest events that were not read yet; those of the read before count as settled now.

        Reads no line beyond position ``through``, or after ``most`` lines or ``most_bytes`` bytes. Raises
        OSError if the file cannot be read; nothing has changed then.
        """
        with self._work():
            self._look_for_the_end()
            positions, shift = self._positions, self._shift
            limit = positions.end if through is None else min(through, positions.end)
            start = end = positions.read_to
            lines: list[tuple[bytes, bool, int]] = []
            for line in lines_in(self._disk.read, start - shift, limit - shift):
                lines.append(line)
                end = line[2] + shift
                if len(lines) >= most or end - start >= most_bytes:
                    break
            positions.settled_to = max(positions.settled_to, start)
            if self.keep is Keep.NOT:
                positions.dead_to = positions.settled_to
            positions.read_to = end
            return Load(self._events_in(lines, start, shift), end, end >= limit)

    def _events_in(
        self, lines: Sequence[tuple[bytes, bool, int]], start: int, shift: int
    ) -> list[PersistedEvent]:
        """The intact events in what was read from position ``start`` on."""
        events: list[PersistedEvent] = []
        for line, is_as_written, line_end in lines:
            event, is_whole = event_in(line) if is_event(line) else (None, True)
            self._disk.is_damaged = self._disk.is_damaged or not (is_whole and is_as_written)
            if start < self._positions.old_end and is_event(line):
                seq, self._next_old_seq = self._next_old_seq, self._next_old_seq + 1
                if event is not None:
                    event = attrs.evolve(event, seq=seq)
            if event is not None:
                events.append(event)
            start = line_end + shift
        return events

    def settle(self, through: int) -> None:
        """All before position ``through`` is settled, and survives in the store what it survives here.

        With :attr:`Keep.UNTIL_FULL` only that it is settled, since the rest is never certain. Raises OSError
        if it could not be dropped from the disk. It is forgotten all the same, and goes later.
        """
        with self._work():
            positions = self._positions
            through = min(through, positions.end)
            positions.settle(through)
            if self.keep is not Keep.UNTIL_FULL:
                positions.dead_to = max(positions.dead_to, through)
                if positions.dead_to == positions.end > self.start:
                    self._drop_dead()

    # --- what is dead, and what others do to the file ---------------------------------------------

    def _drop_dead(self) -> None:
        marks, disk = self._marks, self._disk
        is_all = self._positions.dead_to == self._positions.end
        # What only this run knows goes into the new file.
        knows_more = marks.known_seq > max(marks.stored_seq, marks.top_seq)
        if not is_all or knows_more or not disk.is_in_place or disk.is_damaged:
            self._rewrite()
        else:
            marks.marked_seq = marks.top_seq
            disk.truncate(len(marks.top))

    def _rewrite(self, lines: bytes = b"", start: int | None = None) -> None:
        """Write ``lines`` and all from position ``start`` on (by default all that lives) into a new file."""
        start = self._positions.dead_to if start is None else start
        known_seq = self.known_seq
        top = self._marks.header + (mark_of(known_seq) if known_seq else b"")
        self._disk.rewrite(top + lines, start - self._shift)
        self._marks.top, self._marks.top_seq, self._marks.marked_seq = top, known_seq, known_seq
        self._positions.drop(start - len(lines))
        self._no_tidying_below = 0

    def _look_for_the_end(self) -> None:
        """Notice that the file was cut off: what was there is gone, and is missed when it is due."""
        disk, top = self._disk, self._marks.top
        size = disk.real_size
        if size < disk.size:
            _, end, _ = survey(disk.read, len(top))
            self._positions.lose(disk.size - end)
            self._marks.marked_seq = 0
            disk.was_cut_off(end, top if size < len(top) else b"")

    # --- leaving ----------------------------------------------------------------------------------

    def close(
        self,
        first: Sequence[PersistedEvent] | None,
        *,
        again: Sequence[PersistedEvent] = (),
        is_exact: bool = True,
    ) -> None:
        """Leave the file to the next run, or remove it if it has nothing to tell.

        Of the events that were read, ``first`` are still pending; None if nothing of the file is. ``again``
        are older events to be put in front of them. ``is_exact`` is false if a read was given up on, so that
        it is not known what was read. Raises OSError (SpillFull if ``again`` does not fit) if it could not be
        left in order: it has what it had, and perhaps none of ``again``, and is closed all the same.
        """
        if self._disk.is_closed:
            return
        with self._work():
            try:
                self._leave(first, again, is_exact=is_exact)
            finally:
                self._disk.close()

    def _leave(
        self, first: Sequence[PersistedEvent] | None, again: Sequence[PersistedEvent], *, is_exact: bool
    ) -> None:
        positions, marks, disk = self._positions, self._marks, self._disk
        if first is None and self.keep is Keep.NOT:
            positions.drop(positions.end)
        if first is None and not again and positions.dead_to == positions.end:
            if marks.known_seq <= marks.stored_seq:
                disk.remove()
                return
            # The store was put back, and nothing has come to it since: only the file knows.
            self._rewrite()
        else:
            self._look_for_the_end()
            is_exact = is_exact and self.keep is Keep.NOT and first is not None
            start = positions.read_to if is_exact else positions.dead_to
            front = (*again, *(first or ())) if is_exact else again
            lines = b"".join(map(line_of, front))
            size = len(marks.header) + len(lines) + positions.end - start
            if again and size > max(self._max_bytes, disk.size):
                raise SpillFull(self._max_bytes, f"{len(front)} more events do not fit")
            can_shrink = start > self.start and (is_exact or self.keep is not Keep.NOT)
            if again or can_shrink or not disk.is_in_place:
                self._rewrite(lines, start)
        disk.mend()
        if marks.news():
            with contextlib.suppress(SpillFull):
                self._put(b"")
