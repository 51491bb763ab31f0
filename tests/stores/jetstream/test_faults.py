"""JetStreamStore when servers die, networks break and disks are full."""

import itertools
import json
import time
from contextlib import asynccontextmanager

import pytest
import trio

from tests._helpers.eventually import eventually
from tests._helpers.nats_server import running_cluster, running_partitions, running_server
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    LogBusy,
    ModuleEvent,
    PersistedEvent,
    RetryPolicy,
    StoreError,
    StoreUnusable,
    StoreWentBack,
    open_event_log,
)
from trio_eventlog.stores.jetstream import _appender as appender
from trio_eventlog.stores.jetstream import _reader as reader
from trio_eventlog.stores.jetstream._api import Pull
from trio_eventlog.stores.jetstream._protocol import Publish
from trio_eventlog.stores.jetstream._store import JetStreamStore
from trio_eventlog.testing import TcpProxy

PATIENCE = 60.0
"""Seconds for what takes a few."""

EAGER = RetryPolicy(initial=0.05, maximum=0.25)

names = itertools.count(1)


@pytest.fixture(scope="module")
def three_servers():
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(three_servers):
    """All of them, whatever the test before did to them."""
    for node in three_servers.nodes:
        node.wait_for_leader()
    return three_servers


@pytest.fixture(scope="module")
def server():
    with running_server() as node:
        yield node


@pytest.fixture
def log_name():
    return f"log-{next(names)}"


def event(seq, *, event_id=None, payload=None):
    return PersistedEvent(event_id or f"id-{seq}", seq, 1_000 + seq, None, ModuleEvent("m", "t", payload))


def events(first, count):
    return [event(seq) for seq in range(first, first + count)]


async def seqs_of(store):
    return [found.seq for found in await store.query(EventQuery())]


@asynccontextmanager
async def opened_once_free(*args, **options):
    """The store, as soon as its lock is free and its stream has a leader."""
    entered = False
    deadline = trio.current_time() + PATIENCE
    while True:
        try:
            async with JetStreamStore.open(*args, **options) as store:
                entered = True
                yield store
        except StoreError as exc:
            may_pass = isinstance(exc, LogBusy) or not isinstance(exc, StoreUnusable)
            if entered or not may_pass or trio.current_time() > deadline:
                raise
            await trio.sleep(0.02)
        else:
            return


async def configure(store, **changes):
    """Change the configuration of a stream, as an administrator does."""
    info = await store._stream.info()
    await store._stream.ask("STREAM.UPDATE", {**info["config"], **changes})


async def leader_of(cluster, stream):
    """The node that leads a stream, once its servers have agreed on one."""

    async def ask():
        async with JetStreamStore.open_readers(cluster.url, stream=stream) as readers:
            info = await eventually(next(iter(readers.values()))._stream.info)
        leader = info["cluster"].get("leader")
        if not leader:
            raise StoreError("the servers are electing a leader")
        return cluster[leader]

    return await eventually(ask)


@asynccontextmanager
async def load(store, total, every=100):
    """A log over ``store`` which gets so many events, some at a time; the block runs beside it.

    On leaving, all are in the store, each once and in their order.
    """
    async with open_event_log(store, retry=EAGER, retry_buffer_cap=100_000) as log:

        async def produce():
            for start in range(0, total, every):
                for number in range(start, min(start + every, total)):
                    log.ingest(AgentEvent("w", "t", {"number": number}))
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            yield log
        with trio.fail_after(PATIENCE):
            await log.flush()
        statistics = log.statistics()
    assert statistics.lost_total == 0
    assert statistics.persisted == total
    # Servers that have just found each other may elect a leader once more.
    found = await eventually(store.query, EventQuery())
    assert [one.event.payload["number"] for one in found] == list(range(total))
    assert [one.seq for one in found] == list(range(1, total + 1))
    assert len({one.id for one in found}) == total


async def until(log, persisted):
    """Until so many events are stored."""

    async def check():
        if log.statistics().persisted < persisted:
            raise StoreError

    await eventually(check)


async def goes_on(log, record_property, since):
    """Until more events are stored than the batch that was under way has."""
    began = time.monotonic()
    await until(log, log.statistics().persisted + JetStreamStore.max_batch + 1)
    record_property(f"seconds from {since} until ingestion went on", round(time.monotonic() - began, 1))


async def until_failure(log):
    """Until an append has failed."""
    before = log.statistics().failures
    with trio.fail_after(PATIENCE):
        while log.statistics().failures == before:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)


async def until_lock(reader, *, is_there):
    """Until the log has a lock, or has none any more."""

    async def check():
        if (await reader._stream.last(reader._reader.subjects.lock) is not None) != is_there:
            raise StoreError

    await eventually(check)


# --- servers --------------------------------------------------------------------------------------


async def test_a_server_that_is_started_again(log_name):
    """The store connects again by itself, and goes on where it was."""
    with running_server() as node:
        async with JetStreamStore.open(node.url, log=log_name) as store:
            await store.append_batch(events(1, 3))
            node.stop()
            with pytest.raises(StoreError) as caught:
                await store.append_batch(events(4, 3))
            assert not isinstance(caught.value, StoreUnusable)
            with pytest.raises(StoreError):
                await store.query(EventQuery())
            node.start()

            assert await eventually(store.append_batch, events(4, 3)) == ()

            assert await seqs_of(store) == [1, 2, 3, 4, 5, 6]
            assert await store.last_seq() == 6
        async with JetStreamStore.open(node.url, log=log_name) as store:
            assert await seqs_of(store) == [1, 2, 3, 4, 5, 6]


async def test_a_server_that_is_restarted_under_load(log_name):
    """Killed, or in good order: nothing that was acknowledged is lost, and nothing is stored twice."""
    with running_server() as node:
        async with JetStreamStore.open(node.url, log=log_name) as store, load(store, 6_000) as log:
            for part, end in ((1_000, node.kill), (2_500, node.stop), (4_000, node.kill)):
                await until(log, part)
                end()
                node.start()


async def test_the_leader_of_the_stream_is_killed_under_load(cluster, log_name, record_property):
    """The log catches up by itself, and no acknowledged event is lost."""
    stream = "KILLED"
    async with (
        JetStreamStore.open(cluster.url, stream=stream, log=log_name, replicas=3) as store,
        load(store, 10_000, every=50) as log,
    ):
        await until(log, 1_000)
        node = await leader_of(cluster, stream)
        node.kill()
        await goes_on(log, record_property, "killed")
        node.start()


async def test_a_server_is_killed_in_a_long_scan(cluster, log_name, monkeypatch):
    """The one that has the consumer of the scan, which goes on from where it was."""
    stream = "SCANNED"
    async with JetStreamStore.open(cluster.url, stream=stream, log=log_name, replicas=3) as store:
        held = [event(seq, payload={"text": "x" * 8_000}) for seq in range(1, 5_001)]
        for start in range(0, len(held), 500):
            await store.append_batch(held[start : start + 500])
    leader = await leader_of(cluster, stream)
    killed = []
    original = Pull.page

    async def page(self, most):
        found = await original(self, most)
        if not killed:
            reply = await self._stream.connection.request(f"$JS.API.CONSUMER.INFO.{stream}.{self._name}")
            node = cluster[json.loads(reply.data)["cluster"]["leader"]]
            # The server that we talk to is to stay.
            if node is not leader:
                node.kill()
                killed.append(node)
        return found

    monkeypatch.setattr(Pull, "page", page)
    async with JetStreamStore.open(leader.url, stream=stream, log=log_name, read_only=True) as reader:
        with trio.fail_after(PATIENCE):
            while not killed:
                assert await reader.query(EventQuery()) == held
    killed[0].start()


async def test_the_leader_of_the_stream_hangs(cluster, log_name, record_property):
    """A leader that was cut off, and wakes up later, has nothing to say any more."""
    stream = "HANGS"
    async with (
        JetStreamStore.open(cluster.url, stream=stream, log=log_name, replicas=3) as store,
        load(store, 10_000, every=50) as log,
    ):
        await until(log, 1_000)
        node = await leader_of(cluster, stream)
        node.pause()
        try:
            await goes_on(log, record_property, "stopped")
        finally:
            node.resume()


@pytest.mark.parametrize("role", ["leads", "follows"])
async def test_a_node_that_is_cut_off_from_the_others(role, log_name, record_property):
    """Clients reach it, and it answers their pings, but it has nothing to say about the stream any more."""

    async def victim():
        leader = await leader_of(cluster, "EVENTLOG")
        return leader if role == "leads" else next(one for one in cluster.nodes if one is not leader)

    async with running_partitions() as cluster:
        async with JetStreamStore.open(cluster.url, log=log_name, replicas=3) as store:
            await store.append_batch(events(1, 1))

        # A store that knows the others goes there by itself. No network is so kind as to say that it is down.
        node = await victim()
        urls = [node.url, *(other.url for other in cluster.nodes if other is not node)]
        async with (
            opened_once_free(urls, log=f"{log_name}-elsewhere") as store,
            load(store, 10_000, every=50) as log,
        ):
            await until(log, 1_000)
            cluster.stall(node)
            await goes_on(log, record_property, "cut off")
            cluster.heal()

        # One that knows no other waits until the partition heals.
        node = await victim()
        async with (
            opened_once_free(node.url, log=f"{log_name}-waits") as store,
            load(store, 10_000, every=50) as log,
        ):
            await until(log, 1_000)
            cluster.cut_off(node)
            await until_failure(log)
            cluster.heal()
            await goes_on(log, record_property, "healed")


async def test_a_replicated_stream_that_was_purged(cluster, log_name, monkeypatch):
    """The appender proves it by writing; a reader, once nobody has contradicted for long enough."""
    monkeypatch.setattr(reader, "_STALE_TIMEOUT", 0.5)
    async with (
        JetStreamStore.open(cluster.url, stream="PURGED", log=log_name, replicas=3) as store,
        JetStreamStore.open(cluster.url, stream="PURGED", log=log_name, read_only=True) as follower,
    ):
        await store.append_batch(events(1, 5))
        assert await eventually(follower.last_seq) == 5
        await store._stream.ask("STREAM.PURGE", {})
        began = trio.current_time()
        with pytest.raises(StoreWentBack):
            await follower.last_seq()
        assert trio.current_time() - began >= 0.5
        assert await follower.last_seq() == 0
        with pytest.raises(StoreWentBack) as caught:
            await store.append_batch(events(6, 1))
        assert (caught.value.last_seq, caught.value.expected_seq) == (0, 5)
        assert await store.append_batch(events(4, 3)) == ()
        assert await seqs_of(store) == [4, 5, 6]


async def test_one_node_less_is_nothing(cluster, log_name):
    """With a follower gone, appends and queries go on, once a connection to it is made anew."""
    stream = "FOLLOWER"
    async with JetStreamStore.open(cluster.url, stream=stream, log=log_name, replicas=3) as store:
        await store.append_batch(events(1, 10))
        leader = await leader_of(cluster, stream)
        follower = next(node for node in cluster.nodes if node is not leader)
        follower.kill()
        try:
            await eventually(store.append_batch, events(11, 10))
            assert await eventually(seqs_of, store) == list(range(1, 21))
        finally:
            follower.start()


# --- the network ----------------------------------------------------------------------------------


async def test_a_connection_that_is_cut(server, log_name):
    """Each cut costs a StoreError at most; what was appended is there once."""
    async with (
        TcpProxy.open(server.port) as proxy,
        JetStreamStore.open(f"nats://127.0.0.1:{proxy.port}", log=log_name) as store,
    ):
        for first in range(1, 100, 10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(eventually, store.append_batch, events(first, 10))
                await trio.lowlevel.checkpoint()
                proxy.cut()
        assert await eventually(seqs_of, store) == list(range(1, 101))
        assert proxy.connections > 1


async def test_a_server_that_refuses_for_a_while(server, log_name):
    """While nobody can be reached, calls fail at once and say why."""
    async with (
        TcpProxy.open(server.port) as proxy,
        JetStreamStore.open(f"nats://127.0.0.1:{proxy.port}", log=log_name) as store,
    ):
        await store.append_batch(events(1, 1))
        proxy.refuse()
        with pytest.raises(StoreError):
            await store.last_seq()
        with trio.fail_after(1), pytest.raises(StoreError, match="not connected"):
            await store.append_batch(events(2, 1))
        proxy.accept()

        await eventually(store.append_batch, events(2, 1))

        assert await seqs_of(store) == [1, 2]


async def test_a_network_that_stalls(server, log_name):
    """No answer is an error after a few seconds; a cancelled call ends at once all the same."""
    async with (
        TcpProxy.open(server.port) as proxy,
        JetStreamStore.open(f"nats://127.0.0.1:{proxy.port}", log=log_name) as store,
    ):
        await store.append_batch(events(1, 1))
        proxy.stall()
        began = trio.current_time()
        with trio.move_on_after(0.1):
            await store.append_batch(events(2, 1))
        assert trio.current_time() - began < 1
        with trio.fail_after(20), pytest.raises(StoreError):
            await store.append_batch(events(2, 1))
        proxy.cut()
        proxy.resume()

        await eventually(store.append_batch, events(2, 1))

        assert await seqs_of(store) == [1, 2]


async def test_leaving_without_a_network(server, log_name, monkeypatch, caplog):
    """Takes a bounded time, and says that the lock is left to expire; which it does."""
    monkeypatch.setattr(appender, "_CLOSE_TIMEOUT", 0.5)
    async with TcpProxy.open(server.port) as proxy:
        async with JetStreamStore.open(
            f"nats://127.0.0.1:{proxy.port}", log=log_name, lock_timeout=2
        ) as store:
            await store.append_batch(events(1, 1))
            proxy.refuse()
            began = trio.current_time()
        assert 0.5 <= trio.current_time() - began < 6
    assert "it expires" in caplog.text
    async with opened_once_free(server.url, log=log_name) as store:
        assert await seqs_of(store) == [1]


# --- who appends ----------------------------------------------------------------------------------


async def test_an_appender_that_was_cut_off_is_fenced(server, log_name):
    """What it has sent before another opened the log does not land after that."""
    options = {"log": log_name, "lock_timeout": 2}
    async with (
        TcpProxy.open(server.port) as proxy,
        JetStreamStore.open(f"nats://127.0.0.1:{proxy.port}", **options) as old,
    ):
        await old.append_batch(events(1, 1))
        proxy.stall()
        with trio.move_on_after(0.05):
            await old.append_batch(events(2, 1))
        async with opened_once_free(server.url, **options) as new:
            # What hung in the network comes to the server now.
            proxy.resume()
            assert await eventually(seqs_of, old) == [1]
            with pytest.raises(LogBusy, match="another appender"):
                await eventually(old.append_batch, events(2, 1))
            with pytest.raises(LogBusy):
                await old.last_seq()
            await new.append_batch([event(2, event_id="new")])
            assert [one.id for one in await new.query(EventQuery())] == ["id-1", "new"]
        with pytest.raises(LogBusy):
            await old.append_batch(events(3, 1))


async def test_an_appender_whose_lock_expired_goes_on_if_nobody_else_came(server, log_name):
    """The lock only refuses others; what protects the log is the fence."""
    async with (
        TcpProxy.open(server.port) as proxy,
        JetStreamStore.open(f"nats://127.0.0.1:{proxy.port}", log=log_name, lock_timeout=2) as store,
    ):
        await store.append_batch(events(1, 1))
        proxy.refuse()
        async with JetStreamStore.open(server.url, log=log_name, read_only=True) as reader:
            await until_lock(reader, is_there=False)
            proxy.accept()
            await eventually(store.append_batch, events(2, 1))
            assert await seqs_of(reader) == [1, 2]
            # And it takes the lock again.
            await until_lock(reader, is_there=True)
        with pytest.raises(LogBusy, match="by process"):
            async with JetStreamStore.open(server.url, log=log_name):
                pass


async def test_an_appender_that_is_out_does_not_take_the_lock_again(server, log_name):
    """Somebody else came and went while it was cut off; its own renewals find that out."""
    options = {"log": log_name, "lock_timeout": 2}
    async with (
        TcpProxy.open(server.port) as proxy,
        JetStreamStore.open(f"nats://127.0.0.1:{proxy.port}", **options) as old,
    ):
        proxy.refuse()
        async with opened_once_free(server.url, **options) as new:
            await new.append_batch(events(1, 1))
        proxy.accept()
        with trio.fail_after(20):
            while old._appender._fence._lost is None:  # noqa: ASYNC110 - a task of its own sets it
                await trio.sleep(0.02)
        async with opened_once_free(server.url, **options) as new:
            await new.append_batch(events(2, 1))
            assert await seqs_of(new) == [1, 2]


# --- batches --------------------------------------------------------------------------------------


async def test_batches_that_were_cut_off_in_their_midst_do_not_block_the_stream(log_name):
    """A server keeps 50 of them, for ten seconds each; the store drops its own before that."""
    with running_server() as server:
        async with JetStreamStore.open(server.url, log=log_name) as store:
            send = store._stream.connection.send
            for number in range(60):
                # Half of the batch comes through.
                store._stream.connection.send = lambda pieces: send(pieces[: len(pieces) // 2] or pieces)
                with trio.move_on_after(0.01):
                    await store.append_batch(events(1 + number, 10))
                store._stream.connection.send = send
                # No answer will come.
                store._appender._fence.pending.is_overdue = True
                await store.last_seq()
            assert await seqs_of(store) == []

            await store.append_batch(events(1, 10))

            assert await seqs_of(store) == list(range(1, 11))


async def test_s4_a_batch_that_is_refused_and_stored_in_part(server, log_name):
    """As by a server whose disk became full in its midst: no part of it comes to light with the next one."""
    async with JetStreamStore.open(server.url, log=log_name) as store:
        send = store._stream.connection.send

        def send_in_part(pieces):
            first, end = pieces[0], pieces[-1]
            gap = {"Nats-Batch-Id": "another", "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
            send([Publish(first.subject, first.data), Publish(end.subject, b"", gap, end.reply)])
            store._stream.connection.send = send

        store._stream.connection.send = send_in_part
        with pytest.raises(StoreError, match="JetStream error"):
            await store.append_batch(events(1, 3))
        await store.append_batch(events(20, 1))

        assert await seqs_of(store) == [20]
        await store.append_batch(events(1, 3))
        assert await seqs_of(store) == [1, 2, 3, 20]


async def test_a_repeat_long_after_the_server_has_forgotten_message_ids(server):
    """An id is known for as long as its event is held, not for the server's window of deduplication."""
    window = 0.1
    async with JetStreamStore.open(server.url, stream="WINDOW") as store:
        await configure(store, duplicate_window=int(window * 1e9))
        await store.append_batch(events(1, 5))
        began = time.monotonic()
        seq = 6
        while time.monotonic() < began + 3 * window:
            await store.append_batch(events(seq, 100))
            seq += 100
        repeat = [event(1), event(seq, event_id="id-2"), event(seq + 1)]
        assert await store.append_batch(repeat) == (seq,)
        found = await store.query(EventQuery())
        assert [one.id for one in found].count("id-1") == 1
        assert len(found) == seq


@pytest.mark.parametrize("whose", ["the server's", "the stream's"])
async def test_a_store_that_is_full(whose):
    """Appends fail with an error that may pass, nothing is half stored, and pruning makes room."""
    limit = 4_000_000
    with running_server(max_store=limit if whose == "the server's" else None) as node:
        async with JetStreamStore.open(node.url) as store:
            if whose == "the stream's":
                await configure(store, max_bytes=limit)
            payload = "x" * 20_000
            stored = 0
            with pytest.raises(StoreError) as caught:
                for first in itertools.count(1, 10):
                    await store.append_batch([event(first + n, payload=payload) for n in range(10)])
                    stored = first + 9
            assert not isinstance(caught.value, StoreUnusable)
            assert await seqs_of(store) == list(range(1, stored + 1))
            async with JetStreamStore.open(node.url, read_only=True) as reader:
                assert await reader.last_seq() == stored

            assert await store.prune(keep=10) == stored - 10

            await eventually(store.append_batch, [event(stored + 1, payload=payload)])
            assert await store.last_seq() == stored + 1
            assert await seqs_of(store) == list(range(stored - 9, stored + 2))


async def test_events_that_the_server_forgets_with_time(server):
    """``max_age`` takes events, and nothing else: the numbering goes on."""
    async with JetStreamStore.open(server.url, stream="AGES", max_age=1) as store:
        await store.append_batch(events(1, 3))

        async def check():
            if await seqs_of(store):
                raise StoreError

        await eventually(check)
        assert await store.last_seq() == 3
    async with JetStreamStore.open(server.url, stream="AGES") as store:
        assert await store.last_seq() == 3
        await store.append_batch(events(4, 1))
        assert await seqs_of(store) == [4]


@pytest.mark.parametrize("method", ["last_seq", "query"])
async def test_an_answer_that_was_overtaken_is_no_step_back(server, method, log_name, monkeypatch):
    """Two tasks ask; the one that asked first is answered last, with what was true when it asked."""
    async with (
        JetStreamStore.open(server.url, log=log_name) as store,
        JetStreamStore.open(server.url, log=log_name, read_only=True) as reader,
    ):
        await store.append_batch(events(1, 1))
        assert await reader.last_seq() == 1
        last_head = reader._reader.last_head
        is_overtaken = False

        async def overtaken():
            nonlocal is_overtaken
            head = await last_head()
            if not is_overtaken:
                is_overtaken = True
                await store.append_batch(events(2, 1))
                assert await reader.last_seq() == 2
            return head

        monkeypatch.setattr(reader._reader, "last_head", overtaken)

        found = await (reader.last_seq() if method == "last_seq" else reader.query(EventQuery()))

        assert is_overtaken
        assert found == 2 or [event.seq for event in found] == [1, 2]
