"""Ctrl-C, cancellation and leaving (S13, S15)."""

import contextlib
import signal
import stat
import threading

import apsw
import pytest
import trio
import trio.testing

from tests._helpers.events import agent
from tests._helpers.sqlite import Gate, connections_of, workers
from trio_eventlog import EventQuery, LogBusy, StoreError, StoreUnusable
from trio_eventlog import _lock_file as _lockfile
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _appender as rows
from trio_eventlog.stores.sqlite import _files as _sqlite_files
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _worker as worker_module

pytestmark = pytest.mark.usefixtures("no_threads_left")


class InterruptAtStep(trio.abc.Instrument):
    """Sends this process a SIGINT when the task that made it is about to run for the given time."""

    def __init__(self, step):
        self._task = trio.lowlevel.current_task()
        self.left = step

    def before_task_step(self, task):
        if task is self._task:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)


async def opened_again(path):
    async with SqliteStore.open(path) as store:
        return await store.last_seq()


@pytest.mark.parametrize("read_only", [False, True])
def test_s15_interrupted_at_every_step_of_opening_and_leaving(tmp_path, read_only):
    """No shield keeps Ctrl-C out of the main task. The lock is free, and no thread keeps the process."""

    async def main(path, step):
        instrument = InterruptAtStep(step)
        trio.lowlevel.add_instrument(instrument)
        async with SqliteStore.open(path, read_only=read_only) as store:
            await store.last_seq()
        trio.lowlevel.remove_instrument(instrument)
        return instrument.left > 0

    unharmed = False
    step = 0
    while not unharmed:
        step += 1
        path = tmp_path / f"{step}.db"
        if read_only:
            assert trio.run(opened_again, path) == 0
        with contextlib.suppress(KeyboardInterrupt):
            unharmed = trio.run(main, path, step)
        assert not workers()
        assert not _lockfile._registry.held
        assert trio.run(opened_again, path) == 0
    assert step > 5


@pytest.mark.parametrize("moment", ["before", "after"])
def test_s15_interrupted_between_two_lines(tmp_path, monkeypatch, moment):
    """Right before a thread is asked, and right after it has answered."""
    run_sync, calls = trio.to_thread.run_sync, []

    async def interrupting(*arguments, **options):
        calls.append(arguments)
        if moment == "before" and len(calls) == chosen:
            signal.raise_signal(signal.SIGINT)
        result = await run_sync(*arguments, **options)
        if moment == "after" and len(calls) == chosen:
            signal.raise_signal(signal.SIGINT)
        return result

    # Lock the log, open and prepare each connection, ask, close each.
    for chosen in range(1, 9):
        path = tmp_path / f"{chosen}.db"
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", interrupting)
            with pytest.raises(KeyboardInterrupt):
                trio.run(opened_again, path)
        assert len(calls) >= chosen
        assert not workers()
        assert not _lockfile._registry.held
        assert trio.run(opened_again, path) == 0


@pytest.mark.parametrize("where", [(worker_module.SerialWorker, "start"), (worker_module, "in_thread")])
@pytest.mark.parametrize("chosen", [1, 2])
def test_s15_interrupted_before_a_result_is_noted(path, monkeypatch, where, chosen):
    """The lock is taken or the thread runs, and nobody has a name for it yet."""
    original, calls = getattr(*where), []

    async def interrupting(*arguments, **options):
        calls.append(arguments)
        result = await original(*arguments, **options)
        if len(calls) == chosen:
            signal.raise_signal(signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(*where, interrupting)
        with contextlib.suppress(KeyboardInterrupt):
            trio.run(opened_again, path)
    assert calls
    assert not workers()
    assert not _lockfile._registry.held
    assert trio.run(opened_again, path) == 0


def test_s15_interrupted_while_leaving_waits_for_an_append(path, monkeypatch):
    """It waits on, however often; then the lock is free and the interrupt is raised."""
    insert = rows.insert
    gates = []

    def stuck(*arguments):
        gates[0]()
        return insert(*arguments)

    async def interrupt():
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGINT)
        await trio.testing.wait_all_tasks_blocked()
        gates[0].open()

    async def main():
        gates.append(Gate())
        async with SqliteStore.open(path) as store:
            monkeypatch.setattr(rows, "insert", stuck)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.append_batch, [agent(1)])
                await gates[0].reached.wait()
                nursery.cancel_scope.cancel()
            # Not in a nursery of ours, which would group the interrupt.
            trio.lowlevel.spawn_system_task(interrupt)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert not workers()
    assert not _lockfile._registry.held
    monkeypatch.setattr(rows, "insert", insert)
    assert trio.run(opened_again, path) == 1


def test_s15_interrupted_while_the_connection_is_being_closed(path, monkeypatch):
    """The close has begun: it is waited for, not asked for again."""

    async def main():
        gate = Gate()

        async def interrupt():
            await gate.reached.wait()
            signal.raise_signal(signal.SIGINT)
            await trio.testing.wait_all_tasks_blocked()
            gate.open()

        async with SqliteStore.open(path) as store:
            release = store._writer._at_end

            def late():
                gate()
                release()

            monkeypatch.setattr(store._writer, "_at_end", late)
            trio.lowlevel.spawn_system_task(interrupt)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert not _lockfile._registry.held


async def test_closing_that_fails_still_ends(path, monkeypatch):
    """The driver refuses to close: the lock is freed, and leaving is no error."""
    async with SqliteStore.open(path) as store:
        at_end = store._writer._at_end

        def fail():
            at_end()
            raise apsw.IOError("no close")

        monkeypatch.setattr(store._writer, "_at_end", fail)
    async with SqliteStore.open(path):
        pass


# --- S15: leaving ---------------------------------------------------------------------------------


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task is about to run for the given time."""

    def __init__(self, scope, step):
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._left = step

    def before_task_step(self, task):
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("existing", [False, True])
async def test_s15_cancelled_while_opening(tmp_path, read_only, existing):
    """At every step of it: nothing is left behind, and the log can be opened at once."""
    opened = step = 0
    while opened < 2:
        step += 1
        path = tmp_path / f"{step}.db"
        if existing or read_only:
            async with SqliteStore.open(path) as store:
                await store.append_batch([agent(1)])
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                async with SqliteStore.open(path, read_only=read_only):
                    trio.lowlevel.remove_instrument(instrument)
                    opened += 1
            finally:
                with contextlib.suppress(KeyError):
                    trio.lowlevel.remove_instrument(instrument)
        assert not workers()
        assert not _lockfile._registry.held
        async with SqliteStore.open(path):
            pass
    assert step > 3


@pytest.mark.parametrize("read_only", [False, True])
async def test_s15_opening_entered_cancelled(path, read_only):
    with trio.CancelScope() as scope:
        scope.cancel()
        async with SqliteStore.open(path, read_only=read_only):
            pytest.fail("opened")  # pragma: no cover
    assert scope.cancelled_caught
    assert not path.exists()


async def test_s15_cancelled_inside(path):
    with trio.CancelScope() as scope:
        async with SqliteStore.open(path) as store:
            await store.append_batch([agent(1)])
            scope.cancel()
            await trio.lowlevel.checkpoint()
    async with SqliteStore.open(path) as store:
        assert await store.last_seq() == 1


async def test_s15_an_error_in_the_body_leaves_as_it_is(path):
    error = ValueError("the body's")
    with pytest.raises(ValueError, match="the body's") as caught:
        async with SqliteStore.open(path):
            raise error
    assert caught.value is error
    assert error.__context__ is None
    async with SqliteStore.open(path):
        pass


async def test_a_log_that_another_process_makes_meanwhile(path, monkeypatch):
    """It was not there when first looked for, and is when the file is locked."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
    find_log, calls = schema.find_log, []

    def first_time_blind(db, log):
        calls.append(log)
        return None if len(calls) == 1 else find_log(db, log)

    monkeypatch.setattr(schema, "find_log", first_time_blind)
    async with SqliteStore.open(path) as store:
        assert await store.last_seq() == 1
    assert len(calls) == 2


async def test_making_a_log_is_all_or_nothing(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "events_table", lambda log_id: "CREATE TABLE events_1 (seq, nonsense!)")
        with pytest.raises(StoreUnusable, match="unrecognized token"):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
    assert await SqliteStore.logs(path) == []
    async with SqliteStore.open(path):
        pass


def test_the_size_of_what_is_not_there(path):
    assert _sqlite_files.size_of(str(path)) == 0


async def test_s15_files(path):
    """SQLite's side files go; the lock file stays. Nobody else may read what was created."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [file.suffix for file in sorted(path.parent.iterdir())] == [".db", ".lock"]


async def test_after_the_close(path):
    async with SqliteStore.open(path) as store:
        pass
    for call in (
        lambda: store.append_batch([agent(1)]),
        lambda: store.append_batch([]),
        lambda: store.query(EventQuery()),
        lambda: store.query(EventQuery(limit=0)),
        store.last_seq,
        store.describe,
    ):
        with trio.testing.assert_checkpoints(), pytest.raises(StoreUnusable, match="closed"):
            await call()


async def test_closing_stops_queries_and_refuses_what_waits(path):
    """Tasks that still use the store get an error of ours, and leaving does not wait for them."""
    endless = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def run(db):
        token.run_sync_soon(started.set)
        db.execute(endless).fetchall()

    refused = []

    async def use(call, *arguments):
        try:
            await call(*arguments)
        except StoreUnusable as exc:
            refused.append(str(exc))

    with trio.fail_after(10):
        # Just what this is about: tasks that outlive the store.
        async with trio.open_nursery() as nursery, SqliteStore.open(path) as store:
            nursery.start_soon(use, store._reader.run, run)  # noqa: ASYNC111
            await started.wait()
            nursery.start_soon(use, store.query, EventQuery())  # noqa: ASYNC111
            await trio.testing.wait_all_tasks_blocked()
    assert len(refused) == 2
    assert all("closed" in text for text in refused)


async def test_nobody_builds_one_directly():
    with pytest.raises(TypeError, match="no public constructor"):
        SqliteStore()


@pytest.mark.parametrize("what", ["the lock file", "the database"])
async def test_s15_cancelled_while_the_disk_hangs(path, monkeypatch, what):
    """Opening ends at once; what it had begun ends in its thread, and leaves nothing behind."""
    gate = Gate()
    acquire = _sqlite_files.acquire

    def slow(*arguments):
        gate()
        return acquire(*arguments)

    with monkeypatch.context() as patch:
        if what == "the lock file":
            patch.setattr(_sqlite_files, "acquire", slow)
        else:
            patch.setattr(apsw, "connection_hooks", [gate])
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                async def use():
                    async with SqliteStore.open(path):
                        pytest.fail("opened")  # pragma: no cover

                nursery.start_soon(use)
                await gate.reached.wait()
                nursery.cancel_scope.cancel()
    gate.open()
    assert not workers()
    assert not _lockfile._registry.held
    assert connections_of(path) == []
    async with SqliteStore.open(path):
        pass


def refuse(*_):
    raise apsw.CantOpenError("not today")


async def test_s15_the_lock_is_given_back_in_a_thread(path, monkeypatch):
    """Also where the file cannot be opened: the loop does not wait for a disk."""
    release, released_in = _lockfile.FileLock.release, []

    def noted(lock):
        released_in.append(threading.get_ident())
        release(lock)

    with monkeypatch.context() as patch:
        patch.setattr(_lockfile.FileLock, "release", noted)
        patch.setattr(apsw, "connection_hooks", [refuse])
        with pytest.raises(StoreError, match="not today"):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
    assert len(released_in) == 1
    assert threading.get_ident() not in released_in
    async with SqliteStore.open(path):
        pass


async def test_s15_the_disk_hangs_when_the_lock_is_given_back(path, monkeypatch, caplog):
    """Opening gives up, with what it has to say, and the lock is free once the disk goes on."""
    gate, release = Gate(), _lockfile.FileLock.release

    def slow(lock):
        gate()
        release(lock)

    with monkeypatch.context() as patch:
        patch.setattr(_lockfile.FileLock, "release", slow)
        patch.setattr(worker_module, "CLOSE_SECONDS", 0.05)
        patch.setattr(apsw, "connection_hooks", [refuse])
        with pytest.raises(StoreError, match="not today"):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
        assert "the disk hangs" in caplog.text
        with pytest.raises(LogBusy):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
        gate.open()
        assert not workers()
    async with SqliteStore.open(path):
        pass


async def test_s15_no_thread_is_left_to_give_the_lock_back(path, monkeypatch):
    """The loop does it then."""
    run_sync = trio.to_thread.run_sync

    async def one_thread(function, *arguments, **options):
        if function.__name__ == "release":
            raise RuntimeError("can't start new thread")
        return await run_sync(function, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", one_thread)
        patch.setattr(apsw, "connection_hooks", [refuse])
        with pytest.raises(StoreError, match="not today"):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
    async with SqliteStore.open(path):
        pass
