"""What the flight recorder costs: a task that is begun, and a step of one, with it and without.

``python benchmarks/recorder.py``. Runs of each kind take turns; medians of seven are printed, and ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import trio

from trio_eventlog import EventLog, open_event_log
from trio_eventlog.recorder import record_tasks
from trio_eventlog.stores import NullStore

TASKS = 2_000
STEPS = 20_000
ROUNDS = 7

Recording = Callable[[EventLog], AbstractContextManager[Any]]

KINDS: dict[str, Recording] = {
    "no recorder": lambda _log: nullcontext(),
    "recorder, slow_step=None": partial(record_tasks, slow_step=None, max_rate=1e9),
    "recorder": partial(record_tasks, max_rate=1e9),
}


async def spawn() -> None:
    """Begin and end tasks, one after another."""
    for _ in range(TASKS):
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - it is what is measured
            nursery.start_soon(trio.lowlevel.checkpoint)


async def step() -> None:
    """One task, many steps."""
    for _ in range(STEPS):
        await trio.lowlevel.checkpoint()


async def timed(recording: Recording) -> tuple[float, float]:
    """Microseconds for a task and for a step."""
    async with open_event_log(NullStore(), retry_buffer_cap=100_000) as log:
        with recording(log):
            start = time.perf_counter()
            await spawn()
            between = time.perf_counter()
            await step()
            end = time.perf_counter()
    return (between - start) / TASKS * 1e6, (end - between) / STEPS * 1e6


def main() -> None:
    """Measure and print."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    for _ in range(ROUNDS):
        for name, recording in KINDS.items():
            figures[name].append(trio.run(timed, recording))
    medians = {
        name: tuple(statistics.median(values) for values in zip(*runs, strict=True))
        for name, runs in figures.items()
    }
    base = medians["no recorder"]
    for name, (task, one_step) in medians.items():
        print(
            f"{name:26} task {task:6.1f} us ({task / base[0]:.2f} x)   step {one_step:5.2f} us"
            f" ({one_step / base[1]:.2f} x)"
        )


if __name__ == "__main__":
    main()
