"""Synchronous code in a thread logs too: through Trio's thread, where the log lives."""

import trio

from trio_eventlog import AgentEvent, EventLog, open_event_log
from trio_eventlog.stores import MemoryStore


def crunch(log: EventLog, number: int) -> int:
    """Runs in a worker thread."""
    result = sum(range(number))
    event = AgentEvent(f"cruncher-{number}", "sum_done", {"result": result})
    seq = trio.from_thread.run_sync(log.ingest, event)
    assert seq is not None, "no filter kept it out"
    return seq


async def main() -> None:
    """Let three threads work and log."""
    async with open_event_log(MemoryStore()) as log:
        async with trio.open_nursery() as nursery:
            for number in (10, 100, 1000):
                nursery.start_soon(trio.to_thread.run_sync, crunch, log, number)
        await log.flush()
        results = [event.event.payload["result"] for event in await log.query()]
        print(sorted(results))


if __name__ == "__main__":
    trio.run(main)
