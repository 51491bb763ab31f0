"""What waits for the store: order, cap, losses and flush tickets.

Floor 1: pure. No Trio and no clock, so that a state machine can try every order of operations.

Events enter by :meth:`RetryBuffer.put` in ascending seq. The oldest of them leave as one batch in flight
(:meth:`RetryBuffer.take`), which then succeeds, fails or is partly rejected. Two facts make the rest
simple: pending events always are, in order, the batch in flight and then those that wait; and a batch is
always a prefix of them, so that one mark (``_offered_through``) says which ones a store has seen.
"""

from __future__ import annotations

import bisect
from collections import Counter, deque
from collections.abc import Collection
from typing import Final

import attrs

from trio_eventlog._codec import reseal
from trio_eventlog._events import PersistedEvent
from trio_eventlog._reports import EventLoss, LossReason

MAX_RANGES: Final = 1024
"""Most ranges of lost seqs that are kept for a flush to raise. Beyond it the oldest are merged, and what is
merged is raised together, by the first flush that reaches any of it."""


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
    """Losses that another flush raised while this one was waiting: they count for this one too."""


class RetryBuffer:
    """Events between ``ingest`` and the store.

    Args:
      cap: most events that wait beside the batch in flight, 1 or more. Beyond it the oldest waiting go.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._waiting: deque[PersistedEvent] = deque()
        self._in_flight: tuple[PersistedEvent, ...] = ()
        self._offered_through = 0
        self._tickets: list[FlushTicket] = []  # ascending by what they reach through
        self._unraised: deque[_LostRange] = deque()
        self._unreported: dict[tuple[LossReason, bool], list[PersistedEvent]] = {}
        self._final_account: LossAccount | None = None
        self.unreported = 0
        """Lost events that :meth:`collect_losses` has not yet handed out."""
        self.persisted = 0
        """Events that the store has taken."""
        self.duplicate = 0
        """Events that the store already held under another seq."""
        self.lost: Counter[LossReason] = Counter()
        """Events given up, per reason."""
        self.last_durable_seq = 0
        """Highest seq that the store has taken."""
        self.peak_pending = 0
        """Most events that were pending at once."""

    @property
    def waiting(self) -> int:
        """Events that wait, without the batch in flight."""
        return len(self._waiting)

    @property
    def pending(self) -> int:
        """Events that wait, and those of the batch in flight."""
        return len(self._waiting) + len(self._in_flight)

    # --- events come, and go out in batches -------------------------------------------------------

    def put(self, event: PersistedEvent) -> None:
        """Let ``event``, of a higher seq than any before it, wait. The oldest may have to go for it."""
        self._waiting.append(event)
        self._trim()
        self.peak_pending = max(self.peak_pending, self.pending)

    def refuse(self, event: PersistedEvent, reason: LossReason) -> None:
        """Give ``event`` up without letting it wait."""
        self._lose(event, reason, in_doubt=False)

    def take(self, most: int) -> tuple[PersistedEvent, ...]:
        """Put the oldest events, at most ``most``, in flight as one batch. There must be none already."""
        assert not self._in_flight, "one append at a time"
        count = min(most, len(self._waiting))
        self._in_flight = tuple(self._waiting.popleft() for _ in range(count))
        return self._in_flight

    def stored(self, duplicates: Collection[int]) -> None:
        """The store has taken the batch in flight, except for ``duplicates``, seqs of events that it
        already holds under another seq.
        """
        stored = [event.seq for event in self._in_flight if event.seq not in duplicates]
        self.duplicate += len(self._in_flight) - len(stored)
        self.persisted += len(stored)
        if stored:
            self.last_durable_seq = max(self.last_durable_seq, stored[-1])
        self._in_flight = ()

    def failed(self, *, in_doubt: bool = True) -> None:
        """The batch in flight was not taken: it waits again, at the front, where the cap cuts.

        Args:
          in_doubt: whether the store may hold it all the same.
        """
        self._rejoin(in_doubt=in_doubt)
        self._trim()

    def rejected(self, seqs: Collection[int]) -> None:
        """The store has taken nothing of the batch in flight and can never hold those with ``seqs``: they
        are lost, and the rest waits again.
        """
        for event in self._in_flight:
            if event.seq in seqs:
                # Resealed as in _rejoin: the store was given it.
                self._lose(reseal(event), LossReason.REJECTED, in_doubt=False)
        self._in_flight = tuple(event for event in self._in_flight if event.seq not in seqs)
        self.failed(in_doubt=False)

    def abandon(self, reason: LossReason, *, in_doubt: bool = True) -> None:
        """Give up everything pending.

        Args:
          reason: why.
          in_doubt: whether the store may hold the batch in flight, if there is one.
        """
        self._rejoin(in_doubt=in_doubt)
        while self._waiting:
            self._lose_oldest(reason)

    def _rejoin(self, *, in_doubt: bool) -> None:
        if self._in_flight:
            if in_doubt:
                self._offered_through = max(self._offered_through, self._in_flight[-1].seq)
            # What the store was given may have been changed by it; what goes on from here must not be.
            self._waiting.extendleft(reseal(event) for event in reversed(self._in_flight))
            self._in_flight = ()

    def _trim(self) -> None:
        while len(self._waiting) > self._cap:
            self._lose_oldest(LossReason.CAP)

    # --- losses -----------------------------------------------------------------------------------

    def _lose_oldest(self, reason: LossReason) -> None:
        event = self._waiting.popleft()
        self._lose(event, reason, in_doubt=event.seq <= self._offered_through)

    def _lose(self, event: PersistedEvent, reason: LossReason, *, in_doubt: bool) -> None:
        self.lost[reason] += 1
        self._unreported.setdefault((reason, in_doubt), []).append(event)
        self.unreported += 1
        if self._final_account is not None:
            self._final_account.add_one(event.seq, reason)
        if not (self._unraised and self._unraised[-1].grow(event.seq, reason)):
            self._unraised.append(_LostRange(event.seq, event.seq, Counter({reason: 1})))
            if len(self._unraised) > MAX_RANGES:
                oldest, older = self._unraised.popleft(), self._unraised.popleft()
                merged = _LostRange(
                    min(oldest.first, older.first),
                    max(oldest.last, older.last),
                    oldest.reasons + older.reasons,
                    is_exact=False,
                )
                self._unraised.appendleft(merged)

    def collect_losses(self) -> list[EventLoss]:
        """Losses not yet handed out, each event once, together where reason and doubt agree."""
        unreported, self._unreported, self.unreported = self._unreported, {}, 0
        # Sorted: the oldest waiting may have gone before a part of the batch in flight, which is older still.
        losses = [
            EventLoss(reason=reason, events=tuple(sorted(events, key=_seq)), in_doubt=in_doubt)
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
        return ticket

    def withdraw_ticket(self, ticket: FlushTicket) -> None:
        """Nobody waits for ``ticket`` any more. It must not be settled."""
        index = bisect.bisect_left(self._tickets, ticket.through, key=_through)
        del self._tickets[self._tickets.index(ticket, index)]

    def settle(self) -> list[FlushTicket]:
        """Settle the tickets that wait for nothing any more, and return them."""
        oldest = next(iter(self._in_flight or self._waiting), None)
        count = (
            len(self._tickets)
            if oldest is None
            else bisect.bisect_left(self._tickets, oldest.seq, key=_through)
        )
        if not count:
            return []
        settled, self._tickets = self._tickets[:count], self._tickets[count:]
        # Each of them reaches at least as far as the one before, so that all it raises counts for this one.
        raised = LossAccount()
        for ticket in settled:
            self._take_unraised(ticket.through, raised)
            ticket.outcome = ticket._raised_by_others
            ticket.outcome.add_all(raised)
        if raised.count:
            # Tickets that still wait reach further than any of these.
            for ticket in self._tickets:
                ticket._raised_by_others.add_all(raised)
        return settled

    def _take_unraised(self, through: int, account: LossAccount) -> None:
        """Move the losses up to ``through`` into ``account``."""
        kept: list[_LostRange] = []
        # Ranges may stand out of order: an old batch can be rejected after younger events were cut.
        while self._unraised:
            low, high = self._unraised.popleft().split(through)
            if low is not None:
                account.add(low.first, low.last, low.count, low.reasons)
            if high is not None:
                kept.append(high)
        self._unraised.extend(kept)


def _through(ticket: FlushTicket) -> int:
    return ticket.through


def _seq(event: PersistedEvent) -> int:
    return event.seq
