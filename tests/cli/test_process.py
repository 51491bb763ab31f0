"""The command line as a process: closed streams, signals, and terminals of strange sizes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from functools import partial

import pytest

from tests._helpers.cli import (
    DOWN,
    PROGRAM,
    SECONDS,
    add,
    feeding,
    finish,
    many,
    on_terminal,
    read_lines,
    start,
    stored,
    wait_for_events,
    wait_for_line,
)

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def in_shell(command: str, *, data: bytes = b"") -> tuple[int, str, str]:
    """Run the command line as a shell does, which can close streams."""
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(PROGRAM)} {command}"],  # noqa: S607 - wherever it is
        input=data,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    "command", ["query --store", "stats --store", "verify --store", "export --store", "--help", "--version"]
)
def test_what_is_to_be_printed_cannot_be_with_standard_output_closed(filled, command):
    status, _, told = in_shell(f"{command} {filled if 'store' in command else ''} >&-")
    assert (status, told) == (1, "trio-eventlog: cannot write to standard output: it is closed\n")


def test_what_is_to_be_done_is_done_with_standard_output_closed(filled, db, tmp_path):
    """What was done is then said on standard error. Nothing of it gets into a file that was opened since."""
    out, copy = tmp_path / "out.jsonl", tmp_path / "copy.db"
    for command, summary in (
        (f"ingest --store {filled}", "1 read, 1 stored, "),
        (f"export --store {filled} --output {out}", f"2,501 events written to {out}"),
        (f"copy --from {filled} --to sqlite:{copy}", "2,501 events copied; up to seq 2501"),
        (f"prune --store {filled} --keep 2500", "1 event pruned"),
    ):
        status, _, told = in_shell(f"{command} >&-", data=many(1, start=9000))
        assert (status, told.count("\n")) == (0, 1)
        assert told.startswith(f"trio-eventlog: {summary}")
    assert [json.loads(line)["seq"] for line in out.read_bytes().splitlines()] == list(range(1, 2502))
    assert len(stored(copy)) == 2501
    assert len(stored(db)) == 2500


def test_standard_input_is_closed(url):
    status, _, told = in_shell(f"ingest --store {url} <&-")
    assert (status, told) == (1, "trio-eventlog: standard input: Bad file descriptor\n")


def test_standard_error_is_closed(filled, tmp_path):
    assert in_shell(f"query --store sqlite:{tmp_path / 'missing.db'} 2>&-") == (1, "", "")
    status, out, _ = in_shell(f"query --store {filled} --limit 1 2>&- <&-")
    assert (status, json.loads(out)["seq"]) == (0, 1)


def test_all_streams_are_closed(db, url, tmp_path):
    """The numbers of the streams are not given to other files."""
    source = tmp_path / "source.jsonl"
    source.write_bytes(many(10) + b"nonsense\n")
    assert in_shell(f"ingest {source} --store {url} <&- >&- 2>&-") == (1, "", "")
    assert len(stored(db)) == 10


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("options", [(), ("--all-logs",)])
def test_every_signal_ends_a_command_that_waits(filled, number, options):
    with start("tail", "--store", filled, "--last", 1, *options) as child:
        read_lines(child, 1)
        child.send_signal(number)
        out, err = child.communicate(timeout=SECONDS)
    # By itself, not by the signal: nothing of the kind happens to process 1 of a container.
    assert (child.returncode, out, err) == (128 + number, b"", b"")


@pytest.mark.parametrize("number", ENDING)
def test_every_signal_ends_a_command_that_nobody_reads(filled, number):
    with start("query", "--store", filled) as child:
        # It has begun, and then fills the pipe and waits.
        select.select([child.stdout], [], [], SECONDS)
        child.send_signal(number)
        assert child.wait(SECONDS) == 128 + number
        assert child.stderr.read() == b""


def ignore(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_is_ignored_stays_ignored(filled, db, number):
    """As by nohup, and by shells for what runs in the background."""
    preexec: Callable[[], None] = partial(ignore, number)
    with start("tail", "--store", filled, "--last", 1, preexec_fn=preexec) as child:
        read_lines(child, 1)
        child.send_signal(number)
        add(db, 3001, 3001)
        assert [line["id"] for line in read_lines(child, 1)] == ["event-3001"]
        child.terminate()
        assert child.wait(SECONDS) == 143


def test_what_is_ignored_does_not_stop_an_import(db, url):
    with subprocess.Popen(
        [*PROGRAM, "ingest", "--store", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(ignore, signal.SIGHUP),  # noqa: PLW1509 - there are none
    ) as child:
        child.stdin.write(many(10))
        child.stdin.flush()
        wait_for_events(db, 10)
        child.send_signal(signal.SIGHUP)
        child.stdin.write(many(10, start=11))
        done = finish(child)
    assert (done.status, done.err) == (0, "")
    assert len(stored(db)) == 20


def test_the_terminal_goes_away(db, url):
    """With a session: what was read is stored, although nobody can be told of it."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "ingest", "--store", url], stdin=subprocess.PIPE, stdout=follower, stderr=follower
    ) as child:
        os.close(follower)
        child.stdin.write(many(300))
        child.stdin.flush()
        wait_for_events(db, 300)
        os.close(leader)
        child.stdin.write(many(300, start=301))
        child.stdin.flush()
        wait_for_events(db, 301)
        child.send_signal(signal.SIGHUP)
        assert child.wait(SECONDS) == 129
    assert len(stored(db)) == 600


def test_a_second_signal_of_another_kind_ends_at_once():
    with feeding("ingest", "--store", "memory:", "--show-rejected=0", prelude=DOWN) as child:
        child.stdin.write(many(100))
        child.stdin.flush()
        wait_for_line(child.stderr, "the store failed; retrying: down")
        child.send_signal(signal.SIGHUP)
        wait_for_line(child.stderr, "interrupt again to stop immediately")
        child.send_signal(signal.SIGTERM)
        assert child.wait(SECONDS) == 129
        done = finish(child)
    assert done.summary == "100 read, 0 stored, 0 already there, 0 rejected, 100 lost"
    assert "repeat the command" in done.err


@pytest.mark.parametrize("options", [(), ("--all-logs",)])
def test_tail_ends_with_its_reader_also_when_nothing_comes(filled, options):
    with start("tail", "--store", filled, "--last", 1, *options) as child:
        read_lines(child, 1)
        child.stdout.close()
        assert child.wait(SECONDS) == 0
        assert child.stderr.read() == b""


@pytest.mark.parametrize("columns", ["0", "1", "2", "-3", "²", "1000000000", "1" * 5000])
def test_columns_that_no_terminal_has(monkeypatch, cli, filled, tmp_path, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    done = cli("query", "--help")
    assert done.status == 0
    assert "--run-id" in done.out
    assert len(done.out) < 100_000
    done = cli("query", "--store", f"sqlite:{tmp_path / 'missing.db'}")
    assert done.status == 1
    assert "missing.db" in done.err
    assert "events" in cli("stats", "--store", filled).out


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_a_terminal_that_says_so(filled, columns):
    done = on_terminal("query", "--store", filled, "--limit", 1, columns=columns)
    assert (done.status, "type-1" in done.out) == (0, True)


@pytest.mark.parametrize("columns", [0, 1, 65_535])
def test_a_terminal_of_that_size(filled, columns):
    """As :func:`os.get_terminal_size` has it."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 0, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [*PROGRAM, "stats", "--store", filled],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**environment, "TERM": "xterm"},
    ) as child:
        os.close(follower)
        told = b""
        try:
            while part := os.read(leader, 65_536):
                told += part
        except OSError:
            pass  # how Linux reports the end of a terminal
        os.close(leader)
    assert child.returncode == 0
    assert b"2,500" in told
    assert len(told) < 20_000
