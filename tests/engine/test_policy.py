"""How long to wait before trying again: pure arithmetic, with chance as an argument."""

import decimal
import math
import random
from fractions import Fraction

import attrs
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from trio_eventlog import RetryPolicy

seconds = st.floats(min_value=5e-324, max_value=1.7e308) | st.integers(1, 2**53)
multipliers = st.floats(min_value=1, max_value=1.7e308) | st.integers(1, 2**53)
fractions = st.floats(0, 1) | st.sampled_from([0, 1])
chances = st.floats(0, 1, exclude_max=True)
failures = st.integers(1, 10**6) | st.integers(1, 40)


@st.composite
def policies(draw, jitter=fractions):
    initial, maximum = draw(seconds), draw(seconds)
    assume(initial <= maximum)
    chance = draw(chances)
    return RetryPolicy(
        initial=initial,
        maximum=maximum,
        multiplier=draw(multipliers),
        jitter=draw(jitter),
        random=lambda: chance,
    )


@given(policies(), failures)
@example(RetryPolicy(multiplier=3), 10**6)
@example(RetryPolicy(initial=1, maximum=10**300, multiplier=10**300), 10**6)
def test_delays_are_capped(policy, count):
    """However long an outage lasts, and whatever the numbers: no overflow, nothing beyond the maximum."""
    delay = policy.delay(count)

    assert 0 <= delay <= policy.maximum
    assert math.isfinite(delay)


@given(policies(jitter=st.just(0)), failures)
def test_delays_never_shrink_without_jitter(policy, count):
    assert policy.delay(count) <= policy.delay(count + 1)


@given(policies(), failures)
def test_jitter_shortens_by_its_fraction_at_most(policy, count):
    full = attrs.evolve(policy, jitter=0).delay(count)
    # Beside the jitter nothing but rounding.
    slack = full * 1e-12 + 5e-324

    assert full * (1 - policy.jitter) - slack <= policy.delay(count) <= full


@given(policies())
def test_the_first_delay_is_the_initial_one(policy):
    assert attrs.evolve(policy, jitter=0).delay(1) == policy.initial


def test_the_default_is_exponential():
    """0.1 s, doubled each time, at most half a minute."""
    policy = RetryPolicy(jitter=0)

    delays = [policy.delay(count) for count in range(1, 12)]

    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])


def test_a_crowd_at_the_maximum_spreads_out():
    """Jitter is not cut off by the cap: programs that lost the same database do not return in step."""
    policy = RetryPolicy(jitter=0.5, random=random.Random(1).random)  # noqa: S311 - no secret

    delays = [policy.delay(100) for _ in range(1_000)]

    assert min(delays) < 16
    assert max(delays) > 29
    assert len(set(delays)) > 900


@given(chances)
def test_chance_is_an_argument(chance):
    """Nothing else decides, so that tests can be repeated."""
    policy = RetryPolicy(initial=2, maximum=2, jitter=0.5, random=lambda: chance)

    assert policy.delay(1) == 2 * (1 - 0.5 * chance)


@pytest.mark.parametrize("drawn", [decimal.Decimal("0.5"), Fraction(1, 2), True])
def test_chance_is_any_kind_of_number(drawn):
    """The wait is a float all the same."""
    policy = RetryPolicy(initial=2, maximum=2, jitter=0.5, random=lambda: drawn)

    assert policy.delay(1) == 2 * (1 - 0.5 * float(drawn))


@pytest.mark.parametrize("source", [None, 0.5, "random"])
def test_what_is_no_function_gives_no_chance(source):
    with pytest.raises(TypeError, match=f"^random: expected a function, got {type(source).__name__}"):
        RetryPolicy(random=source)


FIELDS = ["initial", "maximum", "multiplier", "jitter"]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [True, False, None, "1", b"one", [1], 1j, decimal.Decimal(1)])
def test_numbers_of_another_type_are_refused(field, value):
    """A bool above all: it is an int to Python, and surely a mistake."""
    with pytest.raises(TypeError, match=f"^{field}: expected a number"):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        -1,
        -0.1,
        pytest.param(10**400, id="beyond-float"),
        pytest.param(-(10**400), id="below-float"),
    ],
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"^{field}: expected "):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"initial": 0}, "initial"),
        ({"maximum": 0}, "maximum"),
        ({"multiplier": 0}, "multiplier"),
        ({"multiplier": 0.999}, "multiplier"),
        ({"jitter": 1.001}, "jitter"),
        ({"initial": 31}, "maximum"),
        ({"maximum": 0.05}, "maximum"),
        ({"initial": 2, "maximum": 1}, "maximum"),
    ],
)
def test_fields_must_make_sense_together(fields, named):
    with pytest.raises(ValueError, match=f"^{named}: expected "):
        RetryPolicy(**fields)


def test_the_edges_are_legal():
    policy = RetryPolicy(initial=1, maximum=1, multiplier=1, jitter=1, random=lambda: 0.0)

    assert [policy.delay(count) for count in (1, 2, 10**6)] == [1, 1, 1]
    assert attrs.evolve(policy, jitter=0) == RetryPolicy(
        initial=1, maximum=1, multiplier=1, jitter=0, random=policy.random
    )


def test_a_policy_is_a_value():
    assert RetryPolicy() == RetryPolicy()
    assert hash(RetryPolicy()) == hash(RetryPolicy())
    assert repr(RetryPolicy()) == "RetryPolicy(initial=0.1, maximum=30.0, multiplier=2.0, jitter=0.1)"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        RetryPolicy().initial = 1
    with pytest.raises(TypeError):
        RetryPolicy(1)
