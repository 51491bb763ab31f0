"""What cannot be opened, and arguments."""

import errno
import os
import sys

import apsw
import pytest
import trio
import trio.testing

from tests._helpers.events import agent
from tests._helpers.sqlite import Gate, connections_of, lines, process, raw, refused, workers
from trio_eventlog import (
    StoreError,
    StoreUnusable,
)
from trio_eventlog import _lock_file as _lockfile
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _files as _sqlite_files
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _worker as worker_module

pytestmark = pytest.mark.usefixtures("no_threads_left")


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
    raw(path, "PRAGMA user_version = 3")
    await refused(StoreUnusable, r"newer.*layout 3.*upgrade", path, read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True])
async def test_the_layout_from_before_the_first_release(path, read_only):
    async with SqliteStore.open(path):
        pass
    raw(path, "PRAGMA user_version = 1")
    await refused(StoreUnusable, r"before .* released \(layout 1, .*export it", path, read_only=read_only)


async def test_the_layout_is_marked(path):
    async with SqliteStore.open(path) as store:
        assert (await store.describe()).schema_version == 2
        assert (await store.describe()).size_bytes > 4_096
    assert raw(path, "PRAGMA user_version") == [(2,)]
    assert raw(path, "PRAGMA application_id") == [(0x54454C47,)]
    assert raw(path, "PRAGMA journal_mode") == [("wal",)]
    assert raw(path, "SELECT count(*) FROM sqlite_schema WHERE sql LIKE 'CREATE TABLE%STRICT'") == [(3,)]


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
