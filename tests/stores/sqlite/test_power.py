"""What a loss of power leaves of a SQLite log.

Of each file that SQLite writes there is what it held when it was last synced; what was never synced is not
there. What a disk may do in between, SQLite's own tests see to.
"""

import contextlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import pytest
import trio

from tests._helpers.events import agent
from trio_eventlog import EventQuery, StoreError, StoreUnusable, StoreWentBack
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _appender, _schema


class Disk(apsw.VFS):
    """Knows what is on the disk. The default for all connections, as long as it is registered."""

    def __init__(self):
        self.synced = {}
        self.failing = set()
        super().__init__("disk", "unix", makedefault=True)

    def xOpen(self, name, flags):  # noqa: N802 - SQLite's name
        return File(self, name, flags)

    def xDelete(self, filename, syncdir):  # noqa: N802 - as above
        super().xDelete(filename, syncdir)
        self.synced.pop(filename, None)

    def left(self, directory):
        """The database after a loss of power now."""
        directory.mkdir()
        for name, content in self.synced.items():
            (directory / Path(name).name).write_bytes(content)
        return directory / "events.db"


class File(apsw.VFSFile):
    """A file on that disk."""

    def __init__(self, disk, name, flags):
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else name
        super().__init__("unix", name, flags)

    def xSync(self, flags):  # noqa: N802 - as above
        if any(self._name.endswith(end) for end in self._disk.failing):
            raise apsw.IOError("the disk fails")
        super().xSync(flags)
        # Through this file: closing another descriptor of it would drop SQLite's locks.
        self._disk.synced[self._name] = self.xRead(self.xFileSize(), 0)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk" / "events.db"


@pytest.fixture
def disk():
    """From here on."""
    made = Disk()
    yield made
    made.unregister()


async def seqs(path, log="default"):
    async with SqliteStore.open(path, log=log, read_only=True) as store:
        assert (await store.verify()).problems == 0
        return [event.seq for event in await store.query(EventQuery())]


def run_and_kill(program, path):
    """A process that ends without closing anything."""
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(path)], check=True, timeout=50)


APPEND = """
    import os, sys, trio
    from trio_eventlog import AgentEvent, PersistedEvent
    from trio_eventlog.stores import SqliteStore

    async def main():
        async with SqliteStore.open(sys.argv[1], synchronous="normal") as store:
            await store.append_batch(
                [PersistedEvent(f"id-{seq}", seq, seq, "a", AgentEvent("a", "t", None)) for seq in (1, 2, 3)]
            )
            os._exit(0)

    trio.run(main)
"""

FOLD = """
    import os, sys, apsw

    db = apsw.Connection(sys.argv[1])
    db.execute("PRAGMA synchronous = off")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    os._exit(0)
"""


@pytest.mark.parametrize("synchronous", ["full", "extra"])
@pytest.mark.parametrize("folded", [False, True], ids=["in the write-ahead log", "in the database"])
async def test_what_a_killed_process_left_is_made_durable(path, disk, tmp_path, synchronous, folded):
    """It was written and not synced. Who opens the log for writing finds it, and repeats pass for stored."""
    run_and_kill(APPEND, path)
    if folded:
        run_and_kill(FOLD, path)
    async with SqliteStore.open(path, synchronous=synchronous) as store:
        assert await store.last_seq() == 3
        found = disk.left(tmp_path / "after opening")
        assert await store.append_batch([agent(seq) for seq in (1, 2, 3)]) == ()
        repeated = disk.left(tmp_path / "after a repeat")
    assert await seqs(found) == [1, 2, 3]
    assert await seqs(repeated) == [1, 2, 3]


@pytest.mark.parametrize("folded", [False, True], ids=["in the write-ahead log", "in the database"])
@pytest.mark.parametrize("also_new", [False, True])
async def test_a_repeat_survives_what_a_new_event_survives(path, disk, tmp_path, folded, also_new):
    """Also of events that came into the file while the log was open, as from a backup."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        db = apsw.Connection(str(path))
        db.execute("PRAGMA synchronous = off")
        log = _schema.find_log(db, "default")
        _appender.insert(db, log, [agent(2)])
        log.note(db, last_seq=2)
        if folded:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert await store.append_batch([agent(2), *[agent(3)] * also_new]) == ()
        after = disk.left(tmp_path / "after")
        db.close()
    assert await seqs(after) == [1, 2, 3][: 2 + also_new]


@pytest.mark.parametrize("what", ["new", "known"])
async def test_a_sync_that_fails_acknowledges_nothing(path, disk, tmp_path, what):
    """And the next attempt makes it durable, or fails again."""
    async with SqliteStore.open(path) as store:
        if what == "known":
            await store.append_batch([agent(1)])
        disk.failing.add("-wal")
        for _ in range(2):
            with pytest.raises(StoreError, match=r"the disk fails|disk I/O error") as caught:
                await store.append_batch([agent(1)])
            assert type(caught.value) is StoreError
        disk.failing.clear()
        disk.synced.pop(f"{path}-wal")
        await store.append_batch([agent(1)])
        after = disk.left(tmp_path / "after")
    assert await seqs(after) == [1]


@pytest.mark.parametrize("synchronous", ["normal", "off"])
async def test_other_logs_of_the_file_with_another_setting(path, disk, tmp_path, synchronous):
    """They fold the write-ahead log into the file; what is durable stays it."""
    async with SqliteStore.open(path, log="other", synchronous=synchronous) as other:
        async with SqliteStore.open(path, log="full") as store:
            await store.append_batch([agent(seq) for seq in range(1, 4)])
        await other.append_batch([agent(seq, payload="x" * 5_000) for seq in range(1, 2_001)])
        await other.append_batch([agent(2_001)])
        folded = disk.left(tmp_path / "folded")
    closed = disk.left(tmp_path / "closed")
    assert await seqs(folded, "full") == [1, 2, 3]
    assert await seqs(closed, "full") == [1, 2, 3]


@pytest.mark.parametrize("synchronous", ["normal", "off"])
async def test_sync(path, disk, tmp_path, synchronous):
    """What was appended before it survives a loss of power, whatever comes later."""
    async with SqliteStore.open(path, synchronous=synchronous) as store:
        assert store.survives == "process"
        await store.append_batch([agent(1), agent(2)])
        before = disk.left(tmp_path / "before")
        await store.sync()
        after = disk.left(tmp_path / "after")
        await store.append_batch([agent(seq, payload="x" * 5_000) for seq in range(3, 2_001)])
        await store.append_batch([agent(2_001)])
        later = disk.left(tmp_path / "later")
    with contextlib.suppress(StoreUnusable):
        assert await seqs(before) == []
    assert await seqs(after) == [1, 2]
    assert (await seqs(later))[:2] == [1, 2]


async def test_sync_that_fails(path, disk):
    """It may pass, or not."""
    async with SqliteStore.open(path, synchronous="normal") as store:
        await store.append_batch([agent(1)])
        for end in ("-wal", ".db"):
            disk.failing = {end}
            with pytest.raises(StoreError) as caught:
                await store.sync()
            assert type(caught.value) is StoreError
        disk.failing.clear()
        await store.sync()
        async with SqliteStore.open(path, read_only=True) as reader:
            with pytest.raises(StoreUnusable, match="read-only"):
                await reader.sync()
        path.unlink()
        with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
            await store.sync()
    with pytest.raises(StoreUnusable, match="closed"):
        await store.sync()


async def test_sync_is_a_checkpoint(path):
    async with SqliteStore.open(path) as store:
        assert store.survives == "power"
        with trio.testing.assert_checkpoints():
            await store.sync()
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.sync()
            pytest.fail("went on")  # pragma: no cover
        assert scope.cancelled_caught


@pytest.mark.parametrize(("number", "passes"), [(13, True), (22, True), (5, False)])
async def test_the_directory_is_synced_too(path, monkeypatch, number, passes):
    """It has the names of new files. Not every directory can be synced."""
    fsync, synced = os.fsync, []

    def record(fd):
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    def fail(_fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", record)
    async with SqliteStore.open(path) as store:
        assert synced == [str(path.parent)]
        monkeypatch.setattr(os, "fsync", fail)
        with contextlib.nullcontext() if passes else pytest.raises(StoreError, match="Input/output error"):
            await store.sync()


CLOSES = """
    import sys, apsw
    db = apsw.Connection(sys.argv[1])
    db.execute("SELECT * FROM logs").fetchall()
    db.close()
"""


async def test_syncing_leaves_the_locks_alone(path):
    """Closing a descriptor of the database would drop them, and the next to close take the -wal file away."""
    async with SqliteStore.open(path, synchronous="normal") as store:
        await store.append_batch([agent(1)])
        await store.sync()
        await store.append_batch([agent(1), agent(2)])
        await trio.run_process([sys.executable, "-c", textwrap.dedent(CLOSES), str(path)])
        await store.append_batch([agent(3)])
    async with SqliteStore.open(path) as store, SqliteStore.open(path, log="other") as other:
        async with SqliteStore.open(path, log="third"):
            pass
        await trio.run_process([sys.executable, "-c", textwrap.dedent(CLOSES), str(path)])
        await store.append_batch([agent(1), agent(4)])
        await other.append_batch([agent(1)])
    assert await seqs(path) == [1, 2, 3, 4]


async def test_sync_of_a_file_that_was_put_back_makes_sure_of_nothing(path, tmp_path):
    """Whoever asks would give up copies of what is gone. Once an append has said so, it works again."""
    saved = tmp_path / "saved.db"
    async with SqliteStore.open(path, synchronous="normal") as store:
        await store.append_batch([agent(1)])
        with contextlib.closing(apsw.Connection(str(path))) as db:
            db.execute("VACUUM INTO ?", (str(saved),))
        await store.append_batch([agent(2)])
        await store.sync()
        with (
            contextlib.closing(apsw.Connection(str(path))) as db,
            contextlib.closing(apsw.Connection(str(saved))) as source,
            db.backup("main", source, "main") as copying,
        ):
            copying.step(-1)
        with pytest.raises(StoreError, match="went back"):
            await store.sync()
        with pytest.raises(StoreWentBack):
            await store.append_batch([agent(3)])
        await store.sync()
