"""The harness on each broken store with twenty seeds, and with all clauses: ``nox -s harness``."""

import pytest

from tests._helpers.broken_stores import BROKEN
from tests._helpers.broken_stores.concurrency import BY_ANOMALY
from tests._helpers.correct_stores import open_checked, open_file_reader, open_memory
from tests._helpers.harness import check_clause, hardly_shrunk  # noqa: F401 - a fixture
from trio_eventlog.testing import CLAUSES, check_store

pytestmark = pytest.mark.usefixtures("hardly_shrunk")

broken_stores = pytest.mark.parametrize(
    "broken", BROKEN, ids=lambda broken: f"{broken.clause}: {broken.name}"
)


@broken_stores
@pytest.mark.parametrize("seed", range(20))
def test_a_broken_store_is_caught_with_every_seed(broken, seed):
    report = check_clause(broken, seed=seed)

    assert [failure.clause for failure in report.failures] == [broken.clause], str(report)


@pytest.mark.parametrize("name", BY_ANOMALY)
@pytest.mark.parametrize("seed", range(20))
def test_an_anomaly_is_named_with_every_seed(name, seed):
    (failure,) = check_clause(BY_ANOMALY[name], seed=seed).failures

    assert failure.message.startswith(f"{name}: "), failure.message


@broken_stores
def test_a_broken_store_breaks_no_other_clause(broken):
    """But for those that it cannot help breaking."""
    report = check_store(broken.open_store, durable=broken.durable, open_reader=broken.open_reader, seed=20)

    failed = {failure.clause for failure in report.failures}
    assert broken.clause in failed
    assert failed <= {broken.clause, *broken.also}, str(report)


@pytest.mark.parametrize("seed", range(5))
def test_correct_stores_pass_all_examples(seed):
    memory = check_store(open_memory, durable=False, budget=300.0, seed=seed)
    file = check_store(open_checked, open_reader=open_file_reader, budget=300.0, seed=seed)

    memory.raise_if_failed()
    file.raise_if_failed()
    assert [result.clause for result in file.passed] == list(CLAUSES)
