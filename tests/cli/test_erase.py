"""`erase`."""

from __future__ import annotations

import pytest

from tests._helpers.cli import stored
from trio_eventlog.stores import NullStore


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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--reason", "x"], "specify which events"),
        (["--run-id", "r", "--reason", ""], "--reason: expected a few words"),
        (["--run-id", "r"], "--reason"),
    ],
)
def test_what_is_missing_is_said(cli, db, filled, arguments, complaint):
    before = stored(db)

    done = cli("erase", "--store", filled, *arguments)

    assert done.status == 2
    assert complaint in " ".join(done.err.split())
    assert stored(db) == before


def test_a_store_that_cannot_erase_says_so(cli, use_store):
    use_store(NullStore())

    done = cli("erase", "--store", "x:y", "--run-id", "r", "--reason", "why")

    assert done.status == 1
    assert "stores of this kind cannot erase" in done.err
