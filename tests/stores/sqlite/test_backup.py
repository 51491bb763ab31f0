"""A copy of one moment, while a log is written to."""

import apsw
import pytest
import trio

from tests._helpers.events import agent
from trio_eventlog import AgentEvent, EventQuery, StoreError, StoreUnusable, open_event_log
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _backup


async def seqs(path, log="default"):
    async with SqliteStore.open(path, log=log, read_only=True) as store:
        assert (await store.verify()).problems == 0
        return [event.seq for event in await store.query(EventQuery())]


@pytest.mark.parametrize("read_only", [False, True])
async def test_the_copy_is_of_one_moment_and_the_log_goes_on(tmp_path, monkeypatch, read_only):
    """Events that are appended between two steps are not in it, and do not make it begin anew."""
    monkeypatch.setattr(_backup, "_PAGES", 2)
    path, copy = tmp_path / "events.db", tmp_path / "copy.db"
    async with SqliteStore.open(path) as store, SqliteStore.open(path, log="other") as other:
        await store.append_batch([agent(seq, payload="x" * 500) for seq in range(1, 200)])
        await other.append_batch([agent(seq) for seq in range(1, 6)])
        async with open_event_log(store) as log, trio.open_nursery() as nursery:
            told = []

            async def write():
                while True:
                    log.ingest(AgentEvent("w", "t", "y" * 500))
                    await log.flush()

            nursery.start_soon(write)
            async with SqliteStore.open(path, read_only=True) as reader:
                opened = reader if read_only else store
                events = await opened.backup(copy, on_progress=lambda *numbers: told.append(numbers))
            nursery.cancel_scope.cancel()
        assert await store.last_seq() > 200
    assert told[-1][0] == told[-1][1] > 10
    assert len({pages for _, pages in told}) == 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    found = await seqs(copy)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= 199
    assert await seqs(copy, "other") == list(range(1, 6))
    assert events == len(found) + 5
    assert copy.stat().st_mode & 0o777 == 0o600
    assert {file.name for file in tmp_path.iterdir() if "copy" in file.name} <= {
        *("copy.db", "copy.db-shm", "copy.db-wal")
    }


async def test_a_log_goes_on_in_a_copy(tmp_path):
    async with SqliteStore.open(tmp_path / "events.db") as store:
        await store.append_batch([agent(1)])
        await store.backup(tmp_path / "copy.db")
    async with SqliteStore.open(tmp_path / "copy.db") as store, open_event_log(store) as log:
        assert log.ingest(AgentEvent("w", "t")) == 2
    assert await seqs(tmp_path / "copy.db") == [1, 2]


async def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "there").write_text("precious")
    async with SqliteStore.open(tmp_path / "events.db") as store:
        for name in ("there", "events.db"):
            with pytest.raises(StoreUnusable, match="already exists"):
                await store.backup(tmp_path / name)
        with pytest.raises(StoreUnusable, match="no such file or directory"):
            await store.backup(tmp_path / "missing" / "copy.db")
        with pytest.raises(ValueError, match="names no file"):
            await store.backup(":memory:")
        with pytest.raises(TypeError, match="on_progress"):
            await store.backup(tmp_path / "copy.db", on_progress=1)
    assert (tmp_path / "there").read_text() == "precious"


async def test_damage_is_not_handed_on(tmp_path):
    """A copy of a damaged file gets no name."""
    path = tmp_path / "events.db"
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(seq) for seq in range(1, 9)])
    db = apsw.Connection(str(path))
    db.execute("UPDATE events_1 SET actor = 'somebody else' WHERE seq = 4")
    db.close()
    async with SqliteStore.open(path, read_only=True) as store:
        with pytest.raises(StoreUnusable, match="of the copy: is not what was stored"):
            await store.backup(tmp_path / "copy.db")
    assert [file.name for file in tmp_path.iterdir() if "copy" in file.name] == []


async def test_cancelled_there_is_no_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(_backup, "_PAGES", 1)
    async with SqliteStore.open(tmp_path / "events.db") as store:
        await store.append_batch([agent(seq, payload="x" * 900) for seq in range(1, 100)])
        with trio.CancelScope() as scope:
            await store.backup(tmp_path / "copy.db", on_progress=lambda *_: scope.cancel())
        assert scope.cancelled_caught
        assert [file.name for file in tmp_path.iterdir() if "copy" in file.name] == []
        # What a process has left that was killed is no obstacle.
        (tmp_path / "copy.db.part").write_text("half")
        assert await store.backup(tmp_path / "copy.db") == 99


async def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(self, db):
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr(_backup.Backup, "copy_some", full)
    async with SqliteStore.open(tmp_path / "events.db") as store:
        with pytest.raises(StoreError, match="disk is full"):
            await store.backup(tmp_path / "copy.db")
    assert [file.name for file in tmp_path.iterdir() if "copy" in file.name] == []
