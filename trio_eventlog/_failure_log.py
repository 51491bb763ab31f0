"""Reports as log records, for a log without ``on_failure``. Floor 3; time is an argument."""

from __future__ import annotations

import logging
import math
from typing import Final

from trio_eventlog._reports import AppendFailure, EventLoss

logger: Final = logging.getLogger("trio_eventlog")

INTERVAL: Final = 30.0
"""Seconds between two records."""


class FailureLog:
    """Writes the first report of each kind at once, then at most one record per :data:`INTERVAL`.

    What comes in between is counted; the count goes with the next record, or with the summary at the end.
    """

    def __init__(self) -> None:
        self._next_at = -math.inf
        self._kinds_seen: set[type] = set()
        self._failures = 0
        self._lost = 0

    def note(self, report: AppendFailure | EventLoss, now: float) -> None:
        """Write ``report``, or count it."""
        if now < self._next_at and type(report) in self._kinds_seen:
            if isinstance(report, AppendFailure):
                self._failures += 1
            else:
                self._lost += report.count
            return
        self._kinds_seen.add(type(report))
        self._next_at = now + INTERVAL
        since = f" ({self._unwritten()})" if self._failures or self._lost else ""
        if isinstance(report, AppendFailure):
            # Losses are errors, also those that come with this record.
            logger.log(
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
            logger.error(
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
            logger.log(level, "until the log closed: %s", self._unwritten())
            self._failures = self._lost = 0

    def _unwritten(self) -> str:
        return f"not logged since: {self._failures} failed appends, {self._lost} lost events"
