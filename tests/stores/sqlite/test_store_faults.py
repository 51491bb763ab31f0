"""What can happen to a SQLite store from outside: interrupts, forks, and files that change under it."""

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap

import pytest
import trio

from tests._helpers.fakes import numbered
from trio_eventlog import EventQuery, PersistedEvent, StoreError, StoreUnusable
from trio_eventlog.stores import MemoryStore, SqliteStore, open_store


def event(seq, payload=None):
    return PersistedEvent(f"id{seq}", seq, seq, "w", numbered(seq) if payload is None else payload)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


def run(program, *arguments):
    """A program in a process of its own, which has to end by itself: that is the test."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


INTERRUPTED = """
    import os, signal, sys
    import trio
    from trio_eventlog.stores import SqliteStore

    path, nth = sys.argv[1], int(sys.argv[2])
    calls = 0
    run_sync = trio.to_thread.run_sync

    async def run_and_interrupt(*arguments, **options):
        global calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGINT)
        return await run_sync(*arguments, **options)

    trio.to_thread.run_sync = run_and_interrupt

    async def main():
        async with SqliteStore.open(path):
            pass

    try:
        trio.run(main)
        print("ran to its end")
    except KeyboardInterrupt:
        print("interrupted")

    async def again():
        async with SqliteStore.open(path) as store:
            print("last seq", await store.last_seq())

    trio.run(again)
"""


@pytest.mark.parametrize("nth", range(1, 8))
def test_s15_ctrl_c_while_opening_or_closing(path, nth):
    """The process ends, and the lock is free at once: at whichever use of a thread it comes."""
    done = run(INTERRUPTED, path, nth)

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["interrupted", "last seq 0"]


CUT_OFF = """
    import asyncio, sys
    import trio
    from trio_eventlog import *
    from trio_eventlog.stores import SqliteStore

    path, how = sys.argv[1:]

    async def main():
        async with SqliteStore.open(path) as store, trio.open_nursery() as nursery:
            nursery.start_soon(read, store)
            for seq in range(1, 2**63):
                await store.append_batch([PersistedEvent(str(seq), seq, 0, "a", AgentEvent("a", "b"))])
                print(seq, flush=True)
                if seq == 20:
                    cut_off()

    async def read(store):
        while True:
            await store.query(EventQuery(limit=1))

    def fail():
        raise ZeroDivisionError

    async def host():
        global cut_off
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        cut_off = ended.set
        trio.lowlevel.start_guest_run(
            main, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=print
        )
        await ended.wait()
        raise SystemExit(3)

    if how == "its host ends":
        asyncio.run(host())
    if how == "Trio breaks down":
        cut_off = lambda: trio.lowlevel.current_trio_token().run_sync_soon(fail)
    if how == "it leaves":
        cut_off = lambda: sys.exit(3)
    try:
        trio.run(main)
    except (trio.TrioInternalError, BaseExceptionGroup):
        sys.exit(3)
"""


@pytest.mark.parametrize("how", ["its host ends", "Trio breaks down", "it leaves"])
async def test_s15_a_process_whose_run_is_cut_off_ends(path, how):
    """Its threads do not keep it, and what was acknowledged is there."""
    done = await trio.to_thread.run_sync(run, CUT_OFF, path, how)

    assert done.returncode == 3
    acknowledged = [int(line) for line in done.stdout.split()]
    assert len(acknowledged) >= 20
    async with SqliteStore.open(path) as store:
        held = [event.seq for event in await store.query(EventQuery())]
    assert held[: len(acknowledged)] == acknowledged


FORKED = """
    import os, sys
    from contextlib import AsyncExitStack
    import trio
    from trio_eventlog import EventQuery, StoreUnusable
    from trio_eventlog.stores import SqliteStore

    async def main():
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(SqliteStore.open(sys.argv[1]))
            child = os.fork()
            if child == 0:
                try:
                    await store.query(EventQuery())
                except StoreUnusable as exc:
                    assert "forked" in str(exc)
                    await stack.aclose()
                    # To leave trio.run would take the parent's epoll registrations away.
                    os._exit(3)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), await store.last_seq())

    trio.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_s15_a_forked_child_is_told_and_can_leave(path):
    """It has none of the threads; the store goes on in the process that opened it."""
    done = run(FORKED, path)

    assert done.stdout == "3 0\n"


@pytest.mark.parametrize("happening", ["removed", "renamed", "replaced"])
async def test_s10_a_file_that_changes_under_a_writer_ends_it(path, happening):
    """Instead of taking events into a file that nobody will find again."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([event(1)])
        if happening == "removed":
            path.unlink()
        else:
            path.rename(path.with_suffix(".old"))
        if happening == "replaced":
            path.touch()
        for call in (store.append_batch([event(2)]), store.last_seq()):
            with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
                await call


async def test_s10_a_reader_of_another_library_in_this_process_is_noticed(path):
    """Closing its connection drops SQLite's locks, and the next process may take the log file away."""
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select * from logs'); c.close()"
    )
    async with SqliteStore.open(path) as store:
        await store.append_batch([event(1)])
        other = sqlite3.connect(path)
        other.execute("select * from logs").fetchall()
        other.close()
        done = await trio.run_process([sys.executable, "-c", program, str(path)])
        assert done.returncode == 0
        assert not path.with_name("events.db-wal").exists()
        with pytest.raises(StoreUnusable, match="-wal was moved, removed or replaced"):
            await store.append_batch([event(2)])


async def test_s12_text_that_is_no_text_is_damage(path):
    """Not an error of Python's or of the driver."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([PersistedEvent("MARKERMARKER", 1, 1, "w", numbered(1))])
    path.write_bytes(path.read_bytes().replace(b"MARKERMARKER", b"MARKER\xff\xfeMARK"))
    async with SqliteStore.open(path) as store:
        with pytest.raises(StoreUnusable, match="damaged"):
            await store.query(EventQuery())


async def test_s12_a_log_that_has_lost_its_row_is_damaged(path):
    """It could no longer keep its last seq."""
    async with SqliteStore.open(path):
        pass
    db = sqlite3.connect(path)
    async with SqliteStore.open(path) as store:
        db.execute("delete from logs")
        db.commit()
        for call in (store.last_seq(), store.append_batch([event(1)])):
            with pytest.raises(StoreUnusable, match="damaged"):
                await call
    db.close()


async def test_s12_a_path_that_is_no_text_leaves_nothing_behind(tmp_path):
    """As os.listdir gives for a name that is not UTF-8."""
    bad = f"{tmp_path}/caf\udce9.db"
    for opening in (
        SqliteStore.open(bad),
        SqliteStore.open(bad, read_only=True),
        open_store(f"sqlite:{bad}"),
    ):
        with pytest.raises(ValueError, match="UTF-8"):
            async with opening:
                pytest.fail("opened")  # pragma: no cover
    assert list(tmp_path.iterdir()) == []


async def test_s12_a_name_that_is_too_long_leaves_nothing_behind(tmp_path):
    """The lock file's is longer than the database's."""
    with pytest.raises(StoreUnusable, match="too long"):
        async with SqliteStore.open(tmp_path / ("n" * 250)):
            pytest.fail("opened")  # pragma: no cover
    assert list(tmp_path.iterdir()) == []


def long_path(directory, size):
    """A path of this many bytes, in a directory that is there."""
    while size - len(os.fspath(directory)) > 200:
        directory /= "d" * 100
    directory.mkdir(parents=True, exist_ok=True)
    return directory / ("n" * (size - len(os.fspath(directory)) - 1))


@pytest.mark.parametrize("read_only", [False, True])
async def test_s12_a_path_longer_than_sqlite_takes_leaves_nothing_behind(tmp_path, read_only):
    """Whether it is that long itself, or a link leads there. One byte less is well."""
    longest, too_long = long_path(tmp_path, 504), long_path(tmp_path, 505)
    link = tmp_path / "link.db"
    link.symlink_to(too_long)
    if read_only:
        too_long.touch()
    before = sorted(too_long.parent.iterdir())
    for bad in (too_long, link):
        for opening in (SqliteStore.open(bad, read_only=read_only), open_store(f"sqlite:{bad}")):
            with pytest.raises(StoreUnusable, match="too long a path for SQLite: 505 bytes"):
                async with opening:
                    pytest.fail("opened")  # pragma: no cover
    assert sorted(too_long.parent.iterdir()) == before
    async with SqliteStore.open(longest) as store:
        await store.append_batch([event(1)])
    assert await SqliteStore.logs(longest) == ["default"]


@pytest.mark.parametrize("name", ["events.db/", "new/.", ".", "new/.."])
@pytest.mark.parametrize("read_only", [False, True])
async def test_s12_a_path_that_names_a_directory_leaves_nothing_behind(tmp_path, name, read_only):
    """Not the file that it would be without its end."""
    with pytest.raises(ValueError, match="names a directory"):
        async with SqliteStore.open(f"{tmp_path}/{name}", read_only=read_only):
            pytest.fail("opened")  # pragma: no cover
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_new", [False, True])
async def test_side_files_get_the_owner_of_the_database(path, monkeypatch, is_new):
    """As far as the system allows. The owner of the directory, if there is no database."""
    given = []

    def fchown(_fd, uid, gid):
        given.append((uid, gid))
        if uid != -1:
            raise PermissionError(errno.EPERM, "only root may")

    if not is_new:
        path.touch()
    owner = (path.parent if is_new else path).stat()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", fchown)
        async with SqliteStore.open(path):
            pass
    assert given == [(owner.st_uid, owner.st_gid), (-1, owner.st_gid)]


AS_ROOT = """
    import os, pathlib, sys
    import trio
    from trio_eventlog import _lock_file as _lockfile
    from trio_eventlog._log import _spill_disk, _spill_file
    from trio_eventlog.stores import SqliteStore

    directory = pathlib.Path(sys.argv[1])
    database, spill = directory / "events.db", directory / "events.spill"

    async def use(log):
        async with SqliteStore.open(database, log=log):
            pass
        _spill_file.SpillFile(f"{spill}-{log}", None, 10**6)

    def as_owner(log):
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(12345)
            os.setuid(54321)
            trio.run(use, log)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    os.chown(directory, 54321, 12345)
    as_owner("first")
    child = os.fork()
    if child == 0:
        trio.run(use, "second")
        os.close(_spill_disk.open_file(pathlib.Path(f"{spill}-second.new")))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.unlink(f"{spill}-second.new")
    as_owner("second")
    print(*sorted({(os.stat(file).st_uid, os.stat(file).st_gid) for file in directory.iterdir()}))
"""


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_does_not_lock_out_the_owner():
    """Lock and spill file belong to whom the database or the directory belongs to."""
    # Not where pytest has its directories, which nobody else may enter.
    with tempfile.TemporaryDirectory() as directory:
        done = run(AS_ROOT, directory)

    assert done.stderr == ""
    assert done.stdout == "(54321, 12345)\n"


async def test_s12_no_descriptor_to_spare_may_pass(path, monkeypatch):
    """The next attempt may find one, so that the error is of the passing kind."""
    real_open = os.open

    def fail(name, *arguments, **options):
        if str(name).startswith(str(path)):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return real_open(name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(StoreError) as caught:
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
    assert not isinstance(caught.value, StoreUnusable)
    async with SqliteStore.open(path):
        pass


@pytest.mark.parametrize(("top", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError)])
async def test_describe_wants_a_number(path, top, error):
    """Of events to name, 0 or more; however large."""
    async with SqliteStore.open(path) as store:
        for each in (store, MemoryStore()):
            with pytest.raises(error):
                await each.describe(top=top)
            assert (await each.describe(top=2**70)).events == 0
