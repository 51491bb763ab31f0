"""Following a store from outside: each event once, in order, whatever becomes of the store's hints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.fakes import BEHAVIOUR_NAMES, BEHAVIOURS, FakeStore, numbered
from tests._helpers.readers import QUERIES, STEPS, play
from trio_eventlog import (
    EventQuery,
    EventsLost,
    EventStore,
    PersistedEvent,
    RetryPolicy,
    StaleCursor,
    StoreError,
    StoreUnusable,
    Subscription,
    abc,
    open_event_log,
)
from trio_eventlog._reading import _pages, _stream, _subscription
from trio_eventlog.reading import tail
from trio_eventlog.stores import MemoryStore, SqliteStore

# --- hints that cannot be relied on ---------------------------------------------------------------

FATES = ("on time", "never", "twice", "late", "for nothing", "error")


class FaultyHints:
    """A store whose hints are lost, repeated, late, for nothing, or errors."""

    def __init__(self, store: EventStore, fates: Sequence[str], real: abc.WatchableStore | None) -> None:
        self._store = store
        self._real = real
        self.fates = fates
        self.watches = 0
        self.changed = trio.lowlevel.ParkingLot()
        self.queries = 0

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        try:
            return await self._store.append_batch(events)
        finally:
            self.changed.unpark_all()

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        self.queries += 1
        return await self._store.query(query)

    async def last_seq(self) -> int:
        return await self._store.last_seq()

    @asynccontextmanager
    async def watch_changes(self) -> AsyncIterator[abc.ChangeWatch]:
        await trio.lowlevel.checkpoint()
        self.watches += 1
        try:
            if self._real is None:
                yield FaultyWatch(self, self.changed.park)
            else:
                async with self._real.watch_changes() as watch:
                    yield FaultyWatch(self, watch.wait)
        finally:
            self.watches -= 1


class FaultyWatch:
    """One watch of them."""

    def __init__(self, store: FaultyHints, wait: Callable[[], Any]) -> None:
        self.store = store
        self.wait_for_real = wait
        self.calls = 0
        self.again = False

    async def wait(self) -> None:
        if self.again:
            self.again = False
            await trio.lowlevel.checkpoint()
            return
        fate = self.store.fates[self.calls % len(self.store.fates)]
        self.calls += 1
        if fate == "for nothing":
            await trio.sleep(0.02)
        elif fate == "error":
            await trio.lowlevel.checkpoint()
            msg = "no hint"
            raise StoreError(msg)
        else:
            await self.wait_for_real()
            if fate == "never":
                await trio.sleep_forever()
            if fate == "late":
                await trio.sleep(0.2)
            self.again = fate == "twice"


@given(
    steps=STEPS,
    script=st.lists(BEHAVIOUR_NAMES, max_size=6),
    fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=8),
    query=st.sampled_from(sorted(QUERIES)),
    after=st.sampled_from([None, 0]),
    slowness=st.sampled_from([0, 0.05, 1.5]),
    page=st.integers(1, 6),
)
def test_each_event_once_and_in_order(  # noqa: PLR0917 - given by name
    steps: list[tuple[str, Any]],
    script: list[str],
    fates: list[str],
    query: str,
    after: int | None,
    slowness: float,
    page: int,
) -> None:
    """Whatever becomes of the hints: asking alone is enough."""
    inner = FakeStore([BEHAVIOURS[name] for name in script])
    store = FaultyHints(inner, fates, None)
    got: list[PersistedEvent] = []

    async def main() -> None:
        async with (
            tail(store, QUERIES[query], after_seq=after, poll_interval=0.5) as events,
            trio.open_nursery() as nursery,
        ):

            async def follow() -> None:
                async for event in events:
                    got.append(event)
                    await trio.sleep(slowness)

            nursery.start_soon(follow)
            # What is lost is no matter here.
            with suppress(EventsLost):
                async with open_event_log(
                    store,
                    batch_size=4,
                    retry_buffer_cap=12,
                    append_timeout=2.0,
                    grace_period=20.0,
                    retry=RetryPolicy(initial=0.25, maximum=4, random=lambda: 0.5),
                    on_failure=lambda _report: None,
                ) as log:
                    await play(log, steps)
            await events.wait_caught_up()
            nursery.cancel_scope.cancel(reason="all is read")

    with mock.patch.object(_subscription, "_PAGE_SIZE", page):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    expected = sorted(inner.held.values(), key=lambda event: event.seq)

    assert got == [event for event in expected if QUERIES[query].matches(event)]
    assert store.watches == 0


# --- SQLite, and a writer in another process ------------------------------------------------------

WRITER = """
import sys, trio
from trio_eventlog import AgentEvent, open_event_log
from trio_eventlog.stores import SqliteStore

async def main(path, log, count):
    async with (
        SqliteStore.open(path, log=log, synchronous="off") as store,
        open_event_log(store, batch_size=16, flush_interval=0.01) as log,
    ):
        print("open", flush=True)
        sys.stdin.readline()
        for number in range(count):
            await log.ingest_wait(AgentEvent(f"worker-{number % 2}", "step", {"number": number}))
            if number % 50 == 0:
                await trio.sleep(0.01)

trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""

Writer = subprocess.Popen[str]


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    """A process that writes to a log once it is told to."""
    processes: list[Writer] = []

    def start(log: str, count: int) -> Writer:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", WRITER, str(tmp_path / "events.db"), log, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def go(process: Writer) -> None:
    """Let it write."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize(
    "fates",
    [("on time",), ("never",), ("twice", "for nothing"), ("late", "never", "error"), ("error",), FATES],
    ids=" ".join,
)
async def test_a_writer_in_another_process(fates: Sequence[str], tmp_path: Path, writer: Any) -> None:
    """Each event once, in order, with real hints that are tampered with, from two readers."""
    process = writer("default", 1_000)
    got: list[tuple[int, int]] = []
    with trio.fail_after(60):
        async with SqliteStore.open(tmp_path / "events.db", read_only=True) as plain:
            store = FaultyHints(plain, fates, plain)
            async with (
                tail(store, poll_interval=0.1) as events,
                tail(store, EventQuery(member_id="worker-1", limit=500), poll_interval=0.1) as half,
                trio.open_nursery() as nursery,
            ):

                async def follow_half() -> None:
                    seqs = [event.seq async for event in half]
                    assert seqs == list(range(2, 1_001, 2))

                nursery.start_soon(follow_half)
                go(process)
                async for event in events:
                    got.append((event.seq, event.event.payload["number"]))
                    if event.seq == 1_000:
                        break
            assert await plain.last_seq() == 1_000

    assert got == [(number + 1, number) for number in range(1_000)]


async def test_the_hints_of_sqlite(tmp_path: Path) -> None:
    """Come when something was written, at whatever moment, and only then; each watch has its own."""
    path = tmp_path / "events.db"
    with trio.fail_after(60):
        async with (
            SqliteStore.open(path) as writing,
            SqliteStore.open(path, log="other") as other,
            SqliteStore.open(path, read_only=True) as reading,
            reading.watch_changes() as first,
            reading.watch_changes() as second,
        ):
            await writing.append_batch([PersistedEvent("a", 1, 0, None, numbered(1))])
            await first.wait()
            await second.wait()
            with trio.move_on_after(0.2) as scope:
                await first.wait()
            assert scope.cancelled_caught

            # A query in between does not swallow the hint.
            await other.append_batch([PersistedEvent("a", 1, 0, None, numbered(1))])
            await reading.query(EventQuery())
            await first.wait()
            await second.wait()


async def test_watching_a_closed_store(tmp_path: Path) -> None:
    """Is refused by its own error, and ends one that is under way."""
    async with SqliteStore.open(tmp_path / "events.db") as store, store.watch_changes() as watch:
        pass
    with pytest.raises(StoreUnusable):
        await watch.wait()
    with pytest.raises(StoreUnusable):
        async with store.watch_changes():
            pass
    with pytest.raises(StoreUnusable):
        async with tail(store):
            pass


async def test_tail_in_the_process_of_the_log(tmp_path: Path) -> None:
    """The store that a log writes to can be followed as well."""
    with trio.fail_after(60):
        async with (
            SqliteStore.open(tmp_path / "events.db") as store,
            tail(store, poll_interval=30) as events,
            open_event_log(store, flush_interval=0.01) as log,
        ):
            for number in range(3):
                log.ingest(numbered(number))

            assert [(await anext(events)).seq for _ in range(3)] == [1, 2, 3]


# --- how it differs from a subscription -----------------------------------------------------------


async def store_with(count: int) -> MemoryStore:
    """Some events."""
    store = MemoryStore()
    await add(store, 1, count)
    return store


async def add(store: MemoryStore, first: int, last: int) -> None:
    """Append events."""
    await store.append_batch(
        [PersistedEvent(f"e{seq}", seq, seq, "worker", numbered(seq)) for seq in range(first, last + 1)]
    )


@pytest.mark.parametrize(("after", "expected"), [(None, [6]), (0, [1, 2, 3, 4, 5, 6]), (4, [5, 6])])
async def test_the_cursor(
    after: int | None, expected: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    """As for a subscription."""
    store = await store_with(5)
    async with tail(store, after_seq=after) as events:
        await add(store, 6, 6)

        assert [(await anext(events)).seq for _ in expected] == expected
        assert events.cursor == 6


async def test_a_stale_cursor() -> None:
    """Beyond the last seq of the store."""
    store = await store_with(5)
    async with tail(store, after_seq=5):
        pass
    with pytest.raises(StaleCursor) as caught:
        async with tail(store, after_seq=6):
            pass
    assert (caught.value.after_seq, caught.value.last_seq) == (6, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"poll_interval": 0}, ValueError, "poll_interval: expected more than 0 seconds"),
        ({"poll_interval": float("inf")}, ValueError, "poll_interval: expected more than 0 seconds"),
        ({"poll_interval": float("nan")}, ValueError, "poll_interval: expected more than 0 seconds"),
        ({"poll_interval": True}, TypeError, "poll_interval: expected seconds, got bool"),
        ({"query": {"run_id": "r"}}, TypeError, "query: expected an EventQuery, got dict"),
        ({"after_seq": True}, TypeError, "after_seq: expected an integer, got bool"),
        ({"query": EventQuery(after_seq=1), "after_seq": 1}, ValueError, "after_seq: given twice"),
    ],
)
async def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Are named."""
    with pytest.raises(error, match=message):
        async with tail(MemoryStore(), **arguments):
            pass


async def test_polling_alone(autojump_clock: trio.testing.MockClock) -> None:
    """An idle store is asked for its last seq, once an interval, and for nothing else."""
    store = FaultyHints(FakeStore(), ("never",), None)
    async with tail(store, poll_interval=2) as events:
        with trio.move_on_after(21):
            await anext(events)
        assert store.queries == 0
        await store.append_batch([PersistedEvent("a", 1, 0, None, numbered(1))])
        before = trio.current_time()
        await anext(events)
        assert trio.current_time() - before <= 2
        assert store.queries == 1


async def test_what_does_not_match_is_not_looked_at_again(autojump_clock: trio.testing.MockClock) -> None:
    """The cursor passes it."""
    store = await store_with(100)
    async with tail(store, EventQuery(since_ms=1_000), after_seq=0) as events:
        with trio.move_on_after(5):
            await anext(events)

        assert events.cursor == 100
        await events.wait_caught_up()


async def test_an_error_of_the_store_skips_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Neither of the last seq nor of the events."""
    store = await store_with(5)
    async with tail(store, after_seq=0) as events:
        for method in ("query", "last_seq"):
            await anext(events)
            cursor = events.cursor
            # As after a page that has been read to its end.
            events._unread = _stream._Unread(_pages.Page([], cursor))
            if method == "last_seq":
                events._source.known_end = cursor  # type: ignore[misc]
            with (
                mock.patch.object(store, method, side_effect=StoreError("down")),
                pytest.raises(StoreError, match="down"),
            ):
                await anext(events)

        assert [(await anext(events)).seq for _ in range(3)] == [3, 4, 5]


async def test_a_store_that_cannot_be_watched_now(autojump_clock: trio.testing.MockClock) -> None:
    """Is asked instead."""

    class Deaf(MemoryStore):
        def watch_changes(self) -> AbstractAsyncContextManager[abc.ChangeWatch]:
            @asynccontextmanager
            async def watch() -> AsyncIterator[abc.ChangeWatch]:
                await trio.lowlevel.checkpoint()
                raise StoreError("too many connections")
                yield

            return watch()

    store = Deaf()
    async with tail(store) as events:
        await add(store, 1, 1)

        assert (await anext(events)).seq == 1


async def test_leaving_while_another_task_waits(autojump_clock: trio.testing.MockClock) -> None:
    """It is told at once, and does not go on with a watch that is gone."""
    store = FaultyHints(FakeStore(), ("on time",), None)

    async def follow(events: Subscription) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await anext(events)

    async with trio.open_nursery() as nursery:
        async with tail(store, poll_interval=1_000) as events:
            nursery.start_soon(follow, events)  # noqa: ASYNC111 - told when it is left
            await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
    assert trio.current_time() == before
    assert store.watches == 0
