"""The retry buffer: order, cap, what a store was given, and the spill file."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.retry_buffers import (
    assert_untouched,
    event,
    filled,
    memory_seqs,
    numbers_of,
    put,
    raised_by,
    scribble,
    seqs_of,
)
from trio_eventlog import LossReason
from trio_eventlog._engine._losses import LossAccount
from trio_eventlog._engine._retry_buffer import RetryBuffer

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
        played.lost += [each.seq for loss in buffer.losses.collect() for each in loss.events]

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
    assert (
        played.count == buffer.persisted + buffer.duplicate + buffer.pending + buffer.losses.by_reason.total()
    )
    assert [] == buffer.losses.collect()


@given(count=st.integers(1, 100), most=st.integers(1, 100), slack=st.integers(0, 5))
def test_healthy_store_loses_nothing_that_fits(count: int, most: int, slack: int) -> None:
    """As long as no more events come than the cap allows, all are stored (L3)."""
    buffer = filled(count + slack, count)
    while buffer.pending:
        buffer.take(most)
        buffer.stored(())

    assert (count, 0) == (buffer.persisted, buffer.losses.by_reason.total())


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

    losses = {(loss.reason, loss.in_doubt): loss for loss in buffer.losses.collect()}

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
    assert buffer.losses.by_reason == {LossReason.REJECTED: 1}


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
        (loss.reason, loss.in_doubt): seqs_of(loss.events) for loss in buffer.losses.collect()
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
        again = (*buffer.losses.collect()[0].events, *buffer.take(2))
    else:
        buffer.abandon(LossReason.SHUTDOWN)
        again = buffer.losses.collect()[0].events

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
    assert [5] == [each.seq for loss in buffer.losses.collect() for each in loss.events]


def test_what_comes_again_and_does_not_reach_the_file_is_lost() -> None:
    """In doubt, since a write that was given up on may have reached it all the same."""
    buffer = with_events_again()
    buffer.again_not_filed(LossReason.UNUSABLE)

    [loss] = buffer.losses.collect()
    assert (LossReason.UNUSABLE, True, [1, 2]) == (loss.reason, loss.in_doubt, seqs_of(loss.events))
    assert (3, 2) == (buffer.pending, buffer.spilled)


def test_a_flush_raises_what_a_store_lost_and_nobody_has() -> None:
    """As any other loss: by each flush that had begun before one raised it."""
    buffer = filled(10, 6)
    buffer.take(6)
    buffer.stored(())
    ticket = buffer.losses.tickets.issue(6)
    assert [ticket] == buffer.settle()
    assert not numbers_of(ticket.outcome or LossAccount())[0]
    put(buffer, 7)
    buffer.take(1)
    assert (1, 3) == buffer.went_back(2, [event(6)])
    before, both = buffer.losses.tickets.issue(3), buffer.losses.tickets.issue(6)
    assert [before] == buffer.settle()
    buffer.take(1)
    buffer.stored(())
    assert [both] == buffer.settle()

    assert (1, 3, 3, {LossReason.REVERTED: 1}) == raised_by(before)
    assert (3, 3, 5, {LossReason.REVERTED: 3}) == raised_by(both)
    assert [] == buffer.losses.collect()


def test_what_a_store_lost_is_in_doubt_no_longer() -> None:
    """It is certainly not there; so what the cap takes of it is certainly lost."""
    buffer = filled(3, 3)
    buffer.take(3)
    buffer.failed()
    buffer.take(3)
    buffer.went_back(0, [])
    for seq in (4, 5, 6):
        put(buffer, seq)

    [loss] = buffer.losses.collect()
    assert (False, [1, 2, 3]) == (loss.in_doubt, seqs_of(loss.events))


def test_duplicates_are_neither_persisted_nor_lost() -> None:
    """Events that the store held under another seq have a count of their own, and are not durable as what
    they were offered (L2).
    """
    buffer = filled(10, 4)
    buffer.take(4)
    buffer.stored({2, 4})

    assert (2, 2, 0, 0) == (
        buffer.persisted,
        buffer.duplicate,
        buffer.pending,
        buffer.losses.by_reason.total(),
    )
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
