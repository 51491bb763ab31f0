"""The spill file as the log uses it: a queue, written, read and closed in threads. Floor 4: Trio."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from trio_eventlog._engine._retry_buffer import RetryBuffer
from trio_eventlog._log._reporter import Reporter
from trio_eventlog._log._spill_file import Keep, SpillFile
from trio_eventlog._model._errors import LossReason, SpillError
from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._model._reports import RevertReport, SpillDamageReport, SpillFailureReport, SpillReport
from trio_eventlog._threads import DISK_TIMEOUT, in_thread

_MAX_EVENTS: Final = 1024
"""Most events of one write."""

_MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes after which a write, or a batch that is read, is large enough; less if less may wait."""

DISK_ERRORS: Final = (OSError, RuntimeError)
"""What a disk raises. RuntimeError: no thread can be started."""


async def open_spill_file(
    path: Path, log_id: str | None, max_bytes: int, *, keep: Keep, last_seq: int
) -> SpillFile:
    """Open a spill file, and let what an earlier run left in it follow the last seq of the store.

    If this is cancelled while the disk hangs, a thread stays behind, which closes the file once it is open.
    """
    spill_file = await in_thread(
        partial(SpillFile, path, log_id, max_bytes, keep=keep), discard=_close_unused
    )
    after = spill_file.number_after(last_seq)
    if after + spill_file.recovered > MAX_STORED:
        await close_unused(spill_file)
        raise SpillError(spill_file.path, f"its {spill_file.recovered} events find no seq after {after}")
    spill_file.number_from(after + 1)
    spill_file.note_stored(last_seq)
    return spill_file


async def close_unused(spill_file: SpillFile) -> None:
    """Close a file that no log has used. Takes a bounded time, also when cancelled."""
    with suppress(*DISK_ERRORS), trio.move_on_after(DISK_TIMEOUT, shield=True):
        await in_thread(partial(_close_unused, spill_file))


def _close_unused(spill_file: SpillFile) -> None:
    has_content = spill_file.recovered or spill_file.known_seq
    spill_file.close(() if has_content else None, is_exact=False)


@attrs.define(eq=False)
class SpillQueue:
    """What the buffer and the spill file do with each other."""

    file: SpillFile
    _buffer: RetryBuffer
    _reporter: Reporter
    _max_bytes: int  # that may wait in memory
    _has_events: bool = attrs.field(init=False)  # even if they are settled
    _is_read_given_up: bool = attrs.field(default=False, init=False)
    # Positions in the file: the end of what was written, both ends of the batch that was read last, and the
    # end of what the file was told to forget.
    _written_to: int = attrs.field(init=False)
    _batch_from: int = attrs.field(init=False)
    _batch_to: int = attrs.field(init=False)
    _forgotten_to: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._max_bytes = min(self._max_bytes, _MAX_BYTES)
        self._has_events = bool(self.file.recovered)
        self._written_to = self.file.end
        self._batch_from = self._batch_to = self._forgotten_to = self.file.start

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.file.size_bytes

    def tell_what_was_found(self, last_seq: int, first_seq: int) -> None:
        """Report what the file says about the time before ``first_seq``, if the store has ``last_seq``."""
        if self.file.was_damaged:
            self._tell_damage(0, first_seq, first_seq - 1)
        known = self.file.known_seq
        if known > last_seq and first_seq > last_seq + 1:
            earlier = (last_seq + 1, known)
            self._reporter.tell(
                RevertReport(last_seq=last_seq, expected_seq=known, again=0, lost=0, earlier=earlier)
            )

    def _tell_damage(self, events: int, first_seq: int, last_seq: int) -> None:
        self._reporter.tell(
            SpillDamageReport(path=self.file.path, events=events, first_seq=first_seq, last_seq=last_seq)
        )

    def tell_failure(self, error: Exception, events: int, retry_in: float) -> None:
        """Report a failure of the file, or of a sync that it waits for."""
        self._reporter.tell(
            SpillFailureReport(path=self.file.path, error=error, events=events, retry_in=retry_in)
        )

    # --- in and out -------------------------------------------------------------------------------

    async def write(self, *, is_last_chance: bool) -> tuple[int, Exception | None]:
        """Write the oldest events that are in memory alone. A checkpoint.

        Returns how many events those are, and why it failed, if it did. ``is_last_chance`` says that they
        have nowhere else to go.
        """
        events = self._buffer.start_filing(_MAX_EVENTS, self._max_bytes)
        self.file.note_stored(self._buffer.last_durable_seq)
        self.file.is_last_chance = is_last_chance
        try:
            await in_thread(partial(self.file.append, events))
        except DISK_ERRORS as exc:
            self._buffer.not_filed()
            return len(events), exc
        self._buffer.filed()
        self._written_to = self.file.end
        self._has_events = True
        return len(events), None

    async def load(self, max_batch: int) -> Exception | None:
        """Read the next batch into the buffer. A checkpoint. Returns why it failed, if it did."""
        # Nothing beyond what write() has returned for: it would count as read before it counts as written.
        through = self._written_to
        try:
            load = await in_thread(partial(self.file.read, max_batch, self._max_bytes, through=through))
        except DISK_ERRORS as exc:
            return exc
        except trio.Cancelled:
            self._is_read_given_up = True
            raise
        self._batch_from, self._batch_to = self._batch_to, load.end
        is_last = load.is_last and through == self._written_to and not self._buffer.is_filing
        missing = self._buffer.loaded(load.events, is_last=is_last)
        if missing.count:
            self._tell_damage(missing.count, missing.first_seq, missing.last_seq)
        return None

    # --- what the file can forget -----------------------------------------------------------------

    @property
    def settled_to(self) -> int:
        """The position before which the file has nothing that is pending."""
        if self._buffer.is_file_settled:
            return self._written_to
        return self._batch_to if self._buffer.must_load else self._batch_from

    @property
    def is_settled(self) -> bool:
        """Whether nothing in the file is pending."""
        return self._buffer.is_file_settled

    @property
    def unforgotten_bytes(self) -> int:
        """Bytes of settled events that the file still keeps."""
        return self.settled_to - self._forgotten_to

    def take_settled(self) -> bool:
        """Whether the file has events of which none is pending; true once for each time."""
        is_settled = self._has_events and self._buffer.is_file_settled
        if is_settled:
            self._has_events = False
        return is_settled

    async def forget_through(self, position: int) -> None:
        """Let the file give up what is settled up to ``position``."""
        self._forgotten_to = position
        self.file.note_stored(self._buffer.last_durable_seq)
        try:
            await in_thread(partial(self.file.settle, position))
        except DISK_ERRORS as exc:
            # It goes with the next write, or at the end.
            self.tell_failure(exc, 0, math.inf)

    # --- the end ----------------------------------------------------------------------------------

    async def close(self, reason: LossReason) -> None:
        """Leave the file to the next run, or remove it. Takes a bounded time, also when cancelled.

        Events that the file cannot take any more are lost for ``reason``.
        """
        self.file.note_stored(self._buffer.last_durable_seq)
        is_exact = not self._is_read_given_up
        again = self._buffer.again if is_exact else ()
        read = self._buffer.read if self._buffer.spilled else None
        with trio.move_on_after(DISK_TIMEOUT, shield=True) as scope:  # noqa: ASYNC912 - in_thread is one
            try:
                await in_thread(partial(self.file.close, read, again=again, is_exact=is_exact))
            except DISK_ERRORS as exc:
                self.tell_failure(exc, 0, math.inf)
            else:
                if again:
                    self._buffer.again_filed()
        if scope.cancelled_caught:
            self.tell_failure(TimeoutError(f"closing it took longer than {DISK_TIMEOUT} s"), 0, math.inf)
        self._buffer.again_not_filed(reason)
        if self._buffer.spilled:
            self._reporter.tell(SpillReport(path=self.file.path, events=self._buffer.spilled))
