"""``trio-eventlog ingest``: from files of envelopes into a log."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio
from rich.console import Console

from trio_eventlog import (
    AppendFailureReport,
    CodecError,
    EventEnvelope,
    EventLog,
    EventRejected,
    EventsLost,
    EventStore,
    LogState,
    LogStatistics,
    LossReason,
    LossReport,
    Report,
    RevertReport,
    StoreError,
    open_event_log,
)
from trio_eventlog.cli._envelopes import MAX_LINE, STDIN, EnvelopeFile, Line
from trio_eventlog.cli._progress import progress_bar
from trio_eventlog.cli._repeats import Repeats
from trio_eventlog.cli._signals import stopping_on_signals
from trio_eventlog.cli._terminal import complain, counted, error_console, is_terminal, write_summary

_BATCH: Final = 1024
_CAP: Final = 4096

_BYTES_PENDING: Final = 32 * 2**20
"""The log bounds how many events wait; this bounds what they weigh."""

_GRACE: Final = 30.0

_TOLD_EVERY: Final = 60.0
"""Seconds between two complaints about a store that fails."""


@attrs.frozen
class _Place:
    """Where an event came from."""

    label: str
    line: int

    def __str__(self) -> str:
        return f"{self.label}:{self.line}"


@attrs.frozen
class _Loss:
    """An event that the log gave up."""

    seq: int
    event_id: str
    reason: LossReason
    why: str
    in_doubt: bool


@attrs.define
class _Tally:
    """What became of the lines. Each that was read is stored, already there, rejected, lost or pending."""

    most_shown: int
    console: Console
    started: float = attrs.Factory(trio.current_time)
    read: int = 0
    repeated: int = 0
    """Lines whose events were found in the log before they were handed to it."""

    rejected: int = 0
    lost: int = 0
    unreadable: int = 0
    position: int = 0
    """Bytes read from all files together."""

    _shown: int = 0
    _rejection: str = ""
    """Why the store rejected events, the last time."""

    _tell_at: float = -math.inf
    """When to complain about the store again."""

    _told: int = 0
    """Losses that the log has told us."""

    _places: dict[int, _Place] = attrs.Factory(dict)
    """Where the events came from that may still be rejected or lost: by seq, ascending."""

    _unplaced: list[_Loss] = attrs.Factory(list)
    """Losses of events whose seq has not reached us yet."""

    def accepted(self, seq: int, place: _Place) -> None:
        """The log has taken an event."""
        self.read += 1
        self._places[seq] = place
        if self._unplaced:
            self._place_losses()

    def is_there(self) -> None:
        """The log holds the event of a line."""
        self.read += 1
        self.repeated += 1

    def malformed(self, place: _Place, reason: str) -> None:
        """A line is no envelope, or holds an event that no log takes."""
        self.read += 1
        self._reject(place, reason)

    def note_settled(self, statistics: LogStatistics) -> None:
        """Forget where events came from that are stored.

        Events are settled in order, except those that are lost, which leave the places as soon as we are
        told of them. So the places that are still needed are the newest.
        """
        needed = statistics.pending + statistics.lost_total - self._told
        for seq in list(self._places)[: max(len(self._places) - needed, 0)]:
            del self._places[seq]

    def on_failure(self, report: Report) -> None:
        """What the log has to tell."""
        if isinstance(report, AppendFailureReport):
            self._failed(report)
        elif isinstance(report, LossReport):
            self._lost(report)
        elif isinstance(report, RevertReport):
            self._reverted(report)

    def _lost(self, report: LossReport) -> None:
        self._told += report.count
        why = self._rejection if report.reason is LossReason.REJECTED else report.reason
        self._unplaced += [
            _Loss(event.seq, event.id, report.reason, why, report.in_doubt) for event in report.events
        ]
        self._place_losses()

    def _failed(self, failure: AppendFailureReport) -> None:
        if isinstance(failure.error, EventRejected):
            # The events follow, as a loss.
            self._rejection = failure.error.reason
        elif math.isfinite(failure.retry_in) and trio.current_time() >= self._tell_at:
            self._tell_at = trio.current_time() + _TOLD_EVERY
            attempts = "" if failure.failures == 1 else f" ({failure.failures:,} times in a row)"
            complain(f"the store failed{attempts}, and is tried again: {failure.error}", self.console)

    def _reverted(self, report: RevertReport) -> None:
        # Those that are lost have no places any more: they were stored.
        self._told += report.lost
        self.lost += report.lost
        complain(
            f"the store went back: it had acknowledged up to seq {report.expected_seq}, and now ends at"
            f" {report.last_seq}; {counted(report.again, 'event')} stored again, {report.lost:,} lost",
            self.console,
        )

    def _place_losses(self) -> None:
        # The flush task may give up an event before our task has run again and knows its seq.
        unplaced, self._unplaced = self._unplaced, []
        for loss in unplaced:
            place = self._places.pop(loss.seq, None)
            if place is None:
                self._unplaced.append(loss)
            elif loss.reason is LossReason.REJECTED:
                self._reject(place, f"the store rejects event {loss.event_id!a}: {loss.why}")
            else:
                self.lost += 1
                outcome = "may not be stored" if loss.in_doubt else "is not stored"
                self._show(f"{place}: event {loss.event_id!a} {outcome} ({loss.why})")

    def _reject(self, place: _Place, reason: str) -> None:
        self.rejected += 1
        self._show(f"{place}: {reason}")

    def _show(self, complaint: str) -> None:
        if self._shown < self.most_shown:
            complain(complaint, self.console)
        elif self._shown == self.most_shown:
            complain("further such lines are only counted", self.console)
        self._shown += 1

    def cannot_read(self, place: str, problem: str) -> None:
        """A file could not be read to its end. Always shown: there are only so many files."""
        self.unreadable += 1
        complain(f"{place}: {problem}", self.console)

    def summary(self, statistics: LogStatistics) -> str:
        """What became of everything, on one line."""
        seconds = max(trio.current_time() - self.started, 0.001)
        parts = [
            f"{self.read:,} read",
            f"{statistics.persisted:,} stored",
            f"{statistics.duplicate + self.repeated:,} already there",
            f"{self.rejected:,} rejected",
        ]
        if self.lost:
            parts.append(f"{self.lost:,} lost")
        if self.unreadable:
            parts.append(f"{counted(self.unreadable, 'file')} not read to the end")
        return f"{', '.join(parts)} ({seconds:.1f} s, {self.read / seconds:,.0f} a second)"


async def ingest_files(store: EventStore, names: Sequence[str], *, most_shown: int) -> int:
    """Store the envelopes of files.

    Args:
      store: where they go.
      names: paths of files, ``-`` for standard input.
      most_shown: how many of the lines that are rejected or lost to show.

    Returns:
      The exit status.

    Raises:
      StoreError: the store could not say where its log ends.
    """
    console = error_console()
    tally = _Tally(most_shown, console)
    log: EventLog | None = None
    error: StoreError | None = None
    async with stopping_on_signals(
        f"stopping once what was read is stored, for which there are {_GRACE:.0f} seconds; once more to end"
        " at once",
        console,
    ) as stop:
        # The nursery in there would put what leaves this block into a group.
        try:
            async with open_event_log(
                store,
                batch_size=_BATCH,
                retry_buffer_cap=_CAP,
                max_event_bytes=MAX_LINE,
                grace_period=_GRACE,
                on_failure=tally.on_failure,
            ) as log:
                with stop.stoppable():
                    await _read_files(log, names, tally)
        except EventsLost:
            pass  # the tally has them
        except StoreError as exc:
            error = exc
        except KeyboardInterrupt:
            complain("ended at once", console)
    if log is None:
        assert error is not None, "the log has not opened"
        raise error
    is_told = await write_summary(tally.summary(log.statistics()))
    if error is not None:
        complain(str(error), console)
    if tally.lost:
        complain("what is lost was not stored: run the same command once more", console)
    if stop.status:
        return stop.status
    all_is_well = is_told and error is None and not (tally.rejected or tally.lost or tally.unreadable)
    return 0 if all_is_well else 1


async def _read_files(log: EventLog, names: Sequence[str], tally: _Tally) -> None:
    files = [EnvelopeFile(name) for name in names]
    if STDIN in names and is_terminal(sys.stdin):
        complain("reading from the terminal; end with Ctrl-D", tally.console)
    repeats = Repeats(log.store, log.statistics().last_assigned_seq, tally.console)
    async with _shown(files, log, tally):
        for file in files:
            if log.statistics().state is LogState.OPEN:
                repeats.begin_file()
                await _read_file(log, file, tally, repeats)
        await _flush(log)


async def _read_file(log: EventLog, file: EnvelopeFile, tally: _Tally, repeats: Repeats) -> None:
    before, unflushed = tally.position, 0
    with file:
        while True:
            # Left behind when cancelled: a pipe may stay silent for ever.
            block = await trio.to_thread.run_sync(file.read_block, abandon_on_cancel=True)
            known = await repeats.find(
                [line.content for line in block.lines if isinstance(line.content, EventEnvelope)]
            )
            for line in block.lines:
                if isinstance(line.content, EventEnvelope) and line.content.event_id in known:
                    tally.is_there()
                    continue
                await _ingest_line(log, _Place(file.label, line.number), line, tally)
                unflushed += line.size
                if unflushed > _BYTES_PENDING:
                    await _flush(log)
                    unflushed = 0
            tally.position = before + block.position
            tally.note_settled(log.statistics())
            if block.problem is not None:
                place = file.label if block.problem_line is None else f"{file.label}:{block.problem_line}"
                tally.cannot_read(place, block.problem)
            # Once the store is unusable, reading on would only lose more.
            if block.is_last or log.statistics().state is not LogState.OPEN:
                return


async def _ingest_line(log: EventLog, place: _Place, line: Line, tally: _Tally) -> None:
    if isinstance(line.content, str):
        tally.malformed(place, line.content)
        await trio.lowlevel.checkpoint()
        return
    try:
        seq = await log.ingest_wait(line.content)
    except CodecError as exc:
        tally.malformed(place, str(exc))
        await trio.lowlevel.checkpoint()
        return
    assert seq is not None, "there is no filter"
    tally.accepted(seq, place)


async def _flush(log: EventLog) -> None:
    try:
        await log.flush()
    except EventsLost:
        # The tally has been told.
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def _shown(files: Sequence[EnvelopeFile], log: EventLog, tally: _Tally) -> AsyncIterator[None]:
    """Show how far we are, on a terminal."""
    sizes = await trio.to_thread.run_sync(lambda: [file.size() for file in files])
    total = sum(size or 0 for size in sizes)

    def state() -> tuple[float, str]:
        statistics = log.statistics()
        settled = statistics.ingested - statistics.pending + tally.rejected + tally.repeated
        return tally.position, f"{settled:,} done, {statistics.pending:,} waiting"

    async with progress_bar(tally.console, total if total and None not in sizes else None, state):
        yield
