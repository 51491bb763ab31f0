"""`keygen`, `seal`, `prove`, `check-proof`, and `verify` with checkpoints."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import json
import re
import shutil
import stat

import pytest

from tests._helpers.cli import add, held_open, process, raw


@pytest.fixture(scope="module")
def made_keys(tmp_path_factory):
    directory = tmp_path_factory.mktemp("keys")
    done = process("keygen", directory / "key")
    assert (done.status, done.err) == (0, "")
    return directory


@pytest.fixture
def keys(made_keys, tmp_path):
    for path in made_keys.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / "key"


@pytest.fixture
def checkpoints(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def seal(cli, filled, keys, checkpoints):
    return lambda *more: cli("seal", "--store", filled, "--key", keys, "--checkpoints", checkpoints, *more)


@pytest.fixture
def with_keys(filled, keys, checkpoints):
    return ("--store", filled, "--checkpoints", checkpoints, "--public-key", f"{keys}.pub")


def test_keygen(cli, tmp_path):
    done = cli("keygen", tmp_path / "new")

    assert (done.status, done.err) == (0, "")
    assert done.out == "{0}, {0}.pub and {0}.commitment written\n".format(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new.commitment").stat().st_mode) == 0o600
    again = cli("keygen", tmp_path / "new")
    assert (again.status, again.out) == (1, "")
    assert "new: File exists" in again.err


def test_seal_goes_on_where_the_file_ends(cli, db, seal, checkpoints, with_keys):
    assert seal("--every", 1000).out == "2,500 events sealed; up to seq 2500\n"
    assert len(checkpoints.read_bytes().splitlines()) == 3
    assert seal().out == "2,500 events sealed; up to seq 2500\n"
    assert len(checkpoints.read_bytes().splitlines()) == 3
    add(db, 2501, 2510)
    assert seal().out == "2,510 events sealed; up to seq 2510\n"
    done = cli("verify", *with_keys)
    assert (done.status, done.err) == (0, "")
    assert "the last one covers 2,510 events, up to seq 2510" in done.out
    assert re.search(r"not as sealed +none", done.out)


def test_seal_needs_a_log_at_rest(cli, db, seal, keys, checkpoints, tmp_path):
    with held_open(db):
        done = seal()
    assert done.status == 1
    assert not checkpoints.exists()
    done = cli(
        "seal", "--store", f"sqlite:{tmp_path / 'none.db'}", "--key", keys, "--checkpoints", checkpoints
    )
    assert (done.status, done.out) == (1, "")
    assert not (tmp_path / "none.db").exists()


def test_verify_finds_what_was_done(cli, db, seal, with_keys):
    seal("--every", 1000)
    add(db, 2501, 2503)
    assert "3 events after the last one, which none vouches for yet" in cli("verify", *with_keys).out
    raw(db, "DELETE FROM events_1 WHERE seq = 1500")
    done = cli("verify", *with_keys)
    assert done.status == 1
    assert "the counts of seqs 1281 to 1536 are not those of the events" in done.out
    assert "seq 1500: was removed, or given another seq; sealed in the checkpoint of 2,000 events" in done.out
    found = json.loads(cli("verify", *with_keys, "--json").out)
    assert (found["sound"], found["problems"], found["checkpoints"]["problems"]) == (False, 1, 1)
    assert found["checkpoints"]["findings"][0]["seq"] == 1500


def test_verify_with_a_note_and_a_pruned_log(cli, filled, seal, with_keys, checkpoints, tmp_path):
    seal("--every", 1000)
    note = json.loads(checkpoints.read_bytes().splitlines()[-1])["note"]
    (tmp_path / "note").write_text(note)
    assert cli("verify", *with_keys, "--note", tmp_path / "note").status == 0
    checkpoints.write_bytes(checkpoints.read_bytes().splitlines(keepends=True)[0])
    assert cli("prune", "--store", filled, "--keep", 1600).status == 0
    assert cli("verify", *with_keys).status == 1
    done = cli("verify", *with_keys, "--pruned-through", 900)
    assert done.status == 0
    assert "events up to seq 1000 were not compared: some of them are pruned" in done.out
    assert cli("verify", *with_keys, "--pruned-through", 900, "--note", tmp_path / "note").status == 0


def test_proofs(cli, seal, with_keys, keys, checkpoints, tmp_path):
    seal("--every", 1000)
    public = f"{keys}.pub"
    first, *_, last = (json.loads(line)["note"] for line in checkpoints.read_bytes().splitlines())
    (tmp_path / "first").write_text(first)
    (tmp_path / "last").write_text(last)
    proof = tmp_path / "proof"
    done = cli("prove", *with_keys, "--id", "event-1234")
    assert (done.status, done.err) == (0, "")
    proof.write_text(done.out)
    done = cli("check-proof", proof, "--public-key", public, "--note", tmp_path / "last")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(
        "event event-1234, seq 1234, 2023-11-14T22:13:21.234Z, is among the first 2,500 events of log "
    )
    done = cli("check-proof", proof, "--public-key", public, "--note", tmp_path / "first")
    assert (done.status, done.out) == (1, "")
    assert "the proof is not about this note of 1,000 events" in done.err
    proof.write_text(proof.read_text().replace("agent-2", "agent-3"))
    done = cli("check-proof", proof, "--public-key", public)
    assert (done.status, done.out) == (1, "")
    assert "the proof is wrong" in done.err
    proof.write_text(cli("prove", *with_keys, "--old-note", tmp_path / "first").out)
    done = cli("check-proof", proof, "--public-key", public, "--note", tmp_path / "first")
    assert (done.status, done.err) == (0, "")
    assert "the note of 2,500 events" in done.out
    assert "continues that of 1,000 events" in done.out


def test_the_commitment_key_can_be_elsewhere(cli, seal, with_keys, keys, tmp_path):
    seal()
    (tmp_path / "key.commitment").rename(tmp_path / "elsewhere")
    done = cli("verify", *with_keys)
    assert (done.status, done.out) == (1, "")
    assert "key.commitment: No such file" in done.err
    assert cli("verify", *with_keys, "--commitment-key", tmp_path / "elsewhere").status == 0
    assert cli("prove", *with_keys, "--id", "event-1", "--commitment-key", tmp_path / "elsewhere").status == 0


def test_invalid_command_lines(cli, filled, with_keys):
    for arguments, why in (
        (("verify", "--store", filled, "--checkpoints", "x"), "--checkpoints: --public-key is missing"),
        (("verify", "--store", filled, "--public-key", "x"), "--checkpoints: name the file"),
        (("verify", "--store", filled, "--pruned-through", "5"), "--checkpoints: name the file"),
        (("prove", *with_keys), "give either --id or --old-note"),
        (("prove", *with_keys, "--id", "x", "--old-note", "y"), "give either --id or --old-note"),
    ):
        done = cli(*arguments)
        assert (done.status, done.out) == (2, "")
        assert why in done.err


def test_files_that_are_not_there(cli, filled, keys, with_keys):
    for arguments, why in (
        (("seal", "--store", filled, "--key", "none", "--checkpoints", "x"), "none: No such file"),
        (("verify", *with_keys), "checkpoints: No such file"),
        (("verify", *with_keys, "--note", "none"), "--note: none: No such file"),
        (("check-proof", "none", "--public-key", f"{keys}.pub"), "check-proof: none: No such file"),
        (("check-proof", f"{keys}.pub", "--public-key", f"{keys}.pub"), f"{keys}.pub: not a proof"),
    ):
        done = cli(*arguments)
        assert (done.status, done.out) == (1, ""), arguments
        assert why in done.err


def test_what_is_no_note_is_named(cli, seal, keys, with_keys, tmp_path):
    seal()
    proof = tmp_path / "proof"
    proof.write_text(cli("prove", *with_keys, "--id", "event-1").out)
    for option, arguments in (
        ("--note", ("verify", *with_keys)),
        ("--old-note", ("prove", *with_keys)),
        ("--note", ("check-proof", proof, "--public-key", f"{keys}.pub")),
    ):
        done = cli(*arguments, option, proof)
        assert (done.status, done.out) == (1, "")
        assert f"{option}: {proof}: not a signed note" in done.err


def test_no_secret_is_printed(cli, seal, keys, with_keys, checkpoints):
    secrets = [
        line
        for line in (keys.read_text() + (keys.with_suffix(".commitment")).read_text()).split()
        if len(line) > 30
    ]
    printed = [seal(), cli("verify", *with_keys), cli("prove", *with_keys, "--id", "event-1")]
    assert len(secrets) == 2
    for secret in secrets:
        assert not any(secret in done.out + done.err for done in printed)
        assert secret not in checkpoints.read_text()
