"""Some hundreds of programs of the fault campaign; ``nox -s campaign`` plays more."""

from hypothesis import given

from tests._helpers.campaign import PROGRAMS, play


@given(program=PROGRAMS)
def test_the_promises_hold_whatever_happens(program):
    play(program)
