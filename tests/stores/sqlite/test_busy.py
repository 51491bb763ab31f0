"""Threads get their turn beside tasks that leave them little time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from tests._helpers.fakes import numbered
from trio_eventlog import EventQuery, open_event_log
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
    """Events are stored and read while the loop has no pause of its own."""
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
