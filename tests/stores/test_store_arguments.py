"""What is given as a store and is not one: refused on opening, with a word on what to write instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests._helpers.fakes import FakeStore
from trio_eventlog import (
    AgentEvent,
    EventLog,
    EventQuery,
    StoreUnusable,
    Subscription,
    open_event_log,
)
from trio_eventlog.reading import iter_events, merge_events, tail
from trio_eventlog.stores import JetStreamStore, MemoryStore, PostgresStore, SqliteStore, open_store

URL = "postgresql://me:secret@localhost/events"


async def unawaited() -> None:
    """Somebody else's way to open a store."""
    await trio.lowlevel.checkpoint()


class Half:
    """Half a store."""

    async def last_seq(self) -> int:
        """Nothing."""
        await trio.lowlevel.checkpoint()
        return 0


NO_STORES: list[tuple[Callable[[], Any], str]] = [
    (lambda: SqliteStore.open("x.db"), r"context manager that was not entered; write: async with … as store"),
    (lambda: open_store("memory:"), r"context manager that was not entered"),
    (lambda: URL, r"got str; open it first: async with open_store\(url\) as store"),
    (lambda: Path("x.db"), r"got PosixPath; open it first: async with open_store"),
    (lambda: b"x.db", r"got bytes; open it first"),
    (lambda: SqliteStore, r"got the class SqliteStore; write: async with SqliteStore.open\(…\) as store"),
    (lambda: MemoryStore, r"got the class MemoryStore; write: MemoryStore\(\)"),
    (Half, r"got Half, which has no append_batch, query"),
    (lambda: None, r"got NoneType, which has no append_batch, query, last_seq"),
]


@pytest.mark.parametrize(("make", "message"), NO_STORES, ids=[str(n) for n in range(len(NO_STORES))])
async def test_what_is_no_store(make: Callable[[], Any], message: str) -> None:
    """In whatever place."""

    async def write(store: Any) -> None:
        async with open_event_log(store):
            pytest.fail("opened")

    async def follow(store: Any) -> None:
        async with tail(store):
            pytest.fail("opened")

    async def read(store: Any) -> None:
        iter_events(store)

    async def merge(store: Any) -> None:
        merge_events({"a": store})

    uses: list[Callable[[Any], Awaitable[None]]] = [write, follow, read, merge]
    for use in uses:
        with pytest.raises(TypeError, match=message) as caught:
            await use(make())
        assert "secret" not in str(caught.value)


async def test_a_coroutine_is_no_store() -> None:
    """Somebody forgot to await it."""
    forgotten = unawaited()
    with pytest.raises(TypeError, match="got coroutine, which was not awaited"):
        async with open_event_log(forgotten):  # type: ignore[arg-type]
            pytest.fail("opened")
    await forgotten


@pytest.mark.parametrize(
    ("cls", "instead"),
    [
        (SqliteStore, "async with SqliteStore.open"),
        (PostgresStore, "async with PostgresStore.open"),
        (JetStreamStore, "async with JetStreamStore.open"),
        (EventLog, r"async with open_event_log\(store\) as log"),
        (Subscription, r"async with log.subscribe\(\) as events"),
    ],
)
def test_what_is_made_by_a_function(cls: Any, instead: str) -> None:
    """Names it."""
    with pytest.raises(TypeError, match=f"{cls.__name__} has no public constructor; write: {instead}"):
        cls("x.db")


class Plain:
    """A store whose methods are those that are given."""

    def __init__(self, **methods: Any) -> None:
        for name, method in methods.items():
            setattr(self, name, method.__get__(self))


async def append(_self: Any, _events: Any) -> list[int]:
    """As it should be."""
    await trio.lowlevel.checkpoint()
    return []


async def query(_self: Any, _query: Any) -> list[Any]:
    """As it should be."""
    await trio.lowlevel.checkpoint()
    return []


async def last_seq(_self: Any) -> int:
    """As it should be."""
    await trio.lowlevel.checkpoint()
    return 0


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("append_batch", lambda _self, _events: []),
        ("query", lambda _self, _query: []),
        ("last_seq", lambda _self: 0),
    ],
)
async def test_a_method_that_is_not_async(name: str, method: Any) -> None:
    """Each alone is enough."""
    methods = {"append_batch": append, "query": query, "last_seq": last_seq, name: method}
    store: Any = Plain(**methods)
    with pytest.raises(TypeError, match=rf"{name} of Plain returned .* must be async: async def {name}\("):
        async with open_event_log(store):
            pytest.fail("opened")


async def test_a_method_that_hands_on_to_an_async_one() -> None:
    """Is as good, and is asked for nothing before the log writes."""
    inner = FakeStore()
    store: Any = Plain(
        append_batch=lambda _self, events: inner.append_batch(events),
        query=lambda _self, query: inner.query(query),
        last_seq=lambda _self: inner.last_seq(),
    )
    async with open_event_log(store) as log:
        log.ingest(AgentEvent("a", "t"))
        await log.flush()
        assert len(await log.query(EventQuery())) == 1
    assert [append.seqs for append in inner.appends] == [(), (1,)]


async def test_a_read_only_store(tmp_path: Path) -> None:
    """Is refused on opening, and not when the first append fails."""
    path = tmp_path / "x.db"
    async with SqliteStore.open(path) as store:
        assert not store.read_only
    async with SqliteStore.open(path, read_only=True) as store:
        assert store.read_only
        with pytest.raises(StoreUnusable, match=r"read-only, and a log writes to its store: open it without"):
            async with open_event_log(store):
                pytest.fail("opened")
