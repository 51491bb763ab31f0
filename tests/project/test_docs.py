"""The documentation is true: its programs run, its commands print what it shows, its lists are complete.

A page is run from top to bottom in a directory of its own, so that a command may use what a program above it
has written. The files ``examples/*.jsonl`` are there from the start. What is run:

* fences marked ``python``: complete programs, run as ``__main__``
* ``literalinclude`` of a Python file
* fences marked ``console``: what follows ``$`` is run, and what stands below it is compared with its output

Comments before a fence, which no reader sees, say what else is needed:

* ``<!-- setup: log -->``: the fence is a fragment of an async function in which ``log`` is open on a
  :class:`MemoryStore` and every public name is imported
* ``<!-- output -->``: the fence is what the program above it prints
* ``<!-- terminal -->``: the commands print to a terminal, 96 columns wide
* ``<!-- status: N -->``: the last command exits with N
"""

import ast
import contextlib
import enum
import importlib
import inspect
import io
import os
import pty
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import apsw
import attrs
import pytest
import trio

import trio_eventlog
from tests._helpers.cli import run_main
from tests._helpers.pages import ROOT, Fence, fences, normal, run_program
from trio_eventlog.stores import MemoryStore
from trio_eventlog.stores.sqlite import _worker
from trio_eventlog.testing._checks import CHECKS

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("[!_]*/*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

SETUP_COMMANDS = {
    "python3 -m venv .venv && .venv/bin/pip install -q '.[cli]' && .venv/bin/trio-eventlog demo",
    'python3 -m venv .venv && .venv/bin/pip install -q ".[cli]" && .venv/bin/trio-eventlog demo',
    "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s tests",
    'pip install ".[cli]"',
    'pip install ".[audit,cli]"',
    "pip install .",
}
"""Shell commands that need a fresh environment. CI runs the tests by one of them."""


# --- running a page -------------------------------------------------------------------------------


def run_fragment(source: str, page: Path, line: int) -> str:
    """Run a fragment of an async function, with an open log."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile("\n" * (line - 1) + source, page, "exec", flags=flags, dont_inherit=True)

    async def main() -> None:
        async with trio_eventlog.open_event_log(MemoryStore()) as log:
            names = {name: getattr(trio_eventlog, name) for name in dir(trio_eventlog) if name[0] != "_"}
            result = eval(code, {**names, "trio": trio, "log": log})  # noqa: S307 - as above
            if inspect.isawaitable(result):
                await result

    with contextlib.redirect_stdout(io.StringIO()) as output:
        trio.run(main)
    return output.getvalue()


def commands_of(text: str) -> list[tuple[str, str]]:
    """The commands of a console fence, each with the output that is shown."""
    parts = re.split(r"^\$ ((?:[^\n]*\\\n)*[^\n]*)\n", text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a console fence starts with a command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def run_command(command: str, *, terminal: bool) -> tuple[int, str]:
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "COLUMNS": "96",
    }
    if terminal:
        environment["TERM"] = "xterm"
    # A real terminal where one is meant: colours can be forced into a pipe, and say nothing about it.
    reading, writing = pty.openpty() if terminal else os.pipe()
    with (
        open(reading, "rb", buffering=0) as output,  # noqa: PTH123 - a descriptor
        subprocess.Popen(
            ["bash", "-c", f"set -o pipefail; {command}"],  # noqa: S607 - wherever it is
            env=environment,
            stdout=writing,
            # As on a screen, where both come together.
            stderr=writing,
            stdin=subprocess.DEVNULL,
        ) as process,
    ):
        os.close(writing)
        printed = b""
        # Linux reports the end of a terminal as an error.
        with contextlib.suppress(OSError):
            while part := output.read(65536):
                printed += part
        return process.wait(60), printed.decode().replace("\r\n", "\n")


def run_console(fence: Fence, page: Path) -> None:
    commands = commands_of(fence.text)
    for index, (command, shown) in enumerate(commands):
        status, output = run_command(command, terminal="terminal" in fence.notes)
        expected = int(fence.notes.get("status", "0")) if index == len(commands) - 1 else 0
        assert status == expected, f"{page}:{fence.line}: {command}\n{output}"
        if shown.strip():
            assert normal(shown) == normal(output), f"{page}:{fence.line}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch):
    """From top to bottom, like a reader who types everything."""
    monkeypatch.chdir(tmp_path)
    for path in (ROOT / "examples").glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    output = None
    for fence in fences(page):
        if fence.language == "python" and "setup" in fence.notes:
            assert fence.notes["setup"] == "log"
            output = run_fragment(fence.text, page, fence.line)
        elif fence.language == "python":
            output = run_program(fence.text, page, fence.line)
        elif fence.language.startswith("{literalinclude}") and fence.language.endswith(".py"):
            with contextlib.redirect_stdout(io.StringIO()) as captured:
                runpy.run_path(str(page.parent / fence.language.split()[1]), run_name="__main__")
            output = captured.getvalue()
        elif fence.language == "console":
            run_console(fence, page)
        elif fence.language == "sh":
            assert fence.text.strip() in SETUP_COMMANDS
        elif "output" in fence.notes:
            assert output is not None, f"{page}:{fence.line}: output of what?"
            assert normal(fence.text) == normal(output), f"{page}:{fence.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_fences_say_what_they_are(page):
    """A block without a language, or with one that nobody runs, would go unchecked."""
    known = {"python", "console", "sh", "text", "json", "sql", "toml"}
    for fence in fences(page):
        assert fence.language in known or fence.language.startswith("{"), f"{page}:{fence.line}"


COMMANDS = (
    *("ingest", "query", "tail", "tasks", "stats", "verify", "prune", "copy", "export", "demo"),
    *("check", "check-history", "keygen", "seal", "prove", "check-proof", "erase", "backup"),
    *("restore", "adopt", "serve"),
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_sentences_exist(page):
    named = re.findall(r"`trio-eventlog ([a-z-]+)\b[^`\n]*`", page.read_text())

    assert set(named) <= set(COMMANDS)


# --- lists are complete ---------------------------------------------------------------------------


def page_text(name):
    return (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize(
    ("page", "letter", "count"), [("reference/contract.md", "S", 18), ("explanation/guarantees.md", "L", 12)]
)
def test_every_clause_has_its_heading(page, letter, count):
    """In order, each with an anchor of its name."""
    text = page_text(page)
    numbers = [int(number) for number in re.findall(rf"^### {letter}(\d+): \S", text, flags=re.MULTILINE)]

    anchors = [int(number) for number in re.findall(rf"^\({letter}(\d+)\)=$", text, flags=re.MULTILINE)]
    assert numbers == anchors == list(range(1, count + 1))


@pytest.fixture
def help_of(monkeypatch, capfd):
    """What the command line prints for ``--help``, run in this process."""
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "96")

    def run(*command):
        assert run_main(*command, "--help") == 0
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_of_the_command_line_names_every_option(command, help_of):
    text = help_of(command)
    _, _, rest = page_text("reference/cli.md").partition(f"## `trio-eventlog {command}`\n")
    section, _, _ = rest.partition("\n## ")
    panel = re.findall(r"^│.*│$", text, flags=re.MULTILINE)

    options = {option for line in panel for option in re.findall(r"--[a-z][a-z-]+", line)}
    documented = set(re.findall(r"^\| `?.*?\|", section, flags=re.MULTILINE))
    assert options
    assert options == {option for cell in documented for option in re.findall(r"--[a-z][a-z-]+", cell)}


def test_no_command_is_left_out(help_of):
    """Of the reference, and so of the checks above."""
    text = help_of()

    assert set(re.findall(r"^│ ([a-z][a-z-]+) ", text, flags=re.MULTILINE)) == set(COMMANDS)


def test_the_table_of_checks_is_that_of_the_code():
    """Of every clause, in order."""
    _, _, table = page_text("reference/testing.md").partition("| clause | check | ")
    rows = re.findall(r"^\| (?:\[(S\d+)\]\(#S\d+\) )?\| ([^|]+?) \|", table, flags=re.MULTILINE)
    documented = []
    for clause, name in rows:
        documented.append((clause or documented[-1][0], name))

    assert [(check.clause, check.name) for check in CHECKS] == documented


def test_the_table_of_driver_errors_is_that_of_the_code():
    """Each of them is there, and says which may pass."""
    rows = re.findall(r"^\| (`.*) \| `(\w+)`[^|]*\|$", page_text("reference/stores.md"), re.MULTILINE)
    documented = {
        name: outcome
        for errors, outcome in rows
        for name in re.findall(r"`(\w+(?:Error|Abort))`", errors)
        if outcome in ("StoreError", "StoreUnusable")
    }
    kinds = [MemoryError, *apsw.Error.__subclasses__()]

    # All events of a batch are too large, or none is.
    assert {kind.__name__ for kind in kinds} - set(documented) == {"TooBigError"}
    for kind in kinds:
        expected = type(_worker.store_error("log.db", kind("why"))).__name__
        assert documented.get(kind.__name__, "StoreUnusable") == expected


def test_the_reference_describes_every_field():
    """Sphinx does not look for them where the private modules define them: ``docs/conf.py`` has it do so."""
    pytest.importorskip("sphinx")
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    conf["adopt_attribute_docs"]()
    checked = 0
    for module in conf["PUBLIC_MODULES"]:
        described = conf["ModuleAnalyzer"].for_module(module).attr_docs
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            if attrs.has(value):
                fields = [field.name for field in attrs.fields(value) if field.name[0] != "_"]
            elif isinstance(value, enum.EnumType):
                fields = list(value.__members__)
            else:
                continue
            for field in fields:
                checked += 1
                is_in_class = re.search(rf"^ +{field}: \S", inspect.getdoc(value), re.MULTILINE)
                assert is_in_class or described.get((name, field)), f"{module}.{name}.{field}"
    assert checked > 100


def test_every_fault_names_the_tests_that_show_it():
    """The last cell of each row, and nothing but rows that have one."""
    link = r"\[`(test_\w+)`\]\(\.\./\.\./(tests/[\w/]+\.py)\)"
    text = page_text("explanation/what-can-go-wrong.md")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| --- |" not in line]
    faults = [row for row in rows if not row.startswith("| fault |")]

    assert len(faults) > 40
    for row in faults:
        assert row.count(" | ") == 4
        cell = row.removesuffix(" |").rsplit(" | ", 1)[1]
        assert re.fullmatch(rf"{link}(?:, {link})*", cell), row
        for name, path in re.findall(link, cell):
            assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), row
    # One fault, one row.
    shown = [row.split(" | ", 1)[0] for row in faults if not row.startswith(("| The same", "| It "))]
    assert len(shown) == len(set(shown))


def test_every_threat_names_a_test():
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)

    assert len(named) > 8
    for path, name in named:
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


def test_every_reason_for_a_loss_is_explained():
    text = page_text("explanation/guarantees.md")

    for reason in trio_eventlog.LossReason:
        assert f"`{reason}`" in text


def test_the_readme_names_the_oldest_python():
    """The one that the metadata asks for."""
    minimum = metadata("trio-eventlog")["Requires-Python"].removeprefix(">=")

    assert f"Python {minimum} or newer" in (ROOT / "README.md").read_text()
    assert f"Python {minimum} or newer" in page_text("tutorial/index.md")
