"""What a report shows: programs that are short and can be pasted, messages that people read, and Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_eventlog
from tests._helpers.broken_stores import BROKEN
from tests._helpers.correct_stores import CorrectMemoryStore, open_file, open_memory, opened_memory
from trio_eventlog import AgentEvent, ModuleEvent, PersistedEvent
from trio_eventlog.stores import MemoryStore, SqliteStore
from trio_eventlog.testing import ClauseFailure, ConformanceInterrupted, check_store
from trio_eventlog.testing import persisted_events as drawn_events
from trio_eventlog.testing._code import code_of, shortened
from trio_eventlog.testing._importing import opening_of
from trio_eventlog.testing._model import canonical

BY_NAME = {broken.name: broken for broken in BROKEN}


def evaluated(code):
    return eval(code, vars(trio_eventlog).copy())  # noqa: S307 - that is the test


# --- values as Python -----------------------------------------------------------------------------


def numbered(seq, *, event_id="id-#", timestamp=1_000, payload=None):
    event_id = event_id.replace("#", str(seq))
    return PersistedEvent(event_id, seq, timestamp, None, ModuleEvent("m", "t", payload))


@given(
    st.lists(st.integers(-5, 40), max_size=60)
    | st.builds(lambda first, count: list(range(first, first + count)), st.integers(), st.integers(0, 50))
)
def test_numbers_read_back_as_they_were(numbers):
    assert evaluated(code_of(numbers)) == numbers
    assert evaluated(code_of(set(numbers))) == set(numbers)


_RUNS = st.builds(
    lambda first, count, event_id, payload: [
        numbered(seq, event_id=event_id, payload={"n": seq, "other": 3} if payload else None)
        for seq in range(first, first + count)
    ],
    st.integers(1, 30),
    st.integers(0, 30),
    st.sampled_from(("id-#", "#", "{#}", "a#", "'#\"\\#", "\x00#", "x")),
    st.booleans(),
)


@given(st.lists(_RUNS | st.lists(drawn_events(), max_size=3), max_size=4))
def test_events_read_back_as_they_were(runs):
    """Whatever is written as a rule is that rule."""
    events = [event for run in runs for event in run]

    assert list(map(canonical, evaluated(code_of(events)))) == list(map(canonical, events))


@pytest.mark.parametrize(
    "events",
    [
        [numbered(seq) for seq in range(1, 5_001)],
        [*(numbered(seq) for seq in range(1, 5_000)), numbered(5_000, event_id="taken")],
        [numbered(1, event_id="first"), *(numbered(seq, event_id="#") for seq in range(2, 3_000))],
        [numbered(seq, payload={"n": seq}, event_id="a'#") for seq in range(1_000, 4_000)],
        [
            PersistedEvent(f"{seq}", seq, seq, f"w{seq}", AgentEvent(f"w{seq}", "t"))
            for seq in range(1, 1_000)
        ],
    ],
    ids=["plain", "the last is another", "the first is another", "payloads", "agents"],
)
def test_thousands_of_events_are_a_few_lines(events):
    code = code_of(events)

    assert len(code) < 400, code[:1_000]
    if not events[0].id.startswith("1"):
        assert evaluated(code) == events


def test_thousands_of_seqs_are_a_few_ranges():
    seqs = [*range(1, 3_000), *range(3_001, 6_000)]

    assert code_of(seqs) == "[*range(1, 3000), *range(3001, 6000)]"
    assert code_of(set(seqs)) == "{*range(1, 3000), *range(3001, 6000)}"
    assert code_of({*range(1, 3_000)}) == "set(range(1, 3000))"


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("seqs [1, 2, 3] are stored", "seqs [1, 2, 3] are stored"),
        (
            f"names seqs {list(range(1, 3_001))}, expected [1]",
            "names seqs [1, 2, 3, 4, 5 and 2,995 more], expected [1]",
        ),
        (f"one of {set(range(20))}", "one of {0, 1, 2, 3, 4 and 15 more}"),
        ("x" * 3_000, f"{'x' * 750} ... (1,500 characters left out) ... {'x' * 750}"),
    ],
)
def test_messages_are_for_people(message, short):
    assert shortened(message) == short


class ForgetsOneInFifteenHundred(MemoryStore):
    """Its seqs have no rule that would make them short."""

    async def query(self, query):
        return (await super().query(query))[:1_199]


@asynccontextmanager
async def open_forgetful(location):
    yield ForgetsOneInFifteenHundred()


@pytest.mark.usefixtures("_hardly_shrunk")
def test_a_finding_with_thousands_of_seqs_is_short():
    (failure,) = check_store(open_forgetful, durable=False, clauses=["S5"], budget=60, seed=1).failures

    assert isinstance(failure, ClauseFailure)
    assert len(failure.message) < 200
    assert len(failure.example) < 2_000
    compile(failure.example, "example.py", "exec")


class ReturnsThousands(MemoryStore):
    async def append_batch(self, events):
        await super().append_batch(events)
        return list(range(3_000))


@asynccontextmanager
async def open_talkative(location):
    yield ReturnsThousands()


@pytest.mark.usefixtures("_hardly_shrunk")
def test_a_message_with_thousands_of_seqs_names_the_first_five():
    (failure,) = check_store(open_talkative, durable=False, clauses=["S1"], budget=60, seed=1).failures

    assert "append_batch returned [0, 1, 2, 3, 4 and 2,995 more], expected []" in failure.message
    assert "2999" not in failure.example


@pytest.fixture
def _hardly_shrunk(monkeypatch):
    monkeypatch.setattr("trio_eventlog.testing._search.shrink_seconds", lambda allotted: 0.2)


# --- open_store -----------------------------------------------------------------------------------


@attrs.frozen
class Opener:
    name: str

    def __call__(self, location):
        return open_memory(location)


class Openers:
    def method(self, location):
        return open_memory(location)

    @staticmethod
    def static(location):
        return open_memory(location)

    @classmethod
    def of_class(cls, location):
        return open_memory(location)


class WithState(Openers):
    def __init__(self):
        self.server = object()


@pytest.mark.parametrize(
    "function",
    [
        open_memory,
        SqliteStore.open,
        Openers().method,
        Openers.static,
        Openers.of_class,
        partial(opened_memory, CorrectMemoryStore),
        partial(SqliteStore.open, log="a", synchronous="off"),
        partial(partial(open_file), location=Path("x")),
        partial(trio_eventlog.stores.open_store, "sqlite:events.db?log=a"),
        Opener("a"),
    ],
    ids=lambda function: re.sub(r" at 0x\w+", "", str(function)),
)
def test_what_another_program_can_import(function):
    """The statements give something that is the same, or does the same."""
    opening = opening_of(function)
    namespace = {}
    exec(opening.code, namespace)  # noqa: S102 - that is the test
    found = namespace["open_store"]

    assert opening.problem is None
    assert "pickle" not in opening.code
    if isinstance(function, partial):
        assert (found.func, found.args, found.keywords) == (
            function.func,
            function.args,
            function.keywords,
        )
    elif hasattr(function, "__self__"):
        assert found.__func__ is function.__func__
    else:
        assert found == function


def test_a_private_module_is_not_named_where_a_public_one_has_it():
    assert "from trio_eventlog.stores.sqlite import SqliteStore" in opening_of(SqliteStore.open).code


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda location: None, "it is a lambda"),
        (test_messages_are_for_people.__class__(compile("0", "f", "eval"), {}), "it is a lambda"),
        (WithState().method, "a method of an object of WithState, which has a state of its own"),
        (partial(open_memory, object()), "an object of object, which cannot be written as Python"),
    ],
    ids=["lambda", "exec", "state", "argument"],
)
def test_what_no_program_can_import_is_said_plainly(function, problem):
    opening = opening_of(function)
    if "pickle" in opening.code:
        # The next best thing: it is there, though nobody can read it.
        assert opening.problem is None
        return
    namespace = {}
    exec(opening.code, namespace)  # noqa: S102 - that is the test

    assert problem in opening.problem
    with pytest.raises(NotImplementedError, match="put your own open_store here"):
        namespace["open_store"](Path())


def test_a_function_of_a_function():
    async def open_store(location):  # noqa: ASYNC900 - never called
        yield

    assert opening_of(open_store).problem == (
        "open_store is defined inside test_a_function_of_a_function, so that no other program can import it"
    )


SCRIPT = """
from contextlib import asynccontextmanager

from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import check_store


class Broken(MemoryStore):
    async def query(self, query):
        return (await super().query(query))[:1]


@asynccontextmanager
async def open_store(location):
    yield Broken()


if {guard}:
    report = check_store(open_store, durable=False, clauses=["S2"], budget=5, seed=1)
    print(report.failures[0].example)
"""


def run_python(*arguments, cwd):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(trio_eventlog.__file__).parents[1])},
    )


@pytest.mark.parametrize("as_module", [False, True], ids=["script", "python -m"])
def test_a_function_of_the_main_module_is_imported(as_module, tmp_path):
    """The program is pasted somewhere else, and fails because the store is broken."""
    (tmp_path / "my_script.py").write_text(SCRIPT.format(guard='__name__ == "__main__"'))
    (tmp_path / "elsewhere").mkdir()
    done = run_python(*(["-m", "my_script"] if as_module else ["my_script.py"]), cwd=tmp_path)
    assert "NotImplementedError" not in done.stdout, done.stdout + done.stderr

    pasted = run_python("-c", done.stdout, cwd=tmp_path / "elsewhere")

    assert pasted.stderr.strip().splitlines()[-1].startswith("AssertionError"), pasted.stderr + done.stdout


def test_a_script_without_a_guard_ends_and_says_so(tmp_path):
    """Imported by a child process, it would check the store again, and so on."""
    (tmp_path / "my_script.py").write_text(SCRIPT.format(guard="True"))

    done = run_python("my_script.py", cwd=tmp_path)

    assert 'call it below `if __name__ == "__main__":`' in done.stdout, done.stdout + done.stderr


# --- Ctrl-C ---------------------------------------------------------------------------------------


class Interrupting(MemoryStore):
    """Stands for a person that loses patience after some queries."""

    queries = 0

    async def query(self, query):
        Interrupting.queries += 1
        if Interrupting.queries == 70:
            os.kill(os.getpid(), signal.SIGINT)
        return await super().query(query)


@asynccontextmanager
async def open_interrupting(location):
    yield Interrupting()


@pytest.mark.parametrize("is_lost", [False, True], ids=["heard", "lost in a callback"])
def test_what_was_found_before_ctrl_c(is_lost):
    """The clauses that were done, the one at work, and those that were not come to."""
    Interrupting.queries = 0
    handler = signal.signal(signal.SIGINT, (lambda *_: None) if is_lost else signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            check_store(open_interrupting, durable=False, clauses=["S1", "S2", "S9"], seed=1)
    finally:
        signal.signal(signal.SIGINT, handler)

    interrupted = caught.value
    assert isinstance(interrupted, ConformanceInterrupted)
    report = interrupted.report
    assert report.interrupted
    assert not report.is_conformant
    assert [result.clause for result in report.results()] == ["S1", "S2", "S9"]
    assert report.unfinished[-1].unfinished == ("not tried: interrupted",)
    assert "INTERRUPTED: this is no pass" in str(interrupted)


class BrokenAndInterrupting(Interrupting):
    async def query(self, query):
        return (await super().query(query))[:2]


@asynccontextmanager
async def open_broken_and_interrupting(location):
    yield BrokenAndInterrupting()


def test_ctrl_c_while_a_failure_is_shrunk_shows_the_failure():
    Interrupting.queries = 60
    with pytest.raises(ConformanceInterrupted) as caught:
        check_store(open_broken_and_interrupting, durable=False, clauses=["S2", "S9"], seed=1)

    (failure,) = caught.value.report.failures
    assert failure.clause == "S2"
    assert failure.example in str(caught.value)
