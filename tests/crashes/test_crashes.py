"""Processes that are killed in the middle of their work, dozens of times; ``nox -s crashes``: hundreds."""

import pytest

from tests._helpers.crashes import kill_racers, kill_spillers, kill_writers


@pytest.mark.parametrize("seed", range(2))
def test_what_flush_acknowledged_survives_kills(tmp_path, seed):
    assert kill_writers(tmp_path, seed, kills=12) > 0


@pytest.mark.parametrize("seed", range(2))
def test_what_was_spilled_survives_kills(tmp_path, seed):
    safe, recovered = kill_spillers(tmp_path, seed, kills=12)

    assert safe > 0
    assert recovered > 0


def test_two_writers_that_race_and_are_killed(tmp_path):
    acknowledged, busy = kill_racers(tmp_path, 0, kills=12)

    assert acknowledged > 0
    assert busy > 0
