"""Telling the program what went wrong. Floor 4: Trio."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import traceback
from collections.abc import Callable
from threading import get_ident
from typing import Final

import attrs
import trio

from trio_eventlog._engine._losses import Losses
from trio_eventlog._log._settings import OnFailure
from trio_eventlog._log._timing import Alarm
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


_MAX_UNREPORTED: Final = 1024
"""Losses that are reported at once."""

_REPORT_DELAY: Final = 1.0
"""Seconds after which fewer losses are reported."""


@attrs.define(eq=False)
class Reporter:
    """Calls ``on_failure`` or, without one, writes log records that name ``log`` as the source.

    ``on_interrupt`` is called with what ``on_failure`` or a logging handler raises if that is not an
    :exc:`Exception`, and so is meant for the whole program.
    """

    _losses: Losses
    _on_failure: OnFailure | None
    _log: object
    _on_interrupt: Callable[[BaseException], None]
    _failure_log: FailureLog = attrs.field(factory=FailureLog, init=False)
    _alarm: Alarm = attrs.field(factory=Alarm, init=False)
    # Until stop().
    _scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True), init=False)
    _report_at: float = attrs.field(default=math.inf, init=False)
    _is_reporting: bool = attrs.field(default=False, init=False)
    _has_logged_foreign_error: bool = attrs.field(default=False, init=False)
    _reporting_thread: int | None = attrs.field(default=None, init=False)

    @property
    def is_calling(self) -> bool:
        """Whether the caller runs within ``on_failure``."""
        return self._reporting_thread == get_ident()

    async def run(self) -> None:
        """Report losses in time even while an append takes long. A task of its own."""
        with self._scope:
            while True:
                await self._alarm.sleep_until(self._report_at)
                if trio.current_time() >= self._report_at:
                    self.report_losses()

    def stop(self, reason: str) -> None:
        """End :meth:`run`."""
        self._scope.cancel(reason=reason)

    def close(self) -> None:
        """Report what is left to report."""
        self.report_losses()
        self._guarded(self._failure_log.close)

    def note_losses(self) -> None:
        """See to it that losses are reported: now if there are many, otherwise soon."""
        if self._losses.unreported >= _MAX_UNREPORTED:
            self.report_losses()
        else:
            self._report_soon()

    def _report_soon(self) -> None:
        if self._losses.unreported and self._report_at == math.inf:
            self._report_at = trio.current_time() + _REPORT_DELAY
            self._alarm.wake_by(self._report_at)

    def report_losses(self) -> None:
        """Report all losses now."""
        # on_failure may ingest, and so lead to losses and to this method. Those are reported later.
        if self._is_reporting:
            return
        self._is_reporting = True
        self._report_at = math.inf
        try:
            losses: list[LossReport] = self._losses.collect()
            for loss in losses:
                self.tell(loss)
        finally:
            self._is_reporting = False
        self._report_soon()

    def tell(self, report: Report) -> None:
        """Hand a report over. What ``on_failure`` raises changes nothing here."""
        if self._on_failure is None:
            self._guarded(self._failure_log.note, report, trio.current_time())
            return
        before, self._reporting_thread = self._reporting_thread, get_ident()
        try:
            self._on_failure(report)
        except Exception as exc:  # noqa: BLE001 - promised: logged
            self._guarded(write_record, logging.ERROR, "on_failure raised; %s goes on", self._log, error=exc)
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - handed over; nothing is awaited here
            self._on_interrupt(exc)
        finally:
            self._reporting_thread = before

    def log_foreign_error(self, store: object, error: Exception) -> None:
        """Write a log record about a store that breaks its contract, once."""
        if not self._has_logged_foreign_error:
            self._has_logged_foreign_error = True
            message = "the store %r broke its contract; the append will be tried again"
            self._guarded(write_record, logging.ERROR, message, store, error=error)

    def _guarded(self, write: Callable[..., None], *args: object, **kwargs: object) -> None:
        """Write log records, in which the handlers of the program run."""
        try:
            write(*args, **kwargs)
        except Exception:
            raise  # not of a handler, which write_record sees to: an error of the log itself
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - handed over; nothing is awaited here
            self._on_interrupt(exc)
