"""The tasks of the program that a console is part of, and where each one stands."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final
from weakref import WeakKeyDictionary

import trio

MAX_TASKS: Final = 2000
MAX_FRAMES: Final = 20
_MAX_NAME: Final = 200


class TaskTree:
    """Reads the tree of tasks of this Trio run.

    Args:
      is_log: whether a task belongs to the log.
    """

    def __init__(self, is_log: Callable[[trio.lowlevel.Task], bool]) -> None:
        self._is_log = is_log
        self._own: trio.Nursery | None = None
        self._task_numbers: WeakKeyDictionary[trio.lowlevel.Task, int] = WeakKeyDictionary()
        self._nursery_numbers: WeakKeyDictionary[trio.Nursery, int] = WeakKeyDictionary()
        self._last_task = self._last_nursery = 0

    def note_own(self, nursery: trio.Nursery) -> None:
        """The console works in this nursery."""
        self._own = nursery

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """All tasks, parents before their children; and whether these are all. Not a checkpoint."""
        root = trio.lowlevel.current_root_task()
        assert root is not None, "there is one in every run"
        tasks: list[dict[str, Any]] = []
        # Trio's own first task and its helpers are Trio's business.
        waiting: list[tuple[trio.lowlevel.Task, int | None, bool]] = [
            (task, None, False)
            for nursery in root.child_nurseries
            for task in nursery.child_tasks
            if not task.name.startswith("<")
        ]
        while waiting and len(tasks) < MAX_TASKS:
            task, parent, is_own = waiting.pop()
            number = self._number_of(task)
            is_own = is_own or (self._own is not None and task.parent_nursery is self._own)
            tasks.append(self._describe(task, number, parent, is_own=is_own))
            for nursery in reversed(task.child_nurseries):
                children = sorted(nursery.child_tasks, key=self._number_of, reverse=True)
                waiting += [(child, number, is_own) for child in children]
        return tasks, not waiting

    def _describe(
        self, task: trio.lowlevel.Task, number: int, parent: int | None, *, is_own: bool
    ) -> dict[str, Any]:
        nursery = task.parent_nursery
        return {
            "id": number,
            "parent": parent,
            "nursery": None if nursery is None else self._nursery_number_of(nursery),
            "name": _text(task.name)[:_MAX_NAME],
            "where": _where(task),
            "is_cancelled": nursery is not None and _is_cancelled(nursery),
            "is_console": is_own,
            "is_log": self._is_log(task),
        }

    def _number_of(self, task: trio.lowlevel.Task) -> int:
        if task not in self._task_numbers:
            self._last_task += 1
            self._task_numbers[task] = self._last_task
        return self._task_numbers[task]

    def _nursery_number_of(self, nursery: trio.Nursery) -> int:
        if nursery not in self._nursery_numbers:
            self._last_nursery += 1
            self._nursery_numbers[nursery] = self._last_nursery
        return self._nursery_numbers[nursery]


def _where(task: trio.lowlevel.Task) -> list[dict[str, Any]]:
    """The frames that a task is in, the innermost first, without those within Trio."""
    frames: list[tuple[FrameType, int]] = list(task.iter_await_frames())
    places = [_place(frame.f_code, line) for frame, line in frames if not _is_of_trio(frame)]
    return places[: -MAX_FRAMES - 1 : -1]


def _place(code: CodeType, line: int) -> dict[str, Any]:
    return {
        "file": _text(os.path.basename(code.co_filename)),  # noqa: PTH119 - it may be no path
        "line": line,
        "function": _text(code.co_qualname),
    }


def _is_of_trio(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] == "trio"


def _is_cancelled(nursery: trio.Nursery) -> bool:
    above: trio.Nursery | None = nursery
    while above is not None:
        if above.cancel_scope.cancel_called:
            return True
        above = above.parent_task.parent_nursery
    return False


def _text(text: str) -> str:
    # A name can be anything; JSON takes what is Unicode text.
    return text.encode(errors="backslashreplace").decode()
