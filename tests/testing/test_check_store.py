"""`check_store` as its user meets it: arguments, reports, budget, and stores that misbehave badly."""

import os
import re
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from tests._helpers.broken_stores import BROKEN
from tests._helpers.correct_stores import CorrectMemoryStore, open_file, open_memory, opened_memory
from tests._helpers.harness import hardly_shrunk  # noqa: F401 - a fixture
from trio_eventlog import StoreError
from trio_eventlog.abc import EventPage
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import (
    CLAUSES,
    ClauseFailure,
    ConformanceError,
    StoreConformance,
    check_store,
)

BY_NAME = {broken.name: broken for broken in BROKEN}


def check(open_store, *clauses, **options):
    """In memory, few examples, always the same."""
    options = {"durable": False, "max_examples": 20, "seed": 1, "budget": 5.0, **options}
    return check_store(open_store, clauses=clauses or None, **options)


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clauses": ["S5", "S99", "T1"]}, ValueError, "clauses: expected some of S1 to S18, got S99, T1"),
        ({"clauses": []}, ValueError, "clauses: expected some of S1 to S18, got none"),
        ({"clauses": "S5"}, TypeError, "clauses: expected a collection such as ['S5'], got a string"),
        ({"budget": 0}, ValueError, "budget: expected more than 0 seconds"),
        ({"budget": float("nan")}, ValueError, "budget: expected more than 0 seconds"),
        ({"op_timeout": float("inf")}, ValueError, "op_timeout: expected more than 0 seconds, and finite"),
        ({"budget": 10**400}, ValueError, "budget: expected more than 0 seconds, and finite"),
        ({"max_examples": 0}, ValueError, "max_examples: expected 1 or more, got 0"),
        ({"seed": -1}, ValueError, "seed: expected 0 or more, got -1"),
        ({"clauses": 5}, TypeError, "clauses: expected a collection such as ['S1'], got int"),
        ({"clauses": [5]}, TypeError, "clauses: expected a collection of strings, got one with int"),
        ({"durable": "no"}, TypeError, "durable: expected a bool, got str"),
        ({"budget": "1"}, TypeError, "budget: expected seconds, got str"),
        ({"op_timeout": True}, TypeError, "op_timeout: expected seconds, got bool"),
        ({"max_examples": 1.5}, TypeError, "max_examples: expected an int, got float"),
        ({"seed": "1"}, TypeError, "seed: expected an int or None, got str"),
        ({"open_reader": 1}, TypeError, "open_reader: expected a function of a location or None, got int"),
        ({"drop_store": 1}, TypeError, "drop_store: expected a function of a location or None, got int"),
        ({"on_result": 1}, TypeError, "on_result: expected a function of a result or None, got int"),
    ],
)
def test_arguments_out_of_range(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_store(open_memory, **options)


def test_open_store_must_be_a_function():
    with pytest.raises(TypeError, match="open_store: expected a function of a location, got MemoryStore"):
        check_store(MemoryStore())


def test_a_forgotten_decorator():
    """The likeliest mistake: an async generator function without `asynccontextmanager`."""

    async def open_store(location):  # noqa: ASYNC900 - that is the mistake
        yield MemoryStore()

    with pytest.raises(TypeError, match=r"got async_generator; decorate .* contextlib.asynccontextmanager"):
        check_store(open_store)


def test_something_that_is_no_store():
    @asynccontextmanager
    async def open_store(location):
        yield object()

    with pytest.raises(TypeError, match="a store with append_batch, query and last_seq, got object"):
        check_store(open_store)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_batch", 0), ("max_batch", "7"), ("lock_timeout", -1), ("lock_timeout", float("inf"))],
)
def test_declarations_that_make_no_sense(name, value):
    @asynccontextmanager
    async def open_store(location):
        store = MemoryStore()
        setattr(store, name, value)
        yield store

    with pytest.raises(TypeError, match=f"{name}: expected .*, got {value!r}"):
        check_store(open_store)


def test_what_the_first_opening_raises_comes_out():
    """With a note that says when: no clause is to blame for a wrong password."""

    @asynccontextmanager
    async def open_store(location):
        msg = "wrong password"
        raise StoreError(msg)
        yield

    with pytest.raises(StoreError, match="wrong password") as caught:
        check_store(open_store)

    assert "before any clause was checked" in caught.value.__notes__[0]


def test_within_trio_it_says_what_to_do():
    async def main():
        check_store(open_memory)

    with pytest.raises(RuntimeError, match="call it from synchronous code, or in a thread"):
        trio.run(main)


# --- the report -----------------------------------------------------------------------------------


def test_a_failure_says_all_there_is_to_say():
    report = check(partial(opened_memory, type("Broken", (CorrectMemoryStore,), {})), "S5")
    assert report.failures == ()
    broken = BY_NAME["inclusive cursor"]

    report = check(broken.open_store, "S4", "S5", "S13", budget=60.0)

    (failure,) = report.failures
    assert isinstance(failure, ClauseFailure)
    assert failure.clause == "S5"
    assert failure.sentence == CLAUSES["S5"]
    assert "after_seq" in failure.message
    assert failure.seed == report.seed == 1
    assert not failure.intermittent
    assert failure.examples >= 1
    assert [result.clause for result in report.passed] == ["S4"]
    assert [(result.clause, result.reason) for result in report.skipped] == [
        ("S13", "the store is not durable")
    ]
    assert [result.clause for result in report.results()] == ["S4", "S5", "S13"]
    with pytest.raises(ConformanceError) as caught:
        report.raise_if_failed()
    assert caught.value.report is report
    assert failure.example in str(caught.value)
    assert failure.message in str(caught.value)
    assert " S5  FAILED" in str(report)


def test_a_lost_tail_is_the_business_of_one_clause():
    """Other clauses with large batches or results do not report it, too."""
    lost = BY_NAME["stores 4,096 events of a batch"]

    report = check(lost.open_store, "S1", "S5", "S7", "S10", "S11", max_examples=3, budget=60.0)

    assert [failure.clause for failure in report.failures] == ["S10"], str(report)


@pytest.mark.parametrize("name", ["inclusive cursor", "last write wins", "case-insensitive", "1.0 is 1"])
def test_an_example_is_small(name):
    """One or two appends, and a query."""
    broken = BY_NAME[name]

    (failure,) = check(broken.open_store, broken.clause, max_examples=100, budget=200.0).failures

    body = failure.example.partition("async with open_store")[2]
    assert 2 <= body.count("await store.") <= 3, failure.example
    assert body.count("PersistedEvent(") <= 3, failure.example


@pytest.mark.parametrize(
    "name",
    ["last write wins", "last batch lost on a kill", "lock of the process", "aborted for ever by a conflict"],
)
def test_an_example_runs_and_shows_the_failure(name, tmp_path):
    """As an implementer would: paste it into a file, and run it. `conformance` runs all."""
    broken = BY_NAME[name]
    settings = {"durable": broken.durable, "op_timeout": 1.0, "budget": 60.0}
    (failure,) = check(broken.open_store, broken.clause, **settings).failures
    path = tmp_path / "example.py"
    path.write_text(failure.example)

    result = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert result.returncode == 1, failure.example
    last = result.stderr.strip().splitlines()[-1]
    assert re.match(r"(\S+\.)?(AssertionError|StoreError|SequenceConflict|LogBusy)\b", last), result.stderr


def test_the_same_seed_finds_the_same_example():
    broken = BY_NAME["prefixes match"]

    examples = {check(broken.open_store, "S6", seed=7, budget=60.0).failures[0].example for _ in range(2)}

    assert len(examples) == 1


def test_without_a_seed_the_report_has_a_new_one():
    seeds = {check(open_memory, "S9", seed=None, max_examples=1).seed for _ in range(2)}

    assert len(seeds) == 2


class NowAndThen(CorrectMemoryStore):
    """Forgets the last event of one result, ever."""

    results = 0

    async def query(self, query):
        found = await super().query(query)
        NowAndThen.results += bool(found)
        return found[:-1] if found and NowAndThen.results == 10 else found


def test_a_failure_that_does_not_repeat_is_intermittent():
    """Its example is what happened in the run that failed."""
    NowAndThen.results = 0

    report = check(partial(opened_memory, NowAndThen), "S10", max_examples=40)

    (failure,) = report.failures
    assert failure.intermittent
    assert "await store.append_batch" in failure.example
    assert "intermittent" in str(failure)


# --- locations ------------------------------------------------------------------------------------


def test_locations_are_fresh_and_dropped():
    opened, dropped = [], []

    @asynccontextmanager
    async def open_store(location):
        assert location.is_dir()
        assert list(location.iterdir()) == []
        opened.append(location)
        yield MemoryStore()

    async def drop_store(location):
        await trio.lowlevel.checkpoint()
        assert location.is_dir()
        dropped.append(location)

    report = check(open_store, "S1", "S14", drop_store=drop_store)

    report.raise_if_failed()
    assert all(re.fullmatch("te_[0-9a-f]{20}", location.name) for location in opened)
    assert len({location.parent for location in opened}) == 1
    assert sorted(opened) == sorted(dropped)
    assert len(set(opened)) == len(opened)
    assert not any(location.exists() for location in opened)
    assert not opened[0].parent.exists()


def test_what_drop_store_raises_comes_out():
    async def drop_store(location):
        await trio.lowlevel.checkpoint()
        msg = "no such schema"
        raise LookupError(msg)

    with pytest.raises(LookupError, match="no such schema"):
        check(open_memory, "S1", drop_store=drop_store)


# --- what a store declares, or lacks --------------------------------------------------------------


def test_no_batch_is_larger_than_the_store_declares():
    sizes = []

    class Small(MemoryStore):
        max_batch = 3

        async def append_batch(self, events):
            sizes.append(len(events))
            return await super().append_batch(events)

    @asynccontextmanager
    async def open_store(location):
        yield Small()

    report = check(open_store, budget=60.0, max_examples=5)

    report.raise_if_failed()
    assert max(sizes) == 3


class Unlocked(CorrectMemoryStore):
    has_lock = False


def test_a_store_that_declares_to_have_no_lock():
    report = check(partial(opened_memory, Unlocked), "S13", durable=True)

    assert [result.reason for result in report.skipped] == ["the store declares that it has no lock"]


def test_a_store_that_no_child_process_can_import():
    """Kills are left out, and the report says why; the rest is checked."""

    def open_store(location):
        return open_file(location)

    report = check(open_store, "S10", "S13", durable=True)

    report.raise_if_failed()
    reason = (
        "a child process cannot import open_store: open_store is defined inside"
        " test_a_store_that_no_child_process_can_import, so that no other program can import it"
    )
    left_out = {result.clause: result.left_out for result in report.passed}
    assert {f"a process that is killed: {reason}", "readers: no open_reader was given"} <= set(
        left_out["S10"]
    )
    assert {
        f"a second appender in another process: {reason}",
        f"an appender that is killed: {reason}",
    } <= set(left_out["S13"])


# --- budget ---------------------------------------------------------------------------------------


class Slow(CorrectMemoryStore):
    async def _commit(self, batch):
        await trio.sleep(0.05)
        return await super()._commit(batch)


def test_a_slow_store_is_not_finished():
    """What could not be tried in time has not passed, and the report says so for each check."""
    report = check(partial(opened_memory, Slow), budget=1.0, max_examples=100)

    assert report.failures == ()
    assert {result.clause for result in report.unfinished} >= {"S1", "S14"}
    assert {result.clause for result in report.passed} < set(CLAUSES)
    unfinished = {result.clause: result for result in report.unfinished}
    assert any(
        re.fullmatch(r"repeats: tried \d+ of 20 examples", what) for what in unfinished["S1"].unfinished
    ), unfinished["S1"]
    assert "NOT FINISHED within the budget of 1 s: this is no pass" in str(report)
    assert not report.is_conformant
    with pytest.raises(ConformanceError, match=r"(?s)S1: .*Not finished: .*Raise the budget, which was 1 s"):
        report.raise_if_failed()


class VerySlow(CorrectMemoryStore):
    async def _commit(self, batch):
        await trio.sleep(0.3)
        return await super()._commit(batch)


class Slowest(CorrectMemoryStore):
    async def _commit(self, batch):
        await trio.sleep(4.0)
        return await super()._commit(batch)


def test_the_budget_is_kept():
    """An example that is not over by then is cut off, and that is nobody's fault."""
    before = time.monotonic()
    report = check(partial(opened_memory, Slowest), "S5", budget=1.0, max_examples=100)
    seconds = time.monotonic() - before

    assert report.failures == ()
    assert [result.clause for result in report.unfinished] == ["S5"]
    assert seconds < 3


def test_a_search_that_was_cut_short_passes_and_says_so():
    (passed,) = check(open_memory, "S9", max_examples=100_000, budget=1.0).passed

    assert any(re.fullmatch(r"last_seq: \d+ of 50000 examples", what) for what in passed.cut_short)


class SlowTests(StoreConformance):
    durable = False
    budget = 0.5

    def open_store(self, location):
        return opened_memory(VerySlow, location)


def test_a_test_that_did_not_finish_fails():
    with pytest.raises(ConformanceError, match="Not finished: last_seq: tried"):
        SlowTests().test_s9()


class HungryTests(StoreConformance):
    durable = False
    budget = 20.0
    max_examples = 10

    def open_store(self, location):
        return opened_memory(Slow, location)


def test_a_test_borrows_time_of_the_others_until_it_has_tried_enough():
    """Its own part of the budget would be 0.5 s."""
    HungryTests().test_s9()

    assert 0 < HungryTests._spent < 20
    assert StoreConformance._spent == 0


# --- deviations -----------------------------------------------------------------------------------


def test_a_declared_deviation_is_no_failure():
    """It is tried all the same, and a reader of the report sees what and why."""
    broken = BY_NAME["case-insensitive"]
    report = check(broken.open_store, "S6", "S9", deviations={"S6": "SQL Server", "S9": "not true"})

    report.raise_if_failed()
    assert report.is_conformant
    assert report.failures == ()
    assert [(failure.clause, failure.deviation) for failure in report.deviations] == [("S6", "SQL Server")]
    assert [(passed.clause, passed.deviation) for passed in report.passed] == [("S9", "not true")]
    assert " S6  deviates SQL Server: " in str(report)


class DeviatingTests(StoreConformance):
    durable = False
    max_examples = 10
    deviations = {"S6": "SQL Server"}  # noqa: RUF012 - as users write it

    def open_store(self, location):
        return BY_NAME["case-insensitive"].open_store(location)


def test_a_test_of_a_declared_deviation_is_an_expected_failure():
    with pytest.raises(pytest.xfail.Exception, match="SQL Server: "):
        DeviatingTests().test_s6()


@pytest.mark.parametrize(
    ("deviations", "error", "message"),
    [
        ({"S99": "so"}, ValueError, "deviations: expected some of S1 to S18, got S99"),
        ({"S1": None}, TypeError, "deviations[S1]: expected a string, got NoneType"),
        ({"S1": " "}, ValueError, "deviations[S1]: expected a reason, got ' '"),
        (["S1"], TypeError, "deviations: expected a mapping of clauses to reasons, got list"),
    ],
)
def test_deviations_that_make_no_sense(deviations, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_store(open_memory, deviations=deviations)


def test_a_test_class_with_a_deviation_from_a_clause_that_there_is_not():
    """Each test looks at its own clause, so that nobody would notice."""

    class Mistyped(StoreConformance):
        durable = False
        deviations = {"s6": "it folds case"}  # noqa: RUF012 - as users write it

        def open_store(self, location):
            return open_memory(location)

    with pytest.raises(ValueError, match="deviations: expected some of S1 to S18, got s6"):
        Mistyped().test_s9()


def test_results_are_told_as_they_come():
    told = []

    report = check(open_memory, "S9", "S2", "S13", on_result=told.append)

    assert tuple(told) == report.results()
    assert [result.clause for result in told] == ["S2", "S9", "S13"]


# --- stores that take the process along, if they can ----------------------------------------------


class BlocksForEver(CorrectMemoryStore):
    async def last_seq(self):
        time.sleep(3_600)  # noqa: ASYNC251 - that is the defect


class SwallowsForEver(CorrectMemoryStore):
    async def last_seq(self):
        # Until the test is over: the thread that is left behind would slow down all tests after it.
        while not over:
            with suppress(trio.Cancelled):
                await trio.sleep_forever()


over = []


@pytest.mark.parametrize("kind", [BlocksForEver, SwallowsForEver])
def test_a_store_that_never_comes_back(kind, request):
    """Its thread is left behind; the report says what it was doing."""
    over.clear()
    request.addfinalizer(lambda: over.append(True))
    report = check(partial(opened_memory, kind), "S9", op_timeout=0.2)

    (failure,) = report.failures
    assert failure.message.startswith("last_seq: for ")
    assert "neither an end nor a reaction to being cancelled" in failure.message
    assert "await store.last_seq()" in failure.example


class Hangs(CorrectMemoryStore):
    async def query(self, query):
        await trio.sleep_forever()


def test_a_store_that_hangs():
    (failure,) = check(partial(opened_memory, Hangs), "S5", op_timeout=0.1).failures

    assert failure.message == "query took longer than 0.1 s"


def test_a_store_that_cannot_be_left():
    @asynccontextmanager
    async def open_store(location):
        yield MemoryStore()
        if opened:
            await trio.sleep_forever()
        opened.append(location)

    opened = []
    (failure,) = check(open_store, "S9", op_timeout=0.1).failures

    assert failure.message == "opening or leaving the store took longer than 0.1 s"


class Garbage(CorrectMemoryStore):
    async def query(self, query):
        await super().query(query)
        return "nothing"


def test_a_store_that_returns_garbage():
    (failure,) = check(partial(opened_memory, Garbage), "S10").failures

    assert failure.message == "EventQuery() returned str, expected a list of PersistedEvent"


class GarbagePages(MemoryStore):
    page: object = None

    async def query_page(self, query, *, max_bytes):
        await trio.lowlevel.checkpoint()
        return self.page


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ([], "query_page returned list, expected an EventPage of events"),
        (
            EventPage("nothing", True),
            "query_page returned an EventPage of str, expected an EventPage of events",
        ),
        (EventPage([], True), "query_page after seq 0 found 0 of 1200 events, with is_complete=True"),
        (EventPage([], False), "query_page after seq 0 found 0 of 1200 events, with is_complete=False"),
    ],
)
@pytest.mark.usefixtures("hardly_shrunk")
def test_a_store_whose_pages_are_garbage(page, message):
    @asynccontextmanager
    async def open_store(location):
        store = GarbagePages()
        store.page = page
        yield store

    (failure,) = check(open_store, "S5").failures

    assert failure.message == message
    assert "page = await store.query_page(EventQuery(after_seq=0), max_bytes=24000)" in failure.example


class Crashes(CorrectMemoryStore):
    async def query(self, query):
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError


def test_a_store_with_a_bug():
    (failure,) = check(partial(opened_memory, Crashes), "S10").failures

    assert failure.message == "query raised ZeroDivisionError()"


def test_a_background_task_that_crashes():
    """Its error comes out of the store in a group, around the Cancelled of the example."""

    @asynccontextmanager
    async def open_store(location):
        async def crash():
            await trio.sleep(0.01)
            raise ZeroDivisionError

        async with trio.open_nursery() as nursery:
            if opened:
                nursery.start_soon(crash)
            opened.append(location)
            yield MemoryStore()

    opened = []
    (failure,) = check(open_store, "S4", "S10").failures[:1]

    assert "ZeroDivisionError()" in failure.message
