"""What became of the lines that ``trio-eventlog ingest`` reads."""

from __future__ import annotations

import math
from typing import Final

import attrs
import trio
from rich.console import Console

from trio_eventlog import (
    AppendFailureReport,
    EventRejected,
    LogStatistics,
    LossReason,
    LossReport,
    Report,
    RevertReport,
)
from trio_eventlog.cli._terminal import complain, counted

_COMPLAINT_INTERVAL: Final = 60.0
"""Seconds between two complaints about a store that keeps failing."""


@attrs.frozen
class Place:
    """The line that an event came from."""

    label: str
    line: int

    def __str__(self) -> str:
        return f"{self.label}:{self.line}"


@attrs.frozen
class _Loss:
    """An event that the log gave up on."""

    seq: int
    event_id: str
    reason: LossReason
    why: str
    in_doubt: bool


@attrs.define
class Tally:
    """What became of the lines: each is stored, already there, rejected, lost or pending."""

    max_shown: int
    console: Console
    started: float = attrs.Factory(trio.current_time)
    read: int = 0
    repeated: int = 0
    """Lines whose events were found in the log and so were not given to it."""

    rejected: int = 0
    lost: int = 0
    unreadable: int = 0
    position: int = 0
    """Bytes read from all files together."""

    _shown: int = 0
    _rejection: str = ""
    """Why the store last rejected events."""

    _next_complaint_at: float = -math.inf
    """When to complain about the store again."""

    _reported: int = 0
    """Losses that the log has reported."""

    _places: dict[int, Place] = attrs.Factory(dict)
    """The lines of the events that may still be rejected or lost, by seq, in ascending order."""

    _unplaced: list[_Loss] = attrs.Factory(list)
    """Losses of events whose seq is not yet known here."""

    def accepted(self, seq: int, place: Place) -> None:
        """Note that the log has accepted an event."""
        self.read += 1
        self._places[seq] = place
        if self._unplaced:
            self._place_losses()

    def already_there(self) -> None:
        """Note that the log already holds the event of a line."""
        self.read += 1
        self.repeated += 1

    def malformed(self, place: Place, reason: str) -> None:
        """Note that a line is not an envelope, or holds an event that no log accepts."""
        self.read += 1
        self._reject(place, reason)

    def note_settled(self, statistics: LogStatistics) -> None:
        """Forget the lines of events that are stored.

        Events are settled in order, except those that are lost, whose lines are forgotten as soon as the log
        reports them. So the lines that are still needed are the newest ones.
        """
        needed = statistics.pending + statistics.lost_total - self._reported
        for seq in list(self._places)[: max(len(self._places) - needed, 0)]:
            del self._places[seq]

    def on_failure(self, report: Report) -> None:
        """Take in a report of the log."""
        match report:
            case AppendFailureReport():
                self._failed(report)
            case LossReport():
                self._lost(report)
            case RevertReport():
                self._reverted(report)
            case _:
                pass  # those of a spill file, which there is none of here

    def _lost(self, report: LossReport) -> None:
        self._reported += report.count
        why = self._rejection if report.reason is LossReason.REJECTED else report.reason
        self._unplaced += [
            _Loss(event.seq, event.id, report.reason, why, report.in_doubt) for event in report.events
        ]
        self._place_losses()

    def _failed(self, failure: AppendFailureReport) -> None:
        if isinstance(failure.error, EventRejected):
            # A report of the lost events follows.
            self._rejection = failure.error.reason
        elif math.isfinite(failure.retry_in) and trio.current_time() >= self._next_complaint_at:
            self._next_complaint_at = trio.current_time() + _COMPLAINT_INTERVAL
            attempts = "" if failure.failures == 1 else f" ({failure.failures:,} times in a row)"
            complain(f"the store failed{attempts}; retrying: {failure.error}", self.console)

    def _reverted(self, report: RevertReport) -> None:
        # The lines of these losses are forgotten: the events were stored.
        self._reported += report.lost
        self.lost += report.lost
        complain(
            f"the store went back: it had acknowledged up to seq {report.expected_seq}, and now ends at"
            f" {report.last_seq}; {counted(report.again, 'event')} stored again, {report.lost:,} lost",
            self.console,
        )

    def _place_losses(self) -> None:
        # The flush task may give up on an event before this task runs again and learns its seq.
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

    def _reject(self, place: Place, reason: str) -> None:
        self.rejected += 1
        self._show(f"{place}: {reason}")

    def _show(self, complaint: str) -> None:
        if self._shown < self.max_shown:
            complain(complaint, self.console)
        elif self._shown == self.max_shown:
            complain("further lines like these are only counted", self.console)
        self._shown += 1

    def cannot_read(self, place: str, problem: str) -> None:
        """Note that a file could not be read to its end. Always shown, since files are few."""
        self.unreadable += 1
        complain(f"{place}: {problem}", self.console)

    def summary(self, statistics: LogStatistics) -> str:
        """What became of all lines, on one line."""
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
