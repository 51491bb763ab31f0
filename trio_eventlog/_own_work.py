"""Telling what a log's own appends do from what the program does. Floor 2: Trio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Final

import trio

at_work: Final[ContextVar[frozenset[int]]] = ContextVar("trio_eventlog.at_work", default=frozenset())
"""The numbers of the logs for whose appends the running code works; see :meth:`EventLog.is_own_work`."""

SOME_LOG: Final = frozenset({0})
"""The value in a thread or task that works for a log and does not know for which."""

_numbers: Final = count(1)
"""Of the logs of this process. 0 is the one in ``SOME_LOG``."""


class OwnWork:
    """What runs on behalf of the appends of one log, told by the context (:mod:`contextvars`)."""

    def __init__(self) -> None:
        self._number = next(_numbers)
        self._led_here: frozenset[int] = frozenset()  # logs whose appends have led to events of this one

    @contextmanager
    def mark(self) -> Iterator[None]:
        """Let what runs in the block, and the tasks and threads it starts, be known as work for this log."""
        token = at_work.set(self._led_here | {self._number})
        try:
            yield
        finally:
            at_work.reset(token)

    def meet_caller(self) -> bool:
        """Tell whether the caller works for this log. If not, note for which other logs it works."""
        return self._meet(at_work.get())

    def meet_task(self, task: trio.lowlevel.Task) -> bool:
        """The same for ``task``."""
        return self._meet(task.context.get(at_work, frozenset()))

    def _meet(self, logs: frozenset[int]) -> bool:
        if self._number in logs or logs is SOME_LOG:
            return True
        # If appends of this log led back to those logs, events would go in a circle for ever.
        self._led_here |= logs
        return False
