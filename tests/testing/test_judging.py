"""The judge is judged: every wrapper that breaks a store is caught, in a correct store of the tests too."""

import os
import re
import signal
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests._helpers.correct_stores import open_file, open_memory
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import CLAUSES, MutantResult, MutationInterrupted, check_harness, check_store
from trio_eventlog.testing._mutants import MUTANTS, open_mutant

IN_MEMORY = [name for name, mutant in MUTANTS.items() if not mutant.needs]
QUICK = [
    "the last write of an id wins",
    "a conflict is not raised",
    "readers see half a batch",
    "the limit is off by one",
    "case does not count",
    "large integers are rounded",
    "objects are shared",
    "last_seq is too low",
    "an append is answered one append late",
    "Cancelled is swallowed",
    "the driver's error comes out",
    "another log's events leak",
    "an error on leaving",
]
"""Those that are caught within some examples; the others are for the session."""


def test_each_clause_has_a_wrapper():
    assert {mutant.clause for mutant in MUTANTS.values()} == {f"S{number}" for number in range(1, 16)}
    assert len(MUTANTS) >= 30
    assert set(QUICK) <= set(IN_MEMORY)


def test_the_wrapper_that_breaks_nothing_passes():
    """What is caught is the fault, and not that there is a wrapper."""
    report = check_store(
        partial(open_mutant, None, open_memory),
        durable=False,
        clauses=["S1", "S3", "S9", "S11", "S14", "S15"],
        max_examples=10,
        budget=60,
    )

    report.raise_if_failed()


def test_wrappers_are_caught_by_their_clause():
    told = []
    report = check_harness(
        open_memory, durable=False, mutants=QUICK, budget=60.0, seed=1, on_result=told.append
    )

    assert report.missed == ()
    assert [(result.mutant, result.caught_by) for result in report.results] == [
        (mutant.name, mutant.clause) for mutant in MUTANTS.values() if mutant.name in QUICK
    ]
    assert tuple(told) == report.results
    assert re.search(r"S5  caught +the limit is off by one: by S5, .* in \d+\.\d s", str(report))
    assert re.search(r"13 of 13 caught, 0 skipped, in \d+\.\d s \(seed 1\)$", str(report))


def test_a_durable_store_may_forget_and_repeat():
    names = ["an event is repeated after reopening", "an event is forgotten on reopening", "there is no lock"]
    report = check_harness(open_file, mutants=names, budget=60.0, seed=1)

    assert [(result.verdict, result.caught_by) for result in report.results] == [
        ("caught", "S10"),
        ("caught", "S10"),
        ("caught", "S13"),
    ]


def test_what_a_store_cannot_show_is_skipped_with_the_reason():
    report = check_harness(open_memory, durable=False, mutants=["there is no lock"])

    assert report.results == (
        MutantResult(
            mutant="there is no lock", clause="S13", verdict="skipped", reason="the store is not durable"
        ),
    )
    assert report.missed == ()


class OneAtATime(MemoryStore):
    """A store that would need 1,200 appends for a result that is cut off."""

    max_batch = 1


@asynccontextmanager
async def open_one_at_a_time(location):
    yield OneAtATime()


def test_what_the_harness_cannot_see_in_a_store_is_missed():
    """This is what the report is for."""
    (result,) = check_harness(
        open_one_at_a_time, durable=False, mutants=["a result ends after 1,000 events"], budget=4.0, seed=1
    ).results

    assert result.verdict in ("missed", "not finished")
    assert result.clause in CLAUSES


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"mutants": ["eats events"]},
            ValueError,
            "mutants: expected some of the last write of an id wins, .*, got eats events",
        ),
        ({"mutants": []}, ValueError, "mutants: expected some of .*, got none"),
        ({"mutants": QUICK[0]}, TypeError, "mutants: expected a collection such as .*, got a string"),
        ({"mutants": 5}, TypeError, "mutants: expected a collection such as .*, got int"),
        ({"budget": 0}, ValueError, "budget: expected more than 0 seconds, and finite, got 0"),
        ({"budget": "1"}, TypeError, "budget: expected seconds, got str"),
        ({"op_timeout": 0}, ValueError, "op_timeout: expected more than 0 seconds"),
        ({"seed": -1}, ValueError, "seed: expected 0 or more, got -1"),
        ({"durable": 1}, TypeError, "durable: expected a bool, got int"),
        ({"on_result": 1}, TypeError, "on_result: expected a function"),
    ],
)
def test_arguments(options, error, message):
    with pytest.raises(error, match=message):
        check_harness(open_memory, **{"durable": False, **options})


def test_ctrl_c_keeps_what_was_found_so_far():
    def press(_result):
        raise KeyboardInterrupt

    chosen = ["the limit is off by one", "last_seq is too low"]
    with pytest.raises(MutationInterrupted) as interrupted:
        check_harness(open_memory, durable=False, mutants=chosen, seed=1, on_result=press)

    report = interrupted.value.report
    assert [result.mutant for result in report.results] == chosen[:1]
    assert report.results[0].verdict == "caught"
    assert report.untried == tuple(chosen[1:])
    assert str(report).endswith("INTERRUPTED: 1 more was not tried")
    assert str(interrupted.value) == f"what was found so far:\n\n{report}"


def test_ctrl_c_within_a_wrapper_keeps_what_was_found_before():
    @asynccontextmanager
    async def open_pressing(location):
        if told:
            os.kill(os.getpid(), signal.SIGINT)
        yield MemoryStore()

    told = []
    chosen = ["the limit is off by one", "last_seq is too low"]
    with pytest.raises(MutationInterrupted) as interrupted:
        check_harness(open_pressing, durable=False, mutants=chosen, seed=1, on_result=told.append)

    assert interrupted.value.report.results == tuple(told)
    assert interrupted.value.report.untried == tuple(chosen[1:])
