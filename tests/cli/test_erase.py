"""`erase`."""

from __future__ import annotations

import json

import pytest

from tests._helpers.cli import stored
from trio_eventlog.stores import MemoryStore, NullStore


def test_erase(cli, db, filled):
    where = ("--store", filled, "--run-id", "run-3", "--reason", "request 17")
    before = stored(db)

    assert cli("erase", *where, "--dry-run").out == "250 events would be erased\n"
    assert stored(db) == before
    assert cli("erase", *where).out == "250 events erased\n"

    after = stored(db)
    assert [event.id for event in after] == [event.id for event in before]
    changed = [event.event.payload for event, old in zip(after, before, strict=True) if event != old]
    assert [payload["@erased"]["reason"] for payload in changed] == ["request 17"] * 250
    assert cli("erase", *where).out == "0 events erased\n"
    assert cli("verify", "--store", filled).status == 0


def test_what_was_erased_before_is_not_counted(cli, filled):
    """By what an erased event still has."""
    where = ("--store", filled, "--reason", "request 17")
    erased = int(cli("erase", *where, "--run-id", "run-3").out.split()[0])
    left = cli("erase", *where, "--after-seq", "0", "--dry-run").out
    assert left == cli("erase", *where, "--after-seq", "0").out.replace("erased", "would be erased")
    assert int(left.split()[0].replace(",", "")) > erased
    assert cli("erase", *where, "--after-seq", "0", "--dry-run").out == "0 events would be erased\n"


def test_checkpoints_hold_for_what_is_left(cli, filled, tmp_path):
    key, checkpoints = tmp_path / "key", tmp_path / "checkpoints"
    seal = ("seal", "--store", filled, "--key", key, "--checkpoints", checkpoints)
    with_keys = ("--store", filled, "--checkpoints", checkpoints, "--public-key", f"{key}.pub")
    erase = ("erase", "--store", filled, "--reason", "request 17")
    cli("keygen", key)
    assert cli(*seal, "--every", 1000).status == 0

    assert cli(*erase, "--run-id", "run-3", "--commitment-key", f"{key}.commitment").status == 0

    done = cli("verify", *with_keys)
    assert done.status == 0
    assert "250 events erased, with commitments in place of payloads" in done.out
    assert cli(*seal).out == "2,500 events sealed; up to seq 2500\n"
    erased = json.loads(cli("query", "--store", filled, "--json", "--limit", 10).out.splitlines()[2])
    proof = cli("prove", *with_keys, "--id", erased["id"])
    assert json.loads(proof.out)["payload_key"] is None
    (tmp_path / "proof").write_text(proof.out)
    assert cli("check-proof", tmp_path / "proof", "--public-key", f"{key}.pub").status == 0
    # Without the key, or for another log, they do not.
    other = ("--commitment-key", f"{key}.commitment", "--origin", "another")
    for run, more in (("run-5", ()), ("run-7", other)):
        assert cli(*erase, "--run-id", run, *more).status == 0
    assert json.loads(cli("verify", *with_keys, "--json").out)["checkpoints"]["problems"] == 500


def test_the_commitment_key_is_checked_first(cli, db, filled, tmp_path, use_store):
    before = stored(db)
    erase = ("erase", "--store", filled, "--run-id", "run-3", "--reason", "why")
    cli("keygen", tmp_path / "key")
    key = ("--commitment-key", tmp_path / "key.commitment")

    assert "key.pub: not a commitment key" in cli(*erase, "--commitment-key", tmp_path / "key.pub").err
    assert cli(*erase, "--origin", "x").status == 2
    assert "--origin: 'a b' cannot name a log" in cli(*erase, *key, "--origin", "a b").err
    assert "--origin: '' cannot name a log" in cli(*erase, *key, "--origin", "").err
    assert stored(db) == before
    use_store(MemoryStore())
    assert "name it with --origin" in cli(*erase, *key).err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--reason", "x"], "specify which events"),
        (["--run-id", "r", "--reason", ""], "--reason: expected a few words"),
        (["--run-id", "r", "--reason", "", "--dry-run"], "--reason: expected a few words"),
        (["--run-id", "r"], "--reason"),
    ],
)
def test_what_is_missing_is_said(cli, db, filled, arguments, complaint):
    before = stored(db)

    done = cli("erase", "--store", filled, *arguments)

    assert done.status == 2
    assert complaint in " ".join(done.err.split())
    assert stored(db) == before


@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_store_that_cannot_erase_says_so(cli, use_store, tmp_path, is_sealed):
    use_store(NullStore())
    key = tmp_path / "key"
    cli("keygen", key)
    more = ["--commitment-key", f"{key}.commitment"] if is_sealed else []

    done = cli("erase", "--store", "x:y", "--run-id", "r", "--reason", "why", *more)

    assert done.status == 1
    assert "stores of this kind cannot erase" in done.err


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_cursor_of_a_state_that_is_gone_erases_nothing(cli, db, filled, more):
    """What follows it are other events than those that were meant."""
    beyond = stored(db)[-1].seq + 7
    assert cli("adopt", "--store", filled).status == 0
    before = stored(db)

    done = cli("erase", "--store", filled, "--after-seq", beyond, "--reason", "why", *more)

    assert done.status == 1
    assert f"cursor {beyond} is of a state that is gone" in " ".join(done.err.split())
    assert stored(db) == before


def test_events_that_were_pruned_need_not_be_erased(cli, filled):
    assert cli("prune", "--store", filled, "--keep", 20).status == 0
    where = ("--store", filled, "--after-seq", 3, "--reason", "why")

    assert cli("erase", *where, "--dry-run").out == "20 events would be erased\n"
    assert cli("erase", *where).out == "20 events erased\n"
