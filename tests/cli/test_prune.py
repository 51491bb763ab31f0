"""`prune`."""

from __future__ import annotations

import pytest

from tests._helpers.cli import (
    interrupt_at,
    stored,
)
from trio_eventlog.stores.sqlite import _reader as _sqlite_maintenance


def test_prune_refuses_seconds(cli, filled, db):
    assert cli("prune", "--store", filled, "--before", "1784019600").status == 2
    assert len(stored(db)) == 2_500


def test_prune_by_number_and_by_time(cli, db, filled):
    assert cli("prune", "--store", filled, "--keep", 2000, "--dry-run").out == "500 events would be pruned\n"
    assert len(stored(db)) == 2500
    assert cli("prune", "--store", filled, "--keep", 2000).out == "500 events pruned\n"
    assert stored(db)[0].seq == 501
    before = stored(db)[100].timestamp_ms
    assert cli("prune", "--store", filled, "--before", before).out == "100 events pruned\n"
    assert cli("prune", "--store", filled, "--older-than", "9000d").out == "0 events pruned\n"
    assert cli("prune", "--store", filled, "--older-than", "1s").out == "1,900 events pruned\n"
    assert stored(db) == []
    assert cli("prune", "--store", filled, "--keep", 0).out == "0 events pruned\n"


def test_prune_with_numbers_beyond_all_bounds(cli, db, filled):
    huge = "9" * 30
    assert cli("prune", "--store", filled, "--keep", huge).out == "0 events pruned\n"
    assert cli("prune", "--store", filled, "--older-than", "999999999w").out == "0 events pruned\n"
    assert cli("prune", "--store", filled, "--before", huge).out == "2,500 events pruned\n"
    assert stored(db) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "one of --before, --older-than and --keep"),
        (["--keep", 1, "--before", "2026-07-14"], "one of --before, --older-than and --keep"),
        (["--older-than", "30"], "is not an age; write a number and s, m, h, d or w"),
        (["--keep", "-1"], "is not an integer of 0 or more"),
    ],
)
def test_prune_wants_one_criterion(cli, db, filled, arguments, complaint):
    done = cli("prune", "--store", filled, *arguments)

    assert done.status == 2
    assert complaint in " ".join(done.err.split())
    assert len(stored(db)) == 2500


def test_prune_is_interrupted_and_goes_on(cli, db, filled, monkeypatch, small_pages):
    interrupt_at(monkeypatch, _sqlite_maintenance, "prune_some", 4)

    done = cli("prune", "--store", filled, "--keep", 0)
    left = len(stored(db))
    assert done.status == 130
    assert 0 < left < 2500
    assert done.err == "trio-eventlog: stopping; events already pruned stay pruned\n"
    assert done.out.endswith(" events pruned of 2,500\n")
    assert done.out.startswith("at least ")
    assert cli("prune", "--store", filled, "--keep", 0).out == f"{left:,} events pruned\n"
