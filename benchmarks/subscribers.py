"""Many subscribers on one log, beside a steady stream of events into SQLite.

``python benchmarks/subscribers.py [SUBSCRIBERS] [EVENTS_PER_SECOND] [SECONDS]``, by default 200, 1000 and 10.

Prints what each subscriber got, how often the store was asked, how long after it was ingested an event was
handed out, and which part of the time the process kept a processor busy: with subscribers, and with the same
stream and none.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import attrs
import trio
import trio.testing

from trio_eventlog import AgentEvent, EventLog, EventQuery, open_event_log
from trio_eventlog.stores import SqliteStore

BURST = 10
"""Events that are ingested together."""


@attrs.define
class Result:
    """What was measured."""

    events: int
    appends: int
    queries: int
    complete: int
    """Subscribers that got every event once, in order."""

    busy: float
    """Seconds of processor time for each second."""

    delays: list[float]
    """Seconds from ingest to the hands of a subscriber, one of a hundred."""


async def measure(subscribers: int, rate: int, seconds: float, path: Path) -> Result:
    """Run the stream once."""
    count = int(rate * seconds)
    got: list[list[int]] = [[] for _ in range(subscribers)]
    ingested_at: dict[int, float] = {}
    delays: list[float] = []
    queries = 0

    async with SqliteStore.open(path) as store:
        plain = store.query

        async def counted(query: EventQuery) -> object:
            nonlocal queries
            queries += 1
            return await plain(query)

        store.query = counted  # type: ignore[method-assign, assignment]
        async with open_event_log(store) as log, trio.open_nursery() as nursery:
            for index in range(subscribers):
                nursery.start_soon(follow, log, got[index], count, ingested_at, delays)
            await trio.testing.wait_all_tasks_blocked()
            queries = 0
            cpu, start = time.process_time(), trio.current_time()
            for number in range(0, count, BURST):
                await trio.sleep_until(start + number / rate)
                for _ in range(BURST):
                    seq = log.ingest(AgentEvent("worker-7", "step_done", {"run_id": "r-1", "number": number}))
                    ingested_at[seq or 0] = trio.current_time()
            await log.flush()
            busy = (time.process_time() - cpu) / (trio.current_time() - start)
        books = log.statistics()
    everything = list(range(1, count + 1))
    complete = sum(seqs == everything for seqs in got)
    return Result(books.persisted, books.appends, queries, complete, busy, delays)


async def follow(
    log: EventLog, got: list[int], count: int, ingested_at: dict[int, float], delays: list[float]
) -> None:
    """One subscriber."""
    async with log.subscribe() as events:
        async for event in events:
            got.append(event.seq)
            if event.seq % 100 == 0:
                delays.append(trio.current_time() - ingested_at[event.seq])
            if len(got) == count:
                break


def main() -> None:
    """Measure and print."""
    arguments = iter(sys.argv[1:])
    subscribers, rate = int(next(arguments, 200)), int(next(arguments, 1000))
    seconds = float(next(arguments, 10))
    with tempfile.TemporaryDirectory() as directory:
        alone = trio.run(measure, 0, rate, seconds, Path(directory) / "alone.db")
        result = trio.run(measure, subscribers, rate, seconds, Path(directory) / "followed.db")
    print(f"{result.events:,} events in {seconds:g} s, {result.appends:,} appends")
    print(f"{result.complete} of {subscribers} subscribers got each of them once and in order")
    print(f"{result.queries:,} queries, {result.queries / result.appends:.3f} for each append")
    quantiles = statistics.quantiles(result.delays, n=100)
    print(
        f"from ingest to a subscriber: median {quantiles[49] * 1000:.1f} ms,"
        f" 99th percentile {quantiles[98] * 1000:.1f} ms"
    )
    print(f"processor: {result.busy:.0%} with subscribers, {alone.busy:.0%} without")
    deliveries = subscribers * rate
    print(f"{(result.busy - alone.busy) / deliveries * 1e6:.2f} us for each event and subscriber")


if __name__ == "__main__":
    main()
