"""Read a source that is faster than the store, without losing events and without eating up the memory.

``ingest`` never waits: when more than ``retry_buffer_cap`` events wait for the store, the oldest of them are
lost, and reported. That is right for a program that must go on whatever the log does. A program that copies,
imports or audits wants ``ingest_wait`` instead: it waits for room, so that the source is read no faster than
the store can write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import trio

from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventLog,
    LossReport,
    PersistedEvent,
    Report,
    open_event_log,
)
from trio_eventlog.stores import MemoryStore

READINGS = 2_000
CAP = 200


class SlowStore(MemoryStore):
    """A store that takes its time."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Like a network does."""
        await trio.sleep(0.02)
        return await super().append_batch(events)


@asynccontextmanager
async def small_log() -> AsyncIterator[EventLog]:
    """A log that keeps little waiting."""

    def on_failure(report: Report) -> None:
        if isinstance(report, LossReport):
            print(f"  lost seq {report.first_seq} to {report.last_seq} ({report.reason})")

    async with open_event_log(SlowStore(), batch_size=64, retry_buffer_cap=CAP, on_failure=on_failure) as log:
        yield log


def reading(number: int) -> EventEnvelope:
    """An event with an identity of its own, so that it is stored once however often it is sent."""
    return EventEnvelope.of(AgentEvent("sensor", "reading", {"number": number}), event_id=f"reading-{number}")


async def main() -> None:
    """Do it both ways."""
    print("ingest, in a burst:")
    async with small_log() as log:
        for number in range(READINGS):
            log.ingest(reading(number))
    report(log)

    print("ingest_wait, from two tasks at once:")
    async with small_log() as log, trio.open_nursery() as nursery:
        for parity in (0, 1):
            nursery.start_soon(copy, log, range(parity, READINGS, 2))
    report(log)
    assert log.statistics().persisted == READINGS


async def copy(log: EventLog, numbers: Sequence[int]) -> None:  # noqa: ASYNC910 - there are numbers
    """Hand in readings as fast as the log takes them."""
    for number in numbers:
        await log.ingest_wait(reading(number))


def report(log: EventLog) -> None:
    """What became of the events; a log that is closed still tells."""
    books = log.statistics()
    print(
        f"  {books.persisted} stored, {books.lost_total} lost, never more than {books.peak_pending} waiting"
    )


if __name__ == "__main__":
    trio.run(main)
