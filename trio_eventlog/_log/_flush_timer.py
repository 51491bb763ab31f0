"""When the flush task has something to do. Floor 4: Trio."""

from __future__ import annotations

import math

import attrs

from trio_eventlog._engine._scheduler import Scheduler
from trio_eventlog._log._alarm import Alarm
from trio_eventlog._log._backlog import Backlog
from trio_eventlog._log._outcome import Outcome

__all__ = ["FlushTimer"]


@attrs.define(eq=False)
class FlushTimer:
    """The pure scheduler, asked about the backlog, and the alarm that the flush task sleeps in.

    Args:
      scheduler: the scheduler, which is told what happens to appends.
      backlog: the events.
      outcome: whether there are appends at all.
      heavy_bytes: bytes that are due at once, however few the events are.
    """

    scheduler: Scheduler
    _backlog: Backlog
    _outcome: Outcome
    heavy_bytes: int
    _alarm: Alarm = attrs.field(factory=Alarm, init=False)

    def due(self) -> float:
        """When the next append may start: a time, ``-inf`` for at once, ``inf`` for never."""
        backlog, buffer = self._backlog, self._backlog.buffer
        available = buffer.available
        if self._outcome.store_error is not None or (buffer.is_filing and not available):
            # In the second case the oldest are being written to the spill file; the spiller wakes the task
            # then.
            return math.inf
        return self.scheduler.due(
            backlog.ingress.count + available,
            is_heavy=backlog.bytes_in_memory >= self.heavy_bytes,
            awaited=buffer.is_awaited or bool(backlog.room),
        )

    def wake(self) -> None:
        """Wake the flush task when the next append is due. Called after what may bring that forward."""
        self._alarm.wake_by(self.due())

    def wake_now(self) -> None:
        """Wake the flush task."""
        self._alarm.wake_by(-math.inf)

    async def sleep_until(self, deadline: float) -> None:
        """For the flush task; see :meth:`Alarm.sleep_until`."""
        await self._alarm.sleep_until(deadline)
