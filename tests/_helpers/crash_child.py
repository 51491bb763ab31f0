"""The processes that are killed: ``python crash_child.py``, driven by `tests/_helpers/crashes.py`.

One process imports everything and opens nothing. It reads jobs, a line of JSON each, and forks a child for
each of them: starting Python anew would take longer than most of the children live. What a child says, it
appends to a file, a line at a time, so that nothing of it is lost with the child.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from random import Random
from typing import Any

import trio

from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventLog,
    EventQuery,
    EventStore,
    LogBusy,
    PersistedEvent,
    Report,
    RetryPolicy,
    StoreError,
    open_event_log,
)
from trio_eventlog.retention import RetentionPolicy, _archive, _retain, prune_to_archive, retain
from trio_eventlog.stores import SqliteStore

Say = Callable[[str], None]

QUICK = RetryPolicy(initial=0.002, maximum=0.02)


def chance(job: dict[str, Any]) -> Random:
    return Random(job["seed"])  # noqa: S311 - nothing to keep secret


class Counter:
    """Numbers the events of a run, in the order in which they are ingested."""

    def __init__(self, run: int) -> None:
        self.run = run
        self.count = 0
        self.unacknowledged: list[tuple[int, str]] = []

    def next(self, payload: object = None) -> EventEnvelope:
        self.count += 1
        return EventEnvelope.of(AgentEvent("worker", "step", payload), event_id=f"{self.run}-{self.count}")

    def took(self, event: EventEnvelope, seq: int | None) -> None:
        assert seq is not None, "there is no filter"
        self.unacknowledged.append((seq, event.event_id))


async def ingest_at_random(log: EventLog, numbers: Counter, random: Random) -> None:
    """As several tasks of a program do, bursts included."""
    while True:
        for _ in range(random.choice([1, 1, 1, 5, 30])):
            event = numbers.next("x" * random.choice([0, 10, 3000]))
            numbers.took(event, log.ingest(event))
        await trio.sleep(random.choice([0, 0, 0.001, 0.003]))


async def acknowledge(log: EventLog, numbers: Counter, say: Say, random: Random) -> None:
    """Say what is durable, once it is."""
    while True:
        flushed, numbers.unacknowledged = numbers.unacknowledged, []
        await log.flush()
        say("".join(f"ack {seq} {event_id}\n" for seq, event_id in flushed))
        await trio.sleep(random.choice([0, 0.001, 0.005]))


async def durable(job: dict[str, Any], say: Say) -> None:
    """Ingest, flush, and say what was acknowledged."""
    random, numbers = chance(job), Counter(job["run"])
    synchronous = random.choice(["full", "normal"])
    async with (
        SqliteStore.open(job["db"], synchronous=synchronous) as store,
        open_event_log(store, batch_size=random.choice([1, 8, 64]), flush_interval=0.005) as log,
        trio.open_nursery() as nursery,
    ):
        say(f"first {log.statistics().last_assigned_seq + 1}\n")
        for _ in range(3):
            nursery.start_soon(ingest_at_random, log, numbers, random)
        nursery.start_soon(acknowledge, log, numbers, say, random)


class Unreliable:
    """A store that is away every now and then, sometimes after it has committed."""

    def __init__(self, inner: EventStore, random: Random) -> None:
        self._inner = inner
        self._random = random
        self._failures_left = 0

    @property
    def log_id(self) -> str | None:
        log_id: str | None = getattr(self._inner, "log_id", None)
        return log_id

    @property
    def survives(self) -> str:
        survives: str = getattr(self._inner, "survives", "process")
        return survives

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        if not self._failures_left:
            self._failures_left = self._random.choice([0, 0, 1, 20])
        else:
            self._failures_left -= 1
            if self._random.random() < 0.2:
                await self._inner.append_batch(events)
            await trio.sleep(self._random.choice([0, 0.005]))
            msg = "no route to host"
            raise StoreError(msg)
        return await self._inner.append_batch(events)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        return await self._inner.query(query)

    async def last_seq(self) -> int:
        return await self._inner.last_seq()


async def spilling(job: dict[str, Any], say: Say) -> None:
    """Ingest into a store that is often away, and say how many of the oldest events are safe."""
    random, numbers = chance(job), Counter(job["run"])
    safe = 0

    def tell(report: Report) -> None:
        if type(report).__name__ not in ("AppendFailureReport", "SpillReport"):
            say(f"report {report}\n")

    async with SqliteStore.open(job["db"]) as store:
        async with open_event_log(
            Unreliable(store, random),
            batch_size=8,
            flush_interval=0.005,
            retry_buffer_cap=64,
            retry=QUICK,
            spill=job["spill"],
            grace_period=0.02,
            on_failure=tell,
        ) as log:
            recovered = log.statistics().recovered
            say(f"recovered {recovered}\n")
            for _ in range(random.choice([20, 100, 10_000])):
                await log.ingest_wait(numbers.next())
                books = log.statistics()
                # What is settled is older than what is spilled, and that than the rest.
                now_safe = books.persisted + books.duplicate + books.spilled - recovered
                if now_safe > safe:
                    safe = now_safe
                    say(f"safe {safe}\n")
                await trio.sleep(random.choice([0, 0, 0.001]))
        # All that was left is in the file now.
        say(f"safe {numbers.count}\n")


async def racing(job: dict[str, Any], say: Say) -> None:
    """Open the log as often as the other one lets us."""
    random, numbers = chance(job), Counter(job["run"])
    while True:
        try:
            async with SqliteStore.open(job["db"]) as store, open_event_log(store) as log:
                say(f"first {log.statistics().last_assigned_seq + 1}\n")
                for _ in range(random.randint(1, 3)):
                    for _ in range(random.randint(1, 20)):
                        event = numbers.next()
                        numbers.took(event, log.ingest(event))
                    flushed, numbers.unacknowledged = numbers.unacknowledged, []
                    await log.flush()
                    say("".join(f"ack {seq} {event_id}\n" for seq, event_id in flushed))
        except LogBusy:
            say("busy\n")
        await trio.sleep(random.choice([0, 0.001, 0.005]))


async def drain(job: dict[str, Any], say: Say) -> None:
    """The last run: everything that is left goes into the store."""
    async with SqliteStore.open(job["db"]) as store, open_event_log(store, spill=job.get("spill")) as log:
        await log.flush()
        say(f"drained {log.statistics().pending}\n")


async def archiving(job: dict[str, Any], say: Say) -> None:
    """Append, and move what is old to an archive, in segments that are as small as a page."""
    random, numbers = chance(job), Counter(job["run"])
    _archive._MAX_EVENTS = 8
    _retain._PAGE_SIZE = 8
    async with SqliteStore.open(job["db"]) as store, open_event_log(store) as log:
        while True:
            for _ in range(random.randint(1, 40)):
                event = numbers.next()
                numbers.took(event, log.ingest(event))
            flushed, numbers.unacknowledged = numbers.unacknowledged, []
            await log.flush()
            say("".join(f"ack {seq} {event_id}\n" for seq, event_id in flushed))
            if random.random() < 0.5:
                await prune_to_archive(store, job["archive"], keep=random.randint(0, 20))
            else:
                policy = RetentionPolicy(older_than=0.001, archive=job["archive"])
                with trio.move_on_after(0.01):
                    await retain(store, policy, every=0.001)


SCENARIOS = {
    "durable": durable,
    "spilling": spilling,
    "racing": racing,
    "archiving": archiving,
    "drain": drain,
}


def run_child(job: dict[str, Any]) -> None:
    """Never returns."""
    out = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(text: str) -> None:
        os.write(out, text.encode())

    try:
        trio.run(SCENARIOS[job["scenario"]], job, say)
    except BaseException as exc:  # noqa: BLE001, ASYNC103 - said, and the process ends
        say(f"failed {exc!r}\n")
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Read jobs; ``{"reap": pid}`` waits for a child. Answers each line with one."""
    for line in sys.stdin:
        job = json.loads(line)
        if "reap" in job:
            _, status = os.waitpid(job["reap"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the answer
            continue
        Path(job["out"]).touch()
        child = os.fork()
        if child == 0:
            run_child(job)
        print(child, flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
