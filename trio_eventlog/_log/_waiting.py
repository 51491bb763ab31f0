"""Tasks that wait: for room, and for events to become durable. Floor 4: Trio."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import attrs
import trio

from trio_eventlog._engine._retry_buffer import FlushTicket, RetryBuffer
from trio_eventlog._model._errors import EventLogError

__all__ = ["FlushQueue", "RoomQueue"]


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
            self._buffer.withdraw_ticket(ticket)
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
            self._buffer.withdraw_ticket(ticket)
            trio.lowlevel.reschedule(task)
