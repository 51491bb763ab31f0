"""The retry buffer against a model that spells it out in lists, in every order of operations.

No Trio and no clock: what is tested is the order of operations, not their timing.
"""

from __future__ import annotations

import itertools
from collections import Counter

import attrs
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests._helpers.retry_buffers import (
    assert_untouched,
    bytes_of,
    event,
    memory_seqs,
    numbers_of,
    put,
    raised_by,
    scribble,
    seqs_of,
)
from trio_eventlog import LossReason, LossReport, PersistedEvent
from trio_eventlog._engine._losses import FlushTicket, LossAccount
from trio_eventlog._engine._retry_buffer import RetryBuffer

# --- the model ------------------------------------------------------------------------------------


@attrs.define
class Loss:
    """One lost event."""

    seq: int
    reason: LossReason
    in_doubt: bool
    is_seen: bool = True  # somebody has the event still, and can report it


@attrs.define(eq=False)
class Waiter:
    """A ticket, as the model sees it."""

    through: int
    raised_before: frozenset[int]
    ticket: FlushTicket


class Model:
    """What the buffer must do, from its promises, with nothing but lists and sets of seqs."""

    def __init__(self, cap: int, max_bytes: int) -> None:
        self.cap = cap
        self.max_bytes = max_bytes
        self.lines: list[int] = []  # ever written to the spill file
        self.lines_read = 0
        self.settled_through = 0
        self.filed: set[int] = set()  # pending, and in the file
        self.filing: list[int] | None = None  # on their way there
        self.kept = 0  # so many of the pending are in the file and in memory, and not in flight
        self.again: set[int] = set()  # stored before the store went back
        self.seen: list[int] = []  # put or refused
        self.pending: list[int] = []
        self.flying = 0  # so many of the pending are in flight
        self.doubtful: set[int] = set()
        self.persisted: list[int] = []
        self.duplicate: list[int] = []
        self.losses: list[Loss] = []
        self.collected = 0  # so many of the losses were handed out
        self.accounted_from: int | None = None
        self.raised: set[int] = set()
        self.waiters: list[Waiter] = []
        self.settled: list[tuple[Waiter, set[int]]] = []  # with what their flushes will raise
        self.peak = 0

    def put(self, seq: int) -> None:
        self.seen.append(seq)
        self.pending.append(seq)
        self.cut()
        self.peak = max(self.peak, len(self.pending))

    def refuse(self, seq: int, reason: LossReason) -> None:
        self.seen.append(seq)
        self.losses.append(Loss(seq, reason, in_doubt=False))

    @property
    def waiting(self) -> list[int]:
        """In memory alone, those on their way to the file included, and not in flight."""
        return [seq for seq in self.pending[self.flying :] if seq not in self.filed]

    @property
    def in_memory(self) -> list[int]:
        held = self.pending[: self.flying + len(self.waiting_again) + self.kept]
        return held + [seq for seq in self.waiting if seq not in held]

    @property
    def waiting_again(self) -> list[int]:
        return [seq for seq in self.waiting if seq in self.again]

    @property
    def can_be_filed(self) -> list[int]:
        """The batch in flight, if it has not been to the file, or else what waits."""
        batch = self.pending[: self.flying]
        if batch and batch[0] not in self.filed | self.again | set(self.filing or ()):
            return batch
        return [seq for seq in self.waiting if seq not in self.again | set(self.filing or ())]

    def cut(self) -> None:
        while len(self.waiting) > self.cap or bytes_of(self.waiting) > self.max_bytes:
            left = [seq for seq in self.waiting if seq not in (self.filing or ())]
            if not left:
                return
            self.lose(left[0], LossReason.CAP)

    def lose(self, seq: int, reason: LossReason) -> None:
        self.pending.remove(seq)
        self.filed.discard(seq)
        self.losses.append(Loss(seq, reason, in_doubt=seq in self.doubtful))

    def stored(self, duplicates: set[int]) -> None:
        self.settled_through = max(self.settled_through, *self.pending[: self.flying])
        for seq in self.pending[: self.flying]:
            self.filed.discard(seq)
            (self.duplicate if seq in duplicates else self.persisted).append(seq)
        self.pending = self.pending[self.flying :]
        self.flying = 0

    def failed(self, *, in_doubt: bool) -> None:
        if in_doubt:
            self.doubtful |= set(self.pending[: self.flying])
        self.land()
        self.cut()

    def land(self) -> None:
        if self.flying and self.pending[0] in self.filed:
            self.kept = self.flying
        self.flying = 0

    def rejected(self, seqs: set[int]) -> None:
        # The store says that it does not hold them, nor ever will.
        self.doubtful -= seqs
        if len(seqs) == self.flying:
            self.settled_through = max(self.settled_through, *seqs)
        self.flying -= len(seqs)
        for seq in sorted(seqs):
            self.lose(seq, LossReason.REJECTED)
        self.failed(in_doubt=False)

    def went_back(self, last_seq: int, at_hand: list[int]) -> tuple[int, int]:
        self.doubtful = {seq for seq in self.doubtful if seq <= last_seq}
        self.land()
        gone = [seq for seq in self.persisted if seq > last_seq]
        self.persisted = [seq for seq in self.persisted if seq <= last_seq]
        lost = [seq for seq in gone if seq not in at_hand]
        self.losses += [Loss(seq, LossReason.REVERTED, in_doubt=False, is_seen=False) for seq in lost]
        self.pending[:0] = at_hand
        self.again |= set(at_hand)
        self.cut()
        self.peak = max(self.peak, len(self.pending))
        return len([seq for seq in at_hand if seq in self.pending]), len(lost)

    def abandon(self, reason: LossReason, *, in_doubt: bool, keep_again: bool) -> None:
        if in_doubt:
            self.doubtful |= set(self.pending[: self.flying])
        self.land()
        # What is on its way to the file may reach the store from there.
        self.doubtful |= set(self.filing or ())
        self.filing = None
        spared = self.filed | (self.again if keep_again else set())
        for seq in [seq for seq in self.pending if seq not in spared]:
            self.lose(seq, reason)

    @property
    def uncollected(self) -> list[Loss]:
        return [loss for loss in self.losses[self.collected :] if loss.is_seen]

    def collect(self) -> dict[tuple[LossReason, bool], list[int]]:
        groups: dict[tuple[LossReason, bool], list[int]] = {}
        for loss in self.uncollected:
            groups.setdefault((loss.reason, loss.in_doubt), []).append(loss.seq)
        self.collected = len(self.losses)
        return {group: sorted(seqs) for group, seqs in groups.items()}

    def settle(self) -> list[Waiter]:
        oldest = min(self.pending, default=self.seen[-1] + 1 if self.seen else 1)
        if self.filed and not (self.flying or self.waiting_again or self.kept):
            # Nobody remembers which seqs the file has; only that they come after what was settled.
            oldest = self.settled_through + 1
        settled = [w for w in self.waiters if w.through < oldest]
        for waiter in settled:
            self.waiters.remove(waiter)
            self.settled.append((waiter, {loss.seq for loss in self.owed(waiter)}))
        return settled

    def owed(self, waiter: Waiter) -> list[Loss]:
        return [
            loss
            for loss in self.losses
            if loss.seq <= waiter.through and loss.seq not in waiter.raised_before
        ]


def numbers(losses: list[Loss]) -> tuple[int, int, int, dict[LossReason, int]]:
    """What an account of ``losses`` says."""
    seqs = [loss.seq for loss in losses]
    return (
        len(seqs),
        min(seqs, default=0),
        max(seqs, default=0),
        dict(Counter(loss.reason for loss in losses)),
    )


# --- the state machine ----------------------------------------------------------------------------

reasons = st.sampled_from(sorted(LossReason))


class RetryBufferMachine(RuleBasedStateMachine):
    """Drives a buffer and the model side by side."""

    tickets: Bundle[Waiter] = Bundle("tickets")

    @initialize(cap=st.integers(1, 8), max_bytes=st.integers(150, 1200))
    def open(self, cap: int, max_bytes: int) -> None:
        self.buffer = RetryBuffer(cap, max_bytes=max_bytes)
        self.model = Model(cap, max_bytes)
        self.last_seq = 0
        self.batch: tuple[PersistedEvent, ...] = ()
        self.offered: list[tuple[PersistedEvent, ...]] = []
        self.reported: list[LossReport] = []
        self.account: LossAccount | None = None
        self.is_written = False  # what is on its way to the file: the task that waits for it was not told
        self.is_told_late = False  # of what was read back from the file by then

    # Events come.

    @rule(gaps=st.lists(st.sampled_from([1, 1, 1, 3]), min_size=1, max_size=12))
    def put(self, gaps: list[int]) -> None:
        seqs = list(itertools.accumulate(gaps, initial=self.last_seq))[1:]
        self.last_seq = seqs[-1]
        put(self.buffer, *seqs)
        # One after the other: together must be the same.
        for seq in seqs:
            self.model.put(seq)

    @rule(reason=reasons)
    def refuse(self, reason: LossReason) -> None:
        self.last_seq += 1
        self.buffer.refuse(event(self.last_seq), reason)
        self.model.refuse(self.last_seq, reason)

    # Batches go, and come back.

    @property
    def is_in_flight(self) -> bool:
        return bool(self.batch)

    @precondition(lambda self: self.can_take)
    @rule(most=st.integers(1, 10))
    def take(self, most: int) -> None:
        assert self.buffer.available
        self.batch = self.buffer.take(most)
        self.offered.append(self.batch)
        model = self.model
        if model.waiting_again:
            model.flying = min(most, len(model.waiting_again))
        else:
            model.flying = model.kept or min(most, len(model.pending))
            model.kept = 0

        assert self.model.pending[: self.model.flying] == seqs_of(self.batch)
        assert_untouched(self.batch)

    @property
    def can_take(self) -> bool:
        model = self.model
        if self.is_in_flight or not model.pending:
            return False
        return bool(model.kept or model.waiting_again) or not (model.filed or model.filing)

    def draw_from_batch(self, data: st.DataObject, *, at_least: int) -> set[int]:
        drawn = data.draw(st.sets(st.sampled_from(seqs_of(self.batch)), min_size=at_least))
        note(f"of the batch: {sorted(drawn)}")
        return drawn

    @precondition(lambda self: self.is_in_flight)
    @rule(data=st.data())
    def stored(self, data: st.DataObject) -> None:
        duplicates = self.draw_from_batch(data, at_least=0)
        self.buffer.stored(duplicates)
        self.model.stored(duplicates)
        self.batch = ()
        # As the log does after each append. After the other outcomes a rule does it, or does not.
        self.settle()

    @precondition(lambda self: self.is_in_flight)
    @rule(in_doubt=st.booleans())
    def failed(self, in_doubt: bool) -> None:
        self.buffer.failed(in_doubt=in_doubt)
        self.model.failed(in_doubt=in_doubt)
        self.batch = ()

    @precondition(lambda self: self.is_in_flight)
    @rule(data=st.data())
    def rejected(self, data: st.DataObject) -> None:
        seqs = self.draw_from_batch(data, at_least=1)
        self.buffer.rejected(seqs)
        self.model.rejected(seqs)
        self.batch = ()

    @precondition(lambda self: self.is_in_flight)
    @rule(data=st.data())
    def went_back(self, data: st.DataObject) -> None:
        """To any state, and with the youngest at hand, however few."""
        last_seq = data.draw(st.integers(0, self.last_seq))
        gone = [seq for seq in self.model.persisted if seq > last_seq]
        at_hand = gone[data.draw(st.integers(0, len(gone))) :]
        note(f"back to {last_seq}, at hand {at_hand}")
        counts = self.buffer.went_back(last_seq, [event(seq) for seq in at_hand])
        self.batch = ()

        assert counts == self.model.went_back(last_seq, at_hand)

    # To the spill file, and back.

    @precondition(lambda self: self.model.filing is None and not self.is_told_late and self.buffer.can_file)
    @rule(most=st.integers(1, 10), most_bytes=st.integers(0, 600))
    def start_filing(self, most: int, most_bytes: int) -> None:
        model = self.model
        chosen = list(model.can_be_filed)
        if chosen != model.pending[: model.flying]:
            candidates, chosen = chosen, []
            for seq in candidates[:most]:
                if bytes_of(chosen) < most_bytes:
                    chosen.append(seq)
        model.filing = list(chosen)
        self.lines = seqs_of(self.buffer.start_filing(most, most_bytes))

        assert chosen == self.lines

    @precondition(lambda self: self.model.filing is not None)
    @rule()
    def filed(self) -> None:
        # Also lines of events that were settled meanwhile.
        self.buffer.filed()
        self.is_in_file()

    def is_in_file(self) -> None:
        model = self.model
        assert model.filing is not None
        if not self.is_written:
            model.lines += self.lines
        on_its_way, model.filing = set(self.lines), None
        model.filed |= on_its_way & set(model.pending)
        self.is_written = False
        if not model.flying and not model.kept:
            model.kept = 0

    @precondition(lambda self: self.model.filing is not None and not self.is_written)
    @rule()
    def write(self) -> None:
        """The thread has written the lines, and the task that waits for it has not run since."""
        self.model.lines += self.lines
        self.is_written = True

    @precondition(lambda self: self.is_told_late)
    @rule()
    def filed_late(self) -> None:
        self.is_told_late = False
        self.buffer.filed()

    @precondition(lambda self: self.model.filing is not None and not self.is_written)
    @rule()
    def not_filed(self) -> None:
        self.buffer.not_filed()
        self.model.filing = None
        self.model.cut()

    @precondition(lambda self: self.buffer.must_load)
    @rule(most=st.integers(1, 10))
    def load(self, most: int) -> None:
        model = self.model
        assert model.filed
        assert not model.kept
        assert not model.flying
        lines = model.lines[model.lines_read :][:most]
        model.lines_read += len(lines)
        is_last = model.lines_read == len(model.lines) and model.filing is None
        missing = self.buffer.loaded([event(seq) for seq in lines], is_last=is_last)
        if self.is_written and set(lines) & set(self.lines) & set(model.pending):
            self.is_in_file()
            self.is_told_late = True
        model.kept = len([seq for seq in lines if seq in model.filed])

        assert not missing.count

    # Seldom: after it there is nothing left to go wrong.
    @precondition(lambda self: len(self.model.pending) > self.model.cap)
    @rule(reason=reasons, in_doubt=st.booleans(), keep_again=st.booleans())
    def abandon(self, reason: LossReason, in_doubt: bool, keep_again: bool) -> None:
        self.buffer.abandon(reason, in_doubt=in_doubt, keep_again=keep_again)
        self.model.abandon(reason, in_doubt=in_doubt, keep_again=keep_again)
        self.batch = ()
        self.is_written = False

    @precondition(lambda self: self.offered)
    @rule()
    def store_scribbles(self) -> None:
        """Into all that it was ever given: an append that timed out may still be at work."""
        for batch in self.offered:
            scribble(batch)
        self.offered = []

    # Losses are handed out.

    @precondition(lambda self: self.model.collected < len(self.model.losses))
    @rule()
    def collect_losses(self) -> None:
        losses = self.buffer.losses.collect()
        self.reported += losses

        assert self.model.collect() == {(loss.reason, loss.in_doubt): seqs_of(loss.events) for loss in losses}
        assert sorted(loss.first_seq for loss in losses) == [loss.first_seq for loss in losses]
        for loss in losses:
            assert_untouched(loss.events)

    @precondition(lambda self: self.account is None)
    @rule()
    def open_final_account(self) -> None:
        self.account = self.buffer.losses.open_final_account()
        self.model.accounted_from = len(self.model.losses)

    # Flushes come and go.

    def issue(self, through: int) -> Waiter:
        waiter = Waiter(through, frozenset(self.model.raised), self.buffer.losses.tickets.issue(through))
        self.model.waiters.append(waiter)
        return waiter

    @rule(target=tickets)
    def issue_ticket_for_all(self) -> Waiter:
        return self.issue(self.last_seq)

    @precondition(lambda self: self.model.pending)
    @rule(target=tickets, place=st.integers(0, 10), beside=st.sampled_from([0, 0, 1, -1]))
    def issue_ticket_for_a_part(self, place: int, beside: int) -> Waiter:
        pending = self.model.pending
        # No flush waits for what was not ingested.
        return self.issue(min(pending[place % len(pending)] + beside, self.last_seq))

    @rule(waiter=consumes(tickets))
    def withdraw_ticket(self, waiter: Waiter) -> None:
        if waiter in self.model.waiters:
            self.buffer.losses.tickets.withdraw(waiter.ticket)
            self.model.waiters.remove(waiter)

    @precondition(lambda self: self.model.waiters)
    @rule()
    def settle(self) -> None:
        settled = self.buffer.settle()
        expected = self.model.settle()

        assert {id(waiter.ticket) for waiter in expected} == {id(ticket) for ticket in settled}
        assert len(expected) == len(settled)
        for waiter in expected:
            assert numbers(self.model.owed(waiter)) == raised_by(waiter.ticket)

    @precondition(lambda self: self.model.settled)
    @rule(place=st.integers(0, 10))
    def raise_what_was_lost(self, place: int) -> None:
        """The task of a flush runs on; until then nobody has raised its losses."""
        settled = self.model.settled
        waiter, seqs = settled.pop(place % len(settled))
        self.model.raised |= seqs
        self.buffer.losses.tickets.raised(waiter.ticket)

    # What holds at every moment.

    @invariant()
    def nothing_is_unaccounted_for(self) -> None:
        model, buffer = self.model, self.buffer
        lost = [loss.seq for loss in model.losses]
        assert sorted(model.seen) == sorted(model.persisted + model.duplicate + model.pending + lost)
        assert len(model.persisted) == buffer.persisted
        assert len(model.duplicate) == buffer.duplicate
        assert Counter(loss.reason for loss in model.losses) == buffer.losses.by_reason
        assert len(model.uncollected) == buffer.losses.unreported

    @invariant()
    def batch_and_then_the_newest_in_order(self) -> None:
        model, buffer = self.model, self.buffer
        assert model.in_memory == memory_seqs(buffer)
        assert sorted(model.pending) == model.pending
        assert len(model.pending) == buffer.pending
        assert len(model.in_memory) == buffer.in_memory
        assert len(model.waiting) == buffer.waiting
        assert len(model.waiting) <= model.cap
        assert bytes_of(model.waiting) == buffer.waiting_bytes <= model.max_bytes
        assert bytes_of(model.in_memory) == buffer.bytes_in_memory
        unfiled = [seq for seq in model.in_memory if seq not in model.filed]
        assert len(unfiled) == buffer.unfiled
        assert bytes_of(unfiled) == buffer.unfiled_bytes
        assert len(model.filed) == buffer.spilled
        assert buffer.is_file_settled == (not model.filed and model.filing is None)
        assert model.waiting_again == seqs_of(buffer.again)
        if model.filing is None:
            assert bool(model.can_be_filed) == buffer.can_file

    @invariant()
    def marks_are_right(self) -> None:
        assert self.model.peak == self.buffer.peak_pending
        assert max(self.model.persisted, default=0) == self.buffer.last_durable_seq
        assert bool(self.model.waiters) == bool(self.buffer.losses.tickets)

    @invariant()
    def nobody_is_settled_but_by_settle(self) -> None:
        assert all(waiter.ticket.outcome is None for waiter in self.model.waiters)

    @invariant()
    def final_account_is_right(self) -> None:
        if self.account is not None:
            assert numbers(self.model.losses[self.model.accounted_from :]) == numbers_of(self.account)

    def teardown(self) -> None:
        """Whatever happened: what is left drains in order, and each event has come to exactly one end."""
        if not hasattr(self, "buffer"):
            return
        if self.is_in_flight:
            self.buffer.stored(())
            self.model.stored(set())
        if self.model.filing is not None:
            if self.is_written:
                self.filed()
            else:
                self.not_filed()
        self.batch = ()
        while self.model.pending:
            if self.buffer.must_load:
                self.load(10)
                continue
            self.take(10)
            self.buffer.stored(())
            self.model.stored(set())
            self.batch = ()
        self.settle()
        assert not self.buffer.losses.tickets
        self.store_scribbles()
        self.collect_losses()
        lost = [seq for loss in self.reported for seq in seqs_of(loss.events)]
        lost += [loss.seq for loss in self.model.losses if not loss.is_seen]
        assert sorted(self.model.seen) == sorted(self.model.persisted + self.model.duplicate + lost)
        for loss in self.reported:
            assert_untouched(loss.events)


TestRetryBuffer = RetryBufferMachine.TestCase
