"""`demo`."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
import time
import urllib.request

import pytest

from tests._helpers.cli import (
    SECONDS,
    FailingStore,
    on_terminal,
    start,
    stored,
)
from trio_eventlog import (
    StoreUnusable,
)
from trio_eventlog.cli import (
    _demo,
)
from trio_eventlog.stores import MemoryStore


def test_demo_says_what_its_commands_lack(cli, use_store):
    use_store(MemoryStore())
    done = cli("demo", "--seconds", 0.2, "--store", "postgresql://me:secret@db/app?log=a")
    assert "\nTo look further (replace *** in the URL by its secrets):\n" in done.out
    assert done.out.count("--store 'postgresql://***@db/app?log=a'") == 3


def test_demo_stores_everything_and_says_how_to_look_further(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("demo", "--seconds", "1")
    assert (done.status, done.err) == (0, "")
    assert "sqlite:trio-eventlog-demo.db" in done.out.splitlines()[0]
    events = stored(tmp_path / "trio-eventlog-demo.db")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert re.search(
        rf"^{len(events):,} ingested, {len(events):,} stored, 0 waiting, \d+ appends? failed",
        done.out,
        re.MULTILINE,
    )
    assert "store is down: " in done.out
    types = {event.event.event_type for event in events}
    assert {"opened", "spawned", "run_started", "run_completed", "retired", "closed"} <= types

    # Also where trio-eventlog is not on the path of the shell.
    shown = r"^  (?:\S+ -m trio_eventlog|\S*trio-eventlog) (.*)$"
    commands = re.findall(shown, done.out, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        looked = cli(*shlex.split(command))
        assert (looked.status, looked.err) == (0, "")
        assert looked.out or "run_failed" in command


def test_demo_makes_a_new_file_each_time(tmp_path):
    (tmp_path / "trio-eventlog-demo.db").touch()
    done = on_terminal("demo", "--seconds", "0.5", cwd=tmp_path)
    assert done.status == 0
    assert "trio-eventlog-demo-2.db" in done.out
    assert "the store is down" in done.out
    assert "the store works" in done.out
    assert stored(tmp_path / "trio-eventlog-demo-2.db")


def test_demo_goes_on_in_a_log(cli, filled, db):
    done = cli("demo", "--seconds", "0.3", "--store", filled)
    assert done.status == 0
    assert shlex.quote(filled) in done.out
    assert len(stored(db)) > 2_500


def test_demo_in_memory(cli):
    done = cli("demo", "--seconds", "0.2", "--store", "memory:")
    assert done.status == 0
    assert "keeps nothing" in done.out


def test_demo_tells_what_it_could_not_store(cli, use_store):
    use_store(FailingStore(StoreUnusable("the file is damaged")))
    done = cli("demo", "--seconds", "0.2", "--store", "memory:")
    assert done.status == 1
    assert "lost" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("on_path", "called_as", "program"),
    [
        ("/usr/bin/trio-eventlog", "/usr/bin/trio-eventlog", "trio-eventlog"),
        (None, ".venv/bin/trio-eventlog", ".venv/bin/trio-eventlog"),
        (None, "/x/trio_eventlog/__main__.py", f"{shlex.quote(sys.executable)} -m trio_eventlog"),
    ],
)
def test_demo_shows_commands_that_this_shell_finds(monkeypatch, on_path, called_as, program):
    monkeypatch.setattr(_demo.shutil, "which", lambda _: on_path)
    monkeypatch.setattr(sys, "argv", [called_as])

    assert _demo._program() == program


def test_demo_in_a_browser(tmp_path):
    """The console shows that the store is down while the program goes on, and that it has come back."""
    with start("demo", "--console", "--seconds", SECONDS, cwd=tmp_path) as child:
        url = re.search(rb"See it live at (\S+) until", child.stdout.readline() + child.stdout.readline())[1]

        def live():
            place = url.decode() + "api/statistics"
            with urllib.request.urlopen(place, timeout=SECONDS) as answer:  # noqa: S310 - as printed
                return json.load(answer)["live"]

        deadline = time.monotonic() + SECONDS
        while (down := live())["failures"] == 0:
            assert time.monotonic() < deadline, down
        while (up := live())["persisted"] <= down["ingested"]:
            assert time.monotonic() < deadline, up
        assert up["lost_total"] == 0
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=SECONDS)
    assert child.returncode == 130, err
    assert b" 0 waiting" in out
    assert b"To look further" in out


def test_demo_in_a_browser_for_a_while(tmp_path):
    with start("demo", "--console", "--seconds", 0.5, cwd=tmp_path) as child:
        out, err = child.communicate(timeout=SECONDS)
    assert (child.returncode, err) == (0, b"")
    assert b"See it live at http://127.0.0.1:" in out
