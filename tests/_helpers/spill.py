"""A disk for spill files that does on command what real ones do by accident."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import trio

from tests._helpers.fakes import numbered
from trio_eventlog import EventLog


class Disk:
    """Does what a thread would do, taking so many seconds before and after each call."""

    def __init__(self) -> None:
        self.before = self.after = 0.0
        self.error: OSError | None = None
        self.fail_once = ""  # the name of a method
        self.calls = 0

    async def __call__(self, work: Callable[[], Any], *, discard: object = None) -> Any:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        # Opening and closing leave a lock, which a disk that fails does not keep them from.
        if discard is not None or work.func.__name__ == "close":  # type: ignore[attr-defined]
            return work()
        await trio.sleep(self.before)
        if self.error is not None:
            raise self.error
        if work.func.__name__ == self.fail_once:  # type: ignore[attr-defined]
            self.fail_once = ""
            raise OSError(errno.EIO, "broken")
        result = work()
        await trio.sleep(self.after)
        return result


async def ingest(log: EventLog, first: int, last: int) -> None:
    """With a checkpoint after each, as tasks do."""
    for number in range(first, last + 1):
        log.ingest(numbered(number))
        await trio.sleep(0.001)
