"""Stores that fail on command do what they are told, and the check of accounts sees every lie.

The log is run on them in virtual time: whatever the program and the script, the accounts of a log that keeps
its promises are right. And for each thing that can be wrong, one account that is wrong in just that.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import assume, find, given
from hypothesis import strategies as st

from tests._helpers.fakes import numbered
from trio_eventlog import (
    AppendFailureReport,
    EventEnvelope,
    EventLogError,
    EventQuery,
    EventRejected,
    EventsLost,
    EventStore,
    LossReason,
    LossReport,
    PersistedEvent,
    RetryPolicy,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog.stores import MemoryStore, NullStore
from trio_eventlog.testing import (
    AppendCall,
    Fails,
    FailureReports,
    Fault,
    FaultyStore,
    Hangs,
    Rejects,
    Slow,
    Works,
    check_accounts,
    fault_scripts,
    faults,
    run_in_virtual_time,
)


def event(seq: int, event_id: str | None = None) -> PersistedEvent:
    """One for a store."""
    return PersistedEvent(event_id or f"e{seq}", seq, 0, "worker", numbered(seq))


def is_odd(candidate: PersistedEvent) -> bool:
    """A predicate for Rejects, by what was ingested and not by the seq that it got."""
    return candidate.event.payload["number"] % 2 == 1


async def held(store: FaultyStore) -> list[PersistedEvent]:
    """What is stored, asked without a fault."""
    return await store.inner.query(EventQuery())


async def seqs_held(store: FaultyStore) -> list[int]:
    return [each.seq for each in await held(store)]


def final(fault: Fault) -> Fault:
    """What a fault comes to after its sleep."""
    return final(fault.then) if isinstance(fault, Slow) else fault


# --- a log on a store with faults -----------------------------------------------------------------

ANY_FAULT = faults(max_seconds=8.0, unusable=True, rejects=is_odd)

STEPS = st.one_of(
    st.tuples(st.just("ingest"), st.integers(1, 30)),
    st.tuples(st.just("repeat"), st.integers(0, 20)),
    st.tuples(st.just("flush"), st.floats(0, 5)),
    st.tuples(st.just("sleep"), st.floats(0, 10)),
)


@given(
    steps=st.lists(STEPS, max_size=20),
    script=fault_scripts(12, of=ANY_FAULT),
    otherwise=ANY_FAULT,
    settings=st.fixed_dictionaries(
        {
            "batch_size": st.integers(0, 8),
            "retry_buffer_cap": st.integers(8, 24),
            "append_timeout": st.sampled_from([0.5, 2.0, math.inf]),
            "grace_period": st.sampled_from([0, 1.0, 5.0]),
        }
    ),
)
def test_the_accounts_of_a_log_are_right_whatever_its_store_does(
    steps: list[tuple[str, Any]], script: list[Fault], otherwise: Fault, settings: dict[str, Any]
) -> None:
    """Also with ids that come twice, and errors that end the log."""
    store, reports = FaultyStore(MemoryStore(), script, otherwise=otherwise), FailureReports()
    seqs: list[int | None] = []

    async def main() -> Any:
        log = None
        try:
            async with open_event_log(
                store, retry=RetryPolicy(random=lambda: 0.5), on_failure=reports, **settings
            ) as log:
                for step, argument in steps:
                    match step:
                        case "ingest":
                            for _ in range(argument):
                                number = len(seqs)
                                envelope = EventEnvelope.of(numbered(number), event_id=f"e{number}")
                                seqs.append(log.ingest(envelope))
                        case "repeat":
                            number = min(argument, len(seqs))
                            envelope = EventEnvelope.of(numbered(number), event_id=f"e{number}")
                            seqs.append(log.ingest(envelope))
                        case "flush":
                            with trio.move_on_after(argument):
                                with suppress(EventsLost):
                                    await log.flush()
                        case _:
                            await trio.sleep(argument)
        except (EventsLost, StoreUnusable):
            pass
        assert log is not None
        check_accounts(seqs, await held(store), reports, duplicates=log.statistics().duplicate)
        return log.statistics()

    books = run_in_virtual_time(main)

    assert (books.appends, books.failures) == (len(store.appends), len(reports.failures))
    assert [call.fault for call in store.appends] == list(
        itertools.islice(itertools.chain(script, itertools.repeat(otherwise)), len(store.appends))
    )
    assert books.lost_total == len(reports.lost_seqs) == len(reports.lost_events)
    assert len(reports.times) == len(reports.failures) + len(reports.losses)
    assert reports.times == sorted(reports.times)


@given(batches=st.lists(st.lists(st.integers(1, 9), unique=True, max_size=4), max_size=8), faults_=st.data())
def test_a_fault_does_to_an_append_what_it_says(batches: list[list[int]], faults_: st.DataObject) -> None:
    """What is stored, what is raised, how long it takes: told beforehand for each append."""
    script = faults_.draw(st.lists(ANY_FAULT, min_size=len(batches), max_size=len(batches)))
    store, expected = FaultyStore(MemoryStore(), script), set[int]()

    async def main() -> None:
        for seqs, fault in zip(batches, script, strict=True):
            started = trio.current_time()
            outcome: object = None
            with trio.move_on_after(100) as scope:
                try:
                    outcome = await store.append_batch([event(seq) for seq in seqs])
                except StoreError as exc:
                    outcome = exc
            seconds = fault.seconds if isinstance(fault, Slow) else 0.0
            rejected = [seq for seq in seqs if seq % 2 == 1 and seq not in expected]
            match final(fault):
                case Fails(error=error, after_commit=after_commit):
                    assert type(outcome) is (StoreError if error is None else type(error))
                    expected.update(seqs if after_commit else [])
                case Hangs(after_commit=after_commit):
                    assert scope.cancelled_caught
                    expected.update(seqs if after_commit else [])
                    seconds = 100
                case Rejects() if rejected:
                    assert isinstance(outcome, EventRejected)
                    assert [each.seq for each in outcome.events] == rejected
                case _:
                    assert outcome == ()
                    expected.update(seqs)
            assert await seqs_held(store) == sorted(expected)
            assert trio.current_time() - started == pytest.approx(seconds)

    run_in_virtual_time(main)

    assert [(call.seqs, call.fault) for call in store.appends] == [
        (tuple(seqs), fault) for seqs, fault in zip(batches, script, strict=True)
    ]


# --- a store with faults --------------------------------------------------------------------------


async def test_without_a_script_it_is_the_store_that_it_is_put_around() -> None:
    store = FaultyStore(MemoryStore())

    assert isinstance(store, EventStore)
    assert await store.append_batch([event(1), event(2)]) == ()
    assert tuple(await store.append_batch([event(3, "e1")])) == (3,)
    with pytest.raises(SequenceConflict):
        await store.append_batch([event(2, "another")])
    assert await store.query(EventQuery(after_seq=1)) == [event(2)]
    assert await store.last_seq() == 2


async def test_each_method_has_a_script_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    """Faults go in order, one a call, and then comes what comes otherwise."""
    mine = ValueError("of a driver")
    store = FaultyStore(
        MemoryStore(),
        [Fails(), Works()],
        otherwise=Fails(mine),
        query_script=[Works(), Fails(after_commit=True)],
        last_seq_script=[Slow(3.0)],
    )

    with pytest.raises(StoreError, match="as a test wants it"):
        await store.append_batch([event(1)])
    assert await store.append_batch([event(1)]) == ()
    for _ in range(2):
        with pytest.raises(ValueError) as info:
            await store.append_batch([event(2)])
        assert info.value is mine
    assert await store.query(EventQuery()) == [event(1)]
    with pytest.raises(StoreError):
        await store.query(EventQuery())
    assert await store.query(EventQuery()) == [event(1)]
    started = trio.current_time()
    assert (await store.last_seq(), trio.current_time() - started) == (1, 3.0)
    assert (await store.last_seq(), trio.current_time() - started) == (1, 3.0)


async def test_a_script_may_be_infinite() -> None:
    """It is read one fault at a time."""

    def every_second() -> Iterator[Fault]:
        while True:
            yield Fails()
            yield Works()

    store = FaultyStore(MemoryStore(), every_second(), query_script=itertools.repeat(Fails()))

    for seq in range(1, 5):
        with pytest.raises(StoreError):
            await store.append_batch([event(seq)])
        await store.append_batch([event(seq)])
    for _ in range(3):
        with pytest.raises(StoreError):
            await store.query(EventQuery())
    assert await seqs_held(store) == [1, 2, 3, 4]


async def test_an_iterator_that_yields_no_fault_is_found_when_its_turn_comes() -> None:
    store = FaultyStore(MemoryStore(), iter([Works(), "down"]), query_script=iter([Slow(1, Rejects(is_odd))]))

    await store.append_batch([])
    with pytest.raises(TypeError) as wrong_type:
        await store.append_batch([])
    assert str(wrong_type.value) == "script[1]: expected a fault, such as Fails(), got str"
    with pytest.raises(ValueError) as wrong_place:
        await store.query(EventQuery())
    assert str(wrong_place.value) == "query_script[0]: only an append can be rejected"


async def test_it_is_switched_off_and_on() -> None:
    store = FaultyStore(MemoryStore())

    store.otherwise = Fails()
    with pytest.raises(StoreError):
        await store.append_batch([event(1)])
    store.otherwise = Works()
    await store.append_batch([event(1)])
    assert store.otherwise == Works()
    assert await seqs_held(store) == [1]


async def test_a_default_error_is_a_new_one_each_time() -> None:
    """So that whoever keeps them does not see one error change."""
    store = FaultyStore(MemoryStore(), otherwise=Fails())
    errors = []

    for _ in range(2):
        with pytest.raises(StoreError) as info:
            await store.append_batch([])
        errors.append(info.value)
    assert errors[0] is not errors[1]


async def test_a_given_error_does_not_gather_tracebacks() -> None:
    """It is the same object each time, and would carry those of all times before."""
    error = StoreError("mine")
    store = FaultyStore(MemoryStore(), otherwise=Fails(error))
    lengths = set()

    for _ in range(3):
        with pytest.raises(StoreError):
            await store.append_batch([])
        traceback, length = error.__traceback__, 0
        while traceback is not None:
            traceback, length = traceback.tb_next, length + 1
        lengths.add(length)
    assert len(lengths) == 1


async def test_appends_are_recorded_as_they_began(autojump_clock: trio.testing.MockClock) -> None:
    """Also those that fail or are cancelled."""
    script = [Slow(2.0), Hangs(), Fails()]
    store, start = FaultyStore(MemoryStore(), script), trio.current_time()

    await store.append_batch([event(1), event(2)])
    with trio.move_on_after(5):
        await store.append_batch([event(3)])
    with pytest.raises(StoreError):
        await store.append_batch([event(3)])

    assert store.appends == (
        AppendCall(start, (1, 2), Slow(2.0)),
        AppendCall(start + 2, (3,), Hangs()),
        AppendCall(start + 7, (3,), Fails()),
    )


async def test_a_batch_is_taken_as_it_was_when_the_append_began(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """However slow the store is, and whatever the caller does with the list meanwhile."""
    store, batch = FaultyStore(MemoryStore(), [Slow(2.0)]), [event(1), event(2)]

    nursery.start_soon(store.append_batch, batch)
    await trio.sleep(1)
    batch.clear()
    await trio.sleep(2)
    assert await seqs_held(store) == [1, 2]


@pytest.mark.parametrize("most", [None, 7])
async def test_the_largest_batch_is_that_of_the_inner_store(most: int | None) -> None:
    inner: Any = MemoryStore()
    if most is not None:
        inner.max_batch = most

    assert FaultyStore(inner).max_batch == most


async def test_it_survives_what_the_inner_store_survives() -> None:
    class Unsynced(MemoryStore):
        survives = "process"
        syncs = 0

        async def sync(self) -> None:
            await trio.lowlevel.checkpoint()
            self.syncs += 1

    class Silent:
        def __init__(self, inner: MemoryStore) -> None:
            self.append_batch, self.query, self.last_seq = inner.append_batch, inner.query, inner.last_seq

    for inner in (MemoryStore(), NullStore()):
        durable = FaultyStore(inner)
        assert (durable.survives, durable.sync) == ("power", None)
    silent = FaultyStore(Silent(MemoryStore()))
    assert (silent.survives, silent.sync) == ("process", None)
    unsynced = Unsynced()
    store = FaultyStore(unsynced)
    assert store.survives == "process"
    assert store.sync is not None
    await store.sync()
    assert unsynced.syncs == 1


async def test_a_log_heeds_the_largest_batch() -> None:
    inner: Any = MemoryStore()
    inner.max_batch = 2
    store = FaultyStore(inner)

    async with open_event_log(store) as log:
        for number in range(5):
            log.ingest(numbered(number))
    assert [call.seqs for call in store.appends] == [(1, 2), (3, 4), (5,)]


def test_it_says_what_it_is() -> None:
    """In the messages of a log, for example."""
    inner = MemoryStore()

    assert repr(FaultyStore(inner)) == "<FaultyStore around <MemoryStore with 0 events>>"
    assert FaultyStore(inner).inner is inner


CALLS = {
    "append": lambda store: store.append_batch([event(1)]),
    "append nothing": lambda store: store.append_batch([]),
    "query": lambda store: store.query(EventQuery()),
    "last seq": lambda store: store.last_seq(),
}

FAULTS: list[Fault] = [
    Works(),
    Fails(),
    Fails(after_commit=True),
    Slow(0),
    Slow(1.5),
    Slow(1.5, Fails()),
    Slow(0.5, Slow(0.5)),
]

HANGING: list[Fault] = [Hangs(), Hangs(after_commit=True), Slow(1.0, Hangs())]


def with_fault(fault: Fault) -> FaultyStore:
    """A store that does it with every call."""
    always = [] if isinstance(final(fault), Rejects) else [fault] * 3
    return FaultyStore(MemoryStore(), otherwise=fault, query_script=always, last_seq_script=always)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("fault", [*FAULTS, Rejects(["e1"]), Rejects([]), Slow(1, Rejects(["e1"]))], ids=repr)
async def test_every_method_is_a_checkpoint(
    call: Any, fault: Fault, autojump_clock: trio.testing.MockClock
) -> None:
    """With every fault, whether it returns or raises."""
    with trio.testing.assert_checkpoints():
        with suppress(EventLogError):
            await call(with_fault(fault))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("fault", [*FAULTS, *HANGING, Rejects(["e1"])], ids=repr)
async def test_entered_cancelled_nothing_is_done(call: Any, fault: Fault) -> None:
    """Cancelled is raised, and not the error of the fault."""
    store = with_fault(fault)

    with trio.CancelScope() as scope:
        scope.cancel(reason="test")
        await call(store)
    assert scope.cancelled_caught
    assert await held(store) == []


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("fault", [*HANGING, Slow(20), Slow(20, Fails())], ids=repr)
async def test_who_waits_can_be_cancelled(
    call: Any, fault: Fault, autojump_clock: trio.testing.MockClock
) -> None:
    """At once: Cancelled is never swallowed."""
    store, started = with_fault(fault), trio.current_time()

    with trio.move_on_after(10) as scope:
        await call(store)
    assert scope.cancelled_caught
    assert trio.current_time() - started == pytest.approx(10)
    is_appended = any(call.seqs for call in store.appends)
    assert await seqs_held(store) == ([1] if is_appended and fault == Hangs(after_commit=True) else [])


async def test_an_error_of_the_inner_store_goes_first() -> None:
    """A fault after the commit needs a commit."""
    store = FaultyStore(MemoryStore(), otherwise=Fails(ValueError("not this one"), after_commit=True))

    with pytest.raises(EventRejected):
        await store.append_batch([event(0)])


# --- rejecting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "which", [["e1", "e3", "another"], is_odd, iter(["e1", "e3"])], ids=["ids", "function", "iterator"]
)
async def test_what_is_rejected_is_named_and_nothing_is_stored(which: Any) -> None:
    store = FaultyStore(MemoryStore(), otherwise=Rejects(which, reason="odd"))

    with pytest.raises(EventRejected) as info:
        await store.append_batch([event(1), event(2), event(3)])
    assert info.value.events == (event(1), event(3))
    assert info.value.reason == "odd"
    assert await held(store) == []
    await store.append_batch([event(2)])
    assert await held(store) == [event(2)]


async def test_what_is_held_already_is_not_rejected() -> None:
    """By the contract a store can never hold what it rejects, and a repeat changes nothing. A log would
    report as certainly lost what was stored by an append whose answer was lost.
    """
    store = FaultyStore(MemoryStore(), [Fails(after_commit=True)], otherwise=Rejects(is_odd))

    with pytest.raises(StoreError):
        await store.append_batch([event(1)])
    with pytest.raises(EventRejected) as info:
        await store.append_batch([event(1), event(2), event(3)])
    assert info.value.events == (event(3),)
    assert await store.append_batch([event(1), event(2)]) == ()
    assert await seqs_held(store) == [1, 2]


async def test_the_log_sets_aside_what_is_rejected(autojump_clock: trio.testing.MockClock) -> None:
    store, reports = FaultyStore(MemoryStore(), otherwise=Rejects(is_odd)), FailureReports()

    async with open_event_log(store, on_failure=reports) as log:
        seqs = [log.ingest(numbered(number)) for number in range(6)]
        with pytest.raises(EventsLost):
            await log.flush()
    assert await seqs_held(store) == [1, 3, 5]
    assert reports.lost_seqs == (2, 4, 6)
    check_accounts(seqs, await held(store), reports)


# --- arguments ------------------------------------------------------------------------------------


async def awaited(candidate: object) -> bool:
    """Not a plain function."""
    return True


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Fails(StoreError), TypeError, "got the class StoreError"),
        (lambda: Fails("down"), TypeError, "error: expected an exception, such as"),
        (lambda: Fails(after_commit=1), TypeError, "after_commit: expected True or False, got int"),
        (
            lambda: Fails(EventRejected([event(1)], "no"), after_commit=True),
            ValueError,
            "after_commit: EventRejected says that nothing was stored",
        ),
        (
            lambda: Fails(SequenceConflict([1]), after_commit=True),
            ValueError,
            "after_commit: SequenceConflict",
        ),
        (lambda: Hangs(after_commit=None), TypeError, "after_commit: expected True or False, got NoneType"),
        (lambda: Slow("1"), TypeError, "seconds: expected seconds as a number, got str"),
        (lambda: Slow(True), TypeError, "seconds: expected seconds as a number, got bool"),
        (lambda: Slow(-1), ValueError, "seconds: expected seconds, 0 or more and finite, got -1"),
        (lambda: Slow(math.inf), ValueError, "seconds: expected seconds, 0 or more and finite, got inf"),
        (lambda: Slow(math.nan), ValueError, "seconds: expected seconds, 0 or more and finite, got nan"),
        (lambda: Slow(10**400), ValueError, "seconds: expected seconds, 0 or more and finite, got 1000"),
        (lambda: Slow(1, Fails), TypeError, "then: expected a fault, such as Fails(), got the class Fails"),
        (lambda: Rejects("e1"), TypeError, "which: expected event ids or a function of an event, got str"),
        (lambda: Rejects(None), TypeError, "which: expected event ids or a function of an event, got None"),
        (lambda: Rejects(["e1", 2]), TypeError, "which[1]: expected the id of an event, got int"),
        (lambda: Rejects(awaited), TypeError, "which: expected a plain function or event ids, got <function"),
        (lambda: Rejects(PersistedEvent), TypeError, "which: expected a plain function or event ids"),
        (lambda: Rejects([], reason=1), TypeError, "reason: expected a string, got int"),
        (lambda: FaultyStore(MemoryStore), TypeError, "inner: expected an object with append_batch"),
        (lambda: FaultyStore(None), TypeError, "inner: expected an object with append_batch"),
        (lambda: FaultyStore(MemoryStore(), Fails()), TypeError, "script: expected faults in a list"),
        (lambda: FaultyStore(MemoryStore(), "down"), TypeError, "script: expected faults in a list"),
        (lambda: FaultyStore(MemoryStore(), [Fails]), TypeError, "script[0]: expected a fault, such as"),
        (lambda: FaultyStore(MemoryStore(), otherwise=None), TypeError, "otherwise: expected a fault"),
        (
            lambda: FaultyStore(MemoryStore(), query_script=[Works(), Rejects([])]),
            ValueError,
            "query_script[1]: only an append can be rejected",
        ),
        (
            lambda: FaultyStore(MemoryStore(), last_seq_script=[Slow(1, Rejects([]))]),
            ValueError,
            "last_seq_script[0]: only an append can be rejected",
        ),
        (lambda: faults(max_seconds=-1), ValueError, "max_seconds: expected seconds, 0 or more"),
        (lambda: faults(max_seconds=None), TypeError, "max_seconds: expected seconds as a number"),
        (lambda: faults(rejects="e1"), TypeError, "which: expected event ids or a function"),
        (
            lambda: check_accounts(["1"], [], FailureReports()),
            TypeError,
            "ingested: expected what ingest returned, ints and None, got str",
        ),
        (
            lambda: check_accounts([], [], FailureReports(), duplicates=True),
            TypeError,
            "duplicates: expected a number of events as an int, got bool",
        ),
        (
            lambda: check_accounts([], [], FailureReports(), duplicates=-1),
            ValueError,
            "duplicates: expected 0 or more events, got -1",
        ),
    ],
    ids=itertools.count(),
)
def test_a_wrong_argument_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as info:
        make()
    assert message in str(info.value)


def test_faults_are_values() -> None:
    """Equal if they say the same, and with a repr that can be typed in again."""
    for fault in [*FAULTS, *HANGING, Rejects(["e1"], reason="too large")]:
        names = {kind.__name__: kind for kind in (Works, Fails, Hangs, Slow, Rejects)}
        again = eval(repr(fault), names)  # noqa: S307 - our own
        assert again == fault
        assert hash(again) == hash(fault)


# --- strategies -----------------------------------------------------------------------------------


def kinds_of(fault: Fault) -> set[type]:
    """Those that are in it."""
    return {type(fault), *(kinds_of(fault.then) if isinstance(fault, Slow) else ())}


@given(fault=faults(max_seconds=3))
def test_faults_by_default(fault: Fault) -> None:
    """What passes, so that a program that waits long enough loses nothing."""
    assert Rejects not in kinds_of(fault)
    assert not isinstance(final(fault), Slow)
    if isinstance(fault, Slow):
        assert 0 <= fault.seconds <= 3
    if isinstance(final(fault), Fails):
        assert final(fault).error is None


@given(fault=faults(hang=False))
def test_faults_without_hanging(fault: Fault) -> None:
    assert Hangs not in kinds_of(fault)


@pytest.mark.parametrize(
    ("strategy", "is_wanted"),
    [
        (faults(), lambda fault: fault == Fails()),
        (faults(), lambda fault: fault == Fails(after_commit=True)),
        (faults(), lambda fault: fault == Hangs()),
        (faults(), lambda fault: fault == Hangs(after_commit=True)),
        (faults(), lambda fault: isinstance(fault, Slow) and fault.then == Works()),
        (faults(), lambda fault: isinstance(fault, Slow) and fault.then == Fails()),
        (faults(max_seconds=0), lambda fault: fault == Slow(0)),
        (faults(rejects=is_odd), lambda fault: fault == Rejects(is_odd)),
        (faults(rejects=["e1"]), lambda fault: fault == Slow(0, Rejects(["e1"]))),
        (
            faults(unusable=True),
            lambda fault: isinstance(fault, Fails) and isinstance(fault.error, StoreUnusable),
        ),
    ],
    ids=itertools.count(),
)
def test_every_fault_is_drawn(strategy: st.SearchStrategy[Fault], is_wanted: Any) -> None:
    """And `find` shrinks to the simplest of its kind."""
    found = find(strategy, is_wanted)

    assert not isinstance(found, Slow) or found.seconds == 0


def test_faults_shrink_towards_works() -> None:
    assert find(faults(unusable=True, rejects=is_odd), lambda fault: True) == Works()


def test_scripts_shrink_to_what_matters() -> None:
    def fails_late(script: list[Fault]) -> bool:
        return len(script) >= 3 and isinstance(script[-1], Fails)

    assert find(fault_scripts(), lambda script: True) == []
    assert find(fault_scripts(), fails_late) == [Works(), Works(), Fails()]


@given(script=fault_scripts(3, of=faults(hang=False, max_seconds=0)))
def test_scripts_keep_to_their_size(script: list[Fault]) -> None:
    assert len(script) <= 3
    assert all(Hangs not in kinds_of(fault) for fault in script)


def test_scripts_reach_their_size() -> None:
    assert len(find(fault_scripts(4), lambda script: len(script) == 4)) == 4


# --- reports --------------------------------------------------------------------------------------


def loss(*seqs: int, in_doubt: bool = False) -> LossReport:
    return LossReport(reason=LossReason.CAP, events=tuple(event(seq) for seq in seqs), in_doubt=in_doubt)


def reports_of(*losses: LossReport) -> FailureReports:
    reports = FailureReports()
    reports.losses += losses
    return reports


async def test_reports_are_kept_with_their_times(autojump_clock: trio.testing.MockClock) -> None:
    reports, start = FailureReports(), trio.current_time()
    failure = AppendFailureReport(
        error=StoreError("down"), events=1, first_seq=1, last_seq=1, failures=1, retry_in=0.1
    )

    reports(failure)
    await trio.sleep(2)
    reports(loss(3, 4))
    await trio.sleep(1)
    reports(loss(1))

    assert reports.failures == [failure]
    assert reports.losses == [loss(3, 4), loss(1)]
    assert reports.times == [start, start + 2, start + 3]
    assert reports.lost_events == (event(3), event(4), event(1))
    assert reports.lost_seqs == (3, 4, 1)
    assert repr(reports) == "<FailureReports: 1 failures, 3 events lost>"


# --- accounts -------------------------------------------------------------------------------------


@given(data=st.data())
def test_right_accounts_pass_and_one_event_more_or_less_does_not(data: st.DataObject) -> None:
    """However what was ingested is split into what is stored, lost, both, and a duplicate."""
    fates = data.draw(st.lists(st.sampled_from(["stored", "lost", "in doubt", "both", "duplicate"])))
    by_fate: dict[str, list[int]] = {
        fate: [seq for seq, drawn in enumerate(fates, 1) if drawn == fate] for fate in set(fates)
    }
    stored = [event(seq) for seq in sorted([*by_fate.get("stored", []), *by_fate.get("both", [])])]
    doubtful = [*by_fate.get("in doubt", []), *by_fate.get("both", [])]
    losses = [loss(*by_fate["lost"])] if "lost" in by_fate else []
    reports = reports_of(*losses, *([loss(*doubtful, in_doubt=True)] if doubtful else []))
    duplicates = Counter(fates)["duplicate"]
    ingested = data.draw(st.permutations([*range(1, len(fates) + 1), None]))

    check_accounts(ingested, iter(stored), reports, duplicates=duplicates)

    with pytest.raises(AssertionError):
        check_accounts(ingested, stored, reports, duplicates=duplicates + 1)
    with pytest.raises(AssertionError):
        check_accounts([*ingested, len(fates) + 1], stored, reports, duplicates=duplicates)
    assume(stored or reports.losses)
    known = data.draw(st.sampled_from([*[each.seq for each in stored], *reports.lost_seqs]))
    with pytest.raises(AssertionError):
        check_accounts([seq for seq in ingested if seq != known], stored, reports, duplicates=duplicates)


@pytest.mark.parametrize(
    ("ingested", "stored", "losses", "duplicates", "message"),
    [
        ([1, 2, 3], [1], [], 0, "neither stored nor reported lost: 2 (seq 2, 3); duplicates: 0"),
        ([1, 2], [1], [loss(2)], 1, "neither stored nor reported lost: 0; duplicates: 1"),
        ([1, 2, 3], [1], [], 1, "neither stored nor reported lost: 2 (seq 2, 3); duplicates: 1"),
        ([1], [1, 2], [], 0, "stored, but never ingested: seq 2"),
        ([1], [1], [loss(2)], 0, "reported lost, but never ingested: seq 2"),
        ([1, 2, 3], [1, 3, 2], [], 0, "stored, but behind a seq that is not lower: seq 2"),
        ([1, 1], [1], [], 0, "given out twice by ingest: seq 1"),
        ([1, 2], [1], [loss(2), loss(2)], 0, "reported lost twice: seq 2"),
        ([1, 2], [1, 2], [loss(2)], 0, "stored, though reported as certainly lost: seq 2"),
        (range(1, 13), [], [], 0, "12 (seq 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more); duplicates: 0"),
    ],
    ids=itertools.count(),
)
def test_each_lie_is_caught(
    ingested: Any, stored: list[int], losses: list[LossReport], duplicates: int, message: str
) -> None:
    """And is the only thing that the message says."""
    with pytest.raises(AssertionError) as info:
        check_accounts(ingested, [event(seq) for seq in stored], reports_of(*losses), duplicates=duplicates)
    first, *findings = str(info.value).splitlines()
    assert first == "the accounts of the log are wrong:"
    (finding,) = findings
    assert message in finding


def test_an_event_that_is_stored_twice_is_caught() -> None:
    with pytest.raises(AssertionError) as info:
        check_accounts([1, 2], [event(1), event(2, "e1")], FailureReports())
    assert "stored under an id that was stored before: seq 2" in str(info.value)


def test_a_seq_that_is_stored_twice_is_caught() -> None:
    with pytest.raises(AssertionError) as info:
        check_accounts([1], [event(1), event(1, "another")], FailureReports())
    assert "stored, but behind a seq that is not lower: seq 1" in str(info.value)


def test_a_loss_that_is_another_event_is_caught() -> None:
    """What is stored and reported under one seq must be one event."""
    with pytest.raises(AssertionError) as info:
        check_accounts([1], [event(1, "another")], reports_of(loss(1, in_doubt=True)))
    assert "stored as another event than the one reported lost: seq 1" in str(info.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(AssertionError) as info:
        check_accounts([1, 2], [event(3)], reports_of(loss(4)))
    assert len(str(info.value).splitlines()) == 4


async def test_a_store_that_forgets_is_caught() -> None:
    """The case that all this is for: a store that says yes and keeps nothing."""
    reports = FailureReports()

    async with open_event_log(NullStore(), on_failure=reports) as log:
        seqs = [log.ingest(numbered(1))]
    with pytest.raises(AssertionError):
        check_accounts(seqs, await NullStore().query(EventQuery()), reports)


# --- virtual time ---------------------------------------------------------------------------------


def test_virtual_time_passes_at_once_and_the_result_comes_back() -> None:
    async def sleep(seconds: float, result: str) -> tuple[float, str]:
        started = trio.current_time()
        await trio.sleep(seconds)
        return trio.current_time() - started, result

    assert run_in_virtual_time(sleep, 1e6, "done") == (1e6, "done")


def test_virtual_time_lets_exceptions_through() -> None:
    error = ValueError("mine")

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(ValueError) as info:
        run_in_virtual_time(fail)
    assert info.value is error
