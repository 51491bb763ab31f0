"""A flight recorder for Trio: the life of a program's tasks, as events of a log.

Trio tells an *instrument* when a task begins, when it ends, and when it has run for a moment. The recorder
makes a :class:`ModuleEvent` of module ``"trio"`` of what matters of that:

===================== ==============================================================================
event type            payload, in addition to ``run_id``
===================== ==============================================================================
``recording_started`` ``slow_step``: seconds, or null
``task_spawned``      ``task``: its number; ``name``; ``parent``: the number of the task that has opened
                      its nursery, or of the nearest recorded one above, or null; ``nursery``: the
                      number of that nursery; ``at_start``: true, if it was there before the recording
``task_exited``       ``task``; ``name``; ``seconds`` that it lived (since the recording began, if it
                      was there before); ``cancelled``: whether by then its nursery or one around it
                      was cancelled, by an error of the task itself for example
``task_step_slow``    ``task``; ``name``; ``seconds`` that it kept all others waiting
``tasks_suppressed``  ``count`` of records that the bound on their rate or an error kept out
``recording_stopped`` ``running``: tasks that are recorded and have not ended; ``suppressed``: in all
===================== ==============================================================================

What Trio does not tell cannot be recorded: whether a task ended with an error, and which one.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import attrs
import trio

from trio_eventlog import EventLog, ModuleEvent

__all__ = ["MODULE", "TaskFilter", "TaskRecorder", "record_tasks"]


def __dir__() -> list[str]:
    # What is imported for the module's own use is not offered by completion.
    return __all__


MODULE: Final = "trio"
"""The module of the events."""

TaskFilter: TypeAlias = Callable[[trio.lowlevel.Task], bool]
"""Whether to record a task; called once, when the task starts."""

_logger: Final = logging.getLogger("trio_eventlog")

_MAX_NAME: Final = 200


@attrs.define(eq=False)
class _Recorded:
    """A task that was recorded and lives."""

    number: int
    name: str
    since: float


class TaskRecorder(trio.abc.Instrument):
    """Records tasks; what :func:`record_tasks` yields.

    Attributes:
      run_id: the ``run_id`` of all events of this recording.
    """

    run_id: str

    def __init__(
        self, log: EventLog, run_id: str, task_filter: TaskFilter | None, max_rate: float, slow_step: float
    ) -> None:
        self.run_id = run_id
        self._log = log
        self._filter = task_filter
        self._max_rate = max_rate
        self._slow_step = slow_step
        self._tokens = max(max_rate, 1.0)
        self._tokens_at = trio.current_time()
        self._tasks: dict[trio.lowlevel.Task, _Recorded] = {}
        self._nurseries: WeakKeyDictionary[trio.Nursery, int] = WeakKeyDictionary()
        self._last_task = self._last_nursery = 0
        self._suppressed = self._untold = 0
        self._is_over = False
        self._has_complained = False

    @property
    def suppressed(self) -> int:
        """Records that the bound on their rate or an error kept out."""
        return self._suppressed

    # --- what Trio tells --------------------------------------------------------------------------

    # Trio would take a KeyboardInterrupt in here for a defect, and go on without the recorder.
    @trio.lowlevel.enable_ki_protection
    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Of Trio: a task begins."""
        self._spawned(task, at_start=False)

    @trio.lowlevel.enable_ki_protection
    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Of Trio: a task has ended."""
        recorded = self._tasks.pop(task, None)
        if recorded is not None:
            self._tell(
                "task_exited",
                task=recorded.number,
                name=recorded.name,
                seconds=trio.current_time() - recorded.since,
                cancelled=_is_cancelled(task.parent_nursery),
            )

    def _spawned(self, task: trio.lowlevel.Task, *, at_start: bool) -> None:
        if self._is_over or not self._is_wanted(task) or not self._may_record():
            return
        parent, nursery = self._place_of(task)
        self._last_task += 1
        name = _shown(task.name)
        recorded = _Recorded(self._last_task, name, trio.current_time())
        more = {"at_start": True} if at_start else {}
        if self._tell(
            "task_spawned", task=recorded.number, name=name, parent=parent, nursery=nursery, **more
        ):
            self._tasks[task] = recorded

    def _is_wanted(self, task: trio.lowlevel.Task) -> bool:
        if self._log.owns_task(task):
            return False
        if self._filter is None:
            return True
        try:
            return bool(self._filter(task))
        except Exception as exc:  # noqa: BLE001 - of the program; Trio would end the recording
            self._complain("the filter of a task recorder raised; the task is recorded", exc)
            return True

    def _may_record(self) -> bool:
        now = trio.current_time()
        tokens = min(max(self._max_rate, 1.0), self._tokens + (now - self._tokens_at) * self._max_rate)
        self._tokens_at = now
        if tokens < 1:
            self._tokens = tokens
            self._suppress()
            return False
        self._tokens = tokens - 1
        return True

    def _suppress(self) -> None:
        self._suppressed += 1
        self._untold += 1

    def _place_of(self, task: trio.lowlevel.Task) -> tuple[int | None, int]:
        """The numbers of the nearest recorded task above, and of the nursery of ``task``."""
        nursery = above = task.parent_nursery
        parent = None
        while above is not None and parent is None:
            parent = self._tasks.get(above.parent_task)
            above = above.parent_task.parent_nursery
        assert nursery is not None, "all tasks but Trio's own first one have a nursery"
        if nursery not in self._nurseries:
            self._last_nursery += 1
            self._nurseries[nursery] = self._last_nursery
        return None if parent is None else parent.number, self._nurseries[nursery]

    # --- beginning and end ------------------------------------------------------------------------

    def _start(self) -> None:
        self._tell("recording_started", slow_step=None if self._slow_step == math.inf else self._slow_step)
        root = trio.lowlevel.current_root_task()
        assert root is not None, "there is one in every run"
        found = [root]
        while found:
            task = found.pop()
            above = task.parent_nursery
            # Trio's own first task has no nursery; it and its helpers are Trio's business.
            if above is not None and not (above.parent_task is root and task.name.startswith("<")):
                self._spawned(task, at_start=True)
            for nursery in reversed(task.child_nurseries):
                found.extend(sorted(nursery.child_tasks, key=attrgetter("name"), reverse=True))

    def _stop(self) -> None:
        self._tell("recording_stopped", running=len(self._tasks), suppressed=self._suppressed)
        self._is_over = True
        self._tasks.clear()

    # --- into the log -----------------------------------------------------------------------------

    def _tell(self, event_type: str, **payload: Any) -> bool:
        """Ingest a record; return whether it was taken."""
        if self._is_over:
            return False
        if self._untold and event_type != "tasks_suppressed":
            count, self._untold = self._untold, 0
            if not self._tell("tasks_suppressed", count=count):
                self._untold += count
        try:
            self._log.ingest(ModuleEvent(MODULE, event_type, {"run_id": self.run_id, **payload}))
        except trio.ClosedResourceError:
            # There is nothing to record into.
            self._is_over = True
            return False
        except Exception as exc:  # noqa: BLE001 - of the filter of the log; Trio would end the recording
            self._suppress()
            self._complain("a task could not be recorded", exc)
            return False
        return True

    def _complain(self, message: str, error: Exception) -> None:
        if not self._has_complained:
            self._has_complained = True
            _logger.error(message, exc_info=error)


class _StepRecorder(TaskRecorder):
    """Looks at every step of every task, which costs, and so is a class of its own."""

    _since = math.inf
    _running: _Recorded | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Of Trio: a task runs."""
        # Now, since one that ends in this step is no longer among them afterwards.
        self._running = self._tasks.get(task)
        self._since = trio.current_time()

    @trio.lowlevel.enable_ki_protection
    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's
        """Of Trio: a task waits, or has ended."""
        seconds = trio.current_time() - self._since
        running, self._running = self._running, None
        if seconds >= self._slow_step and running is not None and self._may_record():
            self._tell("task_step_slow", task=running.number, name=running.name, seconds=seconds)


@contextmanager
def record_tasks(
    log: EventLog,
    *,
    filter: TaskFilter | None = None,  # noqa: A002 - the word that a caller expects
    slow_step: float | None = 0.1,
    max_rate: float = 1000.0,
    run_id: str | None = None,
) -> Iterator[TaskRecorder]:
    """Record the tasks of this Trio run, for the length of a ``with`` block.

    ::

        async with SqliteStore.open("events.db") as store, open_event_log(store) as log:
            with record_tasks(log):
                await main()

    Records every task that begins in the run, wherever, and those that are there at the start; never those of
    ``log`` itself. Afterwards ``trio-eventlog tasks --store sqlite:events.db`` prints them as a tree. Leave
    the block before that of the log. Neither entering nor leaving is a checkpoint.

    Args:
      log: where the records go.
      filter: called with a task that begins; false keeps it out. What its children do is recorded all the
        same. It must be quick; if it raises, the task is recorded, and the logger ``trio_eventlog`` is told
        once.
      slow_step: seconds, more than 0; a task that runs for that long without a checkpoint is recorded. None:
        do not look, which makes the recording cheaper.
      max_rate: most records a second, of tasks that begin and of slow steps; that many may come at once. What
        is beyond is counted. A task that was recorded as begun is recorded as ended in any case. More than 0;
        ``math.inf`` for no bound.
      run_id: the ``run_id`` of the events; by default a new one.

    Raises:
      TypeError, ValueError: an argument is not as described.
      RuntimeError: not called in a Trio run.
    """
    make: type[TaskRecorder] = _StepRecorder
    if slow_step is None:
        make, slow_step = TaskRecorder, math.inf
    for name, value in (("slow_step", slow_step), ("max_rate", max_rate)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
        if not value > 0:
            raise ValueError(f"{name}: expected more than 0, got {value}")
    if filter is not None and not callable(filter):
        raise TypeError(f"filter: expected a function, got {type(filter).__name__}")
    if run_id is None:
        run_id = f"trio-{secrets.token_hex(8)}"
    elif not isinstance(run_id, str):
        raise TypeError(f"run_id: expected a str, got {type(run_id).__name__}")
    recorder = make(log, run_id, filter, max_rate, slow_step)
    recorder._start()
    trio.lowlevel.add_instrument(recorder)
    try:
        yield recorder
    finally:
        # Trio has removed it already if it raised.
        with suppress(KeyError):
            trio.lowlevel.remove_instrument(recorder)
        recorder._stop()


def _shown(name: str) -> str:
    # A name can be anything; an event takes what is Unicode text.
    return name[:_MAX_NAME].encode(errors="backslashreplace").decode()


def _is_cancelled(nursery: trio.Nursery | None) -> bool:
    while nursery is not None:
        # A deadline that has passed counts, as it does at the next checkpoint.
        if nursery.cancel_scope.cancel_called:
            return True
        nursery = nursery.parent_task.parent_nursery
    return False
