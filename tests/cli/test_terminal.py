"""What the commands print on a terminal, and that no event can attack it."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
from pathlib import Path

import pytest
import trio

from tests._helpers.cli import (
    PROGRAM,
    SECONDS,
    STYLE,
    lines,
    many,
    on_terminal,
    stored,
    wait_for_line,
)
from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    ModuleEvent,
    PersistedEvent,
    from_json,
)
from trio_eventlog.cli import (
    _terminal,
)

ATTACK = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202eevil\x7f\n\t[bold red]not bold[/] \\ end"


@pytest.fixture
def hostile(url, tmp_path, cli):
    """A log whose events attack the terminal."""
    source = tmp_path / "hostile.jsonl"
    source.write_bytes(
        lines(
            EventEnvelope.of(AgentEvent(ATTACK, ATTACK, {ATTACK: ATTACK, "text": "世界"}), timestamp_ms=0),
            EventEnvelope.of(ModuleEvent(ATTACK, "[link]x", None), timestamp_ms=2**63 - 1),
        )
    )
    assert cli("ingest", source, "--store", url).status == 0
    return url


def test_query_prints_a_table_on_a_terminal(filled):
    done = on_terminal("query", "--store", filled, "--limit", "1001")
    assert done.status == 0
    header, *rows, count = STYLE.sub("", done.out).splitlines()
    assert header.split() == ["seq", "time", "(UTC)", "member", "type", "payload"]
    assert rows[2].strip().split(maxsplit=4) == [
        "3", "2023-11-14T22:13:20.003Z", "agent-3", "type-0", '{"run_id": "run-3"}'
    ]  # fmt: skip
    assert count == "1,001 events"
    # Pages line up, and a line is an event.
    assert len(rows) == 1_001
    assert len({row.index("Z  agent-") for row in rows}) == 1


def test_a_table_shows_what_would_attack_the_terminal(hostile):
    done = on_terminal("query", "--store", hostile, columns=2_000)
    assert done.status == 0
    told = STYLE.sub("", done.out)
    assert all(line.isprintable() for line in told.splitlines())
    _header, agent, module, _count = told.splitlines()
    assert r"\x1b]0;pwned\x07\x1b[2J\x9b31m\u202eevil\x7f\n\t[bold red]not bold[/] \ end" in agent
    assert r'"\u001b]0;pwned\u0007' in agent
    assert "世界" in agent
    assert "(\\x1b]0;pwned" in module
    assert "[link]x" in module
    assert "1970-01-01T00:00:00.000Z" in agent
    assert f"{2**63 - 1} ms" in module


def test_json_on_a_terminal_is_the_same_json_without_attacks(hostile, db):
    done = on_terminal("query", "--store", hostile, "--json")
    assert done.status == 0
    assert all(line.isprintable() for line in done.out.split("\n"))
    assert [from_json(line, PersistedEvent) for line in done.out.splitlines()] == stored(db)


def test_stats_on_a_terminal(hostile):
    for options in ([], ["--json"]):
        done = on_terminal("stats", "--store", hostile, *options)
        assert done.status == 0
        assert all(line.isprintable() for line in STYLE.sub("", done.out).split("\n"))


def test_ingest_shows_its_progress_on_a_terminal(url, tmp_path):
    source = tmp_path / "some.jsonl"
    source.write_bytes(many(5_000) + b"nonsense\n")
    done = on_terminal("ingest", source, "--store", url)
    assert done.status == 1
    assert "100%" in done.out
    assert "5,001 done, 0 waiting" in done.out
    assert f"trio-eventlog: {source}:5001: not JSON" in done.out
    assert "5,001 read, 5,000 stored, 0 already there, 1 rejected" in done.out


def test_ingest_from_a_terminal_says_how_to_end(url):
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "ingest", "--store", url],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        wait_for_line(child.stderr, "reading from the terminal; end with Ctrl-D")
        os.write(leader, many(1) + b"\x04")
        assert child.wait(SECONDS) == 0
        assert b"1 read, 1 stored" in child.stdout.read()
    os.close(leader)
    os.close(follower)


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_317_422_324_546, "2011-09-30T22:38:44.546Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "253402300800000 ms"),
        (2**64 - 1, f"{2**64 - 1} ms"),
    ],
)
def test_time_text(timestamp_ms, text):
    assert _terminal.time_text(timestamp_ms) == text


@contextlib.contextmanager
def piped_stdout():
    """A pipe as standard output, for a block. No fixture: pytest replaces it before the test begins."""
    reader, writer = os.pipe()
    stdout = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        yield reader
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        with contextlib.suppress(OSError):
            os.close(reader)


async def test_waiting_for_the_reader_leaves_no_thread_behind():
    before = set(threading.enumerate())
    with piped_stdout():
        for _ in range(5):
            async with _terminal.ending_with_reader():
                await trio.to_thread.run_sync(int)  # the thread that waits was started before
        # Trio keeps those that are idle for a while.
        assert len(set(threading.enumerate()) - before) <= 2


def _open_files():
    return len(list(Path("/dev/fd").iterdir()))


async def test_waiting_for_the_reader_leaves_no_file_open():
    with piped_stdout():
        before = _open_files()
        for is_cancelled in (False, True):
            with trio.CancelScope() as scope:
                if is_cancelled:
                    scope.cancel()
                async with _terminal.ending_with_reader():
                    await trio.lowlevel.checkpoint()
        assert _open_files() == before


async def test_the_block_ends_with_the_reader():
    with piped_stdout() as reader, pytest.raises(_terminal.ReaderGone), trio.fail_after(SECONDS):
        async with _terminal.ending_with_reader():
            os.close(reader)
            await trio.sleep_forever()
