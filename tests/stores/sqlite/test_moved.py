"""Files that are moved while they are open; what the driver makes of hooks, rows and errors."""

import weakref

import apsw
import pytest
import trio
import trio.testing

from tests._helpers.events import agent
from trio_eventlog import (
    EventQuery,
    StoreError,
    StoreUnusable,
)
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _appender as rows
from trio_eventlog.stores.sqlite import _files as _sqlite_files
from trio_eventlog.stores.sqlite import _worker as worker_module

pytestmark = pytest.mark.usefixtures("no_threads_left")


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
