"""The connection of JetStreamStore: its life, secrets, and networks that hang."""

import itertools
import os
import signal
import socket
import ssl
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial

import pytest
import trio
import trio.testing
import trustme

from tests._helpers.eventually import InterruptedTurn
from tests._helpers.longest_step import measured_steps
from tests._helpers.nats_server import Node, free_ports, running_server
from tests._helpers.sockets import sockets
from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent, StoreError, StoreUnusable
from trio_eventlog.stores import JetStreamStore, open_store
from trio_eventlog.stores.jetstream import _appender as appender
from trio_eventlog.stores.jetstream._access import access
from trio_eventlog.stores.jetstream._connection import Connection, open_connection
from trio_eventlog.stores.jetstream._protocol import Publish
from trio_eventlog.testing import TcpProxy

SECRET = "s3cret-word"  # noqa: S105 - of a server that lives for a test

names = itertools.count(1)


@pytest.fixture(scope="module")
def server():
    with running_server() as node:
        yield node


@pytest.fixture
def log_name():
    return f"log-{next(names)}"


def event(seq, payload=None):
    return PersistedEvent(f"id-{seq}", seq, 1_000 + seq, None, ModuleEvent("m", "t", payload))


@asynccontextmanager
async def proxied(server, log_name):
    async with (
        TcpProxy.open(server.port) as proxy,
        JetStreamStore.open(f"nats://127.0.0.1:{proxy.port}", log=log_name, lock_timeout=60) as store,
    ):
        yield proxy, store


async def until(condition, *, seconds):
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - nothing tells when it changes
            await trio.sleep(0.01)


# --- its life -------------------------------------------------------------------------------------


async def test_the_connection_lives_as_long_as_the_block(server, log_name):
    before = sockets()
    with pytest.raises(ZeroDivisionError):
        async with JetStreamStore.open(server.url, log=log_name):
            assert sockets() == before + 1
            raise ZeroDivisionError
    assert sockets() == before
    with trio.CancelScope() as scope:
        async with JetStreamStore.open(server.url, log=log_name):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert sockets() == before


@pytest.mark.parametrize("seconds", [0, 0.001, 0.01, 0.05])
async def test_a_cancelled_opening_leaves_nothing(server, log_name, seconds):
    before = sockets()
    with trio.move_on_after(seconds):
        async with JetStreamStore.open(server.url, log=log_name):
            await trio.sleep_forever()
    assert sockets() == before
    async with JetStreamStore.open(server.url, log=log_name) as store:
        assert await store.last_seq() == 0


async def test_s15_cancelled_while_the_lock_is_taken(server, log_name, monkeypatch):
    """The lock may be on its way to the server yet, and is given back all the same."""
    send = Connection.send
    for _ in range(50):
        with monkeypatch.context() as patch, trio.CancelScope() as scope:

            def send_and_cancel(link, items, cancel=scope.cancel):
                send(link, items)
                if items[0].subject.endswith(".lock"):
                    cancel()

            patch.setattr(Connection, "send", send_and_cancel)
            async with JetStreamStore.open(server.url, log=log_name):
                pytest.fail("not cancelled")  # pragma: no cover
        async with JetStreamStore.open(server.url, log=log_name) as store:
            assert await store.last_seq() == 0


async def test_s13_what_waits_for_its_turn_is_not_sent_once_the_store_is_left(server, log_name):
    """Neither what has waited when the store was left, nor what comes while that takes."""

    held, release = trio.Event(), trio.Event()

    async def hold(turn):
        async with turn:
            held.set()
            await release.wait()

    async def refused(store, seq):
        with pytest.raises(StoreUnusable, match="closed"):
            await store.append_batch([event(seq)])

    async def come_late(store, turn):
        while turn.statistics().tasks_waiting < 2:  # noqa: ASYNC110 - until closing waits for its turn, too
            await trio.sleep(0.01)
        nursery.start_soon(refused, store, 2)
        await trio.testing.wait_all_tasks_blocked()
        release.set()

    async with trio.open_nursery() as nursery:
        async with JetStreamStore.open(server.url, log=log_name) as store:
            turn = store._appender._turn
            nursery.start_soon(hold, turn)
            await held.wait()
            nursery.start_soon(refused, store, 1)  # noqa: ASYNC111 - what outlives the store is the point
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(come_late, store, turn)  # noqa: ASYNC111 - as above
    async with JetStreamStore.open(server.url, log=log_name) as store:
        assert await store.last_seq() == 0


def test_keyboard_interrupt_comes_out_bare(server, log_name):
    async def main():
        async with JetStreamStore.open(server.url, log=log_name) as store:
            await store.append_batch([event(1)])
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

    before = sockets()
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert sockets() == before

    async def again():
        async with JetStreamStore.open(server.url, log=log_name) as store:
            return await store.last_seq()

    assert trio.run(again) == 1


@pytest.mark.parametrize("nth", range(1, 8))
def test_s15_ctrl_c_while_opening_or_closing(server, log_name, monkeypatch, nth):
    """It comes out bare, and the lock is free at once: whatever the server was just asked for."""
    send = Connection.send
    calls = itertools.count(1)

    def send_and_interrupt(link, items):
        send(link, items)
        if next(calls) == nth:
            signal.raise_signal(signal.SIGINT)

    async def main():
        async with JetStreamStore.open(server.url, log=log_name, lock_timeout=60) as store:
            return await store.last_seq()

    async def open_and_leave():
        async with JetStreamStore.open(server.url, log=log_name, lock_timeout=60):
            pass

    before = sockets()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Connection, "send", send_and_interrupt)
        trio.run(open_and_leave)

    assert trio.run(main) == 0
    assert sockets() == before


def test_s15_ctrl_c_just_as_an_append_begins(server, log_name):
    """Nobody holds the turn afterwards, for which closing waits."""

    async def main():
        async with JetStreamStore.open(server.url, log=log_name, lock_timeout=60) as store:
            turn = store._appender._turn
            store._appender._turn = InterruptedTurn(turn)
            try:
                await store.append_batch([event(1)])
            finally:
                store._appender._turn = turn

    async def again():
        async with JetStreamStore.open(server.url, log=log_name) as store:
            return await store.last_seq()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert trio.run(again) in (0, 1)


def test_s15_ctrl_c_just_before_the_connection_is_closed(server, log_name, monkeypatch):
    close = Connection.aclose

    async def interrupt_and_close(link):
        signal.raise_signal(signal.SIGINT)
        await close(link)

    async def main():
        async with JetStreamStore.open(server.url, log=log_name):
            pass

    before = sockets()
    monkeypatch.setattr(Connection, "aclose", interrupt_and_close)
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert sockets() == before


async def test_nobody_listens():
    (port,) = free_ports(1)
    before = sockets()
    with pytest.raises(StoreError, match=f"127.0.0.1:{port}: Connection refused") as caught:
        async with JetStreamStore.open(f"nats://127.0.0.1:{port}"):
            pass
    assert not isinstance(caught.value, StoreUnusable)
    assert sockets() == before


async def test_a_server_without_jetstream():
    with running_server(jetstream=False) as node:
        with pytest.raises(StoreUnusable, match="has no JetStream"):
            async with JetStreamStore.open(node.url):
                pass


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (f"authorization {{ user: u, password: {SECRET} }}", {"user": "u", "password": SECRET}),
        (f"authorization {{ token: {SECRET} }}", {"token": SECRET}),
    ],
    ids=["a password", "a token"],
)
async def test_secrets(config, options):
    """The right one lets the store in; without it, the error says what to look at, and no secret."""
    before = sockets()
    with running_server(config=config) as node:
        async with JetStreamStore.open(node.url, **options) as store:
            await store.append_batch([event(1)])
            assert SECRET not in repr(store) + repr(store._stream.connection._dialer.access)
        wrong = {name: f"not-{value}" for name, value in options.items()}
        for tried in (wrong, {}):
            with pytest.raises(StoreUnusable, match=r"Authorization Violation.*check user") as caught:
                async with JetStreamStore.open(node.url, **tried):
                    pass
            assert SECRET not in str(caught.value)
    assert sockets() == before


async def test_a_secret_is_not_sent_in_the_clear():
    """tls:// insists: what the server would have to decrypt, one that cannot does not get."""
    with running_server(config=f"authorization {{ user: u, password: {SECRET} }}") as node:
        url = f"tls://127.0.0.1:{node.port}"
        with pytest.raises(StoreError, match="offers no TLS") as caught:
            async with JetStreamStore.open(url, user="u", password=SECRET):
                pass
        assert SECRET not in str(caught.value)
    with running_server() as node:
        with pytest.raises(StoreError, match="offers no TLS"):
            async with JetStreamStore.open(f"tls://127.0.0.1:{node.port}"):
                pass


async def test_credentials_that_are_none(server, tmp_path):
    path = tmp_path / "user.creds"
    with pytest.raises(StoreUnusable, match=r"user\.creds' cannot be read: No such file"):
        async with JetStreamStore.open(server.url, credentials=path):
            pass
    path.write_text("nothing of the kind\n")
    with pytest.raises(StoreUnusable, match="hold no user JWT"):
        async with JetStreamStore.open(server.url, credentials=path):
            pass


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [EventQuery(), EventQuery(run_id="r")], ids=["a walk", "a filter"])
async def test_s11_no_step_blocks_the_loop_with_the_largest_batch(server, log_name, query):
    """999 events of 64 KiB go to the server, and come back."""
    batch = [event(seq, {"run_id": "r", "text": "x" * 65_000}) for seq in range(1, 1_000)]
    async with JetStreamStore.open(server.url, log=log_name) as store:
        with measured_steps() as longest, trio.fail_after(30):
            await store.append_batch(batch)
            assert await store.last_seq() == 999
            assert len(await store.query(query)) == 999
            # All are there already: the server is asked where.
            assert await store.append_batch(batch) == ()

        assert longest.seconds < 0.1


async def test_a_network_that_hangs_while_much_is_unsent(server, log_name):
    """The connection is given up within seconds, although the system would go on trying for many minutes."""
    async with proxied(server, log_name) as (proxy, store):
        await store.append_batch([event(1)])
        link = store._stream.connection
        generation = link.generation
        proxy.stall()
        batch = [event(seq, "x" * 30_000) for seq in range(2, 900)]
        began = trio.current_time()
        with trio.move_on_after(0.2):
            await store.append_batch(batch)
        assert trio.current_time() - began < 1
        await until(lambda: link._wire is None, seconds=6)
        with pytest.raises(StoreError, match="not connected"):
            await store.append_batch(batch)
        proxy.resume()
        await until(lambda: link.generation > generation, seconds=10)
        await store.append_batch(batch)
        assert await store.last_seq() == 899


async def test_what_was_not_sent_is_not_sent_on_the_next_connection(server):
    """A message that was given to a connection that is lost is lost with it."""
    async with open_connection(access(server.url)) as listener, TcpProxy.open(server.port) as proxy:
        inbox = listener.open_inbox()
        async with open_connection(access(f"nats://127.0.0.1:{proxy.port}")) as link:
            proxy.stall()
            # More than what lies between the two, so that the last of them stay here.
            link.send([Publish(inbox.reply, b"x" * 1_000_000) for _ in range(100)])
            await trio.sleep(0.1)
            proxy.cut()
            proxy.resume()
            await until(lambda: link.generation > 1, seconds=10)
            link.send([Publish(inbox.reply, b"the end")])
            received = []
            while not received or received[-1].data != b"the end":
                received += await inbox.wait(5)
        assert len(received) < 101


async def test_leaving_while_much_is_unsent(server, log_name, monkeypatch):
    """Takes a bounded time."""
    monkeypatch.setattr(appender, "_CLOSE_TIMEOUT", 0.5)
    before = sockets()
    async with proxied(server, log_name) as (proxy, store):
        proxy.stall()
        with trio.move_on_after(0.2):
            await store.append_batch([event(seq, "x" * 30_000) for seq in range(2, 900)])
        began = trio.current_time()
    assert trio.current_time() - began < 8
    assert sockets() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork(server, log_name):
    """The child is told to open the store anew."""

    async def main():
        async with JetStreamStore.open(server.url, log=log_name) as store:
            pid = os.fork()
            if not pid:
                try:
                    store._stream.connection.check_open()
                except StoreUnusable as exc:
                    os._exit(0 if "forked" in str(exc) else 1)
                os._exit(2)
            _, status = await trio.to_thread.run_sync(os.waitpid, pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            await store.append_batch([event(1)])

    trio.run(main)


# --- who answers ----------------------------------------------------------------------------------


async def test_nobody_is_there():
    """All servers are tried, once each, and the error says what was wrong with each."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    with pytest.raises(StoreError) as caught:
        async with open_store(f"nats://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/S", read_only=True):
            pass
    assert not isinstance(caught.value, StoreUnusable)
    for port in ports:
        assert f"127.0.0.1:{port}: " in str(caught.value)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (b'{"version":"2.10.4","jetstream":true,"max_payload":1048576}', "needs 2.14.4 or newer"),
        (b'{"version":"2.14.4","jetstream":true,"max_payload":1000}', "max_payload is 1000 bytes"),
        (b'{"version":"2.14.3","jetstream":true,"max_payload":1048576}', "once; JetStreamStore needs 2.14.4"),
        (b'{"version":"dev"}', "needs 2.14.4 or newer"),
    ],
)
async def test_servers_that_will_not_do(info, words):
    async def serve(stream):
        async with stream:
            await stream.send_all(b"INFO " + info + b"\r\n")
            await stream.receive_some()
            await stream.send_all(b"PONG\r\n")
            async for _ in stream:
                pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(StoreUnusable, match=words):
            async with JetStreamStore.open(f"127.0.0.1:{port}"):
                pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n"])
async def test_another_protocol_is_told(greeting):
    async def serve(stream):
        async with stream:
            await stream.send_all(greeting)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(StoreError, match=r"does not speak the protocol of NATS.*INFO"):
            async with JetStreamStore.open(f"127.0.0.1:{port}"):
                pass
        nursery.cancel_scope.cancel()


# --- which server ---------------------------------------------------------------------------------


@contextmanager
def silent_places(count):
    """Where nobody ever answers, as at addresses that nobody has: listeners whose queue is full."""
    with ExitStack() as stack:
        places = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(3):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            places.append(f"127.0.0.1:{listener.getsockname()[1]}")
        yield places


async def test_servers_that_are_gone_are_forgotten():
    """Each time that the server is replaced it has another address, and nobody is at the old one."""
    (route,) = free_ports(1)

    def advertising(place):
        return f"cluster {{ name: c, listen: 127.0.0.1:{route} }}\nclient_advertise: '{place}'"

    with silent_places(6) as places, running_server(jetstream=False, config=advertising(places[0])) as node:
        async with open_connection(access(node.url)) as link:
            for old, new in itertools.pairwise(places):
                generation = link.generation
                await trio.to_thread.run_sync(node.kill)
                node.configure(advertising(old), advertising(new))
                await trio.to_thread.run_sync(node.start)
                # One attempt of half a second with who is gone, however many have gone before.
                await until(partial(_is_later, link, generation), seconds=3)


def _is_later(link, generation):
    return link.generation > generation


async def test_servers_that_were_learnt_have_the_name_that_was_given(tmp_path):
    """They tell each other's addresses, and their certificates have names."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    routes = free_ports(2)
    text = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)

    def config(number):
        return (
            f"tls {{ cert_file: {str(chain)!r}, key_file: {str(key)!r} }}\n"
            f"cluster {{ name: c, listen: 127.0.0.1:{routes[number]}, routes: [{text}] }}"
        )

    first, second = (
        Node(f"n{number}", tmp_path / f"n{number}", port, jetstream=False, config=config(number))
        for number, port in enumerate(free_ports(2))
    )
    with ExitStack() as stack:
        for node in (first, second):
            stack.callback(node.kill)
            node.start()
        known = f"127.0.0.1:{second.port}".encode()
        await until(lambda: known in first.greeting(), seconds=10)
        async with open_connection(access(f"tls://localhost:{first.port}", tls=context)) as link:
            first.kill()
            await until(lambda: link.generation == 2, seconds=10)
        # With a name of its own, the certificate has to show that.
        async with open_connection(access(f"tls://localhost:{second.port}", tls=context)):
            pass
        with pytest.raises(StoreError, match="TLS"):
            async with open_connection(access(f"tls://127.0.0.1:{second.port}", tls=context)):
                pass


async def test_a_name_with_an_address_at_which_nobody_is(server, monkeypatch):
    """The next address is tried a moment later."""
    look_up = socket.getaddrinfo

    def names_of(host, port, *args, **options):
        if host == "twice.test":
            return [
                found
                for name in ("127.0.0.66", "127.0.0.1")
                for found in look_up(name, port, *args, **options)
            ]
        return look_up(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", names_of)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.66", server.port))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.66", server.port))
        with trio.fail_after(2.5):
            async with open_connection(access(f"nats://twice.test:{server.port}")) as link:
                assert link.generation == 1


@pytest.mark.parametrize(
    "refusal", [b"maximum account active connections exceeded", b"Authentication Timeout"]
)
async def test_a_server_that_has_no_time_or_place(refusal):
    """It may have some in a moment: that is not a user that it does not know."""

    async def serve(stream):
        async with stream:
            await stream.send_all(b'INFO {"version":"2.15.1","max_payload":1048576,"auth_required":true}\r\n')
            await stream.receive_some()
            await stream.send_all(b"-ERR '" + refusal + b"'\r\n")
            async for _ in stream:
                pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(StoreError, match=f"(?i){refusal.decode()}") as caught:
            async with open_connection(access(f"nats://u:p@127.0.0.1:{port}")):
                pass
        assert not isinstance(caught.value, StoreUnusable)
        nursery.cancel_scope.cancel()
