"""Three workers log into one SQLite file; then the log is asked what one of them did."""

import trio

from trio_eventlog import AgentEvent, EventLog, EventQuery, open_event_log
from trio_eventlog.stores import SqliteStore


async def work(log: EventLog, worker: str, run_id: str) -> None:
    """Do some steps, and log each."""
    log.ingest(AgentEvent(worker, "run_started", {"run_id": run_id}))
    for step in range(1, 4):
        await trio.sleep(0.05)
        log.ingest(AgentEvent(worker, "step_done", {"run_id": run_id, "step_id": f"{run_id}.{step}"}))
    log.ingest(AgentEvent(worker, "run_finished", {"run_id": run_id}))


async def main() -> None:
    """Log the work of three workers, then ask the log."""
    async with SqliteStore.open("events.db") as store, open_event_log(store) as log:
        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(work, log, f"worker-{number}", f"r-{number}")
        await log.flush()
        for event in await log.query(EventQuery(run_id="r-2")):
            print(event.member_id, event.event.event_type, event.event.payload)
        statistics = log.statistics()
        print(f"{statistics.persisted} stored, {statistics.lost_total} lost")


if __name__ == "__main__":
    trio.run(main)
