"""Nothing of what was erased is left in any file: not in indexes, free pages, or the write-ahead log."""

import threading
from functools import partial

import apsw
import pytest
import trio

from tests._helpers.events import agent
from trio_eventlog import EventQuery, StoreError, open_event_log
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _erasing

ANN = "ann-7f3c"
BOB = "bob-91d2"


def event(seq):
    """Every third is of the one who is to be erased: in scopes, in short payloads, and over many pages."""
    name = ANN if seq % 3 == 0 else BOB
    text = f"{name} " * (1, 40, 3_000)[seq % 7 % 3]
    scopes = {"identity": name, "run_id": f"run of {name}", "step_id": f"{name}-{seq}", "mob_id": name}
    return agent(seq, payload={**scopes, "text": text, f"key of {name}": [seq]})


def traces(directory, text=ANN):
    return [path.name for path in directory.iterdir() if text.encode() in path.read_bytes()]


async def fill(path):
    async with SqliteStore.open(path) as store:
        for first in range(1, 400, 10):
            await store.append_batch([event(seq) for seq in range(first, first + 10)])
        # Copies in free pages.
        await store.prune(keep=300)


async def test_nothing_is_left_in_any_file(tmp_path):
    path = tmp_path / "events.db"
    await fill(path)
    async with SqliteStore.open(path) as store:
        await store.append_batch([event(seq) for seq in range(401, 500)])
        assert set(traces(tmp_path)) == {"events.db", "events.db-wal"}

        erased = await store.erase(EventQuery(identity=ANN), reason="request 17")

        assert erased == len([seq for seq in range(101, 500) if seq % 3 == 0])
        assert traces(tmp_path) == []
        assert set(traces(tmp_path, BOB)) == {"events.db"}
        assert (await store.verify()).problems == 0
        # The log goes on in the file that was written anew.
        await store.append_batch([agent(500, payload={"identity": BOB})])
        assert len(await store.query(EventQuery())) == 400
    assert traces(tmp_path) == []
    async with SqliteStore.open(path) as store:
        assert (await store.verify()).problems == 0
        assert [found.seq for found in await store.query(EventQuery(after_seq=499))] == [500]
    assert traces(tmp_path) == []


async def test_another_process_may_have_the_log_open(tmp_path):
    """Erased through a read-only store, while a writer of the log goes on."""
    path = tmp_path / "events.db"
    await fill(path)
    async with SqliteStore.open(path) as writer, SqliteStore.open(path, read_only=True) as reader:
        async with open_event_log(writer) as log:
            log.ingest(event(3).event)
            await log.flush()
            assert await reader.erase(EventQuery(identity=ANN), reason="why") > 100
            assert traces(tmp_path) == []
            log.ingest(agent(1).event)
            await log.flush()
        assert (await writer.verify()).problems == (await reader.verify()).problems == 0
        assert await writer.last_seq() == await reader.last_seq() == 402


async def test_a_call_that_was_cut_short_is_completed_by_another(tmp_path, monkeypatch):
    """Even if no event matches any more."""
    path = tmp_path / "events.db"
    await fill(path)

    def killed(self, db):
        raise apsw.IOError("killed")

    async with SqliteStore.open(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(_erasing.Erasure, "clean", killed)
            with pytest.raises(StoreError):
                await store.erase(EventQuery(identity=ANN), reason="why")
        assert traces(tmp_path) != []

        assert await store.erase(EventQuery(identity=ANN), reason="why") == 0

        assert traces(tmp_path) == []


async def test_a_reader_that_stays_is_told_of(tmp_path, monkeypatch):
    path = tmp_path / "events.db"
    await fill(path)
    monkeypatch.setattr(_erasing, "_PATIENCE", 0.0)
    monkeypatch.setattr("trio_eventlog.stores.sqlite._schema.BUSY_TIMEOUT", 0.05)
    other = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    async with SqliteStore.open(path) as store:
        other.execute("BEGIN; SELECT count(*) FROM logs")
        with pytest.raises(StoreError, match="still in the write-ahead log: a reader kept it"):
            await store.erase(EventQuery(identity=ANN), reason="why")
        other.close()
        assert await store.erase(EventQuery(identity=ANN), reason="why") == 0
        assert traces(tmp_path) == []


async def test_while_it_waits_for_a_reader_others_append_and_it_can_be_cancelled(tmp_path, monkeypatch):
    path = tmp_path / "events.db"
    await fill(path)
    monkeypatch.setattr(_erasing, "_PATIENCE", 30.0)
    other = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    async with SqliteStore.open(path) as store, trio.open_nursery() as nursery:
        other.execute("BEGIN; SELECT count(*) FROM logs")
        nursery.start_soon(partial(store.erase, EventQuery(identity=ANN), reason="why"))
        while await store.query(EventQuery(identity=ANN)):  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        with trio.fail_after(10):
            for seq in range(1_000, 1_010):
                await store.append_batch([event(seq)])
        nursery.cancel_scope.cancel()
        cancelled_at = trio.current_time()
    assert trio.current_time() - cancelled_at < 5
    other.close()


async def test_cancelled_it_has_erased_whole_steps(tmp_path, monkeypatch):
    path = tmp_path / "events.db"
    await fill(path)
    monkeypatch.setattr(_erasing, "CHUNK_EVENTS", 10)
    reached = threading.Event()
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:

        def commit(event):
            if not reached.is_set():
                reached.set()
                token.run_sync_soon(scope.cancel)
            return "c"

        async with SqliteStore.open(path) as store:
            await store.erase(EventQuery(identity=ANN), reason="why", commitment=commit)
    assert scope.cancelled_caught
    async with SqliteStore.open(path) as store:
        left = len(await store.query(EventQuery(identity=ANN)))
        assert 0 < left < 100
        assert (await store.verify()).problems == 0
        assert await store.erase(EventQuery(identity=ANN), reason="why") == left
    assert traces(tmp_path) == []
