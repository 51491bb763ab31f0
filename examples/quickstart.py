"""Log what a program does, and find it again.

Run it as often as you like: the log goes on where it ended, in ``quickstart.db`` of the current directory.
"""

from __future__ import annotations

import random

import trio

from trio_eventlog import AgentEvent, EventLog, EventQuery, ModuleEvent, open_event_log
from trio_eventlog.stores import SqliteStore


async def worker(log: EventLog, name: str, run_id: str) -> None:
    """Something worth logging."""
    # Never blocks, and is no checkpoint: log from wherever something happens.
    log.ingest(AgentEvent(name, "run_started", {"run_id": run_id}))
    await trio.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - nothing secret
    log.ingest(AgentEvent(name, "run_completed", {"run_id": run_id, "tokens": random.randrange(1000)}))  # noqa: S311


async def main() -> None:
    """Log the work of some tasks, then ask the log."""
    async with SqliteStore.open("quickstart.db") as store, open_event_log(store) as log:
        first = log.ingest(ModuleEvent("quickstart", "opened"))
        assert first is not None, "nothing is filtered here"
        async with trio.open_nursery() as nursery:
            for number in range(1, 4):
                nursery.start_soon(worker, log, f"worker-{number}", f"run-{number}")

        # Events are written behind our back. This waits until those above are on the disk.
        await log.flush()

        print("What worker-2 did just now:")
        for event in await log.query(EventQuery(member_id="worker-2", after_seq=first)):
            print(f"  {event.seq:>4}  {event.event.event_type}  {event.event.payload}")

        completed = await log.query(EventQuery(event_types=("run_completed",)))
        print(f"{len(completed)} runs completed since the log began")


if __name__ == "__main__":
    trio.run(main)
