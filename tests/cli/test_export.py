"""`export`, also interrupted and continued."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import json

import pytest
import trio

from tests._helpers.cli import (
    interrupt_at,
    many,
    raw,
    stored,
)
from tests._helpers.sqlite import write_log
from trio_eventlog import (
    PersistedEvent,
    StoreError,
    from_json,
)
from trio_eventlog.cli import (
    _export,
)
from trio_eventlog.stores import MemoryStore


def test_export_to_a_file_and_to_standard_output(cli, db, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    done = cli("export", "--store", filled, "--output", out)

    assert (done.status, done.out) == (0, f"2,500 events written to {out}\n")
    assert [from_json(line, PersistedEvent) for line in out.read_bytes().splitlines()] == stored(db)
    assert out.stat().st_mode & 0o777 == 0o600
    assert cli("export", "--store", filled).out.encode() == out.read_bytes()
    some = cli("export", "--store", filled, "--run-id", "run-3", "--after-seq", 100, "--limit", 7).out
    assert [json.loads(line)["event"]["payload"]["run_id"] for line in some.splitlines()] == ["run-3"] * 7
    assert json.loads(some.splitlines()[0])["seq"] == 103


def test_export_does_not_overwrite(cli, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("mine\n")

    done = cli("export", "--store", filled, "--output", out)
    assert done.status == 1
    assert "already exists; --resume continues it" in done.err
    done = cli("export", "--store", filled, "--output", out, "--resume")
    assert done.status == 1
    assert "does not end in an event" in done.err
    assert out.read_text() == "mine\n"
    for foreign in ('{"a":1}', "secret", '{"idea": 1}', "\0" * 100):
        out.write_text(foreign)
        done = cli("export", "--store", filled, "--output", out, "--resume")
        assert done.status == 1
        assert "nor in the beginning of one" in done.err
        assert out.read_text() == foreign
    done = cli("export", "--store", filled, "--output", "/dev/null", "--resume")
    assert done.status == 1
    assert done.err.startswith("trio-eventlog: --output: /dev/null: ")
    assert cli("export", "--store", filled, "--resume").status == 2
    assert "No such file" in cli("export", "--store", filled, "--output", tmp_path / "no" / "x").err


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, 10**6])
def test_export_goes_on_where_it_was_cut_off(cli, filled, tmp_path, cut):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    cli("export", "--store", filled, "--output", whole)
    content = whole.read_bytes()
    out.write_bytes(content[: max(len(content) - cut, 0)])

    assert cli("export", "--store", filled, "--output", out, "--resume").status == 0
    assert out.read_bytes() == content


@pytest.mark.parametrize("cut", [0, 5])
def test_export_goes_on_only_with_the_same_log(cli, filled, tmp_path, cut):
    other, out = tmp_path / "other.db", tmp_path / "out.jsonl"
    (tmp_path / "other.jsonl").write_bytes(many(3_000, start=9_000))
    cli("ingest", tmp_path / "other.jsonl", "--store", f"sqlite:{other}")
    cli("export", "--store", f"sqlite:{other}", "--output", out, "--limit", 100)
    content = out.read_bytes()[: -cut or None]
    out.write_bytes(content)
    last = 100 if not cut else 99

    done = cli("export", "--store", filled, "--output", out, "--resume")
    assert (done.status, done.out) == (1, "")
    assert (
        f"ends with event 'event-{8_999 + last}', seq {last}, but the log has event 'event-{last}'"
        in done.err
    )
    # Nothing at all, what was cut off included.
    assert out.read_bytes() == content
    assert cli("export", "--store", f"sqlite:{other}", "--output", out, "--resume").status == 0
    assert len(out.read_bytes().splitlines()) == 3_000


def test_export_goes_on_only_with_a_log_that_has_not_gone_back(cli, db, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    cli("export", "--store", filled, "--output", out)
    content = out.read_bytes()
    older = tmp_path / "older.db"
    cli("copy", "--from", filled, "--to", f"sqlite:{older}")
    raw(older, "DELETE FROM events_1 WHERE seq > 2000")
    write_log(older, last_seq=2000)

    done = cli("export", "--store", f"sqlite:{older}", "--output", out, "--resume")
    assert done.status == 1
    assert "but the log ends with seq 2000: it is another log, or went back to an older state" in done.err
    assert out.read_bytes() == content


def test_export_does_not_go_on_behind_what_was_pruned(cli, filled, tmp_path):
    out = tmp_path / "out.jsonl"
    cli("export", "--store", filled, "--output", out, "--limit", 100)
    content = out.read_bytes()
    cli("prune", "--store", filled, "--keep", 100)

    done = cli("export", "--store", filled, "--output", out, "--resume")
    assert done.status == 1
    assert "ends with event 'event-100', seq 100, but " in done.err
    assert "pruned" in done.err
    assert out.read_bytes() == content


def test_no_file_is_made_if_the_store_cannot_be_read(cli, tmp_path, use_store):
    class Unreadable(MemoryStore):
        async def last_seq(self):
            await trio.lowlevel.checkpoint()
            raise StoreError("busy")

    use_store(Unreadable())
    for options in ((), ("--resume",)):
        done = cli("export", "--store", "memory:", "--output", tmp_path / "out.jsonl", *options)
        assert (done.status, done.err) == (1, "trio-eventlog: busy\n")
    assert not list(tmp_path.iterdir())


def test_export_is_interrupted_and_goes_on(cli, db, filled, tmp_path, monkeypatch, small_pages):
    out = tmp_path / "out.jsonl"
    arguments = ("export", "--store", filled, "--output", out)
    interrupt_at(monkeypatch, _export._OutputFile, "write", 3)

    done = cli(*arguments)
    seq = len(out.read_bytes().splitlines())
    assert done.status == 130
    assert f"stopped after seq {seq}; continue with --resume" in done.err
    assert 0 < seq < 2500
    assert cli(*arguments, "--resume").out == f"{2500 - seq:,} events written to {out}\n"
    assert [json.loads(line)["seq"] for line in out.read_bytes().splitlines()] == list(range(1, 2501))


def test_export_to_standard_output_is_interrupted(cli, filled, monkeypatch, small_pages):
    """What a pipe has taken, nobody knows; its last whole line says where to go on."""
    interrupt_at(monkeypatch, _export, "event_lines", 3)

    done = cli("export", "--store", filled)
    assert done.status == 130
    assert "to continue, pass the seq of the last complete line as --after-seq" in done.err
    last = json.loads(done.out.splitlines()[-1])["seq"]
    rest = cli("export", "--store", filled, "--after-seq", last).out
    assert json.loads(rest.splitlines()[0])["seq"] == last + 1
