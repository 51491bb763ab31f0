"""`query` and `tail` with `--all-logs`."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests._helpers.cli import (
    SECONDS,
    STYLE,
    add,
    lines,
    on_terminal,
    read_lines,
    start,
)
from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    PersistedEvent,
    from_json,
)
from trio_eventlog.cli import (
    _options,
)
from trio_eventlog.stores import MemoryStore


def at(log: str, *times: int) -> list[EventEnvelope]:
    """Events of these times."""
    return [
        EventEnvelope.of(AgentEvent(log, "tick", {"run_id": f"run-{time % 2}"}), timestamp_ms=time)
        for time in times
    ]


@pytest.fixture
def workers(cli, db, url, tmp_path):
    """Three logs, the URL of their file."""
    for log, times in (("b", (2, 5, 5)), ("a", (1, 5, 9)), ("c\x1b[1m", (3,))):
        source = tmp_path / "some.jsonl"
        source.write_bytes(lines(*at("worker", *times)))
        assert cli("ingest", source, "--store", f"{url}?log={log}").status == 0
    return url


def places(out: str) -> list[tuple[str, int]]:
    """Log and seq of each line."""
    return [(line["log"], line["seq"]) for line in map(json.loads, out.splitlines())]


def test_query_all_logs(cli, workers):
    done = cli("query", "--store", workers, "--all-logs")
    everything = [("a", 1), ("b", 1), ("c\x1b[1m", 1), ("a", 2), ("b", 2), ("b", 3), ("a", 3)]
    assert (done.status, done.err) == (0, "")
    assert places(done.out) == everything
    # Each line is an event as ever, and says which log it is in.
    assert from_json(done.out.splitlines()[0], PersistedEvent).seq == 1

    assert places(cli("query", "--store", workers, "--all-logs", "--limit", 4).out) == everything[:4]
    done = cli("query", "--store", workers, "--all-logs", "--run-id", "run-0")
    assert places(done.out) == [("b", 1)]


@pytest.mark.parametrize("columns", [80, 110])
def test_query_all_logs_on_a_terminal(workers, columns):
    done = on_terminal("query", "--store", workers, "--all-logs", columns=columns)
    assert done.status == 0
    rows = [line.split() for line in STYLE.sub("", done.out).splitlines()]
    assert rows[0][:2] == ["log", "seq"]
    assert rows[1][:2] == ["a", "1"]
    assert rows[3][:2] == ["c\\x1b[1m", "1"]
    assert rows[-1] == ["7", "events"]


@pytest.mark.parametrize("command", ["query", "tail"])
def test_all_logs_of_what_has_one(cli, workers, command):
    done = cli(command, "--store", f"{workers}?log=a", "--all-logs")
    assert (done.status, done.out) == (2, "")
    start = "trio-eventlog: --store with --all-logs: "
    assert done.err == f"{start}'{workers}?log=a' names one log; leave out log=\n"
    done = cli(command, "--store", "memory:", "--all-logs")
    assert (done.status, done.err) == (
        2,
        f"{start}memory: has one log, which starts empty: there is nothing to read\n",
    )


def test_tail_all_logs(workers, db):
    with start("tail", "--store", workers, "--all-logs", "--last", 2) as child:
        assert [(line["log"], line["seq"]) for line in read_lines(child, 2)] == [("b", 3), ("a", 3)]
        add(db, 1, 3, log="a")
        assert [(line["log"], line["seq"]) for line in read_lines(child, 3)] == [("a", 4), ("a", 5), ("a", 6)]
        # One that was not there.
        add(db, 1, 2, log="new")
        assert [(line["log"], line["seq"]) for line in read_lines(child, 2)] == [("new", 1), ("new", 2)]
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=SECONDS)
    assert (child.returncode, err) == (130, b"")


def test_tail_all_logs_with_a_limit(cli, workers):
    done = cli("tail", "--store", workers, "--all-logs", "--last", 5, "--limit", 5)
    assert places(done.out) == [("c\x1b[1m", 1), ("a", 2), ("b", 2), ("b", 3), ("a", 3)]


@pytest.mark.parametrize("command", ["query", "tail"])
def test_all_logs_of_what_has_none(cli, monkeypatch, command):
    @asynccontextmanager
    async def open_them(_url: str) -> AsyncIterator[dict[str, MemoryStore]]:
        await trio.lowlevel.checkpoint()
        yield {}

    monkeypatch.setattr(_options, "open_readers", open_them)
    done = cli(command, "--all-logs", "--store", "postgresql://me:secret@db/app")
    assert (done.status, done.err) == (1, "trio-eventlog: there is no log in postgresql://***@db/app\n")
