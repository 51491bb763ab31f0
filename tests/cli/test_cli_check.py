"""`trio-eventlog check`, as an implementer of a store runs it."""

import os
import re
import subprocess
import sys

import pytest

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
def check(tmp_path):
    """Run `trio-eventlog check` in a directory that has a module of stores."""
    (tmp_path / "my_stores.py").write_text(STORES)
    (tmp_path / "tmp").mkdir()

    def run(*arguments, code=None):
        program = ["-m", "trio_eventlog", "check"] if code is None else ["-c", code]
        return subprocess.run(
            [sys.executable, "-P", *program, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": ""},
        )

    return run


def test_a_store_that_passes(check, tmp_path):
    result = check("my_stores:open_memory", "--in-memory", "--max-examples", "2", "--seed", "5")

    assert result.returncode == 0, result.stderr
    assert re.search(r"^S5 +passed +\d+ +\d+\.\d  Results pass all filters", result.stdout, re.MULTILINE)
    assert re.search(r"^S13 +skipped +the store is not durable$", result.stdout, re.MULTILINE)
    assert "left out: readers: no open_reader was given" in result.stdout
    assert re.search(r"14 clauses passed, 0 failed, 1 skipped in \d+\.\d s \(seed 5\)", result.stdout)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_store_that_fails(check):
    """The program that it prints runs as it is."""
    result = check("my_stores:open_broken", "--in-memory", "--clause", "s5", "--clause", "S9", "--seed", "1")

    assert result.returncode == 1
    assert re.search(r"^S5 +FAILED", result.stdout, re.MULTILINE)
    assert re.search(r"^S9 +passed", result.stdout, re.MULTILINE)
    assert "S6" not in result.stdout
    program = result.stdout.partition("# S5: ")[2].partition("1 clause passed")[0]
    assert "from my_stores import open_broken as open_store" in program
    assert not any(line.endswith(" ") for line in program.splitlines())
    again = check(code="import sys; sys.path.insert(0, '')\n# " + program)
    assert again.returncode == 1, again.stderr + program
    assert "AssertionError" in again.stderr


def test_a_durable_store_with_readers(check, tmp_path):
    """Methods of classes can be named, too; drop is called."""
    result = check(
        *(
            "my_stores:Stores.open_file",
            "--reader",
            "my_stores:Stores.open_reader",
            "--drop",
            "my_stores:drop",
        ),
        *("--clause", "S10", "--clause", "S13", "--max-examples", "3", "--budget", "5", "--op-timeout", "10"),
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert "left out" not in result.stdout
    assert "2 clauses passed, 0 failed, 0 skipped" in result.stdout
    assert (tmp_path / "tmp" / "dropped").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["my_stores"],
            "'my_stores' names no function; write MODULE:NAME, for example mypackage.stores:open_store",
        ),
        (["my_stores:"], "'my_stores:' names no function"),
        (
            ["nowhere:open_store"],
            "there is no module nowhere, neither in the current directory nor where Python",
        ),
        (["my_stores.sub:open_store"], "there is no module my_stores.sub"),
        (["my_stores:nothing"], "my_stores has no nothing"),
        (["my_stores:number"], "my_stores:number is no function but int"),
        (["my_stores:not_decorated"], "expected it to return an async context manager, got async_generator"),
        (["my_stores:open_memory", "--clause", "S16"], "clauses: expected some of S1 to S15, got S16"),
        (["my_stores:open_memory", "--reader", "my_stores:nothing"], "my_stores has no nothing"),
        (["my_stores:open_memory", "--budget", "0"], "--budget"),
        (["my_stores:open_memory", "--max-examples", "0"], "--max-examples"),
        ([], "TARGET"),
    ],
)
def test_what_cannot_be_understood(check, arguments, message):
    result = check(*arguments)

    assert result.returncode == 2
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_a_module_with_a_bug_shows_its_traceback(check, tmp_path):
    """It is the implementer's, who needs the line."""
    (tmp_path / "buggy.py").write_text("import no_such_thing\n")

    result = check("buggy:open_store")

    assert result.returncode == 1
    assert "import no_such_thing" in result.stderr


def test_without_hypothesis_it_says_what_to_install(check):
    result = check(
        code=(
            "import sys; sys.modules['hypothesis'] = None; sys.path.insert(0, '')\n"
            "from trio_eventlog.cli import main\n"
            "sys.argv = ['trio-eventlog', 'check', 'my_stores:open_memory']\n"
            "main()"
        )
    )

    assert result.returncode == 1
    assert "trio-eventlog: check needs Hypothesis: pip install 'hypothesis>=" in result.stderr
    assert "Traceback" not in result.stderr
