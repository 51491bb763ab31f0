"""Which sizes and places the harness tries in large batches."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.correct_stores import open_memory
from trio_eventlog.testing._checks._atomicity import CHECKS as ATOMICITY
from trio_eventlog.testing._checks._scale import CHECKS, LARGEST, divisions, largest, sizes
from trio_eventlog.testing._subject import StoreUnderTest

SUBJECT = StoreUnderTest(open_store=open_memory)


@given(size=st.integers(1, LARGEST))
def test_divisions_are_in_the_batch_and_end_with_it(size):
    indices = divisions(size)

    assert indices == sorted(set(indices))
    assert indices[0] >= 0
    assert indices[-1] == size - 1


@pytest.mark.parametrize("limit", [100, 500, 999, 1_000, 4_096])
def test_both_sides_of_a_limit_are_tried(limit):
    """As places in the largest batch, and as sizes of batches."""
    assert {limit - 1, limit} <= set(divisions(LARGEST))
    assert {limit, limit + 1} <= set(sizes(SUBJECT))


@pytest.mark.parametrize(("values", "columns"), [(32_766, 7), (32_766, 8), (65_535, 14), (65_535, 16)])
def test_so_are_those_of_the_values_of_a_statement(values, columns):
    """Where the batch is that large."""
    assert {values // columns - 1, values // columns} <= set(divisions(LARGEST))


@given(max_batch=st.integers(1, 20_000), data=st.data())
def test_no_case_is_larger_than_the_store_takes(max_batch, data):
    subject = attrs.evolve(SUBJECT, max_batch=max_batch, lock_timeout=data.draw(st.sampled_from((0.0, 30.0))))
    most = min(max_batch, LARGEST)

    assert largest(subject) == most
    assert max(sizes(subject)) == most
    for check in (*CHECKS, *ATOMICITY):
        for case in [*check.table(subject), data.draw(check.cases(subject))]:
            assert all(size <= most for size in sizes_in(case)), check.name


def sizes_in(case):
    """The sizes of batches in a case, whatever it is."""
    if isinstance(case, tuple):
        return [size for item in case for size in sizes_in(item)]
    if hasattr(case, "sizes"):
        return list(case.sizes)
    return [case.size] if hasattr(case, "size") else [case] if type(case) is int else []
