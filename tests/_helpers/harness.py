"""Running the harness on one store, for its own tests."""

import pytest

from tests._helpers.broken_stores import Broken
from trio_eventlog.testing import ConformanceReport, _search, check_store
from trio_eventlog.testing._check_store import DEFAULT_BUDGET
from trio_eventlog.testing._clauses import clause_shares


def check_clause(broken: Broken, *, seed: int) -> ConformanceReport:
    """With the part of the default budget that the clause has in a whole run, but 10 s at least."""
    return check_store(
        broken.open_store,
        durable=broken.durable,
        open_reader=broken.open_reader,
        clauses=[broken.clause],
        budget=max(10.0, DEFAULT_BUDGET * clause_shares()[broken.clause]),
        # Some hang, and there is no need to wait as long as for a store that might not.
        op_timeout=5.0 if broken.durable else 1.0,
        seed=seed,
    )


@pytest.fixture
def hardly_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is the point, not how small it is."""
    monkeypatch.setattr(_search, "shrink_seconds", lambda allotted: 0.2)
