"""`StoreStateMachine` catches broken stores by their clause; its portal."""

import time

import pytest
import trio
from hypothesis import Phase, settings
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import run_state_machine_as_test

from tests._helpers.broken_stores import BROKEN
from tests._helpers.correct_stores import CorrectMemoryStore, open_file, open_memory, opened_memory
from trio_eventlog.testing import ClauseViolation, StoreStateMachine
from trio_eventlog.testing._portal import Portal, PortalStuck

BY_NAME = {broken.name: broken for broken in BROKEN}
# One run each: which clause is found is the point, not the shortest way there.
SETTINGS = settings(
    max_examples=300, stateful_step_count=25, derandomize=True, database=None, phases=[Phase.generate]
)


def machine_of(opener, *, durable=False):
    class Machine(StoreStateMachine):
        kills = False
        op_timeout = 1.0

        def open_store(self, location):
            return opener(location)

    Machine.durable = durable
    return Machine


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        ("idempotent only between batches", "S1"),
        ("last write wins", "S7"),  # seen when it is read
        ("a taken seq is overwritten", "S3"),
        ("part stored if cancelled", "S4"),
        ("inclusive cursor", "S5"),
        ("limit before filter", "S5"),
        ("text cut at NUL", "S7"),
        ("last_seq is a count", "S9"),
        ("last_seq forgotten on reopen", "S9"),
    ],
)
def test_a_broken_store_is_caught(name, clause):
    broken = BY_NAME[name]

    with pytest.raises((ClauseViolation, FlakyFailure)) as caught:
        run_state_machine_as_test(machine_of(broken.open_store, durable=broken.durable), settings=SETTINGS)

    # What a cancelled append leaves depends on the clock: then Hypothesis reports what it saw in a group.
    error = caught.value
    found = error.exceptions[0] if isinstance(error, FlakyFailure) else error
    assert isinstance(found, ClauseViolation)
    assert found.clause in {clause, broken.clause, *broken.also}
    assert "async with open_store(location) as store:" in found.program


class KilledMachine(StoreStateMachine):
    """At the top level, so that another process finds it."""

    def open_store(self, location):
        return open_file(location)


class LosesOnAKill(StoreStateMachine):
    def open_store(self, location):
        return BY_NAME["last batch lost on a kill"].open_store(location)


def test_the_writer_is_killed():
    with pytest.raises(ClauseViolation) as caught:
        run_state_machine_as_test(LosesOnAKill, settings=SETTINGS)

    assert caught.value.clause == "S10"
    assert "os.kill(os.getpid(), signal.SIGKILL)" in caught.value.program


def test_correct_stores_survive():
    run_state_machine_as_test(machine_of(open_memory), settings=settings(SETTINGS, max_examples=5))
    run_state_machine_as_test(KilledMachine, settings=settings(SETTINGS, max_examples=3))


class Hangs(CorrectMemoryStore):
    async def last_seq(self):
        await trio.sleep_forever()


def test_a_store_that_hangs():
    machine = machine_of(lambda location: opened_memory(Hangs, location))
    machine.op_timeout = 0.1

    with pytest.raises(ClauseViolation, match=r"last_seq took longer than 0\.1 s"):
        run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=5))


# --- the portal -----------------------------------------------------------------------------------


@pytest.fixture
def portal():
    give_up = time.monotonic() + 30
    portal = Portal(patience=lambda: give_up - time.monotonic())
    yield portal
    portal.close()


def test_calls_share_one_run(portal):
    """What one has left running goes on during the next."""
    values = []

    async def count():
        while True:
            values.append(len(values))
            await trio.lowlevel.checkpoint()

    async def start():
        portal.nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        return trio.lowlevel.current_trio_token()

    first = portal.call(start)
    before = len(values)
    second = portal.call(trio.sleep, 0.01)

    assert second is None
    assert len(values) > before
    assert first is portal.call(start)


def test_what_a_call_raises_comes_out(portal):
    async def fail():
        await trio.lowlevel.checkpoint()
        raise KeyError

    with pytest.raises(KeyError):
        portal.call(fail)

    assert portal.call(trio.sleep, 0) is None


def test_closing_cancels_what_is_left_and_runs_the_last(portal):
    ended = []

    async def wait():
        try:
            await trio.sleep_forever()
        finally:
            ended.append("task")

    async def start():
        portal.nursery.start_soon(wait)
        await trio.lowlevel.checkpoint()

    async def last():
        await trio.lowlevel.checkpoint()
        ended.append("last")

    portal.call(start)
    portal.close(last)

    assert ended == ["task", "last"]


def test_patience_ends():
    """Also with a task that keeps Trio busy."""
    give_up = time.monotonic() + 30
    portal = Portal(patience=lambda: give_up - time.monotonic())

    async def spin():
        while not stop:  # noqa: ASYNC110 - it shall keep Trio busy
            await trio.lowlevel.checkpoint()

    stop = []
    give_up = time.monotonic() + 0.05
    with pytest.raises(PortalStuck):
        portal.call(spin)

    stop.append(True)
    give_up = time.monotonic() + 30
    portal.close()
