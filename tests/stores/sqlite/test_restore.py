"""Restoring a file of logs from a backup."""

import os
import shutil
import signal
from functools import partial

import apsw
import pytest
import trio

from tests._helpers.events import agent
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    LogBusy,
    StaleCursor,
    StoreError,
    StoreUnusable,
    StoreWentBack,
    open_event_log,
)
from trio_eventlog.reading import iter_events, list_epochs
from trio_eventlog.stores import SqliteStore, begin_epoch, restore_backup
from trio_eventlog.stores.sqlite import _backup, _files, _restore


async def fill(path, first, last, log="default"):
    async with SqliteStore.open(path, log=log) as store:
        await store.append_batch([agent(seq) for seq in range(first, last + 1)])


async def seqs(path, log="default"):
    async with SqliteStore.open(path, log=log, read_only=True) as store:
        assert (await store.verify()).problems == 0
        return [event.seq for event in await store.query(EventQuery())]


@pytest.fixture
def backup(tmp_path):
    """A backup with five events, of a log that has nine now."""
    trio.run(make_backup, tmp_path)
    return tmp_path / "backup.db"


async def make_backup(tmp_path):
    await fill(tmp_path / "events.db", 1, 5)
    await fill(tmp_path / "events.db", 1, 2, "other")
    async with SqliteStore.open(tmp_path / "events.db") as store:
        await store.backup(tmp_path / "backup.db")
    await fill(tmp_path / "events.db", 6, 9)


@pytest.mark.parametrize("replace", [False, True])
async def test_a_log_goes_on_in_a_backup(tmp_path, backup, replace):
    path = tmp_path / ("events.db" if replace else "new.db")
    before, told = backup.read_bytes(), []

    events = await restore_backup(
        backup, f"sqlite:{path}", replace=replace, on_progress=lambda *pages: told.append(pages)
    )

    assert (events, told[-1][0], backup.read_bytes()) == (7, told[-1][1], before)
    assert path.stat().st_mode & 0o777 == 0o600
    for log, last in (("default", 5), ("other", 2)):
        async with SqliteStore.open(path, log=log) as store, open_event_log(store) as opened:
            (epoch,) = await list_epochs(store)
            assert (epoch.after_seq, epoch.reason) == (last, "restored from backup.db")
            assert opened.ingest(AgentEvent("w", "t")) == epoch.seq + 1
            await opened.flush()
            with pytest.raises(StaleCursor):
                await anext(iter_events(store, EventQuery(after_seq=last + 2)))
        assert await seqs(path, log) == [*range(1, last + 1), epoch.seq, epoch.seq + 1]
    assert not list(tmp_path.glob("*.part*"))


async def test_the_identity_of_the_log_stays(tmp_path, backup):
    """So that its spill file is taken up."""
    async with SqliteStore.open(tmp_path / "events.db") as store:
        log_id = store.log_id
    await restore_backup(backup, f"sqlite:{tmp_path / 'new.db'}")
    async with SqliteStore.open(tmp_path / "new.db") as store:
        assert store.log_id == log_id


async def test_a_spill_file_of_the_old_epoch_is_delivered(tmp_path, backup):
    """After the restored events, with seqs of the new epoch; each event once."""
    path, spill = tmp_path / "events.db", tmp_path / "events.spill"

    class Broken:
        """The store of events.db, which takes nothing."""

        def __init__(self, store):
            self.query, self.last_seq, self.log_id = store.query, store.last_seq, store.log_id

        async def append_batch(self, events):
            await trio.lowlevel.checkpoint()
            raise StoreError("down")

    async with SqliteStore.open(path) as store:
        async with open_event_log(Broken(store), spill=spill, grace_period=0.1) as log:
            for number in range(3):
                log.ingest(AgentEvent("w", "spilled", number))
    assert spill.exists()

    await restore_backup(backup, f"sqlite:{path}", replace=True)
    async with SqliteStore.open(path) as store, open_event_log(store, spill=spill) as log:
        (epoch,) = await list_epochs(store)
        log.ingest(AgentEvent("w", "new"))
        await log.flush()
        found = await store.query(EventQuery(after_seq=5))

    assert [event.seq for event in found] == list(range(epoch.seq, epoch.seq + 5))
    assert [event.event.payload for event in found[1:]] == [0, 1, 2, None]
    assert not spill.exists()


async def test_nothing_is_overwritten_unless_told(tmp_path, backup):
    url = f"sqlite:{tmp_path / 'events.db'}"
    with pytest.raises(StoreUnusable, match=r"events.db already exists"):
        await restore_backup(backup, url)
    assert await seqs(tmp_path / "events.db") == list(range(1, 10))
    # SQLite would play it back into the new file.
    (tmp_path / "new.db-wal").write_bytes(b"of another")
    for replace in (False, True):
        with pytest.raises(StoreUnusable, match=r"new.db-wal already exists"):
            await restore_backup(backup, f"sqlite:{tmp_path / 'new.db'}", replace=replace)


@pytest.mark.parametrize("make_name", [None, os.symlink, os.link])
async def test_a_backup_is_not_restored_into_itself(tmp_path, backup, make_name):
    path, before = backup, backup.read_bytes()
    if make_name is not None:
        path = tmp_path / "other.db"
        make_name(backup, path)

    with pytest.raises(StoreUnusable, match="this is the backup itself"):
        await restore_backup(backup, f"sqlite:{path}", replace=True)

    assert backup.read_bytes() == before


async def test_a_write_ahead_log_is_not_played_back_into_the_new_file(tmp_path, backup):
    """A killed process has left it behind."""
    path = tmp_path / "events.db"
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(10)])
        for name in ("events.db", "events.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"killed-{name}")
    for name in ("events.db", "events.db-wal"):
        (tmp_path / f"killed-{name}").replace(tmp_path / name)
    assert (tmp_path / "events.db-wal").stat().st_size > 0

    await restore_backup(backup, f"sqlite:{path}", replace=True)

    assert len(await seqs(path)) == 6


async def test_a_file_in_use_is_not_replaced(tmp_path, backup):
    path = tmp_path / "events.db"
    async with SqliteStore.open(path, log="other"):
        with pytest.raises(LogBusy):
            await restore_backup(backup, f"sqlite:{path}", replace=True)
    async with SqliteStore.open(path, read_only=True) as reader:
        with pytest.raises(StoreError, match="while a program has it open"):
            await restore_backup(backup, f"sqlite:{path}", replace=True)
        assert await reader.last_seq() == 9
    assert await seqs(path) == list(range(1, 10))
    assert not list(tmp_path.glob("*.part*"))


async def test_what_cannot_be_restored_says_so(tmp_path, backup):
    new = f"sqlite:{tmp_path / 'new.db'}"
    with pytest.raises(StoreUnusable, match=r"nowhere\.db: no such file"):
        await restore_backup(tmp_path / "nowhere.db", new)
    apsw.Connection(str(tmp_path / "blank.db")).close()
    with pytest.raises(StoreUnusable, match="no log is in it"):
        await restore_backup(tmp_path / "blank.db", new)
    db = apsw.Connection(str(backup))
    db.execute("UPDATE events_1 SET actor = 'somebody else' WHERE seq = 4")
    db.close()
    with pytest.raises(StoreUnusable, match="is not what was stored"):
        await restore_backup(backup, new)
    for url, message in (
        ("sqlite:x.db?log=y", "leave out log="),
        ("memory:", "only SQLite files are restored like this"),
    ):
        with pytest.raises(ValueError, match=message):
            await restore_backup(backup, url)
    with pytest.raises(TypeError, match="replace: expected a bool"):
        await restore_backup(backup, new, replace=1)
    with pytest.raises(TypeError, match="on_progress"):
        await restore_backup(backup, new, on_progress=1)
    assert not list(tmp_path.glob("new.db*"))


async def test_a_damaged_file_is_not_replaced(tmp_path, backup):
    """Its write-ahead log cannot be put away."""
    path = tmp_path / "events.db"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreUnusable, match=r"it is damaged .* move it away, with its -wal and -shm"):
        await restore_backup(backup, f"sqlite:{path}", replace=True)
    assert path.read_bytes().startswith(b"no database")


async def test_a_database_of_another_program_is_not_replaced(tmp_path, backup):
    """Its path may have been mistyped."""
    path = tmp_path / "accounts.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE accounts (name)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"accounts\.db: a SQLite database of another program"):
        await restore_backup(backup, f"sqlite:{path}", replace=True)
    assert path.read_bytes() == before


async def test_cancelled_nothing_has_changed(tmp_path, backup, monkeypatch):
    monkeypatch.setattr(_backup, "_PAGES", 1)
    url = f"sqlite:{tmp_path / 'events.db'}"
    with trio.CancelScope() as scope:
        await restore_backup(backup, url, replace=True, on_progress=lambda *_: scope.cancel())
    assert scope.cancelled_caught
    assert not list(tmp_path.glob("*.part*"))
    assert await seqs(tmp_path / "events.db") == list(range(1, 10))


STEPS = [
    (_backup, "create_part"),
    (_backup.Backup, "begin"),
    (_backup.Backup, "copy_some"),
    (_backup.Backup, "end"),
    (_restore, "insert_rows"),
    (_restore, "_put_in_place"),
    (_files, "acquire"),
    (_restore, "_settle"),
    (_backup, "publish"),
    (os, "rename"),
]


@pytest.mark.parametrize("replace", [False, True])
def test_killed_at_any_moment_it_has_done_all_or_nothing(tmp_path, backup, replace):
    """Before or after each of its steps."""
    path, killed = tmp_path / ("events.db" if replace else "new.db"), 0
    original = path.read_bytes() if replace else None
    outcomes = set()
    for owner, name in STEPS:
        for is_after in (False, True):
            child = os.fork()
            if not child:
                _kill_at(owner, name, is_after=is_after)
                trio.run(partial(restore_backup, backup, f"sqlite:{path}", replace=replace))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            if path.exists():
                found = trio.run(seqs, path)
                assert len(found) == 6 or found == list(range(1, 10))
                outcomes.add(len(found))
            else:
                assert not replace
                outcomes.add(0)
            for file in tmp_path.glob(f"{path.name}*"):
                if not file.name.endswith(".lock"):
                    file.unlink()
            if original is not None:
                path.write_bytes(original)
    assert outcomes == ({9, 6} if replace else {0, 6})
    assert killed == 2 * len(STEPS) - (0 if replace else 4)


def _kill_at(owner, name, *, is_after):
    function = getattr(owner, name)

    def killing(*arguments, **options):
        if is_after:
            function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, killing)


async def test_a_copy_made_by_hand_is_adopted(tmp_path, backup):
    shutil.copy(backup, tmp_path / "copied.db")
    async with SqliteStore.open(tmp_path / "copied.db") as store:
        epoch = await begin_epoch(store)
        assert await store.last_seq() == epoch.seq
    assert await seqs(tmp_path / "copied.db") == [*range(1, 6), epoch.seq]
    async with SqliteStore.open(tmp_path / "copied.db", read_only=True) as store:
        with pytest.raises(StoreUnusable, match="read-only"):
            await begin_epoch(store)


async def test_a_log_that_is_open_notices_and_is_adopted_later(tmp_path, backup):
    """Restored by SQLite's own means: see StoreWentBack."""
    async with SqliteStore.open(tmp_path / "events.db") as store:
        source = apsw.Connection(str(backup))
        target = apsw.Connection(str(tmp_path / "events.db"))
        with target.backup("main", source, "main") as copying:
            copying.step()
        source.close()
        target.close()
        with pytest.raises(StoreWentBack):
            await begin_epoch(store)
        epoch = await begin_epoch(store)
    assert epoch.after_seq == 5
