"""SqliteStore keeps SQLite's write-ahead log small, whoever reads."""

import logging
import sys
import threading
from contextlib import asynccontextmanager, contextmanager

import apsw
import pytest
import trio

from tests._helpers.fakes import numbered
from trio_eventlog import AgentEvent, EventQuery, PersistedEvent, StoreUnusable
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _files as _sqlite_wal

MIB = 1024 * 1024


def batch(first, count=500):
    payload = {"text": "x" * 1000}
    return [
        PersistedEvent(f"id{seq}", seq, seq, "a", AgentEvent("a", "t", payload))
        for seq in range(first, first + count)
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def eager(monkeypatch):
    """Ask for it from 1 MiB on, each time, with all the patience that a loaded machine needs."""
    monkeypatch.setattr(_sqlite_wal, "_LARGE", MIB)
    monkeypatch.setattr(_sqlite_wal, "_FIRST_WAIT", 10.0)
    monkeypatch.setattr(_sqlite_wal, "_SHARE", 0)


@pytest.fixture
def impatient(monkeypatch):
    """Ask for it from 1 MiB on, each time, without waiting, and say so at once."""
    monkeypatch.setattr(_sqlite_wal, "_LARGE", MIB)
    monkeypatch.setattr(_sqlite_wal, "_VERY_LARGE", MIB)
    monkeypatch.setattr(_sqlite_wal, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(_sqlite_wal, "_MAX_WAIT", 0.001)
    monkeypatch.setattr(_sqlite_wal, "_SHARE", 0)


def size(path):
    return path.with_name(f"{path.name}-wal").stat().st_size


TAKE_TURNS = """
import apsw

def begin(db):
    db.execute("BEGIN")
    db.execute("SELECT count(*) FROM logs").fetchall()

def take_turns(path, is_over):
    "Two readers of whom one always reads, neither for long."
    one, other = (apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY) for _ in range(2))
    begin(one)
    while not is_over():
        begin(other)
        one.execute("ROLLBACK")
        one, other = other, one
    one.close(True)
    other.close(True)
"""

IN_A_PROCESS = """
import sys, threading

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set())).start()
print("begun", flush=True)
take_turns(sys.argv[1], lambda: over.wait(0.002))
"""


@contextmanager
def readers_in_this_process(path):
    names = {}
    exec(TAKE_TURNS, names)  # noqa: S102 - ours
    over = threading.Event()
    thread = threading.Thread(target=names["take_turns"], args=(str(path), lambda: over.wait(0.002)))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@asynccontextmanager
async def readers_that_overlap(path, *, elsewhere):
    if not elsewhere:
        with readers_in_this_process(path):
            yield
        return
    async with trio.open_nursery() as nursery:
        command = [sys.executable, "-c", TAKE_TURNS + IN_A_PROCESS, str(path)]
        other = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1)
        told = b""
        while told != b"begun\n":
            told += await other.stdout.receive_some(1)
        yield
        await other.stdin.aclose()
        await other.wait()
        await other.stdout.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_readers_that_overlap_do_not_make_it_grow(path, eager, elsewhere):
    """There is never a moment without one, and none of them stays for long."""
    async with SqliteStore.open(path, synchronous="normal") as store:
        await store.append_batch(batch(1))
        async with readers_that_overlap(path, elsewhere=elsewhere):
            sizes = []
            for first in range(501, 12_501, 500):
                await store.append_batch(batch(first))
                sizes.append(size(path))
        assert max(sizes) < 5 * MIB
        assert (await store.describe()).events == 12_500
    assert path.stat().st_size > 14 * MIB


async def test_pruning_beside_readers_does_not_make_it_grow(path, eager):
    async with SqliteStore.open(path, synchronous="normal") as store:
        for first in range(1, 10_001, 500):
            await store.append_batch(batch(first))
        async with readers_that_overlap(path, elsewhere=False):
            sizes = []
            await store.prune(keep=0, on_progress=lambda *_: sizes.append(size(path)))
        assert len(sizes) == 10
        assert max(sizes) < 8 * MIB


async def test_a_reader_that_stays_is_told_once(path, impatient, caplog):
    """Appends go on. Once it has gone, the next ones make the file small again."""
    async with SqliteStore.open(path, synchronous="normal") as store:
        await store.append_batch(batch(1))
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM logs").fetchall()
        with caplog.at_level(logging.WARNING, logger="trio_eventlog"):
            for first in range(501, 5_501, 500):
                await store.append_batch(batch(first))
        grown = size(path)
        assert grown > 5 * MIB
        assert (await store.describe()).wal_bytes == grown
        (record,) = caplog.records
        assert f"{path}-wal" in record.getMessage()
        assert "another connection" in record.getMessage()

        reader.close()
        for first in (5_501, 6_001):
            await store.append_batch(batch(first))
        assert size(path) <= 4 * MIB
        description = await store.describe()
        assert description.wal_bytes == size(path)
        assert description.size_bytes == path.stat().st_size + size(path)


async def test_a_store_of_this_process_that_stays_is_named(path, impatient, caplog):
    over = threading.Event()
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def stay(db):
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM logs").fetchall()
        token.run_sync_soon(begun.set)
        assert over.wait(60)
        db.execute("ROLLBACK")

    async with (
        SqliteStore.open(path) as store,
        SqliteStore.open(path, read_only=True) as other,
        trio.open_nursery() as nursery,
    ):
        try:
            for stuck in (store, other):
                nursery.start_soon(stuck._reader.run, stay)
                await begun.wait()
                begun = trio.Event()
            with caplog.at_level(logging.WARNING, logger="trio_eventlog"):
                for first in range(1, 2_001, 500):
                    await store.append_batch(batch(first))
        finally:
            over.set()
    (record,) = caplog.records
    assert "2 stores of this process" in record.getMessage()


class Failing:
    """A connection whose disk is full."""

    def __init__(self):
        self.timeouts = []

    def set_busy_timeout(self, milliseconds):
        self.timeouts.append(milliseconds)

    def wal_checkpoint(self, *, mode):
        raise apsw.FullError("no space")


def test_what_goes_wrong_is_told_and_harms_nothing(path, impatient, caplog):
    """The events are stored; and the connection waits for others as before."""
    wal, db = _sqlite_wal.WriteAheadLog(str(path)), Failing()
    wal.keep_small(db)
    assert db.timeouts == []
    path.with_name("events.db-wal").write_bytes(bytes(3 * MIB))
    with caplog.at_level(logging.WARNING, logger="trio_eventlog"):
        wal.keep_small(db)
        wal.keep_small(db)
    assert db.timeouts == [1, 2500] * 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}-wal: the write-ahead log has 3 MiB and grows, since it could not be begun anew: no space"
    ]


class Clock:
    """A time that passes while somebody waits for readers, and with each append."""

    def __init__(self):
        self.now = self.waited = 0.0
        self._milliseconds = 0

    def monotonic(self):
        return self.now

    def set_busy_timeout(self, milliseconds):
        self._milliseconds = milliseconds

    def wal_checkpoint(self, *, mode):
        self.waited += self._milliseconds / 1000
        self.now += self._milliseconds / 1000
        raise apsw.BusyError


def test_waiting_takes_a_small_part_of_the_time(path, monkeypatch):
    """However long a reader stays."""
    path.with_name("events.db-wal").write_bytes(bytes(9 * MIB))
    clock = Clock()
    monkeypatch.setattr(_sqlite_wal, "time", clock)
    wal = _sqlite_wal.WriteAheadLog(str(path))
    while clock.now < 300:
        wal.keep_small(clock)
        clock.now += 0.01
    assert 0.03 < clock.waited / clock.now < 0.06


async def test_an_error_that_is_kept_does_not_keep_what_was_read(path, impatient):
    """A query that fails in the middle lets go of the file all the same."""
    async with SqliteStore.open(path) as store:
        await store.append_batch([PersistedEvent(f"id{seq}", seq, seq, "w", numbered(seq)) for seq in (1, 2)])
    db = apsw.Connection(str(path))
    db.execute("UPDATE events_1 SET payload = CAST(x'ff' AS TEXT) WHERE seq = 1")
    db.close()
    async with SqliteStore.open(path, synchronous="normal") as store:
        with pytest.raises(StoreUnusable, match="damaged") as kept:
            await store.query(EventQuery())
        sizes = []
        for first in range(501, 5_501, 500):
            await store.append_batch(batch(first))
            sizes.append(size(path))
        assert max(sizes) < 5 * MIB
        assert len(await store.query(EventQuery(after_seq=1))) == 5_001
        assert kept.value is not None
