"""One run of a program on a schedule, in virtual time.

Trio has no public way to choose the order of tasks. It has one for its own tests: a flag that sorts the tasks
of a round by age, and the generator that shuffles them then. Both are replaced for the length of a run, and
so is what starts a thread.
"""

from __future__ import annotations

import math
import random
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, Final

import attrs
import outcome
import trio
import trio._core._run as trio_run
import trio._threads as trio_threads
import trio.testing

from trio_eventlog.testing._schedules import Departure, Order, Plan, ScheduleError


class Deadlock(RuntimeError):
    """All tasks of a program wait, and nothing is left that could wake one of them."""


@attrs.frozen
class Run:
    """What became of a run."""

    error: BaseException | None
    departures: Sequence[Departure]
    choices: int
    widest: int
    way: int

    def is_same(self, other: Run) -> bool:
        """Whether the program went the same way, to the same end."""
        return (self.way, self.choices, kind_of(self.error)) == (
            other.way,
            other.choices,
            kind_of(other.error),
        )


def kind_of(error: BaseException | None) -> object:
    """What two errors have in common if they are the same failure: types, and where they were raised."""
    if error is None:
        return None
    if isinstance(error, BaseExceptionGroup):
        return frozenset(map(kind_of, error.exceptions))
    frames = traceback.extract_tb(error.__traceback__)
    return type(error), (frames[-1].filename, frames[-1].lineno) if frames else None


def run_on(plan: Plan, main: Callable[..., Awaitable[object]], args: Sequence[object]) -> Run:
    """Run ``main(*args)`` on a schedule.

    What it raises is in the result, but for KeyboardInterrupt and SystemExit, which are raised.
    """
    order = Order(plan)
    watch = _Watch()
    error: BaseException | None = None

    async def guarded() -> None:
        with watch.scope:
            await main(*args)

    # For its name.
    update_wrapper(guarded, main)
    with _in_charge(order):
        try:
            trio.run(guarded, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[watch])
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - Trio has ended; handed to the caller
            error = exc
    if _is_to_end(error):
        assert error is not None
        raise error
    if watch.found is not None:
        deadlock = Deadlock(watch.found)
        # What the tasks raised when they were cancelled, to end the run.
        deadlock.__cause__ = error
        error = deadlock
    if not order.rounds:
        raise _unknown_trio()
    return Run(error, order.departures, order.choices_made, order.widest, order.way)


def _is_to_end(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_to_end, error.exceptions))
    return isinstance(error, KeyboardInterrupt | SystemExit)


# --- Trio's insides -------------------------------------------------------------------------------

_one_at_a_time: Final = threading.Lock()


def _unknown_trio() -> ScheduleError:
    return ScheduleError(
        f"the order of tasks cannot be chosen: Trio {trio.__version__} does not schedule them as the versions"
        " do that trio_eventlog.testing knows"
    )


@contextmanager
def _in_charge(order: Order) -> Iterator[None]:
    """For the length of the block, ``order`` decides, and threads run at once."""
    patched: list[tuple[Any, str, object]] = [
        (trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        (trio_run, "_r", order),
        (trio_threads, "start_thread_soon", _at_once),
    ]
    known = all(hasattr(module, name) for module, name, _ in patched)
    if not known or not isinstance(trio_run._r, random.Random):
        raise _unknown_trio()
    if not _one_at_a_time.acquire(blocking=False):
        raise RuntimeError("another program is being explored in this process: one at a time")
    before = [getattr(module, name) for module, name, _ in patched]
    try:
        for module, name, value in patched:
            setattr(module, name, value)
        yield
    finally:
        for (module, name, _), value in zip(patched, before, strict=True):
            setattr(module, name, value)
        _one_at_a_time.release()


_start_thread_soon: Final = getattr(trio_threads, "start_thread_soon", None)


def _at_once(
    fn: Callable[[], Any], deliver: Callable[[outcome.Outcome[Any]], object], name: str | None = None
) -> None:
    """Do what a thread would, in Trio's own: the result comes through the queue of the loop as ever."""
    if not isinstance(trio_run._r, Order) or not trio_run._r.is_ours():
        assert _start_thread_soon is not None
        _start_thread_soon(fn, deliver, name)
        return
    deliver(outcome.capture(fn))


# --- deadlocks ------------------------------------------------------------------------------------

_IDLE_ROUNDS: Final = 20
"""Rounds in which no task took a step until that is looked into. Virtual time jumps in one or two."""


class _Watch(trio.abc.Instrument):
    """Ends a run in which nothing will happen any more."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.found: str | None = None
        self._idle = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's signature
        """A task is about to run."""
        self._idle = 0

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - as above
        """Trio is about to look for I/O."""
        self._idle += 1
        if self._idle < _IDLE_ROUNDS:
            return
        self._idle = 0
        now = trio.lowlevel.current_statistics()
        if (
            now.tasks_runnable
            or now.run_sync_soon_queue_size
            or now.seconds_to_next_deadline < math.inf
            or _waits_for_io(now.io_statistics)
        ):
            return
        if self.found is None:
            self.found = f"every task waits, and nothing can wake one: {', '.join(map(_where, _tasks()))}"
            self.scope.cancel()
        else:
            # They are shielded. Nobody else will wake them.
            for task in _tasks():
                if not any(nursery.child_tasks for nursery in task.child_nurseries):
                    trio.lowlevel.reschedule(task, outcome.Error(Deadlock(self.found)))


def _waits_for_io(statistics: Any) -> bool:
    # One task of Trio's own waits for what wakes the loop. Where nothing is known, there may be others.
    return (
        getattr(statistics, "tasks_waiting_read", 2) > 1 or getattr(statistics, "tasks_waiting_write", 0) > 0
    )


def _tasks() -> list[trio.lowlevel.Task]:
    """The tasks of the program."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    # The first nursery of the root has the tasks of the system, of which one is the program.
    found: list[trio.lowlevel.Task] = []
    pending = [root]
    while pending:
        task = pending.pop()
        children = sorted(
            (child for nursery in task.child_nurseries for child in nursery.child_tasks),
            key=lambda child: child.name,
        )
        pending += children
        found.append(task)
    return [task for task in found if task is not root and "TrioToken.run_sync_soon" not in task.name]


def _where(task: trio.lowlevel.Task) -> str:
    frames = [
        f"{frame.f_code.co_filename.rpartition('/')[2]}:{line}"
        for frame, line in task.iter_await_frames()
        if "/trio/" not in frame.f_code.co_filename
    ]
    return f"{task.name} ({frames[-1]})" if frames else task.name
