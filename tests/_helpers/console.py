"""Asking a console: the application itself, under a clock of the test, or a server over a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from trio_eventlog.mobkit import SseMessage, SseParser


class PlainStore:
    """What a store must have, and nothing beyond."""

    def __init__(self, store):
        self.append_batch = store.append_batch
        self.query = store.query
        self.last_seq = store.last_seq


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json()["error"]


def request_scope(path, parameters=(), *, method="GET", headers=(), root_path="", **more):
    pairs = parameters.items() if isinstance(parameters, dict) else parameters
    query = parameters if isinstance(parameters, bytes) else urlencode(list(pairs), doseq=True).encode()
    given = {"host": "127.0.0.1:8765", **dict(headers)}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": root_path,
        "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in given.items() if v is not None],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8765),
        **more,
    }


async def ask(app, path, parameters=(), *, body=b"", **more) -> Answer:
    """One request and its whole answer."""
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if parts:
            return parts.pop()
        return await trio.sleep_forever()

    async def send(message):
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await app(request_scope(path, parameters, **more), receive, send)
    start = sent[0]
    headers = {n.decode().lower(): v.decode("latin-1") for n, v in start["headers"]}
    return Answer(start["status"], headers, b"".join(part.get("body", b"") for part in sent[1:]))


async def call(app, method, params=None, *, request_id=1) -> Any:
    """One call of JSON-RPC."""
    request = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        request["params"] = params
    return (await post(app, "/rpc", request)).json()


async def post(app, path, content, **more) -> Answer:
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return await ask(app, path, method="POST", headers=headers, body=body, **more)


class Stream:
    """A stream that is open: what it has sent so far, and how fast its client reads."""

    def __init__(self) -> None:
        self.sent = b""
        self.messages: list[SseMessage] = []
        self.seqs: list[int] = []
        self._parser = SseParser()
        self.status = 0
        self.is_over = False
        self.read_time = 0.0
        """Seconds that the client takes for each part; infinite: it reads no more."""
        self.arrived = trio.Condition()

    def take(self, body: bytes) -> None:
        self.sent += body
        found = self._parser.feed(body)
        self.messages += found
        self.seqs += [int(json.loads(m.data).get("seq", 0)) for m in found if m.event == "message"]

    def of_kind(self, event: str) -> list[Any]:
        return [json.loads(message.data) for message in self.messages if message.event == event]

    @property
    def last_id(self) -> str:
        return self._parser.last_event_id

    async def wait_for(self, condition) -> None:
        """Wait until ``condition`` is true of what was sent."""
        async with self.arrived:
            while not condition(self):
                assert not self.is_over, self.sent
                await self.arrived.wait()


@asynccontextmanager
async def streaming(app, path, parameters=(), **more) -> AsyncIterator[Stream]:
    stream = Stream()

    async def receive():
        if not stream.status:
            await trio.lowlevel.checkpoint()
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        # For ever, if it is infinite.
        await trio.sleep(stream.read_time)
        async with stream.arrived:
            stream.status = message.get("status", stream.status)
            stream.take(message.get("body", b""))
            stream.arrived.notify_all()

    async def run():
        await app(request_scope(path, parameters, **more), receive, send)
        async with stream.arrived:
            stream.is_over = True
            stream.arrived.notify_all()

    gone = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        yield stream
        gone.set()
        nursery.cancel_scope.cancel()


# --- over a socket --------------------------------------------------------------------------------


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


async def connect(url: str) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port_of(url))


def head(url: str, path: str, *lines: str, method: str = "GET") -> bytes:
    given = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port_of(url)}", *lines)
    return "\r\n".join((*given, "", "")).encode()


async def read_all(stream: trio.SocketStream) -> bytes:
    data = b""
    try:
        while part := await stream.receive_some():
            data += part
    except trio.BrokenResourceError:
        pass
    return data


async def fetch(url: str, path: str, *lines: str) -> bytes:
    """A request over a connection of its own, and what comes back."""
    async with await connect(url) as stream:
        await stream.send_all(head(url, path, "Connection: close", *lines))
        return await read_all(stream)
