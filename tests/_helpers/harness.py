"""Running the harness on one store, for its own tests."""

import pytest

from tests._helpers.broken_stores import Broken
from trio_eventlog.testing import ConformanceReport, _search
from trio_eventlog.testing._check_store import (
    DEFAULT_BUDGET,
    DEFAULT_MAX_EXAMPLES,
    DEFAULT_OP_TIMEOUT,
    run_checks,
)
from trio_eventlog.testing._clauses import clause_shares
from trio_eventlog.testing._report import CheckSettings
from trio_eventlog.testing._subject import StoreUnderTest


def check_clause(broken: Broken, *, seed: int) -> ConformanceReport:
    """With the part of the default budget that the clause has in a whole run, but 10 s at least.

    And with half of the rest, if it needs more for enough examples: there, it may use most of it.
    """
    share = DEFAULT_BUDGET * clause_shares()[broken.clause]
    return run_checks(
        StoreUnderTest(
            open_store=broken.open_store,
            open_reader=broken.open_reader,
            drop_store=None,
            durable=broken.durable,
            op_timeout=DEFAULT_OP_TIMEOUT,
        ),
        clauses=[broken.clause],
        settings=CheckSettings(
            durable=broken.durable,
            budget=max(10.0, share),
            op_timeout=DEFAULT_OP_TIMEOUT,
            max_examples=DEFAULT_MAX_EXAMPLES,
        ),
        seed=seed,
        deviations={},
        reserve=(DEFAULT_BUDGET - share) / 2,
    )


@pytest.fixture
def hardly_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is the point, not how small it is."""
    monkeypatch.setattr(_search, "shrink_seconds", lambda allotted: 0.2)
