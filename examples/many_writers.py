"""Eight processes write to one database, a log each; then all of it is read as one.

``python many_writers.py`` does it with a SQLite file, and with a URL, such as
``postgresql://me@host/database`` or ``nats://host1,host2,host3/STREAM?replicas=3``, with that.
"""

import sys
import time
from functools import partial

import trio

from trio_eventlog import AgentEvent, open_event_log
from trio_eventlog.reading import merge_events
from trio_eventlog.stores import open_readers, open_store

WRITERS = 8
EVENTS = 500


async def write(database: str, name: str) -> None:
    """What each process does: the log is its own, the database is everybody's."""
    url = f"{database}{'&' if '?' in database else '?'}log={name}"
    async with open_store(url) as store, open_event_log(store) as log:
        for number in range(EVENTS):
            await log.ingest_wait(AgentEvent(name, "step_done", {"run_id": f"{name}-1", "number": number}))


async def read(database: str) -> None:
    """Read all logs by time, and see whether something is missing."""
    seqs: dict[str, list[int]] = {}
    async with open_readers(database) as stores:
        async for item in merge_events(stores):
            seqs.setdefault(item.log, []).append(item.event.seq)
    for log, found in sorted(seqs.items()):
        is_complete = found == list(range(1, len(found) + 1))
        print(f"{log}: {len(found)} events, {'each once and in order' if is_complete else 'some missing'}")


async def main(database: str) -> None:
    """Start the writers, wait for them, and read."""
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(1, WRITERS + 1):
            command = [sys.executable, __file__, "--writer", f"writer-{number}"]
            # Not as an argument: a password may stand in it, and arguments are there for all to see.
            nursery.start_soon(partial(trio.run_process, command, stdin=database.encode()))
    print(f"{WRITERS} processes wrote for {time.perf_counter() - began:.1f} seconds")
    await read(database)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--writer"]:
        trio.run(write, sys.stdin.read(), arguments[1])
    else:
        trio.run(main, *(arguments or ["sqlite:workers.db"]))
