"""What becomes of costs as things become many: ``python benchmarks/growth.py PART LARGEST``.

Each part runs in a process of its own and prints one JSON object: curves, each a list of pairs of how many
and a figure.

* ``backlog``: microseconds of an ``ingest`` and bytes of memory against the events that wait.
* ``rows``: events a second into SQLite, milliseconds of each query, of reading on and of opening a log,
  against the events in the store.
* ``subscribers``: percent of a core that the whole program needs at 200 events a second, against subscribers.
* ``imports``: milliseconds of importing the package and its parts; of a curve, one point each.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import subscribers as following
import trio
from contenders import Hanging
from uuid_utils import uuid7
from workload import events

from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventLog,
    EventQuery,
    EventsLost,
    EventStore,
    open_event_log,
)
from trio_eventlog.reading import iter_events
from trio_eventlog.stores import open_store

Curves = dict[str, list[tuple[float, float]]]

CAP = 4_096
"""Events that a log keeps by default."""

BURST = 256
WINDOW = 1_000
LIMIT = 100

FIRST_MS = 1_700_000_000_000
"""When the first event happened; one a millisecond."""


# --- events that wait -----------------------------------------------------------------------------


@asynccontextmanager
async def hanging_log() -> AsyncIterator[EventLog]:
    """A log in which everything waits, and is lost at the end."""
    quiet = open_event_log(
        Hanging(), append_timeout=float("inf"), grace_period=0, on_failure=lambda _report: None
    )
    with suppress(EventsLost):
        async with quiet as log:
            yield log


def backlog(largest: int) -> Curves:
    """Half as many again as fit, so that the price of losing the oldest shows."""
    rounds = max(5, largest // 200)
    items = [AgentEvent(*event) for event in events(CAP * 3 // 2)]
    levels = range(0, len(items), BURST)
    costs: dict[int, list[float]] = {level: [] for level in levels}
    sizes: list[tuple[float, float]] = []

    async def time_one() -> None:
        async with hanging_log() as log:
            for level in levels:
                begin = time.perf_counter()
                for item in items[level : level + BURST]:
                    log.ingest(item)
                costs[level].append((time.perf_counter() - begin) / BURST)
                await trio.lowlevel.checkpoint()

    async def weigh_one() -> None:
        async with hanging_log() as log:
            tracemalloc.start()
            for level in levels:
                for event in events(BURST):
                    log.ingest(AgentEvent(*event))
                await trio.lowlevel.checkpoint()
                sizes.append((level + BURST, tracemalloc.get_traced_memory()[0] / 2**20))
            tracemalloc.stop()

    for _ in range(rounds):
        trio.run(time_one)
    trio.run(weigh_one)
    return {
        "ingest": [(level, statistics.median(found) * 1e6) for level, found in costs.items()],
        "memory": sizes,
    }


# --- rows in a store ------------------------------------------------------------------------------


def envelopes(start: int, stop: int) -> Iterator[EventEnvelope]:
    """The workload, with all scopes that can be asked for."""
    for number, (worker, event_type, payload) in zip(range(start, stop), events(stop - start), strict=True):
        run = number // 40
        scopes = {
            "run_id": f"run-{run}",
            "step_id": f"run-{run}/step-{number % 40}",
            "identity": f"agent-{number % 100}",
            "mob_id": f"mob-{number % 10}",
        }
        event = AgentEvent(worker, event_type, {**payload, **scopes})
        yield EventEnvelope(str(uuid7()), "agent", FIRST_MS + number, event)


def queries(rows: int) -> dict[str, EventQuery]:
    """What is asked of a store of so many events, somewhere in the middle of what there is."""
    middle = rows // 2
    run = middle // 40
    since = FIRST_MS + middle
    return {
        "the last 100, by cursor": EventQuery(after_seq=rows - LIMIT),
        "cursor in the middle": EventQuery(after_seq=middle, limit=LIMIT),
        "run": EventQuery(run_id=f"run-{run}", limit=LIMIT),
        "step": EventQuery(step_id=f"run-{run}/step-7", limit=LIMIT),
        "member": EventQuery(member_id="worker-7", after_seq=middle, limit=LIMIT),
        "identity": EventQuery(identity="agent-7", limit=LIMIT),
        "mob": EventQuery(mob_id="mob-7", after_seq=middle, limit=LIMIT),
        "type": EventQuery(event_types=("step_3",), limit=LIMIT),
        "three types": EventQuery(event_types=("step_1", "step_2", "step_3"), after_seq=middle, limit=LIMIT),
        "window of 1,000": EventQuery(since_ms=since, until_ms=since + WINDOW, limit=LIMIT),
        "half of all time": EventQuery(since_ms=since, limit=LIMIT),
        "member and type that never meet": EventQuery(
            member_id="worker-1", event_types=("step_3",), limit=LIMIT
        ),
    }


INDEXED = tuple(queries(CAP))[:10]
"""Those whose time must not depend on the number of rows."""


async def timed(work: Callable[[], Awaitable[object]], *, at_most: int = 15) -> float:
    """Milliseconds, the median of as many times as fit into half a second."""
    taken: list[float] = []
    while len(taken) < at_most and (len(taken) < 3 or sum(taken) < 0.5):
        begin = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1e3


async def fill(url: str, start: int, stop: int) -> float:
    """Let a log store events. Returns events a second, from the first call until the last is stored."""
    items = list(envelopes(start, stop))
    async with open_store(url) as store, open_event_log(store, retry_buffer_cap=2 * CAP) as log:
        begin = time.perf_counter()
        for first in range(0, len(items), 64):
            for item in items[first : first + 64]:
                log.ingest(item)
            await trio.lowlevel.checkpoint()
            while log.statistics().pending > 2 * CAP - 64:
                await trio.sleep(0.001)
        await log.flush()
        return len(items) / (time.perf_counter() - begin)


async def read_on(url: str, after_seq: int, count: int) -> float:
    """Events a second, payloads decoded."""
    async with open_store(url, read_only=True) as store:
        begin = time.perf_counter()
        async for event in iter_events(store, EventQuery(after_seq=after_seq, limit=count)):
            _ = event.event.payload
        return count / (time.perf_counter() - begin)


async def open_only(url: str) -> float:
    """Milliseconds until a log can take events."""
    begin = time.perf_counter()
    async with open_store(url) as store, open_event_log(store):
        return (time.perf_counter() - begin) * 1e3


async def grow(
    url: str, sizes: Iterable[int], weigh: Callable[[EventStore], Awaitable[dict[str, float]]]
) -> Curves:
    """Fill a log, and stop now and then to measure, also what ``weigh`` finds."""
    found: Curves = {"append": [], "replay": [], "open": []}
    rows = 0
    for size in sizes:
        step = max(10_000, size // 20)
        while rows < size:
            stop = min(rows + step, size)
            rate = await fill(url, rows, stop)
            rows = stop
            found["append"].append((rows, rate))
        async with open_store(url, read_only=True) as store:
            for name, query in queries(rows).items():
                curve = found.setdefault(f"query: {name}", [])
                curve.append((rows, await timed(lambda query=query: store.query(query))))
            for name, figure in (await weigh(store)).items():
                found.setdefault(name, []).append((rows, figure))
        found["replay"].append((rows, await read_on(url, rows - 10_000, 10_000)))
        found["open"].append((rows, statistics.median([await open_only(url) for _ in range(5)])))
    return found


def sizes_up_to(largest: int) -> list[int]:
    """Where to stop and measure."""
    return [size for size in (10_000, 100_000, 1_000_000, 10_000_000) if size <= largest]


def rows(largest: int) -> Curves:
    """One file that grows."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log.db"

        async def weigh(store: EventStore) -> dict[str, float]:
            stored = await store.last_seq()
            return {"bytes": path.stat().st_size / stored}  # noqa: ASYNC240 - nothing else runs

        return trio.run(grow, f"sqlite:{path}", sizes_up_to(largest), weigh)


# --- readers --------------------------------------------------------------------------------------


def subscribers(largest: int) -> Curves:
    """At 200 events a second; 0 stands for none."""
    rate, seconds = 200, min(5.0, largest / 50)
    curve: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as directory:
        for number in (0, 1, 10, 100, 300, 1_000):
            if number <= largest:
                path = Path(directory) / f"{number}.db"
                result = trio.run(following.measure, number, rate, seconds, path)
                if result.complete != number:
                    sys.exit(f"{number - result.complete} of {number} subscribers did not get everything")
                curve.append((number, result.busy * 100))
    return {"subscribers": curve}


# --- imports --------------------------------------------------------------------------------------


def imports(rounds: int) -> Curves:
    """Each in a new interpreter, from compiled files."""
    statements = {
        "trio": "import trio",
        "with attrs, cattrs, msgspec": "import trio, attrs, cattrs, cattrs.preconf.msgspec, msgspec",
        "trio_eventlog": "import trio_eventlog",
        "with its stores": "import trio_eventlog.stores",
        "with the recorder": "import trio_eventlog.recorder",
        "with the command line": "import trio_eventlog.cli._app",
    }
    found: Curves = {}
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": directory}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name, statement in statements.items():
            code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            # The first compiles.
            taken = [
                float(
                    subprocess.run(
                        [sys.executable, "-c", code],
                        capture_output=True,
                        text=True,
                        check=True,
                        env=environment,
                    ).stdout
                )
                for _ in range(rounds + 1)
            ][1:]
            found[name] = [(0, statistics.median(taken) * 1e3)]
    return found


PARTS: dict[str, Callable[[int], Curves]] = {
    "backlog": backlog,
    "rows": rows,
    "subscribers": subscribers,
    "imports": imports,
}


def main() -> None:
    """Measure one part."""
    print(json.dumps(PARTS[sys.argv[1]](int(sys.argv[2]))))


if __name__ == "__main__":
    main()
