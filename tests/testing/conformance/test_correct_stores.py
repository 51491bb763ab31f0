"""The harness passes stores that break no clause."""

from tests._helpers.correct_stores import open_erasing_file, open_file_reader, open_memory
from trio_eventlog.testing import CLAUSES, check_store


def test_a_correct_store_in_memory_passes():
    """Its report says what cannot be checked on it."""
    report = check_store(open_memory, durable=False, max_examples=10, seed=1)

    report.raise_if_failed()
    assert [result.clause for result in report.passed] == [
        clause for clause in CLAUSES if clause not in ("S13", "S16", "S17", "S18")
    ]
    assert [result.clause for result in report.skipped] == ["S13", "S16", "S17", "S18"]


def test_a_correct_store_in_a_file_passes():
    report = check_store(open_erasing_file, open_reader=open_file_reader, max_examples=10, seed=1)

    report.raise_if_failed()
    assert [result.clause for result in report.passed] == [clause for clause in CLAUSES if clause != "S18"]
    left_out = [part for result in report.passed for part in result.left_out]
    assert all(part.startswith("a loss of power: the store does not say") for part in left_out), left_out
