"""The fault campaign at length, 100,000 steps and more: ``nox -s campaign``. Other programs each time."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests._helpers.campaign import PROGRAMS, play


@pytest.mark.parametrize("part", range(4))
def test_the_promises_hold_for_a_quarter_of_the_steps(part, capsys):
    steps = programs = 0

    @settings(
        max_examples=3_000,
        deadline=None,
        derandomize=False,
        database=None,
        phases=set(Phase) - {Phase.explain},
        suppress_health_check=list(HealthCheck),
    )
    @given(program=PROGRAMS)
    def play_and_count(program):
        nonlocal steps, programs
        steps += play(program)
        programs += 1

    play_and_count()

    with capsys.disabled():
        print(f"\n{programs:,} programs, {steps:,} steps")  # noqa: T201 - what was done, for the record
    assert steps >= 25_000
