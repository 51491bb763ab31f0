"""The harness guards itself: it passes correct stores, and catches broken ones by their clause.

Here a store of each clause; all of them in ``deep_broken_stores.py``; twenty seeds, all examples, and what
other clauses it reports, in ``deep_harness.py``.
"""

import pytest

from tests._helpers.broken_stores import BROKEN
from tests._helpers.correct_stores import open_checked, open_file_reader, open_memory
from tests._helpers.harness import check_clause, hardly_shrunk  # noqa: F401 - a fixture
from trio_eventlog.testing import CLAUSES, check_store


@pytest.mark.usefixtures("hardly_shrunk")
@pytest.mark.parametrize("clause", CLAUSES)
def test_a_broken_store_is_caught_by_its_clause(clause):
    """The first of each clause that does not take long."""
    broken = next(broken for broken in BROKEN if broken.clause == clause and not broken.is_slow)

    report = check_clause(broken, seed=0)

    assert [failure.clause for failure in report.failures] == [clause], str(report)


def test_every_clause_has_a_store_that_breaks_it():
    assert {broken.clause for broken in BROKEN} == set(CLAUSES)


def test_a_correct_store_in_memory_passes():
    """Its report says what cannot be checked on it."""
    report = check_store(open_memory, durable=False, max_examples=10, seed=1)

    report.raise_if_failed()
    assert [result.clause for result in report.passed] == [
        clause for clause in CLAUSES if clause not in ("S13", "S16")
    ]
    assert [result.clause for result in report.skipped] == ["S13", "S16"]


def test_a_correct_store_in_a_file_passes():
    report = check_store(open_checked, open_reader=open_file_reader, max_examples=10, seed=1)

    report.raise_if_failed()
    assert [result.clause for result in report.passed] == list(CLAUSES)
    left_out = [part for result in report.passed for part in result.left_out]
    assert all(part.startswith("a loss of power: the store does not say") for part in left_out), left_out
