"""What a network and a server can do to a PostgresStore: hang, vanish, come back, let others in."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import psycopg
import pytest
import trio
import trio.testing

from tests._helpers.eventually import InterruptedTurn, sql
from tests._helpers.fakes import numbered
from tests._helpers.postgres_server import postgres_server
from trio_eventlog import (
    EventQuery,
    LogBusy,
    LossReport,
    ModuleEvent,
    PersistedEvent,
    RetryPolicy,
    StoreError,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog.stores import PostgresStore
from trio_eventlog.stores.postgres import _appender as appender
from trio_eventlog.stores.postgres import _connection as connection
from trio_eventlog.stores.postgres import _reader as maintenance
from trio_eventlog.stores.postgres import _target as target
from trio_eventlog.testing import TcpProxy


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        yield running


@pytest.fixture
def mortal():
    """A server of the test's own, which may be killed."""
    with postgres_server() as running:
        yield running


@pytest.fixture
def log(request):
    """A log of the test's own."""
    return request.node.name


def event(seq):
    return PersistedEvent(f"id{seq}", seq, seq, "w", numbered(seq))


@asynccontextmanager
async def locked(server, statement):
    """A transaction of somebody else's, which holds what ``statement`` locks for the length of the block."""
    other = await trio.to_thread.run_sync(lambda: psycopg.connect(server.url()))
    try:
        await trio.to_thread.run_sync(lambda: other.execute(statement))
        yield
    finally:
        other.close()


def backend_of(store):
    return store._appender._connection.backend[0]


async def until(condition):
    """Ask until something holds that nobody tells of; bounded."""
    with trio.fail_after(10):
        while not await condition():
            pass


async def seqs(store):
    return [found.seq for found in await store.query(EventQuery())]


# --- cancelling -----------------------------------------------------------------------------------


async def is_waiting(server, pid):
    rows = await sql(
        server, "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'", pid
    )
    return bool(rows)


async def test_s11_a_cancelled_append_is_stopped_at_the_server(server, log):
    async with PostgresStore.open(server.url(), log=log) as store:
        await store.append_batch([event(1)])
        before = backend_of(store)
        async with locked(server, "select * from trio_eventlog.logs for update"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.append_batch, [event(2)])
                await until(lambda: is_waiting(server, before))
                began = trio.current_time()
                nursery.cancel_scope.cancel()
            assert trio.current_time() - began < 1
        await store.append_batch([event(3)])

        # The same session, in which nothing is left of it.
        assert backend_of(store) == before
        assert await seqs(store) == [1, 3]


async def test_s11_a_cancelled_query_is_stopped_at_the_server(server, log):
    async with PostgresStore.open(server.url(), log=log, readers=1) as store:
        await store.append_batch([event(1)])
        await seqs(store)
        (reader,) = store._pool._idle
        async with locked(server, "lock table trio_eventlog.events in access exclusive mode"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.query, EventQuery())
                await until(lambda: is_waiting(server, reader.backend[0]))
                began = trio.current_time()
                nursery.cancel_scope.cancel()
            assert trio.current_time() - began < 1
        assert await seqs(store) == [1]
        assert store._pool._idle == [reader]


async def test_without_a_libpq_that_can_cancel(server, log, monkeypatch):
    """Before version 17 asking a server to stop blocks, and so it has a thread."""
    monkeypatch.setattr(connection.psycopg.capabilities, "has_cancel_safe", lambda: False)
    await test_s11_a_cancelled_append_is_stopped_at_the_server(server, log)


async def test_s11_cancelled_where_no_thread_can_ask_the_server_to_stop(server, log, monkeypatch, caplog):
    """The connection is dropped. The error is logged, and does not take the place of the cancellation."""
    async with PostgresStore.open(server.url(), log=log) as store:
        await seqs(store)
        (reader,) = store._pool._idle
        async with locked(server, "lock table trio_eventlog.events in access exclusive mode"):
            with monkeypatch.context() as patch:
                patch.setattr(connection.psycopg.capabilities, "has_cancel_safe", lambda: False)
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(store.query, EventQuery())
                        await until(lambda: is_waiting(server, reader.backend[0]))
                        patch.setattr(trio.to_thread, "run_sync", refuse_threads)
                        scope.cancel(reason="test")
            assert scope.cancelled_caught
        assert "can't start new thread" in caplog.text
        assert store._pool._idle == []
        assert await seqs(store) == []


async def refuse_threads(*_, **__):
    raise RuntimeError("can't start new thread")


async def test_leaving_while_a_query_runs(server, log):
    """It does not wait for that, and whoever asked hears why there is no answer."""
    errors = []
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        async with PostgresStore.open(server.url(), log=log, readers=1) as store:
            await seqs(store)
            (reader,) = store._pool._idle
            await stack.enter_async_context(locked(server, "lock table trio_eventlog.events"))
            nursery.start_soon(note_errors, errors, store.query, EventQuery())  # noqa: ASYNC111 - the store closes first: that is the point
            await until(lambda: is_waiting(server, reader.backend[0]))
    assert [type(exc) for exc in errors] == [StoreUnusable]
    assert "the store is closed" in str(errors[0])


async def test_leaving_while_an_append_does_not_end(server, log, monkeypatch, caplog):
    """It gives up after a bound; the lock goes when the server sees that nobody waits any more."""
    monkeypatch.setattr(appender, "_CLOSE_TIMEOUT", 0.3)
    errors = []
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        async with PostgresStore.open(server.url(), log=log) as store:
            await stack.enter_async_context(locked(server, "select * from trio_eventlog.logs for update"))
            nursery.start_soon(note_errors, errors, store.append_batch, [event(1)])  # noqa: ASYNC111 - as above
            await until(lambda: is_waiting(server, backend_of(store)))
            began = trio.current_time()
        assert 0.3 <= trio.current_time() - began < 1.3
        pid = store._appender._lost[0][0] if store._appender._lost else backend_of(store)
        # While the row is locked yet: the server looks after its client once a second.
        await until(lambda: is_gone(server, pid))
        assert trio.current_time() - began < 4
    assert "lock could not be given back" in caplog.text
    assert [type(exc) for exc in errors] == [StoreUnusable]
    async with PostgresStore.open(server.url(), log=log) as store:
        assert await seqs(store) == []


async def is_gone(server, pid):
    return not await sql(server, "select 1 from pg_stat_activity where pid = %s", pid)


async def note_errors(errors, call, *arguments):
    try:
        await call(*arguments)
    except StoreError as exc:
        errors.append(exc)


# --- the network ----------------------------------------------------------------------------------


async def test_a_connection_that_is_cut(server, log):
    async with TcpProxy.open(server.port) as proxy:
        async with PostgresStore.open(server.url(port=proxy.port), log=log) as store:
            await store.append_batch([event(1)])
            assert await seqs(store) == [1]
            proxy.refuse()
            with pytest.raises(StoreError) as failed:
                await store.append_batch([event(2)])
            assert not isinstance(failed.value, StoreUnusable)
            with pytest.raises(StoreError) as failed:
                await store.query(EventQuery())
            assert not isinstance(failed.value, StoreUnusable)
            with pytest.raises(StoreError) as failed:
                await store.last_seq()
            assert not isinstance(failed.value, StoreUnusable)
            proxy.accept()

            # It makes new ones by itself, and gets its own lock back.
            await store.append_batch([event(2)])
            assert await seqs(store) == [1, 2]
            with pytest.raises(LogBusy):
                async with PostgresStore.open(server.url(), log=log):
                    pytest.fail("opened")  # pragma: no cover


async def test_a_connection_that_is_cut_in_the_midst_of_an_append(server, log):
    """The old session is ended, whatever it waits for, before the new one has the lock."""
    async with TcpProxy.open(server.port) as proxy:
        async with PostgresStore.open(server.url(port=proxy.port), log=log) as store:
            await store.append_batch([event(1)])
            before = backend_of(store)
            errors = []
            async with locked(server, "select * from trio_eventlog.logs for update"):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(note_errors, errors, store.append_batch, [event(2)])
                    await until(lambda: is_waiting(server, before))
                    proxy.cut()
            assert [type(exc) for exc in errors] == [StoreError]
            await store.append_batch([event(2)])

            assert backend_of(store) != before
            assert await seqs(store) == [1, 2]


async def test_a_network_that_hangs(server, log):
    async with TcpProxy.open(server.port) as proxy:
        async with PostgresStore.open(server.url(port=proxy.port), log=log) as store:
            await store.append_batch([event(1)])
            proxy.stall()
            for _ in range(2):
                began = trio.current_time()
                with trio.move_on_after(0.1) as scope:
                    await store.append_batch([event(2)])
                assert scope.cancelled_caught
                assert trio.current_time() - began < 1.1
            proxy.resume()
            await store.last_seq()
            await store.append_batch([event(2), event(3)])

            assert await seqs(store) == [1, 2, 3]


async def test_a_batch_that_the_network_takes_in_pieces(server, log):
    """Sending it does not hold up other tasks, and it can be cancelled in the midst of it."""
    large = [
        PersistedEvent(f"id{seq}", seq, 0, None, ModuleEvent("m", "t", "x" * 20_000_000)) for seq in (1, 2)
    ]
    async with TcpProxy.open(server.port) as proxy:
        async with PostgresStore.open(server.url(port=proxy.port), log=log) as store:
            await store.append_batch(large[:1])
            proxy.stall()
            began = trio.current_time()
            with trio.move_on_after(0.1) as scope:
                await store.append_batch(large[1:])
            assert scope.cancelled_caught
            assert trio.current_time() - began < 1.1
            proxy.resume()
            # Half of a statement is none.
            assert await store.last_seq() == 1
            await store.append_batch(large)
            assert await seqs(store) == [1, 2]


@pytest.fixture
def full():
    """A socket that neither takes nor has a byte."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(65_536))
        yield ours


async def test_a_connection_that_is_closed_while_the_network_takes_nothing(full):
    """What waits for it hears of it as of any other wait: not in a group."""

    async def wait():
        with pytest.raises(trio.ClosedResourceError):
            await connection.wait_either(full.fileno())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(full)


def test_ctrl_c_while_the_network_takes_nothing(full):
    @trio.lowlevel.enable_ki_protection
    async def interrupt():
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            with pytest.raises(KeyboardInterrupt):
                await connection.wait_either(full.fileno())

    trio.run(main)


async def test_leaving_while_the_network_hangs(server, log, monkeypatch, caplog):
    """It gives up after a bound, and says so; the lock is free once the server knows."""
    monkeypatch.setattr(appender, "_CLOSE_TIMEOUT", 0.3)
    async with TcpProxy.open(server.port) as proxy:
        async with PostgresStore.open(server.url(port=proxy.port), log=log) as store:
            await store.append_batch([event(1)])
            proxy.stall()
            began = trio.current_time()
        assert 0.3 <= trio.current_time() - began < 2
        assert "lock could not be given back" in caplog.text
        with pytest.raises(LogBusy):
            async with PostgresStore.open(server.url(), log=log):
                pytest.fail("opened")  # pragma: no cover
        proxy.resume()
        proxy.cut()

    async def is_free():
        try:
            async with PostgresStore.open(server.url(), log=log) as store:
                assert await seqs(store) == [1]
        except LogBusy:
            return False
        return True

    await until(is_free)


async def test_leaving_after_the_connection_was_cut(server, log):
    """A session that the server still believes in is ended, so that the log can be opened at once."""
    async with TcpProxy.open(server.port) as proxy:
        for seq in range(1, 4):
            async with PostgresStore.open(server.url(port=proxy.port), log=log) as store:
                await store.append_batch([event(seq)])
                proxy.cut()
    async with PostgresStore.open(server.url(), log=log) as store:
        assert await seqs(store) == [1, 2, 3]


async def test_a_connect_timeout_holds_for_each_address(server, log):
    async with TcpProxy.open(server.port) as silent:
        silent.stall()
        url = server.url().replace("@", f"@127.0.0.1:{silent.port},") + "?connect_timeout=2"
        began = trio.current_time()
        async with PostgresStore.open(url, log=log) as store:
            await store.append_batch([event(1)])
            assert 2 <= trio.current_time() - began < 4
            # From now on the one that answered is asked first.
            assert await seqs(store) == [1]
            assert trio.current_time() - began < 4


# --- somebody else --------------------------------------------------------------------------------


async def test_a_session_that_an_operator_ends(server, log):
    """An idle session that is gone is noticed before anything is sent, so that nothing fails."""
    async with PostgresStore.open(server.url(), log=log) as store:
        await store.append_batch([event(1)])
        await seqs(store)
        before = backend_of(store)
        await sql(
            server,
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name = 'trio_eventlog'",
        )
        await store.append_batch([event(2)])

        assert backend_of(store) != before
        assert await seqs(store) == [1, 2]


async def test_s13_another_appender_got_in_between(server, log):
    async with PostgresStore.open(server.url(), log=log) as first:
        await first.append_batch([event(1)])
        await sql(server, "select pg_terminate_backend(%s, 5000)", backend_of(first))
        async with PostgresStore.open(server.url(), log=log) as second:
            await second.append_batch([event(2)])
            with pytest.raises(LogBusy, match=f"process {os.getpid()} while the connection was lost"):
                await first.append_batch([event(3)])
            await second.append_batch([event(4)])
        # Also once that one has gone: it may have numbered events as this one would.
        with pytest.raises(LogBusy):
            await first.append_batch([event(3)])
        with pytest.raises(LogBusy):
            await first.last_seq()
        # Reading needs no lock.
        assert await seqs(first) == [1, 2, 4]
        # However often it is told, there is but one session that closing has to look for.
        assert len(first._appender._lost) == 1


async def test_s13_an_appender_that_is_out_does_not_touch_the_lock(server, log, monkeypatch):
    """Not even for a moment, in which whoever opens the log would be refused."""
    async with PostgresStore.open(server.url(), log=log) as first:
        await sql(server, "select pg_terminate_backend(%s, 5000)", backend_of(first))
        async with PostgresStore.open(server.url(), log=log):
            pass

        async def lock(*_):
            pytest.fail("it was asked for")  # pragma: no cover

        monkeypatch.setattr(appender.Appender, "_lock", lock)
        with pytest.raises(LogBusy):
            await first.append_batch([event(1)])


async def test_s13_another_appender_came_and_went_while_the_lock_was_taken_back(server, log, monkeypatch):
    end_lost = appender.Appender._end_lost

    async def end_lost_and_let_another_in(self, session):
        await end_lost(self, session)
        monkeypatch.undo()
        async with PostgresStore.open(server.url(), log=log) as second:
            await second.append_batch([event(1)])

    async with PostgresStore.open(server.url(), log=log) as first:
        await sql(server, "select pg_terminate_backend(%s, 5000)", backend_of(first))
        monkeypatch.setattr(appender.Appender, "_end_lost", end_lost_and_let_another_in)
        with pytest.raises(LogBusy):
            await first.last_seq()


async def test_s15_leaving_ends_a_session_that_the_server_still_believes_in(server, log):
    async with PostgresStore.open(server.url(), log=log) as store:
        await store.append_batch([event(1)])
        believed = store._appender._connection
        store._appender._connection = None
        store._appender._lost.append(believed.backend)
    async with PostgresStore.open(server.url(), log=log) as store:
        assert await seqs(store) == [1]
    believed.drop()


async def test_s11_a_cancelled_transaction_is_not_in_the_way_of_the_next_query(server, log, monkeypatch):
    async with PostgresStore.open(server.url(), log=log, readers=1) as store:
        await store.append_batch([event(1)])
        with monkeypatch.context() as patch, trio.CancelScope() as scope:

            async def cancelled(*_):
                scope.cancel()
                await trio.lowlevel.checkpoint()

            patch.setattr(maintenance, "_ranking", cancelled)
            await store.describe()
        assert scope.cancelled_caught
        # What that transaction saw is over.
        await store.append_batch([event(2)])
        assert await seqs(store) == [1, 2]


async def test_s13_an_epoch_that_has_changed_lets_nothing_through(server, log):
    """The lock is one thing; the row of the log is what every append itself looks at."""
    async with PostgresStore.open(server.url(), log=log) as store:
        await store.append_batch([event(1)])
        await sql(server, "update trio_eventlog.logs set epoch = epoch + 1 where name = %s", log.encode())
        with pytest.raises(LogBusy):
            await store.append_batch([event(2)])
        assert await seqs(store) == [1]


async def test_s13_an_old_session_that_does_not_end(server, log, monkeypatch):
    """The appender is shut out of its own log for as long as that takes, and no longer."""
    monkeypatch.setattr(appender, "_END_TIMEOUT", 100)
    async with TcpProxy.open(server.port) as proxy:
        async with PostgresStore.open(server.url(port=proxy.port), log=log) as store:
            await store.append_batch([event(1)])
            before = backend_of(store)
            os.kill(before, signal.SIGSTOP)
            try:
                proxy.cut()
                # Which of the two comes first depends on when the cut is known.
                with suppress(StoreError):
                    await store.append_batch([event(2)])
                for _ in range(2):
                    with pytest.raises(StoreError, match="lock is not free again yet, by session") as failed:
                        await store.append_batch([event(2)])
                    assert not isinstance(failed.value, StoreUnusable)
            finally:
                os.kill(before, signal.SIGCONT)
            await until(lambda: _works(store.append_batch, [event(2)]))

            assert await seqs(store) == [1, 2]


async def _works(call, *arguments):
    try:
        await call(*arguments)
    except StoreError as exc:
        assert not isinstance(exc, StoreUnusable)  # noqa: PT017 - which of the two is the point
        return False
    return True


HOLDER = """
    import sys, trio
    from trio_eventlog.stores import PostgresStore

    async def main():
        async with PostgresStore.open(sys.argv[1], log=sys.argv[2]):
            print("open", flush=True)
            await trio.sleep_forever()

    trio.run(main)
"""


INTERRUPTED = """
    import os, signal, sys
    import trio
    from trio_eventlog.stores import PostgresStore
    from trio_eventlog.stores.postgres._connection import TrioConnection

    url, log, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
    calls = 0
    execute = TrioConnection._execute

    async def execute_and_interrupt(self, *args, **options):
        global calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGINT)
        return await execute(self, *args, **options)

    TrioConnection._execute = execute_and_interrupt

    async def main():
        async with PostgresStore.open(url, log=log):
            pass

    try:
        trio.run(main)
        print("ran to its end")
    except KeyboardInterrupt:
        print("interrupted")

    async def again():
        async with PostgresStore.open(url, log=log) as store:
            print("last seq", await store.last_seq())

    trio.run(again)
"""


@pytest.mark.parametrize("nth", range(1, 11))
async def test_s15_ctrl_c_while_opening_or_closing(server, log, nth):
    """The process ends, and the lock is free at once: at whichever statement it comes."""
    async with PostgresStore.open(server.url(), log="other"):
        # The tables are there, whichever of these runs first.
        pass
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), server.url(), log, str(nth)]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)

    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == ["interrupted", "last seq 0"]


def test_s15_ctrl_c_just_as_an_append_begins(server, log):
    """Nobody holds the turn afterwards, for which closing waits."""

    async def main():
        async with PostgresStore.open(server.url(), log=log) as store:
            turn = store._appender._turn
            store._appender._turn = InterruptedTurn(turn)
            try:
                await store.append_batch([event(1)])
            finally:
                store._appender._turn = turn

    async def again():
        async with PostgresStore.open(server.url(), log=log) as store:
            return await store.last_seq()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert trio.run(again) in (0, 1)


async def test_s13_the_lock_of_a_process_that_was_killed(server, log):
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), server.url(), log]
    child = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        said = b""
        while not said.endswith(b"\n"):
            said += await child.stdout.receive_some()
        assert said == b"open\n"
        with pytest.raises(LogBusy, match="open for writing elsewhere, by session"):
            async with PostgresStore.open(server.url(), log=log):
                pytest.fail("opened")  # pragma: no cover
    finally:
        child.kill()
        with trio.move_on_after(10, shield=True):
            await child.wait()
            await child.stdout.aclose()
    began = trio.current_time()

    async def is_free():
        try:
            async with PostgresStore.open(server.url(), log=log) as store:
                return store.lock_timeout > trio.current_time() - began
        except LogBusy:
            return False

    await until(is_free)


# --- the server -----------------------------------------------------------------------------------


async def test_a_server_that_is_shut_down_and_comes_back(mortal, log):
    async with PostgresStore.open(mortal.url(), log=log) as store:
        await store.append_batch([event(1)])
        assert await seqs(store) == [1]
        await trio.to_thread.run_sync(mortal.stop)
        for call in (store.last_seq(), store.append_batch([event(2)]), store.query(EventQuery())):
            with pytest.raises(StoreError) as failed:
                await call
            assert not isinstance(failed.value, StoreUnusable)
        await trio.to_thread.run_sync(mortal.start)
        await store.append_batch([event(2)])

        assert await seqs(store) == [1, 2]


async def test_a_database_that_is_dropped(server, log):
    """It may come back, as one that is restored or renamed does; who opens it hears that it is not there."""
    await sql(server, "create database gone")
    async with PostgresStore.open(server.url("gone"), log=log) as store:
        await store.append_batch([event(1)])
        assert await seqs(store) == [1]
        await sql(
            server, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = 'gone'"
        )
        await sql(server, "alter database gone rename to away")
        for call in (store.append_batch([event(2)]), store.query(EventQuery())):
            with pytest.raises(StoreError, match='database "gone" does not exist') as failed:
                await call
            assert type(failed.value) is StoreError
        with pytest.raises(StoreUnusable, match='database "gone" does not exist'):
            async with PostgresStore.open(server.url("gone"), log=log):
                pytest.fail("opened")  # pragma: no cover
        await sql(server, "alter database away rename to gone")
        await store.append_batch([event(2)])
        assert await seqs(store) == [1, 2]
        await sql(server, "drop database gone with (force)")
        for call in (store.append_batch([event(3)]), store.query(EventQuery())):
            with pytest.raises(StoreError, match='database "gone" does not exist') as failed:
                await call
            assert type(failed.value) is StoreError
        # One that has the name and nothing of what was there is not filled up in silence.
        await sql(server, "create database gone")
        with pytest.raises(StoreError, match="does not exist"):
            await store.append_batch([event(3)])


async def test_a_server_that_is_too_old(server, log, monkeypatch):
    monkeypatch.setattr(target, "MIN_SERVER_VERSION", 990_000)
    with pytest.raises(StoreUnusable, match=r"PostgreSQL \d\d is too old, it must be 99 or newer"):
        async with PostgresStore.open(server.url(), log=log):
            pytest.fail("opened")  # pragma: no cover


async def test_a_server_that_is_restarted_under_load(mortal, log):
    """No event that was acknowledged is lost, none stands twice, and the log catches up by itself."""
    reports = []
    retry = RetryPolicy(initial=0.02, maximum=0.2)
    async with PostgresStore.open(mortal.url(), log=log) as store:
        async with open_event_log(
            store,
            batch_size=16,
            flush_interval=0.01,
            retry_buffer_cap=200,
            retry=retry,
            grace_period=20,
            on_failure=reports.append,
        ) as events:
            done = trio.Event()

            async def load():
                while not done.is_set():
                    await events.ingest_wait(numbered(events.statistics().ingested + 1))

            async def all_so_far():
                await events.flush(through=events.statistics().last_assigned_seq)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(load)
                for end in (mortal.kill, mortal.stop, partial(mortal.stop, "immediate")):
                    await all_so_far()
                    await trio.to_thread.run_sync(end)
                    acknowledged = events.statistics().last_durable_seq
                    await trio.to_thread.run_sync(mortal.start)
                    found = await reader_seqs(mortal, log)
                    assert found[:acknowledged] == list(range(1, acknowledged + 1))
                await all_so_far()
                done.set()
            await events.flush()
            statistics = events.statistics()
        found = await store.query(EventQuery())

        assert statistics.persisted == statistics.ingested
        assert [item.seq for item in found] == list(range(1, statistics.ingested + 1))
        assert [item.event.payload for item in found] == [
            numbered(seq).payload for seq in range(1, len(found) + 1)
        ]
        assert not [report for report in reports if isinstance(report, LossReport)]
        assert statistics.failures >= 3


async def reader_seqs(server, log):
    async with PostgresStore.open(server.url(), log=log, read_only=True) as reader:
        return await seqs(reader)


async def test_a_watch_over_a_connection_that_is_lost(server, log):
    async with TcpProxy.open(server.port) as proxy:
        async with (
            PostgresStore.open(server.url(), log=log) as store,
            PostgresStore.open(server.url(port=proxy.port), log=log, read_only=True) as reader,
            reader.watch_changes() as watch,
        ):
            proxy.refuse()
            for _ in range(2):
                with pytest.raises(StoreError) as failed:
                    await watch.wait()
                assert not isinstance(failed.value, StoreUnusable)
            proxy.accept()
            # It has missed nothing: so it returns, once, without having heard of anything.
            await watch.wait()
            with trio.move_on_after(0.05) as scope:
                await watch.wait()
            assert scope.cancelled_caught
            await store.append_batch([event(1)])
            await watch.wait()
