"""S15: leaving the store frees everything, however it is left."""

from __future__ import annotations

import gc
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from trio_eventlog import ModuleEvent, PersistedEvent
from trio_eventlog.testing._checks._common import plain
from trio_eventlog.testing._example import Example, contains
from trio_eventlog.testing._model import Model
from trio_eventlog.testing._open_store import opened
from trio_eventlog.testing._search import Check
from trio_eventlog.testing._subject import StoreOpener, StoreUnderTest

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
    Check(clause="S15", name="leaving and opening again", cases=_ways, run=_try_leaving, fixed=4),
    Check(clause="S15", name="leaks", cases=_cancelled_or_not, run=_try_leaks, fixed=2, confirm=2),
)
