"""Processes that are killed in the middle of their work, six hundred times: ``nox -s crashes``."""

import pytest

from tests._helpers.crashes import kill_racers, kill_spillers, kill_writers


@pytest.mark.parametrize("seed", range(100, 120))
def test_what_flush_acknowledged_survives_kills(tmp_path, seed):
    assert kill_writers(tmp_path, seed, kills=15) > 0


@pytest.mark.parametrize("seed", range(100, 112))
def test_what_was_spilled_survives_kills(tmp_path, seed):
    safe, _ = kill_spillers(tmp_path, seed, kills=15)

    assert safe > 0


@pytest.mark.parametrize("seed", range(100, 108))
def test_two_writers_that_race_and_are_killed(tmp_path, seed):
    acknowledged, _ = kill_racers(tmp_path, seed, kills=15)

    assert acknowledged > 0
