"""A directory in a file system that forgets, and stores in it. Left out where it cannot be mounted."""

import errno
import importlib.util
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from tests._helpers.correct_stores import opened_file
from tests._helpers.disk_stores import CorrectOsStore
from trio_eventlog.stores import SqliteStore
from trio_eventlog.testing import Crash, check_power_loss, check_store, crash_state, open_lossy_directory
from trio_eventlog.testing._power._fuse import CannotMount, mounted
from trio_eventlog.testing._power._states import KEPT

open_os = partial(opened_file, CorrectOsStore)

CRASHES = [
    Crash(count, back, kept, seed)
    for count in range(3)
    for back, seed in [(0, 0), (-1, 1), (-2, 2), (-4, 3)]
    for kept in KEPT
]


@pytest.fixture(scope="module", autouse=True)
def mount():
    """One for all tests that do not need their own: mounting takes half a second."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(mounted())
        except CannotMount as exc:
            pytest.skip(str(exc))
        yield found


def is_mounted(path):
    return any(line.split()[1] == str(path) for line in Path("/proc/mounts").read_text().splitlines())


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


async def test_it_is_a_file_system_and_writes_down_what_is_done(mount):
    async with mount.directory() as lossy:
        directory = lossy.path
        (directory / "d").mkdir()
        (directory / "d" / "a").write_bytes(b"abcdef")
        os.truncate(directory / "d" / "a", 3)
        (directory / "b").write_bytes(b"x" * 300_000)
        os.link(directory / "b", directory / "c")
        (directory / "d" / "a").rename(directory / "e")
        (directory / "s").symlink_to("e")
        (directory / "gone").write_bytes(b"")
        (directory / "gone").unlink()
        (directory / "empty").mkdir()
        (directory / "empty").rmdir()

        assert sorted(path.name for path in directory.iterdir()) == ["b", "c", "d", "e", "s"]
        assert (directory / "e").read_bytes() == b"abc"
        assert (directory / "s").read_bytes() == b"abc"
        assert (directory / "c").stat().st_nlink == 2
        assert (directory / "b").stat().st_size == 300_000
        with pytest.raises(OSError, match="not empty"):
            (directory / "d" / "x").touch()
            (directory / "d").rmdir()
        with pytest.raises(FileExistsError):
            (directory / "d").mkdir()
        with pytest.raises(FileNotFoundError):
            (directory / "nothing").read_bytes()

    state = crash_state(lossy.journal, Crash(0, 999, "everything"))
    assert {path: len(content) for path, content in state.files.items()} == {
        "b": 300_000,
        "c": 300_000,
        "e": 3,
        "s": 0,
        "d/x": 0,
    }
    assert state.directories == {"d"}
    assert crash_state(lossy.journal, Crash(0, 999)).files == {}


async def test_what_was_synced_stays(mount):
    async with mount.directory() as lossy:
        (lossy.path / "a").write_bytes(b"safe")
        sync(lossy.path / "a")
        sync(lossy.path)
        await lossy.acknowledge(1)
        with (lossy.path / "a").open("ab") as file:
            file.write(b"and not")
        (lossy.path / "b").write_bytes(b"no name")
        sync(lossy.path / "b")

    state = crash_state(lossy.journal, Crash(1, 99))
    assert state.files == {"a": b"safe"}
    assert state.promised == 1


async def test_a_file_that_is_opened_to_sync_each_write(mount):
    async with mount.directory() as lossy:
        fd = os.open(lossy.path / "a", os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
        os.write(fd, b"safe")
        os.close(fd)
        sync(lossy.path)

    assert crash_state(lossy.journal, Crash(0, 99)).files == {"a": b"safe"}


async def test_what_is_there_can_be_taken_for_synced(mount):
    async with mount.directory() as lossy:
        (lossy.path / "d").mkdir()
        (lossy.path / "d" / "a").write_bytes(b"x")
        await lossy.settle()
        (lossy.path / "d" / "b").write_bytes(b"y")

        journal = await lossy.read_journal()
        assert crash_state(journal, Crash(0)).files == {"d/a": b"x"}
        assert crash_state(journal, Crash(0, 99)).files == {"d/a": b"x"}
        assert crash_state(journal, Crash(0, 99, "everything")).files == {"d/a": b"x", "d/b": b"y"}


async def test_a_sync_fails(mount):
    async with mount.directory(failing_syncs=[1, 3]) as lossy:
        (lossy.path / "a").write_bytes(b"x")
        with pytest.raises(OSError, match="Input/output error"):
            sync(lossy.path / "a")
        sync(lossy.path / "a")
        with pytest.raises(OSError, match="Input/output error"):
            sync(lossy.path)
        sync(lossy.path)

    # The second sync of the file says nothing about what the first one did not write.
    assert crash_state(lossy.journal, Crash(0, 99)).files == {"a": b""}


async def test_the_disk_is_full(mount):
    async with mount.directory(capacity=10_000) as lossy:
        (lossy.path / "a").write_bytes(b"x" * 9_000)
        with pytest.raises(OSError, match="No space left") as full:
            (lossy.path / "b").write_bytes(b"x" * 2_000)
        assert full.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            os.truncate(lossy.path / "a", 11_000)
        (lossy.path / "a").unlink()
        (lossy.path / "b").write_bytes(b"x" * 9_000)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capacity": -1}, ValueError, "capacity: expected 0 or more, got -1"),
        ({"capacity": 1.5}, TypeError, "capacity: expected an int or None, got float"),
        ({"failing_syncs": [0]}, ValueError, "failing_syncs: expected 1 or more, got 0"),
        ({"failing_syncs": "2"}, TypeError, "failing_syncs: expected a collection of integers, got str"),
    ],
)
async def test_arguments(options, error, message):
    with pytest.raises(error, match=message):
        async with open_lossy_directory(**options):
            pass


async def test_an_acknowledgement_is_a_number(mount):
    async with mount.directory() as lossy:
        with pytest.raises(TypeError, match="count: expected an int, got str"):
            await lossy.acknowledge("1")


def test_ctrl_c_on_a_terminal_is_for_the_program_alone():
    """It comes to all processes of the group, and the file system must not end before those who use it."""
    with mounted() as mount:
        assert os.getpgid(mount._process.pid) != os.getpgid(0)


async def test_nothing_is_left_behind():
    with trio.CancelScope() as scope:
        async with open_lossy_directory() as lossy:
            assert is_mounted(lossy.path.parent)
            file = (lossy.path / "a").open("wb")
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not is_mounted(lossy.path.parent)
    with pytest.raises(OSError, match="not connected"):
        file.close()


async def test_what_the_block_raises_is_not_lost_with_the_process_behind_it():
    with pytest.raises(ZeroDivisionError):
        async with open_lossy_directory() as lossy:
            lossy._mount._process.kill()
            raise ZeroDivisionError


async def test_the_process_behind_it_is_killed():
    with mounted() as other:
        other._process.kill()
        with pytest.raises(RuntimeError, match="has ended"):
            other.command("begin", "1", [], None)
    assert not is_mounted(other._path)


# --- stores ---------------------------------------------------------------------------------------


async def test_a_store_that_writes_its_file_by_itself(tmp_path):
    await check_power_loss(open_os, tmp_path, [2, 20, 1], CRASHES[::2])


def open_sqlite(location):
    return SqliteStore.open(location / "log.db")


async def test_sqlite_in_it(tmp_path, monkeypatch):
    """What SQLite does by itself is seen as well: shared memory, and syncs of directories."""
    monkeypatch.setattr(SqliteStore, "file_access", "os")

    await check_power_loss(open_sqlite, tmp_path, [2, 20, 1], CRASHES[::8])


class NeverSyncs(CorrectOsStore):
    def _sync(self):
        pass


class ForgetsTheDirectory(CorrectOsStore):
    def _sync_directory(self):
        pass


@pytest.mark.parametrize("cls", [NeverSyncs, ForgetsTheDirectory])
async def test_broken_stores_are_found(cls, tmp_path):
    with pytest.raises(AssertionError, match=r"1 of the appends of \[1, 2\] events were promised to survive"):
        await check_power_loss(partial(opened_file, cls), tmp_path, [1, 2], [Crash(1)])


def test_the_harness_mounts_and_checks():
    report = check_store(open_os, clauses=["S9"], max_examples=1)

    assert report.passed[0].left_out == ()


class InTheLoop(CorrectOsStore):
    """It works on its files in the thread of the event loop, with Python's lock in its hands."""

    async def _open(self):
        with os.scandir(self.location) as entries:
            for entry in entries:
                entry.stat()
        self._acquire_lock()
        self.file = self._open_file(self.path)
        with os.scandir(self.location) as entries:
            for entry in entries:
                entry.stat()
        self.file.close()
        self._release_lock()
        await super()._open()


async def test_a_store_that_blocks_the_event_loop_does_not_hang(tmp_path):
    with trio.fail_after(30):
        await check_power_loss(partial(opened_file, InTheLoop), tmp_path, [1], [Crash(1)])


def test_without_pyfuse3_it_is_left_out(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    report = check_store(open_os, clauses=["S9"], max_examples=1)

    assert report.passed[0].left_out == (
        "a loss of power: pyfuse3 is not installed, which the extra testing-fuse brings",
    )
