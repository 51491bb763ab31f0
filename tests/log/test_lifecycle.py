"""How a log ends: every way the body can end, times every state of the store, times the scope outside.

Each cell asserts the identity of the exception, what is stored, what is reported, and the virtual time that
leaving took.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest
import trio
import trio.testing

from tests._helpers.fakes import Behaviour, FakeStore, Reports, delay, fail, fail_with, hang, numbered, take
from trio_eventlog import (
    EventLog,
    EventLogBroken,
    EventsLost,
    LogState,
    LossReason,
    StoreUnusable,
    open_event_log,
)

EVENTS = list(range(1, 11))
GRACE = 5.0

UNUSABLE = StoreUnusable("closed for ever")


class OurBugError(Exception):
    """A defect of the library, planted."""


@attrs.frozen
class Store:
    """A state of the store, and what follows from it when the body ends well."""

    behaviour: Behaviour
    stored: bool = False
    seconds: float = 0.0
    reason: LossReason | None = None
    in_doubt: bool = True
    raises: type[BaseException] | None = None
    state: LogState = LogState.CLOSED


STORES = {
    "ok": Store(take, stored=True),
    "slow": Store(delay(2.0), stored=True, seconds=2.0),
    # A hung store takes the grace period and not a moment more.
    "hung": Store(hang, seconds=GRACE, reason=LossReason.SHUTDOWN, raises=EventsLost),
    # The last attempt comes before the deadline by as much as a first retry would wait.
    "failing": Store(fail, seconds=GRACE - 0.1, reason=LossReason.SHUTDOWN, raises=EventsLost),
    "foreign": Store(
        fail_with(ZeroDivisionError("not a StoreError")),
        seconds=GRACE - 0.1,
        reason=LossReason.SHUTDOWN,
        raises=EventsLost,
    ),
    "unusable": Store(
        fail_with(UNUSABLE),
        reason=LossReason.UNUSABLE,
        raises=StoreUnusable,
        state=LogState.UNUSABLE,
    ),
    "bug": Store(take, reason=LossReason.BROKEN, raises=EventLogBroken, state=LogState.BROKEN),
}

BODIES = ["ok", "error", "group", "cancelled", "interrupt"]

OUTSIDE = ["undisturbed", "cancelled before the drain", "cancelled during the drain"]


@contextmanager
def caught() -> Iterator[list[BaseException]]:
    """Catches whatever leaves the log's block, so that it can be looked at."""
    errors: list[BaseException] = []
    try:
        yield errors
    except BaseException as exc:  # noqa: BLE001, ASYNC103 - the test asserts what it is
        errors.append(exc)


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("store_state", STORES)
@pytest.mark.parametrize("body", BODIES)
async def test_every_way_to_end(
    body: str, store_state: str, outside: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The exception, the store, the reports and the clock agree with the promises L7, L8 and L12."""
    case = STORES[store_state]
    store, reports = FakeStore(otherwise=case.behaviour), Reports()
    bug = OurBugError()
    raised: BaseException | None = {
        "error": ValueError("of the body"),
        "group": ExceptionGroup("of the body", [ValueError(), ExceptionGroup("inner", [KeyError()])]),
        "interrupt": KeyboardInterrupt(),
    }.get(body)
    log: EventLog | None = None
    ended_at = -1.0

    with trio.CancelScope() as scope_of_the_body, trio.CancelScope() as outer:
        with caught() as errors:
            async with open_event_log(store, grace_period=GRACE, on_failure=reports) as log:
                assert [log.ingest(numbered(n)) for n in EVENTS] == EVENTS
                if store_state == "bug":
                    _plant(bug, log)
                if outside == "cancelled before the drain":
                    outer.cancel(reason="test")
                elif outside == "cancelled during the drain":
                    outer.deadline = trio.current_time() + GRACE / 10
                ended_at = trio.current_time()
                if body == "cancelled":
                    scope_of_the_body.cancel(reason="test")
                    with caught() as errors_of_the_body:
                        await trio.lowlevel.checkpoint()
                    (raised,) = errors_of_the_body
                if raised is not None:
                    raise raised
        seconds = trio.current_time() - ended_at

    assert log is not None
    statistics = log.statistics()

    # What left the block: the very object, never in a group.
    lost_note = ["trio_eventlog: EventsLost"] if case.reason else []
    if store_state == "bug":
        (error,) = errors
        assert EventLogBroken is type(error)
        assert bug is error.__cause__
        if raised is not None and body != "cancelled":
            assert raised is error.__context__
    elif raised is not None:
        assert [raised] == errors
        notes = getattr(raised, "__notes__", [])
        assert lost_note == [note[: len(lost_note[0])] for note in notes[:1]]
        if store_state == "unusable":
            assert "closed for ever" in notes[1]
    elif case.raises is None:
        assert errors == []
    elif store_state == "unusable":
        assert errors == [UNUSABLE]
    else:
        (error,) = errors
        assert isinstance(error, EventsLost)
        assert (error.count, error.first_seq, error.last_seq) == (10, 1, 10)
        assert {case.reason: 10} == error.by_reason

    # What is stored, what is reported, and the time it took.
    stored, lost = (EVENTS, []) if case.stored else ([], EVENTS)
    losses = [] if case.stored else [(case.reason, case.in_doubt, 10)]
    assert store.seqs == stored
    assert reports.lost == lost
    assert [(loss.reason, loss.in_doubt, loss.count) for loss in reports.losses] == losses
    assert seconds == pytest.approx(case.seconds, abs=1e-9)
    assert case.state == statistics.state
    assert statistics.pending == 0
    assert statistics.persisted + statistics.lost_total == 10


def _plant(bug: Exception, log: EventLog) -> None:
    """Make the next append of ``log`` hit a defect in the scheduler."""

    def broken(_left: int, _now: float) -> None:
        raise bug

    # The class has slots.
    log._core.sender.timer.scheduler = _Proxy(log._core.sender.timer.scheduler, broken)  # type: ignore[assignment]


class _Proxy:
    def __init__(self, inner: object, taken: object) -> None:
        self._inner = inner
        self.taken = taken

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


async def test_a_hung_store_and_an_outer_cancellation_take_exactly_the_grace_period(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However long the body goes on after it was cancelled, the grace period counts from its end."""
    store = FakeStore(otherwise=hang)
    with trio.CancelScope() as outer:
        async with open_event_log(store, grace_period=3.0, on_failure=Reports()) as log:
            log.ingest(numbered(1))
            outer.cancel(reason="test")
            try:
                await trio.lowlevel.checkpoint()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(7)
                assert log.ingest(numbered(2)) == 2

    assert trio.current_time() == 10.0
    assert outer.cancelled_caught


async def test_a_cancelled_body_may_ingest_in_its_finally(autojump_clock: trio.testing.MockClock) -> None:
    """Events ingested while the body unwinds are stored, though the scope around it is cancelled."""
    store = FakeStore()
    with trio.CancelScope() as outer:
        async with open_event_log(store) as log:
            try:
                outer.cancel(reason="test")
                await trio.sleep(1)
            finally:
                log.ingest(numbered(1))

    assert store.seqs == [1]
    assert outer.cancelled_caught


async def test_a_grace_period_of_zero_drains_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing is appended after the body; what is left is lost, and certainly not stored."""
    store, reports = FakeStore(), Reports()
    with pytest.raises(EventsLost):
        async with open_event_log(store, grace_period=0, on_failure=reports) as log:
            log.ingest(numbered(1))

    assert store.seqs == []
    assert [(loss.reason, loss.in_doubt) for loss in reports.losses] == [(LossReason.SHUTDOWN, False)]


async def test_a_bug_of_ours_cancels_the_body(autojump_clock: trio.testing.MockClock) -> None:
    """The body does not wait for ever for a log that broke, and what it still ingests is reported."""
    store, reports, bug = FakeStore(), Reports(), OurBugError()
    with pytest.raises(EventLogBroken) as caught_error:
        async with open_event_log(store, on_failure=reports) as log:
            _plant(bug, log)
            log.ingest(numbered(1))
            try:
                await trio.sleep_forever()
            finally:
                log.ingest(numbered(2))

    assert bug is caught_error.value.__cause__
    assert reports.lost == [1, 2]
    assert {LossReason.BROKEN} == {loss.reason for loss in reports.losses}
    assert log.statistics().state == LogState.BROKEN


async def test_an_error_of_the_body_is_the_context_of_our_bug(autojump_clock: trio.testing.MockClock) -> None:
    """Both are there to be read, and neither hides the other."""
    bug, own = OurBugError(), ValueError("of the body")
    with pytest.raises(EventLogBroken) as caught_error:
        async with open_event_log(FakeStore(), on_failure=Reports()) as log:
            _plant(bug, log)
            log.ingest(numbered(1))
            try:
                await trio.sleep_forever()
            finally:
                raise own

    assert bug is caught_error.value.__cause__
    assert own is caught_error.value.__context__


def test_keyboard_interrupt_in_the_drain_ends_it_now() -> None:
    """A second Ctrl-C does not wait for a hung store; the interrupt leaves bare, the loss is reported."""
    reports = Reports()

    async def interrupt(_store: FakeStore, _events: object) -> tuple[()]:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()
        return ()

    async def main() -> float:
        store = FakeStore(otherwise=interrupt)
        with caught() as errors:
            async with open_event_log(store, grace_period=1000, on_failure=reports) as log:
                log.ingest(numbered(1))
        (error,) = errors
        assert KeyboardInterrupt is type(error)
        assert "1 event lost" in error.__notes__[0]
        assert [(loss.reason, loss.in_doubt) for loss in reports.losses] == [(LossReason.SHUTDOWN, True)]
        return trio.current_time()

    clock = trio.testing.MockClock(autojump_threshold=0)
    assert trio.run(main, clock=clock) == 0


def test_keyboard_interrupt_in_the_drain_has_the_error_of_the_body_as_context() -> None:
    """Neither of the two is forgotten."""
    own = ValueError("of the body")

    async def interrupt(_store: FakeStore, _events: object) -> tuple[()]:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()
        return ()

    async def main() -> None:
        with caught() as errors:
            async with open_event_log(FakeStore(otherwise=interrupt), on_failure=Reports()) as log:
                log.ingest(numbered(1))
                raise own
        (error,) = errors
        assert KeyboardInterrupt is type(error)
        assert own is error.__context__

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_keyboard_interrupt_raised_by_a_store_leaves_bare(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It cancels the body and comes out as itself; what was pending is reported."""
    reports, interrupt = Reports(), KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught_error:
        async with open_event_log(FakeStore(otherwise=fail_with(interrupt)), on_failure=reports) as log:
            log.ingest(numbered(1))
            await trio.sleep_forever()

    assert interrupt is caught_error.value
    assert reports.lost == [1]
    assert log.statistics().state == LogState.CLOSED


async def test_entering_cancelled_opens_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Entering is a checkpoint; cancelled there, the store is free for the next log at once."""
    store = FakeStore()
    with trio.CancelScope() as scope:
        scope.cancel(reason="test")
        async with open_event_log(store):
            pytest.fail("entered although cancelled")

    assert scope.cancelled_caught
    async with open_event_log(store):
        pass


async def test_an_error_of_last_seq_comes_out_unchanged(autojump_clock: trio.testing.MockClock) -> None:
    """The store is asked once, before the body; what it raises is the caller's to see."""
    error = StoreUnusable("gone")

    class Gone(FakeStore):
        async def last_seq(self) -> int:
            await trio.lowlevel.checkpoint()
            raise error

    with pytest.raises(StoreUnusable) as caught_error:
        async with open_event_log(Gone()):
            pytest.fail("entered without a last seq")

    assert error is caught_error.value


@pytest.mark.parametrize("error", [StopIteration(), StopAsyncIteration(), GeneratorExit(), SystemExit(3)])
async def test_exceptions_that_generators_treat_specially_pass(
    error: BaseException, autojump_clock: trio.testing.MockClock
) -> None:
    """A context manager made of a generator must not turn them into something else."""
    store = FakeStore()
    with caught() as errors:
        async with open_event_log(store) as log:
            log.ingest(numbered(1))
            raise error

    assert [error] == errors
    assert store.seqs == [1]


async def test_a_crash_of_a_sibling_task_in_the_bodys_nursery_passes_as_its_group(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The group is the one of the body's own nursery, not one level deeper."""
    group: BaseException | None = None

    async def crash() -> None:
        msg = "of a task"
        raise ValueError(msg)

    with pytest.raises(ExceptionGroup) as caught_error:  # noqa: ASYNC401 - its identity is asserted
        async with open_event_log(FakeStore()):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(crash)
                    await trio.sleep_forever()
            except BaseException as exc:
                group = exc
                raise

    assert group is caught_error.value


async def test_a_store_that_reacts_slowly_to_cancellation_is_joined(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """No task of ours outlives the block, whatever its store does with a cancellation."""
    finished = False

    async def slow_to_stop(_store: FakeStore, _events: object) -> tuple[()]:
        nonlocal finished
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(0.5, shield=True):
                await trio.sleep_forever()
            finished = True
        return ()

    with pytest.raises(EventsLost):
        async with open_event_log(
            FakeStore(otherwise=slow_to_stop), grace_period=2, on_failure=Reports()
        ) as log:
            log.ingest(numbered(1))

    assert finished
    assert trio.current_time() == 2.5
