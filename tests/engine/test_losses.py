"""Losses and flush tickets: each loss is counted, reported and raised once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.retry_buffers import (
    event,
    filled,
    numbers_of,
    put,
    raised_by,
    settle_and_raise,
)
from trio_eventlog import LossReason
from trio_eventlog._engine import _losses
from trio_eventlog._engine._losses import MAX_RANGES
from trio_eventlog._engine._retry_buffer import RetryBuffer

# --- flush tickets --------------------------------------------------------------------------------


def test_flush_waits_for_its_last_event_and_no_longer() -> None:
    """It is settled when its last event is durable, not when that is in flight, whatever else waits."""
    buffer = filled(10, 5)
    ticket = buffer.losses.tickets.issue(3)
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
    early, wide = buffer.losses.tickets.issue(3), buffer.losses.tickets.issue(5)
    buffer.take(1)
    buffer.stored(())
    assert [early] == settle_and_raise(buffer)
    late = buffer.losses.tickets.issue(5)
    buffer.abandon(LossReason.SHUTDOWN)
    assert [wide, late] == buffer.settle()

    assert (2, 1, 2, {LossReason.CAP: 2}) == raised_by(early)
    assert (4, 1, 5, {LossReason.CAP: 2, LossReason.SHUTDOWN: 2}) == raised_by(wide)
    assert (2, 4, 5, {LossReason.SHUTDOWN: 2}) == raised_by(late)


def test_a_loss_that_nobody_has_raised_yet_is_raised_by_whoever_asks() -> None:
    """A settled flush has raised nothing before its task runs: one that begins meanwhile raises the same."""
    buffer = filled(3, 5)
    first = buffer.losses.tickets.issue(2)
    assert [first] == buffer.settle()
    second, part = buffer.losses.tickets.issue(2), buffer.losses.tickets.issue(1)
    assert [part, second] == buffer.settle()
    buffer.losses.tickets.raised(part)
    third = buffer.losses.tickets.issue(2)
    assert [third] == buffer.settle()
    buffer.losses.tickets.raised(second)
    fourth = buffer.losses.tickets.issue(2)
    assert [fourth] == buffer.settle()

    assert (2, 1, 2, {LossReason.CAP: 2}) == raised_by(first) == raised_by(second)
    assert (1, 1, 1, {LossReason.CAP: 1}) == raised_by(part)
    # Of these two seqs, a flush that was done before this one began has raised the first.
    assert (1, 2, 2, {LossReason.CAP: 1}) == raised_by(third)
    assert (0, 0, 0, {}) == raised_by(fourth)


def test_withdrawn_flush_raises_nothing_for_others() -> None:
    """A flush that was cancelled has raised nothing: the next one still owes the losses."""
    buffer = filled(2, 3)
    buffer.losses.tickets.withdraw(buffer.losses.tickets.issue(3))
    assert [] == buffer.settle()
    assert not buffer.losses.tickets
    buffer.take(2)
    buffer.stored(())
    ticket = buffer.losses.tickets.issue(3)
    assert [ticket] == buffer.settle()

    assert (1, 1, 1, {LossReason.CAP: 1}) == raised_by(ticket)


def test_flush_in_the_middle_of_a_run_of_losses() -> None:
    """A flush raises the losses up to its seq and leaves those beyond for the next."""
    buffer = filled(1, 11)
    buffer.take(1)
    buffer.stored(())
    tickets = [buffer.losses.tickets.issue(4)]
    settle_and_raise(buffer)
    tickets.append(buffer.losses.tickets.issue(11))
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
    waiting = buffer.losses.tickets.issue(2 * MAX_RANGES * 3)
    lose_every_other(buffer, 2 * MAX_RANGES)
    assert MAX_RANGES == len(buffer.losses.tickets._unraised)
    buffer.losses.collect()
    lose_more = 6 * MAX_RANGES
    for seq in range(2 * MAX_RANGES + 1, lose_more, 2):
        buffer.refuse(event(seq), LossReason.UNUSABLE if seq % 3 else LossReason.BROKEN)

    assert MAX_RANGES == len(buffer.losses.tickets._unraised)
    buffer.settle()
    odd = range(1, lose_more, 2)
    reasons = Counter(LossReason.UNUSABLE if seq % 3 else LossReason.BROKEN for seq in odd)
    assert (len(odd), 1, lose_more - 1, dict(reasons)) == raised_by(waiting)
    assert 0 == len(buffer.losses.tickets._unraised)


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
        patch.setattr(_losses, "MAX_RANGES", most_ranges)
        for seq, is_lost in enumerate(losses, 1):
            if is_lost:
                buffer.refuse(event(seq), LossReason.UNUSABLE)
                lost.append(seq)
                assert len(buffer.losses.tickets._unraised) <= most_ranges
    raised = 0
    for through in sorted(flushes):
        ticket = buffer.losses.tickets.issue(through)
        settle_and_raise(buffer)
        raised += raised_by(ticket)[0]
        assert len([seq for seq in lost if seq <= through]) <= raised
    ticket = buffer.losses.tickets.issue(len(losses))
    buffer.settle()

    assert len(lost) == raised + raised_by(ticket)[0]


@given(losses=st.lists(st.sampled_from([None, *LossReason]), min_size=1, max_size=40))
def test_final_account_counts_what_is_lost_from_then_on(losses: list[LossReason | None]) -> None:
    """The account that is opened when the body ends holds the losses of the drain and no earlier ones."""
    buffer = filled(1, 3)
    account = buffer.losses.open_final_account()
    expected: Counter[LossReason] = Counter()
    seqs = []
    for seq, reason in enumerate(losses, 4):
        if reason is not None:
            buffer.refuse(event(seq), reason)
            expected[reason] += 1
            seqs.append(seq)

    assert (len(seqs), min(seqs, default=0), max(seqs, default=0), dict(expected)) == numbers_of(account)
