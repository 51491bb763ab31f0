"""A service that answers for its log: it tells when the store fails, and confirms only what is stored.

Orders arrive; each is confirmed to its customer only after a ``flush`` has said that it is on the disk. In
the middle the store fails for half a second. Nothing is lost, and nobody who is not concerned waits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

import trio

from trio_eventlog import (
    AppendFailureReport,
    EventLog,
    EventQuery,
    EventsLost,
    EventStore,
    LossReport,
    ModuleEvent,
    PersistedEvent,
    Report,
    RetryPolicy,
    StoreError,
    open_event_log,
)
from trio_eventlog.stores import SqliteStore

ORDERS = 12
FLUSH_SECONDS = 5


class Outage:
    """A store that fails for a while; the real ones do so unasked."""

    def __init__(self, store: EventStore, *, begins: float, ends: float) -> None:
        self.store = store
        self.begins = begins
        self.ends = ends

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Fails during the outage. A store raises StoreError for what may pass."""
        await trio.lowlevel.checkpoint()
        if self.begins <= trio.current_time() < self.ends:
            msg = "connection lost"
            raise StoreError(msg)
        return await self.store.append_batch(events)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """As the store."""
        return await self.store.query(query)

    async def last_seq(self) -> int:
        """As the store."""
        return await self.store.last_seq()


class Operator:
    """Who has to know when the log is in trouble.

    ``on_failure`` is a plain function that must be quick. What takes time, such as sending a message, is the
    work of a task: they are connected by a channel.
    """

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[str](100)

    def on_failure(self, report: Report) -> None:
        """Called by the log where the failure happened."""
        if isinstance(report, AppendFailureReport):
            message = f"{report.events} events wait, next attempt in {report.retry_in:.2f} s: {report.error}"
        elif isinstance(report, LossReport):
            # Each lost event comes here once, in full: the place to write them somewhere else.
            message = f"{report.count} events lost for good ({report.reason})"
        else:
            # Only a log with a spill file has more to say.
            message = f"the spill file: {report}"
        # A hundred messages that nobody has read yet say enough.
        with suppress(trio.WouldBlock):
            self._send.send_nowait(message)

    def close(self) -> None:
        """No more messages come."""
        self._send.close()

    async def watch(self) -> None:
        """Pass the messages on, to the end of the service."""
        async with self._receive:
            async for message in self._receive:
                print(f"  operator: {message}")


async def take_order(log: EventLog, number: int) -> None:  # noqa: ASYNC910 - a flush that fails has waited
    """Confirm an order once it is durable."""
    seq = log.ingest(ModuleEvent("orders", "order_taken", {"run_id": f"order-{number}"}))
    try:
        # Calls in this library take no timeout=; this is how to set one.
        with trio.fail_after(FLUSH_SECONDS):
            await log.flush(seq)
    except (EventsLost, trio.TooSlowError) as exc:
        print(f"order {number}: please try again later ({exc!r})")
    else:
        print(f"order {number}: confirmed")


async def main() -> None:
    """Take orders before, during and after an outage."""
    operator = Operator()
    async with SqliteStore.open("orders.db") as store, trio.open_nursery() as watching:
        watching.start_soon(operator.watch)
        start = trio.current_time()
        async with open_event_log(
            Outage(store, begins=start + 0.3, ends=start + 0.8),
            retry=RetryPolicy(initial=0.05, maximum=0.2),
            on_failure=operator.on_failure,
        ) as log:
            before = log.statistics().last_assigned_seq
            async with trio.open_nursery() as nursery:
                for number in range(1, ORDERS + 1):
                    nursery.start_soon(take_order, log, number)
                    await trio.sleep(0.1)
            stored = await log.query(EventQuery(event_types=("order_taken",), after_seq=before))
        operator.close()
    print(f"{len(stored)} of {ORDERS} orders stored, {log.statistics().lost_total} lost")


if __name__ == "__main__":
    trio.run(main)
