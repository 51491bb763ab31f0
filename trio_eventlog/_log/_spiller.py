"""When events go to the spill file. Floor 4: Trio."""

from __future__ import annotations

import math
from typing import Final

import trio

from trio_eventlog._log._alarm import Alarm
from trio_eventlog._log._backlog import Backlog
from trio_eventlog._log._backoff import Backoff
from trio_eventlog._log._flush_timer import FlushTimer
from trio_eventlog._log._outcome import Outcome
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._spill_queue import SpillQueue
from trio_eventlog._log._syncer import Syncer
from trio_eventlog._threads import DISK_TIMEOUT
from trio_eventlog._model._errors import LossReason

__all__ = ["Spiller"]


class Spiller:
    """The task that writes to the spill file.

    Once more than half of the events that may wait do so beside a store that is slow or down, it writes the
    oldest to the file; at the end, whatever is left. The flush task reads them back.

    Args:
      queue: the file.
      syncer: the task that makes the store keep what was delivered from the file, if the store needs that.
      settings, backlog, timer, outcome: of the log.
    """

    def __init__(
        self,
        queue: SpillQueue,
        syncer: Syncer | None,
        *,
        settings: Settings,
        backlog: Backlog,
        timer: FlushTimer,
        outcome: Outcome,
    ) -> None:
        self.queue: Final = queue
        self.syncer: Final = syncer
        self._backlog = backlog
        self._timer = timer
        self._outcome = outcome
        self.low_mark: Final = settings.retry_buffer_cap // 2
        """Waiting events, beyond which there may be something to spill."""
        self.low_mark_bytes: Final = settings.max_pending_bytes // 2
        """The same for their bytes."""
        self._backoff = Backoff(settings.retry)
        self._alarm = Alarm()
        self._scope = trio.CancelScope(shield=True)  # until finish()
        self._is_finishing = False
        self._is_done = trio.Event()

    async def run(self) -> None:
        """Write what is due, until :meth:`finish`. A task of its own."""
        try:
            with self._scope:
                await self._spill()
        finally:
            self._is_done.set()

    async def _spill(self) -> None:
        while True:
            self._backlog.take_in()
            if self._is_finishing and not self._backlog.buffer.can_file:
                return
            due = self._due()
            if trio.current_time() < due:
                await self._alarm.sleep_until(due)
            else:
                await self._write()

    def _due(self) -> float:
        """When the next write may start."""
        backlog, buffer = self._backlog, self._backlog.buffer
        if buffer.is_filing or not (backlog.ingress.count or buffer.can_file):
            return math.inf
        if self._is_finishing:
            is_wanted = True
        elif self._outcome.store_error is not None:
            is_wanted = backlog.waiting > 0
        else:
            # A healthy store takes all that waits with its next append.
            is_behind = backlog.is_sending or self._timer.scheduler.failures > 0 or buffer.must_load
            is_much = backlog.waiting > self.low_mark or backlog.waiting_bytes > self.low_mark_bytes
            is_wanted = is_behind and (is_much or bool(backlog.room))
        return self._backoff.retry_at if is_wanted else math.inf

    async def _write(self) -> None:
        events, error = await self.queue.write(is_last_chance=self._is_finishing)
        if error is None:
            self._backoff.succeeded()
        else:
            self.queue.tell_failure(error, events, self._backoff.failed(trio.current_time()))
        self._backlog.take_in()
        self._backlog.settle()
        self._timer.wake()

    def wake(self) -> None:
        """Look when the next write is due."""
        self._alarm.wake_by(self._due())

    async def load(self, max_batch: int) -> None:
        """Read the next batch from the file. For the flush task, which may append it then."""
        error = await self.queue.load(max_batch)
        if error is not None:
            now, scheduler = trio.current_time(), self._timer.scheduler
            scheduler.taken(self._backlog.buffer.available, now)
            self.queue.tell_failure(error, 0, scheduler.failed(now))
            return
        self._backlog.flushes.settle()
        if self.syncer is not None:
            self.syncer.wake()

    async def forget_settled(self) -> None:
        """Make the file small again if all that it has is settled."""
        if not self.queue.take_settled():
            return
        if self.queue.waits_for_sync:
            if self.syncer is not None:
                self.syncer.wake()
        else:
            await self.queue.forget_through(self.queue.settled_to)

    def store_went_back(self) -> None:
        """The file may have copies of what the store lost, and the next run can deliver them again."""
        if self.syncer is not None:
            self.queue.keep_until_full()

    async def finish(self) -> None:
        """Write what is left, and sync the store, for a bounded time. Not cut short by being cancelled."""
        self._is_finishing = True
        self._alarm.wake_by(-math.inf)
        if self.syncer is not None:
            self.syncer.finish()
        with trio.move_on_after(DISK_TIMEOUT, shield=True):
            await self._wait()
        self._scope.cancel(reason="the spill file took too long")
        if self.syncer is not None:
            self.syncer.stop("the store took too long to sync")
        # Not for long: both tasks were cancelled, and a task that waits for a thread gives that up.
        with trio.CancelScope(shield=True):
            await self._wait()

    async def _wait(self) -> None:
        await self._is_done.wait()
        if self.syncer is not None:
            await self.syncer.is_done.wait()

    async def close(self) -> None:
        """Leave the file to the next run, or remove it. Takes a bounded time."""
        self._backlog.flushes.release()
        await self.queue.close(self._backlog.ingress.lost_from_now_on or LossReason.SHUTDOWN)
