"""Lost events: counted, reported, and raised by the flushes that waited for them. Pure."""

from __future__ import annotations

import bisect
from collections import Counter, deque
from typing import Final

import attrs

from trio_eventlog._engine._durable_seqs import Span
from trio_eventlog._model._errors import LossReason
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog._model._reports import LossReport

MAX_RANGES: Final = 1024
"""Highest number of ranges of lost seqs that are kept for a flush to raise. Beyond it the oldest are merged,
and a merged range is raised as a whole, by the first flush that reaches any of it."""


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
        """Count all losses of ``other``."""
        if other.count:
            self.add(other.first_seq, other.last_seq, other.count, other.by_reason)

    def _stretch(self, first: int, last: int) -> None:
        self.first_seq = min(self.first_seq, first) if self.count else first
        self.last_seq = max(self.last_seq, last) if self.count else last


@attrs.define
class LostRange:
    """Lost seqs: all of ``first`` to ``last``, or some of them if ranges were merged."""

    first: int
    last: int
    reasons: Counter[LossReason]
    is_exact: bool = True

    @property
    def count(self) -> int:
        """How many seqs were lost."""
        return self.reasons.total()

    def grow(self, seq: int, reason: LossReason) -> bool:
        """Add ``seq`` if it continues this range. Returns whether it does."""
        if seq != self.last + 1 or reason not in self.reasons or not self.is_exact:
            return False
        self.last = seq
        self.reasons[reason] += 1
        return True

    def split(self, through: int) -> tuple[LostRange | None, LostRange | None]:
        """The part up to ``through`` and the part beyond it."""
        if self.last <= through or (self.first <= through and not self.is_exact):
            return self, None
        if self.first > through:
            return None, self
        (reason,) = self.reasons
        low, high = through - self.first + 1, self.last - through
        return (
            LostRange(self.first, through, Counter({reason: low})),
            LostRange(through + 1, self.last, Counter({reason: high})),
        )

    def merged(self, other: LostRange) -> LostRange:
        """One range for both, which no longer knows where its gaps are."""
        return LostRange(
            min(self.first, other.first),
            max(self.last, other.last),
            self.reasons + other.reasons,
            is_exact=False,
        )


@attrs.define(eq=False)
class FlushTicket:
    """A flush that waits until nothing up to ``through`` is pending."""

    through: int
    """The last seq that it waits for."""

    outcome: LossAccount | None = None
    """Once it is settled: its losses, except for those that a ticket which was settled before this one was
    issued already has. None while it is unsettled."""

    raised_by_others: LossAccount = attrs.Factory(LossAccount)
    """Losses that another flush raises while this one waits: they count for this one too."""


@attrs.define
class _Raising:
    """Lost seqs of settled tickets, which none of their flushes has raised yet."""

    lost: LostRange

    tickets: list[FlushTicket]
    """All tickets whose flushes raise them."""


def _through(ticket: FlushTicket) -> int:
    return ticket.through


class FlushTickets:
    """The flushes that wait, and the losses that the next ones have to raise."""

    def __init__(self) -> None:
        self._waiting: list[FlushTicket] = []  # ascending by what they reach through
        self._unraised: deque[LostRange] = deque()
        self._raising: list[_Raising] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def lose_one(self, seq: int, reason: LossReason) -> None:
        """Keep the loss of one event for the flush that reaches it."""
        if not (self._unraised and self._unraised[-1].grow(seq, reason)):
            self.lose(LostRange(seq, seq, Counter({reason: 1})))

    def lose(self, lost: LostRange) -> None:
        """Keep losses for the flush that reaches them."""
        self._unraised.append(lost)
        if len(self._unraised) > MAX_RANGES:
            oldest, older = self._unraised.popleft(), self._unraised.popleft()
            self._unraised.appendleft(oldest.merged(older))

    def issue(self, through: int) -> FlushTicket:
        """A ticket for everything with a seq up to ``through``."""
        ticket = FlushTicket(through)
        bisect.insort(self._waiting, ticket, key=_through)
        if self._raising:
            self._inherit(ticket)
        return ticket

    def _inherit(self, ticket: FlushTicket) -> None:
        """Give ``ticket`` the losses of settled tickets whose flushes have not run yet."""
        raising: list[_Raising] = []
        for entry in self._raising:
            low, high = entry.lost.split(ticket.through)
            if low is not None:
                ticket.raised_by_others.add(low.first, low.last, low.count, low.reasons)
                raising.append(_Raising(low, [*entry.tickets, ticket]))
            if high is not None:
                raising.append(_Raising(high, entry.tickets))
        self._raising = raising

    def raised(self, ticket: FlushTicket) -> None:
        """The flush of ``ticket``, which is settled, is about to raise its outcome."""
        if self._raising:
            self._raising = [entry for entry in self._raising if ticket not in entry.tickets]

    def withdraw(self, ticket: FlushTicket) -> None:
        """Forget ``ticket``, whose flush was cancelled. It must not be settled."""
        index = bisect.bisect_left(self._waiting, ticket.through, key=_through)
        del self._waiting[self._waiting.index(ticket, index)]

    def settle(self, oldest: int | None) -> list[FlushTicket]:
        """Settle the tickets that reach only to seqs below ``oldest``, the lowest one that may be pending.

        None stands for nothing pending. Returns the tickets.
        """
        count = len(self._waiting)
        if oldest is not None:
            count = bisect.bisect_left(self._waiting, oldest, key=_through)
        if not count:
            return []
        settled, self._waiting = self._waiting[:count], self._waiting[count:]
        # Each of them reaches at least as far as the one before it, so what that raises counts for this one.
        raised = LossAccount()
        for index, ticket in enumerate(settled):
            for lost in self._take_unraised(ticket.through):
                raised.add(lost.first, lost.last, lost.count, lost.reasons)
                self._raising.append(_Raising(lost, [*settled[index:], *self._waiting]))
            ticket.outcome = ticket.raised_by_others
            ticket.outcome.add_all(raised)
        if raised.count:
            # Tickets that still wait reach further than any of these.
            for ticket in self._waiting:
                ticket.raised_by_others.add_all(raised)
        return settled

    def _take_unraised(self, through: int) -> list[LostRange]:
        """Remove the losses up to ``through`` from those that no flush raises, and return them."""
        taken: list[LostRange] = []
        kept: list[LostRange] = []
        # Ranges may be out of order: an old batch can be rejected after younger events were lost to the cap.
        while self._unraised:
            low, high = self._unraised.popleft().split(through)
            if low is not None:
                taken.append(low)
            if high is not None:
                kept.append(high)
        self._unraised.extend(kept)
        return taken


class Losses:
    """Everything that a log has lost so far."""

    def __init__(self) -> None:
        self.by_reason: Counter[LossReason] = Counter()
        """Events given up, per reason."""
        self.unreported = 0
        """Lost events that :meth:`collect` has not yet returned."""
        self.tickets: Final = FlushTickets()
        self._unreported: dict[tuple[LossReason, bool], list[PersistedEvent]] = {}
        self._final_account: LossAccount | None = None

    def lose(self, event: PersistedEvent, reason: LossReason, *, in_doubt: bool) -> None:
        """Give ``event`` up."""
        self.by_reason[reason] += 1
        self._unreported.setdefault((reason, in_doubt), []).append(event)
        self.unreported += 1
        if self._final_account is not None:
            self._final_account.add_one(event.seq, reason)
        self.tickets.lose_one(event.seq, reason)

    def lose_unseen(self, span: Span, reason: LossReason, *, is_exact: bool | None = None) -> None:
        """Count events as lost that are no longer in memory, so that no :class:`LossReport` can have them.

        Args:
          span: their seqs.
          reason: why.
          is_exact: whether these are all seqs of ``span``; by default what ``span`` says.
        """
        reasons = Counter({reason: span.count})
        self.by_reason.update(reasons)
        if self._final_account is not None:
            self._final_account.add(span.first, span.last, span.count, reasons)
        is_exact = span.is_exact if is_exact is None else is_exact
        self.tickets.lose(LostRange(span.first, span.last, reasons, is_exact=is_exact))

    def collect(self) -> list[LossReport]:
        """Reports of the losses since the last call, each event once, grouped by reason and doubt."""
        unreported, self._unreported, self.unreported = self._unreported, {}, 0
        # Sorted: the oldest waiting may have been lost before a part of the batch in flight, which is older.
        losses = [
            LossReport(
                reason=reason, events=tuple(sorted(events, key=lambda event: event.seq)), in_doubt=in_doubt
            )
            for (reason, in_doubt), events in unreported.items()
        ]
        return sorted(losses, key=lambda loss: loss.first_seq)

    def open_final_account(self) -> LossAccount:
        """An account of everything lost from now on."""
        self._final_account = LossAccount()
        return self._final_account
