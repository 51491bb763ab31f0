"""The harness catches each broken store by its clause, and shows how."""

import re

import pytest
import trio

from tests._helpers.broken_stores import BROKEN
from tests._helpers.correct_stores import open_file_reader
from tests._helpers.harness import check_clause, hardly_shrunk  # noqa: F401 - a fixture
from trio_eventlog.testing._importing import opening_of


@pytest.mark.usefixtures("hardly_shrunk")
@pytest.mark.parametrize(
    "broken",
    [broken for broken in BROKEN if not broken.is_slow],
    ids=lambda broken: f"{broken.clause}: {broken.name}",
)
def test_a_broken_store_is_caught_by_its_clause(broken):
    report = check_clause(broken, seed=0)

    assert [failure.clause for failure in report.failures] == [broken.clause], str(report)
    assert_shows(report.failures[0])
    assert_passes(with_correct_stores(report.failures[0].example, broken))


def with_correct_stores(program, broken):
    """The program of a report, with stores that break nothing, in child processes, too."""
    program = with_opener(program, "open_store", broken.open_store, broken.correct)
    if broken.open_reader:
        program = with_opener(program, "open_reader", broken.open_reader, open_file_reader)
    return program


def with_opener(program, name, opener, correct):
    opening, other = opening_of(opener, name).code, opening_of(correct, name).code
    assert opening in program
    # In a child's program, which is a string, quotes and backslashes are as they are.
    return program.replace(opening, other)


def assert_passes(program):
    exec(compile(program, "correct.py", "exec"), {"__name__": "example"})  # noqa: S102 - that is the test


def assert_shows(failure):
    """Run the program that a report shows: it fails as the store did, and not because of a mistake in it.

    What depends on which task comes first may take more than one run.
    """
    program = failure.example
    code = compile(program, "example.py", "exec")
    shown = []
    for _ in range(10):
        try:
            exec(code, {"__name__": "example"})  # noqa: S102 - that is the test
        except Exception as exc:  # noqa: BLE001 - whatever the store raises
            shown = leaves(exc)
            if any(is_that_failure(leaf, failure.message) for leaf in shown):
                break
    else:
        pytest.fail(f"{failure.message}\n{shown}\n{program}")

    mistakes = (SyntaxError, NameError, ImportError, AttributeError, TypeError)
    assert not any(isinstance(leaf, mistakes) for leaf in shown), program
    assert program.isascii()


def is_that_failure(error, message):
    """Whether a program ended with what the report says."""
    raised = re.search(r"\braised (\w+)\((?!.*[,;] expected (?!Cancelled))", message)
    if raised:
        return type(error).__name__ == raised[1]
    if "took longer than" in message:
        return isinstance(error, trio.TooSlowError)
    if "is not a checkpoint" in message:
        return isinstance(error, AssertionError) and "did not yield" in str(error)
    # An assertion that says what is wrong says the same, but for what was measured.
    return isinstance(error, AssertionError) and without_numbers(str(error)) in without_numbers(message)


def without_numbers(text):
    # A report names the first of many.
    return re.sub(r"[\d.]+", "N", re.sub(r"\[\d[\d, ]*( and [\d,]+ more)?\]", "[]", text))


def leaves(error):
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
