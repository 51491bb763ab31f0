"""Events between ``ingest`` and the store, and the tasks that wait for them. Floor 4: Trio."""

from __future__ import annotations

import trio

from trio_eventlog._engine._retry_buffer import RetryBuffer
from trio_eventlog._log._reporter import Reporter
from trio_eventlog._log._settings import Settings
from trio_eventlog._log._waiting import FlushQueue, RoomQueue
from trio_eventlog._model._errors import LossReason
from trio_eventlog._model._events import PersistedEvent

__all__ = ["Backlog", "Ingress"]


class Ingress:
    """The memory channel that events enter by.

    ``ingest`` sends into it. The flush task takes everything out when it has reason to run, as does a burst
    that fills the channel: see :meth:`Backlog.take_in`. No task waits in ``receive``, since every event would
    then wake it.

    Args:
      capacity: of the channel.
      last_seq: the last seq given out.
    """

    def __init__(self, capacity: int, last_seq: int) -> None:
        self._send, self._receive = trio.open_memory_channel[PersistedEvent](capacity)
        self._capacity = capacity
        self.last_seq = last_seq
        """The last seq given out."""
        self.count = 0
        """Events in the channel."""
        self.size = 0
        """Their bytes."""
        self.check_count = self.check_size = 1
        """The count, or the bytes, from which on there may be something to do about them."""

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another event."""
        return self.count >= self._capacity

    def put(self, event: PersistedEvent, size: int) -> bool:
        """Send an event. Returns whether there may be something to do."""
        self._send.send_nowait(event)
        self.count += 1
        self.size += size
        return self.count >= self.check_count or self.size >= self.check_size

    def take_all(self) -> tuple[list[PersistedEvent], int]:
        """Receive everything. Returns the events, and their bytes."""
        receive = self._receive.receive_nowait
        arrivals = [receive() for _ in range(self.count)], self.size
        self.count = self.size = 0
        self.check_count = self.check_size = 1
        return arrivals

    def close(self) -> None:
        """Send nothing more."""
        self._send.close()


class Backlog:
    """Pending events, and who is told when they are settled or lost.

    Everything here is synchronous, so that the books are right at every checkpoint.
    """

    def __init__(self, settings: Settings, buffer: RetryBuffer, reporter: Reporter, last_seq: int) -> None:
        self.ingress = Ingress(max(4 * settings.batch_size, 4), last_seq)
        self.buffer = buffer
        self.flushes = FlushQueue(buffer)
        self.room = RoomQueue(self._has_room)
        self.lost_from_now_on: LossReason | None = None
        """Why every further event is lost, if it is."""
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
            self.buffer.put(*self.ingress.take_all())
            if self.buffer.unreported:
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

        Args:
          reason: why; an earlier reason stays for what still comes.
          in_doubt: whether the store may hold the batch in flight.
        """
        self.lost_from_now_on = self.lost_from_now_on or reason
        self.take_in()
        self.buffer.abandon(reason, in_doubt=in_doubt, keep_again=self._has_spill_file)
        self.flushes.settle()
        self.room.serve()

    def _has_room(self, size: int) -> bool:
        if self.lost_from_now_on is not None:
            return True
        return (
            self.ingress.count + self.buffer.unfiled < self._max_events
            and self.ingress.size + self.buffer.unfiled_bytes + size <= self._max_bytes
        )
