"""The events that wait for the store: their order, the cap, and which of them are in the spill file.

Pure, so that a state machine can try every order of operations.

Events enter by :meth:`RetryBuffer.put` in ascending seq. The oldest of them leave as one batch in flight
(:meth:`RetryBuffer.take`), which then succeeds, fails or is partly rejected. Two facts make the rest simple:
pending events always are, in order, the batch in flight and then those that wait; and a batch is always a
prefix of them, so that one mark (``offered_through``) says which ones a store has seen.

With a spill file the order is: the batch in flight, events in the file, those that are being written to it,
those that wait in memory. So the batch in flight goes to the file before anything younger, and events in
memory are taken only once the file has none. A batch that was read from the file, or was written to it while
in flight, is *kept* in memory until it is settled, and its lines in the file are dead from then on.

A store can go back to an older state. The events that it has lost and that are still in memory are then
pending *again*, and older than everything else. The file is a queue and has no place for them, so they stay
in memory until they are settled or the file is closed.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Collection, Sequence
from enum import Enum, auto
from typing import Final

from trio_eventlog._engine._durable_seqs import DurableSeqs, Span
from trio_eventlog._engine._event_queue import EMPTY, Batch, EventQueue
from trio_eventlog._engine._losses import FlushTicket, LossAccount, Losses
from trio_eventlog._model._errors import LossReason
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._sealed import SealedEvents, reseal, size_of


class _Filed(Enum):
    """Whether the batch in flight is in the spill file."""

    NO = auto()
    IN_PROGRESS = auto()
    YES = auto()
    NEVER = auto()  # stored once, and pending again


# Over 300 lines: it is one state machine, and most of its methods are one question or one event of it.
class RetryBuffer:
    """Events between ``ingest`` and the store.

    Args:
      cap: highest number of events that wait, without the batch in flight; 1 or more. Beyond it the oldest
        waiting events are lost.
      max_bytes: the same for their bytes, as :func:`size_of` counts them.
      first_seq: the lowest seq that an event may have.
      spilled: events that are in the spill file already.
    """

    def __init__(
        self, cap: int, *, max_bytes: float = math.inf, first_seq: int = 1, spilled: int = 0
    ) -> None:
        self._cap = cap
        self._max_bytes = max_bytes
        self._in_flight = EMPTY
        self._in_flight_is: _Filed = _Filed.NO
        self._again = EventQueue()
        self._kept = EMPTY
        self._was_read = False  # whether what is kept, or was in flight from the file, came from there
        self._in_file = spilled  # without what is kept
        self._filing: Batch | None = None
        self._waiting = EventQueue()
        self._dead: set[int] = set()  # lost, but in the file, or on their way to it
        self._settled_through = first_seq - 1
        self.losses: Final = Losses()
        """What is lost, and the flushes that wait: :meth:`settle` settles their tickets."""
        self._durable = DurableSeqs()
        self.duplicate = 0
        """Events that the store already held under another seq."""
        self.offered_through = 0
        """Highest seq of an append whose outcome is unknown."""
        self.peak_pending = spilled
        """Highest number of events that were pending at once."""

    # --- how many, and how large ------------------------------------------------------------------

    @property
    def persisted(self) -> int:
        """Events that the store has taken, and still has."""
        return self._durable.count

    @property
    def last_durable_seq(self) -> int:
        """Highest seq of these; 0 if there is none."""
        return self._durable.last

    @property
    def waiting(self) -> int:
        """Events that wait in memory, without the batch in flight and one that is kept."""
        return len(self._again) + len(self._waiting) + len(self._filing or ())

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the events that wait in memory."""
        return self._again.bytes + self._waiting.bytes + (self._filing or EMPTY).bytes

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the pending events that are not in the spill file alone."""
        return self.waiting_bytes + self._in_flight.bytes + self._kept.bytes

    @property
    def batch_bytes(self) -> int:
        """Bytes of the batch in flight."""
        return self._in_flight.bytes

    @property
    def available(self) -> int:
        """Events that could be taken, now or after a read of the spill file."""
        if not (self._again or self._kept or self._in_file) and self._filing:
            return 0
        return len(self._kept) + self._in_file + self.waiting

    @property
    def in_memory(self) -> int:
        """Pending events that are not in the spill file alone."""
        return self.waiting + len(self._kept) + len(self._in_flight)

    @property
    def pending(self) -> int:
        """All events that wait, and those of the batch in flight."""
        return self.in_memory + self._in_file

    @property
    def spilled(self) -> int:
        """Pending events that are in the spill file."""
        filed = len(self._in_flight) if self._in_flight_is is _Filed.YES else 0
        return self._in_file + len(self._kept) + filed

    # --- events arrive, and leave in batches ------------------------------------------------------

    def put(self, events: Sequence[PersistedEvent], size: int) -> None:
        """Add events, at least one, with higher seqs than any before them, and ``size`` bytes together.

        The oldest that wait may be lost to the cap.
        """
        if self.waiting + len(events) <= self._cap and self.waiting_bytes + size <= self._max_bytes:
            # Usually there is room for all of them: then nothing has to be asked for each.
            self._waiting.extend(events, size)
            self.peak_pending = max(self.peak_pending, self.pending)
            return
        for event in events:
            self._waiting.extend((event,), size_of(event))
            self._trim()
            self.peak_pending = max(self.peak_pending, self.pending)

    def refuse(self, event: PersistedEvent, reason: LossReason) -> None:
        """Give ``event`` up without letting it wait."""
        self.losses.lose(event, reason, in_doubt=False)

    def take(self, most: int) -> tuple[PersistedEvent, ...]:
        """Put the oldest events, at most ``most``, in flight as one batch. There must be none already."""
        assert not self._in_flight, "one append at a time"
        if self._again:
            self._in_flight_is = _Filed.NEVER
            self._in_flight = self._again.take(most, math.inf)
        elif self._kept:
            self._in_flight_is = _Filed.YES
            self._in_flight, self._kept = self._kept, EMPTY
        else:
            assert not self.must_load, "what is in the file is older"
            assert not self._filing, "what is on its way to the file is older"
            self._in_flight_is = _Filed.NO
            self._in_flight = self._waiting.take(most, math.inf)
        return self._in_flight.events

    def stored(self, duplicates: Collection[int]) -> tuple[PersistedEvent, ...]:
        """The store has taken the batch in flight, but for the seqs of ``duplicates``, which it held before.

        Returns the events that it has taken.
        """
        stored: tuple[PersistedEvent, ...] = self._in_flight.events
        if duplicates:
            stored = tuple(event for event in stored if event.seq not in duplicates)
        self.duplicate += len(self._in_flight) - len(stored)
        if stored:
            first, last = stored[0].seq, stored[-1].seq
            # Usually: then nothing has to be asked for each.
            is_seamless = last - first + 1 == len(stored)
            self._durable.add(range(first, last + 1) if is_seamless else [event.seq for event in stored])
        self._settle_batch()
        self._in_flight = EMPTY
        return stored

    def failed(self, *, in_doubt: bool = True) -> None:
        """The batch in flight was not taken: it waits again, at the front, where the cap applies first.

        ``in_doubt``: the store may hold it after all.
        """
        self._rejoin(in_doubt=in_doubt)
        self._trim()

    def rejected(self, seqs: Collection[int]) -> None:
        """The store has taken nothing of the batch in flight and can never hold the events with ``seqs``.

        They are lost, and the rest waits again.
        """
        for event in self._in_flight:
            if event.seq in seqs:
                # Resealed as in _rejoin: the store was given it.
                self.losses.lose(reseal(event), LossReason.REJECTED, in_doubt=False)
                # The file has it, or will: it is left out when it is read from there.
                if self._in_flight_is in {_Filed.IN_PROGRESS, _Filed.YES}:
                    self._dead.add(event.seq)
        remaining = Batch.of(event for event in self._in_flight if event.seq not in seqs)
        if not remaining:
            self._settle_batch()
        self._in_flight = remaining
        self.failed(in_doubt=False)

    def went_back(self, last_seq: int, at_hand: Sequence[PersistedEvent]) -> tuple[int, int]:
        """The store has nothing above ``last_seq``, and has taken nothing of the batch in flight.

        Args:
          last_seq: the highest seq that it still has.
          at_hand: the youngest events above it that the store had taken; ascending, sealed, and shared with
            no other code. They wait again, at the front, where the cap applies first.

        Returns:
          How many of them wait now, and how many events that were not at hand are lost.
        """
        # Nothing that was ever offered is there.
        self.offered_through = min(self.offered_through, last_seq)
        self._rejoin(in_doubt=False)
        lost = 0
        seqs = [event.seq for event in at_hand]
        for span in self._durable.take_after(last_seq):
            missing = _without(span, seqs)
            if missing is not None:
                lost += missing.count
                self.losses.lose_unseen(missing, LossReason.REVERTED)
        self._again.put_back(Batch.of(at_hand))
        before = self.losses.by_reason[LossReason.CAP]
        self._trim()
        self.peak_pending = max(self.peak_pending, self.pending)
        return max(len(at_hand) - (self.losses.by_reason[LossReason.CAP] - before), 0), lost

    def abandon(self, reason: LossReason, *, in_doubt: bool = True, keep_again: bool = False) -> None:
        """Give up everything pending, except for what is in the spill file.

        What is being written there may have arrived, and so may reach the store after all.

        Args:
          reason: why.
          in_doubt: whether the store may hold the batch in flight, if there is one.
          keep_again: whether to keep what is pending again: it goes to the file when that is closed.
        """
        self._rejoin(in_doubt=in_doubt)
        filing, self._filing = self._filing or EMPTY, None
        for event in filing:
            self.losses.lose(event, reason, in_doubt=True)
            # If it has arrived, it is left out when it is read.
            self._dead.add(event.seq)
        while (self._again and not keep_again) or self._waiting:
            self._lose_oldest(reason, keep_again=keep_again)

    def _settle_batch(self) -> None:
        if self._in_flight:
            self._settled_through = max(self._settled_through, self._in_flight.events[-1].seq)

    def _rejoin(self, *, in_doubt: bool) -> None:
        if not self._in_flight:
            return
        if in_doubt:
            self.offered_through = max(self.offered_through, self._in_flight.events[-1].seq)
        # The store was given these events and may have changed their payloads: copies of them wait again.
        batch = Batch(SealedEvents(map(reseal, self._in_flight)), self._in_flight.bytes)
        self._in_flight = EMPTY
        if self._in_flight_is is _Filed.YES:
            self._kept = batch
        elif self._in_flight_is is _Filed.IN_PROGRESS:
            assert self._filing is not None, "it is on its way"
            self._filing = Batch(
                SealedEvents(batch.events + self._filing.events), batch.bytes + self._filing.bytes
            )
        elif self._in_flight_is is _Filed.NEVER:
            self._again.put_back(batch)
        else:
            self._waiting.put_back(batch)

    def _trim(self) -> None:
        while (self._again or self._waiting) and (
            self.waiting > self._cap or self.waiting_bytes > self._max_bytes
        ):
            self._lose_oldest(LossReason.CAP)

    def _lose_oldest(self, reason: LossReason, *, keep_again: bool = False) -> None:
        event = (self._again if self._again and not keep_again else self._waiting).pop()
        self.losses.lose(event, reason, in_doubt=event.seq <= self.offered_through)

    # --- the spill file ---------------------------------------------------------------------------

    @property
    def must_load(self) -> bool:
        """Whether the oldest events are in the spill file alone."""
        return bool(self._in_file) and not (self._again or self._kept or self._in_flight)

    @property
    def can_file(self) -> bool:
        """Whether there is anything to write to the file."""
        return bool(self._waiting) or (bool(self._in_flight) and self._in_flight_is is _Filed.NO)

    @property
    def is_filing(self) -> bool:
        """Whether events are being written to the file."""
        return self._filing is not None

    @property
    def unfiled(self) -> int:
        """Pending events that are in memory alone: they would be lost with this process, or to the cap."""
        return self.waiting + len(self._unfiled_batch)

    @property
    def unfiled_bytes(self) -> int:
        """Bytes of these."""
        return self.waiting_bytes + self._unfiled_batch.bytes

    @property
    def _unfiled_batch(self) -> Batch:
        return EMPTY if self._in_flight_is is _Filed.YES else self._in_flight

    @property
    def is_file_settled(self) -> bool:
        """Whether no pending event is in the file, or being written to it."""
        return not self.spilled and self._filing is None

    @property
    def read(self) -> tuple[PersistedEvent, ...]:
        """The events that were read from the file, and are pending and not in flight."""
        return self._kept.events if self._was_read else ()

    @property
    def again(self) -> tuple[PersistedEvent, ...]:
        """The events that are pending again, and not in flight."""
        return tuple(self._again)

    def start_filing(self, most: int, most_bytes: float = math.inf) -> tuple[PersistedEvent, ...]:
        """The oldest events that are not in the file, to be written to it.

        They are the batch in flight, or else at most ``most`` of those that wait, and none after
        ``most_bytes``. They stay pending in memory until the outcome is told.
        """
        assert self._filing is None, "one write at a time"
        if self._in_flight and self._in_flight_is is _Filed.NO:
            self._filing = EMPTY
            self._in_flight_is = _Filed.IN_PROGRESS
            return self._in_flight.events
        self._filing = self._waiting.take(most, most_bytes)
        return self._filing.events

    def filed(self) -> None:
        """What was being written is in the file, and durable. It may have been read from there already."""
        if self._filing is None:
            return
        self._in_file += len(self._filing)
        self._filing = None
        if self._in_flight_is is _Filed.IN_PROGRESS:
            self._in_flight_is = _Filed.YES
            self._was_read = False

    def not_filed(self) -> None:
        """The write failed: what was to be written waits again."""
        assert self._filing is not None, "something was on its way"
        self._waiting.put_back(self._filing)
        self._filing = None
        if self._in_flight_is is _Filed.IN_PROGRESS:
            self._in_flight_is = _Filed.NO
        self._trim()

    def again_filed(self) -> None:
        """The events that are pending again are in the file, in front of all others."""
        self._in_file += len(self._again)
        self._again.clear()

    def again_not_filed(self, reason: LossReason) -> None:
        """Whether they are there is unknown, and so they are lost."""
        while self._again:
            self.losses.lose(self._again.pop(), reason, in_doubt=True)

    def loaded(self, events: Collection[PersistedEvent], *, is_last: bool) -> LossAccount:
        """The oldest events of the file were read: they are kept for the next batch.

        Args:
          events: those that were intact; dead ones are left out here.
          is_last: whether the file has no others.

        Returns:
          The events that the file should still have had and did not.
        """
        self._kept = Batch.of(
            event for event in events if event.seq > self._settled_through and event.seq not in self._dead
        )
        if self._kept and self._filing and self._kept.events[-1].seq >= self._filing.events[0].seq:
            # The file has them, though the task that wrote them has not run since.
            self.filed()
        self._was_read = True
        self._in_file -= len(self._kept)
        missing = LossAccount()
        if is_last:
            self._dead.clear()
            if count := self._in_file:
                # How many is certain; which ones is not, since their numbers are lost with them.
                first = self._settled_through + 1
                missing.add(first, first + count - 1, count, Counter({LossReason.DAMAGED: count}))
                self._in_file = 0
                span = Span(first, first + count - 1, count)
                self.losses.lose_unseen(span, LossReason.DAMAGED, is_exact=False)
        return missing

    def settle(self) -> list[FlushTicket]:
        """Settle the tickets that wait for nothing any more, and return them."""
        return self.losses.tickets.settle(self._oldest())

    def _oldest(self) -> int | None:
        """The lowest seq that may be pending."""
        if self._in_flight:
            return self._in_flight.events[0].seq
        if self._again:
            return self._again.first_seq
        if self._kept:
            return self._kept.events[0].seq
        if self._in_file:
            return self._settled_through + 1
        if self._filing:
            return self._filing.events[0].seq
        return self._waiting.first_seq if self._waiting else None


def _without(span: Span, newest: Sequence[int]) -> Span | None:
    """What of ``span`` is below the ``newest`` seqs, if anything."""
    if not newest or span.last < newest[0]:
        return span
    count = span.count - bisect.bisect_right(newest, span.last) + bisect.bisect_left(newest, span.first)
    return Span(span.first, newest[0] - 1, count) if count else None
