"""The tree of tasks."""

import trio
from trio.testing import wait_all_tasks_blocked

from trio_eventlog import open_event_log
from trio_eventlog.console._task_tree import MAX_FRAMES, MAX_TASKS, TaskTree, _where
from trio_eventlog.stores import MemoryStore


async def leaf():
    await trio.sleep_forever()


async def branch():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaf, name="first")
        nursery.start_soon(leaf, name="second\ud800")


async def deep(levels):
    await (deep(levels - 1) if levels else leaf())


async def test_parents_come_first_and_each_says_where_it_stands():
    tree = TaskTree(lambda task: False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(branch, name="branch")
        await wait_all_tasks_blocked()
        tasks, is_complete = await tree.read()
        again, _ = await tree.read()
        assert is_complete
        assert [task["id"] for task in tasks] == [task["id"] for task in again]
        by_id = {task["id"]: task for task in tasks}
        seen = set()
        for task in tasks:
            assert task["parent"] is None or task["parent"] in seen
            seen.add(task["id"])
        found = {task["name"]: task for task in tasks}
        one, two = found["first"], found["second\\ud800"]
        assert by_id[one["parent"]]["name"] == "branch"
        assert one["nursery"] == two["nursery"] != found["branch"]["nursery"]
        assert one["where"][0]["function"] == "leaf"
        assert one["where"][0]["file"] == "test_task_tree.py"
        assert found["branch"]["where"][0]["function"] == "branch"
        assert not one["is_cancelled"]
        nursery.cancel_scope.cancel()
        assert {task["name"]: task for task in (await tree.read())[0]}["first"]["is_cancelled"]


async def test_it_is_bounded():
    tree = TaskTree(lambda task: False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deep, 100, name="deep")
        for _ in range(MAX_TASKS + 10):
            nursery.start_soon(leaf)
        await wait_all_tasks_blocked()
        tasks, is_complete = await tree.read()
        assert (len(tasks), is_complete) == (MAX_TASKS, False)
        where = {task["name"]: task for task in tasks}["deep"]["where"]
        assert len(where) == MAX_FRAMES
        assert where[0]["function"] == "leaf"
        nursery.cancel_scope.cancel()


async def test_tasks_of_the_log_and_of_the_console():
    async with open_event_log(MemoryStore()) as log, trio.open_nursery() as nursery:
        tree = TaskTree(log.owns_task)
        tree.note_own(nursery)
        nursery.start_soon(branch, name="branch")
        await wait_all_tasks_blocked()
        found = {task["name"]: task for task in (await tree.read())[0]}
        assert {name for name, task in found.items() if task["is_console"]} == {
            "branch",
            "first",
            "second\\ud800",
        }
        assert any(task["is_log"] for task in found.values())
        nursery.cancel_scope.cancel()


async def test_the_program_goes_on_while_many_stacks_are_read():
    """Reading these at a stretch would hold up all other tasks for a tenth of a second or more."""
    tree = TaskTree(lambda task: False)
    turns = 0

    async def work():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(deep, 20)
        await wait_all_tasks_blocked()
        nursery.start_soon(work)
        await trio.lowlevel.checkpoint()
        turns = 0
        await tree.read()
        assert turns > 10
        nursery.cancel_scope.cancel()


async def test_a_task_that_has_ended_stands_nowhere():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(branch)
        await wait_all_tasks_blocked()
        (task,) = nursery.child_tasks
        nursery.cancel_scope.cancel()
    assert _where(task) == []
