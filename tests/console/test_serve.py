"""The server, over sockets: what clients do wrong harms neither the console nor the program."""

import json
import logging
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests._helpers.console import connect, fetch, head, port_of, read_all
from tests._helpers.events import agent
from tests._helpers.sockets import sockets
from trio_eventlog import AgentEvent, open_event_log
from trio_eventlog.console import ConsoleLimits, serve_console
from trio_eventlog.stores import MemoryStore

SECONDS = 20
"""How long a test waits for what takes a moment."""


@asynccontextmanager
async def serving(shown=None, *, port=0, **more):
    limits = ConsoleLimits(**more.pop("limits", {}))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(SECONDS):
            shown = MemoryStore() if shown is None else shown
            start = partial(serve_console, shown, port=port, limits=limits, **more)
            url = await nursery.start(start)
            yield url
        nursery.cancel_scope.cancel()


async def is_well(url):
    answer = await fetch(url, "/api/logs")
    return answer.startswith(b"HTTP/1.1 200 ")


def json_in(answer):
    return json.loads(answer.partition(b"\r\n\r\n")[2])


# --- what works -----------------------------------------------------------------------------------


async def test_a_program_shows_its_log():
    async with open_event_log(MemoryStore(), flush_interval=0.01) as log, serving(log) as url:
        log.ingest(AgentEvent("w", "t"))
        await log.flush()
        assert b"<!doctype html>" in await fetch(url, "/")
        assert json_in(await fetch(url, "/api/events"))["events"][0]["seq"] == "1"
        async with await connect(url) as stream:
            await stream.send_all(head(url, "/api/events/stream?after_seq=0"))
            data = b""
            while b"id: 2" not in data:
                data += await stream.receive_some()
                if b"id: 1" in data and log.statistics().last_assigned_seq == 1:
                    log.ingest(AgentEvent("w", "t"))
        live = json_in(await fetch(url, "/api/statistics"))["live"]
        assert (live["state"], live["persisted"], live["last_durable_seq"]) == ("open", 2, "2")
        tasks = json_in(await fetch(url, "/api/tasks"))["tasks"]
        assert any(task["is_log"] for task in tasks)
        assert any(task["is_console"] for task in tasks)


async def test_several_requests_on_a_connection():
    async with serving() as url, await connect(url) as stream:
        for _ in range(3):
            await stream.send_all(head(url, "/api/logs"))
            data = b""
            while not data.endswith(b"}"):
                data += await stream.receive_some()
            assert data.startswith(b"HTTP/1.1 200 ")


async def test_the_port_that_is_found_is_reported():
    async with serving() as first, serving() as second:
        assert port_of(first) != port_of(second)
        assert first == f"http://127.0.0.1:{port_of(first)}/"


async def test_an_address_in_use_is_an_error_of_the_start():
    async with serving() as url:
        with pytest.raises(OSError, match=r"(?i)address"):
            await serve_console(MemoryStore(), port=port_of(url))
        assert await is_well(url)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"shown": 5}, TypeError, "stores"),
        ({"shown": MemoryStore}, TypeError, "stores"),
        ({"shown": {1: MemoryStore()}}, TypeError, "stores"),
        ({"host": 5}, TypeError, "host"),
        ({"host": "0.0.0.0"}, ValueError, "token"),  # noqa: S104 - it is refused
        ({"host": "example.org"}, ValueError, "token"),
        ({"port": "1"}, TypeError, "port"),
        ({"port": True}, TypeError, "port"),
        ({"port": 65536}, ValueError, "port"),
        ({"token": "short"}, ValueError, "token"),
        ({"allowed_hosts": "a"}, TypeError, "allowed_hosts"),
        ({"limits": 5}, TypeError, "limits"),
    ],
)
async def test_wrong_arguments(arguments, error, name):
    shown = arguments.pop("shown", MemoryStore())
    with pytest.raises(error, match=f"^{name}: "):
        await serve_console(shown, **{"port": 0, **arguments})


@pytest.mark.parametrize("field", ["connections", "streams", "requests"])
def test_limits_are_counts(field):
    with pytest.raises(ValueError, match=field):
        ConsoleLimits(**{field: 0})
    with pytest.raises(TypeError, match=field):
        ConsoleLimits(**{field: 1.5})


@pytest.mark.parametrize(
    "field", ["request_timeout", "header_timeout", "slow_client", "write_timeout", "keep_alive"]
)
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_seconds(field, value):
    with pytest.raises(ValueError, match=field):
        ConsoleLimits(**{field: value})
    with pytest.raises(TypeError, match=field):
        ConsoleLimits(**{field: "1"})


# --- what clients do ------------------------------------------------------------------------------


async def test_half_a_head_is_not_waited_for():
    async with serving(limits={"header_timeout": 0.1}) as url, await connect(url) as stream:
        await stream.send_all(b"GET /api/logs HTTP/1.1\r\nHost: 127.")
        assert await read_all(stream) == b""


async def test_a_connection_without_a_request_is_not_kept():
    async with serving(limits={"header_timeout": 0.1}) as url, await connect(url) as stream:
        assert await read_all(stream) == b""


async def test_a_client_that_never_reads_is_disconnected():
    store = MemoryStore()
    await store.append_batch([agent(seq, payload="x" * 60_000) for seq in range(1, 200)])
    async with serving(store, limits={"write_timeout": 0.2}) as url:
        before = sockets()
        stream = await connect(url)
        await stream.send_all(head(url, "/api/events/stream?after_seq=0&max_payload=1048576"))
        while sockets() > before + 1:  # noqa: ASYNC110 - nobody says so
            await trio.sleep(0.02)
        # The server's end is gone: what comes is cut off.
        assert len(await read_all(stream)) < 12_000_000
        await stream.aclose()
        assert await is_well(url)


async def test_a_client_that_never_reads_keeps_no_program_from_ending():
    """Anycorn shields what it sends, so that this would last until the client reads."""
    store = MemoryStore()
    await store.append_batch([agent(seq, payload="x" * 60_000) for seq in range(1, 200)])
    async with serving(store) as url:
        stream = await connect(url)
        await stream.send_all(head(url, "/api/events/stream?after_seq=0&max_payload=1048576"))
        # The buffers are full once nothing moves any more.
        await trio.sleep(0.3)
        began = trio.current_time()
    assert trio.current_time() - began < 1
    await stream.aclose()


UPGRADES = {
    "websocket": (
        *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "half a websocket": ("Connection: Upgrade", "Upgrade: websocket"),
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "h2c, malformed": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: !!!"),
    "something else": ("Connection: Upgrade", "Upgrade: nothing/1"),
}
BEHIND = {
    "nothing": b"",
    "a byte": b"\x00",
    "a frame": b"\x81\x85\x00\x00\x00\x00hello",
    "a request": b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_upgrade_with_something_behind_it(upgrade, behind, caplog):
    async with serving() as url:
        async with await connect(url) as stream:
            await stream.send_all(head(url, "/api/events/stream", *UPGRADES[upgrade]) + BEHIND[behind])
            with trio.move_on_after(0.3):
                answer = await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 ") or not answer
                assert not answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket")
        assert await is_well(url)
    assert not [
        record for record in caplog.records if record.levelno >= logging.ERROR and record.name == "trio"
    ]


@pytest.mark.parametrize(
    "request_text",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://evil.example/api/logs HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/logs HTTP/1.1\r\n\r\n",
        b"GET /api/logs HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /api/logs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /api/logs HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /%zz/%00/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /static/../_app.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /static/%2e%2e/_app.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"BREW /api/logs HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /rpc HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_malformed_and_hostile_requests(request_text):
    async with serving() as url:
        async with await connect(url) as stream:
            await stream.send_all(request_text)
            with trio.move_on_after(0.4):
                answer = await read_all(stream)
                assert not answer.startswith(b"HTTP/1.1 2")
                assert b"def create_app" not in answer
        assert await is_well(url)


@pytest.mark.parametrize("way", ["upgrade", "at once"])
async def test_http_2_is_refused(way):
    """One connection would carry as many requests as it likes."""
    from h2.connection import H2Connection
    from h2.events import ResponseReceived

    client = H2Connection()
    async with serving() as url, await connect(url) as stream:
        if way == "upgrade":
            settings = client.initiate_upgrade_connection().decode()
            lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", f"HTTP2-Settings: {settings}")
            await stream.send_all(head(url, "/api/logs", *lines))
            answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 101 ")
            await stream.send_all(client.data_to_send())
            data = answer.partition(b"\r\n\r\n")[2]
        else:
            client.initiate_connection()
            authority = f"127.0.0.1:{port_of(url)}"
            pseudo = {":method": "GET", ":path": "/api/logs", ":scheme": "http", ":authority": authority}
            client.send_headers(1, list(pseudo.items()), end_stream=True)
            await stream.send_all(client.data_to_send())
            data = b""
        while True:
            found = [event for event in client.receive_data(data) if isinstance(event, ResponseReceived)]
            if found:
                break
            data = await stream.receive_some()
            assert data
    assert dict(found[0].headers)[b":status"] == b"505"


async def test_a_body_that_never_ends_costs_a_moment(monkeypatch):
    monkeypatch.setattr("trio_eventlog.console._rpc._BODY_TIMEOUT", 0.1)
    async with serving() as url, await connect(url) as stream:
        lines = ("Content-Type: application/json", "Content-Length: 1000")
        await stream.send_all(head(url, "/rpc", *lines, method="POST") + b"{")
        assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")


async def test_connections_are_counted():
    async with serving(limits={"connections": 2}) as url:
        async with await connect(url) as one, await connect(url) as two:
            for stream in (one, two):
                await stream.send_all(head(url, "/api/events/stream"))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            answer = await fetch(url, "/api/logs")
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert json_in(answer)["error"]["code"] == "busy"
        while not await is_well(url):  # noqa: ASYNC110 - nobody says so
            await trio.sleep(0.02)


async def test_clients_that_vanish_leave_nothing_behind():
    async with serving() as url:
        before = sockets()
        for _ in range(20):
            stream = await connect(url)
            await stream.send_all(head(url, "/api/events/stream"))
            await stream.receive_some()
            await stream.aclose()
        while sockets() > before:  # noqa: ASYNC110 - nobody says so
            await trio.sleep(0.02)


# --- what goes wrong within -----------------------------------------------------------------------


async def test_a_defect_ends_a_request_and_nothing_else(monkeypatch, caplog):
    class BrokenStore(MemoryStore):
        async def last_seq(self):
            raise ZeroDivisionError("a defect")

    async with serving(BrokenStore()) as url:
        answer = await fetch(url, "/api/events")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert json_in(answer)["error"]["code"] == "internal"
        assert b"ZeroDivisionError" not in answer
        answer = await fetch(url, "/api/events/stream?after_seq=0")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert await is_well(url)
    assert "a defect" in caplog.text
    assert {record.name for record in caplog.records} == {"trio_eventlog.console"}


async def test_a_defect_of_the_server_ends_a_connection_and_nothing_else(monkeypatch, caplog):
    from anycorn.tcp_server import TCPServer

    async def fail(self):
        await trio.lowlevel.checkpoint()
        raise ExceptionGroup("several", [ZeroDivisionError("a defect of the server")])

    async with serving() as url:
        with monkeypatch.context() as patched:
            patched.setattr(TCPServer, "run", fail)
            assert await fetch(url, "/api/logs") == b""
        assert await is_well(url)
    assert "a defect of the server" in caplog.text


async def test_what_ends_the_program_is_not_kept_from_it(monkeypatch):
    from anycorn.tcp_server import TCPServer

    async def interrupt(self):
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    monkeypatch.setattr(TCPServer, "run", interrupt)
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: ASYNC401 - nested, however deep
        async with serving() as url:
            await fetch(url, "/api/logs")
            await trio.sleep_forever()
    assert caught.value.split(KeyboardInterrupt)[0] is not None


async def test_a_sampler_that_fails_is_started_again(monkeypatch, caplog):
    monkeypatch.setattr("trio_eventlog.console._serve._RESTART_AFTER", 0.01)
    from trio_eventlog.console._sampler import Sampler

    failures = []

    def fail(self, now):
        failures.append(now)
        raise ZeroDivisionError("a defect of the sampler")

    monkeypatch.setattr(Sampler, "look", fail)
    async with open_event_log(MemoryStore()) as log, serving(log) as url:
        while len(failures) < 3:  # noqa: ASYNC110 - nobody says so
            await trio.sleep(0.01)
        assert await is_well(url)
    assert "a defect of the sampler" in caplog.text


async def test_cancelling_frees_the_port_and_every_socket():
    before = sockets()
    async with serving() as url:
        stream = await connect(url)
        await stream.send_all(head(url, "/api/events/stream"))
        await stream.receive_some()
    await stream.aclose()
    assert sockets() == before
    async with serving(port=port_of(url)) as again:
        assert port_of(again) == port_of(url)


async def test_entered_cancelled_it_does_nothing():
    with trio.CancelScope() as scope:
        scope.cancel()
        await serve_console(MemoryStore(), port=0)
    assert scope.cancelled_caught


async def test_without_tasks_and_without_a_log():
    async with open_event_log(MemoryStore()) as log, serving(log, tasks=False) as url:
        assert (await fetch(url, "/api/tasks")).startswith(b"HTTP/1.1 501 ")
    async with serving() as url:
        assert (await fetch(url, "/api/tasks")).startswith(b"HTTP/1.1 501 ")
        assert json_in(await fetch(url, "/api/statistics"))["live"] is None


async def test_the_token_over_a_socket():
    token = "a-token-of-some-length"  # noqa: S105 - of a test
    async with serving(token=token) as url:
        assert (await fetch(url, "/api/logs")).startswith(b"HTTP/1.1 401 ")
        assert (await fetch(url, "/api/logs", f"Authorization: Bearer {token}")).startswith(b"HTTP/1.1 200 ")
