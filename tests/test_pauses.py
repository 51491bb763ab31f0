"""Threads get their turn beside tasks that would leave them none."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path

import pytest
import trio

import trio_eventlog
from tests._helpers.fakes import numbered
from trio_eventlog import EventQuery, _pauses, open_event_log
from trio_eventlog._threads import run_sync
from trio_eventlog.stores import SqliteStore


async def never_pause() -> None:
    """Keep the loop busy, in steps that are too short for a thread to ask for its turn."""
    while True:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        await trio.lowlevel.checkpoint()


def wait_for_the_interpreter(times: int) -> None:
    """Let go of it, and want it back."""
    for _ in range(times):
        time.sleep(0)


async def test_a_busy_program_does_not_starve_a_thread() -> None:
    """Whether it would without help depends on the system's scheduler."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(never_pause)
            await run_sync(partial(wait_for_the_interpreter, 100))
            nursery.cancel_scope.cancel(reason="test")


@pytest.mark.parametrize("spill", [False, True])
async def test_a_busy_program_does_not_starve_the_store(tmp_path: Path, spill: bool) -> None:
    """A store is opened and closed, and events stored and read, while the loop has no pause of its own."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(never_pause)
            async with (
                SqliteStore.open(tmp_path / "events.db") as store,
                open_event_log(
                    store, retry_buffer_cap=10_000, spill=tmp_path / "log.spill" if spill else None
                ) as log,
            ):
                for number in range(10_000):
                    log.ingest(numbered(number))
                await log.flush()
                assert len(await log.query(EventQuery())) == 10_000
            nursery.cancel_scope.cancel(reason="test")


async def test_the_loop_pauses_only_while_a_task_waits() -> None:
    """However the others have ended."""

    def is_pausing() -> bool:
        try:
            return _pauses._pauses.get()._waiting > 0
        except LookupError:
            return False

    async def wait(seconds: float, *, fails: bool = False) -> None:
        with _pauses.pausing():
            await trio.sleep(seconds)
            assert is_pausing()
            if fails:
                raise ValueError

    assert not is_pausing()
    for _ in range(2):
        with pytest.RaisesGroup(ValueError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, 0)
                nursery.start_soon(wait, 0.01)
                nursery.start_soon(partial(wait, 0.01, fails=True))
        assert not is_pausing()
    # Trio refuses to add an instrument twice; to remove one that is not there is an error.
    with pytest.raises(KeyError):
        trio.lowlevel.remove_instrument(_pauses._pauses.get())


class Clock:
    """The clock of the pauses, and how often they slept."""

    now = 0.0
    slept = 0

    def sleep(self, _seconds: float) -> None:
        self.slept += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_pauses, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(_pauses, "sleep", clock.sleep)
    return clock


def test_pauses_are_for_loops_without_one(clock: Clock) -> None:
    """There is none if the loop waits anyway, and at most one in 2 ms."""
    pauses = _pauses._Pauses()
    for timeout, moment, expected in (
        (0.0, 0.001, 0),
        (0.0, 0.003, 1),
        (0.0, 0.004, 1),
        (1.0, 0.010, 1),
        (0.0, 0.010, 2),
        (0.0, 0.0119, 2),
        (-1.0, 0.013, 3),
    ):
        clock.now = moment
        pauses.before_io_wait(timeout)
        assert clock.slept == expected


def test_a_loop_that_has_just_waited_does_not_pause(clock: Clock) -> None:
    """What it waits for may be what woke it. But a look for I/O that is there at once lets no thread run."""
    pauses = _pauses._Pauses()
    for waited, expected in ((0.01, 0), (0.0, 0), (0.00001, 0), (0.0001, 0)):
        pauses.before_io_wait(1.0)
        clock.now += waited
        pauses.after_io_wait(1.0)
        pauses.before_io_wait(0.0)
        assert clock.slept == expected
    for _ in range(1000):
        pauses.before_io_wait(1.0)
        clock.now += 0.00001
        pauses.after_io_wait(1.0)
        pauses.before_io_wait(0.0)
    assert clock.slept in {4, 5}  # one in 2 ms, for 10 ms


async def test_trio_knows_what_it_must_call() -> None:
    """The names that an instrument lists are those of its hooks."""
    hooks = {name for name in vars(_pauses._Pauses) if hasattr(trio.abc.Instrument, name)}
    assert set(dir(_pauses._Pauses())) == {name for name in hooks if not name.startswith("_")}


def test_no_part_of_a_log_waits_for_a_thread_without_help() -> None:
    """Loops of commands and of the harness have nothing else to do, so these may."""
    package = Path(trio_eventlog.__file__).parent
    waiting = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if re.search(r"await trio\.to_thread\.run_sync", file.read_text(encoding="utf-8"))
    }
    assert {name for name in waiting if not name.startswith(("cli/", "testing/"))} == {"_threads.py"}
