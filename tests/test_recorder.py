"""The flight recorder: what becomes of tasks, in virtual time, and what it must not do."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import FakeStore, fail
from trio_eventlog import EventLog, EventQuery, EventsLost, ModuleEvent, PersistedEvent, open_event_log
from trio_eventlog.recorder import MODULE, TaskRecorder, record_tasks
from trio_eventlog.stores import MemoryStore


async def records(log: EventLog, **filters: Any) -> list[tuple[str, dict[str, Any]]]:
    """What was recorded: types and payloads without the run."""
    await log.flush()
    found = []
    for event in await log.query(EventQuery(**filters)):
        inner = event.event
        assert isinstance(inner, ModuleEvent)
        assert inner.module == MODULE
        payload = dict(inner.payload)
        payload.pop("run_id")
        found.append((inner.event_type, payload))
    return found


def own(task: trio.lowlevel.Task) -> bool:
    """Of this file, or the task of the running test."""
    return "test_recorder" in task.name or "runner" in task.name


async def worker(children: int, seconds: float) -> None:
    """Has children, and lives for a while."""
    async with trio.open_nursery() as nursery:
        for _ in range(children):
            nursery.start_soon(worker, 0, seconds / 2, name=f"{__name__}.child")
        await trio.sleep(seconds)


async def test_the_life_of_tasks(autojump_clock: trio.testing.MockClock) -> None:
    """Who began it, in which nursery, and how long it lived."""
    async with open_event_log(MemoryStore()) as log:
        with record_tasks(log, filter=own, run_id="r-1") as recorder:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker, 1, 4.0)
                nursery.start_soon(worker, 0, 1.0)
        assert recorder.run_id == "r-1"
        (start, *rest, stop) = await records(log, run_id="r-1")

    assert start == ("recording_started", {"slow_step": 0.1})
    assert stop == ("recording_stopped", {"running": 1, "suppressed": 0})
    spawned = {payload["task"]: payload for kind, payload in rest if kind == "task_spawned"}
    test, *workers, child = spawned.values()
    assert test["at_start"]
    assert [(task["parent"], task.get("at_start")) for task in workers] == [(test["task"], None)] * 2
    assert len({task["nursery"] for task in workers}) == 1
    assert child["parent"] in {task["task"] for task in workers}
    assert child["nursery"] != workers[0]["nursery"]
    exited = [(payload["name"], payload["seconds"]) for kind, payload in rest if kind == "task_exited"]
    name = f"{__name__}.worker"
    assert exited == [(name, 1.0), (f"{__name__}.child", 2.0), (name, 4.0)]
    assert not any(payload["cancelled"] for kind, payload in rest if kind == "task_exited")


async def test_cancelled_tasks(autojump_clock: trio.testing.MockClock) -> None:
    """By their nursery or by one around it."""
    async with open_event_log(MemoryStore()) as log:
        with record_tasks(log, filter=own):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker, 2, math.inf)
                await trio.sleep(1)
                nursery.cancel_scope.cancel(reason="test")
        found = await records(log, event_types=("task_exited",))

    assert [payload["cancelled"] for _, payload in found] == [True, True, True]


async def test_slow_steps(autojump_clock: trio.testing.MockClock) -> None:
    """What keeps all others waiting, the last step included; and not if nobody is to look."""

    async def hog(last: float) -> None:
        autojump_clock.jump(0.5)
        await trio.lowlevel.checkpoint()
        autojump_clock.jump(0.05)
        await trio.lowlevel.checkpoint()
        autojump_clock.jump(last)

    async with open_event_log(MemoryStore()) as log:
        for slow_step in (0.1, None):
            with record_tasks(log, slow_step=slow_step, run_id=str(slow_step)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 0)
                    nursery.start_soon(hog, 2.0)
        found = await records(log, event_types=("task_step_slow",))
        starts = await records(log, event_types=("recording_started",))

    assert [payload["seconds"] for _, payload in found] == pytest.approx([0.5, 2.0])
    assert all("hog" in payload["name"] for _, payload in found)
    assert [payload["slow_step"] for _, payload in starts] == [0.1, None]


async def test_the_tasks_of_the_log_are_not_recorded(autojump_clock: trio.testing.MockClock) -> None:
    """Nor what its store starts; however slow they are, and however often it fails."""

    class Busy(MemoryStore):
        async def append_batch(self, events: Any) -> Any:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0.2, name="of the store")
                autojump_clock.jump(1)
            return await super().append_batch(events)

    store = Busy()
    async with open_event_log(store, flush_interval=0.1) as log:
        with record_tasks(log):
            for _ in range(5):
                log.ingest(ModuleEvent(MODULE, "tick", {"run_id": "r"}))
                await trio.sleep(2)
            assert log.statistics().appends >= 5
        found = await records(log)

    names = {payload["name"] for _, payload in found if "name" in payload}
    assert not any("EventLog" in name or "store" in name for name in names)


async def test_owned_tasks(autojump_clock: trio.testing.MockClock) -> None:
    """The log knows its own, and no others."""
    store = FakeStore()
    seen: list[bool] = []

    async def note(_store: FakeStore, events: Any) -> Any:
        seen.append(log.owns_task(trio.lowlevel.current_task()))
        return store.keep(events)

    store.otherwise = note
    async with open_event_log(store) as log:
        log.ingest(ModuleEvent("m", "t"))
        await log.flush()
        assert not log.owns_task(trio.lowlevel.current_task())
    assert seen == [True]


async def test_tasks_that_a_store_starts_elsewhere_are_not_recorded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In a nursery that was there before the log, for example; each would lead to an append, and so on."""

    class Busy(MemoryStore):
        nursery: trio.Nursery

        async def append_batch(self, events: Any) -> Any:
            self.nursery.start_soon(trio.sleep, 1, name="of the store")
            return await super().append_batch(events)

    store = Busy()
    async with trio.open_nursery() as store.nursery:
        async with open_event_log(store, flush_interval=0.1) as log:
            with record_tasks(log):
                ingested = log.statistics().ingested
                log.ingest(ModuleEvent(MODULE, "tick", {"run_id": "r"}))
                await trio.sleep(100)
                assert log.statistics().ingested == ingested + 1
                store.nursery.start_soon(trio.sleep, 1, name="of the program")
                await trio.sleep(100)
                assert log.statistics().ingested == ingested + 3


async def test_the_bound_on_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    """So many at once, so many a second; the rest is counted, and all that began also ends."""
    async with open_event_log(MemoryStore()) as log:
        with record_tasks(log, filter=lambda task: task.name == "child", max_rate=10) as recorder:
            async with trio.open_nursery() as nursery:
                for _ in range(25):
                    nursery.start_soon(trio.sleep, 100, name="child")
                await trio.sleep(0.5)
                for _ in range(10):
                    nursery.start_soon(trio.sleep, 100, name="child")
            assert recorder.suppressed == 20
        found = await records(log)

    kinds = [kind for kind, _ in found]
    assert kinds.count("task_spawned") == kinds.count("task_exited") == 15
    assert [payload["count"] for kind, payload in found if kind == "tasks_suppressed"] == [15, 5]
    assert found[-1][1] == {"running": 0, "suppressed": 20}


async def test_children_of_tasks_that_are_not_recorded(autojump_clock: trio.testing.MockClock) -> None:
    """Belong to the nearest one above that is."""
    async with open_event_log(MemoryStore()) as log:
        with record_tasks(log, filter=lambda task: "worker" not in task.name and own(task)):
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - it is what is recorded
                nursery.start_soon(worker, 1, 1.0)
        (test, child) = [payload for _, payload in await records(log, event_types=("task_spawned",))]

    assert child["parent"] == test["task"]


async def test_a_filter_that_raises(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Ends neither the recording nor the program: it is told once, and the task is recorded."""

    def bad(task: trio.lowlevel.Task) -> bool:
        raise ValueError(task.name)

    async with open_event_log(MemoryStore()) as log:
        with record_tasks(log, filter=bad):
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - it is what is recorded
                nursery.start_soon(worker, 1, 1.0)
        found = await records(log, event_types=("task_exited",))

    assert len(found) == 2
    assert [record.message for record in caplog.records] == [
        "the filter of a task recorder raised; the task is recorded"
    ]


async def test_a_log_that_refuses(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be recorded is counted; the program is not disturbed."""

    def refuse(event: Any) -> bool:
        if event.event_type == "task_spawned":
            raise ValueError("no")
        return True

    async with open_event_log(MemoryStore(), filter=refuse) as log:
        with record_tasks(log, filter=own) as recorder:
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - it is what is recorded
                nursery.start_soon(worker, 0, 1.0)
            assert recorder.suppressed == 2
        found = await records(log)

    assert [kind for kind, _ in found if kind != "tasks_suppressed"] == [
        "recording_started",
        "recording_stopped",
    ]
    assert sum(payload.get("count", 0) for _, payload in found) == 2
    assert len(caplog.records) == 1


async def test_a_log_that_is_closed_first(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Ends the recording, and nothing else."""
    async with trio.open_nursery() as nursery:
        async with open_event_log(MemoryStore()) as log:
            recording = record_tasks(log)
            recording.__enter__()
        nursery.start_soon(worker, 1, 1.0)
    recording.__exit__(None, None, None)

    assert not caplog.records
    first = (await log.store.query(EventQuery()))[0]
    assert first.event.event_type == "recording_started"


async def test_a_store_that_is_down_is_not_fed_by_its_failures(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Retries start no tasks, so that nothing is recorded of them."""
    with pytest.raises(EventsLost):
        async with open_event_log(
            FakeStore(otherwise=fail), grace_period=0, on_failure=lambda _report: None
        ) as log:
            with record_tasks(log):
                await trio.sleep(5)
                before = log.statistics().ingested
                await trio.sleep(100)
                assert log.statistics().ingested == before
                assert log.statistics().failures > 5


async def test_names_that_no_event_can_carry(autojump_clock: trio.testing.MockClock) -> None:
    """Long ones are cut, and what is no Unicode text is escaped."""
    async with open_event_log(MemoryStore()) as log:
        with record_tasks(log, filter=lambda task: "x" in task.name[:1] or "\ud800" in task.name):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 1, name="x" * 10_000)
                nursery.start_soon(trio.sleep, 2, name="\ud800")
        found = await records(log, event_types=("task_exited",))

    assert [payload["name"] for _, payload in found] == ["x" * 200, "\\ud800"]


@given(st.recursive(st.just([]), lambda trees: st.lists(trees, max_size=3), max_leaves=12), st.integers(0, 6))
def test_every_task_that_began_has_ended(tree: Any, cancel_after: int) -> None:
    """Once, after its children, whenever the whole is cancelled; and parents begin before children."""

    async def grow(branches: list[Any]) -> None:
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            for branch in branches:
                nursery.start_soon(grow, branch)
            await trio.sleep(1)

    async def main() -> list[PersistedEvent]:
        store = MemoryStore()
        async with open_event_log(store) as log:
            with record_tasks(log, filter=lambda task: task.name.endswith("grow")):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(grow, tree)
                    with trio.move_on_after(cancel_after + 0.5):
                        await trio.sleep_forever()
                    nursery.cancel_scope.cancel(reason="test")
        return await store.query(EventQuery())

    alive: dict[int, int | None] = {}
    ended = set()
    for event in trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)):
        payload = event.event.payload
        if event.event.event_type == "task_spawned":
            assert payload["parent"] is None or payload["parent"] in alive
            alive[payload["task"]] = payload["parent"]
        elif event.event.event_type == "task_exited":
            assert payload["task"] not in alive.values()
            del alive[payload["task"]]
            ended.add(payload["task"])
    assert not alive
    assert ended


def test_outside_of_trio() -> None:
    """There are no tasks to record."""

    async def main() -> EventLog:
        async with open_event_log(MemoryStore()) as log:
            return log

    log = trio.run(main)
    with pytest.raises(RuntimeError):
        record_tasks(log).__enter__()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"slow_step": 0}, ValueError, "slow_step: expected more than 0, got 0"),
        ({"slow_step": "1"}, TypeError, "slow_step: expected a number, got str"),
        ({"max_rate": 0}, ValueError, "max_rate: expected more than 0, got 0"),
        ({"max_rate": math.nan}, ValueError, "max_rate: expected more than 0, got nan"),
        ({"max_rate": None}, TypeError, "max_rate: expected a number, got NoneType"),
        ({"filter": 1}, TypeError, "filter: expected a function, got int"),
        ({"run_id": 1}, TypeError, "run_id: expected a str, got int"),
    ],
)
async def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Are named."""
    async with open_event_log(MemoryStore()) as log:
        with pytest.raises(error, match=message), record_tasks(log, **arguments):
            pass
        assert log.statistics().ingested == 0


async def test_it_is_an_instrument(autojump_clock: trio.testing.MockClock) -> None:
    """Which looks at steps only if it has to; and is gone afterwards."""
    async with open_event_log(MemoryStore()) as log:
        with record_tasks(log, slow_step=None) as recorder:
            assert type(recorder) is TaskRecorder
            assert not {"before_task_step", "after_task_step"} & set(vars(TaskRecorder))
        with pytest.raises(KeyError):
            trio.lowlevel.remove_instrument(recorder)
    assert logging.getLogger("trio_eventlog").handlers == []
