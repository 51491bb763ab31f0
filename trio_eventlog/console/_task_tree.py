"""The tasks of the program that a console is part of, and where each one stands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType
from typing import Any, Final
from weakref import WeakKeyDictionary

import trio

MAX_TASKS: Final = 2000
MAX_FRAMES: Final = 20

_SLICE: Final = 0.002
"""Seconds to read at a stretch, about."""

_SHARE: Final = 0.2
"""How much of the program's time reading may take."""

_MAX_NAME: Final = 200


class TaskTree:
    """Reads the tree of tasks of this Trio run.

    Args:
      is_log: whether a task belongs to the log.
    """

    def __init__(self, is_log: Callable[[trio.lowlevel.Task], bool]) -> None:
        self._is_log = is_log
        self._own: trio.Nursery | None = None
        self._turn = trio.Lock()
        self._task_numbers: WeakKeyDictionary[trio.lowlevel.Task, int] = WeakKeyDictionary()
        self._nursery_numbers: WeakKeyDictionary[trio.Nursery, int] = WeakKeyDictionary()
        self._last_task = self._last_nursery = 0

    def note_own(self, nursery: trio.Nursery) -> None:
        """The console works in this nursery."""
        self._own = nursery

    async def read(self) -> tuple[list[dict[str, Any]], bool]:
        """All tasks, parents before their children; and whether these are all. A checkpoint.

        Reading thousands of stacks takes a while, in which the program goes on: tasks are not all seen at the
        same moment. However many ask, they take a share of the program's time together.
        """
        async with self._turn:
            return await self._read()

    async def _read(self) -> tuple[list[dict[str, Any]], bool]:
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
        is_complete = True
        began = time.perf_counter()
        while waiting and len(tasks) < MAX_TASKS:
            task, parent, is_own = waiting.pop()
            number = self._number_of(task)
            is_own = is_own or (self._own is not None and task.parent_nursery is self._own)
            tasks.append(self._describe(task, number, parent, is_own=is_own))
            for nursery in reversed(task.child_nurseries):
                # Of a hundred thousand tasks, it would take long to number all.
                children = list(islice(nursery.child_tasks, MAX_TASKS))
                is_complete = is_complete and len(children) == len(nursery.child_tasks)
                children.sort(key=self._number_of, reverse=True)
                waiting += [(child, number, is_own) for child in children]
            if time.perf_counter() - began > _SLICE:
                await trio.sleep(_SLICE / _SHARE - _SLICE)
                began = time.perf_counter()
        return tasks, is_complete and not waiting

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
    if getattr(task.coro, "cr_frame", task.coro) is None:
        return []  # it has ended since
    frames: list[tuple[FrameType, int]] = list(task.iter_await_frames())
    own = (
        _place(frame.f_code) | {"line": line} for frame, line in reversed(frames) if not _is_of_trio(frame)
    )
    return list(islice(own, MAX_FRAMES))


@lru_cache(maxsize=4096)
def _place(code: CodeType) -> dict[str, Any]:
    return {
        "file": _text(os.path.basename(code.co_filename)),  # noqa: PTH119 - it may be no path
        "line": 0,
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
