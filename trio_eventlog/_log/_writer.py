"""The flush task. Floor 4: Trio."""

from __future__ import annotations

import math

import attrs
import trio

from trio_eventlog._engine._retry_buffer import FlushTicket
from trio_eventlog._log._backlog import Backlog
from trio_eventlog._log._batch_sender import BatchSender
from trio_eventlog._log._flush_timer import FlushTimer
from trio_eventlog._log._outcome import Outcome
from trio_eventlog._log._reporter import Reporter
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._spiller import Spiller
from trio_eventlog._model._errors import LossReason

__all__ = ["Writer"]


@attrs.define(eq=False, kw_only=True)
class Writer:
    """The task that takes events out of the channel and writes them to the store.

    Args:
      settings, backlog, timer, sender, spiller, reporter, outcome: of the log.
    """

    settings: Settings
    backlog: Backlog
    timer: FlushTimer
    sender: BatchSender
    spiller: Spiller | None
    reporter: Reporter
    outcome: Outcome
    _is_closing: bool = attrs.field(default=False, init=False)
    # Events may still be ingested while the body is being cancelled. close() sets the deadline.
    _scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True), init=False)

    async def run(self) -> None:
        """Write until the log is closed and nothing is left, or until :meth:`stop`. A task of its own."""
        try:
            with self._scope:
                await self._write()
        finally:
            if self.spiller is not None:
                await self.spiller.finish()  # noqa: ASYNC102 - it is shielded, and takes a bounded time
        self.give_up(LossReason.SHUTDOWN)

    async def _write(self) -> None:
        while not self._scope.cancel_called:
            self.backlog.take_in()
            due = self.timer.due()
            is_filing = self.backlog.buffer.is_filing and self.outcome.store_error is None
            if self._is_closing and due == math.inf and not is_filing:
                return  # nothing is left, or the last attempt was made
            if trio.current_time() < due:
                await self.timer.sleep_until(due)
            elif self.spiller is not None and self.backlog.buffer.must_load:
                await self.spiller.load(self.sender.max_batch)
            else:
                await self.sender.send()
                if self.spiller is not None:
                    await self.spiller.forget_settled()

    def look(self) -> None:
        """Set the alarms after events came, and decide when to look again. Called for few of the events."""
        backlog, ingress, scheduler = self.backlog, self.backlog.ingress, self.timer.scheduler
        if scheduler.is_idle:
            scheduler.arrived(trio.current_time())
        self.wake()
        if backlog.is_over_limit:
            backlog.take_in()
            return
        # Next when a batch is full, when there is something to spill, or when events must be dropped.
        settings, timer = self.settings, self.timer
        counts = [settings.batch_size, settings.retry_buffer_cap + 1]
        sizes = [timer.heavy_bytes, settings.max_pending_bytes + 1]
        if self.spiller is not None:
            counts.append(self.spiller.low_mark + 1)
            sizes.append(self.spiller.low_mark_bytes + 1)
        waiting, waiting_bytes = backlog.waiting, backlog.waiting_bytes
        ingress.check_count = ingress.count + min(mark for mark in counts if mark > waiting) - waiting
        ingress.check_size = (
            ingress.size + min(mark for mark in sizes if mark > waiting_bytes) - waiting_bytes
        )

    def wake(self) -> None:
        """Let the tasks of the log look when there next is something to do for them."""
        self.timer.wake()
        if self.spiller is not None:
            self.spiller.wake()

    async def flush(self, through: int) -> FlushTicket:
        """Hurry, and wait until nothing up to seq ``through`` is pending. A checkpoint, unless cancelled
        before.

        Returns:
          A ticket, which is settled unless what it waits for is left in the spill file.
        """
        buffer, flushes = self.backlog.buffer, self.backlog.flushes
        self.backlog.take_in()
        ticket = buffer.issue_ticket(through)
        flushes.settle()
        if ticket.outcome is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif self.outcome.store_error is not None:
            buffer.withdraw_ticket(ticket)
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            self.timer.scheduler.hurry()
            self.timer.wake_now()
            await flushes.wait(ticket)
        if ticket.outcome is not None:
            buffer.raised(ticket)
        return ticket

    def close(self) -> None:
        """The body has ended: go on for the grace period."""
        now = trio.current_time()
        deadline = now + self.settings.grace_period
        self._is_closing = True
        self.timer.scheduler.close(now, deadline)
        self.sender.shorten()
        self._scope.deadline = deadline
        if self.settings.grace_period == 0:
            self._scope.cancel(reason="the event log has no grace period")
        self.timer.wake_now()

    def stop(self, reason: str) -> None:
        """Write nothing more."""
        self._scope.cancel(reason=reason)

    def give_up(self, reason: LossReason) -> None:
        """Lose what is pending and not in the spill file, and report it."""
        self.backlog.abandon(reason)
        self.reporter.report_losses()
