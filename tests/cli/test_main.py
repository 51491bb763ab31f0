"""The program itself: help, versions, invalid command lines, exit statuses, and logs that do not exist."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import trio_eventlog.cli._app
from tests._helpers.cli import (
    PROGRAM,
    SECONDS,
    Done,
    many,
    standard_output,
    stored,
)
from trio_eventlog import (
    StoreError,
    to_json,
)
from trio_eventlog.cli import (
    _inspect,
    _prune,
    main,
)
from trio_eventlog.cli._terminal import CommandError
from trio_eventlog.stores import MemoryStore, NullStore


@pytest.mark.parametrize("module", ["trio_eventlog", "trio_eventlog.cli"])
def test_runs_as_a_module(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("trio-eventlog ")


def test_version_when_it_is_not_installed(cli, monkeypatch):
    def not_installed(name):
        raise trio_eventlog.cli._app.PackageNotFoundError(name)

    monkeypatch.setattr(trio_eventlog.cli._app, "version", not_installed)
    assert cli("--version").out.startswith("trio-eventlog (not installed, running from source; ")


@pytest.mark.parametrize("setting", ["1", "0", ""])
def test_version_says_whether_the_core_is_used(setting, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "trio_eventlog", "--version"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
        cwd=tmp_path,  # not where the source tree would be imported, in which nothing was compiled
        env={**os.environ, "TRIO_EVENTLOG_PURE": setting},
    )
    expected = "with its core in C" if was_compiled() and setting != "1" else "pure Python"
    assert done.stdout == f"trio-eventlog {trio_eventlog.__version__} ({expected})\n"


def was_compiled():
    return importlib.util.find_spec("trio_eventlog._speedups._core") is not None


def test_arguments_come_from_the_command_line(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["trio-eventlog", "--version"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert capfd.readouterr().out.startswith("trio-eventlog ")


def test_help(cli):
    done = cli("--help")
    assert done.status == 0
    for expected in ("demo", "ingest", "query", "stats", "Exit status"):
        assert expected in done.out
    assert cli().out == done.out


@pytest.mark.parametrize("command", ["demo", "ingest", "query", "stats"])
def test_help_of_a_command_has_examples(cli, command):
    done = cli(command, "--help")
    assert done.status == 0
    assert "Examples:" in done.out
    assert f"trio-eventlog {command}" in done.out.partition("Examples:")[2]


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_says_which_extra_is_missing(monkeypatch, cli, missing):
    for name in list(sys.modules):
        if name.startswith(("trio_eventlog.cli.", f"{missing}.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    done = cli("--version")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"trio-eventlog: the command line needs {missing}; install it with: ")
    assert done.err.endswith(" pip install 'cyclopts>=5' 'rich>=13.6'\n")


def test_another_missing_module_is_a_bug(monkeypatch):
    monkeypatch.delitem(sys.modules, "trio_eventlog.cli._app")
    monkeypatch.setitem(sys.modules, "trio_eventlog.cli._options", None)
    with pytest.raises(ModuleNotFoundError):
        main(["--version"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ingets"], 'Unknown command "ingets". Did you mean "ingest"'),
        (["query"], "--store requires an argument"),
        (["ingest", "a.jsonl", "--stroe", "null:"], "unknown option --stroe"),
        (["ingest", "--store", "null:", "--", "-a.jsonl"], "for a file of this name write ./-a.jsonl"),
        (["query", "--store", "events.db"], "--store: 'events.db' is no store URL"),
        (["query", "--store", "memory:"], "--store: memory: starts empty"),
        (["ingest", "--store", "sqlite:x?log"], "--store: option 'log'"),
        (["query", "--store", "sqlite:x", "--since", "yesterday"], "--since: 'yesterday' is not a time"),
        (["query", "--store", "sqlite:x", "--latest", "3", "--limit", "3"], "--latest, --limit: only one"),
        (["query", "--store", "sqlite:x", "--latest", "3", "--all-logs"], "--latest, --all-logs: only one"),
        (["query", "--store", "sqlite:x", "--latest", "x"], "--latest: 'x' is not an integer of 0 or more"),
        (["query", "--store", "sqlite:x", "--field", "name"], "--field: expected KEY=VALUE, got 'name'"),
        (["query", "--store", "sqlite:x", "--field", "k=Ada"], "in quotes, as in 'k=\"Ada\"'"),
        (["query", "--store", "sqlite:x", "--field", "k=NaN"], "NaN is not a JSON number"),
        (["query", "--store", "sqlite:x", "--field", 'k={"a":1,"a":1}'], "a key appears twice"),
        (["query", "--store", "sqlite:x", "--field", "k=1", "--field", "k=1"], "'k' is given twice"),
        (["query", "--store", "sqlite:x", "--field", f"k={2**64}"], "fields.k: integer 18446744073709551616"),
        (["query", "--store", "sqlite:x", "--fields", "k=1"], "Did you mean --field?"),
        (["query", "--store", "sqlite:x", "--until", "1969-12-31"], "--until: 1969-12-31 is before 1970"),
        (["query", "--store", "sqlite:x", "--limit", "1.5"], "--limit: '1.5' is not an integer of 0 or more"),
        (["query", "--store", "sqlite:x", "--limit=-1"], "--limit: '-1' is not an integer of 0 or more"),
        (["query", "--store", "sqlite:x", f"--after-seq={2**64}"], "after_seq: expected 0 to 2**64 - 1"),
        (["stats", "--store", "sqlite:x", "--top=-1"], "--top"),
        (["demo", "--seconds", "0"], "--seconds"),
        (["query", "--stroe", "nats://me:secret@n1/S"], "--stroe"),
        (["query", "nats://me:secret@n1/S", "--store", "sqlite:x"], "nats://***@n1/S"),
        (["query", "--store", "nats://me:secret@n1"], "--store: 'nats://***@n1' names no stream"),
        (
            ["copy", "--from", "nats://me:secret@n1", "--to", "null:"],
            "--from: 'nats://***@n1' names no stream",
        ),
    ],
)
def test_a_wrong_command_line(cli, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert "secret" not in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_bug_is_not_hidden(monkeypatch):
    def buggy(_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(trio_eventlog.cli._app, "app", buggy)
    with pytest.raises(ZeroDivisionError):
        main(["stats"])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130),
        (ExceptionGroup("", [ExceptionGroup("", [StoreError("disk full")])]), 1),
    ],
)
def test_status_of_an_error(monkeypatch, cli, error, status):
    def failing(_arguments, **_options):
        raise error

    monkeypatch.setattr(trio_eventlog.cli._app, "app", failing)
    assert cli("stats").status == status


@pytest.mark.parametrize("arguments", [["--help"], ["query", "--help"]])
def test_help_ends_quietly_without_a_reader(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, *arguments], stdout=writing, stderr=subprocess.PIPE, timeout=SECONDS, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize(
    "command", ["query --store", "stats --store", "verify --store", "--help", "--version"]
)
def test_commands_say_that_they_cannot_write(cli, filled, command, is_buffered):
    # At the end the stream is closed, as on leaving Python, and then must not fail once more.
    with standard_output(Path("/dev/full"), buffering=-1 if is_buffered else 1):
        done = cli(*command.split(), *([filled] if "--store" in command else []))
    assert done.status == 1
    assert done.err == "trio-eventlog: cannot write to standard output: No space left on device\n"


def test_a_process_says_that_it_cannot_write(filled):
    """Once, on leaving Python too."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*PROGRAM, "query", "--store", filled],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
        )
    assert done.returncode == 1
    assert done.stderr == b"trio-eventlog: cannot write to standard output: No space left on device\n"


SECRET_URL = "postgresql://me:secret@db/app?log=a"  # noqa: S105 - opens nothing


@pytest.mark.parametrize(
    ("store", "arguments", "shown"),
    [
        (MemoryStore, ["stats"], "store             postgresql://***@db/app?log=a"),
        (MemoryStore, ["stats", "--json"], '{"store": "postgresql://***@db/app?log=a"'),
        (
            MemoryStore,
            ["verify"],
            "trio-eventlog: postgresql://***@db/app?log=a: stores of this kind cannot be verified",
        ),
        (
            NullStore,
            ["prune", "--keep", 1],
            "postgresql://***@db/app?log=a: stores of this kind cannot be pruned",
        ),
        (
            MemoryStore,
            ["demo", "--seconds", 0.2],
            "they log to postgresql://***@db/app?log=a, which fails for a while",
        ),
    ],
)
def test_secrets_are_not_shown(cli, use_store, store, arguments, shown):
    use_store(store())
    done = cli(*arguments, "--store", SECRET_URL)
    assert shown in done.out + done.err
    assert "secret@" not in done.out + done.err


def test_urls_name_files(cli, tmp_path):
    database = tmp_path / "a b%?.db"
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(1))
    for url in (f"sqlite:{tmp_path}/a%20b%25%3F.db", f"SQLITE://{tmp_path}/a%20b%25%3F.db"):
        assert cli("ingest", source, "--store", url).status == 0
        assert re.search(r"events +1 *\n", cli("stats", "--store", url).out)
    assert database.exists()


@pytest.mark.parametrize(
    "command",
    [
        "verify --no-gaps --store {}",
        "prune --keep 1 --store {}",
        "prune --keep 1 --dry-run --store {}",
        "query --store {}",
        "tail --store {}",
        "tasks --store {}",
        "stats --json --store {}",
        "export --store {}",
        "export --store {} --output new.jsonl",
        "export --store {} --output new.jsonl --resume",
        "export --store {} --output old.jsonl --resume",
        "copy --from {} --to sqlite:new.db",
    ],
)
def test_a_log_that_is_not_there(cli, db, filled, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    cli("copy", "--from", filled, "--to", f"{filled}?log=other")
    (tmp_path / "old.jsonl").write_bytes(to_json(stored(db)[0]) + b'\n{"id":"cut off')
    before = {path.name for path in tmp_path.iterdir()}, (tmp_path / "old.jsonl").read_bytes()
    for place, told in (
        (f"{filled}?log=typo", f"trio-eventlog: there is no log 'typo' in {db}; it has 'default', 'other'\n"),
        ("sqlite:typo.db", "trio-eventlog: typo.db: no such file or directory\n"),
    ):
        assert cli(*command.format(place).split()) == Done(1, "", told)
        assert ({path.name for path in tmp_path.iterdir()}, (tmp_path / "old.jsonl").read_bytes()) == before


def test_a_log_that_is_to_be_made(cli, db, filled, tmp_path):
    (tmp_path / "one.jsonl").write_bytes(many(1))
    assert cli("ingest", tmp_path / "one.jsonl", "--store", f"{filled}?log=new").status == 0
    assert cli("copy", "--from", filled, "--to", f"{filled}?log=copy").status == 0
    assert (len(stored(db, "new")), len(stored(db, "copy"))) == (1, 2_500)


def test_operations_on_a_store_that_has_none(cli, filled, tmp_path, monkeypatch):
    class Bare:
        append_batch = query = last_seq = None

    for call in (
        lambda: _prune.prune_events(Bare(), "x:", before_ms=1, keep=None, dry_run=False),
        lambda: _inspect.print_verification(Bare(), "x:", no_gaps=False, max_shown=1, as_json=False),
    ):
        with pytest.raises(CommandError, match="x:: stores of this kind cannot be"):
            trio.run(call)
