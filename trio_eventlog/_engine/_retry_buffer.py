"""What waits for the store: order, cap, what is spilled, losses and flush tickets.

Floor 1: pure. No Trio and no clock, so that a state machine can try every order of operations.

Events enter by :meth:`RetryBuffer.put` in ascending seq. The oldest of them leave as one batch in flight
(:meth:`RetryBuffer.take`), which then succeeds, fails or is partly rejected. Two facts make the rest
simple: pending events always are, in order, the batch in flight and then those that wait; and a batch is
always a prefix of them, so that one mark (``_offered_through``) says which ones a store has seen.

With a spill file the order is: the batch in flight, events in the file, those that are being written to it,
those that wait in memory. So the batch in flight goes to the file before anything younger, and events in
memory are taken only once the file has none. A batch that came from the file, or went there while it was in
flight, is *kept* in memory until it is settled, and its lines in the file are dead from then on.

A store can go back to an older state. What it has lost and is still at hand is then pending *again*, and
older than everything else. The file is a queue and has no place for it, so that it stays in memory until it
is settled or the file is closed.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from enum import Enum, auto
from typing import Final

import attrs

from trio_eventlog._engine._durable_seqs import DurableSeqs, Span
from trio_eventlog._model._errors import LossReason
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._reports import LossReport
from trio_eventlog._model._sealed import reseal, size_of

MAX_RANGES: Final = 1024
"""Most ranges of lost seqs that are kept for a flush to raise. Beyond it the oldest are merged, and what is
merged is raised together, by the first flush that reaches any of it."""


class _Filed(Enum):
    """Whether the batch in flight is in the spill file."""

    NO = auto()
    ON_ITS_WAY = auto()
    YES = auto()
    NEVER = auto()  # stored once, and pending again


@attrs.define
class LossAccount:
    """Lost events, counted: what an :class:`EventsLost` is made of."""

    count: int = 0
    first_seq: int = 0
    last_seq: int = 0
    by_reason: Counter[LossReason] = attrs.Factory(Counter)

    def add(self, first: int, last: int, count: int, reasons: Counter[LossReason]) -> None:
        """Count losses with seqs from ``first`` to ``last``."""
        self._stretch(first, last)
        self.count += count
        self.by_reason.update(reasons)

    def add_one(self, seq: int, reason: LossReason) -> None:
        """Count the loss of one event."""
        self._stretch(seq, seq)
        self.count += 1
        self.by_reason[reason] += 1

    def add_all(self, other: LossAccount) -> None:
        """Count all that ``other`` has."""
        if other.count:
            self.add(other.first_seq, other.last_seq, other.count, other.by_reason)

    def _stretch(self, first: int, last: int) -> None:
        self.first_seq = min(self.first_seq, first) if self.count else first
        self.last_seq = max(self.last_seq, last) if self.count else last


@attrs.define
class _LostRange:
    """Lost seqs: all of ``first`` to ``last``, or some if ranges were merged to bound their number."""

    first: int
    last: int
    reasons: Counter[LossReason]
    is_exact: bool = True

    @property
    def count(self) -> int:
        return self.reasons.total()

    def grow(self, seq: int, reason: LossReason) -> bool:
        """Take in ``seq`` if it continues this range."""
        if seq != self.last + 1 or reason not in self.reasons or not self.is_exact:
            return False
        self.last = seq
        self.reasons[reason] += 1
        return True

    def split(self, through: int) -> tuple[_LostRange | None, _LostRange | None]:
        """The part up to ``through`` and the part beyond it."""
        if self.last <= through or (self.first <= through and not self.is_exact):
            return self, None
        if self.first > through:
            return None, self
        (reason,) = self.reasons
        low, high = through - self.first + 1, self.last - through
        return (
            _LostRange(self.first, through, Counter({reason: low})),
            _LostRange(through + 1, self.last, Counter({reason: high})),
        )


@attrs.define(eq=False)
class FlushTicket:
    """Somebody who waits until nothing up to ``through`` is pending."""

    through: int
    """The last seq that matters to it."""

    outcome: LossAccount | None = None
    """Once it is settled: what was lost of these, except for what tickets settled before this one was issued
    already had in theirs. None while it is unsettled."""

    _raised_by_others: LossAccount = attrs.Factory(LossAccount)
    """Losses that another flush raises while this one waits: they count for this one too."""


@attrs.define
class _Raising:
    """Lost seqs that settled tickets hold, and that none of their flushes has raised yet."""

    lost: _LostRange

    tickets: list[FlushTicket]
    """All tickets whose flushes raise them."""


class RetryBuffer:
    """Events between ``ingest`` and the store.

    Args:
      cap: most events that wait beside the batch in flight, 1 or more. Beyond it the oldest waiting go.
      max_bytes: most bytes that these have, as :func:`size_of` counts them; the same holds.
      first_seq: the lowest seq that an event may have.
      spilled: events that are in the spill file already.
    """

    def __init__(
        self, cap: int, *, max_bytes: float = math.inf, first_seq: int = 1, spilled: int = 0
    ) -> None:
        self._cap = cap
        self._max_bytes = max_bytes
        self._waiting: deque[PersistedEvent] = deque()
        self._waiting_bytes = self._filing_bytes = 0
        self._again: deque[PersistedEvent] = deque()
        self._again_bytes = 0
        self._batch_bytes = self._kept_bytes = 0
        self._in_flight: tuple[PersistedEvent, ...] = ()
        self._in_flight_is: _Filed = _Filed.NO
        self._kept: tuple[PersistedEvent, ...] = ()
        self._was_read = False  # what was last in the file and in memory both: it came from there
        self._filing: tuple[PersistedEvent, ...] | None = None
        self._in_file = spilled
        self._dead: set[int] = set()  # rejected, but in the file, or on their way to it
        self._settled_through = first_seq - 1
        self._tickets: list[FlushTicket] = []  # ascending by what they reach through
        self._unraised: deque[_LostRange] = deque()
        self._raising: list[_Raising] = []
        self._unreported: dict[tuple[LossReason, bool], list[PersistedEvent]] = {}
        self._final_account: LossAccount | None = None
        self.unreported = 0
        """Lost events that :meth:`collect_losses` has not yet handed out."""
        self._durable = DurableSeqs()
        self.duplicate = 0
        """Events that the store already held under another seq."""
        self.lost: Counter[LossReason] = Counter()
        """Events given up, per reason."""
        self.offered_through = 0
        """Highest seq of an append whose outcome is unknown."""
        self.peak_pending = spilled
        """Most events that were pending at once."""

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
        return self._again_bytes + self._waiting_bytes + self._filing_bytes

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the pending events that are not in the spill file alone."""
        return self.waiting_bytes + self._batch_bytes + self._kept_bytes

    @property
    def batch_bytes(self) -> int:
        """Bytes of the batch in flight."""
        return self._batch_bytes

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
        """Events that wait, wherever, and those of the batch in flight."""
        return self.in_memory + self._in_file

    @property
    def spilled(self) -> int:
        """Pending events that are in the spill file."""
        filed = len(self._in_flight) if self._in_flight_is is _Filed.YES else 0
        return self._in_file + len(self._kept) + filed

    # --- events come, and go out in batches -------------------------------------------------------

    def put(self, events: Sequence[PersistedEvent], size: int) -> None:
        """Let events, of higher seqs than any before them, wait. The oldest may have to go for them.

        Args:
          events: the events, ascending by seq; at least one.
          size: their bytes, as :func:`size_of` counts them.
        """
        if self.waiting + len(events) <= self._cap and self.waiting_bytes + size <= self._max_bytes:
            # Usually there is room for all of them: then nothing has to be asked for each.
            self._waiting.extend(events)
            self._waiting_bytes += size
            self.peak_pending = max(self.peak_pending, self.pending)
            return
        for event in events:
            self._waiting.append(event)
            self._waiting_bytes += size_of(event)
            self._trim()
            self.peak_pending = max(self.peak_pending, self.pending)

    def refuse(self, event: PersistedEvent, reason: LossReason) -> None:
        """Give ``event`` up without letting it wait."""
        self._lose(event, reason, in_doubt=False)

    def take(self, most: int) -> tuple[PersistedEvent, ...]:
        """Put the oldest events, at most ``most``, in flight as one batch. There must be none already."""
        assert not self._in_flight, "one append at a time"
        if self._again:
            self._in_flight_is = _Filed.NEVER
            self._in_flight = tuple(self._pop_again() for _ in range(min(most, len(self._again))))
            self._batch_bytes = _bytes_of(self._in_flight)
            return self._in_flight
        if self._kept:
            self._in_flight, self._kept = self._kept, ()
            self._batch_bytes, self._kept_bytes = self._kept_bytes, 0
            self._in_flight_is = _Filed.YES
            return self._in_flight
        assert not self.must_load, "what is in the file is older"
        assert not self._filing, "what is on its way to the file is older"
        self._in_flight_is = _Filed.NO
        if len(self._waiting) <= most:
            # Usually: then nothing has to be asked for each.
            self._in_flight, self._batch_bytes = tuple(self._waiting), self._waiting_bytes
            self._waiting.clear()
            self._waiting_bytes = 0
        else:
            before = self._waiting_bytes
            self._in_flight = tuple(self._pop() for _ in range(most))
            self._batch_bytes = before - self._waiting_bytes
        return self._in_flight

    def _pop(self) -> PersistedEvent:
        event = self._waiting.popleft()
        self._waiting_bytes -= size_of(event)
        return event

    def _pop_again(self) -> PersistedEvent:
        event = self._again.popleft()
        self._again_bytes -= size_of(event)
        return event

    def _push_back_again(self, events: Sequence[PersistedEvent]) -> None:
        self._again.extendleft(reversed(events))
        self._again_bytes += _bytes_of(events)

    def _push_back(self, events: Sequence[PersistedEvent]) -> None:
        """To the front, from where they came."""
        self._waiting.extendleft(reversed(events))
        self._waiting_bytes += _bytes_of(events)

    def stored(self, duplicates: Collection[int]) -> tuple[PersistedEvent, ...]:
        """The store has taken the batch in flight, except for ``duplicates``, seqs of events that it
        already holds under another seq.

        Returns:
          What it has taken.
        """
        stored = self._in_flight
        if duplicates:
            stored = tuple(event for event in stored if event.seq not in duplicates)
        self.duplicate += len(self._in_flight) - len(stored)
        if stored:
            self._durable.add([event.seq for event in stored])
        self._settle_batch()
        self._in_flight = ()
        self._batch_bytes = 0
        return stored

    def failed(self, *, in_doubt: bool = True) -> None:
        """The batch in flight was not taken: it waits again, at the front, where the cap cuts.

        Args:
          in_doubt: whether the store may hold it all the same.
        """
        self._rejoin(in_doubt=in_doubt)
        self._trim()

    def went_back(self, last_seq: int, at_hand: Sequence[PersistedEvent]) -> tuple[int, int]:
        """The store has nothing above ``last_seq``, and has taken nothing of the batch in flight.

        Args:
          last_seq: the highest seq that it still has.
          at_hand: of those above it that it had taken, the youngest; ascending, sealed, and shared with
            nobody. They wait again, at the front, where the cap cuts.

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
                self._lose_unseen(missing, LossReason.REVERTED)
        self._push_back_again(at_hand)
        before = self.lost[LossReason.CAP]
        self._trim()
        self.peak_pending = max(self.peak_pending, self.pending)
        return max(len(at_hand) - (self.lost[LossReason.CAP] - before), 0), lost

    def rejected(self, seqs: Collection[int]) -> None:
        """The store has taken nothing of the batch in flight and can never hold those with ``seqs``: they
        are lost, and the rest waits again.
        """
        for event in self._in_flight:
            if event.seq in seqs:
                # Resealed as in _rejoin: the store was given it.
                self._lose(reseal(event), LossReason.REJECTED, in_doubt=False)
                # The file has it, or will: what is read from there passes over it.
                if self._in_flight_is in {_Filed.ON_ITS_WAY, _Filed.YES}:
                    self._dead.add(event.seq)
        remaining = tuple(event for event in self._in_flight if event.seq not in seqs)
        if not remaining:
            self._settle_batch()
        self._in_flight = remaining
        self._batch_bytes = _bytes_of(remaining)
        self.failed(in_doubt=False)

    def _settle_batch(self) -> None:
        if self._in_flight:
            self._settled_through = max(self._settled_through, self._in_flight[-1].seq)

    def abandon(self, reason: LossReason, *, in_doubt: bool = True, keep_again: bool = False) -> None:
        """Give up everything pending, except for what is in the spill file.

        What is on its way there may have arrived, and so may reach the store after all.

        Args:
          reason: why.
          in_doubt: whether the store may hold the batch in flight, if there is one.
          keep_again: not what is pending again: it goes to the file when that is closed.
        """
        self._rejoin(in_doubt=in_doubt)
        filing, self._filing = self._filing or (), None
        self._filing_bytes = 0
        for event in filing:
            self._lose(event, reason, in_doubt=True)
            # If it has arrived, it is passed over when it is read.
            self._dead.add(event.seq)
        while self._again and not keep_again:
            self._lose_oldest(reason)
        while self._waiting:
            self._lose_known(self._pop(), reason)

    def _rejoin(self, *, in_doubt: bool) -> None:
        if not self._in_flight:
            return
        if in_doubt:
            self.offered_through = max(self.offered_through, self._in_flight[-1].seq)
        # What the store was given may have been changed by it; what goes on from here must not be.
        batch = tuple(reseal(event) for event in self._in_flight)
        self._in_flight = ()
        if self._in_flight_is is _Filed.YES:
            self._kept = batch
            self._batch_bytes, self._kept_bytes = 0, self._batch_bytes
            return
        if self._in_flight_is is _Filed.ON_ITS_WAY:
            assert self._filing is not None, "it is on its way"
            self._filing = batch + self._filing
            self._filing_bytes += self._batch_bytes
        elif self._in_flight_is is _Filed.NEVER:
            self._push_back_again(batch)
        else:
            self._push_back(batch)
        self._batch_bytes = 0

    def _trim(self) -> None:
        while (self._again or self._waiting) and (
            self.waiting > self._cap or self.waiting_bytes > self._max_bytes
        ):
            self._lose_oldest(LossReason.CAP)

    # --- the spill file ---------------------------------------------------------------------------

    @property
    def must_load(self) -> bool:
        """Whether the oldest events are in the spill file alone."""
        return bool(self._in_file) and not (self._again or self._kept or self._in_flight)

    @property
    def again(self) -> tuple[PersistedEvent, ...]:
        """What is pending again, and not in flight."""
        return tuple(self._again)

    def again_filed(self) -> None:
        """What is pending again is in the file, in front of all others."""
        self._in_file += len(self._again)
        self._again.clear()
        self._again_bytes = 0

    def again_not_filed(self, reason: LossReason) -> None:
        """It could not be made sure of, and is lost."""
        while self._again:
            self._lose(self._pop_again(), reason, in_doubt=True)

    @property
    def can_file(self) -> bool:
        """Whether there is anything to be written to the file."""
        return bool(self._waiting) or (bool(self._in_flight) and self._in_flight_is is _Filed.NO)

    @property
    def read(self) -> tuple[PersistedEvent, ...]:
        """What was read from the file, and is pending and not in flight."""
        return self._kept if self._was_read else ()

    @property
    def is_filing(self) -> bool:
        """Whether events are on their way to the file."""
        return self._filing is not None

    @property
    def unfiled(self) -> int:
        """Pending events that are in memory alone: they would be lost with this process, or to the cap."""
        return self.waiting + (len(self._in_flight) if self._is_batch_unfiled else 0)

    @property
    def unfiled_bytes(self) -> int:
        """Bytes of these."""
        return self.waiting_bytes + (self._batch_bytes if self._is_batch_unfiled else 0)

    @property
    def _is_batch_unfiled(self) -> bool:
        return bool(self._in_flight) and self._in_flight_is is not _Filed.YES

    @property
    def is_file_settled(self) -> bool:
        """Whether nothing that is pending is in the file, or on its way."""
        return not self.spilled and self._filing is None

    def start_filing(self, most: int, most_bytes: float = math.inf) -> tuple[PersistedEvent, ...]:
        """The oldest events that are not in the file, for it: the batch in flight, or else at most ``most``
        of those that wait, and none after ``most_bytes``. They stay pending in memory until the outcome is
        told.
        """
        assert self._filing is None, "one write at a time"
        if self._in_flight and self._in_flight_is is _Filed.NO:
            self._filing = ()
            self._in_flight_is = _Filed.ON_ITS_WAY
            return self._in_flight
        filing: list[PersistedEvent] = []
        before = self._waiting_bytes
        while self._waiting and len(filing) < most and before - self._waiting_bytes < most_bytes:
            filing.append(self._pop())
        self._filing_bytes = before - self._waiting_bytes
        self._filing = tuple(filing)
        return self._filing

    def filed(self) -> None:
        """What was on its way to the file is there, and durable. It may have been read from there already."""
        if self._filing is None:
            return
        self._in_file += len(self._filing)
        self._filing, self._filing_bytes = None, 0
        if self._in_flight_is is _Filed.ON_ITS_WAY:
            self._in_flight_is = _Filed.YES
            self._was_read = False

    def not_filed(self) -> None:
        """The write failed: what was on its way waits again."""
        assert self._filing is not None, "something was on its way"
        self._push_back(self._filing)
        self._filing, self._filing_bytes = None, 0
        if self._in_flight_is is _Filed.ON_ITS_WAY:
            self._in_flight_is = _Filed.NO
        self._trim()

    def loaded(self, events: Collection[PersistedEvent], *, is_last: bool) -> LossAccount:
        """The oldest events of the file: keep them for the next batch.

        Args:
          events: what was intact of them; dead ones are left out here.
          is_last: whether the file has no others.

        Returns:
          What the file should still have had and did not.
        """
        self._kept = tuple(
            event for event in events if event.seq > self._settled_through and event.seq not in self._dead
        )
        if self._kept and self._filing and self._kept[-1].seq >= self._filing[0].seq:
            # The file has them, though the task that had them written has not run since.
            self.filed()
        self._kept_bytes = _bytes_of(self._kept)
        self._was_read = True
        self._in_file -= len(self._kept)
        missing = LossAccount()
        if is_last:
            self._dead.clear()
            if count := self._in_file:
                # How many is certain, which ones is not: their numbers went with them.
                first = self._settled_through + 1
                missing.add(first, first + count - 1, count, Counter({LossReason.DAMAGED: count}))
                self._in_file = 0
                self._lose_unseen(Span(first, first + count - 1, count), LossReason.DAMAGED, is_exact=False)
        return missing

    # --- losses -----------------------------------------------------------------------------------

    def _lose_oldest(self, reason: LossReason) -> None:
        self._lose_known(self._pop_again() if self._again else self._pop(), reason)

    def _lose_known(self, event: PersistedEvent, reason: LossReason) -> None:
        self._lose(event, reason, in_doubt=event.seq <= self.offered_through)

    def _lose(self, event: PersistedEvent, reason: LossReason, *, in_doubt: bool) -> None:
        self.lost[reason] += 1
        self._unreported.setdefault((reason, in_doubt), []).append(event)
        self.unreported += 1
        if self._final_account is not None:
            self._final_account.add_one(event.seq, reason)
        if not (self._unraised and self._unraised[-1].grow(event.seq, reason)):
            self._keep_for_tickets(_LostRange(event.seq, event.seq, Counter({reason: 1})))

    def _lose_unseen(self, span: Span, reason: LossReason, *, is_exact: bool | None = None) -> None:
        """Count events as lost that nobody has any more, so that no :class:`LossReport` can report them."""
        reasons = Counter({reason: span.count})
        self.lost.update(reasons)
        if self._final_account is not None:
            self._final_account.add(span.first, span.last, span.count, reasons)
        is_exact = span.is_exact if is_exact is None else is_exact
        self._keep_for_tickets(_LostRange(span.first, span.last, reasons, is_exact=is_exact))

    def _keep_for_tickets(self, lost: _LostRange) -> None:
        self._unraised.append(lost)
        if len(self._unraised) > MAX_RANGES:
            oldest, older = self._unraised.popleft(), self._unraised.popleft()
            merged = _LostRange(
                min(oldest.first, older.first),
                max(oldest.last, older.last),
                oldest.reasons + older.reasons,
                is_exact=False,
            )
            self._unraised.appendleft(merged)

    def collect_losses(self) -> list[LossReport]:
        """Losses not yet handed out, each event once, together where reason and doubt agree."""
        unreported, self._unreported, self.unreported = self._unreported, {}, 0
        # Sorted: the oldest waiting may have gone before a part of the batch in flight, which is older still.
        losses = [
            LossReport(reason=reason, events=tuple(sorted(events, key=_seq)), in_doubt=in_doubt)
            for (reason, in_doubt), events in unreported.items()
        ]
        return sorted(losses, key=lambda loss: loss.first_seq)

    def open_final_account(self) -> LossAccount:
        """An account of everything lost from now on."""
        self._final_account = LossAccount()
        return self._final_account

    # --- flush tickets ----------------------------------------------------------------------------

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for events that are pending."""
        return bool(self._tickets)

    def issue_ticket(self, through: int) -> FlushTicket:
        """A ticket for everything put so far with a seq up to ``through``; :meth:`settle` settles it."""
        ticket = FlushTicket(through)
        bisect.insort(self._tickets, ticket, key=_through)
        if self._raising:
            self._inherit(ticket)
        return ticket

    def _inherit(self, ticket: FlushTicket) -> None:
        """Let ``ticket`` have what settled tickets hold: until their flushes run, nobody has raised it."""
        raising: list[_Raising] = []
        for entry in self._raising:
            low, high = entry.lost.split(ticket.through)
            if low is not None:
                ticket._raised_by_others.add(low.first, low.last, low.count, low.reasons)
                raising.append(_Raising(low, [*entry.tickets, ticket]))
            if high is not None:
                raising.append(_Raising(high, entry.tickets))
        self._raising = raising

    def raised(self, ticket: FlushTicket) -> None:
        """The flush of ``ticket``, which is settled, is about to raise its outcome."""
        if self._raising:
            self._raising = [entry for entry in self._raising if ticket not in entry.tickets]

    def withdraw_ticket(self, ticket: FlushTicket) -> None:
        """Nobody waits for ``ticket`` any more. It must not be settled."""
        index = bisect.bisect_left(self._tickets, ticket.through, key=_through)
        del self._tickets[self._tickets.index(ticket, index)]

    def settle(self) -> list[FlushTicket]:
        """Settle the tickets that wait for nothing any more, and return them."""
        oldest = self._oldest()
        count = (
            len(self._tickets) if oldest is None else bisect.bisect_left(self._tickets, oldest, key=_through)
        )
        if not count:
            return []
        settled, self._tickets = self._tickets[:count], self._tickets[count:]
        # Each of them reaches at least as far as the one before, so that all it raises counts for this one.
        raised = LossAccount()
        for index, ticket in enumerate(settled):
            for lost in self._take_unraised(ticket.through):
                raised.add(lost.first, lost.last, lost.count, lost.reasons)
                self._raising.append(_Raising(lost, [*settled[index:], *self._tickets]))
            ticket.outcome = ticket._raised_by_others
            ticket.outcome.add_all(raised)
        if raised.count:
            # Tickets that still wait reach further than any of these.
            for ticket in self._tickets:
                ticket._raised_by_others.add_all(raised)
        return settled

    def _oldest(self) -> int | None:
        """The lowest seq that may be pending."""
        for batch in (self._in_flight, self._again, self._kept):
            if batch:
                return batch[0].seq
        if self._in_file:
            return self._settled_through + 1
        if self._filing:
            return self._filing[0].seq
        return self._waiting[0].seq if self._waiting else None

    def _take_unraised(self, through: int) -> list[_LostRange]:
        """Remove the losses up to ``through`` from those that nobody raises, and return them."""
        taken: list[_LostRange] = []
        kept: list[_LostRange] = []
        # Ranges may stand out of order: an old batch can be rejected after younger events were cut.
        while self._unraised:
            low, high = self._unraised.popleft().split(through)
            if low is not None:
                taken.append(low)
            if high is not None:
                kept.append(high)
        self._unraised.extend(kept)
        return taken


def _through(ticket: FlushTicket) -> int:
    return ticket.through


def _seq(event: PersistedEvent) -> int:
    return event.seq


def _without(span: Span, newest: Sequence[int]) -> Span | None:
    """What of ``span`` is below the ``newest`` seqs, if anything."""
    if not newest or span.last < newest[0]:
        return span
    count = span.count - bisect.bisect_right(newest, span.last) + bisect.bisect_left(newest, span.first)
    return Span(span.first, newest[0] - 1, count) if count else None


def _bytes_of(events: Iterable[PersistedEvent]) -> int:
    return sum(map(size_of, events))
