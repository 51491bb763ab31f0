"""What becomes of logs that share a file, a database or a stream: ``python benchmarks/servers.py [--write]``.

Each part runs in a process of its own, ``python benchmarks/servers.py PART PLACE LARGEST``, which starts the
servers that it needs and prints one JSON object: curves, each a list of pairs of how many and a figure.

* ``writers``: events a second of so many processes together, a log each, as fast as they go; microseconds of
  processor time for each event, of the writers and of the servers; events a second of a merged reader over
  the logs, payloads decoded.
* ``delays``: milliseconds from ``ingest`` until ``flush`` returns in eight such processes, each of which does
  that 20 times a second, by the events a second of all of them; and how many flushes a second they get, one
  event each, if they do nothing else, by how many processes.
* ``rows``: as in ``growth.py``, for one log; also bytes on disk for each event, and MiB of memory of the
  servers.
* ``logs``: milliseconds of opening one log, appending an event to it, and reading 100 from it; of listing all
  logs; and of opening readers of all and merging the first 100 events, by how many logs are there.

Events are those of ``workload.py``. All that is measured shares the processors with the servers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import report
import trio
from contenders import agent_events, envelopes, throughput
from growth import Curves, grow, sizes_up_to, timed
from places import PLACES, with_log
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from uuid_utils import uuid7
from workload import EVENTS, payload

from trio_eventlog import AgentEvent, EventQuery, EventStore, PersistedEvent, open_event_log
from trio_eventlog.reading import merge_events
from trio_eventlog.stores import open_readers, open_store

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "servers.json"

TICK: Final = 0.05
"""Seconds between two flushes of a process whose delays are measured."""

TICKS: Final = 200
"""Of each of these processes."""

SECONDS: Final = 3.0
"""How long flushes are counted."""


# --- processes ------------------------------------------------------------------------------------


def processes(root: int) -> Iterator[int]:
    """A process and all that it has started, and so on."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(stat_of(int(path.name))[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(path.name))
    waiting = [root]
    while waiting:
        found = waiting.pop()
        waiting += parents.get(found, ())
        yield found


def stat_of(process: int) -> list[str]:
    """From its state on: the name before that may have blanks."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


class Servers:
    """The processes that this one has started so far."""

    def __init__(self) -> None:
        own = os.getpid()
        self._roots = [found for found in processes(own) if found != own and int(stat_of(found)[1]) == own]

    def seconds(self) -> float:
        """Processor time that they have used, with children that have ended."""
        ticks = 0
        for root in self._roots:
            for process in processes(root):
                ticks += sum(map(int, stat_of(process)[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes of memory that they have, what they share counted once."""
        kibibytes = 0
        for root in self._roots:
            for process in processes(root):
                for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        kibibytes += int(line.split()[1])
        return kibibytes * 1024


def together(task: str, urls: Sequence[str], *arguments: object) -> list[dict[str, Any]]:
    """Let a process for each URL do the same at the same time. Returns what they print."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, task, url, *map(str, arguments)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for url in urls
        ]
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                sys.exit(f"{task} failed")
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        found = [json.loads(child.communicate()[0]) for child in children]
    if lost := sum(one["lost"] for one in found):
        # Who loses events is quick.
        sys.exit(f"{task}: {lost:,} events were lost")
    return found


async def told_to_go() -> None:
    """Say that all is prepared, and wait for the others."""
    print("ready", flush=True)
    await trio.to_thread.run_sync(sys.stdin.readline)


def write(url: str, count: int) -> None:
    """One of many writers."""
    items = envelopes(count)

    async def main() -> dict[str, float]:
        async with open_store(url) as store:
            await told_to_go()
            begin, cpu = time.perf_counter(), time.process_time()
            found = await throughput(store, items)
            return {
                **found,
                "begin": begin,
                "end": time.perf_counter(),
                "cpu": time.process_time() - cpu,
            }

    print(json.dumps(trio.run(main)))


def tick(url: str, burst: int) -> None:
    """One of many that store some events every now and then."""
    items = agent_events(burst * TICKS)

    async def main() -> dict[str, Any]:
        delays = []
        async with open_store(url) as store, open_event_log(store) as log:
            await told_to_go()
            # Started in a row, they have numbers in a row: their ticks are spread evenly.
            first = trio.current_time() + TICK * (1 + os.getpid() % 8 / 8)
            for turn in range(TICKS):
                # Counted from when it was due, so that a flush that takes long counts for those behind it.
                due = first + turn * TICK
                await trio.sleep_until(due)
                for item in items[turn * burst : (turn + 1) * burst]:
                    log.ingest(item)
                await log.flush()
                delays.append((trio.current_time() - due) * 1e3)
        return {"delays": delays, "lost": log.statistics().lost_total}

    print(json.dumps(trio.run(main)))


def flush(url: str) -> None:
    """One of many that store one event after the other."""

    async def main() -> dict[str, int]:
        done = 0
        async with open_store(url) as store, open_event_log(store) as log:
            await told_to_go()
            end = trio.current_time() + SECONDS
            while trio.current_time() < end:
                log.ingest(AgentEvent("worker-1", "step_1", payload(done)))
                await log.flush()
                done += 1
        return {"done": done, "lost": log.statistics().lost_total}

    print(json.dumps(trio.run(main)))


# --- the parts ------------------------------------------------------------------------------------


async def read_merged(url: str, logs: int, count: int) -> float:
    """Events a second over all logs, payloads decoded. Every event is there, in order, once."""
    last: dict[str, int] = {}
    begin = time.perf_counter()
    async with open_readers(url) as stores:
        async for item in merge_events(stores):
            _ = item.event.event.payload
            if item.event.seq != last.get(item.log, 0) + 1:
                sys.exit(f"{item.log}: {item.event.seq} follows {last.get(item.log, 0)}")
            last[item.log] = item.event.seq
    seconds = time.perf_counter() - begin
    if sum(last.values()) != count or len(last) != logs:
        sys.exit(f"the reader got {sum(last.values()):,} of {count:,} events, {len(last)} of {logs} logs")
    return count / seconds


def writers(place: str, largest: int) -> Curves:
    """A fresh file, database or stream for each number of them."""
    found: Curves = {"rate": [], "writer": [], "server": [], "merged": []}
    for number in (1, 2, 4, 8):
        count = largest // number
        with tempfile.TemporaryDirectory() as directory, PLACES[place](Path(directory)) as url:
            servers = Servers()
            before = servers.seconds()
            results = together("write", [with_log(url, f"w{n}") for n in range(number)], count)
            served = servers.seconds() - before
            took = max(one["end"] for one in results) - min(one["begin"] for one in results)
            total = number * count
            found["rate"].append((number, total / took))
            found["writer"].append((number, sum(one["cpu"] for one in results) / total * 1e6))
            found["server"].append((number, served / total * 1e6))
            found["merged"].append((number, trio.run(read_merged, url, number, total)))
    return found


def delays(place: str, largest: int) -> Curves:
    """Eight of them, with little and with more to do; then as many flushes as they get."""
    found: Curves = {"median": [], "99 %": [], "most": [], "flushes": []}
    for burst in (1, 50):
        rate = 8 * burst / TICK
        if rate > largest:
            break
        with tempfile.TemporaryDirectory() as directory, PLACES[place](Path(directory)) as url:
            results = together("tick", [with_log(url, f"w{n}") for n in range(8)], burst)
        taken = sorted(delay for one in results for delay in one["delays"])
        found["median"].append((rate, statistics.median(taken)))
        found["99 %"].append((rate, taken[len(taken) * 99 // 100]))
        found["most"].append((rate, taken[-1]))
    for number in (1, 8):
        with tempfile.TemporaryDirectory() as directory, PLACES[place](Path(directory)) as url:
            results = together("flush", [with_log(url, f"w{n}") for n in range(number)])
        found["flushes"].append((number, sum(one["done"] for one in results) / SECONDS))
    return found


def rows(place: str, largest: int) -> Curves:
    """One log that grows."""
    with tempfile.TemporaryDirectory() as directory, PLACES[place](Path(directory)) as url:
        servers = Servers()

        async def weigh(store: EventStore) -> dict[str, float]:
            description = await store.describe(top=0)
            return {"bytes": description.size_bytes / description.events, "memory": servers.memory() / 2**20}

        return trio.run(grow, with_log(url, "default"), sizes_up_to(largest), weigh)


class Appends:
    """Events, one at a time."""

    def __init__(self, store: EventStore, seq: int) -> None:
        self._store = store
        self._seq = seq

    async def one(self) -> None:
        """Append the next."""
        self._seq += 1
        event = AgentEvent("worker-1", "step_1", payload(self._seq))
        await self._store.append_batch([PersistedEvent(str(uuid7()), self._seq, 1, "worker-1", event)])


async def logs_until(url: str, largest: int) -> Curves:
    """More and more logs, each with few events."""
    found: Curves = {name: [] for name in ("open", "append", "read", "list", "merge")}
    made = 0
    items = envelopes(10)
    for size in (1, 10, 100, 1_000):
        if size > largest:
            break
        for number in range(made, size):
            async with open_store(with_log(url, f"log-{number}")) as store, open_event_log(store) as log:
                for item in items:
                    log.ingest(item)
        made = size
        one = with_log(url, f"log-{size // 2}")

        async def open_one(url: str = one) -> None:
            async with open_store(url):
                pass

        found["open"].append((size, await timed(open_one)))
        async with open_store(one) as store:
            found["append"].append((size, await timed(Appends(store, await store.last_seq()).one)))
            found["read"].append((size, await timed(lambda store=store: store.query(EventQuery(limit=100)))))

        async def list_all() -> None:
            async with open_readers(url):
                pass

        async def merge_some() -> None:
            async with open_readers(url) as stores:
                async for _ in merge_events(stores, EventQuery(limit=100), page_size=10):
                    pass

        found["list"].append((size, await timed(list_all)))
        found["merge"].append((size, await timed(merge_some)))
    return found


def logs(place: str, largest: int) -> Curves:
    """One file, database or stream that gets more and more of them."""
    with tempfile.TemporaryDirectory() as directory, PLACES[place](Path(directory)) as url:
        return trio.run(logs_until, url, largest)


PARTS: Final[Mapping[str, Callable[[str, int], Curves]]] = {
    "writers": writers,
    "delays": delays,
    "rows": rows,
    "logs": logs,
}

SHARED: Final = [place for place in PLACES if place != "jetstream_streams"]
"""Places that logs share, and readers of all logs find."""

ALL: Final = {
    "writers": dict.fromkeys(SHARED, EVENTS),
    "delays": dict.fromkeys(PLACES, 8_000),
    "rows": {"sqlite": 1_000_000, "postgres": 10_000_000, "jetstream": 1_000_000},
    "logs": dict.fromkeys(("sqlite", "postgres", "jetstream"), 1_000),
}
"""Parts, the places of each, and how far it goes there."""

QUICK: Final = {
    part: dict.fromkeys(("sqlite", "postgres", "jetstream"), largest)
    for part, largest in (("writers", EVENTS // 10), ("delays", 160), ("rows", 10_000), ("logs", 10))
}


# --- all of them ----------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    """What a part prints, as JSON."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))} failed")
    return json.loads(done.stdout)


def measure_all(parts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Curves]]:
    """One after the other."""
    found: dict[str, dict[str, Curves]] = {part: {} for part in parts}
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=sum(map(len, parts.values())))
        for part, places in parts.items():
            for place, largest in places.items():
                progress.update(task, description=f"{part}: {place}")
                found[part][place] = run(part, place, largest)
                progress.advance(task)
    return found


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description="Measure logs that share a file, a database or a stream.")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--write", action="store_true", help="write the tables, and keep the figures")
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--write keeps the figures of a whole run, not of --quick")
    found = measure_all(QUICK if arguments.quick else ALL)
    console = Console(width=140)
    for head, lines in report.server_tables(found).values():
        table = Table(*head)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    if arguments.write:
        machine = {"python": platform.python_version(), "cores": os.cpu_count(), "events": EVENTS}
        RESULTS.write_text(json.dumps({"machine": machine, **found}) + "\n")
        report.tabulate_servers(found)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", url, count]:
            write(url, int(count))
        case ["tick", url, burst]:
            tick(url, int(burst))
        case ["flush", url]:
            flush(url)
        case [part, place, largest]:
            print(json.dumps(PARTS[part](place, int(largest))))
        case _:
            main()
