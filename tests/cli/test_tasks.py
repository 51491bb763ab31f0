"""`tasks`."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from tests._helpers.cli import (
    STYLE,
    on_terminal,
)
from trio_eventlog import (
    ModuleEvent,
    open_event_log,
)
from trio_eventlog.recorder import record_tasks
from trio_eventlog.stores import SqliteStore


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


def test_the_last_run_that_was_not_erased(cli, recorded):
    done = cli("erase", "--store", recorded, "--run-id", "second", "--reason", "asked for")
    assert done.status == 0, done.err
    assert cli("tasks", "--store", recorded).out.startswith("first")


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
    assert title.endswith("3 tasks  12 records suppressed  its end was not recorded")
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
        ([], [], "no run is recorded in this log; trio_eventlog.recorder.record_tasks records one"),
        ([], ["--run-id", "r"], "no run 'r' is recorded in this log"),
        ([("recording_started", {"no": "id"})], [], "no run is recorded in this log"),
        (
            [("recording_started", {"run_id": "r"}), ("task_spawned", {"run_id": "r"})],
            [],
            "event 2 was not written by a task recorder: KeyError: 'task'",
        ),
        (
            [
                ("recording_started", {"run_id": "r"}),
                spawned(1, None),
                ("task_exited", {"run_id": "r", "task": [1]}),
            ],
            [],
            "event 3 was not written by a task recorder: TypeError: ",
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
