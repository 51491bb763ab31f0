"""The connection of JetStreamStore to servers that say odd things; no NATS server is needed."""

import json
import logging
import signal
import threading
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

from tests._helpers.interrupts import interrupt_in_contextlib
from trio_eventlog import StoreError, StoreUnusable
from trio_eventlog._ki import ki_protected
from trio_eventlog.stores import JetStreamStore
from trio_eventlog.stores.jetstream import _transport
from trio_eventlog.stores.jetstream._access import Access, Server, access
from trio_eventlog.stores.jetstream._api import Stream
from trio_eventlog.stores.jetstream._connection import Connection, decode, open_connection
from trio_eventlog.stores.jetstream._inbox import PermissionDenied
from trio_eventlog.stores.jetstream._protocol import Message, Publish
from trio_eventlog.stores.jetstream._transport import Wire

INFO = {"server_id": "X", "version": "2.14.4", "max_payload": 1048576, "headers": True, "proto": 1}


def greeting(**more):
    return b"INFO " + json.dumps(INFO | more).encode() + b"\r\n"


class Peer:
    """One connection of a client, as the server has it."""

    def __init__(self, stream):
        self.stream = stream
        self.received = b""

    async def until(self, text):
        """Receive until some text has come, and answer pings."""
        while text not in self.received:
            data = await self.stream.receive_some()
            if not data:
                raise trio.BrokenResourceError
            self.received += data
            for _ in range(data.count(b"PING\r\n")):
                await self.stream.send_all(b"PONG\r\n")

    async def serve(self):
        await self.until(b"never")


@asynccontextmanager
async def fake_server(behave):
    """A server that does with each of its clients what ``behave`` says."""

    async def serve(stream):
        with suppress(trio.BrokenResourceError):
            await behave(Peer(stream))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"nats://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def ordinary(peer, **more):
    await peer.stream.send_all(greeting(**more))
    await peer.serve()


async def until(condition):
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - nothing tells when it changes
            await trio.sleep(0.01)


# --- what servers advertise -----------------------------------------------------------------------

MALFORMED = [["10.0.0.5:99999"], ["a..b:1"], [None, 17], "h:x", {"x:y": 1}, 17]


@pytest.mark.parametrize("urls", MALFORMED, ids=repr)
async def test_an_advertised_address_that_cannot_be_parsed_is_ignored(urls, caplog):
    """On connecting, and later; there is one warning."""
    go_on = trio.Event()

    async def behave(peer):
        await peer.stream.send_all(greeting(connect_urls=urls))
        await peer.until(b"SUB")
        await go_on.wait()
        await peer.stream.send_all(greeting(connect_urls=urls) + greeting(connect_urls=urls, max_payload=7))
        await peer.serve()

    async with fake_server(behave) as url, open_connection(access(url)) as connection:
        go_on.set()
        await until(lambda: connection.info.max_payload == 7)
        connection.check_connected()
        assert connection.generation == 1
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == (0 if urls == 17 else len(urls) if isinstance(urls, list) else 1)
    assert all("cannot be parsed" in warning for warning in warnings)


@pytest.mark.parametrize("urls", MALFORMED, ids=repr)
async def test_what_leaves_the_store_then_is_one_plain_error(urls):
    async with fake_server(partial(ordinary, connect_urls=urls, max_payload=1)) as url:
        with pytest.raises(StoreUnusable, match="max_payload is 1 bytes"):
            async with JetStreamStore.open(url):
                pass


# --- what servers say -----------------------------------------------------------------------------

DEEP = b'INFO {"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}\r\n"
"""Deeper than a decoder goes that calls itself for each level."""


@pytest.mark.parametrize(
    "nonsense",
    [b"NONSENSE\r\n", b"MSG x\r\n", b"INFO {\r\n", b"MSG a 0 1\r\nxyz", b"INFO \xff\r\n", DEEP],
    ids=lambda nonsense: repr(nonsense[:20]),
)
async def test_a_server_that_stops_following_the_protocol(nonsense):
    """The connection is made anew."""
    peers = []

    async def behave(peer):
        peers.append(peer)
        await peer.stream.send_all(greeting())
        await peer.until(b"SUB")
        if len(peers) == 1:
            await peer.stream.send_all(nonsense)
        await peer.serve()

    async with fake_server(behave) as url, open_connection(access(url)) as connection:
        await until(lambda: connection.generation == 2)
        connection.check_connected()


async def test_a_greeting_that_is_too_deep():
    """One plain error."""
    async with fake_server(lambda peer: peer.stream.send_all(DEEP)) as url:
        with pytest.raises(StoreError, match="too many levels"):
            async with open_connection(access(url)):
                pass


async def test_an_answer_that_is_too_deep():
    """It is no bug of the connection either."""

    async def behave(peer):
        await peer.stream.send_all(greeting())
        await peer.until(b"PUB ")
        reply = peer.received.split(b"PUB a ")[1].split()[0]
        data = DEEP[5:-2]
        await peer.stream.send_all(b"MSG %b 0 %d\r\n%b\r\n" % (reply, len(data), data))
        await peer.serve()

    async with fake_server(behave) as url, open_connection(access(url)) as connection:
        message = await connection.request("a")
        with pytest.raises(StoreError, match="not a JSON object"):
            decode(message)


@pytest.mark.parametrize("answer", [b'{"error":"x"}', b'{"config":null,"state":{}}', b'{"config":[]}'])
def test_an_answer_of_the_wrong_shape(answer):
    with pytest.raises(StoreError, match="the server answers with a malformed"):
        decode(Message("a", 0, data=answer))


async def test_an_answer_that_does_not_tell_of_the_stream(monkeypatch):
    async def call(*_arguments, **_options):
        await trio.lowlevel.checkpoint()
        return {}

    monkeypatch.setattr(Stream, "_call", call)
    with pytest.raises(StoreError, match="does not say how it is configured"):
        await Stream(None, "EVENTLOG").info()


async def test_a_server_that_closes_with_an_error():
    """Its words are what calls raise until there is a connection again."""
    peers = []

    async def behave(peer):
        peers.append(peer)
        if len(peers) > 1:
            await trio.sleep_forever()
        await peer.stream.send_all(greeting())
        await peer.until(b"PUB x")
        await peer.stream.send_all(b"-ERR 'Maximum Payload Violation'\r\n")

    async with fake_server(behave) as url, open_connection(access(url)) as connection:
        with connection.expecting() as inbox:
            connection.send([Publish("x", b"", None, inbox.reply)])
            with pytest.raises(StoreError, match="Maximum Payload Violation"):
                await inbox.wait(5)
        with pytest.raises(StoreError, match="not connected: Maximum Payload Violation"):
            connection.send([])


async def test_a_permission_that_is_missing_is_told_to_what_waits_for_it():
    async def behave(peer):
        await peer.stream.send_all(greeting())
        await peer.until(b"PUB b.c")
        await peer.stream.send_all(b"-ERR 'Permissions Violation for Publish to \"B.c\"'\r\n")
        await peer.serve()

    async with fake_server(behave) as url, open_connection(access(url)) as connection:
        with connection.expecting() as other, connection.expecting() as denied:
            connection.send([Publish("a", b"", None, other.reply), Publish("b.c", b"", None, denied.reply)])
            with trio.fail_after(2), pytest.raises(PermissionDenied, match=r'Publish to "B\.c"'):
                await denied.wait(60)
            with trio.move_on_after(0.05) as scope:
                await other.wait(60)
            assert scope.cancelled_caught


async def test_a_user_that_may_not_receive_answers_is_told_at_once():
    async def behave(peer):
        await peer.stream.send_all(greeting())
        await peer.until(b"SUB _INBOX.")
        subject = peer.received.partition(b"SUB ")[2].split()[0]
        await peer.stream.send_all(b"-ERR 'Permissions Violation for Subscription to \"%s\"'\r\n" % subject)
        await peer.serve()

    async with fake_server(behave) as url, open_connection(access(url)) as connection:
        for _ in range(2):
            with trio.fail_after(2), pytest.raises(PermissionDenied, match="Subscription"):
                await connection.request("a", seconds=60)


async def test_a_server_that_falls_silent(monkeypatch):
    """It is given up after three pings without an answer, although the network takes what is sent."""
    monkeypatch.setattr(_transport, "PING_INTERVAL", 0.05)

    async def behave(peer):
        await peer.stream.send_all(greeting())
        await peer.until(b"SUB")
        await trio.sleep_forever()

    async with fake_server(behave) as url, open_connection(access(url)) as connection:
        with connection.expecting() as inbox, pytest.raises(StoreError, match="does not answer"):
            await inbox.wait(5)
        await until(lambda: connection.generation > 1)


async def test_a_program_that_blocks_the_loop_keeps_its_connection(monkeypatch):
    """It has not looked for the answers, that is all."""
    monkeypatch.setattr(_transport, "PING_INTERVAL", 0.02)
    async with fake_server(ordinary) as url, open_connection(access(url)) as connection:
        for _ in range(5):
            threading.Event().wait(0.2)
            await trio.sleep(0.01)
        assert connection.generation == 1


async def test_news_of_the_cluster_leave_the_rest_as_it_was():
    """Some servers say no more than what has changed."""

    async def behave(peer):
        await peer.stream.send_all(greeting())
        await peer.until(b"SUB")
        await peer.stream.send_all(b'INFO {"connect_urls":["10.0.0.5:4222"]}\r\n')
        await peer.serve()

    async with fake_server(behave) as url, open_connection(access(url)) as connection:
        await until(lambda: len(connection._servers) == 2)
        assert connection.info.max_payload == 1048576


async def test_a_server_that_is_about_to_shut_down_is_left():
    """If another one is known."""
    lame = []

    async def behave(peer, name):
        await peer.stream.send_all(greeting())
        await peer.until(b"SUB")
        if not lame:
            lame.append(name)
            await peer.stream.send_all(greeting(ldm=True))
        await peer.serve()

    async with (
        fake_server(partial(behave, name="one")) as one,
        fake_server(partial(behave, name="other")) as other,
    ):
        async with open_connection(access(f"{one},{other}")) as connection:
            await until(lambda: connection.generation == 2)
            assert connection._wire.server.port == int(other.rpartition(":")[2])
        lame.clear()
        async with open_connection(access(one)) as connection:
            await until(lambda: connection.info.ldm)
            assert connection.info.max_payload == 1048576
            connection.check_connected()
            assert connection.generation == 1


# --- bugs -----------------------------------------------------------------------------------------


def broken(*_):
    raise KeyError("a bug")


@pytest.mark.parametrize("place", ["on_info", "on_message", "_write", "_watch", "_reconnect", "start_soon"])
async def test_a_bug_comes_out_as_one_plain_error(monkeypatch, caplog, place):
    """The body is cancelled, and the error says why."""
    monkeypatch.setattr(_transport, "PING_INTERVAL", 0.01)
    begins = trio.Event()

    async def behave(peer):
        await peer.stream.send_all(greeting())
        await peer.until(b"PING")
        await begins.wait()
        if place == "on_info":
            await peer.stream.send_all(greeting())
        elif place == "on_message":
            await peer.stream.send_all(b"MSG x 0 0\r\n\r\n")
        elif place == "_reconnect":
            return
        await peer.serve()

    async def broken_task(*_):
        broken()

    if place in ("on_info", "on_message"):
        monkeypatch.setattr(Connection, place, broken)
    elif place == "_reconnect":
        monkeypatch.setattr(Connection, place, broken_task)
    elif place in ("_write", "_watch"):
        monkeypatch.setattr(Wire, place, broken_task)
    async with fake_server(behave) as url:
        with trio.fail_after(5), pytest.raises(StoreUnusable, match="internal error") as caught:
            async with open_connection(access(url)) as connection:
                if place == "start_soon":
                    await trio.testing.wait_all_tasks_blocked()
                    connection.start_soon(broken_task)
                begins.set()
                await trio.sleep_forever()
        assert repr(caught.value.__cause__) == "KeyError('a bug')"
        with pytest.raises(StoreUnusable, match="internal error") as again:
            connection.check_open()
        assert again.value is not caught.value
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


async def test_what_the_body_raises_for_a_bug_comes_out_as_it_is(monkeypatch):
    monkeypatch.setattr(_transport, "PING_INTERVAL", 0.01)
    monkeypatch.setattr(Wire, "_watch", broken)
    async with fake_server(ordinary) as url:
        with trio.fail_after(5), pytest.raises(ZeroDivisionError):
            async with open_connection(access(url)):
                try:
                    await trio.sleep_forever()
                finally:
                    raise ZeroDivisionError


async def test_a_bug_does_not_hide_a_cancellation_from_outside(monkeypatch):
    monkeypatch.setattr(Wire, "_watch", broken)
    async with fake_server(ordinary) as url:
        with trio.CancelScope() as scope:
            async with open_connection(access(url)):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


# --- opening and leaving --------------------------------------------------------------------------


async def test_it_connects_while_all_threads_of_the_program_are_busy():
    """It looks up names in threads of its own."""
    limiter = trio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.available_tokens))]
    async with fake_server(ordinary) as url:
        for borrower in borrowers:
            limiter.acquire_on_behalf_of_nowait(borrower)
        try:
            with trio.fail_after(5):
                async with open_connection(access(url.replace("127.0.0.1", "localhost"))) as connection:
                    connection.check_connected()
        finally:
            for borrower in borrowers:
                limiter.release_on_behalf_of(borrower)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "nowhere.invalid"])
async def test_a_name_that_the_resolver_rejects(host):
    """However it does so."""
    with pytest.raises(StoreError) as caught:
        async with open_connection(Access(servers=(Server(host, 4222),))):
            pass
    assert not isinstance(caught.value, StoreUnusable)
    assert host in str(caught.value)


async def test_leaving_sends_what_was_given_to_it():
    received = []

    async def behave(peer):
        try:
            await ordinary(peer)
        finally:
            received.append(peer.received)

    async with fake_server(behave) as url:
        async with open_connection(access(url)) as connection:
            connection.send([Publish("last.words", b"x" * 1_000_000)])
        await until(lambda: received)
    assert b"PUB last.words 1000000\r\n" in received[0]
    assert received[0].endswith(b"x\r\n")


@pytest.mark.parametrize("methods", [["finish"], ["finish", "_next_chunk"]], ids=["once", "twice"])
def test_ctrl_c_while_it_is_left(monkeypatch, methods):
    """It comes out bare, once the connection has ended."""

    def interrupting(method):
        original = getattr(Wire, method)

        def call(wire):
            signal.raise_signal(signal.SIGINT)
            return original(wire)

        return call

    async def main():
        async with fake_server(ordinary) as url:
            with pytest.raises(KeyboardInterrupt):
                async with ki_protected(open_connection)(access(url)) as connection:
                    wire = connection._wire
                    connection.send([Publish("a", b"x" * 10_000_000)])
                    for method in methods:
                        monkeypatch.setattr(Wire, method, interrupting(method))
            assert wire.stream.socket.fileno() == -1
            await trio.lowlevel.checkpoint()

    trio.run(main)


@pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])
def test_ctrl_c_within_contextlib(method):
    """The store is left all the same."""
    wires = []

    async def main():
        async with fake_server(ordinary) as url:
            with pytest.raises(KeyboardInterrupt):
                with interrupt_in_contextlib(method):
                    async with ki_protected(open_connection)(access(url)) as connection:
                        wires.append(connection._wire)
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            assert all(wire.stream.socket.fileno() == -1 for wire in wires)

    trio.run(main)
