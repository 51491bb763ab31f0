"""The retry buffer: order, bounds, losses, flush tickets and what goes through a spill file, against a model
that spells them out in lists.

No Trio and no clock anywhere: what is tested is every order of operations, not their timing.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import attrs
import pytest
from hypothesis import given, note
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

from trio_eventlog import AgentEvent, LossReason, LossReport, ModuleEvent, PersistedEvent
from trio_eventlog._engine import _retry_buffer as retry_buffer_module
from trio_eventlog._engine._retry_buffer import MAX_RANGES, FlushTicket, LossAccount, RetryBuffer
from trio_eventlog._model._sealed import seal_event, size_of

# --- helpers --------------------------------------------------------------------------------------


def payload_of(seq: int) -> dict[str, Any]:
    """The payload that the event of ``seq`` was ingested with."""
    return {"seq": seq, "nested": [seq], "pad": "x" * (seq * 37 % 100)}


def event(seq: int) -> PersistedEvent:
    """An event as the log hands it over; both kinds take turns."""
    if seq % 2:
        return PersistedEvent(f"id-{seq}", seq, 0, None, seal_event(ModuleEvent("m", "t", payload_of(seq))))
    return PersistedEvent(f"id-{seq}", seq, 0, "a", seal_event(AgentEvent("a", "t", payload_of(seq))))


def put(buffer: RetryBuffer, *seqs: int) -> None:
    """Let events with these seqs arrive together."""
    arrivals = [event(seq) for seq in seqs]
    buffer.put(arrivals, sum(map(size_of, arrivals)))


def seqs_of(events: tuple[PersistedEvent, ...]) -> list[int]:
    """Their seqs, in their order."""
    return [event.seq for event in events]


def assert_untouched(events: tuple[PersistedEvent, ...]) -> None:
    """They say what was ingested, whatever a store did to the batches that it was given."""
    for each in events:
        assert f"id-{each.seq}" == each.id
        assert payload_of(each.seq) == each.event.payload


def scribble(batch: tuple[PersistedEvent, ...]) -> None:
    """What a careless store does to its batch."""
    for each in batch:
        each.event.payload["nested"].append("scribble")


def memory_seqs(buffer: RetryBuffer) -> list[int]:
    """What is pending in memory, in the order in which it would go to the store."""
    memory = (*buffer._in_flight, *buffer.again, *buffer._kept, *(buffer._filing or ()), *buffer._waiting)
    return seqs_of(memory)


def bytes_of(seqs: list[int]) -> int:
    """What these events weigh, counted without the code under test."""
    return sum(
        len(f"id-{seq}")
        + len("mt" if seq % 2 else "at")
        + len(json.dumps(payload_of(seq), separators=(",", ":")))
        for seq in seqs
    )


def filled(cap: int, count: int) -> RetryBuffer:
    """A buffer that was handed the seqs 1 to ``count``."""
    buffer = RetryBuffer(cap)
    for seq in range(1, count + 1):
        put(buffer, seq)
    return buffer


def raised_by(ticket: FlushTicket) -> tuple[int, int, int, dict[LossReason, int]]:
    """What the flush of a settled ticket raises, in numbers."""
    assert ticket.outcome is not None
    return numbers_of(ticket.outcome)


def numbers_of(account: LossAccount) -> tuple[int, int, int, dict[LossReason, int]]:
    """An account as values that compare."""
    return account.count, account.first_seq, account.last_seq, dict(account.by_reason)


def settle_and_raise(buffer: RetryBuffer) -> list[FlushTicket]:
    """Settle tickets, and let their flushes raise what they hold."""
    settled = buffer.settle()
    for ticket in settled:
        buffer.raised(ticket)
    return settled


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
        losses = self.buffer.collect_losses()
        self.reported += losses

        assert self.model.collect() == {(loss.reason, loss.in_doubt): seqs_of(loss.events) for loss in losses}
        assert sorted(loss.first_seq for loss in losses) == [loss.first_seq for loss in losses]
        for loss in losses:
            assert_untouched(loss.events)

    @precondition(lambda self: self.account is None)
    @rule()
    def open_final_account(self) -> None:
        self.account = self.buffer.open_final_account()
        self.model.accounted_from = len(self.model.losses)

    # Flushes come and go.

    def issue(self, through: int) -> Waiter:
        waiter = Waiter(through, frozenset(self.model.raised), self.buffer.issue_ticket(through))
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
            self.buffer.withdraw_ticket(waiter.ticket)
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
        self.buffer.raised(waiter.ticket)

    # What holds at every moment.

    @invariant()
    def nothing_is_unaccounted_for(self) -> None:
        model, buffer = self.model, self.buffer
        lost = [loss.seq for loss in model.losses]
        assert sorted(model.seen) == sorted(model.persisted + model.duplicate + model.pending + lost)
        assert len(model.persisted) == buffer.persisted
        assert len(model.duplicate) == buffer.duplicate
        assert Counter(loss.reason for loss in model.losses) == buffer.lost
        assert len(model.uncollected) == buffer.unreported

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
        assert bool(self.model.waiters) == self.buffer.is_awaited

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
        assert not self.buffer.is_awaited
        self.store_scribbles()
        self.collect_losses()
        lost = [seq for loss in self.reported for seq in seqs_of(loss.events)]
        lost += [loss.seq for loss in self.model.losses if not loss.is_seen]
        assert sorted(self.model.seen) == sorted(self.model.persisted + self.model.duplicate + lost)
        for loss in self.reported:
            assert_untouched(loss.events)


TestRetryBuffer = RetryBufferMachine.TestCase


# --- the properties by name -----------------------------------------------------------------------

caps = st.integers(1, 12)


@attrs.frozen
class Round:
    """A burst of arrivals, an append, a burst while it is under way, and its outcome."""

    before: int
    most: int
    during: int
    outcome: str  # "stored", "failed", or "rejected" of every third event


rounds = st.lists(
    st.builds(
        Round,
        before=st.integers(0, 15),
        most=st.integers(1, 15),
        during=st.integers(0, 15),
        outcome=st.sampled_from(["stored", "failed", "rejected"]),
    ),
    max_size=12,
)


@attrs.define
class Offer:
    """A batch that was offered, and what had been lost before it was."""

    outcome: str
    seqs: list[int]
    lost_before: set[int]


@attrs.define
class Played:
    """What became of a program."""

    count: int = 0
    """Events that came: the seqs 1 to ``count``."""

    offers: list[Offer] = attrs.Factory(list)
    lost: list[int] = attrs.Factory(list)

    @property
    def stored(self) -> list[int]:
        """In the order in which the store took them."""
        return [seq for offer in self.offers if offer.outcome == "stored" for seq in offer.seqs]


def play(buffer: RetryBuffer, program: list[Round]) -> Played:
    """Run ``program``."""
    played = Played()

    def arrive(events: int) -> None:
        for _ in range(events):
            played.count += 1
            put(buffer, played.count)

    def collect() -> None:
        played.lost += [each.seq for loss in buffer.collect_losses() for each in loss.events]

    for each in program:
        arrive(each.before)
        collect()
        batch = seqs_of(buffer.take(each.most))
        played.offers.append(Offer(each.outcome, batch, set(played.lost)))
        arrive(each.during)
        if each.outcome == "stored":
            buffer.stored(())
        elif each.outcome == "failed":
            buffer.failed()
        else:
            buffer.rejected(batch[::3])
    collect()
    return played


@given(caps, rounds)
def test_stored_in_order(cap: int, program: list[Round]) -> None:
    """The store takes events in the order of their seqs, whatever failed in between (L1, L4)."""
    stored = play(RetryBuffer(cap), program).stored

    assert sorted(set(stored)) == stored


@given(caps, rounds)
def test_failed_goes_again_first(cap: int, program: list[Round]) -> None:
    """Nothing newer overtakes events that failed: the next batch begins with them, but for the lost (L4)."""
    for offer, following in itertools.pairwise(play(RetryBuffer(cap), program).offers):
        if offer.outcome != "stored":
            again = [seq for seq in offer.seqs if seq not in following.lost_before]

            assert again[: len(following.seqs)] == following.seqs[: len(again)]


@given(cap=caps, bursts=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=8))
def test_never_more_than_the_cap_wait(cap: int, bursts: list[tuple[int, int]]) -> None:
    """Beside the batch in flight there wait as many as came, and the cap at most (L3)."""
    buffer = RetryBuffer(cap)
    expected = 0
    seqs = itertools.count(1)
    for most, burst in bursts:
        batch = buffer.take(most)
        expected -= len(batch)
        for _ in range(burst):
            put(buffer, next(seqs))
            expected = min(cap, expected + 1)
            assert expected == buffer.waiting
        buffer.failed()
        expected = min(cap, expected + len(batch))
        assert expected == buffer.waiting


@given(cap=caps, count=st.integers(0, 40), most=st.integers(1, 40), during=st.integers(0, 40))
def test_oldest_are_dropped_first(cap: int, count: int, most: int, during: int) -> None:
    """The newest ``cap`` survive, and the batch in flight is out of the cap's reach until it fails (L3)."""
    buffer = filled(cap, count)
    newest = list(range(1, count + 1))[-cap:]
    batch, waiting = newest[:most], newest[most:]
    assert batch == seqs_of(buffer.take(most))
    for seq in range(count + 1, count + during + 1):
        put(buffer, seq)
        waiting.append(seq)
    assert batch + waiting[-cap:] == memory_seqs(buffer)

    buffer.failed()

    assert (batch + waiting[-cap:])[-cap:] == memory_seqs(buffer)


@given(caps, rounds)
def test_every_event_is_accounted_for(cap: int, program: list[Round]) -> None:
    """What came in is stored, or waits, or was reported lost, and never two of these (L2)."""
    buffer = RetryBuffer(cap)
    played = play(buffer, program)

    assert list(range(1, played.count + 1)) == sorted(played.stored + played.lost + memory_seqs(buffer))
    assert played.count == buffer.persisted + buffer.duplicate + buffer.pending + buffer.lost.total()
    assert [] == buffer.collect_losses()


@given(count=st.integers(1, 100), most=st.integers(1, 100), slack=st.integers(0, 5))
def test_healthy_store_loses_nothing_that_fits(count: int, most: int, slack: int) -> None:
    """As long as no more events come than the cap allows, all are stored (L3)."""
    buffer = filled(count + slack, count)
    while buffer.pending:
        buffer.take(most)
        buffer.stored(())

    assert (count, 0) == (buffer.persisted, buffer.lost.total())


# --- single cases ---------------------------------------------------------------------------------


def test_one_append_at_a_time() -> None:
    """Taking a batch while one is in flight is a defect of the caller, and is not done quietly (L4)."""
    buffer = filled(10, 4)
    buffer.take(2)

    with pytest.raises(AssertionError, match="one append at a time"):
        buffer.take(2)


def test_loss_of_an_older_batch_after_newer_events() -> None:
    """A report ascends also when the oldest waiting went before the still older batch in flight."""
    buffer = filled(3, 3)
    buffer.take(3)
    for seq in (4, 5, 6, 7):
        put(buffer, seq)
    buffer.rejected({2})

    losses = {(loss.reason, loss.in_doubt): loss for loss in buffer.collect_losses()}

    by_cap = losses[LossReason.CAP, False]
    assert [1, 3, 4] == seqs_of(by_cap.events)
    assert (3, 1, 4) == (by_cap.count, by_cap.first_seq, by_cap.last_seq)


def test_rejected_at_the_end_of_a_batch_that_is_in_the_file() -> None:
    """When the file is read on, it is passed over: it was reported, and comes no second time (L2)."""
    buffer = filled(10, 3)
    buffer.take(3)
    buffer.start_filing(3)
    buffer.filed()
    for seq in (4, 5):
        put(buffer, seq)
    buffer.start_filing(3)
    buffer.filed()
    buffer.rejected({3})
    assert seqs_of(buffer.take(3)) == [1, 2]
    buffer.stored(())

    missing = buffer.loaded([event(seq) for seq in (1, 2, 3, 4, 5)], is_last=True)
    assert seqs_of(buffer.take(5)) == [4, 5]
    assert not missing.count
    assert buffer.lost == {LossReason.REJECTED: 1}


def test_doubt_is_kept_until_the_end() -> None:
    """What was once offered with unknown outcome stays in doubt, whatever becomes of others later (L2)."""
    buffer = filled(10, 5)
    buffer.take(3)
    buffer.failed(in_doubt=True)
    buffer.take(1)
    buffer.failed(in_doubt=True)
    buffer.take(5)
    buffer.rejected({2, 5})
    buffer.take(5)
    buffer.abandon(LossReason.SHUTDOWN, in_doubt=False)

    expected = {
        (LossReason.REJECTED, False): [2, 5],
        (LossReason.SHUTDOWN, True): [1, 3],
        (LossReason.SHUTDOWN, False): [4],
    }
    assert expected == {
        (loss.reason, loss.in_doubt): seqs_of(loss.events) for loss in buffer.collect_losses()
    }


@pytest.mark.parametrize("end", ["failed", "rejected", "abandoned"])
def test_store_keeps_what_it_was_given(end: str) -> None:
    """A store that changes a payload in its batch, then or later, changes it nowhere else."""
    buffer = filled(2, 2)
    batch = buffer.take(2)
    scribble(batch)
    if end == "failed":
        buffer.failed()
        again = buffer.take(2)
    elif end == "rejected":
        buffer.rejected({1})
        again = (*buffer.collect_losses()[0].events, *buffer.take(2))
    else:
        buffer.abandon(LossReason.SHUTDOWN)
        again = buffer.collect_losses()[0].events

    assert [1, 2] == seqs_of(again)
    assert_untouched(again)
    scribble(batch)
    assert_untouched(again)


def with_events_again() -> RetryBuffer:
    """A buffer with 1 and 2 pending again, 3 and 4 in the file, and 5 in memory."""
    buffer = filled(10, 2)
    buffer.take(2)
    buffer.stored(())
    put(buffer, 3, 4)
    buffer.start_filing(2)
    buffer.filed()
    put(buffer, 5)
    buffer.loaded([event(3), event(4)], is_last=True)
    buffer.take(2)
    assert (2, 0) == buffer.went_back(0, [event(1), event(2)])
    return buffer


def test_what_comes_again_comes_before_what_is_in_the_file() -> None:
    """It is older (L4), and waits in memory: the file is a queue."""
    buffer = with_events_again()
    assert (3, 2) == (buffer.unfiled, buffer.spilled)
    assert [5] == seqs_of(buffer.start_filing(5))
    buffer.not_filed()

    batches = []
    while buffer.available:
        batches.append(seqs_of(buffer.take(2)))
        buffer.stored(())
    assert [[1, 2], [3, 4], [5]] == batches


def test_what_comes_again_goes_to_the_file_when_that_is_closed() -> None:
    """It is spilled then, and no longer in memory."""
    buffer = with_events_again()
    buffer.abandon(LossReason.SHUTDOWN, keep_again=True)
    assert [1, 2] == seqs_of(buffer.again)
    buffer.again_filed()

    assert (4, 4) == (buffer.pending, buffer.spilled)
    assert [5] == [each.seq for loss in buffer.collect_losses() for each in loss.events]


def test_what_comes_again_and_does_not_reach_the_file_is_lost() -> None:
    """In doubt, since a write that was given up on may have reached it all the same."""
    buffer = with_events_again()
    buffer.again_not_filed(LossReason.UNUSABLE)

    [loss] = buffer.collect_losses()
    assert (LossReason.UNUSABLE, True, [1, 2]) == (loss.reason, loss.in_doubt, seqs_of(loss.events))
    assert (3, 2) == (buffer.pending, buffer.spilled)


def test_a_flush_raises_what_a_store_lost_and_nobody_has() -> None:
    """As any other loss: by each flush that had begun before one raised it."""
    buffer = filled(10, 6)
    buffer.take(6)
    buffer.stored(())
    ticket = buffer.issue_ticket(6)
    assert [ticket] == buffer.settle()
    assert not numbers_of(ticket.outcome or LossAccount())[0]
    put(buffer, 7)
    buffer.take(1)
    assert (1, 3) == buffer.went_back(2, [event(6)])
    before, both = buffer.issue_ticket(3), buffer.issue_ticket(6)
    assert [before] == buffer.settle()
    buffer.take(1)
    buffer.stored(())
    assert [both] == buffer.settle()

    assert (1, 3, 3, {LossReason.REVERTED: 1}) == raised_by(before)
    assert (3, 3, 5, {LossReason.REVERTED: 3}) == raised_by(both)
    assert [] == buffer.collect_losses()


def test_what_a_store_lost_is_in_doubt_no_longer() -> None:
    """It is certainly not there; so what the cap takes of it is certainly lost."""
    buffer = filled(3, 3)
    buffer.take(3)
    buffer.failed()
    buffer.take(3)
    buffer.went_back(0, [])
    for seq in (4, 5, 6):
        put(buffer, seq)

    [loss] = buffer.collect_losses()
    assert (False, [1, 2, 3]) == (loss.in_doubt, seqs_of(loss.events))


def test_duplicates_are_neither_persisted_nor_lost() -> None:
    """Events that the store held under another seq have a count of their own, and are not durable as what
    they were offered (L2).
    """
    buffer = filled(10, 4)
    buffer.take(4)
    buffer.stored({2, 4})

    assert (2, 2, 0, 0) == (buffer.persisted, buffer.duplicate, buffer.pending, buffer.lost.total())
    assert 3 == buffer.last_durable_seq


# --- the spill file -------------------------------------------------------------------------------


def test_events_that_are_read_back_before_their_write_is_told() -> None:
    """The thread has written them and another has read them, before the task that waits for the first ran."""
    buffer = filled(10, 6)
    buffer.start_filing(3)
    buffer.filed()
    buffer.start_filing(2)
    buffer.loaded([event(seq) for seq in range(1, 6)], is_last=False)

    assert (5, 1, 6) == (buffer.spilled, buffer.waiting, buffer.pending)
    assert [1, 2, 3, 4, 5] == seqs_of(buffer.take(10))
    buffer.stored(())
    assert (0, 1, 1) == (buffer.spilled, buffer.waiting, buffer.pending)
    buffer.filed()
    assert (0, 1, 1) == (buffer.spilled, buffer.waiting, buffer.pending)
    assert buffer.is_file_settled


# --- flush tickets --------------------------------------------------------------------------------


def test_flush_waits_for_its_last_event_and_no_longer() -> None:
    """It is settled when its last event is durable, not when that is in flight, whatever else waits."""
    buffer = filled(10, 5)
    ticket = buffer.issue_ticket(3)
    buffer.take(2)
    buffer.stored(())
    assert [] == buffer.settle()
    buffer.take(1)
    assert [] == buffer.settle()
    buffer.stored(())

    assert [ticket] == buffer.settle()
    assert (0, 0, 0, {}) == raised_by(ticket)


def test_concurrent_flushes_both_see_a_loss() -> None:
    """A loss that one flush raises is raised by every flush that had begun before, and by none after."""
    buffer = filled(3, 5)
    early, wide = buffer.issue_ticket(3), buffer.issue_ticket(5)
    buffer.take(1)
    buffer.stored(())
    assert [early] == settle_and_raise(buffer)
    late = buffer.issue_ticket(5)
    buffer.abandon(LossReason.SHUTDOWN)
    assert [wide, late] == buffer.settle()

    assert (2, 1, 2, {LossReason.CAP: 2}) == raised_by(early)
    assert (4, 1, 5, {LossReason.CAP: 2, LossReason.SHUTDOWN: 2}) == raised_by(wide)
    assert (2, 4, 5, {LossReason.SHUTDOWN: 2}) == raised_by(late)


def test_a_loss_that_nobody_has_raised_yet_is_raised_by_whoever_asks() -> None:
    """A settled flush has raised nothing before its task runs: one that begins meanwhile raises the same."""
    buffer = filled(3, 5)
    first = buffer.issue_ticket(2)
    assert [first] == buffer.settle()
    second, part = buffer.issue_ticket(2), buffer.issue_ticket(1)
    assert [part, second] == buffer.settle()
    buffer.raised(part)
    third = buffer.issue_ticket(2)
    assert [third] == buffer.settle()
    buffer.raised(second)
    fourth = buffer.issue_ticket(2)
    assert [fourth] == buffer.settle()

    assert (2, 1, 2, {LossReason.CAP: 2}) == raised_by(first) == raised_by(second)
    assert (1, 1, 1, {LossReason.CAP: 1}) == raised_by(part)
    # Of these two seqs, a flush that was done before this one began has raised the first.
    assert (1, 2, 2, {LossReason.CAP: 1}) == raised_by(third)
    assert (0, 0, 0, {}) == raised_by(fourth)


def test_withdrawn_flush_raises_nothing_for_others() -> None:
    """A flush that was cancelled has raised nothing: the next one still owes the losses."""
    buffer = filled(2, 3)
    buffer.withdraw_ticket(buffer.issue_ticket(3))
    assert [] == buffer.settle()
    assert not buffer.is_awaited
    buffer.take(2)
    buffer.stored(())
    ticket = buffer.issue_ticket(3)
    assert [ticket] == buffer.settle()

    assert (1, 1, 1, {LossReason.CAP: 1}) == raised_by(ticket)


def test_flush_in_the_middle_of_a_run_of_losses() -> None:
    """A flush raises the losses up to its seq and leaves those beyond for the next."""
    buffer = filled(1, 11)
    buffer.take(1)
    buffer.stored(())
    tickets = [buffer.issue_ticket(4)]
    settle_and_raise(buffer)
    tickets.append(buffer.issue_ticket(11))
    settle_and_raise(buffer)

    assert [(4, 1, 4, {LossReason.CAP: 4}), (6, 5, 10, {LossReason.CAP: 6})] == [
        raised_by(ticket) for ticket in tickets
    ]


def lose_every_other(buffer: RetryBuffer, count: int) -> None:
    """Of the seqs 1 to ``count``, the odd are lost, each a range of its own, and the even are stored."""
    for seq in range(1, count + 1, 2):
        buffer.refuse(event(seq), LossReason.UNUSABLE if seq % 3 else LossReason.BROKEN)
        put(buffer, seq + 1)
        buffer.take(1)
        buffer.stored(())


def test_memory_of_losses_is_bounded() -> None:
    """However many scattered losses nobody flushes for, their ranges stay below a bound, and what a flush
    of all of them raises stays exact."""
    buffer = RetryBuffer(1)
    waiting = buffer.issue_ticket(2 * MAX_RANGES * 3)
    lose_every_other(buffer, 2 * MAX_RANGES)
    assert MAX_RANGES == len(buffer._unraised)
    buffer.collect_losses()
    lose_more = 6 * MAX_RANGES
    for seq in range(2 * MAX_RANGES + 1, lose_more, 2):
        buffer.refuse(event(seq), LossReason.UNUSABLE if seq % 3 else LossReason.BROKEN)

    assert MAX_RANGES == len(buffer._unraised)
    buffer.settle()
    odd = range(1, lose_more, 2)
    reasons = Counter(LossReason.UNUSABLE if seq % 3 else LossReason.BROKEN for seq in odd)
    assert (len(odd), 1, lose_more - 1, dict(reasons)) == raised_by(waiting)
    assert 0 == len(buffer._unraised)


@given(
    most_ranges=st.integers(1, 5),
    losses=st.lists(st.booleans(), max_size=30),
    flushes=st.sets(st.integers(0, 30), max_size=5),
)
def test_merged_losses_are_raised_once(most_ranges: int, losses: list[bool], flushes: set[int]) -> None:
    """Beyond the bound a flush may raise a loss earlier than its seq, but none late, none twice, and a flush
    of everything leaves none out."""
    buffer = RetryBuffer(1)
    lost = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry_buffer_module, "MAX_RANGES", most_ranges)
        for seq, is_lost in enumerate(losses, 1):
            if is_lost:
                buffer.refuse(event(seq), LossReason.UNUSABLE)
                lost.append(seq)
                assert len(buffer._unraised) <= most_ranges
    raised = 0
    for through in sorted(flushes):
        ticket = buffer.issue_ticket(through)
        settle_and_raise(buffer)
        raised += raised_by(ticket)[0]
        assert len([seq for seq in lost if seq <= through]) <= raised
    ticket = buffer.issue_ticket(len(losses))
    buffer.settle()

    assert len(lost) == raised + raised_by(ticket)[0]


@given(losses=st.lists(st.sampled_from([None, *LossReason]), min_size=1, max_size=40))
def test_final_account_counts_what_is_lost_from_then_on(losses: list[LossReason | None]) -> None:
    """The account that is opened when the body ends holds the losses of the drain and no earlier ones."""
    buffer = filled(1, 3)
    account = buffer.open_final_account()
    expected: Counter[LossReason] = Counter()
    seqs = []
    for seq, reason in enumerate(losses, 4):
        if reason is not None:
            buffer.refuse(event(seq), reason)
            expected[reason] += 1
            seqs.append(seq)

    assert (len(seqs), min(seqs, default=0), max(seqs, default=0), dict(expected)) == numbers_of(account)
