"""What concerns SqliteStore alone: files, locks, threads, processes, plans and failures (S10 to S15)."""

import contextlib
import errno
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import weakref

import apsw
import pytest
import trio
import trio.testing

from tests.stores.test_stores import agent, everything
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventRejected,
    LogBusy,
    LogNotFound,
    SequenceConflict,
    SpillError,
    StoreError,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog import _lock_file as _lockfile
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _files as _sqlite_files
from trio_eventlog.stores.sqlite import _rows as rows
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _select as queries
from trio_eventlog.stores.sqlite import _worker as worker_module


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture(autouse=True)
def no_threads_left():
    """S15, after every test of this file."""
    assert not workers()
    yield
    assert not workers()


def workers():
    """The threads in which something of a store runs that does not come to its end by itself."""
    for _ in range(500):
        found = [thread for thread in threading.enumerate() if "trio_eventlog" in thread.name]
        if not found:
            break
        found[0].join(0.01)
    return found


class Gate:
    """Something that a worker thread gets stuck in until it is let go."""

    def __init__(self):
        self.reached = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._open = threading.Event()

    def __call__(self, *_args, **_kwargs):
        self._token.run_sync_soon(self.reached.set)
        assert self._open.wait(30)

    def open(self):
        self._open.set()


def connections_of(path):
    """Those to a file that are open in this process."""
    return [db for db in apsw.connections() if db.filename == str(path)]


def raw(path, *statements):
    """Run statements on a connection of its own, and return the rows of the last one."""
    db = apsw.Connection(str(path))
    try:
        for statement in statements:
            rows = db.execute(statement).fetchall()
        return rows
    finally:
        db.close()


# --- other processes ------------------------------------------------------------------------------

PRELUDE = """
import os, sys, trio
from trio_eventlog import *
from trio_eventlog.stores import SqliteStore

def agent(seq):
    return PersistedEvent(f"id-{seq}", seq, seq, "a", AgentEvent("a", "t", None))

def say(text):
    print(text, flush=True)

def wait_for_end_of_input():
    sys.stdin.read()

path = sys.argv[1]
"""


@contextlib.asynccontextmanager
async def process(path, program, *arguments):
    """A Python program beside us, killed at the end; it ends by itself when its input does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    async with trio.open_nursery() as nursery:
        other = await trio.lowlevel.open_process(
            [sys.executable, "-c", PRELUDE + program, str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        try:
            yield other
        finally:
            other.kill()
            with trio.move_on_after(10, shield=True):
                await other.stdin.aclose()
                await other.wait()
                await other.stdout.aclose()
            nursery.cancel_scope.cancel()


async def line(other):
    text = b""
    while not text.endswith(b"\n"):
        more = await other.stdout.receive_some()
        assert more, "the process ended"
        text += more
    return text.decode().strip()


async def lines(other):
    """All that it has to say, to its end."""
    text = b""
    async for more in other.stdout:
        text += more
    return text.decode().splitlines()


HOLD = """
async def main():
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1), agent(2)])
        await store.append_batch([agent(3)])
        say(await store.last_seq())
        wait_for_end_of_input()

trio.run(main)
"""


async def test_s10_s13_a_killed_process(path):
    """What it appended is there, its lock is gone; while it lived, it kept others out."""
    async with process(path, HOLD) as other:
        assert await line(other) == "3"
        with pytest.raises(LogBusy, match=f"process {other.pid}"):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
        async with SqliteStore.open(path, read_only=True) as reader:
            assert await reader.last_seq() == 3

        other.send_signal(signal.SIGKILL)
        await other.wait()

        async with SqliteStore.open(path, read_only=True) as reader:
            assert len(await reader.query(EventQuery())) == 3
        async with SqliteStore.open(path) as store:
            assert await store.last_seq() == 3
            assert [event.seq for event in await store.query(EventQuery())] == [1, 2, 3]
            assert list(await store.append_batch([agent(2, event_id="id-2"), agent(4)])) == []


FORK = """
async def main():
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        if os.fork() == 0:
            say("forked")
            wait_for_end_of_input()
            os._exit(0)
        wait_for_end_of_input()

trio.run(main)
"""


async def test_s13_a_forked_child_does_not_keep_the_lock(path):
    async with process(path, FORK) as other:
        assert await line(other) == "forked"
        with pytest.raises(LogBusy):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover

        # The child lives until its input ends.
        other.send_signal(signal.SIGKILL)
        await other.wait()

        async with SqliteStore.open(path) as store:
            assert await store.last_seq() == 1


CROWD = """
async def main():
    async with SqliteStore.open(path, log=sys.argv[2], synchronous="off") as store:
        for seq in range(1, 41):
            await store.append_batch([agent(seq)])
        say(await store.last_seq())

trio.run(main)
"""


async def test_many_processes_create_one_file(path):
    async with contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(process(path, CROWD, f"log {n}")) for n in range(4)]
        for other in crowd:
            assert await line(other) == "40"

    assert await SqliteStore.logs(path) == [f"log {n}" for n in range(4)]


# --- S13: one appender ----------------------------------------------------------------------------


async def test_s13_a_second_appender_in_this_process(path):
    async with SqliteStore.open(path) as store:
        with pytest.raises(LogBusy, match="this process"):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
        async with SqliteStore.open(path, log="other"), SqliteStore.open(path, read_only=True):
            await store.append_batch([agent(1)])
    async with SqliteStore.open(path) as store:
        assert await store.last_seq() == 1


async def test_s13_links_lead_to_the_same_lock(path, tmp_path):
    (tmp_path / "link.db").symlink_to("events.db")
    (tmp_path / "there").symlink_to(tmp_path)
    async with SqliteStore.open(tmp_path / "link.db"):
        for other in (path, tmp_path / "there" / "events.db", tmp_path / "there" / ".." / path):
            with pytest.raises(LogBusy):
                async with SqliteStore.open(other):
                    pytest.fail("opened")  # pragma: no cover
    assert stat.S_ISREG(path.lstat().st_mode)


async def test_s13_the_lock_outlives_a_close_that_gave_up(path, monkeypatch, caplog):
    """As long as something of the old appender can land, no new one is let in."""
    monkeypatch.setattr(worker_module, "CLOSE_SECONDS", 0.05)
    gate = Gate()
    insert = rows.insert

    def stuck(*arguments):
        gate()
        return insert(*arguments)

    monkeypatch.setattr(rows, "insert", stuck)
    with caplog.at_level(logging.WARNING, logger="trio_eventlog"):
        async with SqliteStore.open(path) as store, trio.open_nursery() as nursery:
            nursery.start_soon(store.append_batch, [agent(1)])
            await gate.reached.wait()
            nursery.cancel_scope.cancel()
    assert "closing gave up" in caplog.text

    with pytest.raises(LogBusy):
        async with SqliteStore.open(path):
            pytest.fail("opened")  # pragma: no cover
    gate.open()
    assert not workers()
    async with SqliteStore.open(path) as store:
        assert await store.last_seq() == 1


async def test_a_close_that_itself_takes_too_long(path, monkeypatch, caplog):
    """It is given up, too, and still happens once."""
    monkeypatch.setattr(worker_module, "CLOSE_SECONDS", 0.05)
    gate, ends = Gate(), []
    with caplog.at_level(logging.WARNING, logger="trio_eventlog"):
        async with SqliteStore.open(path) as store:
            release = store._writer._at_end

            def late():
                gate()
                ends.append(release())

            monkeypatch.setattr(store._writer, "_at_end", late)
    assert "closing gave up" in caplog.text
    gate.open()
    assert not workers()
    assert len(ends) == 1
    async with SqliteStore.open(path):
        pass


async def test_closing_that_ends_just_when_the_bound_passes(path, monkeypatch):
    close = worker_module.SerialWorker._close

    async def unheard(worker):
        await close(worker)
        await trio.sleep_forever()

    async with SqliteStore.open(path):
        monkeypatch.setattr(worker_module, "CLOSE_SECONDS", 0.05)
        monkeypatch.setattr(worker_module, "_MIN_CLOSE_SECONDS", 0.05)
        monkeypatch.setattr(worker_module.SerialWorker, "_close", unheard)
    monkeypatch.setattr(worker_module.SerialWorker, "_close", close)
    async with SqliteStore.open(path):
        pass


STUCK = """
import threading
from trio_eventlog.stores.sqlite import _worker

_worker.CLOSE_SECONDS = 0.05
_worker._MIN_CLOSE_SECONDS = 0.05
gate = threading.Event()

async def main():
    token = trio.lowlevel.current_trio_token()
    async with SqliteStore.open(path) as store, trio.open_nursery() as nursery:
        for worker in (store._writer, store._reader):
            begun = trio.Event()

            def job(db):
                token.run_sync_soon(begun.set)
                gate.wait()

            nursery.start_soon(worker.run, job)
            await begun.wait()
        nursery.cancel_scope.cancel()

sys.stderr = sys.stdout
trio.run(main)
gate.set()
while any("trio_eventlog" in thread.name for thread in threading.enumerate()):
    threading.Event().wait(0.01)
say("ended")
"""


async def test_a_job_that_outlives_the_loop(path):
    """Its thread ends without a traceback."""
    async with process(path, STUCK) as other:
        first, second, *others = await lines(other)
        assert "closing gave up" in first
        assert "closing gave up" in second
        assert others == ["ended"]
    async with SqliteStore.open(path):
        pass


async def test_leaving_has_one_bound_for_both_connections(path, monkeypatch, caplog):
    """A reader that is stuck uses it up; a writer that does nothing is closed all the same."""
    monkeypatch.setattr(worker_module, "CLOSE_SECONDS", 0.05)
    gate = Gate()
    deadlines = []
    aclose = worker_module.SerialWorker.aclose

    async def note_deadline(worker, deadline):
        deadlines.append(deadline)
        await aclose(worker, deadline)

    monkeypatch.setattr(worker_module.SerialWorker, "aclose", note_deadline)
    with caplog.at_level(logging.WARNING, logger="trio_eventlog"):
        async with SqliteStore.open(path) as store, trio.open_nursery() as nursery:
            nursery.start_soon(store._reader.run, gate)
            await gate.reached.wait()
            nursery.cancel_scope.cancel()
    assert len(caplog.records) == 1
    assert deadlines[0] == deadlines[1]
    async with SqliteStore.open(path, log="other"):
        pass
    gate.open()


async def test_closing_that_is_never_heard_of_is_given_up(path, monkeypatch, caplog):
    """As if the thread had gone: leaving ends when its time is over."""
    monkeypatch.setattr(worker_module, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(worker_module, "_MIN_CLOSE_SECONDS", 0.05)
    close, calls = worker_module.SerialWorker._close, []

    async def into_the_void(worker):
        calls.append(worker)
        await trio.sleep_forever()

    with monkeypatch.context() as patch:
        async with SqliteStore.open(path):
            patch.setattr(worker_module.SerialWorker, "_close", into_the_void)
    assert len(calls) == 2
    assert caplog.text.count("closing gave up") == 2
    for worker in calls:
        await close(worker)
    async with SqliteStore.open(path):
        pass


async def test_s13_a_file_system_without_locks(path, monkeypatch):
    import fcntl

    def unsupported(_fd, _operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(StoreUnusable, match="No locks available"):
        async with SqliteStore.open(path):
            pytest.fail("opened")  # pragma: no cover
    assert not _lockfile._registry.held


async def test_memory_for_a_lock_may_be_there_later(path, monkeypatch):
    import fcntl

    def exhausted(*_arguments, **_options):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", exhausted)
        error = await refused(StoreError, "Cannot allocate", path)
    assert type(error) is StoreError
    assert not path.exists()


async def test_the_lock_file_has_the_mode_of_the_database(path):
    """In spite of the umask: who may write to the one may lock the other."""
    path.touch()
    path.chmod(0o666)
    before = os.umask(0o077)
    try:
        async with SqliteStore.open(path):
            pass
    finally:
        os.umask(before)
    (lock,) = path.parent.glob("*.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o666
    lock.chmod(0o640)
    async with SqliteStore.open(path):
        pass
    assert stat.S_IMODE(lock.stat().st_mode) == 0o640


CHILD = """
import warnings

from trio_eventlog.stores.sqlite import _files as _sqlite_files

sys.stderr = sys.stdout
# From 3.12 on Python warns of a fork beside threads, which is what this is about.
warnings.simplefilter("ignore", DeprecationWarning)

async def main():
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        child = os.fork() == 0
        if child:
            for call in (lambda: store.append_batch([agent(2)]), store.last_seq, store.describe):
                try:
                    await call()
                except StoreUnusable as exc:
                    say(exc)
        else:
            os.wait()
            await store.append_batch([agent(3)])
    if child:
        say("left")
        os._exit(0)
    # As if another thread was just creating a file.
    _sqlite_files._creating.acquire()

async def child_main():
    async with SqliteStore.open(path) as store:
        say([event.seq for event in await store.query(EventQuery())])

trio.run(main)
if os.fork() == 0:
    trio.run(child_main)
    os._exit(0)
os.wait()
"""


async def test_a_forked_child_leaves_the_store_and_opens_its_own(path):
    async with process(path, CHILD) as other:
        *refusals, left, found = await lines(other)
    assert len(refusals) == 3
    assert all("belongs to the process that forked this one" in text for text in refusals)
    assert (left, found) == ("left", "[1, 3]")


def test_locks_are_forgotten_in_a_forked_child(tmp_path):
    """The same in this process, without the fork: the descriptors are closed and the names are free."""
    database = tmp_path / "events.db"
    database.touch()
    lock = _lockfile.FileLock.acquire(f"{database}.lock", "it")
    _lockfile._registry.forget()
    lock.release()

    again = _lockfile.FileLock.acquire(f"{database}.lock", "it")
    again.release()
    again.release()


# --- S10 and S14: readers and logs ----------------------------------------------------------------


async def test_s10_a_reader_sees_what_was_appended(path):
    async with SqliteStore.open(path) as store, SqliteStore.open(path, read_only=True) as reader:
        for seq in range(1, 5):
            await store.append_batch([agent(seq)])
            assert await reader.last_seq() == seq
            assert await everything(reader) == await everything(store)
        with pytest.raises(StoreUnusable, match="read-only"):
            await reader.append_batch([agent(9)])
        with trio.testing.assert_checkpoints(), pytest.raises(StoreUnusable, match="read-only"):
            await reader.append_batch([])


async def test_a_log_that_is_not_there_to_be_read(path):
    """A mistyped name is an error that names those that are; appending creates the log, reading does not."""
    path.touch()
    with pytest.raises(LogNotFound, match="nor any other") as caught:
        async with SqliteStore.open(path, read_only=True):
            pytest.fail("opened")  # pragma: no cover
    assert (caught.value.log, caught.value.names, caught.value.place) == ("default", (), str(path))
    assert await SqliteStore.logs(path) == []
    async with SqliteStore.open(path, log="first"), SqliteStore.open(path, log="a"):
        for opening in (
            SqliteStore.open(path, log="second", read_only=True),
            SqliteStore.open_readers(path, logs=["a", "second"]),
        ):
            with pytest.raises(LogNotFound, match=r"no log 'second' in .*; it has 'a', 'first'") as caught:
                async with opening:
                    pytest.fail("opened")  # pragma: no cover
            assert (caught.value.log, caught.value.names) == ("second", ("a", "first"))
        # As soon as an appender is open, though it has stored nothing.
        async with SqliteStore.open(path, log="a", read_only=True) as reader:
            assert await reader.last_seq() == 0
            assert await reader.query(EventQuery()) == []
            assert (await reader.describe()).events == 0
            async with SqliteStore.open(path, log="second") as store:
                assert await reader.log_names() == ["a", "first", "second"]
                await store.append_batch([agent(1)])
                async with SqliteStore.open(path, log="second", read_only=True) as other:
                    assert await other.last_seq() == 1
    assert await SqliteStore.logs(path) == ["a", "first", "second"]


async def test_s14_two_logs_know_nothing_of_each_other(path):
    async with SqliteStore.open(path, log="x") as x, SqliteStore.open(path, log="X\0") as y:
        await x.append_batch([agent(1, payload="x")])
        await y.append_batch([agent(1, payload="y"), agent(2)])
        assert (await x.last_seq(), await y.last_seq()) == (1, 2)
        assert [event.event.payload for event in await x.query(EventQuery())] == ["x"]
        assert "log='x' writing" in repr(x)
    assert await SqliteStore.logs(path) == ["X\0", "x"]


async def test_s14_a_log_says_which_one_it_is(path, tmp_path):
    """Always the same, and never what another log says; a reader writes nowhere, and need not know."""
    async with SqliteStore.open(path) as store, SqliteStore.open(path, log="x") as other:
        log_id = store.log_id
        assert log_id
        assert other.log_id not in (log_id, None)
    async with SqliteStore.open(path) as store, SqliteStore.open(path, read_only=True) as reader:
        assert store.log_id == log_id
        assert reader.log_id is None
    async with SqliteStore.open(tmp_path / "elsewhere.db") as store:
        assert store.log_id not in (log_id, None)


async def test_a_spill_file_knows_its_log(path, tmp_path):
    """Events of one log never come into another."""
    spill = tmp_path / "log.spill"
    async with (
        SqliteStore.open(path) as store,
        open_event_log(store, spill=spill, grace_period=0, on_failure=lambda _report: None) as log,
    ):
        log.ingest(AgentEvent("worker", "step"))
    async with SqliteStore.open(path, log="x") as other:
        with pytest.raises(SpillError, match="events of another log"):
            async with open_event_log(other, spill=spill):
                pytest.fail("opened")
    async with SqliteStore.open(path) as store, open_event_log(store, spill=spill) as log:
        assert log.statistics().recovered == 1
        await log.flush()
        assert len(await log.query()) == 1
    assert not spill.exists()


async def test_s9_pruning_does_not_lower_the_last_seq(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1), agent(2)])
        raw(path, "DELETE FROM events_1 WHERE seq = 2")
        assert await store.last_seq() == 2
        described = await store.describe()
    assert (described.last_seq, described.highest_seq) == (1, 2)
    async with SqliteStore.open(path) as store:
        assert await store.last_seq() == 2


async def test_s1_after_a_reopen(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(seq) for seq in range(1, 2_000)])
    async with SqliteStore.open(path) as store:
        assert list(await store.append_batch([agent(seq) for seq in range(1_000, 3_000)])) == []
        assert list(await store.append_batch([agent(9_000, event_id="id-7")])) == [9_000]
        assert (await store.describe()).events == 2_999
        with pytest.raises(SequenceConflict):
            await store.append_batch([agent(1_500, event_id="other")])


# --- S11: cancellation ----------------------------------------------------------------------------


async def test_s11_a_cancelled_append_may_finish_and_everything_comes_after_it(path, monkeypatch):
    gate = Gate()
    insert = rows.insert

    def stuck(*arguments):
        gate()
        return insert(*arguments)

    async with SqliteStore.open(path) as store:
        monkeypatch.setattr(rows, "insert", stuck)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.append_batch, [agent(1)])
            await gate.reached.wait()
            nursery.cancel_scope.cancel()
        # Reading goes on meanwhile.
        assert await store.query(EventQuery()) == []
        results = []

        async def ask():
            results.append(await store.last_seq())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            gate.open()
        assert results == [1]
        assert list(await store.append_batch([agent(1), agent(2)])) == []


async def test_s11_an_append_cancelled_before_its_turn_is_dropped(path):
    gate = Gate()
    async with SqliteStore.open(path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store._writer.run, gate)
        await gate.reached.wait()
        async with trio.open_nursery() as inner:
            inner.start_soon(store.append_batch, [agent(1)])
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        gate.open()
        assert await store.last_seq() == 0


async def test_s11_a_cancelled_query_is_stopped(path):
    """The next one does not wait for it."""
    endless = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    async with SqliteStore.open(path) as store:
        started = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def run(db):
            token.run_sync_soon(started.set)
            db.execute(endless).fetchall()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store._reader.run, run)
            await started.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            assert await store.query(EventQuery()) == []


async def test_a_deadline_around_a_call_is_a_cancellation(path):
    """And not a timeout of the driver."""
    gate = Gate()
    async with SqliteStore.open(path) as store:
        with trio.move_on_after(0.01) as scope:
            await store._writer.run(gate)
        assert scope.cancelled_caught
        gate.open()


# --- S13 and S15: Ctrl-C --------------------------------------------------------------------------


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
    assert step > 8


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
    assert step > 5


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


# --- S12: failures --------------------------------------------------------------------------------


async def test_s12_disk_full(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 30").fetchall())

        with pytest.raises(StoreError, match="full") as caught:
            await store.append_batch([agent(seq, payload="x" * 2_000) for seq in range(2, 100)])

        assert type(caught.value) is StoreError
        assert isinstance(caught.value.__cause__, apsw.FullError)
        assert [event.seq for event in await store.query(EventQuery())] == [1]
        await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchall())
        assert list(await store.append_batch([agent(2)])) == []


async def test_s12_busy(path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    async with SqliteStore.open(path) as store:
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked") as caught:
            await store.append_batch([agent(1)])
        assert type(caught.value) is StoreError
        with pytest.raises(StoreError, match="locked"):
            async with SqliteStore.open(path, log="other"):
                pytest.fail("opened")  # pragma: no cover
        other.execute("ROLLBACK")
        other.close()
        await store.append_batch([agent(1)])


async def test_s12_busy_when_the_file_is_made(path, monkeypatch):
    """Another program is just about to set up the file: wait, then give up."""
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    other = apsw.Connection(str(path))
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        async with SqliteStore.open(path):
            pytest.fail("opened")  # pragma: no cover
    other.execute("ROLLBACK; BEGIN")
    other.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    with pytest.raises(StoreError, match="locked"):
        async with SqliteStore.open(path):
            pytest.fail("opened")  # pragma: no cover
    other.close()
    async with SqliteStore.open(path):
        pass


async def test_busy_for_a_moment_when_the_file_is_made(path, monkeypatch):
    """SQLite itself does not wait for every lock that it needs then."""
    first_row, calls = schema.first_row, []

    def busy_once(db, sql, bindings=()):
        if "journal_mode" in sql:
            calls.append(sql)
            if len(calls) == 1:
                raise apsw.BusyError("database is locked")
        return first_row(db, sql, bindings)

    monkeypatch.setattr(schema, "first_row", busy_once)
    async with SqliteStore.open(path):
        assert len(calls) == 2


async def test_s4_a_failing_commit(path):
    """It undoes the batch, and the next append works."""
    async with SqliteStore.open(path) as store:

        def refuse():
            raise apsw.FullError("no space for the commit")

        await store._writer.run(lambda db: db.set_commit_hook(refuse))
        with pytest.raises(StoreError, match="no space"):
            await store.append_batch([agent(1)])
        await store._writer.run(lambda db: db.set_commit_hook(None))
        assert await store.last_seq() == 0
        assert await store.query(EventQuery()) == []
        await store.append_batch([agent(1)])


async def test_s4_a_failing_rollback_does_not_stick(path, monkeypatch):
    async with SqliteStore.open(path) as store:
        roll_back, insert = schema.roll_back, rows.insert
        failures = []

        def fail(db):
            if db.in_transaction:
                failures.append(1)
                raise apsw.IOError("no rollback")

        def spoil(*arguments):
            insert(*arguments)
            raise apsw.FullError("no insert")

        monkeypatch.setattr(schema, "roll_back", fail)
        monkeypatch.setattr(rows, "insert", spoil)
        with pytest.raises(StoreError, match="no rollback"):
            await store.append_batch([agent(1)])
        assert failures == [1]
        monkeypatch.setattr(schema, "roll_back", roll_back)
        monkeypatch.setattr(rows, "insert", insert)

        await store.append_batch([agent(2)])

        assert [event.seq for event in await store.query(EventQuery())] == [2]


async def test_s12_larger_than_sqlite_can_hold(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(3)])
        await store._writer.run(lambda db: db.limit(apsw.SQLITE_LIMIT_LENGTH, 20_000))
        big = [agent(2, payload="x" * 30_000), agent(4, event_type="y" * 30_000)]
        # Each text is small enough, the row is not.
        big.append(agent(6, agent_id="z" * 15_000, payload="x" * 15_000))

        with pytest.raises(EventRejected, match="larger than") as caught:
            await store.append_batch([agent(1), big[0], agent(3), big[1], agent(5), big[2]])

        assert list(caught.value.events) == big
        assert [event.seq for event in await store.query(EventQuery())] == [3]
        await store.append_batch([agent(1), agent(5)])


async def test_s12_too_big_together(path, monkeypatch):
    """Should no event alone be to blame, the driver's error is passed on as one of ours."""
    async with SqliteStore.open(path) as store:
        insert = rows.insert

        def spoil(db, log_id, events):
            if len(events) > 1:
                raise apsw.TooBigError("all of it")
            return insert(db, log_id, events)

        monkeypatch.setattr(rows, "insert", spoil)
        with pytest.raises(StoreUnusable, match="all of it"):
            await store.append_batch([agent(1), agent(2)])
        monkeypatch.setattr(rows, "insert", insert)
        taken = agent(1, event_id="other")
        await store.append_batch([agent(1)])
        monkeypatch.setattr(rows, "insert", spoil)
        with pytest.raises(StoreUnusable, match="all of it"):
            await store.append_batch([taken, agent(2)])


async def test_s12_a_constraint_that_is_none_of_ours(path):
    async with SqliteStore.open(path) as store:
        raw(
            path,
            "CREATE TRIGGER no BEFORE INSERT ON events_1 BEGIN SELECT RAISE(ABORT, 'by a trigger'); END",
        )
        with pytest.raises(StoreUnusable, match="by a trigger"):
            await store.append_batch([agent(1)])


async def test_s12_memory(path, monkeypatch):
    def exhausted(*_arguments, **_options):
        raise MemoryError

    async with SqliteStore.open(path) as store:
        monkeypatch.setattr(queries, "read", exhausted)
        with pytest.raises(StoreError, match="MemoryError") as caught:
            await store.query(EventQuery())
        assert type(caught.value) is StoreError


async def test_s12_damaged_while_open(path):
    async with SqliteStore.open(path) as store:
        raw(path, "DROP TABLE events_1")
        with pytest.raises(StoreUnusable, match="no such table"):
            await store.append_batch([agent(1)])
        with pytest.raises(StoreUnusable, match="no such table"):
            await store.query(EventQuery())


def damage(path, old, new):
    """Change a text in the file, as a bad disk would."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("text", [b"MARKED-PAYLOAD", b"MARKED-ID", b"MARKED-TYPE"])
async def test_s12_a_damaged_text(path, text):
    async with SqliteStore.open(path) as store:
        await store.append_batch(
            [agent(1, event_id="MARKED-ID", event_type="MARKED-TYPE", payload="MARKED-PAYLOAD")]
        )
    damage(path, text, text[:-1] + b"\xff")
    async with SqliteStore.open(path, read_only=True) as store:
        with pytest.raises(StoreUnusable, match=r"damaged.*utf-8"):
            await store.query(EventQuery())
        assert await store.last_seq() == 1


async def test_s12_a_damaged_name(path):
    async with SqliteStore.open(path, log="MARKED"):
        pass
    damage(path, b"MARKED", b"MARKE\xff")
    with pytest.raises(StoreUnusable, match="damaged"):
        await SqliteStore.logs(path)


async def test_s12_the_log_is_gone(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        raw(path, "DELETE FROM logs")
        for call in (
            lambda: store.append_batch([agent(2)]),
            lambda: store.append_batch([agent(1)]),
            store.last_seq,
            store.describe,
        ):
            with pytest.raises(StoreUnusable, match="damaged: a row is missing"):
                await call()
        with pytest.raises(StoreUnusable, match="damaged: a row is missing"):
            await store.query(EventQuery())


async def test_s12_a_last_seq_that_is_no_number(path):
    async with SqliteStore.open(path):
        pass
    async with SqliteStore.open(path, read_only=True) as store:
        raw(
            path,
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema"
            " SET sql = replace(replace(sql, 'STRICT', ''), 'last_seq INTEGER', 'last_seq')",
            "PRAGMA writable_schema = RESET",
            "UPDATE logs SET last_seq = 'seven'",
        )
        with pytest.raises(StoreUnusable, match="damaged: the last seq of log 1 is 'seven'"):
            await store.last_seq()


async def test_s12_rows_that_do_not_arrive(path):
    async with SqliteStore.open(path) as store:
        raw(path, "CREATE TRIGGER no BEFORE INSERT ON events_1 BEGIN SELECT RAISE(IGNORE); END")
        with pytest.raises(StoreUnusable, match="damaged: events were neither inserted nor"):
            await store.append_batch([agent(1)])


# --- the file is not where it was -----------------------------------------------------------------


@pytest.mark.parametrize("what", ["remove", "rename", "replace", "remove the write-ahead log"])
async def test_a_file_that_is_moved_while_open(path, tmp_path, what):
    """SQLite would go on in a file that nobody finds again."""
    async with SqliteStore.open(tmp_path / "new.db") as store:
        await store.append_batch([agent(1, event_id="other")])
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        if what == "remove":
            path.unlink()
        elif what == "rename":
            path.rename(tmp_path / "old.db")
        elif what == "replace":
            (tmp_path / "new.db").replace(path)
        else:
            await trio.Path(f"{path}-wal").unlink()

        for call in (lambda: store.append_batch([agent(2)]), store.last_seq):
            with pytest.raises(StoreUnusable, match="moved, removed or replaced while"):
                await call()
        assert [event.seq for event in await store.query(EventQuery())] == [1]


async def test_a_file_that_is_moved_during_an_append(path, tmp_path):
    """It is not said to be stored."""
    async with SqliteStore.open(path) as store:

        def move():
            path.rename(tmp_path / "old.db")
            return False

        await store._writer.run(lambda db: db.set_commit_hook(move))
        with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
            await store.append_batch([agent(1)])


async def test_the_write_ahead_log_may_come_later(path):
    """A place that was looked at before SQLite has made it."""
    path.touch()
    place = _sqlite_files.Place(str(path))
    place.check()
    wal = trio.Path(f"{path}-wal")
    await wal.touch()
    place.check()
    await wal.unlink()
    with pytest.raises(StoreUnusable, match="-wal was moved"):
        place.check()


async def test_the_write_ahead_log_may_go_while_the_store_opens(path, monkeypatch):
    """It was left by a process that was killed, and another program, which closes the file, takes it away."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        content = await trio.Path(f"{path}-wal").read_bytes()
    await trio.Path(f"{path}-wal").write_bytes(content)
    claim = _sqlite_files.acquire

    def claim_and_close_elsewhere(*arguments):
        claimed = claim(*arguments)
        other = apsw.Connection(str(path))
        other.execute("SELECT * FROM logs").fetchall()
        other.close()
        # The number of the file would be given to the next one.
        assert not path.with_name(f"{path.name}-wal").exists()
        path.with_name("something else").touch()
        return claimed

    monkeypatch.setattr(_sqlite_files, "acquire", claim_and_close_elsewhere)
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(2)])
        assert [event.seq for event in await store.query(EventQuery())] == [1, 2]


def test_a_place_that_cannot_be_looked_at():
    with pytest.raises(StoreError, match="too long") as caught:
        _sqlite_files.Place("x" * 300)
    assert type(caught.value) is StoreError


async def test_hooks_of_the_program_do_not_change_rows(path, monkeypatch):
    """apsw has hooks for all connections; a program may want dictionaries for rows."""

    def hook(db):
        db.row_trace = lambda cursor, row: {"row": row}
        db.exec_trace = lambda cursor, sql, bindings: False

    monkeypatch.setattr(apsw, "connection_hooks", [hook])
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        assert [event.seq for event in await store.query(EventQuery())] == [1]
        assert await store.last_seq() == 1


def test_long_payloads_go_into_small_statements():
    """While values are bound, no other thread runs."""

    def sizes(*payloads):
        events = [agent(seq, payload=payload) for seq, payload in enumerate(payloads, 1)]
        chunks = list(rows._chunks(events))
        assert [event for chunk in chunks for event in chunk] == events
        return [len(chunk) for chunk in chunks]

    assert sizes(*["x"] * 2_200) == [2048, 64, 64, 8, 8, 8]
    assert sizes(*["x"] * 1_100) == [512, 512, 64, 8, 1, 1, 1, 1]
    assert sizes(*[None] * 64) == [64]
    assert max(sizes(*["x" * 65_536] * 600)) == 8
    assert sizes("x" * 10**7, *["x"] * 8) == [1, 8]
    assert sizes() == []


async def test_a_result_is_not_remembered(path):
    """Neither the thread nor the connection keeps a result of hundreds of megabytes until its next call."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1, event_type="t")])
        found = await store.query(EventQuery())
        gone = weakref.ref(found[0])
        del found
        with trio.fail_after(5):
            # The loop keeps it for this step, and the thread until it has come to its end.
            while gone() is not None:
                await trio.testing.wait_all_tasks_blocked(0.01)


async def test_every_error_of_the_driver_is_mapped():
    names = [name for name in dir(apsw) if name.endswith("Error") and name != "Error"]
    mapped = {name: type(worker_module.store_error("x.db", getattr(apsw, name)("why"))) for name in names}

    for name in ("BusyError", "LockedError", "FullError", "IOError", "NoMemError", "InterruptError"):
        assert mapped.pop(name) is StoreError
    for name in ("CantOpenError", "ProtocolError", "SchemaChangeError", "AbortError"):
        assert mapped.pop(name) is StoreError
    assert len(mapped) > 20
    assert set(mapped.values()) == {StoreUnusable}


# --- what cannot be opened ------------------------------------------------------------------------


async def refused(kind, match, path, **options):
    with pytest.raises(kind, match=match) as caught:
        async with SqliteStore.open(path, **options):
            pytest.fail("opened")  # pragma: no cover
    return caught.value


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("content", [b"hello", b"hello" * 5_000])
async def test_not_a_database(path, read_only, content):
    path.write_bytes(content)
    await refused(StoreUnusable, "not a database", path, read_only=read_only)
    assert path.read_bytes() == content


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_database_of_another_program(path, read_only):
    raw(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    error = await refused(StoreUnusable, "another program", path, read_only=read_only)
    assert type(error) is StoreUnusable
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_layout(path, read_only):
    async with SqliteStore.open(path):
        pass
    raw(path, "PRAGMA user_version = 2")
    await refused(StoreUnusable, r"newer.*layout 2.*upgrade", path, read_only=read_only)


async def test_the_layout_is_marked(path):
    async with SqliteStore.open(path) as store:
        assert (await store.describe()).schema_version == 1
        assert (await store.describe()).size_bytes > 4_096
    assert raw(path, "PRAGMA user_version") == [(1,)]
    assert raw(path, "PRAGMA application_id") == [(0x54454C47,)]
    assert raw(path, "PRAGMA journal_mode") == [("wal",)]
    assert raw(path, "SELECT count(*) FROM sqlite_schema WHERE sql LIKE 'CREATE TABLE%STRICT'") == [(2,)]


async def test_no_file_to_read(path):
    await refused(StoreUnusable, "no such file", path, read_only=True)
    with pytest.raises(StoreUnusable, match="no such file"):
        await SqliteStore.logs(path)
    assert not list(path.parent.iterdir())


async def test_no_directory(path):
    await refused(StoreUnusable, "directory .*missing does not exist", path.parent / "missing" / "events.db")


async def test_something_else_than_a_file(tmp_path):
    await refused(StoreUnusable, "no regular file", tmp_path)
    await refused(StoreUnusable, "no regular file", tmp_path, read_only=True)
    (tmp_path / "file").touch()
    await refused(StoreUnusable, "no such file or directory", tmp_path / "file" / "events.db")


async def test_side_files_that_cannot_be_made(path):
    async with SqliteStore.open(path):
        pass
    await trio.Path(f"{path}-wal").mkdir()
    await refused(StoreUnusable, "may the file, and its directory, be written", path, read_only=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_directory_that_cannot_be_written(path):  # pragma: no cover - not as root
    path.parent.chmod(0o500)
    try:
        await refused(StoreUnusable, "denied", path)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *(
            (number, StoreUnusable)
            for number in ("EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ELOOP", "EISDIR")
        ),
        *(
            (number, StoreError)
            for number in ("EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EFBIG", "EDQUOT", "EIO")
        ),
    ],
)
async def test_files_that_the_system_refuses(path, monkeypatch, number, kind):
    code = getattr(errno, number)

    def refuse(*_arguments):
        raise OSError(code, os.strerror(code), "which.lock")

    monkeypatch.setattr(_sqlite_files, "acquire", refuse)
    error = await refused(kind, f"{os.strerror(code)} .which.lock", path)
    assert type(error) is kind
    assert str(path) in str(error)


async def test_names_that_are_too_long_or_lead_nowhere(tmp_path):
    """What cannot be locked is not created."""
    await refused(StoreUnusable, "too long.*lock", tmp_path / ("x" * 250))
    await refused(StoreUnusable, "too long", tmp_path / ("x" * 300))
    (tmp_path / "loop.db").symlink_to("loop.db")
    await refused(StoreUnusable, "symbolic links", tmp_path / "loop.db")
    await refused(StoreUnusable, "symbolic links", tmp_path / "loop.db", read_only=True)
    assert [file.name for file in tmp_path.iterdir()] == ["loop.db"]


async def test_something_else_than_a_lock_file(path):
    async with SqliteStore.open(path):
        pass
    (lock,) = path.parent.glob("*.lock")
    lock.unlink()
    lock.symlink_to("elsewhere")
    await refused(StoreUnusable, f"symbolic links .*{lock.name}", path)
    lock.unlink()
    lock.mkdir()
    await refused(StoreUnusable, f"directory .*{lock.name}", path)


async def test_a_file_that_another_process_creates_just_now(path, monkeypatch):
    """For another log, so that the lock does not keep it out."""
    acquire = _lockfile.FileLock.acquire

    def meanwhile(*arguments):
        path.touch()
        return acquire(*arguments)

    monkeypatch.setattr(_lockfile.FileLock, "acquire", meanwhile)
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])


async def test_a_directory_that_takes_the_lock_but_not_the_file(path, monkeypatch):
    os_open = os.open

    def full(name, *arguments):
        if os.fspath(name) == str(path):
            raise OSError(errno.ENOSPC, "No space left on device", name)
        return os_open(name, *arguments)

    monkeypatch.setattr(os, "open", full)
    error = await refused(StoreError, "No space left", path)
    assert type(error) is StoreError
    assert not _lockfile._registry.held


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_file_that_may_not_be_opened(path, monkeypatch, read_only):
    """Asked beforehand: SQLite does not say why it could not open a file."""
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_arguments, **_options: False)
    error = await refused(StoreUnusable, "Permission denied", path, read_only=read_only)
    assert type(error) is StoreUnusable


LIMITED = """
import resource

async def attempt():
    try:
        async with SqliteStore.open(path) as store:
            await store.append_batch([agent(1)])
    except StoreError as exc:
        return type(exc).__name__
    return "opened"

async def main():
    outcomes = set()
    for number in range(len(os.listdir("/proc/self/fd")), 60):
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, 4_096))
        outcomes.add(await attempt())
    say(sorted(outcomes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1))
    path_before, globals()["path"] = path, path + "2"
    say(await attempt())
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    say(await attempt())

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_limits_that_may_be_lifted(path):
    """Too many open files, however many are to spare; no byte that can be written."""
    async with process(path, LIMITED) as other:
        assert await lines(other) == ["['StoreError', 'opened']", "StoreError", "opened"]


@pytest.mark.parametrize("which", range(1, 6))
async def test_no_thread_for_a_connection(path, monkeypatch, which):
    """To lock the log, to open or to prepare either connection."""
    run_sync, calls = trio.to_thread.run_sync, []

    async def refuse(*arguments, **options):
        calls.append(arguments)
        if len(calls) == which:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("can't start new thread")
        return await run_sync(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", refuse)
        error = await refused(StoreError, "can't start new thread", path)
    assert type(error) is StoreError
    async with SqliteStore.open(path):
        pass


async def test_no_thread_to_close_with(path, monkeypatch):
    """The connections are closed in the loop, so that the lock is free."""

    async def refuse(*_arguments, **_options):
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        async with SqliteStore.open(path):
            patch.setattr(trio.to_thread, "run_sync", refuse)
    assert connections_of(path) == []
    async with SqliteStore.open(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", refuse)
            with pytest.raises(StoreError, match="can't start new thread") as caught:
                await store.append_batch([agent(1)])
        assert type(caught.value) is StoreError
        assert await store.last_seq() == 0


async def test_no_thread_for_the_files(path, monkeypatch):
    async def refuse(*_arguments, **_options):
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    error = await refused(StoreError, "can't start new thread", path)
    assert type(error) is StoreError


async def test_a_link_to_a_name_that_is_not_utf_8(path, tmp_path):
    try:
        path.symlink_to(os.fsdecode(b"caf\xe9.db"))
    except OSError:  # pragma: no cover - not every file system has such names
        pytest.skip("no such names")
    await refused(StoreUnusable, "not UTF-8", path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


async def test_the_driver_does_not_open_the_file(path, monkeypatch):
    """It may be opened as far as one can see, so that the reason is a passing one."""

    def elsewhere(path, _log):
        place = _sqlite_files.Place(f"{path}/x")
        return place, _lockfile.FileLock(f"{path}.lock", -1)

    monkeypatch.setattr(_sqlite_files, "acquire", elsewhere)
    error = await refused(StoreError, "unable to open", path)
    assert type(error) is StoreError


async def test_opening_that_takes_too_long(path, monkeypatch):
    """It is given up, and its thread ends when it can."""
    gate = Gate()
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "_OPEN_SECONDS", 0.05)
        patch.setattr(apsw, "connection_hooks", [gate])
        await refused(StoreError, "took more than", path)
    gate.open()
    assert not workers()
    # The thread has closed what it opened, and left nothing for a collection of garbage.
    assert connections_of(path) == []
    async with SqliteStore.open(path):
        pass


async def test_a_file_system_without_shared_memory(path, monkeypatch):
    monkeypatch.setattr(schema, "first_row", lambda db, sql, bindings=(): ("delete",))
    monkeypatch.setattr(schema, "is_initialised", lambda db: False)
    await refused(StoreUnusable, "write-ahead log", path)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"path": ""}, ValueError, "MemoryStore"),
        ({"path": ":memory:"}, ValueError, "MemoryStore"),
        ({"path": "a\0b"}, ValueError, "NUL"),
        ({"path": os.fsdecode(b"caf\xe9.db")}, ValueError, "not UTF-8"),
        ({"path": "\ud800", "read_only": True}, ValueError, "not UTF-8"),
        ({"path": b"x.db"}, TypeError, "string"),
        ({"path": 7}, TypeError, "PathLike"),
        ({"log": ""}, ValueError, "1 to 512 bytes"),
        ({"log": "ä" * 257}, ValueError, "1 to 512 bytes, got 514"),
        ({"log": "\ud800"}, ValueError, "surrogate"),
        ({"log": None}, TypeError, "string"),
        ({"synchronous": "FULL"}, ValueError, "off, normal, full, extra"),
    ],
)
async def test_arguments_that_are_wrong(arguments, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"path": "x.db", **arguments}
    await refused(kind, message, **arguments)
    assert not list(tmp_path.iterdir())


async def test_a_path_is_never_a_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with SqliteStore.open("file:x.db?mode=memory", log="ä" * 256) as store:
        await store.append_batch([agent(1)])
    assert (tmp_path / "file:x.db?mode=memory").exists()


@pytest.mark.parametrize(("name", "number"), [("off", 1), ("normal", 1), ("full", 2), ("extra", 3)])
async def test_synchronous(path, name, number):
    async with SqliteStore.open(path, synchronous=name) as store:
        found = await store._writer.run(lambda db: db.execute("PRAGMA synchronous").fetchall())
        assert store.survives == ("power" if number > 1 else "process")
    assert found == [(number,)]


# --- plans ----------------------------------------------------------------------------------------

SCOPED = {"identity": "i", "mob_id": "m", "run_id": "r", "step_id": "s"}

PLANS = [
    ({}, "SCAN events_1"),
    ({"limit": 5}, "SCAN events_1"),
    ({"after_seq": 5}, "INTEGER PRIMARY KEY (rowid>?)"),
    ({"after_seq": 5, "since_ms": 5, "until_ms": 9}, "INTEGER PRIMARY KEY (rowid>?)"),
    ({"member_id": "a"}, "events_1_member_id (member_id=?)"),
    ({"member_id": "a", "after_seq": 5}, "events_1_member_id (member_id=? AND rowid>?)"),
    ({"mob_id": "a", "since_ms": 5}, "events_1_mob_id (mob_id=?)"),
    ({"mob_id": "a", "event_types": ("t",)}, "events_1_event_type (event_type=?)"),
    ({"identity": "a", "member_id": "b", "limit": 5}, "events_1_identity (identity=?)"),
    ({"run_id": "a", "identity": "b"}, "events_1_run_id (run_id=?)"),
    ({**SCOPED, "after_seq": 7, "since_ms": 1}, "events_1_step_id (step_id=? AND rowid>?)"),
    ({"event_types": ("t",), "since_ms": 5}, "events_1_event_type (event_type=?)"),
    ({"event_types": tuple("abc"), "after_seq": 5}, "events_1_event_type (event_type=? AND rowid>?)"),
    ({"event_types": tuple(map(str, range(32)))}, "events_1_event_type (event_type=?)"),
    ({"event_types": tuple(map(str, range(33)))}, "SCAN events_1"),
    ({"event_types": tuple(map(str, range(33))), "mob_id": "m"}, "events_1_mob_id (mob_id=?)"),
    ({"event_types": tuple(map(str, range(33))), "since_ms": 7}, "SCAN events_1"),
    ({"event_types": tuple(map(str, range(10_001)))}, "SCAN events_1"),
]


async def explain(store, query):
    plan = queries.select(query, 1)
    rows = await store._reader.run(
        lambda db: db.execute(f"EXPLAIN QUERY PLAN {plan.sql}", plan.bindings).fetchall()
    )
    return [row[3] for row in rows]


@pytest.mark.parametrize(
    ("fields", "expected"), PLANS, ids=[f"{n}-{','.join(fields)}" for n, (fields, _) in enumerate(PLANS)]
)
async def test_plans(path, fields, expected):
    """Each filter has its index, of several the first in rank is used, and nothing is sorted."""
    async with SqliteStore.open(path) as store:
        plan = await explain(store, EventQuery(**fields))

    touched = [step for step in plan if "events_1" in step]
    assert touched
    assert all(expected in step for step in touched)
    assert not any("TEMP B-TREE" in step for step in plan)
    if len(touched) > 1:
        assert "MERGE (UNION ALL)" in plan


@pytest.mark.parametrize(
    "fields", [{"since_ms": 5}, {"until_ms": 5}, {"since_ms": 5, "until_ms": 9, "limit": 1}]
)
async def test_the_plan_of_a_window(path, fields):
    """Only seqs are sorted, from the index alone; the events then come in order."""
    async with SqliteStore.open(path) as store:
        plan = await explain(store, EventQuery(**fields))

    assert plan[0] == "SEARCH events_1 USING INTEGER PRIMARY KEY (rowid=?)"
    assert plan[1].startswith("LIST SUBQUERY")
    assert "USING COVERING INDEX events_1_timestamp_ms" in plan[2]
    assert plan[3:] == ["USE TEMP B-TREE FOR ORDER BY"]


async def test_no_statement_carries_a_value(path):
    """Values are parameters, whatever they look like."""
    evil = "'; DROP TABLE events_1; --"
    query = EventQuery(
        member_id=evil, identity=evil, mob_id=evil, run_id=evil, step_id=evil, event_types=(evil, evil + "2")
    )
    assert "DROP" not in queries.select(query, 1).sql
    async with SqliteStore.open(path, log=evil) as store:
        payload = {"identity": evil, "mob_id": evil, "run_id": evil, "step_id": evil}
        await store.append_batch([agent(1, event_id=evil, agent_id=evil, event_type=evil, payload=payload)])
        assert len(await store.query(query)) == 1
    assert await SqliteStore.logs(path) == [evil]
