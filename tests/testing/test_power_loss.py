"""Stores on SQLite under watch, and what is found of them after a loss of power."""

import os
import re
from functools import partial

import apsw
import pytest

from tests._helpers.correct_stores import open_file, opened_file
from tests._helpers.disk_stores import CorrectDiskStore, OsFile
from trio_eventlog import StoreError
from trio_eventlog.stores import SqliteStore
from trio_eventlog.testing import Crash, check_power_loss, check_store, crash_state
from trio_eventlog.testing._power._journal import (
    Acknowledged,
    DirectorySynced,
    Named,
    Removed,
    Synced,
    SyncFailed,
    Written,
)
from trio_eventlog.testing._power._states import KEPT
from trio_eventlog.testing._power._vfs import record_files

open_disk = partial(opened_file, CorrectDiskStore)

HARD = [
    Crash(count, back, kept, seed)
    for count in range(3)
    for back, seed in [(0, 0), (-1, 1), (-2, 2), (-9, 3)]
    for kept in KEPT
]


def open_sqlite(location, synchronous="full"):
    return SqliteStore.open(location / "log.db", synchronous=synchronous)


@pytest.mark.parametrize("synchronous", ["full", "normal"])
async def test_sqlite_keeps_what_it_promises(tmp_path, synchronous):
    await check_power_loss(partial(open_sqlite, synchronous=synchronous), tmp_path, [2, 60, 1], HARD[::4])


async def test_sqlite_keeps_what_it_promises_when_a_sync_fails(tmp_path):
    for sync in range(1, 12):
        directory = tmp_path / f"{sync}"
        directory.mkdir()
        await check_power_loss(open_sqlite, directory, [2, 5, 1], HARD[:28:7], failing_syncs=[sync])


async def test_a_store_that_writes_its_file_by_itself(tmp_path):
    await check_power_loss(open_disk, tmp_path, [2, 20, 1], HARD[::2])


async def test_a_store_that_does_not_say_how_it_is_watched(tmp_path):
    with pytest.raises(TypeError, match="open_store: expected a FileStore"):
        await check_power_loss(open_file, tmp_path, [1], [Crash(1)])


class NotApsw(CorrectDiskStore):
    """It says that it writes by way of SQLite, and does not."""

    def _open_file(self, path):
        return OsFile(path)


async def test_a_store_of_which_nothing_is_seen(tmp_path):
    with pytest.raises(AssertionError, match="how its files are watched, but no write to one was seen"):
        await check_power_loss(partial(opened_file, NotApsw), tmp_path, [1], [Crash(1)])


class RaisesWhatTheSystemRaises(CorrectDiskStore):
    async def append_batch(self, events):
        try:
            return await super().append_batch(events)
        except StoreError as exc:
            raise OSError(5, "Input/output error") from exc


def test_a_store_that_raises_the_error_of_its_driver_when_a_sync_fails():
    """That is a finding, and does not end the harness."""
    opener = partial(opened_file, RaisesWhatTheSystemRaises)
    (failure,) = check_store(opener, clauses=["S10"], seed=1).failures

    assert failure.check == "a loss of power"
    assert re.search(r"under watch, of which sync \d+ failed: the store raised OSError", failure.message)
    assert re.search(r"check_power_loss\(.*, \[\], failing_syncs=\[\d+\]", failure.example)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clauses": ["s4"]}, ValueError, "clauses: expected some of S4, S9, S10, got s4"),
        ({"clauses": "S4"}, TypeError, "clauses: expected a collection such as"),
        ({"sizes": []}, ValueError, "sizes: expected at least one batch, got none"),
        ({"sizes": [0]}, ValueError, "sizes: expected 1 or more, got 0"),
        ({"sizes": "12"}, TypeError, "sizes: expected a collection of integers, got str"),
        ({"crashes": [5]}, TypeError, r"crashes\[0\]: expected a Crash, got int"),
        ({"failing_syncs": [0]}, ValueError, "failing_syncs: expected 1 or more, got 0"),
        ({"failing_syncs": ["2"]}, TypeError, "failing_syncs: expected an int, got str"),
        ({"directory": 5}, TypeError, "directory: expected a path, got int"),
        ({"open_store": 5}, TypeError, "open_store: expected a function of a location, got int"),
    ],
)
async def test_arguments(tmp_path, options, error, message):
    """What is not judged because of a slip would pass."""
    good = {"open_store": open_disk, "directory": tmp_path, "sizes": [1], "crashes": [Crash(1)]}
    with pytest.raises(error, match=message):
        await check_power_loss(**{**good, **options})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1,), ValueError, "acknowledged: expected 0 or more, got -1"),
        (("1",), TypeError, "acknowledged: expected an int, got str"),
        ((1, 0.5), TypeError, "operations: expected an int, got float"),
        ((1, 0, "some", "x"), TypeError, "seed: expected an int, got str"),
    ],
)
def test_a_crash_out_of_range(arguments, error, message):
    with pytest.raises(error, match=message):
        Crash(*arguments)


def test_the_harness_says_why_it_leaves_power_out():
    report = check_store(open_file, clauses=["S9"], max_examples=1)

    assert report.passed[0].left_out == (
        "a loss of power: the store does not say how its files can be watched (FileStore)",
    )


class SaysNonsense(CorrectDiskStore):
    file_access = "telepathy"


def test_a_way_of_watching_that_there_is_not():
    with pytest.raises(TypeError, match="file_access: expected 'apsw', 'os' or None, got 'telepathy'"):
        check_store(partial(opened_file, SaysNonsense), clauses=["S9"])


# --- the recorder ---------------------------------------------------------------------------------


def test_sqlite_is_watched(tmp_path):
    """A commit with a rollback journal: first the journal, then its directory, then the database."""
    with record_files(tmp_path) as journal:
        db = apsw.Connection(str(tmp_path / "x.db"))
        db.execute("CREATE TABLE t (n)")
        journal.acknowledge(1)
        db.close()

    names = {
        operation.file: operation.path for operation in journal.operations if isinstance(operation, Named)
    }
    seen = []
    for operation in journal.operations:
        match operation:
            case Written(file=file):
                seen.append(f"write {names[file]}")
            case Synced(file=file):
                seen.append(f"sync {names[file]}")
            case Removed(path=path):
                seen.append(f"remove {path}")
            case DirectorySynced():
                seen.append("sync directory")
            case Acknowledged():
                seen.append("acknowledged")
            case _:
                pass
    shortened = [what for index, what in enumerate(seen) if index == 0 or seen[index - 1] != what]
    assert shortened == [
        *("sync directory", "write x.db-journal", "sync x.db-journal", "sync directory"),
        *("write x.db-journal", "sync x.db-journal", "write x.db", "sync x.db", "remove x.db-journal"),
        "acknowledged",
    ]


def test_what_was_there_counts_as_synced(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(b"abc")

    with record_files(tmp_path) as journal:
        pass

    assert crash_state(journal, Crash(0)).files == {"d/x": b"abc"}
    assert Written(1, 0, b"abc") in journal.operations
    assert Synced(1) in journal.operations
    assert DirectorySynced("d") in journal.operations


def test_other_files_are_left_alone(tmp_path):
    watched, other = tmp_path / "watched", tmp_path / "other"
    watched.mkdir()
    other.mkdir()
    with record_files(watched) as journal:
        before = len(journal.operations)
        db = apsw.Connection(str(other / "x.db"))
        db.execute("PRAGMA journal_mode = wal")
        db.execute("CREATE TABLE t (n)")
        db.close()
        fd = os.open(other, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    assert len(journal.operations) == before


def test_the_process_is_left_as_it_was(tmp_path):
    before = apsw.vfs_names(), os.fsync, os.fdatasync
    with pytest.raises(KeyError), record_files(tmp_path):
        raise KeyError

    assert (apsw.vfs_names(), os.fsync, os.fdatasync) == before


def test_a_sync_fails(tmp_path):
    with record_files(tmp_path, failing_syncs=frozenset({1})) as journal:
        db = apsw.Connection(str(tmp_path / "x.db"))
        with pytest.raises(apsw.IOError):
            db.execute("CREATE TABLE t (n)")
        db.execute("CREATE TABLE t (n)")
        db.close()

    assert sum(isinstance(operation, SyncFailed) for operation in journal.operations) == 1


def test_a_sync_of_a_directory_is_seen_and_can_fail(tmp_path):
    (tmp_path / "d").mkdir()
    with record_files(tmp_path, failing_syncs=frozenset({2})) as journal:
        fd = os.open(tmp_path / "d", os.O_RDONLY)
        os.fsync(fd)
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(fd)
        os.close(fd)

    assert journal.operations[-1] == DirectorySynced("d")
