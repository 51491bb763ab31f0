"""`tail`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests._helpers.cli import (
    PROGRAM,
    SECONDS,
    STYLE,
    add,
    read_lines,
    start,
)
from trio_eventlog import (
    AgentEvent,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    StoreError,
    from_json,
)
from trio_eventlog.cli import (
    _query,
    _tail,
)
from trio_eventlog.cli._query import Printer
from trio_eventlog.stores import MemoryStore, SqliteStore


def test_tail_prints_the_last_and_then_those_that_come(filled, db):
    with start("tail", "--store", filled, "--last", 3) as child:
        assert [line["seq"] for line in read_lines(child, 3)] == [2498, 2499, 2500]
        add(db, 3001, 3100)
        assert [line["seq"] for line in read_lines(child, 100)] == list(range(2501, 2601))
        add(db, 3101, 3101)
        (line,) = read_lines(child, 1)
        assert from_json(json.dumps(line), PersistedEvent).id == "event-3101"

        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=SECONDS)
    assert (child.returncode, out, err) == (130, b"", b"")


def test_tail_ends_with_its_limit(cli, filled):
    for options, expected in (
        (["--after", 0, "--limit", 2000], range(1, 2001)),
        (["--after-seq", 2490, "--limit", 5], range(2491, 2496)),
        (["--last", 7, "--limit", 7], range(2494, 2501)),
        (["--last", 7, "--limit", 3], range(2494, 2497)),
        (["--limit", 10], range(2491, 2501)),
        (["--limit", 0], range(0)),
    ):
        done = cli("tail", "--store", filled, *options)
        assert (done.status, done.err) == (0, "")
        assert [json.loads(line)["seq"] for line in done.out.splitlines()] == list(expected)


@pytest.mark.parametrize("first_step", [1, 10, 1_000])
def test_tail_finds_the_last_that_match(cli, filled, monkeypatch, first_step):
    monkeypatch.setattr(_tail, "_FIRST_STEP", first_step)
    done = cli("tail", "--store", filled, "--run-id", "run-3", "--last", 4, "--limit", 4)
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == [
        "event-2463",
        "event-2473",
        "event-2483",
        "event-2493",
    ]
    # Fewer than that are there.
    done = cli("tail", "--store", filled, "--until", 1_700_000_000_003, "--last", 5, "--limit", 2)
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [1, 2]


@pytest.mark.parametrize("options", [[], ["--all-logs"]])
def test_tail_does_not_hold_the_last_all_at_once(cli, db, monkeypatch, options):
    async def fill() -> None:
        for log in ("a", "b"):
            async with SqliteStore.open(db, log=log, synchronous="off") as store:
                for seq in range(1, 13):
                    event = AgentEvent("a", "t", "x" * 2**20)
                    # Of the second log, half is older than anything else, and descends.
                    time = seq if log == "a" else 0 if seq % 2 else 100 - seq
                    await store.append_batch([PersistedEvent(f"{log}{seq}", seq, time, "a", event)])

    trio.run(fill)
    printed: list[list[str]] = []

    async def note(_printer: Printer, page: list[Any]) -> None:
        printed.append([(item.event if options else item).id for item in page])
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Printer, "print", note)
    url = f"sqlite:{db}" if options else f"sqlite:{db}?log=a"
    done = cli("tail", "--store", url, *options, "--last", 10, "--limit", 10)

    assert (done.status, done.err) == (0, "")
    ids = [event_id for page in printed for event_id in page]
    if options:
        assert ids == [f"a{seq}" for seq in range(8, 13)] + [f"b{seq}" for seq in range(4, 13, 2)]
    else:
        assert ids == [f"a{seq}" for seq in range(3, 13)]
    assert max(map(len, printed)) <= 5


def test_tail_of_nothing_yet(url, db):
    add(db, 1, 0)
    with start("tail", "--store", url) as child:
        add(db, 1, 2)
        assert [line["seq"] for line in read_lines(child, 2)] == [1, 2]
        child.terminate()
        child.communicate(timeout=SECONDS)


def test_tail_ends_quietly_with_its_reader(filled, db):
    with start("tail", "--store", filled) as child:
        read_lines(child, 1)
        child.stdout.close()
        child.stdout = None
        add(db, 3001, 3002)
        _, err = child.communicate(timeout=SECONDS)
    assert (child.returncode, err) == (0, b"")


def test_tail_on_a_terminal(filled, db):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110"}
    with subprocess.Popen(
        [*PROGRAM, "tail", "--store", filled, "--last", "2", "--limit", "4"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment,
    ) as child:
        os.close(theirs)
        printed = b""
        while b"event" not in printed and b"2500" not in printed:
            printed += os.read(ours, 65536)
        add(db, 3001, 3002)
        try:
            while part := os.read(ours, 65536):
                printed += part
        except OSError:
            pass
        os.close(ours)
        assert child.wait(SECONDS) == 0
    rows = [line.split() for line in STYLE.sub("", printed.decode()).splitlines() if line.strip()]
    # One head, however many pages.
    assert [row[0] for row in rows] == ["seq", "2499", "2500", "2501", "2502"]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--last", 1, "--after", 1], 2, "--last, --after-seq: only one of them can be given"),
        (["--last", -1], 2, "-1"),
        (["--after", 3000], 1, "cursor 3000 lies beyond the last seq of the log, 2500"),
        (
            ["--all-logs", "--after", 1],
            2,
            "--after-seq: cannot be combined with --all-logs, since every log has its own seqs",
        ),
    ],
)
def test_tail_with_bad_options(cli, filled, options, status, message):
    done = cli("tail", "--store", filled, *options)

    assert (done.status, done.out) == (status, "")
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("options", [(), ("--all-logs",)])
def test_tail_of_a_file_that_is_moved_away(filled, db, options):
    """What is written to the new one, it would never see."""
    with start("tail", "--store", filled, "--last", 1, *options) as child:
        read_lines(child, 1)
        db.rename(db.with_name("events.db.1"))
        out, err = child.communicate(timeout=SECONDS)
    assert (child.returncode, out) == (1, b"")
    # With all logs, the file is opened once more in order to follow, and may be gone by then.
    assert b"was moved, removed or replaced" in err or (options and b"no such file or directory" in err)


def test_tail_of_what_is_not_there(cli, tmp_path):
    for options in ([], ["--all-logs"]):
        done = cli("tail", "--store", f"sqlite:{tmp_path}/missing.db", *options)
        assert (done.status, done.out) == (1, "")
        assert done.err == f"trio-eventlog: {tmp_path}/missing.db: no such file or directory\n"


class Unreliable(MemoryStore):
    """Is down for the last 5 of every 50 seconds."""

    async def fail_at_times(self):
        if trio.current_time() % 50 > 45:
            await trio.lowlevel.checkpoint()
            raise StoreError("the connection is lost")

    async def query(self, query):
        await self.fail_at_times()
        return await super().query(query)

    async def last_seq(self):
        await self.fail_at_times()
        return await super().last_seq()

    async def log_names(self):
        await self.fail_at_times()
        return ["default"]


LOST = "the store failed; retrying: the connection is lost"


@pytest.fixture
def printed(monkeypatch) -> list[dict[str, Any]]:
    """What is written to standard output, not by a thread: virtual time would run on meanwhile."""
    lines: list[dict[str, Any]] = []

    async def write(text: bytes) -> None:
        await trio.lowlevel.checkpoint()
        lines.extend(map(json.loads, text.splitlines()))

    monkeypatch.setattr(_query, "write", write)
    return lines


def test_tail_goes_on_when_the_store_answers_again(capfd, printed):
    async def main() -> None:
        store = Unreliable()

        async def write() -> None:
            # Once it follows.
            await trio.sleep(1)
            for seq in range(1, 31):
                await store.append_batch([PersistedEvent(f"id-{seq}", seq, seq, None, ModuleEvent("m", "t"))])
                # Once a lot comes, and once nothing for long.
                await trio.sleep(200 if seq == 20 else 7)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            assert await _tail.follow(store, EventQuery(limit=30), last=0, as_json=True) == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [line["seq"] for line in printed] == list(range(1, 31))
    # In 400 seconds it was down eight times; and each time this was said once.
    assert capfd.readouterr().err.splitlines() == [f"trio-eventlog: {LOST}"] * 8


def test_tail_all_logs_goes_on_when_the_store_answers_again(capfd, monkeypatch, printed):
    """Also when it cannot be opened anew for a log that has come."""
    stores: dict[str, Unreliable] = {"default": Unreliable()}
    opened = 0

    @asynccontextmanager
    async def open_them(_url: str) -> AsyncIterator[dict[str, Unreliable]]:
        nonlocal opened
        opened += 1
        await trio.lowlevel.checkpoint()
        if opened in (3, 4):
            raise StoreError("the server is down")
        yield dict(stores)

    async def log_names(_self: Unreliable) -> list[str]:
        await trio.lowlevel.checkpoint()
        return list(stores)

    async def main() -> None:
        async def write() -> None:
            # Once it follows.
            await trio.sleep(1)
            for seq in range(1, 31):
                if seq == 10:
                    stores["new"] = Unreliable()
                for store in stores.values():
                    await store.append_batch(
                        [PersistedEvent(f"id-{seq}", seq, seq, None, ModuleEvent("m", "t"))]
                    )
                await trio.sleep(7)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            assert await _tail.follow_all("x:", EventQuery(limit=51), last=0, as_json=True) == 0

    monkeypatch.setattr(_tail, "opened_readers", open_them)
    monkeypatch.setattr(Unreliable, "log_names", log_names)
    trio.run(main, clock=MockClock(autojump_threshold=0))
    for log, expected in (("default", range(1, 31)), ("new", range(10, 31))):
        assert [line["seq"] for line in printed if line["log"] == log] == list(expected)
    told = capfd.readouterr().err.splitlines()
    assert told.count(f"trio-eventlog: {LOST.replace('connection is lost', 'server is down')}") == 1
    assert told.count(f"trio-eventlog: {LOST}") >= 1
    # Once for the last events, once to follow, and then for the new log alone.
    assert opened == 5


class Pruned(MemoryStore):
    """Events 3 to 5 are pruned before they can be read."""

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        found = await super().query(attrs.evolve(query, limit=None))
        return [event for event in found if not 3 <= event.seq <= 5][: query.limit]

    async def pruned_seq(self) -> int:
        return 5 if await self.last_seq() > 5 else 0

    async def log_names(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["default"]


@pytest.mark.parametrize("all_logs", [False, True])
def test_tail_says_what_was_pruned_and_goes_on(capfd, monkeypatch, printed, all_logs):
    async def main() -> None:
        store = Pruned()

        @asynccontextmanager
        async def open_them(_url: str) -> AsyncIterator[dict[str, Pruned]]:
            await trio.lowlevel.checkpoint()
            yield {"default": store}

        monkeypatch.setattr(_tail, "opened_readers", open_them)
        await store.append_batch(
            [PersistedEvent(f"id-{n}", n, n, None, ModuleEvent("m", "t")) for n in (1, 2)]
        )

        async def write() -> None:
            await trio.sleep(3)
            await store.append_batch(
                [PersistedEvent(f"id-{n}", n, n, None, ModuleEvent("m", "t")) for n in range(3, 9)]
            )
            await trio.sleep(10)
            await store.append_batch([PersistedEvent("id-9", 9, 9, None, ModuleEvent("m", "t"))])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            query = EventQuery(limit=6)
            if all_logs:
                assert await _tail.follow_all("x:", query, last=2, as_json=True) == 0
            else:
                assert await _tail.follow(store, query, last=2, as_json=True) == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [line["seq"] for line in printed] == [1, 2, 6, 7, 8, 9]
    told = "trio-eventlog: events were pruned before they were read (seq 3 to 5)"
    assert capfd.readouterr().err.splitlines() == [f"{told}. in the log 'default'" if all_logs else told]
