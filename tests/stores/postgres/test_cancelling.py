"""Whatever is cancelled, and wherever, the server never sees more connections of a store than it may have."""

import signal
from functools import partial

import psycopg
import pytest
import trio

from tests._helpers.cancelling import cancel_at_each_step
from tests._helpers.eventually import sql
from tests._helpers.fakes import numbered
from tests._helpers.interrupts import interrupt_in_contextlib
from tests._helpers.postgres_server import postgres_server
from trio_eventlog import EventQuery, PersistedEvent
from trio_eventlog.stores import PostgresStore

READERS = 2


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


def named(server):
    return f"{server.url()}?application_name=counted"


async def connections(server):
    """How many of them the server sees."""
    ((count,),) = await sql(
        server, "select count(*) from pg_stat_activity where application_name = 'counted'"
    )
    return count


async def until_there_are(server, most):
    """The server learns within a moment that a connection was closed."""
    with trio.move_on_after(5):
        while await connections(server) > most:  # noqa: ASYNC110 - only the server knows
            await trio.sleep(0.01)
    assert await connections(server) <= most


async def watch(store):
    async with store.watch_changes():
        await trio.lowlevel.checkpoint()


async def watch_and_wait(store):
    async with store.watch_changes() as changes:
        with trio.move_on_after(0.01):
            await changes.wait()


async def append(store):
    await store.append_batch([event(await store.last_seq() + 1)])


CALLS = {
    "query": lambda store: partial(store.query, EventQuery()),
    "page": lambda store: partial(store.query_page, EventQuery(), max_bytes=100),
    "append": lambda store: partial(append, store),
    "last_seq": lambda store: store.last_seq,
    "describe": lambda store: store.describe,
    "verify": lambda store: store.verify,
    "prune": lambda store: partial(store.prune, keep=5),
    "pruned_seq": lambda store: store.pruned_seq,
    "log_names": lambda store: store.log_names,
    "sync": lambda store: store.sync,
    "watch": lambda store: partial(watch, store),
    "watch and wait": lambda store: partial(watch_and_wait, store),
}


@pytest.mark.parametrize("name", CALLS)
async def test_s15_a_call_that_is_cancelled_at_any_checkpoint_leaves_no_connection_behind(server, log, name):
    async with PostgresStore.open(named(server), log=log, readers=READERS) as store:
        await store.append_batch([event(seq) for seq in range(1, 11)])
        await store.query(EventQuery())
        # Of queries, two hundred and more.
        for _ in range(100 if name == "query" else 10):
            await cancel_at_each_step(CALLS[name](store), least=2)
        await until_there_are(server, READERS + 1)
        # Nor is a slot lost: as many reads as there are slots still run at the same time.
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(READERS + 1):
                    nursery.start_soon(store.query, EventQuery())
        await append(store)
        await until_there_are(server, READERS + 1)
    await until_there_are(server, 0)


@pytest.mark.parametrize("read_only", [False, True])
async def test_s15_opening_and_closing_that_are_cancelled_at_any_checkpoint(server, log, read_only):
    async def open_and_close():
        async with PostgresStore.open(named(server), log=log, read_only=read_only) as store:
            await store.query(EventQuery())

    async with PostgresStore.open(server.url(), log=log):
        pass
    await cancel_at_each_step(open_and_close, least=5)
    await until_there_are(server, 0)
    # The lock is free, too.
    async with PostgresStore.open(server.url(), log=log) as store:
        await append(store)


# --- Ctrl-C ---------------------------------------------------------------------------------------


OPENED = {
    "open": lambda url, log: PostgresStore.open(url, log=log),
    "open_readers": lambda url, log: PostgresStore.open_readers(url, logs=[log]),
}


@pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])
@pytest.mark.parametrize("opened", OPENED)
def test_s15_ctrl_c_in_the_frames_of_contextlib_leaves_no_store_open(server, log, opened, method):
    """Not even in a program that goes on afterwards, in the same run of Trio's."""

    async def main():
        async with PostgresStore.open(server.url(), log=log):
            pass
        with pytest.raises(KeyboardInterrupt):
            with interrupt_in_contextlib(method):
                async with OPENED[opened](named(server), log):
                    pass
            await trio.lowlevel.checkpoint()
        await until_there_are(server, 0)
        async with PostgresStore.open(server.url(), log=log) as store:
            assert await store.last_seq() == 0

    trio.run(main)


@pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])
def test_s15_ctrl_c_in_the_frames_of_contextlib_leaves_no_watch_open(server, log, method):
    async def main():
        async with PostgresStore.open(named(server), log=log) as store:
            with pytest.raises(KeyboardInterrupt):
                with interrupt_in_contextlib(method):
                    async with store.watch_changes():
                        pass
                await trio.lowlevel.checkpoint()
            await until_there_are(server, 1)
            assert await store.last_seq() == 0

    trio.run(main)


def test_s11_ctrl_c_in_the_middle_of_a_query(server, log):
    """It is stopped at the server as a cancelled one is, and the connection is good for the next."""
    waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock'"
    ours = "select pid from pg_stat_activity where application_name = 'counted'"

    @trio.lowlevel.enable_ki_protection
    async def interrupt():
        while not await sql(server, waiting):  # noqa: ASYNC110 - only the server knows
            await trio.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    async def main():
        async with PostgresStore.open(named(server), log=log, readers=1) as store:
            await append(store)
            await store.query(EventQuery())
            before = await sql(server, ours)
            with psycopg.connect(server.url()) as other:
                other.execute("lock table trio_eventlog.events in access exclusive mode")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(interrupt)
                    with pytest.raises(KeyboardInterrupt):
                        await store.query(EventQuery())
            assert len(await store.query(EventQuery())) == 1
            assert sorted(await sql(server, ours)) == sorted(before)

    trio.run(main)
