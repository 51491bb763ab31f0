"""Other processes: a killed one, a forked one, and many that create one file."""

import contextlib
import signal

import pytest

from tests._helpers.events import agent
from tests._helpers.sqlite import line, process
from trio_eventlog import (
    EventQuery,
    LogBusy,
)
from trio_eventlog.stores import SqliteStore

pytestmark = pytest.mark.usefixtures("no_threads_left")


HOLD = """
async def main():
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1), agent(2)])
        await store.append_batch([agent(3)])
        say(await store.last_seq())
        wait_for_end_of_input()

trio.run(main)
"""


async def test_s10_s13_a_killed_process(path):
    """What it appended is there, its lock is gone; while it lived, it kept others out."""
    async with process(path, HOLD) as other:
        assert await line(other) == "3"
        with pytest.raises(LogBusy, match=f"process {other.pid}"):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover
        async with SqliteStore.open(path, read_only=True) as reader:
            assert await reader.last_seq() == 3

        other.send_signal(signal.SIGKILL)
        await other.wait()

        async with SqliteStore.open(path, read_only=True) as reader:
            assert len(await reader.query(EventQuery())) == 3
        async with SqliteStore.open(path) as store:
            assert await store.last_seq() == 3
            assert [event.seq for event in await store.query(EventQuery())] == [1, 2, 3]
            assert list(await store.append_batch([agent(2, event_id="id-2"), agent(4)])) == []


FORK = """
async def main():
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(1)])
        if os.fork() == 0:
            say("forked")
            wait_for_end_of_input()
            os._exit(0)
        wait_for_end_of_input()

trio.run(main)
"""


async def test_s13_a_forked_child_does_not_keep_the_lock(path):
    async with process(path, FORK) as other:
        assert await line(other) == "forked"
        with pytest.raises(LogBusy):
            async with SqliteStore.open(path):
                pytest.fail("opened")  # pragma: no cover

        # The child lives until its input ends.
        other.send_signal(signal.SIGKILL)
        await other.wait()

        async with SqliteStore.open(path) as store:
            assert await store.last_seq() == 1


CROWD = """
async def main():
    async with SqliteStore.open(path, log=sys.argv[2], synchronous="off") as store:
        for seq in range(1, 41):
            await store.append_batch([agent(seq)])
        say(await store.last_seq())

trio.run(main)
"""


async def test_many_processes_create_one_file(path):
    async with contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(process(path, CROWD, f"log {n}")) for n in range(4)]
        for other in crowd:
            assert await line(other) == "40"

    assert await SqliteStore.logs(path) == [f"log {n}" for n in range(4)]
