"""The harness guards itself: it catches broken stores by their clause.

Here a store of each clause; all of them in ``conformance``; twenty seeds, all examples, and what other
clauses it reports, in ``deep_harness.py``.
"""

import pytest

from tests._helpers.broken_stores import BROKEN
from tests._helpers.harness import check_clause, hardly_shrunk  # noqa: F401 - a fixture
from trio_eventlog.testing import CLAUSES


@pytest.mark.usefixtures("hardly_shrunk")
@pytest.mark.parametrize("clause", CLAUSES)
def test_a_broken_store_is_caught_by_its_clause(clause):
    """The first of each clause that does not take long."""
    broken = next(broken for broken in BROKEN if broken.clause == clause and not broken.is_slow)

    report = check_clause(broken, seed=0)

    assert [failure.clause for failure in report.failures] == [clause], str(report)


def test_every_clause_has_a_store_that_breaks_it():
    assert {broken.clause for broken in BROKEN} == set(CLAUSES)
