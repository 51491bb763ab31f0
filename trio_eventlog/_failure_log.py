"""Reports as log records, for a log without ``on_failure``. Floor 3; time is an argument."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import traceback
from typing import Final

from trio_eventlog._reports import AppendFailure, EventLoss

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

    Kinds are a failure, a final failure, and a loss for each of the reasons.

    What comes in between is counted; the count goes with the next record, or with the summary at the end.
    """

    def __init__(self) -> None:
        self._next_at = -math.inf
        self._kinds_seen: set[object] = set()
        self._failures = 0
        self._lost = 0

    def note(self, report: AppendFailure | EventLoss, now: float) -> None:
        """Write ``report``, or count it."""
        kind = report.reason if isinstance(report, EventLoss) else math.isinf(report.retry_in)
        if now < self._next_at and kind in self._kinds_seen:
            if isinstance(report, AppendFailure):
                self._failures += 1
            else:
                self._lost += report.count
            return
        self._kinds_seen.add(kind)
        self._next_at = now + INTERVAL
        since = f" ({self._unwritten()})" if self._failures or self._lost else ""
        if isinstance(report, AppendFailure):
            # Losses are errors, also those that come with this record.
            write_record(
                logging.ERROR if self._lost else logging.WARNING,
                "append of %d events (seq %d to %d) failed, failure %d in a row, %s: %r%s",
                report.events,
                report.first_seq,
                report.last_seq,
                report.failures,
                "no further attempt"
                if math.isinf(report.retry_in)
                else f"next attempt in {report.retry_in:.3g} s",
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
        self._failures = self._lost = 0

    def close(self) -> None:
        """Write what was counted since the last record, if anything."""
        if self._failures or self._lost:
            level = logging.ERROR if self._lost else logging.WARNING
            write_record(level, "until the log closed: %s", self._unwritten())
            self._failures = self._lost = 0

    def _unwritten(self) -> str:
        return f"not logged since: {self._failures} failed appends, {self._lost} lost events"
