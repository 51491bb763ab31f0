"""The log in many orders of its tasks, for more than a million virtual seconds: ``nox -s explore``."""

import os

import pytest

from tests._helpers import races
from tests._helpers.explored_log import live
from trio_eventlog.testing import explore

SECONDS = 200.0
"""Virtual, of a run. There are 50 programs, half of them with a spill file, with 100 orders or more each."""

FIRST = int.from_bytes(os.urandom(3), "big")


@pytest.mark.parametrize("number", range(25))
@pytest.mark.parametrize("spills", [False, True], ids=["in memory", "with a spill file"])
def test_the_promises_hold(tmp_path, number, spills):
    spill = tmp_path / "log.spill" if spills else None
    explore(live, FIRST + number, SECONDS, spill, max_examples=101, seed=number)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "main", [races.lost_update, races.check_then_act, races.two_inversions, races.deadlock]
)
def test_a_race_is_found_with_every_seed(main, seed):
    with pytest.raises(Exception, match=r".") as caught:
        explore(main, seed=seed)
    assert "replay(main, schedule=" in caught.value.__notes__[-1]
