"""`check`, as the author of a store uses it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile

import pytest

from tests._helpers.cli import Done, on_terminal
from trio_eventlog.cli._check_report import report_text
from trio_eventlog.testing import CLAUSES, CheckSettings, ClauseFailure, Growth, GrowthReport
from trio_eventlog.testing._fixtures import fixture_events
from trio_eventlog.testing._mutants import MUTANTS
from trio_eventlog.testing._report import report_of

STORES = """
from contextlib import asynccontextmanager

from trio_eventlog.stores import MemoryStore, SqliteStore


@asynccontextmanager
async def open_memory(location):
    yield MemoryStore()


class Inclusive(MemoryStore):
    async def query(self, query):
        import attrs

        after = query.after_seq
        return await super().query(attrs.evolve(query, after_seq=after - 1 if after else after))


@asynccontextmanager
async def open_broken(location):
    yield Inclusive()


class Slow(MemoryStore):
    async def query(self, query):
        import trio

        await trio.sleep(0.05)
        return await super().query(query)


@asynccontextmanager
async def open_slow(location):
    yield Slow()


class Stores:
    @staticmethod
    def open_file(location):
        return SqliteStore.open(location / "events.db")

    @staticmethod
    def open_reader(location):
        return SqliteStore.open(location / "events.db", read_only=True)


async def drop(location):
    (location.parent.parent / "dropped").touch()


async def not_decorated(location):
    yield MemoryStore()


number = 7
"""


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """A directory with a module of stores, which is the current one."""
    (tmp_path / "my_stores.py").write_text(STORES)
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield
    sys.modules.pop("my_stores", None)


@pytest.fixture
def check(cli, stores):
    """Runs `trio-eventlog check` in this process."""
    return lambda *arguments: cli("check", *arguments)


@pytest.fixture
def check_process(stores, tmp_path):
    """Runs `trio-eventlog check`, or a program, in a process of its own."""

    def run(*arguments, code=None):
        program = ["-m", "trio_eventlog", "check"] if code is None else ["-c", code]
        done = subprocess.run(
            [sys.executable, "-P", *program, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": ""},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def test_a_store_that_passes(check, tmp_path):
    clauses = ("--clause", "S5", "--clause", "S10", "--clause", "S11", "--clause", "S13")
    result = check("my_stores:open_memory", "--in-memory", *clauses, "--max-examples", "2", "--seed", "5")

    assert result.status == 0, result.err
    assert re.search(r"^S5 +passed +\d+ +\d+\.\d  Results pass all filters", result.out, re.MULTILINE)
    assert re.search(r"^S13 +skipped +the store is not durable$", result.out, re.MULTILINE)
    assert "left out: readers: no open_reader was given" in result.out
    assert re.search(r"3 clauses passed, 0 failed, 1 skipped in \d+\.\d s \(seed 5\)", result.out)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_store_that_fails(check, check_process):
    """The program that it prints runs as it is."""
    result = check("my_stores:open_broken", "--in-memory", "--clause", "s5", "--clause", "S9", "--seed", "1")

    assert result.status == 1
    assert re.search(r"^S5 +FAILED", result.out, re.MULTILINE)
    assert re.search(r"^S9 +passed", result.out, re.MULTILINE)
    assert "S6" not in result.out
    program = result.out.partition("# S5: ")[2].partition("1 clause passed")[0]
    assert "from my_stores import open_broken as open_store" in program
    assert not any(line.endswith(" ") for line in program.splitlines())
    again = check_process(code="import sys; sys.path.insert(0, '')\n# " + program)
    assert again.status == 1, again.err + program
    assert "AssertionError" in again.err


def test_a_durable_store_with_readers(check_process, tmp_path):
    """Methods of classes can be named, too; drop is called."""
    result = check_process(
        *(
            "my_stores:Stores.open_file",
            "--reader",
            "my_stores:Stores.open_reader",
            "--drop",
            "my_stores:drop",
        ),
        *(
            "--clause",
            "S13",
            "--max-examples",
            "1",
            "--budget",
            "40",
            "--op-timeout",
            "10",
        ),
    )

    assert result.status == 0, result.out + result.err
    assert "left out" not in result.out
    assert "1 clause passed, 0 failed, 0 skipped" in result.out
    assert (tmp_path / "tmp" / "dropped").exists()


def test_what_could_not_be_tried_in_time_is_no_pass(check):
    """Said loudly, and by an exit status of its own."""
    result = check("my_stores:open_slow", "--in-memory", "--clause", "S1", "--budget", "0.5")

    assert result.status == 3
    assert re.search(r"^S1 +NOT FINISHED", result.out, re.MULTILINE)
    assert re.search(r"repeats: tried \d of 20 examples", result.out)
    assert "Not everything could be tried within 0.5 s, so this is no pass: raise --budget." in result.out


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("columns", [20, 80])
def test_on_a_terminal_what_is_to_be_pasted_is_not_wrapped(columns):
    arguments = ["check", "my_stores:open_broken", "--in-memory", "--clause", "s5", "--seed", "1"]
    result = on_terminal(*arguments, columns=columns)
    plain = re.sub(r"\x1b\[[\d;?]*\w", "", result.out)
    program = "# S5: " + plain.partition("# S5: ")[2].partition("trio.run(main)")[0]

    assert result.status == 1
    assert max(map(len, program.splitlines())) > 80
    compile(program, "pasted.py", "exec")


def test_ctrl_c_shows_what_was_found_so_far(stores, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", UNTIL_S2, "my_stores:open_broken", "--in-memory", "--seed", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    out, err = child.communicate(timeout=60)

    assert child.returncode == 130, err
    assert re.search(r"^S1 +passed", out, re.MULTILINE), out
    assert re.search(r"^S15 +NOT FINISHED", out, re.MULTILINE)
    assert "not tried: interrupted" in out
    assert "Interrupted: this is what was found so far, and no pass." in out
    assert "Traceback" not in err


def test_ctrl_c_shows_which_wrappers_were_caught_so_far(stores, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", UNTIL_CAUGHT, "my_stores:open_memory", "--in-memory", "--mutate"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    out, err = child.communicate(timeout=60)

    assert child.returncode == 130, err
    assert re.search(r"^ S1  caught +the last write of an id wins: by S1", out, re.MULTILINE), out
    assert re.search(r"^INTERRUPTED: \d+ more were not tried$", out, re.MULTILINE)
    assert "Traceback" not in err


def test_a_message_of_several_lines_is_shown_as_such():
    """Histories have them; what a terminal could take for a command is still escaped."""
    message = "lost write: seq 1\n  writer: append_batch\x1b[2J of seq 1"
    about = {"clause": "S10", "sentence": CLAUSES["S10"], "check": "operations at once", "seed": 1}
    failure = ClauseFailure(
        **about, message=message, example="pass\n", intermittent=False, examples=1, seconds=0.1
    )
    settings = CheckSettings(durable=True, budget=1.0, op_timeout=1.0, max_examples=1)

    text = report_text(report_of([failure], seed=1, seconds=0.1, settings=settings))

    assert "\nlost write: seq 1\n  writer: append_batch\\x1b[2J of seq 1\n" in text


def test_files_for_other_programs(check, tmp_path):
    """Also where the store fails: a report of what broke is what they are for."""
    result = check(
        *("my_stores:open_broken", "--in-memory", "--clause", "S5", "--clause", "S6", "--seed", "1"),
        *("--deviation", "s6= it folds case", "--max-examples", "5"),
        *("--junit", "report.xml", "--json", "report.json", "--profile", "CONFORMANCE.md"),
    )

    assert result.status == 1
    assert "declared as a deviation (it folds case), but not seen to be one" in result.out
    assert '<testsuite name="my_stores:open_broken" tests="2" failures="1"' in (
        tmp_path / "report.xml"
    ).read_text(encoding="utf-8")
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["profile"]["deviations"] == {"S6": "it folds case"}
    assert report["profile"]["settings"]["max_examples"] == 5
    page = (tmp_path / "CONFORMANCE.md").read_text(encoding="utf-8")
    assert page.startswith("# Conformance of my\\_stores:open\\_broken\n")


def test_a_declared_deviation_is_no_failure(check):
    result = check(
        *("my_stores:open_broken", "--in-memory", "--clause", "S5", "--deviation", "S5=inclusive cursor"),
        *("--seed", "1"),
    )

    assert result.status == 0
    assert re.search(r"^S5 +deviates", result.out, re.MULTILINE)
    assert "0 failed, 1 deviate as declared" in result.out


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere/report.json", "cannot write nowhere/report.json: No such file or directory"),
        ("tmp", "cannot write tmp: Is a directory"),
        ("my_stores.py/report.json", "cannot write my_stores.py/report.json: Not a directory"),
    ],
)
def test_files_that_cannot_be_written(check, path, message):
    """That is found before the time is spent."""
    result = check("my_stores:open_memory", "--in-memory", "--clause", "S9", "--json", path)

    assert (result.status, result.out) == (1, "")
    assert message in result.err


def test_a_file_that_cannot_be_written_does_not_take_the_report_along(check):
    result = check(
        *("my_stores:open_memory", "--in-memory", "--clause", "S9", "--max-examples", "1"),
        *("--json", "/dev/full"),
    )

    assert result.status == 1
    assert "1 clause passed" in result.out
    assert "cannot write /dev/full: No space left on device" in result.err


def test_fixtures_are_written_and_checked(check, tmp_path):
    written = check("my_stores:Stores.open_file", "--write-fixtures", "fixtures")
    again = check("my_stores:Stores.open_file", "--write-fixtures", "fixtures")
    good = check("my_stores:Stores.open_file", "--fixtures", "fixtures")
    lines = (tmp_path / "fixtures" / "events.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "fixtures" / "events.jsonl").write_bytes(b"".join(lines[:-1]))
    bad = check("my_stores:Stores.open_file", "--fixtures", "fixtures")
    missing = check("my_stores:Stores.open_file", "--fixtures", "nowhere")

    assert (written.status, written.out) == (0, f"{len(fixture_events())} events written to fixtures\n")
    assert (again.status, good.status, bad.status, missing.status) == (1, 0, 1, 1)
    assert "--write-fixtures: fixtures is not empty" in again.err
    assert good.out.startswith(f"{len(fixture_events())} events, written by Python 3")
    assert "FAILED  as it was written: EventQuery() found seqs" in bad.out
    assert "--fixtures: nowhere/fixture.json: No such file or directory" in missing.err


def test_the_judge_is_judged(check, monkeypatch):
    """Here with two wrappers; all of them in the session for it."""
    chosen = ["the limit is off by one", "last_seq is too low"]
    monkeypatch.setattr(
        "trio_eventlog.testing._check_harness.MUTANTS", {name: MUTANTS[name] for name in chosen}
    )
    result = check("my_stores:open_memory", "--in-memory", "--mutate", "--seed", "1")

    assert result.status == 0, result.out + result.err
    assert re.search(r"^ S9  caught +last_seq is too low: by S9, last_seq in", result.out, re.MULTILINE)
    assert "2 of 2 caught, 0 skipped" in result.out


def test_growth_is_measured(check, monkeypatch):
    measured = []

    def measure(open_store):
        measured.append(open_store)
        return GrowthReport(
            sizes=(1_000, 100_000),
            rows=(Growth(operation="run_id", seconds=(0.001, 0.2), ratio=200.0, is_flat=False),),
        )

    monkeypatch.setattr("trio_eventlog.cli._check_run.measure_growth", measure)
    result = check("my_stores:open_memory", "--growth")

    assert result.status == 0
    assert len(measured) == 1
    assert re.search(r"^run_id +1\.00 +200\.00 +200\.0 +GROWS$", result.out, re.MULTILINE)


INTERRUPTED = """
import os, signal, sys
from trio_eventlog import testing
from trio_eventlog.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
{function} = testing.{function}

def checking(*args, on_result, **options):
    def tell(result):
        on_result(result)
        if {condition}:
            os.kill(os.getpid(), signal.SIGINT)
    return {function}(*args, on_result=tell, **options)

testing.{function} = checking
sys.argv[1:1] = ["check"]
main()
"""
UNTIL_CAUGHT = INTERRUPTED.format(function="check_harness", condition="True")
UNTIL_S2 = INTERRUPTED.format(function="check_store", condition="result.clause == 'S2'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["my_stores"],
            (
                "'my_stores' does not name a function; write MODULE:NAME, for example"
                " mypackage.stores:open_store"
            ),
        ),
        (["my_stores:"], "'my_stores:' does not name a function"),
        (
            ["nowhere:open_store"],
            "there is no module nowhere in the current directory or where Python looks for modules",
        ),
        (["my_stores.sub:open_store"], "there is no module my_stores.sub"),
        (["my_stores:nothing"], "my_stores has no nothing"),
        (["my_stores:number"], "my_stores:number is not a function (it is of type int)"),
        (["my_stores:not_decorated"], "expected it to return an async context manager, got async_generator"),
        (["my_stores:open_memory", "--clause", "S99"], "clauses: expected some of S1 to S18, got S99"),
        (["my_stores:open_memory", "--reader", "my_stores:nothing"], "my_stores has no nothing"),
        (["my_stores:open_memory", "--budget", "0"], "--budget"),
        (["my_stores:open_memory", "--max-examples", "0"], "--max-examples"),
        (["my_stores:open_memory", "--deviation", "S5"], "--deviation: 'S5' has no reason"),
        (
            ["my_stores:open_memory", "--deviation", "S99=so"],
            "deviations: expected some of S1 to S18, got S99",
        ),
        (["my_stores:open_memory", "--growth", "--mutate"], "only one of --mutate, --growth, --fixtures"),
        (["my_stores:open_memory", "--growth", "--json", "x"], "are for a check of the clauses"),
        (
            ["my_stores:open_memory", "--mutate", "--clause", "S5", "--max-examples", "3"],
            "--clause and --max-examples cannot be given with --mutate",
        ),
        (["my_stores:open_memory", "--growth", "--seed", "0"], "--seed cannot be given with --growth"),
        (["my_stores:open_memory", "--fixtures", "x", "--in-memory"], "--in-memory cannot be given with"),
        (["my_stores:open_memory", "--json", "x", "--junit", "./x"], "--junit and --json name the same file"),
        (["my_stores:open_memory", "--seed", "1.5"], "--seed: '1.5' is not an integer of 0 or more"),
        (["my_stores:open_memory", "--max-examples", "1.5"], "'1.5' is not an integer of 0 or more"),
        (["..my_stores:open_memory"], "'..my_stores:open_memory' does not name a function"),
        ([], "TARGET"),
    ],
)
def test_what_cannot_be_understood(check, arguments, message):
    result = check(*arguments)

    assert result.status == 2
    assert message in result.err.replace("\n", " ")
    assert "Traceback" not in result.err


def test_a_module_with_a_bug_shows_its_traceback(check_process, tmp_path):
    """Its author needs the line."""
    (tmp_path / "buggy.py").write_text("import no_such_thing\n")

    result = check_process("buggy:open_store")

    assert result.status == 1
    assert "import no_such_thing" in result.err


def test_without_hypothesis_it_says_what_to_install(check_process):
    result = check_process(
        code=(
            "import sys; sys.modules['hypothesis'] = None; sys.path.insert(0, '')\n"
            "from trio_eventlog.cli import main\n"
            "sys.argv = ['trio-eventlog', 'check', 'my_stores:open_memory']\n"
            "main()"
        )
    )

    assert result.status == 1
    assert "trio-eventlog: check needs Hypothesis: pip install 'hypothesis>=" in result.err
    assert "Traceback" not in result.err
