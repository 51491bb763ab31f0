"""Spill files, and a disk for them that does on command what real ones do by accident."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import trio

from tests._helpers.fakes import numbered
from trio_eventlog import AgentEvent, EventLog, PersistedEvent
from trio_eventlog._log._spill_file import Load, SpillFile

ALL = 10**9
HEADER = b'{"trio_eventlog": "spill", "version": 1, "log_id": null}\n'


def event(seq: int, payload: object = None) -> PersistedEvent:
    inner = numbered(seq) if payload is None else AgentEvent("worker", "step", payload)
    return PersistedEvent(f"id-{seq}", seq, 1_700_000_000_000 + seq, "worker", inner)


def events(*seqs: int) -> list[PersistedEvent]:
    return [event(seq) for seq in seqs]


def seqs_of(load: Load) -> list[int]:
    return [event.seq for event in load.events]


class OpenedFiles:
    """Opens spill files, and leaves as they are those that the test did not close."""

    def __init__(self) -> None:
        self._files: list[SpillFile] = []

    def __call__(
        self,
        path: str | os.PathLike[str],
        log_id: str | None = None,
        max_bytes: int = ALL,
        first_seq: int | None = None,
    ) -> SpillFile:
        file = SpillFile(path, log_id, max_bytes)
        self._files.append(file)
        if first_seq is not None:
            file.number_from(first_seq)
        return file

    def release(self) -> None:
        """Do what a process does that ends."""
        for file in self._files:
            file.close((), is_exact=False)


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
