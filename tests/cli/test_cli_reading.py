"""`tail`, `tasks` and `--all-logs`: in-process where that is quicker, else real processes."""

# ruff: noqa: F811, PLR0917 - fixtures are imported, and there are many of them

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.cli.test_cli import (  # noqa: F401 - fixtures
    PROGRAM,
    SECONDS,
    STYLE,
    cli,
    db,
    envelope,
    filled,
    lines,
    many,
    on_terminal,
    url,
)
from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    StoreError,
    from_json,
    open_event_log,
)
from trio_eventlog.cli import _options, _pages, _query, _tail
from trio_eventlog.cli._pages import next_merged
from trio_eventlog.cli._query import Printer
from trio_eventlog.cli._terminal import error_console
from trio_eventlog.reading import LogEvent
from trio_eventlog.recorder import record_tasks
from trio_eventlog.stores import MemoryStore, SqliteStore

# --- tail -----------------------------------------------------------------------------------------


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def read_lines(child: subprocess.Popen[bytes], count: int) -> list[dict[str, Any]]:
    """The next lines that it prints."""
    assert child.stdout is not None
    return [json.loads(child.stdout.readline()) for _ in range(count)]


def add(path: Path, first: int, last: int, log: str = "default") -> None:
    """Ingest events into a log."""

    async def write() -> None:
        async with (
            SqliteStore.open(path, log=log, synchronous="off") as store,
            open_event_log(store) as opened,
        ):
            for number in range(first, last + 1):
                opened.ingest(envelope(number))

    trio.run(write)


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
        (["--last", 1, "--after", 1], 2, "--last, --after-seq: expected one of them"),
        (["--last", -1], 2, "-1"),
        (["--after", 3000], 1, "cursor 3000 lies beyond the last seq of the log, 2500"),
        (
            ["--all-logs", "--after", 1],
            2,
            "--after-seq: every log has seqs of its own, so not with --all-logs",
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


# --- all logs of a file ---------------------------------------------------------------------------


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


@pytest.mark.parametrize("columns", ["80", "110"])
def test_query_all_logs_on_a_terminal(workers, columns):
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": columns}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "query", "--store", workers, "--all-logs"], stdout=theirs, env=environment
    ) as child:
        os.close(theirs)
        printed = b""
        try:
            while part := os.read(ours, 65536):
                printed += part
        except OSError:
            pass
        os.close(ours)
        assert child.wait(SECONDS) == 0
    rows = [line.split() for line in STYLE.sub("", printed.decode()).splitlines()]
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


LOST = "the store failed, and is tried again: the connection is lost"


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


async def test_a_page_is_what_was_there_before_an_error():
    """What was taken from a merge does not come again."""
    one, two, three = (
        LogEvent("a", PersistedEvent(f"e{seq}", seq, seq, None, ModuleEvent("m", "t"))) for seq in (1, 2, 3)
    )

    class Items:
        def __init__(self) -> None:
            lost = StoreError("lost")
            self.steps: list[LogEvent | StoreError] = [one, two, lost, lost, three]

        def __aiter__(self) -> Items:
            return self

        async def __anext__(self) -> LogEvent:
            await trio.lowlevel.checkpoint()
            if not self.steps:
                raise StopAsyncIteration
            step = self.steps.pop(0)
            if isinstance(step, StoreError):
                raise step
            return step

    items = Items()
    assert await next_merged(items, _pages.Pruned(error_console())) == [one, two]
    with pytest.raises(StoreError):
        await next_merged(items, _pages.Pruned(error_console()))
    assert await next_merged(items, _pages.Pruned(error_console())) == [three]
    assert await next_merged(items, _pages.Pruned(error_console())) == []


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


@pytest.mark.parametrize("command", ["query", "tail"])
def test_all_logs_of_what_has_none(cli, monkeypatch, command):
    @asynccontextmanager
    async def open_them(_url: str) -> AsyncIterator[dict[str, MemoryStore]]:
        await trio.lowlevel.checkpoint()
        yield {}

    monkeypatch.setattr(_options, "open_readers", open_them)
    done = cli(command, "--all-logs", "--store", "postgresql://me:secret@db/app")
    assert (done.status, done.err) == (1, "trio-eventlog: there is no log in postgresql://***@db/app\n")


# --- tasks ----------------------------------------------------------------------------------------


@pytest.fixture
def recorded(db, url):
    """A log with two recorded runs, its URL."""

    async def worker(seconds: float, children: int = 0) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(children):
                nursery.start_soon(worker, seconds, name="child \x1b[2J")
            await trio.sleep(seconds)

    async def run(run_id: str) -> None:
        async with SqliteStore.open(db, synchronous="off") as store, open_event_log(store) as log:
            wanted = ("worker", "child")
            with record_tasks(log, run_id=run_id, filter=lambda task: any(w in task.name for w in wanted)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(worker, 0.01, 2)
                    nursery.start_soon(trio.sleep, 0)

    trio.run(run, "first")
    trio.run(run, "second")
    return url


def test_tasks(cli, recorded):
    done = cli("tasks", "--store", recorded)
    assert (done.status, done.err) == (0, "")
    tree = re.sub(r"\d+\.\d ms", "<time>", done.out)
    title, first, *rest = re.sub(r"\d{4}-\S+Z", "<when>", tree).splitlines()
    assert title.split() == ["second", "<when>", "3", "tasks"]
    assert re.fullmatch("└── .*worker  <time>", first)
    assert rest == ["    ├── child \\x1b[2J  <time>", "    └── child \\x1b[2J  <time>"]
    assert cli("tasks", "--store", recorded, "--run-id", "first").out.startswith("first")


def test_tasks_as_json(cli, recorded):
    done = cli("tasks", "--store", recorded, "--json")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [(task["number"], task["parent"]) for task in found] == [(1, None), (2, 1), (3, 1)]
    assert all(task["run_id"] == "second" and task["seconds"] > 0 for task in found)


def put(db: Path, *events: tuple[str, Any], module: str = "trio") -> None:
    """Into a log, as a recorder or somebody else would."""

    async def write() -> None:
        async with SqliteStore.open(db, synchronous="off") as store, open_event_log(store) as log:
            for event_type, payload in events:
                log.ingest(ModuleEvent(module, event_type, payload))

    trio.run(write)


def spawned(task: int, parent: int | None, **more: Any) -> tuple[str, Any]:
    payload = {"run_id": "r", "task": task, "name": f"task-{task}", "parent": parent, "nursery": 1, **more}
    return ("task_spawned", payload)


def test_tasks_of_a_run_that_was_killed(cli, db, url):
    put(
        db,
        ("recording_started", {"run_id": "r", "slow_step": 0.1}),
        spawned(1, None, at_start=True),
        spawned(2, 1),
        # Of what was suppressed nothing is known.
        spawned(3, 77),
        ("task_exited", {"run_id": "r", "task": 2, "name": "task-2", "seconds": 3661.5, "cancelled": True}),
        ("task_step_slow", {"run_id": "r", "task": 1, "name": "task-1", "seconds": 0.25}),
        ("task_step_slow", {"run_id": "r", "task": 1, "name": "task-1", "seconds": 0.5}),
        ("task_exited", {"run_id": "r", "task": 99, "name": "x", "seconds": 1, "cancelled": False}),
        ("tasks_suppressed", {"run_id": "r", "count": 12}),
    )
    put(db, ("task_spawned", "of another module"), module="other")
    done = cli("tasks", "--store", url)

    title, *rest = done.out.splitlines()
    assert title.endswith("3 tasks  12 records suppressed  the end is not recorded")
    assert rest == [
        "├── task-1  running  2 slow steps, longest 500.0 ms",
        "│   └── task-2  3,661.500 s  cancelled",
        "└── task-3  running",
    ]


def test_tasks_still_running_at_the_end(cli, db, url):
    put(
        db,
        ("recording_started", {"run_id": "r", "slow_step": None}),
        spawned(1, None),
        ("recording_stopped", {"run_id": "r", "running": 1, "suppressed": 0}),
    )
    assert cli("tasks", "--store", url).out.splitlines()[1:] == ["└── task-1  still running at the end"]


@pytest.mark.parametrize(
    ("events", "options", "message"),
    [
        ([], [], "no run is recorded here; trio_eventlog.recorder.record_tasks records one"),
        ([], ["--run-id", "r"], "no run 'r' is recorded here"),
        ([("recording_started", {"no": "id"})], [], "no run is recorded here"),
        (
            [("recording_started", {"run_id": "r"}), ("task_spawned", {"run_id": "r"})],
            [],
            "event 2 is no record of a task recorder: KeyError: 'task'",
        ),
        (
            [
                ("recording_started", {"run_id": "r"}),
                spawned(1, None),
                ("task_exited", {"run_id": "r", "task": [1]}),
            ],
            [],
            "event 3 is no record of a task recorder: TypeError: ",
        ),
    ],
)
def test_what_is_no_recording(cli, db, url, events, options, message):
    put(db, *events)
    done = cli("tasks", "--store", url, *options)

    assert (done.status, done.out) == (1, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_tasks_that_are_their_own_parents(cli, db, url):
    put(
        db, ("recording_started", {"run_id": "r"}), spawned(1, 2), spawned(2, 1), spawned(1, 1), spawned(1, 2)
    )
    done = cli("tasks", "--store", url)
    assert done.out.splitlines()[1:] == ["└── task-1  running", "    └── task-2  running"]


@pytest.mark.parametrize("columns", [80, None])
@pytest.mark.parametrize("depth", [100, 1_500])
def test_tasks_that_are_nested_deeper_than_the_terminal_is_wide(cli, db, url, depth, columns):
    nested = [spawned(number, number - 1 or None) for number in range(1, depth + 1)]
    # Two more, beside those that are deep.
    put(db, ("recording_started", {"run_id": "r"}), *nested, spawned(depth + 1, 50), spawned(depth + 2, None))
    if columns is None:
        text = cli("tasks", "--store", url).out
    else:
        text = re.sub(STYLE, "", on_terminal("tasks", "--store", url, columns=columns).out)
    printed = text.splitlines()[1:]
    names = [re.search(r"task-\d+", line)[0] for line in printed]
    expected = [*range(1, depth + 1), depth + 1, depth + 2]
    assert names == [f"task-{number}" for number in expected]
    # How deep they are can still be seen.
    depths = [
        int((re.match(r"\+(\d+) ", line) or [0, 0])[1]) + (len(line.partition("── ")[0]) - 1) // 4
        for line in printed
    ]
    assert depths[:10] == list(range(10))
    assert printed[0].startswith("├── task-1 ")
    assert printed[-1].startswith("└── task-")
    assert max(map(len, printed)) < 200
