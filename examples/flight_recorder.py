"""Record a small TCP service and its clients, and print what became of their tasks.

One client is slow, one request keeps the whole program waiting, and at the end the service is cancelled.
"""

import time
from functools import partial

import trio

from trio_eventlog import EventQuery, open_event_log
from trio_eventlog.reading import iter_events
from trio_eventlog.recorder import record_tasks
from trio_eventlog.stores import SqliteStore


async def answer(stream: trio.SocketStream) -> None:
    """What the service does for each client."""
    async for request in stream:
        if request == b"hard":
            time.sleep(0.15)  # noqa: ASYNC251 - a defect for the recorder to find: nobody else runs
        await stream.send_all(request.upper())


async def client(port: int, request: bytes) -> None:
    """Ask once; the slow one stays for a while."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        await stream.receive_some()
        if request == b"slow":
            await trio.sleep(0.3)


async def serve_some_clients() -> None:
    """The program that is recorded."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve, name="service")
        port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as clients:
            for request in (b"easy", b"slow", b"hard"):
                clients.start_soon(client, port, request, name=f"client {request.decode()}")
        nursery.cancel_scope.cancel()


async def main() -> None:
    """Record it, and read the records back."""
    async with SqliteStore.open("flight.db") as store:
        async with open_event_log(store) as log:
            with record_tasks(log) as recorder:
                await serve_some_clients()

        records = iter_events(store, EventQuery(run_id=recorder.run_id))
        async for record in records:
            payload = record.event.payload
            match record.event.event_type:
                case "task_step_slow":
                    print(f"{payload['name']} kept all others waiting for {payload['seconds']:.2f} s")
                case "task_exited":
                    how = "was cancelled" if payload["cancelled"] else "ended"
                    print(f"{payload['name']} {how} after {payload['seconds']:.2f} s")
    print("\nThe whole tree: trio-eventlog tasks --store sqlite:flight.db")


if __name__ == "__main__":
    trio.run(main)
