"""Telling the program what went wrong. Floor 4: Trio."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from threading import get_ident
from typing import Final

import trio

from trio_eventlog._engine._retry_buffer import RetryBuffer
from trio_eventlog._log._alarm import Alarm
from trio_eventlog._log._failure_log import FailureLog, write_record
from trio_eventlog._log._settings import OnFailure
from trio_eventlog._model._reports import LossReport, Report

__all__ = ["Reporter"]

_MAX_UNREPORTED: Final = 1024
"""Losses that are reported at once."""

_REPORT_DELAY: Final = 1.0
"""Seconds after which fewer losses are reported."""


class Reporter:
    """Calls ``on_failure`` or, without one, writes log records.

    Args:
      buffer: the buffer whose losses are reported.
      on_failure: see :func:`open_event_log`.
      log: what log records name as the source.
      on_interrupt: called with what ``on_failure`` or a logging handler raises if that is not an
        :exc:`Exception`, and so is meant for the whole program.
    """

    def __init__(
        self,
        buffer: RetryBuffer,
        on_failure: OnFailure | None,
        log: object,
        on_interrupt: Callable[[BaseException], None],
    ) -> None:
        self._buffer = buffer
        self._on_failure = on_failure
        self._log = log
        self._on_interrupt = on_interrupt
        self._failure_log = FailureLog()
        self._alarm = Alarm()
        self._scope = trio.CancelScope(shield=True)  # until stop()
        self._report_at = math.inf
        self._is_reporting = False
        self._has_logged_foreign_error = False
        self._reporting_thread: int | None = None

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
        if self._buffer.unreported >= _MAX_UNREPORTED:
            self.report_losses()
        else:
            self._report_soon()

    def _report_soon(self) -> None:
        if self._buffer.unreported and self._report_at == math.inf:
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
            losses: list[LossReport] = self._buffer.collect_losses()
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
