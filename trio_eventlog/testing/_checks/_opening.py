"""S13 to S15: one appender at a time, logs of their own, and leaving the store."""

from __future__ import annotations

import gc
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.testing._checks._common import DURABLE, once, plain
from trio_eventlog.testing._example import Example, contains
from trio_eventlog.testing._model import Model
from trio_eventlog.testing._open_store import opened
from trio_eventlog.testing._processes import (
    held_elsewhere,
    last_line,
    opener_source,
    run_to_its_end,
    wait_until_free,
)
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreOpener, StoreUnderTest


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


@attrs.frozen
class TwoLogs:
    """What two logs get, in turns."""

    turns: tuple[tuple[int, int, str], ...]
    """Which log, which seq, which id."""


def _two_logs(_subject: StoreUnderTest) -> SearchStrategy[TwoLogs]:
    ids: SearchStrategy[str] = st.sampled_from(("x", "y", "z"))
    turns = st.lists(st.tuples(st.integers(0, 1), ids), min_size=2, max_size=6, unique=True)
    return turns.map(_numbered)


def _numbered(turns: Sequence[tuple[int, str]]) -> TwoLogs:
    """With the seqs of each log from 1 on, so that they meet those of the other."""
    numbered: list[tuple[int, int, str]] = []
    for log, event_id in turns:
        numbered.append((log, 1 + sum(log == other for other, _, _ in numbered), event_id))
    return TwoLogs(tuple(numbered))


async def _try_two_logs(example: Example, case: TwoLogs) -> None:
    sibling = example.sibling()
    async with (
        opened(example, name="first") as first,
        opened(example, location=sibling, name="second") as second,
    ):
        second.model = Model()
        stores = (first, second)
        for log, seq, event_id in case.turns:
            event = PersistedEvent(
                event_id, seq, 1_000, None, ModuleEvent("m", f"log-{log}", {"run_id": "r"})
            )
            await stores[log].append([event], returns=True)
        for store in stores:
            await store.query(values=True)
            await store.query(EventQuery(run_id="r"), values=True)
            await store.last_seq()


# --- leaving and opening again --------------------------------------------------------------------


async def leave_normally(open_store: StoreOpener, location: Path, events: list[PersistedEvent]) -> None:
    """Append and leave the store."""
    async with open_store(location) as store:
        await store.append_batch(events[:1])


async def leave_by_an_error(open_store: StoreOpener, location: Path, events: list[PersistedEvent]) -> None:
    """Append and leave the store by an error, which must come out, in a group or not."""
    error = RuntimeError("the body failed")
    try:
        async with open_store(location) as store:
            await store.append_batch(events[:1])
            raise error  # noqa: TRY301 - what is tested
    except Exception as exc:
        if not contains(exc, error):
            raise
    else:
        raise AssertionError(f"leaving the store by an error swallowed {error!r}")


async def leave_cancelled(open_store: StoreOpener, location: Path, events: list[PersistedEvent]) -> None:
    """Append and leave the store cancelled."""
    with trio.CancelScope() as scope:
        async with open_store(location) as store:
            await store.append_batch(events[:1])
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught, "leaving the store cancelled swallowed Cancelled"


async def leave_in_an_append(open_store: StoreOpener, location: Path, events: list[PersistedEvent]) -> None:
    """Append twice, and leave the store cancelled during the second, if that takes a while."""
    with trio.CancelScope() as scope:
        async with open_store(location) as store:
            await store.append_batch(events[:1])
            scope.deadline = trio.current_time() + 0.002
            with suppress(Exception):
                await store.append_batch(events[1:])
            await trio.sleep_forever()
    assert scope.cancelled_caught, "leaving the store cancelled in an append swallowed Cancelled"


_Way = Callable[[StoreOpener, Path, list[PersistedEvent]], Awaitable[None]]

_WAYS: Final[dict[str, _Way]] = {
    "normally": leave_normally,
    "by an error": leave_by_an_error,
    "cancelled": leave_cancelled,
    "cancelled in an append": leave_in_an_append,
}


def _ways(_subject: StoreUnderTest) -> SearchStrategy[str]:
    return st.sampled_from(list(_WAYS))


async def _try_leaving(example: Example, way: str) -> None:
    if way == "by an error":
        example.program.define(contains)
    for seq in (1, 3):
        events = [plain(seq), plain(seq + 1)]
        await example.run(f"leaving the store {way}", _WAYS[way], "open_store", "location", values=[events])
    # It can be opened again at once.
    async with opened(example) as store:
        if not example.subject.durable:
            store.model = example.model = Model()
        await store.found()
        example.program.assign("before", "found")
        await example.sleep(0.05)
        await store.found()
        example.perform(
            "assert_same_events(found, before)",
            failure=lambda exc: f"an append from before landed after opening again: {exc}",
        )
        await store.append([plain(9)])


# --- leaks ----------------------------------------------------------------------------------------


def open_descriptors() -> int:
    """The number of open file descriptors; 0 where that cannot be known."""
    for directory in (Path("/proc/self/fd"), Path("/dev/fd")):
        if directory.is_dir():
            return sum(1 for _ in directory.iterdir())
    return 0


async def check_leaks(open_store: StoreOpener, location: Path, cancelled: bool) -> None:
    """Open and leave the store seven times, and check that no thread and no descriptor is left each time."""
    counts = []
    for seq in range(1, 8):
        with trio.CancelScope() as scope:
            async with open_store(location) as store:
                await store.append_batch([PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", "t"))])
                if cancelled:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        # The first rounds may start what is kept for the whole process, such as Trio's worker threads.
        if seq in (2, 7):
            # What hangs in a cycle is not freed by leaving, but is not a leak either.
            gc.collect()
            counts.append((threading.active_count(), open_descriptors()))
    for before, after, what in zip(*counts, ("threads", "file descriptors"), strict=True):
        left = f"opening and leaving the store 5 times left {after - before} more {what}"
        assert after - before < 5, left  # noqa: PLR2004 - 5 times


def _cancelled_or_not(_subject: StoreUnderTest) -> SearchStrategy[bool]:
    return st.booleans()


async def _try_leaks(example: Example, cancelled: bool) -> None:
    example.program.define(open_descriptors)
    await example.run(
        "opening and leaving the store",
        check_leaks,
        "open_store",
        "location",
        values=[cancelled],
        expected_seconds=example.subject.op_timeout,
    )


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
    Check(clause="S14", name="two logs", cases=_two_logs, run=_try_two_logs, share=0.5),
    Check(clause="S15", name="leaving and opening again", cases=_ways, run=_try_leaving, fixed=4),
    Check(clause="S15", name="leaks", cases=_cancelled_or_not, run=_try_leaks, fixed=2, confirm=2),
)
