"""How JetStreamStore gets in: TLS in every way that servers have it, keys, and what is missing for them."""

import os
import re
import ssl
import sys
from contextlib import ExitStack
from functools import partial

import nkeys
import pytest
import trio
import trustme

from tests._helpers.interrupts import interrupt_in_contextlib
from tests._helpers.nats_server import Node, free_ports, running_server
from tests._helpers.sockets import sockets
from trio_eventlog import ModuleEvent, PersistedEvent, StoreError, StoreUnusable
from trio_eventlog._util import how_to_install
from trio_eventlog.stores import JetStreamStore
from trio_eventlog.stores.jetstream._access import access
from trio_eventlog.stores.jetstream._connection import open_connection


def event(seq):
    return PersistedEvent(f"id-{seq}", seq, 1_000 + seq, None, ModuleEvent("m", "t"))


@pytest.fixture
def certificate(tmp_path):
    """Configuration of a server with a certificate for loopback, and the context that trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return f"cert_file: {str(chain)!r}, key_file: {str(key)!r}", context


@pytest.mark.parametrize(
    "more", ["", "handshake_first: true", "handshake_first: auto", "handshake_first: 50ms"]
)
async def test_tls_before_or_after_info(certificate, more):
    """A server that says nothing before the handshake is found out by that."""
    config, context = certificate
    with running_server(config=f"tls {{ {config}, {more} }}", greets="true" not in more) as node:
        async with JetStreamStore.open(node.url, tls=context) as store:
            await store.append_batch([event(1)])
            assert await store.last_seq() == 1
        with pytest.raises(StoreError, match="TLS"):
            async with JetStreamStore.open(node.url, tls=ssl.create_default_context()):
                pass


async def test_tls_that_a_server_offers_and_does_not_require(certificate):
    config, context = certificate
    with running_server(config=f"tls {{ {config} }}\nallow_non_tls: true") as node:
        for tls in (None, context):
            async with open_connection(access(node.url, tls=tls)) as connection:
                assert isinstance(connection._wire.stream, trio.SSLStream) == (tls is not None)


async def test_what_is_slipped_in_before_the_handshake_is_dropped(tmp_path):
    """It did not come from the server that the certificate belongs to."""
    authority = trustme.CA()
    served, context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(served)
    authority.configure_trust(context)

    async def serve(stream):
        info = b'INFO {"version":"2.15.1","max_payload":1048576,"tls_required":true}\r\n'
        await stream.send_all(info + b"-ERR 'Authorization Violation'\r\n")
        secure = trio.SSLStream(stream, served, server_side=True, https_compatible=True)
        received = b""
        while data := await secure.receive_some():
            received += data
            if received.endswith(b"PING\r\n"):
                await secure.send_all(b"PONG\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_connection(access(f"tls://127.0.0.1:{port}", tls=context)) as connection:
            connection.check_connected()
        nursery.cancel_scope.cancel()


def key_pair():
    return nkeys.from_seed(nkeys.encode_seed(bytearray(os.urandom(32)), nkeys.PREFIX_BYTE_USER))


def seed_file(tmp_path, seed):
    path = tmp_path / "user.nk"
    path.write_text(f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n")
    return path


async def test_a_key_without_a_jwt(tmp_path):
    keys = key_pair()
    path = seed_file(tmp_path, keys.seed.decode())
    with running_server(
        config=f"authorization {{ users: [{{ nkey: {keys.public_key.decode()} }}] }}"
    ) as node:
        async with JetStreamStore.open(node.url, credentials=path) as store:
            await store.append_batch([event(1)])
        other = key_pair().seed.decode()
        with pytest.raises(StoreUnusable, match="refuses the connection") as caught:
            async with JetStreamStore.open(node.url, credentials=seed_file(tmp_path, other)):
                pass
        assert other not in str(caught.value)


@pytest.mark.parametrize("seed", ["x", "SUAMALFORMED", "S" * 58, "é"])
async def test_a_seed_that_is_malformed(tmp_path, seed):
    """It is not shown, not even by the cause."""
    with running_server() as node:
        with pytest.raises(StoreUnusable, match=r"user\.nk': the seed is malformed") as caught:
            async with JetStreamStore.open(node.url, credentials=seed_file(tmp_path, seed)):
                pass
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_the_package_that_signs_is_missing(tmp_path, monkeypatch):
    """The error says what to install. Without credentials, nothing is missing."""
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with running_server() as node:
        with pytest.raises(StoreUnusable, match=re.escape(how_to_install("nats"))):
            async with JetStreamStore.open(node.url, credentials=seed_file(tmp_path, "x")):
                pass
        async with JetStreamStore.open(node.url) as store:
            assert await store.last_seq() == 0


async def test_a_server_in_lame_duck_mode_is_left(tmp_path):
    """Before it has shut down, and without an append that fails."""
    routes = free_ports(2)
    text = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
    nodes = [
        Node(
            f"n{number}",
            tmp_path / f"n{number}",
            port,
            jetstream=False,
            config=f"cluster {{ name: c, listen: 127.0.0.1:{routes[number]}, routes: [{text}] }}",
        )
        for number, port in enumerate(free_ports(2))
    ]
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        async with open_connection(access(nodes[0].url)) as connection:
            with trio.fail_after(10):
                while len(connection._servers) < 2:  # noqa: ASYNC110 - the server advertises it some time
                    await trio.sleep(0.02)
            await trio.to_thread.run_sync(nodes[0].warn)
            with trio.fail_after(5):
                while connection.generation < 2:  # noqa: ASYNC110 - nothing tells
                    await trio.sleep(0.02)
            assert connection._wire.server.port == nodes[1].port
            assert nodes[0].is_running()


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    with running_server() as node:
        yield node


@pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])
@pytest.mark.parametrize("kind", ["open", "open_readers", "watch_changes"])
def test_ctrl_c_within_contextlib(server, method, kind):
    """What was opened is closed: the log can be opened again in the same run, and no consumer is left."""

    async def main():
        options = {"stream": "CTRL-C", "log": f"{kind}-{method}"}
        if kind == "watch_changes":
            async with JetStreamStore.open(server.url, **options) as store:
                with pytest.raises(KeyboardInterrupt):
                    with interrupt_in_contextlib(method):
                        async with store.watch_changes():
                            pass
                    await trio.lowlevel.checkpoint()
                with trio.fail_after(10):
                    while (await store._stream.info())["state"]["consumer_count"]:  # noqa: ASYNC110 - see above
                        await trio.sleep(0.02)
            return
        async with JetStreamStore.open(server.url, **options):
            pass
        with pytest.raises(KeyboardInterrupt):
            opening = JetStreamStore.open(server.url, **options)
            if kind == "open_readers":
                opening = JetStreamStore.open_readers(server.url, stream="CTRL-C")
            with interrupt_in_contextlib(method):
                async with opening:
                    pass
            await trio.lowlevel.checkpoint()
        async with JetStreamStore.open(server.url, **options) as store:
            assert await store.last_seq() == 0

    before = sockets()
    trio.run(main)
    assert sockets() == before
