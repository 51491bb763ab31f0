"""Threads get their turn, beside tasks that would leave them none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from tests._helpers.fakes import numbered
from trio_eventlog import EventQuery, open_event_log
from trio_eventlog._handover import _Pauses, giving_way
from trio_eventlog.stores import SqliteStore


async def never_pause() -> None:
    """Keep the loop busy, in steps that are too short for a thread to ask for its turn."""
    while True:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("spill", [False, True])
async def test_a_busy_program_does_not_starve_the_store(tmp_path: Path, spill: bool) -> None:
    """Events are stored and read while the loop has no pause of its own. Without help: never."""
    with trio.fail_after(30):
        async with SqliteStore.open(tmp_path / "events.db") as store, trio.open_nursery() as nursery:
            nursery.start_soon(never_pause)
            async with open_event_log(
                store, retry_buffer_cap=10_000, spill=tmp_path / "log.spill" if spill else None
            ) as log:
                for number in range(10_000):
                    log.ingest(numbered(number))
                await log.flush()
                assert len(await log.query(EventQuery())) == 10_000
            nursery.cancel_scope.cancel(reason="test")


async def test_an_idle_program_is_not_touched() -> None:
    """Who waits for nobody has no instrument, whatever became of those who waited."""
    waits = 0

    class Waits(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal waits
            waits += 1

    async def wait(error: bool) -> None:
        with giving_way():
            await trio.sleep(0.01)
            if error:
                raise ValueError

    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, False)
            nursery.start_soon(wait, True)
            nursery.start_soon(wait, False)
    with giving_way():
        pass
    instrument = Waits()
    trio.lowlevel.add_instrument(instrument)
    with giving_way():
        await trio.sleep(0.01)
    trio.lowlevel.remove_instrument(instrument)
    assert waits


def test_pauses_are_for_loops_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not if the loop waits anyway, and not more often than every 2 ms."""
    now, slept = 0.0, 0
    pauses = _Pauses()

    def sleep(_seconds: float) -> None:
        nonlocal slept
        slept += 1

    monkeypatch.setattr("trio_eventlog._handover.perf_counter", lambda: now)
    monkeypatch.setattr("trio_eventlog._handover.sleep", sleep)
    for timeout, moment, expected in (
        (0.0, 0.001, 0),
        (0.0, 0.003, 1),
        (0.0, 0.004, 1),
        (1.0, 0.010, 1),
        (0.0, 0.010, 2),
        (0.0, 0.0119, 2),
        (-1.0, 0.013, 3),
    ):
        now = moment
        pauses.before_io_wait(timeout)
        assert slept == expected
