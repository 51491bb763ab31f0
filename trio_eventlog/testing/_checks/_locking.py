"""S13: a log has one appender at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trio_eventlog.testing._checks._common import DURABLE, once, plain
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._open_store import opened
from trio_eventlog.testing._processes import (
    held_elsewhere,
    last_line,
    opener_source,
    run_to_its_end,
    wait_until_free,
)
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreOpener


async def open_once_more(open_store: StoreOpener, location: Path) -> Exception | None:
    """Open the store a second time, and return what that raises."""
    try:
        async with open_store(location):
            return None
    except Exception as exc:  # noqa: BLE001 - returned
        return exc


async def _refused(example: Example, where: str) -> None:
    """Open the store once more; it must be refused with LogBusy."""
    program = example.program
    program.define(open_once_more)
    program.add("error = await open_once_more(open_store, location)")
    what = "opening the store a second time"
    error = await example.limited(what, open_once_more, example.subject.open_store, example.location)
    program.variables["error"] = error
    how = "a second appender could open the log" if error is None else f"opening the log raised {error!r}"
    example.check("isinstance(error, LogBusy)", f"{where}, {how}; expected LogBusy")


async def _try_second_appender(example: Example, _case: None) -> None:
    async with opened(example) as store:
        await store.append([plain(1)])
        # Twice: being refused must not free what another holds.
        await _refused(example, "while this process has it open")
        await _refused(example, "while this process has it open, after one that was refused")
        await store.append([plain(2)])
        await store.query()
    async with opened(example) as store:
        await store.query()


async def _try_other_process(example: Example, _case: None) -> None:
    async with opened(example) as store:
        await store.append([plain(1)])
        await _refused(example, "while this process has it open")
        result = await run_to_its_end(example, opener_source(example))
        could = result.stdout.startswith(b"opened")
        example.check(
            "result.stdout == b'busy\\n'",
            "while this process has it open, another could open the log; expected LogBusy"
            if could
            else f"while this process has it open, opening it in another failed: {last_line(result.stderr)}",
        )
        await store.append([plain(2)])


async def _try_killed_holder(example: Example, _case: None) -> None:
    async with held_elsewhere(example):
        await _refused(example, "while another process has it open")
    await wait_until_free(example)
    # A lock that outlives its process shows here.
    async with opened(example) as store:
        await store.append([plain(1)])


_LOCKED: Final = DURABLE | {"lock"}

CHECKS: tuple[Check, ...] = (
    Check(
        clause="S13", name="a second appender", cases=once, run=_try_second_appender, fixed=1, needs=_LOCKED
    ),
    Check(
        clause="S13",
        name="a second appender in another process",
        cases=once,
        run=_try_other_process,
        fixed=1,
        needs=_LOCKED | {"children"},
    ),
    Check(
        clause="S13",
        name="an appender that is killed",
        cases=once,
        run=_try_killed_holder,
        fixed=1,
        needs=_LOCKED | {"children"},
    ),
)
