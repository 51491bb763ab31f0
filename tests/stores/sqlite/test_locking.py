"""One appender at a time, and closing within a bound (S13)."""

import errno
import logging
import os
import stat

import pytest
import trio
import trio.testing

from tests._helpers.events import agent
from tests._helpers.sqlite import Gate, lines, process, refused, workers
from trio_eventlog import (
    LogBusy,
    StoreError,
    StoreUnusable,
)
from trio_eventlog import _lock_file as _lockfile
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _appender as rows
from trio_eventlog.stores.sqlite import _worker as worker_module

pytestmark = pytest.mark.usefixtures("no_threads_left")


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


def test_a_lock_that_was_released_does_not_release_the_next_one(tmp_path):
    """Although that is on the same file, and usually has the same descriptor."""
    path = str(tmp_path / "it.lock")
    first = _lockfile.FileLock.acquire(path, "it")
    first.release()
    second = _lockfile.FileLock.acquire(path, "it")
    first.release()
    with pytest.raises(LogBusy):
        _lockfile.FileLock.acquire(path, "it")
    second.release()
    _lockfile.FileLock.acquire(path, "it").release()
