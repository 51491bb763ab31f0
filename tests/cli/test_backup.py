"""`backup`."""

from __future__ import annotations

from tests._helpers.cli import interrupt_at, stored
from trio_eventlog.stores import MemoryStore
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
