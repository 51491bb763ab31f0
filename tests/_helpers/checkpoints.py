"""Calls of every public async method, and assertions that they are checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
import trio.testing

import trio_eventlog
from tests._helpers.fakes import numbered
from trio_eventlog import (
    EventLog,
    EventQuery,
    PersistedEvent,
    Subscription,
)
from trio_eventlog.stores import (
    MemoryStore,
    NullStore,
    PostgresStore,
    SqliteStore,
)


def event(seq: int, event_id: str | None = None) -> PersistedEvent:
    """One for a store."""
    return PersistedEvent(event_id or f"e{seq}", seq, 0, "worker", numbered(seq))


STORE_CALLS: dict[str, list[Callable[[MemoryStore | NullStore | SqliteStore], Awaitable[object]]]] = {
    "append_batch": [
        lambda store: store.append_batch([]),
        lambda store: store.append_batch([event(1)]),
        lambda store: store.append_batch([event(1)]),
        lambda store: store.append_batch([event(1, "of another id")]),
        lambda store: store.append_batch([event(0)]),
    ],
    "query": [
        lambda store: store.query(EventQuery()),
        lambda store: store.query(EventQuery(limit=0)),
        lambda store: store.query(EventQuery(since_ms=2**64 - 1)),
    ],
    "last_seq": [lambda store: store.last_seq()],
}


DESCRIBE: dict[str, list[Callable[[MemoryStore | SqliteStore], Awaitable[object]]]] = {
    "describe": [lambda store: store.describe(), lambda store: store.describe(top=0)]
}


ERASE: dict[str, list[Callable[[MemoryStore | SqliteStore | PostgresStore], Awaitable[object]]]] = {
    "erase": [
        lambda store: store.erase(EventQuery(), reason="why"),
        lambda store: store.erase(EventQuery(limit=0), reason="why"),
    ]
}


UPKEEP: dict[str, list[Callable[[SqliteStore | PostgresStore], Awaitable[object]]]] = {
    "log_names": [lambda store: store.log_names()],
    "verify": [lambda store: store.verify()],
    "prune": [lambda store: store.prune(keep=10), lambda store: store.prune(keep=10, dry_run=True)],
}


IN_MEMORY: dict[str, list[Callable[[MemoryStore], Awaitable[object]]]] = {
    "prune": [
        lambda store: store.prune(keep=10),
        lambda store: store.prune(before_ms=0, dry_run=True),
        lambda store: store.prune(keep=0),
    ],
}


PRUNED: dict[str, list[Callable[[MemoryStore | NullStore], Awaitable[object]]]] = {
    "pruned_seq": [lambda store: store.pruned_seq()],
}


IN_A_FILE: dict[str, list[Callable[[SqliteStore], Awaitable[object]]]] = {
    "query_page": [
        lambda store: store.query_page(EventQuery(), max_bytes=1),
        lambda store: store.query_page(EventQuery(limit=0), max_bytes=1),
    ],
    "pruned_seq": [lambda store: store.pruned_seq()],
    "sync": [lambda store: store.sync()],
}


SUMMARIES: dict[str, list[Callable[[MemoryStore | SqliteStore | PostgresStore], Awaitable[object]]]] = {
    "latest": [
        lambda store: store.latest(EventQuery(), limit=1),
        lambda store: store.latest(EventQuery(), before_seq=1, limit=1),
    ],
    "count": [
        lambda store: store.count(EventQuery(), at_most=10),
        lambda store: store.count(EventQuery(run_id="of none"), at_most=10),
    ],
    "histogram": [
        lambda store: store.histogram(EventQuery(), bucket_ms=1_000),
        lambda store: store.histogram(EventQuery(run_id="of none"), bucket_ms=1_000),
    ],
    "facets": [
        lambda store: store.facets(EventQuery(), "event_type", top=1),
        lambda store: store.facets(EventQuery(run_id="of none"), "member_id", top=1),
    ],
}


BACKUP: dict[str, list[Callable[[SqliteStore], Awaitable[object]]]] = {
    "backup": [lambda store: store.backup("/dev/null/is no directory")]
}


CALLS = {
    NullStore: STORE_CALLS | PRUNED,
    MemoryStore: STORE_CALLS | DESCRIBE | SUMMARIES | ERASE | PRUNED | IN_MEMORY,
    SqliteStore: STORE_CALLS | DESCRIBE | SUMMARIES | ERASE | UPKEEP | IN_A_FILE | BACKUP,
    # With a server, in tests/stores/postgres.
    PostgresStore: STORE_CALLS | DESCRIBE | SUMMARIES | ERASE | UPKEEP | IN_A_FILE,
    EventLog: {
        "ingest_wait": [lambda log: log.ingest_wait(numbered(1))],
        "flush": [lambda log: log.flush(), lambda log: log.flush(), lambda log: log.flush(through=0)],
        "query": [lambda log: log.query(), lambda log: log.query(EventQuery(limit=0))],
    },
    Subscription: {"wait_caught_up": [lambda events: events.wait_caught_up()]},
}


def async_methods(cls: type) -> set[str]:
    """Public methods that are awaited."""
    return {
        name
        for name, member in inspect.getmembers(cls, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }


async def checked(call: Awaitable[object]) -> None:
    """Assert that a call is a checkpoint, whether it returns or raises."""
    with trio.testing.assert_checkpoints():
        with suppress(trio_eventlog.EventLogError):
            await call


async def entered_cancelled(call: Awaitable[object]) -> None:
    """Assert that a call made by a cancelled task does not return."""
    with trio.CancelScope() as scope:
        scope.cancel(reason="test")
        await call
    assert scope.cancelled_caught


async def watch(store: SqliteStore | PostgresStore) -> None:
    """Enter and leave."""
    async with store.watch_changes():
        pass
