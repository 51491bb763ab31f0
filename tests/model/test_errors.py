"""The errors: one tree, numbers as attributes, and messages that say what happened."""

import copy
import pickle
from pathlib import Path

import pytest

import trio_eventlog
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventLogBroken,
    EventLogError,
    EventRejected,
    EventsLost,
    EventsPruned,
    LogBusy,
    LogNotFound,
    LossReason,
    PersistedEvent,
    SequenceConflict,
    SpillError,
    StaleCursor,
    StoreError,
    StoreUnusable,
    StoreWentBack,
)

EVENTS = tuple(PersistedEvent(f"e{seq}", seq, 0, "a", AgentEvent("a", "t")) for seq in range(1, 8))

ERRORS = [
    (CodecError("event.payload", "too deep"), "event.payload: too deep"),
    (CodecError("", "not JSON"), "not JSON"),
    (EventsLost(1, 5, 5, {LossReason.CAP: 1}), "1 event lost (seq 5 to 5: 1 cap)"),
    (
        EventsLost(5, 1, 9, {LossReason.CAP: 2, LossReason.SHUTDOWN: 3}),
        "5 events lost (seq 1 to 9: 2 cap, 3 shutdown)",
    ),
    (SpillError(Path("a.spill"), "not ours"), "a.spill: not ours"),
    (StaleCursor(9, 3), "cursor 9 lies beyond the last seq of the log, 3"),
    (EventsPruned(3, 7), "events were pruned before they were read (seq 3 to 7)"),
    (StoreWentBack(5, 10), "the store went back: its last seq is 5, and it had acknowledged up to 10"),
    (LogNotFound("a", ["b", "c"], "x.db"), "there is no log 'a' in x.db; it has 'b', 'c'"),
    (LogNotFound("a", [], "x.db"), "there is no log 'a' in x.db, nor any other"),
    (
        LogNotFound("a", [*"bcdefghijklm"], "x.db"),
        "there is no log 'a' in x.db; it has 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k' and 2 more",
    ),
    (EventRejected(EVENTS[:2], "too large"), "too large (seq 1, 2)"),
    (EventRejected(EVENTS, "too large"), "too large (seq 1, 2, 3, 4, 5 and 2 more)"),
    (SequenceConflict([3]), "another event already has seq 3"),
    (SequenceConflict(range(1, 8)), "another event already has seq 1, 2, 3, 4, 5, …"),
    (EventLogBroken("it broke"), "it broke"),
    (StoreError("busy"), "busy"),
    (StoreUnusable("closed"), "closed"),
    (LogBusy("taken"), "taken"),
]


@pytest.mark.parametrize(
    ("error", "message"),
    [pytest.param(*case, id=f"{type(case[0]).__name__}-{index}") for index, case in enumerate(ERRORS)],
)
def test_messages_and_copies(error, message):
    """A message for people, attributes for programs; both survive the way to another process."""
    assert str(error) == message

    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own
        assert type(copied) is type(error)
        assert str(copied) == message
        assert vars(copied) == vars(error)


def test_the_tree():
    """What a program catches is what it can do something about."""
    tree = {
        CodecError: EventLogError,
        EventsLost: EventLogError,
        EventLogBroken: EventLogError,
        SpillError: EventLogError,
        StaleCursor: EventLogError,
        EventsPruned: EventLogError,
        StoreError: EventLogError,
        EventRejected: StoreError,
        StoreWentBack: StoreError,
        StoreUnusable: StoreError,
        LogNotFound: StoreUnusable,
        SequenceConflict: StoreUnusable,
        LogBusy: StoreUnusable,
    }

    for error, parent in tree.items():
        assert error.__bases__[0] is parent
    # A malformed value is a ValueError to those who know nothing of this library.
    assert issubclass(CodecError, ValueError)
    exported = {
        value
        for value in vars(trio_eventlog).values()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert exported == {*tree, EventLogError}


def test_the_account_of_a_loss_cannot_be_changed():
    counts = {LossReason.CAP: 1}
    error = EventsLost(1, 5, 5, counts)
    counts[LossReason.CAP] = 2

    assert error.by_reason == {LossReason.CAP: 1}
    # By name, too: reasons are strings.
    assert error.by_reason["cap"] == 1
    with pytest.raises(TypeError):
        error.by_reason[LossReason.CAP] = 3


def test_events_and_seqs_are_kept_as_tuples():
    events, seqs = list(EVENTS), [1, 2]
    rejected, conflict = EventRejected(events, "no"), SequenceConflict(seqs)
    events.clear()
    seqs.clear()

    assert rejected.events == EVENTS
    assert conflict.seqs == (1, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SequenceConflict("taken"), "seqs: expected several, in a list or the like, got str"),
        (lambda: SequenceConflict(3), "seqs: expected several, in a list or the like, got int"),
        (lambda: SequenceConflict([1, "2"]), r"seqs\[1\]: expected int, got str"),
        (lambda: SequenceConflict([True]), r"seqs\[0\]: expected int, got bool"),
        (lambda: SequenceConflict({1: 2}), "seqs: expected several, in a list or the like, got dict"),
        (lambda: EventRejected("too large", EVENTS), "reason: expected a string, got tuple"),
        (lambda: EventRejected("abc", "no"), "events: expected several, .* got str"),
        (
            lambda: EventRejected(EVENTS[0], "no"),
            "events: expected several, .* got Persisted",
        ),
        (lambda: EventRejected([EVENTS[0], 3], "no"), r"events\[1\]: expected PersistedEvent, got int"),
        (lambda: LogNotFound("a", "bc", "x.db"), "names: expected several, in a list or the like, got str"),
        (lambda: LogNotFound("a", [], Path("x.db")), "place: expected a string, got PosixPath"),
        (lambda: EventsLost("3", 1, 3, {}), "count: expected an integer, got str"),
        (lambda: EventsLost(3, 1, 3, "cap"), "by_reason: expected a mapping of reasons to counts, got str"),
        (lambda: EventsLost(3, 1, 3, {"cap": 3}), "by_reason: expected LossReason for a key, got str"),
        (
            lambda: EventsLost(3, 1, 3, {LossReason.CAP: "3"}),
            r"by_reason\[CAP\]: expected an integer, got str",
        ),
        (lambda: StaleCursor(True, 3), "after_seq: expected an integer, got bool"),
        (lambda: EventsPruned(1, None), "last_seq: expected an integer, got NoneType"),
        (lambda: StoreWentBack("5", 10), "last_seq: expected an integer, got str"),
        (lambda: CodecError("payload", ValueError()), "reason: expected a string, got ValueError"),
        (lambda: SpillError("a.spill", "not ours"), "path: expected a Path, got str"),
    ],
)
def test_arguments_of_another_kind(make, message):
    """Are refused where the error is made, and not shown as letters."""
    with pytest.raises(TypeError, match=message):
        make()


def test_seqs_from_anything_that_gives_them():
    assert SequenceConflict(seq for seq in (1, 2)).seqs == (1, 2)
    assert SequenceConflict({3}).seqs == (3,)


def test_a_rejection_of_many_events_does_not_show_them():
    """Logs, groups of exceptions and reports of the harness show the repr of an error."""
    error = EventRejected(EVENTS, "too large")

    assert repr(error) == "<EventRejected of seq 1, 2, 3, 4, 5 and 2 more: 'too large'>"
