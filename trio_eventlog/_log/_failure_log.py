"""Reports as log records, for a log without ``on_failure``. Floor 4; time is an argument."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import traceback
from typing import Final

from trio_eventlog._model._reports import (
    AppendFailureReport,
    LossReport,
    Report,
    RevertReport,
    SpillDamageReport,
    SpillFailureReport,
    SpillReport,
)

__all__ = ["INTERVAL", "FailureLog", "logger", "write_record"]

logger: Final = logging.getLogger("trio_eventlog")

INTERVAL: Final = 30.0
"""Seconds between two records."""


def write_record(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Write a log record; a handler that raises changes nothing.

    Handlers are code of the program, and the books of the log must not depend on it. What they raise goes
    where ``logging`` itself sends such errors.
    """
    try:
        logger.log(level, message, *args, exc_info=error)
    except Exception:  # noqa: BLE001 - see above
        if logging.raiseExceptions and sys.stderr is not None:
            with contextlib.suppress(OSError):
                traceback.print_exc()


class FailureLog:
    """Writes the first report of each kind at once, then at most one record per :data:`INTERVAL`.

    The kinds are failures and final failures, of the store and of the spill file, and losses for each reason.
    Reports that come once, at the end or when damage is found, are always written. What comes in between is
    counted. The count goes with the next record, or with the summary at the end.
    """

    def __init__(self) -> None:
        self._next_at = -math.inf
        self._kinds_seen: set[object] = set()
        self._failures = 0
        self._spill_failures = 0
        self._lost = 0

    def note(self, report: Report, now: float) -> None:
        """Write ``report``, or count it."""
        if isinstance(report, SpillReport | SpillDamageReport | RevertReport):
            message, args = _rare(report)
            level = logging.WARNING if isinstance(report, SpillReport) else logging.ERROR
            write_record(level, message, *args)
            return
        kind: object
        if isinstance(report, LossReport):
            kind = report.reason
        else:
            kind = type(report), math.isinf(report.retry_in)
        if now < self._next_at and kind in self._kinds_seen:
            self._count(report)
            return
        self._kinds_seen.add(kind)
        self._next_at = now + INTERVAL
        # Losses are errors, and so is a record that comes with some.
        level = logging.ERROR if self._lost or isinstance(report, LossReport) else logging.WARNING
        unwritten = self._take_unwritten()
        message, args = _frequent(report)
        write_record(level, f"{message}%s", *args, f" ({unwritten})" if unwritten else "")

    def close(self) -> None:
        """Write what was counted since the last record, if anything."""
        level = logging.ERROR if self._lost else logging.WARNING
        if unwritten := self._take_unwritten():
            write_record(level, "until the log closed: %s", unwritten)

    def _count(self, report: AppendFailureReport | SpillFailureReport | LossReport) -> None:
        if isinstance(report, AppendFailureReport):
            self._failures += 1
        elif isinstance(report, SpillFailureReport):
            self._spill_failures += 1
        else:
            self._lost += report.count

    def _take_unwritten(self) -> str:
        """What was counted, in words, which is forgotten with that."""
        if not (self._failures or self._spill_failures or self._lost):
            return ""
        spill = f" {self._spill_failures} failures of the spill file," if self._spill_failures else ""
        unwritten = f"not logged since: {self._failures} failed appends,{spill} {self._lost} lost events"
        self._failures = self._spill_failures = self._lost = 0
        return unwritten


def _frequent(
    report: AppendFailureReport | SpillFailureReport | LossReport,
) -> tuple[str, tuple[object, ...]]:
    """The message of a record, and its arguments."""
    if isinstance(report, AppendFailureReport):
        return "append of %d events (seq %d to %d) failed, failure %d in a row, %s: %r", (
            report.events,
            report.first_seq,
            report.last_seq,
            report.failures,
            _next_attempt(report.retry_in),
            report.error,
        )
    if isinstance(report, SpillFailureReport):
        return "the spill file %s failed, %s: %r", (
            report.path,
            _next_attempt(report.retry_in),
            report.error,
        )
    return "lost %d events (seq %d to %d, reason: %s%s)", (
        report.count,
        report.first_seq,
        report.last_seq,
        report.reason,
        "; they may be stored all the same" if report.in_doubt else "",
    )


def _rare(report: SpillReport | SpillDamageReport | RevertReport) -> tuple[str, tuple[object, ...]]:
    if isinstance(report, SpillReport):
        return "%d events are left in the spill file %s; the next log with this file delivers them", (
            report.events,
            report.path,
        )
    if isinstance(report, RevertReport):
        return "the store went back from seq %d to %d: %d events of this run are kept, %d lost%s", (
            report.expected_seq,
            report.last_seq,
            report.again,
            report.lost,
            _gone(report.earlier),
        )
    if not report.events:
        return (
            "the spill file %s did not begin as one; it is kept aside, and what can be read is delivered",
            (report.path,),
        )
    return "lost %d events (about seq %d to %d): their lines in the spill file %s are damaged", (
        report.events,
        report.first_seq,
        report.last_seq,
        report.path,
    )


def _next_attempt(retry_in: float) -> str:
    return "no further attempt" if math.isinf(retry_in) else f"next attempt in {retry_in:.3g} s"


def _gone(earlier: tuple[int, int] | None) -> str:
    return "" if earlier is None else f"; of earlier runs, seq {earlier[0]} to {earlier[1]} are gone"
