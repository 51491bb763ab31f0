"""`prune --archive`, and what reads archives: `verify --archive` and `ingest`."""

from __future__ import annotations

import contextlib
import json

import pytest
import trio

from tests._helpers.cli import add, interrupt_at, many, stored
from trio_eventlog.cli import _envelopes
from trio_eventlog.retention import _archive as archives
from trio_eventlog.stores import SqliteStore


def log_id(path):
    async def main():
        async with SqliteStore.open(path) as store:
            return store.log_id

    return trio.run(main)


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(archives, "_MAX_EVENTS", 1_000)


def test_events_are_moved_verified_and_ingested_again(cli, db, filled, tmp_path, small_segments):
    before, archive = stored(db), tmp_path / "archive"

    assert cli("prune", "--store", filled, "--keep", 300, "--archive", archive).out == (
        f"2,200 events moved to {archive}\n"
    )

    assert stored(db) == before[-300:]
    assert len(list(archive.iterdir())) == 6
    done = cli("verify", "--archive", archive)
    assert done.status == 0
    assert done.out.split()[2:] == ["segments", "3", "events", "2,200", "problems", "none"]
    again = tmp_path / "again.db"
    assert cli("ingest", archive, "--store", f"sqlite:{again}").summary == (
        "2,200 read, 2,200 stored, 0 already there, 0 rejected"
    )
    assert [event.event for event in stored(again)] == [event.event for event in before[:2_200]]
    assert cli("ingest", archive / "events-000001.jsonl.zst", "--store", filled).summary == (
        "1,000 read, 1,000 stored, 0 already there, 0 rejected"
    )


@pytest.mark.usefixtures("small_segments")
def test_an_archive_and_its_log_are_compared_with_checkpoints(cli, db, filled, tmp_path):
    key, checkpoints, archive = tmp_path / "key", tmp_path / "checkpoints", tmp_path / "archive"
    seal = ("seal", "--store", filled, "--key", key, "--checkpoints", checkpoints)
    sealed = ("--checkpoints", checkpoints, "--public-key", f"{key}.pub")
    cli("keygen", key)
    cli(*seal, "--every", 600)
    add(db, 2501, 2510)

    done = cli("prune", "--store", filled, "--keep", 200, "--archive", archive, *sealed)
    assert (done.status, done.out) == (0, f"2,310 events moved to {archive}\n")
    manifests = [json.loads(path.read_text()) for path in sorted(archive.glob("*.json"))]
    assert [manifest["checkpoint"].split("\n")[1] for manifest in manifests] == ["1200", "2400", "2400"]
    assert {manifest["log_id"] for manifest in manifests} == {log_id(db)}

    both = cli("verify", "--store", filled, "--archive", archive, *sealed)
    assert both.status == 0
    assert "the last one covers 2,500 events, up to seq 2500" in both.out
    assert "2,310" in both.out
    alone = cli("verify", "--archive", archive, *sealed)
    assert alone.status == 0
    assert "510 events not compared: their checkpoint covers others, too; add --store" in alone.out
    pruned = cli("verify", "--store", filled, *sealed, "--pruned-through", 2310)
    assert pruned.status == 0
    assert cli("verify", "--store", filled, *sealed).status == 1
    # What no checkpoint covers stays, and goes once one does.
    assert cli("prune", "--store", filled, "--keep", 0, "--archive", archive, *sealed).status == 0
    assert [event.seq for event in stored(db)] == list(range(2501, 2511))
    assert cli(*seal).out == "2,510 events sealed; up to seq 2510\n"
    assert cli("prune", "--store", filled, "--keep", 0, "--archive", archive, *sealed).status == 0
    found = json.loads(cli("verify", "--archive", archive, *sealed, "--json").out)
    assert (found["sound"], found["events"], found["checkpoints"]["unsealed"]) == (True, 2510, 0)
    # What is found in either of them is a problem of both.
    checkpoints.write_bytes(b"".join(checkpoints.read_bytes().splitlines(keepends=True)[:-1]))
    found = json.loads(cli("verify", "--store", filled, "--archive", archive, *sealed, "--json").out)
    assert (found["sound"], found["problems"], found["checkpoints"]["problems"]) == (False, 0, 0)
    assert "the checkpoint that it names is not the one" in found["archive"]["problems"][0]


def test_a_dry_run_makes_no_archive(cli, db, filled, tmp_path):
    done = cli("prune", "--store", filled, "--keep", 0, "--archive", tmp_path / "a", "--dry-run")

    assert done.out == "2,500 events would be pruned\n"
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("small_segments")
def test_it_is_interrupted_and_goes_on(cli, db, filled, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, archives.SegmentWriter, "add", 2)

    done = cli("prune", "--store", filled, "--keep", 0, "--archive", tmp_path / "a")

    assert done.status == 130
    assert "stopping; events already pruned stay pruned" in done.err
    left = len(stored(db))
    assert left > 0
    assert cli("prune", "--store", filled, "--keep", 0, "--archive", tmp_path / "a").status == 0
    assert json.loads(cli("verify", "--archive", tmp_path / "a", "--json").out)["events"] == 2_500


def test_a_segment_that_has_yet_to_get_its_name_is_ingested(cli, filled, tmp_path, small_segments):
    cli("prune", "--store", filled, "--keep", 0, "--archive", tmp_path / "a")
    last = tmp_path / "a" / "events-000003.jsonl.zst"
    last.rename(f"{last}.part")

    done = cli("ingest", tmp_path / "a", "--store", f"sqlite:{tmp_path / 'again.db'}")

    assert (done.status, done.summary) == (0, "2,500 read, 2,500 stored, 0 already there, 0 rejected")


def test_a_damaged_archive_is_a_problem(cli, filled, tmp_path, small_segments):
    cli("prune", "--store", filled, "--keep", 0, "--archive", tmp_path / "a")
    path = tmp_path / "a" / "events-000002.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-20])

    done = cli("verify", "--archive", tmp_path / "a", "--json")
    assert done.status == 1
    found = json.loads(done.out)
    assert (found["sound"], found["segments"], found["events"]) == (False, 3, 1_500)
    assert found["problems"] == [f"{path}: damaged: it is not what its manifest says"]
    done = cli("ingest", path, "--store", filled)
    assert done.status == 1
    assert "the zstd data ends early: the file is truncated" in done.err
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"x" * 50)
    assert "damaged zstd data" in cli("ingest", path, "--store", filled).err
    path.with_name("events-000001.json").write_text("x")
    assert cli("prune", "--store", filled, "--keep", 0, "--archive", tmp_path / "a").status == 1
    assert "not JSON" in cli("ingest", tmp_path / "a", "--store", filled).err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["verify"], ("specify one of --store and --archive", 2)),
        (
            ["verify", "--store", "sqlite:x", "--archive", "y"],
            ("specify one of --store and --archive, or both of them with --checkpoints", 2),
        ),
        (["prune", "--keep", 0, "--checkpoints", "c"], ("--checkpoints: --archive is missing", 2)),
        (
            ["prune", "--keep", 0, "--archive", "a", "--checkpoints", "c"],
            ("--checkpoints: --public-key is missing", 2),
        ),
        (["prune", "--keep", 0, "--public-key", "k"], ("--public-key: --checkpoints is missing", 2)),
        (["verify", "--archive", "empty", "--no-gaps"], ("--no-gaps: --store is missing", 2)),
        (["verify", "--archive", "missing"], ("--archive: missing: No such file or directory", 1)),
        (["verify", "--archive", "empty"], ("--archive: empty: there are no segments in it", 1)),
        (["prune", "--keep", 0, "--archive", "a-file"], ("--archive: a-file: File exists", 1)),
        (["prune", "--keep", 0, "--archive", ""], ("--archive: expected the path of a directory", 2)),
    ],
)
def test_what_cannot_be_done_is_said(cli, filled, tmp_path, arguments, expected):
    complaint, status = expected
    (tmp_path / "a-file").touch()
    (tmp_path / "empty").mkdir()
    if arguments[0] == "prune":
        arguments = [*arguments, "--store", filled]

    with contextlib.chdir(tmp_path):
        done = cli(*arguments)

    assert done.status == status
    assert complaint in " ".join(done.err.split())


def test_without_zstandard_it_says_what_to_install(cli, filled, tmp_path, monkeypatch):
    (tmp_path / "x.zst").write_bytes(archives.zstd().compress(many(3)))

    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(_envelopes, "import_module", missing)
    done = cli("ingest", tmp_path / "x.zst", "--store", filled)
    assert done.status == 1
    assert "compressed with Zstandard; to read it: pip install" in done.err


def test_an_empty_file_with_the_name_of_a_compressed_one_is_truncated(cli, url, tmp_path):
    (tmp_path / "x.zst").touch()

    assert "zstd data ends early" in cli("ingest", tmp_path / "x.zst", "--store", url).err
