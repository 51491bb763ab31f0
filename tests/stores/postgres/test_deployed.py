"""PostgresStore as it is deployed: with TLS, with a hot standby, and on a disk that gets full."""

import ssl
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trustme

from tests._helpers.eventually import eventually, sql
from tests._helpers.fakes import numbered
from tests._helpers.postgres_server import PASSWORD, postgres_server
from trio_eventlog import (
    EventQuery,
    PersistedEvent,
    StoreError,
    StoreUnusable,
    StoreWentBack,
    open_event_log,
)
from trio_eventlog.reading import tail
from trio_eventlog.stores import PostgresStore

PATIENCE = 30.0
"""Seconds for what takes far less than one."""


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        yield running


@pytest.fixture
def log(request):
    """A log of the test's own."""
    return request.node.name


def event(seq):
    return PersistedEvent(f"id{seq}", seq, seq, "w", numbered(seq))


async def seqs(store):
    return [found.seq for found in await store.query(EventQuery())]


# --- TLS ------------------------------------------------------------------------------------------

TLS_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
"""What a client of PostgreSQL sends first if it wants TLS."""


class Front:
    """What stands before the server: it speaks TLS, which the server of the wheel cannot, or refuses to."""

    def __init__(self, target, context):
        self.received = b""
        self.decrypted = 0
        """Bytes that came through TLS."""
        self._target = target
        self._context = context

    async def serve(self, client):
        async with client:
            self.received += await client.receive_some()
            if self.received[:8] != TLS_REQUEST:
                return
            await client.send_all(b"N" if self._context is None else b"S")
            if self._context is None:
                while data := await client.receive_some():
                    self.received += data
                return
            secured = trio.SSLStream(client, self._context, server_side=True, https_compatible=True)
            try:
                await secured.do_handshake()
                async with (
                    await trio.open_tcp_stream("127.0.0.1", self._target) as server,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._answer, server, secured)
                    async for data in secured:
                        self.decrypted += len(data)
                        await server.send_all(data)
                    nursery.cancel_scope.cancel()
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _answer(self, server, secured):
        async for data in server:
            await secured.send_all(data)


@asynccontextmanager
async def front(server, context):
    """A front for the length of the block, and its port."""
    standing = Front(server.port, context)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, standing.serve, 0, host="127.0.0.1"))
        yield standing, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Who certifies, with its own certificate in a file."""
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return authority, path


def certified(authority, name):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_tls(server, log, authority):
    """With the right authority and the right name, and only then."""
    ours, path = authority
    async with front(server, certified(ours, "127.0.0.1")) as (standing, port):
        url = f"{server.url(port=port)}?sslmode=verify-full&sslrootcert={path}"
        async with PostgresStore.open(url, log=log) as store:
            await store.append_batch([event(1)])
            assert await seqs(store) == [1]
            async with store.watch_changes() as watch:
                await store.append_batch([event(2)])
                with trio.fail_after(PATIENCE):
                    await watch.wait()
            # It is cancelled through TLS, too.
            with trio.move_on_after(0) as scope:
                await seqs(store)
            assert scope.cancelled_caught
            assert await seqs(store) == [1, 2]
            assert standing.decrypted


@pytest.mark.parametrize(
    ("name", "is_ours", "message"),
    [
        ("127.0.0.1", False, "certificate verify failed"),
        ("another.example", True, "does not match host name"),
    ],
    ids=["another authority", "another name"],
)
async def test_tls_with_the_wrong_certificate(server, authority, name, is_ours, message):
    ours, path = authority
    async with front(server, certified(ours if is_ours else trustme.CA(), name)) as (standing, port):
        url = f"{server.url(port=port)}?sslmode=verify-full&sslrootcert={path}"
        with pytest.raises(StoreUnusable, match=message) as refused:
            async with PostgresStore.open(url):
                pytest.fail("opened")  # pragma: no cover
    assert PASSWORD not in str(refused.value)
    assert standing.received == TLS_REQUEST
    assert not standing.decrypted


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_a_server_without_tls_gets_nothing_if_tls_is_demanded(server, log, authority, mode):
    """Neither the password nor the name of the user."""
    async with front(server, None) as (standing, port):
        url = f"{server.url(port=port)}?sslmode={mode}&sslrootcert={authority[1]}"
        with pytest.raises(StoreUnusable, match="does not support SSL, but SSL was required"):
            async with PostgresStore.open(url, log=log):
                pytest.fail("opened")  # pragma: no cover
    assert standing.received == TLS_REQUEST


# --- a hot standby --------------------------------------------------------------------------------


async def test_a_hot_standby(log):
    """It is read, it cannot be appended to, and after a failover the log goes on there.

    One that did not wait for it hears that what it had acknowledged is gone.
    """
    with (
        # Who waits for the standby loses nothing by the failover.
        postgres_server(synchronous_standby_names="*", synchronous_commit="local") as primary,
        postgres_server(primary=primary) as standby,
    ):
        await sql(primary, "alter system set synchronous_commit = 'remote_apply'")
        await sql(primary, "select pg_reload_conf()")
        both = (
            primary.url()
            .replace("@", f"@127.0.0.1:{primary.port},", 1)
            .replace(f"{primary.port}/", f"{standby.port}/")
        )
        async with (
            PostgresStore.open(f"{both}?options=-csynchronous_commit%3Dremote_apply", log=log) as store,
            PostgresStore.open(standby.url(), log=log, read_only=True) as reader,
            PostgresStore.open(f"{both}?options=-csynchronous_commit%3Dlocal", log="lags") as lagging,
        ):
            await lagging.append_batch([event(1)])
            await store.append_batch([event(1), event(2)])
            assert await seqs(reader) == [1, 2]
            assert await reader.last_seq() == 2
            assert (await reader.describe()).events == 2
            assert (await reader.verify()).problems == 0
            # There is nobody to tell it of changes, so that it looks now and then.
            with pytest.raises(StoreError, match="recovery"):
                async with reader.watch_changes():
                    pytest.fail("opened")  # pragma: no cover
            with trio.fail_after(PATIENCE):
                async with tail(reader, after_seq=2, poll_interval=0.02) as following:
                    await store.append_batch([event(3)])
                    assert (await anext(following)).seq == 3
            with pytest.raises(StoreUnusable, match="read-only transaction"):
                await reader.prune(keep=0)
            # It may become a primary: that passes.
            with pytest.raises(StoreError, match=r"read-only|hot standby") as refused:
                async with PostgresStore.open(standby.url(), log=log):
                    pytest.fail("opened")  # pragma: no cover
            assert not isinstance(refused.value, StoreUnusable)

            await trio.to_thread.run_sync(standby.stop)
            await lagging.append_batch([event(2), event(3)])
            await trio.to_thread.run_sync(primary.kill)
            await trio.to_thread.run_sync(standby.start)
            with pytest.raises(StoreError) as failed:
                await store.append_batch([event(4)])
            assert not isinstance(failed.value, StoreUnusable)
            await trio.to_thread.run_sync(standby.promote)
            await eventually(store.append_batch, [event(4)], seconds=PATIENCE)
            assert await seqs(store) == [1, 2, 3, 4]
            assert await eventually(seqs, reader, seconds=PATIENCE) == [1, 2, 3, 4]

            async def told():
                try:
                    await lagging.append_batch([event(4)])
                except StoreWentBack as exc:
                    return exc.last_seq, exc.expected_seq

            assert await eventually(told, seconds=PATIENCE) == (1, 3)
            assert await lagging.append_batch([event(2), event(3), event(4)]) == ()
            assert await seqs(lagging) == [1, 2, 3, 4]


# --- a full disk ----------------------------------------------------------------------------------


async def test_a_disk_that_is_full(log):
    """Appends fail with what may pass, nothing is half stored, and once there is room the log catches up."""
    with postgres_server() as server:
        async with PostgresStore.open(server.url(), log=log):
            pass
        ((relation,),) = await sql(server, "select pg_relation_filepath('trio_eventlog.events')")
        await trio.to_thread.run_sync(server.stop)
        table = server.file_of(relation)
        room = table.rename(table.with_name("room"))
        # Whatever is written there, the system has no space left for it.
        table.symlink_to("/dev/full")
        await trio.to_thread.run_sync(server.start)
        failures = []
        async with (
            PostgresStore.open(server.url(), log=log) as store,
            open_event_log(store, on_failure=failures.append) as events,
        ):
            with pytest.raises(StoreError, match=r"No space left on device.*SQLSTATE 53100") as failed:
                await store.append_batch([event(1)])
            assert not isinstance(failed.value, StoreUnusable)
            assert await store.last_seq() == 0
            assert await seqs(store) == []
            for number in range(1, 101):
                events.ingest(numbered(number))
            with trio.fail_after(PATIENCE):
                while not failures:  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.01)
            assert "SQLSTATE 53100" in str(failures[0].error)
            table.unlink()
            room.rename(table)
            # Its sessions have the file open that has no room.
            await sql(
                server, "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            )
            with trio.fail_after(PATIENCE):
                await events.flush()
            found = await store.query(EventQuery())
            assert [item.event.payload["number"] for item in found] == list(range(1, 101))
