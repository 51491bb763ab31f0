"""Every public async function is a checkpoint, always: with work to do, without, and on error.

The list is compared with what the package exports, so that a new function cannot be forgotten.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

import trio_eventlog
from tests._helpers.checkpoints import CALLS, async_methods, checked, entered_cancelled, event, watch
from tests._helpers.fakes import FakeStore, fail_with, numbered
from trio_eventlog import (
    EventLog,
    EventQuery,
    EventsLost,
    StoreUnusable,
    open_event_log,
    stores,
)
from trio_eventlog._util import Forks
from trio_eventlog.reading import iter_events, merge_events, tail
from trio_eventlog.stores import (
    JetStreamStore,
    MemoryStore,
    NullStore,
    SqliteStore,
    open_store,
)


@pytest.mark.parametrize("cls", CALLS)
def test_no_async_method_is_forgotten(cls: type) -> None:
    """The calls above cover each of them."""
    static = {"logs"}  # of SqliteStore, below, and of PostgresStore

    assert async_methods(cls) - static == set(CALLS[cls])


def test_no_class_is_forgotten() -> None:
    """Every public class with methods to await stands above."""
    public = [*vars(trio_eventlog).values(), *(getattr(stores, name) for name in dir(stores))]
    classes = {value for value in public if inspect.isclass(value) and async_methods(value)}
    need_servers = {JetStreamStore}  # in tests/stores/jetstream

    protocols = {value for value in classes if value.__module__ == "trio_eventlog.abc"}

    assert classes - protocols - need_servers == set(CALLS)


@pytest.mark.parametrize("cls", [NullStore, MemoryStore, SqliteStore])
async def test_methods_of_stores(cls: type, tmp_path: Path) -> None:
    """With work and without, and when they raise; entered cancelled, they raise Cancelled and do nothing."""
    async with AsyncExitStack() as stack:
        store = (
            await stack.enter_async_context(SqliteStore.open(tmp_path / "events.db"))
            if cls is SqliteStore
            else cls()
        )
        for calls in CALLS[cls].values():
            for call in calls:
                await entered_cancelled(call(store))
        assert await store.last_seq() == 0
        for calls in CALLS[cls].values():
            for call in calls:
                await checked(call(store))


async def test_methods_of_a_closed_store(tmp_path: Path) -> None:
    """They raise, and are checkpoints all the same."""
    async with SqliteStore.open(tmp_path / "events.db") as store:
        pass
    for calls in CALLS[SqliteStore].values():
        for call in calls:
            with trio.testing.assert_checkpoints(), pytest.raises(trio_eventlog.StoreError):
                await call(store)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("state", ["open", "closed", "inherited by a child"])
async def test_methods_in_every_state(
    state: str, read_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are checkpoints, and raise Cancelled if entered cancelled, whatever else they would raise."""
    path = tmp_path / "events.db"
    calls = [*itertools.chain(*CALLS[SqliteStore].values()), watch]
    async with SqliteStore.open(path):
        pass
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(SqliteStore.open(path, read_only=read_only))
        if state == "closed":
            await stack.aclose()
        with monkeypatch.context() as patch:
            if state == "inherited by a child":
                patch.setattr(Forks, "count", Forks.count + 1)
            for call in calls:
                await entered_cancelled(call(store))
                await checked(call(store))


async def test_methods_of_the_log(autojump_clock: trio.testing.MockClock) -> None:
    """With work and without."""
    async with open_event_log(FakeStore()) as log:
        for calls in CALLS[EventLog].values():
            for call in calls:
                await entered_cancelled(call(log))
        assert log.statistics().ingested == 0
        for calls in CALLS[EventLog].values():
            for call in calls:
                await checked(call(log))


async def test_a_flush_that_raises_is_a_checkpoint(autojump_clock: trio.testing.MockClock) -> None:
    """Also one that has nothing to wait for."""
    with pytest.raises(StoreUnusable):
        async with open_event_log(FakeStore(otherwise=fail_with(StoreUnusable("gone"))), batch_size=1) as log:
            log.ingest(numbered(1))
            await trio.testing.wait_all_tasks_blocked()
            with trio.testing.assert_checkpoints(), pytest.raises(EventsLost):
                await log.flush()


async def test_opening(tmp_path: Path) -> None:
    """Entering a context manager of ours is a checkpoint, also where there is nothing to open."""
    async with AsyncExitStack() as stack:
        for url in ["memory:", "null:", f"sqlite:{tmp_path}/events.db"]:
            with trio.testing.assert_checkpoints():
                store = await stack.enter_async_context(open_store(url))
            with trio.testing.assert_checkpoints():
                await stack.enter_async_context(open_event_log(store))
        with trio.testing.assert_checkpoints():
            await SqliteStore.logs(tmp_path / "events.db")


async def step(events: AsyncIterator[object]) -> None:
    """One step of an `async for`."""
    with suppress(StopAsyncIteration):
        await anext(events)


async def test_reading(autojump_clock: trio.testing.MockClock) -> None:
    """The first step of each way to read, and the last, which finds nothing; and entering a subscription."""
    store = FakeStore()
    async with open_event_log(store) as log:
        log.ingest(numbered(1))
        await log.flush()
        for entered in (lambda: log.subscribe(after_seq=0), lambda: tail(store, after_seq=0)):
            with trio.CancelScope() as scope:
                scope.cancel(reason="test")
                async with entered():
                    pytest.fail("entered")
            assert scope.cancelled_caught
            with trio.testing.assert_checkpoints():
                entering = entered()
                await entering.__aenter__()
            await entering.__aexit__(None, None, None)
        async with (
            log.subscribe(EventQuery(limit=1), after_seq=0) as live,
            tail(store, EventQuery(limit=1), after_seq=0) as tailed,
        ):
            for events in (live, tailed, iter_events(store), merge_events({"a": store})):
                await entered_cancelled(step(events))
                await checked(step(events))
                await checked(step(events))
            await checked(live.wait_caught_up())
            await entered_cancelled(live.wait_caught_up())


async def test_each_step_of_reading(autojump_clock: trio.testing.MockClock) -> None:
    """Of each way to read, also where the event is in memory already."""
    store = MemoryStore()
    await store.append_batch([event(seq) for seq in range(1, 41)])
    async with (
        open_event_log(store) as log,
        log.subscribe(EventQuery(limit=40), after_seq=0) as live,
        tail(store, EventQuery(limit=40), after_seq=0) as tailed,
    ):
        one, several = iter_events(store, page_size=30), merge_events({"a": store}, page_size=30)
        for events in (live, tailed, one, several):
            for _ in range(20):
                await entered_cancelled(step(events))
                await checked(step(events))
        for pages in (live.pages(), tailed.pages(), one.pages(), several.pages()):
            for _ in range(4):
                await entered_cancelled(step(pages))
                await checked(step(pages))
            with pytest.raises(StopAsyncIteration):
                await anext(pages)


async def test_watching(tmp_path: Path) -> None:
    """Entering, and waiting for a change that has come already."""
    async with SqliteStore.open(tmp_path / "events.db") as store:
        watching = store.watch_changes()
        with trio.testing.assert_checkpoints():
            watch = await watching.__aenter__()
        await store.append_batch([event(1)])
        await entered_cancelled(watch.wait())
        await checked(watch.wait())
        await watching.__aexit__(None, None, None)
        with trio.CancelScope() as scope:
            scope.cancel(reason="test")
            async with SqliteStore.open_readers(tmp_path / "events.db"):
                pytest.fail("entered")
        assert scope.cancelled_caught
