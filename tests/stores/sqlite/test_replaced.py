"""A SQLite file that is moved, removed, replaced, overwritten, truncated or put back while it is open."""

import os
import subprocess
import sys
from functools import partial

import apsw
import pytest
import trio

from tests._helpers.events import agent
from tests._helpers.sqlite import Gate, write_log
from trio_eventlog import EventQuery, StoreError, StoreUnusable, StoreWentBack
from trio_eventlog.reading import tail
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _files as _sqlite_files
from trio_eventlog.stores.sqlite._appender import Appender
from trio_eventlog.stores.sqlite._schema import PAGE_SIZE

SAME_PAGES = f"PRAGMA page_size = {PAGE_SIZE}"
"""SQLite restores a file over one with a write-ahead log only if their pages are of one size."""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files" / "events.db"


def raw(path, *statements):
    """What another program does to the file."""
    db = apsw.Connection(str(path))
    db.set_busy_timeout(2000)
    for statement in statements:
        db.execute(statement).fetchall()
    db.close()


def restore(saved, path):
    """With SQLite's own backup, as its shell's .restore does it."""
    with apsw.Connection(str(path)) as target, apsw.Connection(str(saved)) as source:
        with target.backup("main", source, "main") as copying:
            copying.step(-1)
    target.close()
    source.close()


def copy_into(saved, path):
    """In another process: who closes a descriptor of the database in this one takes SQLite's locks away."""
    program = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", program, str(saved), str(path)], check=True)


def append(*seqs):
    return [agent(seq) for seq in seqs]


async def seqs(store):
    return [event.seq for event in await store.query(EventQuery())]


# --- files that are not where they were -----------------------------------------------------------

SIDES = ["", "-wal", "-shm", ".lock", "the directory"]


def change(path, side, how):
    name = path.parent if side == "the directory" else path.with_name(path.name + side)
    if side == ".lock":
        (name,) = path.parent.glob("*.lock")
    if how == "removed" and side != "the directory":
        name.unlink()
    else:
        name.rename(f"{name}.old")
    if how == "replaced":
        if side == "the directory":
            name.mkdir()
        else:
            name.write_bytes(name.with_name(f"{name.name}.old").read_bytes())


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
@pytest.mark.parametrize("side", SIDES)
async def test_a_writer_says_so(path, side, how):
    """Nothing is acknowledged that nobody will find again, or beside which somebody else can write."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))
        change(path, side, how)
        for call in (
            lambda: store.append_batch(append(2)),
            lambda: store.append_batch(append(1)),
            store.last_seq,
        ):
            with pytest.raises(StoreUnusable, match="moved, removed or replaced while the store was open"):
                await call()
        with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
            await store.sync()
        with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
            await store.prune(keep=0)


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
@pytest.mark.parametrize("side", [side for side in SIDES if side != ".lock"])
async def test_a_reader_says_so(path, side, how):
    """It would see nothing more of what is written, for ever, and wait for it."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))
        async with SqliteStore.open(path, read_only=True) as reader:
            assert await seqs(reader) == [1]
            async with reader.watch_changes() as watch:
                change(path, side, how)
                with trio.fail_after(5):
                    await watch.wait()
                    # Whoever asks again is not made to wait.
                    await watch.wait()
            for call in (
                lambda: reader.query(EventQuery()),
                reader.last_seq,
                reader.pruned_seq,
                reader.describe,
                reader.verify,
                reader.log_names,
                lambda: reader.prune(keep=0),
            ):
                with pytest.raises(
                    StoreUnusable, match="moved, removed or replaced while the store was open"
                ):
                    await call()


async def test_who_follows_a_file_that_is_moved_is_told(path):
    """Soon, not only when the next look is due."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))
    async with (
        SqliteStore.open(path, read_only=True) as reader,
        tail(reader, after_seq=0, poll_interval=60) as events,
    ):
        assert (await anext(events)).seq == 1
        async with trio.open_nursery() as nursery:

            async def follow():
                with pytest.raises(StoreUnusable, match="moved, removed or replaced"), trio.fail_after(5):
                    await anext(events)

            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            path.rename(path.with_suffix(".old"))


@pytest.mark.parametrize("side", ["-wal", "-shm", ".lock"])
async def test_a_side_file_that_goes_during_an_append(path, side):
    """It is not said to be stored."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))

        def remove():
            change(path, side, "removed")
            return False

        await store._writer.run(lambda db: db.set_commit_hook(remove))
        with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
            await store.append_batch(append(2))


async def test_a_reader_of_a_copy_without_a_write_ahead_log(path, tmp_path):
    """Writers come and go, and take their side files with them, as they may."""
    copy = tmp_path / "copy.db"
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))
        raw(path, f"VACUUM INTO '{copy}'")
    async with SqliteStore.open(copy, read_only=True) as reader, reader.watch_changes() as watch:
        for seq in (2, 3):
            async with SqliteStore.open(copy) as store:
                await watch.wait()
                await store.append_batch(append(seq))
            assert await reader.last_seq() == seq
        raw(copy, "DELETE FROM events_1 WHERE seq = 2")
        assert await seqs(reader) == [1, 3]


# --- what is in the files is not what was written -------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_sqlite_files, "_SETTLE", 0.05)


@pytest.mark.parametrize("folded", [False, True], ids=["in the write-ahead log", "in the database"])
@pytest.mark.parametrize(("side", "kept"), [("", 0), ("", 0.5), ("-wal", 0), ("-wal", 0.5)])
@pytest.mark.parametrize("seq", [1, 5000], ids=["known", "new"])
@pytest.mark.usefixtures("impatient")
async def test_a_file_that_is_truncated(path, side, kept, folded, seq):
    """SQLite goes on with what it remembers, and the rest is zeros when somebody else reads it."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(seq, payload="x" * 1000) for seq in range(1, 501)])
        if folded:
            raw(path, "PRAGMA wal_checkpoint(PASSIVE)")
        await store.append_batch(append(501))
        name = path.with_name(path.name + side)
        os.truncate(name, int(name.stat().st_size * kept))
        for _ in range(2):
            with pytest.raises(StoreUnusable, match=r"overwritten or truncated|malformed"):
                await store.append_batch([agent(seq, payload="x" * 1000)])


async def test_a_write_ahead_log_that_is_truncated_during_an_append(path):
    """It is not said to be stored."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))

        def truncate():
            os.truncate(f"{path}-wal", 0)
            return False

        await store._writer.run(lambda db: db.set_commit_hook(truncate))
        with pytest.raises(StoreUnusable, match="-wal was overwritten or truncated"):
            await store.append_batch(append(2))


@pytest.mark.usefixtures("impatient")
async def test_another_process_that_writes_for_long(path, monkeypatch):
    """Its first page is there, the last ones are not yet: that passes."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(seq, payload="x" * 1000) for seq in range(1, 501)])
        raw(path, "PRAGMA wal_checkpoint(PASSIVE)")
        size = path.stat().st_size
        os.truncate(path, size // 2)
        is_whole, looks = _sqlite_files.Content._is_whole, []

        def write_on(content):
            looks.append(is_whole(content))
            os.truncate(path, size // 2 + len(looks))
            return looks[-1]

        with monkeypatch.context() as patch:
            patch.setattr(_sqlite_files.Content, "_is_whole", write_on)
            with pytest.raises(StoreError, match="another process has been writing") as caught:
                await store.append_batch(append(501))
        assert type(caught.value) is StoreError
        assert len(looks) > 1


async def test_a_backup_that_is_copied_into_the_file(path, tmp_path):
    """The old content and what SQLite remembers of the new one would be mixed."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(*range(1, 101)))
        raw(path, f"VACUUM INTO '{tmp_path}/made'", "PRAGMA wal_checkpoint(TRUNCATE)")
        copy_into(path, tmp_path / "copied")
        await store.append_batch(append(*range(101, 1001)))
        raw(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        await store.append_batch(append(1001))
        for saved in ("made", "copied"):
            copy_into(tmp_path / saved, path)
            for seq in (1, 1001, 1002):
                with pytest.raises(StoreUnusable, match="overwritten or truncated"):
                    await store.append_batch(append(seq))


async def test_a_backup_that_is_copied_into_the_file_and_looks_the_same(path, tmp_path):
    """No page was added between the two: only what is in the log tells."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1, 2))
        raw(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        copy_into(path, tmp_path / "saved")
        await store.append_batch(append(3, 4))
        raw(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        await trio.sleep(0.05)
        copy_into(tmp_path / "saved", path)
        with pytest.raises(StoreWentBack) as caught:
            await store.append_batch(append(4, 5))
        assert (caught.value.last_seq, caught.value.expected_seq) == (2, 4)
        await store.append_batch(append(4, 5))
        assert await seqs(store) == [1, 2, 4, 5]
        assert (await store.verify()).problems == 0


MIXED = """
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET rootpage = -rootpage + (
    SELECT sum(rootpage) FROM sqlite_schema WHERE name IN ('events_1_id', 'events_1_event_type')
) WHERE name IN ('events_1_id', 'events_1_event_type');
PRAGMA writable_schema = RESET;
PRAGMA schema_version = 99
"""
"""Two indexes in each other's place, as when pages of two files are mixed."""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM events_1 WHERE seq = 3", "its last seq is 3, it has 2"),
        (partial(write_log, last_seq=9), "its last seq is 9, it has 3"),
        ("UPDATE logs SET last_seq = 9", "the row of log 'default' is not what was written"),
        ("DELETE FROM events_1", "its last seq is 3, it has None"),
        (MIXED, "seq 3 of log 1 is not in the index of ids"),
        ("ALTER TABLE logs RENAME COLUMN unique_id TO other", "no such column"),
    ],
)
async def test_a_log_that_does_not_end_where_it_says(path, damage, message):
    """Such as one that is mixed with its backup. Looked at when somebody else has written to the database."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1, 2, 3))
        if callable(damage):
            damage(path)
        raw(path, *[damage] * isinstance(damage, str), "PRAGMA wal_checkpoint(TRUNCATE)")
        for seq in (1, 10):
            with pytest.raises(StoreUnusable, match=message):
                await store.append_batch(append(seq))


async def test_a_log_whose_last_event_was_pruned(path):
    """By time, since times need not ascend: it ends below its last seq."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1, time_ms=100), agent(2, time_ms=1)])
        assert await store.prune(before_ms=50) == 1
        raw(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        await store.append_batch(append(3))
        assert await seqs(store) == [1, 3]


async def test_what_others_fold_into_the_database_is_no_damage(path):
    """Writers of other logs, and programs of an administrator, at any moment."""
    async with SqliteStore.open(path) as store, SqliteStore.open(path, log="other") as other:
        for turn in range(1, 30):
            await store.append_batch([agent(turn, payload="x" * 50_000)])
            await other.append_batch([agent(turn, payload="x" * 50_000)])
            mode = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")[turn % 4]
            raw(path, f"PRAGMA wal_checkpoint({mode})", *["VACUUM"] * (turn % 7 == 0))
            if turn == 20:
                assert await store.prune(keep=2) == 18
                raw(path, "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")
        assert await store.prune(keep=0) == 11
        raw(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        await store.append_batch(append(30))
        assert await seqs(store) == [30]
        assert (await store.verify()).problems == (await other.verify()).problems == 0


# --- a file that was put back ---------------------------------------------------------------------


async def test_a_store_that_went_back(path, tmp_path):
    """It says so once, with nothing of the batch stored, and goes on from what there is."""
    async with SqliteStore.open(path) as store, SqliteStore.open(path, read_only=True) as reader:
        await store.append_batch(append(*range(1, 11)))
        raw(path, f"VACUUM INTO '{tmp_path}/saved'")
        await store.append_batch(append(*range(11, 21)))
        for highest in (20, 22):
            restore(tmp_path / "saved", path)
            assert await store.append_batch([]) == ()
            with pytest.raises(StoreWentBack, match=f"its last seq is 10, .* up to {highest}") as caught:
                await store.append_batch(append(20, 21))
            assert type(caught.value) is StoreWentBack
            assert (caught.value.last_seq, caught.value.expected_seq) == (10, highest)
            assert await store.last_seq() == await reader.last_seq() == 10
            assert await seqs(store) == await seqs(reader) == list(range(1, 11))
            await store.append_batch(append(20, 21, 22))
            assert await seqs(reader) == [*range(1, 11), 20, 21, 22]
        assert (await store.verify()).problems == 0


async def test_what_was_found_on_opening_counts(path, tmp_path):
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))
        raw(path, f"VACUUM INTO '{tmp_path}/saved'")
        await store.append_batch(append(2))
    async with SqliteStore.open(path) as store:
        restore(tmp_path / "saved", path)
        with pytest.raises(StoreWentBack) as caught:
            await store.append_batch(append(3))
        assert (caught.value.last_seq, caught.value.expected_seq) == (1, 2)
    # Nobody was there to notice that it went back.
    restore(tmp_path / "saved", path)
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(2))


async def test_an_append_that_failed_after_all_is_not_missed(path):
    """Only what was acknowledged is."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))
        await store._writer.run(lambda db: db.set_commit_hook(lambda: True))
        with pytest.raises(StoreError):
            await store.append_batch(append(2, 3))
        await store._writer.run(lambda db: db.set_commit_hook(None))
        await store.append_batch(append(2))
        assert await seqs(store) == [1, 2]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("without the log", "a row is missing: log 'default' is not there any more"),
        ("with another log of the name", "log 'default' is another one than before"),
        ("blank", "blank, and had log 'default' before"),
        ("of another program", "another program"),
        ("of a newer version", "newer trio_eventlog"),
    ],
)
async def test_another_database_in_its_place(path, tmp_path, other, message):
    """Neither is written to nor read from as if it were the log, whatever number its logs have."""
    saved = tmp_path / "saved"
    if other == "blank":
        raw(saved, SAME_PAGES, "CREATE TABLE t (x)", "DROP TABLE t")
    elif other == "of another program":
        raw(saved, SAME_PAGES, "CREATE TABLE logs (x)")
    else:
        async with SqliteStore.open(saved, log="default" if "another" in other else "x") as store:
            await store.append_batch(append(*range(1, 51)))
    async with SqliteStore.open(path) as store, SqliteStore.open(path, read_only=True) as reader:
        await store.append_batch(append(1))
        if other == "of a newer version":
            raw(path, "PRAGMA user_version = 3")
        else:
            restore(saved, path)
        calls = [
            lambda: store.append_batch(append(1)),
            lambda: store.append_batch(append(51)),
            store.last_seq,
            lambda: store.prune(keep=0),
            *(
                call
                for each in (store, reader)
                for call in (
                    lambda each=each: each.query(EventQuery()),
                    each.describe,
                    each.verify,
                    each.pruned_seq,
                )
            ),
            reader.last_seq,
        ]
        for call in calls:
            with pytest.raises(StoreUnusable, match=message):
                await call()


MOVED = """
import sys, shutil, trio
from trio_eventlog.stores import SqliteStore

async def main():
    async with SqliteStore.open(sys.argv[1], log="other") as store:
        pass

shutil.move(sys.argv[2], sys.argv[1])
trio.run(main)
"""


async def test_a_backup_that_is_moved_over_the_file(path, tmp_path):
    """And used by somebody else at once, who uses up what is left of the write-ahead log."""
    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))
        raw(path, f"VACUUM INTO '{tmp_path}/saved'")
        await store.append_batch(append(2))
        await trio.run_process([sys.executable, "-c", MOVED, str(path), str(tmp_path / "saved")])
        with pytest.raises(StoreUnusable, match="moved, removed or replaced"):
            await store.append_batch(append(3))


async def test_what_a_cancelled_append_did_not_say_is_said_by_the_next(path, tmp_path, monkeypatch):
    """That the store went back, when its caller was gone before it heard of it."""
    gate, check = Gate(), Appender._check_log

    def check_and_wait(*arguments):
        try:
            check(*arguments)
        except StoreWentBack:
            gate()
            raise

    async with SqliteStore.open(path) as store:
        await store.append_batch(append(1))
        raw(path, f"VACUUM INTO '{tmp_path}/saved'")
        await store.append_batch(append(2))
        restore(tmp_path / "saved", path)
        with monkeypatch.context() as patch:
            patch.setattr(Appender, "_check_log", check_and_wait)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.append_batch, append(3))
                await gate.reached.wait()
                nursery.cancel_scope.cancel(reason="test")
            gate.open()
        with pytest.raises(StoreWentBack) as caught:
            await store.append_batch(append(3))
        assert (caught.value.last_seq, caught.value.expected_seq) == (1, 2)
        assert await store.append_batch(append(2) + append(3)) == ()
        assert await seqs(store) == [1, 2, 3]
