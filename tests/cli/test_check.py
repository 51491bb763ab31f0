"""`check`, as the author of a store uses it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

import pytest

from tests._helpers.cli import Done

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
    result = check("my_stores:open_memory", "--in-memory", "--max-examples", "2", "--seed", "5")

    assert result.status == 0, result.err
    assert re.search(r"^S5 +passed +\d+ +\d+\.\d  Results pass all filters", result.out, re.MULTILINE)
    assert re.search(r"^S13 +skipped +the store is not durable$", result.out, re.MULTILINE)
    assert "left out: readers: no open_reader was given" in result.out
    assert re.search(r"14 clauses passed, 0 failed, 2 skipped in \d+\.\d s \(seed 5\)", result.out)
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
        *("--clause", "S10", "--clause", "S13", "--max-examples", "3", "--budget", "5", "--op-timeout", "10"),
    )

    assert result.status == 0, result.out + result.err
    assert "left out" not in result.out
    assert "2 clauses passed, 0 failed, 0 skipped" in result.out
    assert (tmp_path / "tmp" / "dropped").exists()


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
        (["my_stores:open_memory", "--clause", "S17"], "clauses: expected some of S1 to S16, got S17"),
        (["my_stores:open_memory", "--reader", "my_stores:nothing"], "my_stores has no nothing"),
        (["my_stores:open_memory", "--budget", "0"], "--budget"),
        (["my_stores:open_memory", "--max-examples", "0"], "--max-examples"),
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
