"""What operators do to a PostgreSQL server while a program appends: revoke, rotate, restore, hold back."""

import os
import shutil
import socket
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest
import trio

from tests._helpers.eventually import eventually, sql
from tests._helpers.fakes import numbered
from tests._helpers.postgres_server import postgres_server
from trio_eventlog import (
    EventQuery,
    LogBusy,
    PersistedEvent,
    StoreError,
    StoreUnusable,
    StoreWentBack,
)
from trio_eventlog.stores import PostgresStore
from trio_eventlog.stores.postgres import _target as target
from trio_eventlog.testing import TcpProxy


@pytest.fixture(scope="module")
def server():
    """One that forces what it writes to its disk, and whose superuser others do not use."""
    with postgres_server(fsync="on", max_connections="30") as running:
        with psycopg.connect(running.url(), autocommit=True) as operator:
            operator.execute("create role app login password 'app'")
            operator.execute("create schema trio_eventlog authorization app")
        yield running


@pytest.fixture
def log(request):
    """A log of the test's own."""
    return request.node.name


@pytest.fixture
def url(server):
    """Where the server is, for the role of the program."""
    return server.url(user="app", secret="app")  # noqa: S106 - of a server that lives for as long as a test


def event(seq, name="id"):
    return PersistedEvent(f"{name}{seq}", seq, seq, "w", numbered(seq))


def events(first, last, name="id"):
    return [event(seq, name) for seq in range(first, last + 1)]


async def seqs(store):
    return [found.seq for found in await store.query(EventQuery())]


async def end_sessions(server):
    await sql(server, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'app'")


@contextmanager
def operated(server, do, undo):
    """What an operator does, for the length of the block."""

    def run(statements):
        with psycopg.connect(server.url(), autocommit=True) as operator:
            for statement in statements:
                operator.execute(statement)

    run(do)
    try:
        yield
    finally:
        run(undo)


async def passes(call, *arguments):
    """That a call fails for a reason that passes."""
    with pytest.raises(StoreError) as failed:
        await call(*arguments)
    assert type(failed.value) is StoreError
    return str(failed.value)


# --- what is refused for a while ------------------------------------------------------------------

REFUSALS = {
    "password": ("alter role app password 'new'", "alter role app password 'app'", "authentication failed"),
    "login": ("alter role app nologin", "alter role app login", "is not permitted to log in"),
    "connections of the role": (
        "alter role app connection limit 0",
        "alter role app connection limit -1",
        "too many connections for role",
    ),
    "connections of the database": (
        "alter database postgres connection limit 0",
        "alter database postgres connection limit -1",
        "too many connections for database",
    ),
    "permission to connect": (
        "revoke connect on database postgres from public",
        "grant connect on database postgres to public",
        "permission denied for database",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_server_that_refuses_connections_for_a_while(server, url, log, refusal):
    do, undo, message = REFUSALS[refusal]
    async with (
        PostgresStore.open(url, log=log) as store,
        PostgresStore.open(url, log=log, read_only=True) as reader,
        reader.watch_changes() as watch,
    ):
        await store.append_batch(events(1, 2))
        await watch.wait()
        with operated(server, [do], [undo]):
            await end_sessions(server)
            for call in (partial(store.append_batch, [event(3)]), store.last_seq, reader.last_seq):
                assert message in await passes(call)
            await passes(watch.wait)
            assert message in await passes(watch.wait)
            with pytest.raises(StoreError, match=message):
                async with PostgresStore.open(url, log=log, read_only=True):
                    pytest.fail("opened")  # pragma: no cover
        await store.append_batch([event(3)])
        await watch.wait()
        assert await seqs(reader) == [1, 2, 3]


PERMISSIONS = {
    "schema": (
        "alter schema trio_eventlog owner to tester",
        "alter schema trio_eventlog owner to app",
    ),
    "table": (
        "revoke insert on trio_eventlog.events from app",
        "grant insert on trio_eventlog.events to app",
    ),
    "trigger": (
        """
create function refuse() returns trigger language plpgsql as 'begin raise ''not now''; end';
create trigger refuse before insert on trio_eventlog.events execute function refuse()
""",
        "drop function refuse cascade",
    ),
    "constraint": (
        "alter table trio_eventlog.events add constraint few check (seq < 3) not valid",
        "alter table trio_eventlog.events drop constraint few",
    ),
}


@pytest.mark.parametrize("permission", PERMISSIONS)
async def test_appends_that_are_refused_for_a_while(server, url, log, permission):
    do, undo = PERMISSIONS[permission]
    async with PostgresStore.open(url, log=log) as store:
        await store.append_batch(events(1, 2))
        with operated(server, [do], [undo]):
            await passes(store.append_batch, [event(3)])
        await store.append_batch([event(3)])
        assert await seqs(store) == [1, 2, 3]


async def test_a_session_whose_statements_were_taken_away(server, url, log):
    """As a pooler does, between two transactions."""
    async with PostgresStore.open(url, log=log) as store:
        await store.append_batch([event(1)])
        # Behind the back of psycopg, which would see it.
        store._appender._connection.pgconn.exec_(b"deallocate all")
        assert "SQLSTATE 26000" in await passes(store.append_batch, [event(2)])
        await store.append_batch([event(2)])
        assert await seqs(store) == [1, 2]


async def test_one_of_several_servers_takes_no_writes_any_more(server, url, log):
    """An appender that is connected to it looks for the one that does, in a new session."""
    async with TcpProxy.open(server.port) as first, TcpProxy.open(server.port) as second:
        async with PostgresStore.open(at(url, server, first.port, second.port), log=log) as store:
            await store.append_batch([event(1)])
            await store._appender._connection.run(b"set default_transaction_read_only = on")
            assert "SQLSTATE 25006" in await passes(store.append_batch, [event(2)])
            await eventually(store.append_batch, [event(2)])
            assert first.connections + second.connections > 1
            assert await seqs(store) == [1, 2]


# --- hosts that hang ------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(target, "_CONNECT_TIMEOUT_OF_SEVERAL", 0.5)
    monkeypatch.setattr(target, "_CONNECT_TIMEOUT", 0.5)


def at(url, server, *ports):
    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    return url.replace(f"127.0.0.1:{server.port}", places)


@pytest.mark.usefixtures("impatient")
async def test_the_first_of_several_hosts_hangs(server, url, log):
    """It takes connections, and answers nothing: when a log is opened, and later."""
    async with TcpProxy.open(server.port) as first, TcpProxy.open(server.port) as second:
        both = at(url, server, first.port, second.port)
        first.stall()
        async with PostgresStore.open(both, log=log) as store:
            await store.append_batch([event(1)])
            # Also for those who read, and from now on it comes last.
            began = trio.current_time()
            assert await seqs(store) == [1]
            assert trio.current_time() - began < 0.5
        first.resume()
        async with PostgresStore.open(both, log=log) as store:
            await store.append_batch([event(2)])
            first.stall()
            first.cut()
            with trio.fail_after(10):
                await eventually(store.append_batch, [event(3)])
            assert await seqs(store) == [1, 2, 3]


async def test_who_is_cancelled_while_a_host_hangs_gets_on_to_the_next(server, url, log):
    """An append has a bound of its own, which may be shorter."""
    async with TcpProxy.open(server.port) as first, TcpProxy.open(server.port) as second:
        async with PostgresStore.open(at(url, server, first.port, second.port), log=log) as store:
            await store.append_batch([event(1)])
            first.stall()
            first.cut()
            for _ in range(2):
                with trio.move_on_after(0.3) as scope:
                    await eventually(store.append_batch, [event(2)])
                if not scope.cancelled_caught:
                    break
            with trio.fail_after(2):
                await store.append_batch([event(2)])
            assert second.connections
            assert await seqs(store) == [1, 2]


@pytest.mark.usefixtures("impatient")
async def test_a_host_that_is_alone_hangs(server, url, log):
    async with TcpProxy.open(server.port) as proxy:
        proxy.stall()
        with pytest.raises(StoreError, match="did not answer within"):
            async with PostgresStore.open(at(url, server, proxy.port), log=log):
                pytest.fail("opened")  # pragma: no cover


@pytest.mark.usefixtures("impatient")
async def test_the_first_address_of_a_name_hangs(server, url, log, monkeypatch):
    look_up = socket.getaddrinfo
    dead = "127.0.0.66"

    def two(host, port, *arguments, **options):
        addresses = [dead, "127.0.0.1"] if host in ("twice.test", b"twice.test") else [host]
        return [item for address in addresses for item in look_up(address, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with socket.socket() as listener:
        # It takes connections by itself, and nobody answers.
        listener.bind((dead, server.port))
        listener.listen()
        async with PostgresStore.open(url.replace("127.0.0.1", "twice.test"), log=log) as store:
            await store.append_batch([event(1)])
            assert await seqs(store) == [1]


# --- an old snapshot ------------------------------------------------------------------------------


async def test_an_append_leaves_no_version_of_the_row_of_the_log(server, url, log):
    """While somebody keeps an old snapshot, every later append would have to look at all of them."""
    row = "select ctid::text, xmin::text from trio_eventlog.logs where name = %s"
    async with PostgresStore.open(url, log=log) as store:
        before = await sql(server, row, log.encode())
        for seq in range(1, 10):
            await store.append_batch([event(seq)])
        assert await sql(server, row, log.encode()) == before
        assert await store.last_seq() == 9


# --- what an append survives ----------------------------------------------------------------------


def away(server):
    """While this lasts, every commit waits for a standby that is not there."""
    reload = "select pg_reload_conf()"
    return operated(
        server,
        ["alter system set synchronous_standby_names = 'one_that_is_away'", reload],
        ["alter system reset synchronous_standby_names", reload],
    )


async def waits_for_standby(server):
    return await sql(server, "select pid from pg_stat_activity where wait_event = 'SyncRep'")


async def until_it_waits(server):
    with trio.fail_after(10):
        while not (waiting := await waits_for_standby(server)):  # noqa: ASYNC110 - only the server knows
            await trio.sleep(0.01)
    return waiting[0][0]


async def until_it_matters(store, first):
    """Appends return until the server's processes have heard of the setting. Returns the seq that waits."""
    seq = first
    with trio.fail_after(10):
        while True:
            with trio.move_on_after(0.3) as scope:
                await store.append_batch([event(seq)])
            if scope.cancelled_caught:
                return seq
            seq += 1


@pytest.mark.parametrize("level", ["on", "off", "local"])
async def test_a_repeat_waits_for_the_standby(server, url, log, level):
    """The commit that was cancelled is there, and no standby has it: a repeat may not say that it has.

    Nor does what a role is set to make a commit worth less.
    """
    weaker = f"alter role app set synchronous_commit = '{level}'"
    with operated(server, [weaker], ["alter role app reset synchronous_commit"]):
        async with PostgresStore.open(url, log=log) as store:
            assert store.survives == "power"
            with away(server):
                seq = await until_it_matters(store, 1)
                # It is seen already.
                assert (await seqs(store))[-1] == seq
                with trio.move_on_after(0.2) as scope:
                    await store.append_batch([event(seq)])
                assert scope.cancelled_caught
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store.append_batch, [event(seq)])
                    await until_it_waits(server)
                    nursery.cancel_scope.cancel()
            with trio.fail_after(10):
                assert await store.append_batch([event(seq)]) == ()


@pytest.mark.parametrize("chunk", [16 * 2**20, 1], ids=["one statement", "several"])
async def test_a_commit_that_is_told_not_to_wait_for_its_standby_is_no_acknowledgement(
    server, url, log, chunk, monkeypatch
):
    """PostgreSQL returns from it with a warning."""
    monkeypatch.setattr("trio_eventlog.stores.postgres._rows.MAX_CHUNK_BYTES", chunk)
    async with PostgresStore.open(url, log=log) as store:
        with away(server):
            seq = await until_it_matters(store, 1)
            # New events, and such as are known.
            for batch in (events(seq + 1, seq + 2), events(seq, seq + 2)):
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def _(batch=batch):
                        assert "stop waiting for its standby" in await passes(store.append_batch, batch)

                    await sql(server, "select pg_cancel_backend(%s)", await until_it_waits(server))
        await store.append_batch(events(seq, seq + 2))
        assert (await seqs(store))[-2:] == [seq + 1, seq + 2]


async def test_what_an_append_survives(server, url, log):
    for level, survives in (("off", "process"), ("local", "power"), ("on", "power")):
        async with PostgresStore.open(f"{url}?options=-csynchronous_commit%3D{level}", log=log) as store:
            assert store.survives == survives
            for _ in range(20):
                await store.append_batch([event(await store.last_seq() + 1)])
                written = await sql(server, "select pg_current_wal_insert_lsn()")
                await store.sync()
                assert await sql(
                    server, "select pg_current_wal_flush_lsn() >= %s::pg_lsn", written[0][0]
                ) == [(True,)]


async def test_a_server_that_forces_nothing_to_its_disk(log):
    with postgres_server() as careless:
        async with PostgresStore.open(careless.url(), log=log) as store:
            assert store.survives == "process"
            assert "fsync off" in await passes(store.sync)
        async with PostgresStore.open(careless.url(), log=log, read_only=True) as reader:
            with pytest.raises(StoreUnusable, match="opened read-only"):
                await reader.sync()


# --- a server that went back ----------------------------------------------------------------------


async def restore(server, log, epoch, last):
    """What a backup does that is put back table by table: the row of the log, and its events up to a seq."""
    await sql(
        server,
        "with old as (update trio_eventlog.logs set epoch = %s, last_seq = least(last_seq, %s)"
        " where name = %s returning log) delete from trio_eventlog.events using old"
        " where events.log = old.log and seq > %s",
        epoch,
        last,
        log.encode(),
        last,
    )


async def epoch_of(server, log):
    ((epoch,),) = await sql(server, "select epoch from trio_eventlog.logs where name = %s", log.encode())
    return epoch


@pytest.mark.parametrize("cut", [False, True], ids=["same session", "new session"])
@pytest.mark.parametrize("earlier", [False, True], ids=["state of this opening", "of an earlier one"])
async def test_a_log_that_went_back(server, url, log, cut, earlier):
    """It says so once, stores nothing of that batch, and goes on from what there is."""
    async with PostgresStore.open(url, log=log) as store:
        await store.append_batch(events(1, 5))
        epoch = await epoch_of(server, log)
    async with PostgresStore.open(url, log=log) as store:
        if not earlier:
            epoch = await epoch_of(server, log)
        ours = await epoch_of(server, log)
        await store.append_batch(events(6, 8))
        await restore(server, log, epoch, 5)
        if cut:
            await end_sessions(server)
        with pytest.raises(StoreWentBack) as went:
            await store.append_batch([event(9)])
        assert (went.value.last_seq, went.value.expected_seq) == (5, 8)
        # Not a new one, by which an appender that was cancelled at that moment would take itself for another.
        assert await epoch_of(server, log) == ours
        assert await seqs(store) == [1, 2, 3, 4, 5]
        await store.append_batch(events(7, 9))
        assert await seqs(store) == [1, 2, 3, 4, 5, 7, 8, 9]
        assert await store.last_seq() == 9
        with pytest.raises(LogBusy):
            async with PostgresStore.open(url, log=log):
                pytest.fail("opened")  # pragma: no cover
        # A second time is told, too. A repeat of what is there yet notices it as well.
        await restore(server, log, epoch, 7)
        with pytest.raises(StoreWentBack) as went:
            await store.append_batch([event(1)])
        assert (went.value.last_seq, went.value.expected_seq) == (7, 9)
        assert await store.append_batch([event(1)]) == ()


async def test_a_log_that_went_back_behind_what_was_found_on_opening(server, url, log):
    async with PostgresStore.open(url, log=log) as store:
        await store.append_batch(events(1, 5))
    async with PostgresStore.open(url, log=log) as store:
        await restore(server, log, 1, 0)
        with pytest.raises(StoreWentBack) as went:
            await store.append_batch([event(6)])
        assert (went.value.last_seq, went.value.expected_seq) == (0, 5)
        await store.append_batch([event(6)])
        assert await seqs(store) == [6]


async def test_a_large_batch_on_a_log_that_went_back(server, url, log, monkeypatch):
    """In several statements: the session is as before, lock included."""
    monkeypatch.setattr("trio_eventlog.stores.postgres._rows.MAX_CHUNK_BYTES", 1)
    async with PostgresStore.open(url, log=log) as store:
        await store.append_batch(events(1, 5))
        await restore(server, log, await epoch_of(server, log), 2)
        backend = store._appender._connection.backend
        with pytest.raises(StoreWentBack):
            await store.append_batch(events(6, 8))
        assert store._appender._connection.backend == backend
        await store.append_batch(events(6, 8))
        assert await seqs(store) == [1, 2, 6, 7, 8]


async def test_what_was_pruned_is_not_gone_back(server, url, log):
    async with PostgresStore.open(url, log=log) as store:
        await store.append_batch(events(1, 5))
        assert await store.prune(keep=0) == 5
        await store.append_batch([event(6)])
        assert (await store.last_seq(), await store.pruned_seq()) == (6, 5)


async def test_somebody_else_opened_a_log_that_went_back(server, url, log):
    async with PostgresStore.open(url, log=log) as store:
        await store.append_batch(events(1, 5))
        await restore(server, log, 1, 3)
        await end_sessions(server)
        async with PostgresStore.open(url, log=log) as other:
            await other.append_batch(events(4, 5, "other"))
        with pytest.raises(LogBusy):
            await store.append_batch([event(6)])


async def test_a_server_that_is_restored_from_a_copy(log, tmp_path):
    with postgres_server() as mortal:
        saved = mortal._root / "saved"
        async with PostgresStore.open(mortal.url(), log=log) as store:
            await store.append_batch(events(1, 5))

            def copy(source, target):
                mortal.stop()
                if target.exists():
                    shutil.rmtree(target)
                shutil.copytree(source, target)
                for path in (target, *target.rglob("*")):
                    if mortal._identity:
                        os.chown(path, mortal._identity["user"], mortal._identity["group"])
                mortal.start()

            await trio.to_thread.run_sync(copy, mortal._data, saved)
            await eventually(store.append_batch, events(6, 8))
            await trio.to_thread.run_sync(copy, saved, mortal._data)
            # Connections first: what is lost shows when the server is there again.
            with pytest.raises(StoreWentBack) as went:
                await store.append_batch([event(9)])
            assert (went.value.last_seq, went.value.expected_seq) == (5, 8)
            await store.append_batch(events(6, 9))
            assert await seqs(store) == list(range(1, 10))
