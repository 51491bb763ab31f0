"""Reports as log records, for a log without ``on_failure``. Floor 3; time is an argument."""

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

logger: Final = logging.getLogger("trio_eventlog")

INTERVAL: Final = 30.0
"""Seconds between two records."""


def write_record(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Write a log record; a handler that raises changes nothing.

    Handlers are foreign code, and the books of the log must not depend on it. What they raise goes where
    ``logging`` itself sends such errors.
    """
    try:
        logger.log(level, message, *args, exc_info=error)
    except Exception:  # noqa: BLE001 - see above
        if logging.raiseExceptions and sys.stderr is not None:
            with contextlib.suppress(OSError):
                traceback.print_exc()


class FailureLog:
    """Writes the first report of each kind at once, then at most one record per :data:`INTERVAL`.

    Kinds are a failure and a final failure, of the store and of the spill file, and a loss for each of the
    reasons. What there is once, at the end or when damage is found, is always written.

    What comes in between is counted; the count goes with the next record, or with the summary at the end.
    """

    def __init__(self) -> None:
        self._next_at = -math.inf
        self._kinds_seen: set[object] = set()
        self._failures = 0
        self._spill_failures = 0
        self._lost = 0

    def note(self, report: Report, now: float) -> None:
        """Write ``report``, or count it."""
        if isinstance(report, SpillReport):
            write_record(
                logging.WARNING,
                "%d events are left in the spill file %s; the next log with this file delivers them",
                report.events,
                report.path,
            )
            return
        if isinstance(report, SpillDamageReport) and not report.events:
            write_record(
                logging.ERROR,
                "the spill file %s did not begin as one; it is kept aside, and what can be read is delivered",
                report.path,
            )
            return
        if isinstance(report, SpillDamageReport):
            write_record(
                logging.ERROR,
                "lost %d events (about seq %d to %d): their lines in the spill file %s are damaged",
                report.events,
                report.first_seq,
                report.last_seq,
                report.path,
            )
            return
        if isinstance(report, RevertReport):
            write_record(
                logging.ERROR,
                "the store went back from seq %d to %d: %d events of this run are kept, %d lost%s",
                report.expected_seq,
                report.last_seq,
                report.again,
                report.lost,
                _gone(report.earlier),
            )
            return
        kind = (
            report.reason if isinstance(report, LossReport) else (type(report), math.isinf(report.retry_in))
        )
        if now < self._next_at and kind in self._kinds_seen:
            if isinstance(report, AppendFailureReport):
                self._failures += 1
            elif isinstance(report, SpillFailureReport):
                self._spill_failures += 1
            else:
                self._lost += report.count
            return
        self._kinds_seen.add(kind)
        self._next_at = now + INTERVAL
        unwritten = self._unwritten()
        since = f" ({unwritten})" if unwritten else ""
        if isinstance(report, AppendFailureReport):
            # Losses are errors, also those that come with this record.
            write_record(
                logging.ERROR if self._lost else logging.WARNING,
                "append of %d events (seq %d to %d) failed, failure %d in a row, %s: %r%s",
                report.events,
                report.first_seq,
                report.last_seq,
                report.failures,
                _next_attempt(report.retry_in),
                report.error,
                since,
            )
        elif isinstance(report, SpillFailureReport):
            write_record(
                logging.ERROR if self._lost else logging.WARNING,
                "the spill file %s failed, %s: %r%s",
                report.path,
                _next_attempt(report.retry_in),
                report.error,
                since,
            )
        else:
            write_record(
                logging.ERROR,
                "lost %d events (seq %d to %d, reason: %s%s)%s",
                report.count,
                report.first_seq,
                report.last_seq,
                report.reason,
                "; they may be stored all the same" if report.in_doubt else "",
                since,
            )
        self._failures = self._spill_failures = self._lost = 0

    def close(self) -> None:
        """Write what was counted since the last record, if anything."""
        if unwritten := self._unwritten():
            level = logging.ERROR if self._lost else logging.WARNING
            write_record(level, "until the log closed: %s", unwritten)
            self._failures = self._spill_failures = self._lost = 0

    def _unwritten(self) -> str:
        if not (self._failures or self._spill_failures or self._lost):
            return ""
        spill = f" {self._spill_failures} failures of the spill file," if self._spill_failures else ""
        return f"not logged since: {self._failures} failed appends,{spill} {self._lost} lost events"


def _next_attempt(retry_in: float) -> str:
    return "no further attempt" if math.isinf(retry_in) else f"next attempt in {retry_in:.3g} s"


def _gone(earlier: tuple[int, int] | None) -> str:
    return "" if earlier is None else f"; of earlier runs, seq {earlier[0]} to {earlier[1]} are gone"
