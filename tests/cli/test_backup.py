"""`backup`, `restore` and `adopt`."""

from __future__ import annotations

import json

import apsw
import pytest
import trio

from tests._helpers.cli import interrupt_at, stored
from tests._helpers.events import agent
from trio_eventlog.stores import MemoryStore, SqliteStore
from trio_eventlog.stores.sqlite import _backup


def test_backup(cli, db, filled, tmp_path):
    copy = tmp_path / "copy.db"

    assert cli("backup", "--store", filled, "--to", copy).out == f"2,500 events backed up to {copy}\n"

    assert stored(copy) == stored(db)
    done = cli("backup", "--store", filled, "--to", copy)
    assert done.status == 1
    assert "already exists" in done.err


def test_a_backup_is_interrupted(cli, filled, tmp_path, monkeypatch):
    monkeypatch.setattr(_backup, "_PAGES", 1)
    interrupt_at(monkeypatch, _backup.Backup, "copy_some", 1)

    done = cli("backup", "--store", filled, "--to", tmp_path / "copy.db")

    assert done.status == 130
    assert "stopping; there is no copy" in done.err
    assert not list(tmp_path.glob("copy*"))


def test_what_cannot_be_backed_up_says_so(cli, filled, use_store):
    done = cli("backup", "--store", filled, "--to", ":memory:")
    assert done.status == 2
    assert "--to: ':memory:' names no file" in done.err
    use_store(MemoryStore())
    done = cli("backup", "--store", "x:y", "--to", "z")
    assert done.status == 1
    assert "only SQLite files are backed up like this" in done.err


async def append(db, first, last):
    async with SqliteStore.open(db) as store:
        await store.append_batch([agent(seq) for seq in range(first, last + 1)])


def test_restore(cli, db, filled, tmp_path):
    copy, new = tmp_path / "copy.db", f"sqlite:{tmp_path / 'new.db'}"
    cli("backup", "--store", filled, "--to", copy)

    assert cli("restore", "--from", copy, "--store", new).out == f"2,500 events restored to {new}\n"
    done = cli("restore", "--from", copy, "--store", filled)
    assert (done.status, "already exists" in done.err) == (1, True)
    done = cli("restore", "--from", copy, "--store", filled, "--replace")
    assert (done.status, done.out) == (0, f"2,500 events restored to {filled}\n")

    for path in (db, tmp_path / "new.db"):
        *rest, epoch = stored(path)
        assert rest == stored(copy)
        assert epoch.event.payload == {"after_seq": 2500, "reason": "restored from copy.db"}


def test_restoring_is_interrupted(cli, filled, tmp_path, monkeypatch):
    copy, new = tmp_path / "copy.db", tmp_path / "new.db"
    cli("backup", "--store", filled, "--to", copy)
    monkeypatch.setattr(_backup, "_PAGES", 1)
    interrupt_at(monkeypatch, _backup.Backup, "copy_some", 1)

    done = cli("restore", "--from", copy, "--store", f"sqlite:{new}")

    assert done.status == 130
    assert not list(tmp_path.glob("new*"))


def test_what_cannot_be_restored_says_so(cli, filled, db):
    for url, message in (
        ("sqlite:x?log=y", "leave out log="),
        ("postgresql://h/d", "only SQLite files are restored like this"),
        ("pony:y", "unknown scheme"),
    ):
        done = cli("restore", "--from", db, "--store", url)
        assert (done.status, message in " ".join(done.err.split())) == (2, True), done.err
    done = cli("restore", "--from", "nowhere.db", "--store", "sqlite:x")
    assert (done.status, "nowhere.db: no such file" in done.err) == (1, True)


def test_adopt(cli, filled, db):
    done = cli("adopt", "--store", filled, "--reason", "copied by hand")

    assert done.status == 0
    *_, epoch = stored(db)
    assert done.out == f"the log had seqs up to 2500, and goes on from seq {epoch.seq}\n"
    assert epoch.event.payload == {"after_seq": 2500, "reason": "copied by hand"}


def test_a_log_that_is_not_there_is_not_adopted(cli, filled, tmp_path):
    assert "there is no log 'x'" in cli("adopt", "--store", f"{filled}?log=x").err
    assert cli("adopt", "--store", f"sqlite:{tmp_path / 'new.db'}").status == 1
    assert not (tmp_path / "new.db").exists()


def test_what_is_skipped_where_an_epoch_begins_is_no_gap(cli, filled, db):
    """Events that are missing next to it are."""
    for command in ("stats", "verify"):
        assert json.loads(cli(command, "--store", filled, "--json").out)["epochs"] == []
    cli("adopt", "--store", filled)
    (epoch,) = stored(db)[2500:]
    cli("adopt", "--store", filled, "--reason", "again")
    done = cli("verify", "--store", filled, "--no-gaps")
    assert done.status == 0
    assert f"seq {epoch.seq}, after 2500: " in done.out
    assert "gaps in seq  none" in done.out
    found = json.loads(cli("stats", "--store", filled, "--json").out)
    assert [one["reason"] for one in found["epochs"]] == ["adopted", "again"]
    assert found["epochs"][0]["id"] == epoch.id
    assert (found["gaps"], found["missing"], found["first_gaps"]) == (0, 0, [])


def test_gaps_beside_an_epoch_are_told(cli, db, tmp_path):
    url = f"sqlite:{tmp_path / 'gaps.db'}"

    async def make():
        async with SqliteStore.open(tmp_path / "gaps.db") as store:
            await store.append_batch([agent(seq) for seq in (1, 2, 5)])

    trio.run(make)
    cli("adopt", "--store", url)
    # The last event before it is gone; the one after it was never stored.
    remove(tmp_path / "gaps.db", 5)
    epoch = stored(tmp_path / "gaps.db")[-1].seq
    trio.run(append, tmp_path / "gaps.db", epoch + 3, epoch + 3)

    done = cli("verify", "--store", url, "--no-gaps")

    assert done.status == 1
    assert "2 gaps, 5 seqs" in done.out
    assert " 3 to 5 " in done.out
    assert f" {epoch + 1} to {epoch + 2} " in done.out


def remove(path, seq):
    db = apsw.Connection(str(path))
    db.execute("DELETE FROM events_1 WHERE seq = ?", (seq,))
    db.close()


def test_a_pruned_epoch_is_no_concern(cli, filled):
    cli("adopt", "--store", filled)
    cli("prune", "--store", filled, "--keep", "1")
    assert json.loads(cli("stats", "--store", filled, "--json").out)["missing"] == 0


def test_a_copy_of_what_is_gone_is_not_brought_up_to_date(cli, filled, db, tmp_path):
    """Its source was restored to a state before the last event of the copy."""
    backup, copy = tmp_path / "backup.db", f"sqlite:{tmp_path / 'copy.db'}"
    cli("backup", "--store", filled, "--to", backup)
    trio.run(append, db, 2501, 2510)
    assert cli("copy", "--from", filled, "--to", copy).status == 0
    cli("restore", "--from", backup, "--store", filled, "--replace")

    done = cli("copy", "--from", filled, "--to", copy)

    assert done.status == 1
    assert "goes up to seq 2510, of a state of --from that is gone" in done.err
    assert "restored to its state at seq 2500" in done.err
    other = f"sqlite:{tmp_path / 'other.db'}"
    assert cli("copy", "--from", filled, "--to", other).status == 0
    assert stored(tmp_path / "other.db") == stored(db)


def test_tail_refuses_a_cursor_from_before(cli, filled):
    cli("adopt", "--store", filled)
    done = cli("tail", "--store", filled, "--after-seq", "2600")
    assert (done.status, "is of a state that is gone" in done.err) == (1, True)


def test_checkpoints_hold_up_to_where_the_log_was_restored(cli, filled, db, tmp_path):
    """What was sealed and is gone is named; what was sealed before is gone on with."""
    key, backup = tmp_path / "key", tmp_path / "backup.db"
    before, after = tmp_path / "before", tmp_path / "after"
    cli("keygen", key)
    for file in (before, after):
        cli("seal", "--store", filled, "--key", key, "--checkpoints", file)
    cli("backup", "--store", filled, "--to", backup)
    trio.run(append, db, 2501, 2510)
    cli("seal", "--store", filled, "--key", key, "--checkpoints", after)
    cli("restore", "--from", backup, "--store", filled, "--replace")

    refused = cli("seal", "--store", filled, "--key", key, "--checkpoints", after)
    assert (refused.status, "the log has no event 2510" in refused.err) == (1, True)
    done = cli("verify", "--store", filled, "--checkpoints", after, "--public-key", f"{key}.pub")
    assert done.status == 1
    assert "seq 2501: this and all up to seq 2510 were removed" in " ".join(done.out.split())

    assert cli("seal", "--store", filled, "--key", key, "--checkpoints", before).status == 0
    done = cli("verify", "--store", filled, "--checkpoints", before, "--public-key", f"{key}.pub")
    assert done.status == 0
    assert "covers 2,501 events" in " ".join(done.out.split())


@pytest.mark.parametrize("command", ["stats", "verify"])
def test_an_epoch_is_shown_that_has_nothing_before_it(cli, filled, command):
    assert cli("prune", "--store", filled, "--keep", 0).status == 0
    assert cli("adopt", "--store", filled, "--reason", "a test").status == 0

    assert "a test" in cli(command, "--store", filled).out
