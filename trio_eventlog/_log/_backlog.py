"""Events between ``ingest`` and the store, who waits for them, and when they are due. Floor 4: Trio."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
import trio

from trio_eventlog._engine._losses import FlushTicket
from trio_eventlog._engine._retry_buffer import RetryBuffer
from trio_eventlog._engine._scheduler import Scheduler
from trio_eventlog._log._ingress import make_ingress
from trio_eventlog._log._outcome import Outcome
from trio_eventlog._log._reporter import Reporter
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._timing import Alarm
from trio_eventlog._model._errors import EventLogError, LossReason
from trio_eventlog._model._events import PersistedEvent


@attrs.define(eq=False)
class _Waiter:
    """A task in ``ingest_wait``."""

    task: trio.lowlevel.Task
    size: int
    accept: Callable[[], int]
    seq: int | None = None
    error: EventLogError | None = None


@attrs.define(eq=False)
class RoomQueue:
    """Tasks that wait for room for an event, first come, first served."""

    _has_room: Callable[[int], bool]
    _waiters: OrderedDict[_Waiter, None] = attrs.field(factory=OrderedDict, init=False)

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def is_free(self, size: int) -> bool:
        """Whether there is room for an event of ``size`` bytes, and no task waits for it."""
        return not self._waiters and self._has_room(size)

    async def wait(self, size: int, accept: Callable[[], int], on_queued: Callable[[], None]) -> int:
        """Wait until there is room.

        Args:
          size: bytes of the event.
          accept: accepts the event and returns its seq. Called as soon as there is room, by the task that
            made it. If this is cancelled, it was not called.
          on_queued: called once this task is in the queue, so that room is made for it.

        Raises:
          trio.ClosedResourceError: the log was closed.
        """
        waiter = _Waiter(trio.lowlevel.current_task(), size, accept)
        self._waiters[waiter] = None
        on_queued()

        # Leave the queue in the abort function: until the task runs again it could still be served.
        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiters[waiter]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if waiter.error is not None:
            raise waiter.error
        if waiter.seq is None:
            raise trio.ClosedResourceError("the event log was closed while this event waited for room")
        return waiter.seq

    def serve(self) -> None:
        """Accept events as long as there is room for the next."""
        while self._waiters and self._has_room(next(iter(self._waiters)).size):
            waiter, _ = self._waiters.popitem(last=False)
            try:
                waiter.seq = waiter.accept()
            except EventLogError as exc:  # no seq is left, which its task is to know
                waiter.error = exc
            trio.lowlevel.reschedule(waiter.task)

    def close(self) -> None:
        """Turn all tasks away."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            trio.lowlevel.reschedule(waiter.task)


@attrs.define(eq=False)
class FlushQueue:
    """Tasks that wait for the tickets of a buffer."""

    _buffer: RetryBuffer
    _tasks: dict[FlushTicket, trio.lowlevel.Task] = attrs.field(factory=dict, init=False)

    async def wait(self, ticket: FlushTicket) -> None:
        """Wait until ``ticket`` is settled, or released."""
        self._tasks[ticket] = trio.lowlevel.current_task()

        # In the abort function: a ticket that is settled carries losses, which its task must raise.
        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._tasks[ticket]
            self._buffer.losses.tickets.withdraw(ticket)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def settle(self) -> None:
        """Wake the tasks whose events are settled."""
        for ticket in self._buffer.settle():
            # A flush that has not begun to wait has no task here, and need not wait.
            if (task := self._tasks.pop(ticket, None)) is not None:
                trio.lowlevel.reschedule(task)

    def release(self) -> None:
        """Wake all tasks: what they wait for stays in the spill file, so that nothing will settle it."""
        while self._tasks:
            ticket, task = self._tasks.popitem()
            self._buffer.losses.tickets.withdraw(ticket)
            trio.lowlevel.reschedule(task)


class Backlog:
    """Pending events, and who is told when they are settled or lost.

    Everything here is synchronous, so that the books are right at every checkpoint.
    """

    def __init__(self, settings: Settings, buffer: RetryBuffer, reporter: Reporter, last_seq: int) -> None:
        self.ingress: Final = make_ingress(settings, last_seq)
        self.ingress.connect(self.take_in, self.refuse)
        self.buffer = buffer
        self.flushes = FlushQueue(buffer)
        self.room = RoomQueue(self._has_room)
        self.is_sending = False
        """Whether an append is under way."""
        self._reporter = reporter
        self._max_events = settings.retry_buffer_cap
        self._max_bytes = settings.max_pending_bytes
        self._has_spill_file = settings.spill is not None

    @property
    def waiting(self) -> int:
        """Events that wait in memory, in the channel or in the buffer."""
        return self.ingress.count + self.buffer.waiting

    @property
    def waiting_bytes(self) -> int:
        """Their bytes."""
        return self.ingress.size + self.buffer.waiting_bytes

    @property
    def pending(self) -> int:
        """Events that are neither stored nor lost."""
        return self.ingress.count + self.buffer.pending

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the pending events that are not in the spill file alone."""
        return self.ingress.size + self.buffer.bytes_in_memory

    @property
    def is_over_limit(self) -> bool:
        """Whether the buffer must drop events once it has those of the channel."""
        return self.waiting > self._max_events or self.waiting_bytes > self._max_bytes

    def take_in(self) -> None:
        """Move the content of the channel into the buffer, which keeps the limits."""
        if self.ingress.count:
            size = self.ingress.size
            self.buffer.put(self.ingress.take_all(), size)
            if self.buffer.losses.unreported:
                self.flushes.settle()
                self._reporter.note_losses()
        else:
            self.ingress.check_count = self.ingress.check_size = 1

    def settle(self) -> None:
        """Tell everyone concerned after something became of events."""
        self.flushes.settle()
        self._reporter.note_losses()
        self.room.serve()

    def refuse(self, event: PersistedEvent, reason: LossReason) -> None:
        """Lose an event that was just ingested."""
        self.buffer.refuse(event, reason)
        self._reporter.note_losses()

    def abandon(self, reason: LossReason, *, in_doubt: bool = True) -> None:
        """Lose everything that is pending, except for what is in the spill file, and all that still comes.

        An earlier reason stays for what still comes. ``in_doubt``: the store may hold the batch in flight.
        """
        self.ingress.lost_from_now_on = self.ingress.lost_from_now_on or reason
        self.take_in()
        self.buffer.abandon(reason, in_doubt=in_doubt, keep_again=self._has_spill_file)
        self.flushes.settle()
        self.room.serve()

    def _has_room(self, size: int) -> bool:
        if self.ingress.lost_from_now_on is not None:
            return True
        return (
            self.ingress.count + self.buffer.unfiled < self._max_events
            and self.ingress.size + self.buffer.unfiled_bytes + size <= self._max_bytes
        )


@attrs.define(eq=False)
class FlushTimer:
    """The pure scheduler, asked about the backlog, and the alarm that the flush task sleeps in."""

    scheduler: Scheduler
    _backlog: Backlog
    _outcome: Outcome
    heavy_bytes: int
    """Bytes that are due at once, however few the events are."""
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
            awaited=bool(buffer.losses.tickets or backlog.room),
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
