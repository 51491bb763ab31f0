"""Fields of payloads: with an index and without, all stores find the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from tests._helpers.field_queries import KEY, assert_finds_as_memory_does, events_with_fields, field_queries
from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent, StoreUnusable
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores._common import _columns as columns
from trio_eventlog.stores.sqlite import _select as queries
from trio_eventlog.stores.sqlite._field_index import index_name, index_sql, indexed_keys

pytestmark = pytest.mark.usefixtures("no_threads_left")

INDEXES: list[tuple[str, ...]] = [(), ("k",), (KEY,), ("k", KEY)]


@pytest.mark.parametrize("index", INDEXES, ids=["none", "plain", "odd", "both"])
async def test_values_are_found_by_what_they_are(path: Path, index: tuple[str, ...]) -> None:
    """The same with each index, and whatever else is asked for."""
    events = events_with_fields(200)
    async with SqliteStore.open(path, synchronous="off", index=index) as store:
        await store.append_batch(events)
        await assert_finds_as_memory_does(store, events, field_queries(60, 200))


async def test_an_index_of_a_log_that_is_there(path: Path) -> None:
    """It is made on opening, kept up by every append and pruning, used by readers, and verified."""
    events = events_with_fields(200)
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events[:100])
    async with SqliteStore.open(path, synchronous="off", index=["k", "k"]) as store:
        await store.append_batch(events[100:150])
    # It stays, whether or not it is declared again.
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(events[150:])
        await store.prune(keep=170)
    async with SqliteStore.open(path, read_only=True) as store:
        plan = await plan_of(store, EventQuery(fields={"k": 1}))
        search = f"SEARCH events_1 USING INDEX {index_name('events_1', 'k')} (<expr>=?)"
        assert plan == ["MERGE (UNION ALL)", "LEFT", search, "RIGHT", search]
        await assert_finds_as_memory_does(store, events[30:], field_queries(30, 200))
        assert (await store.verify()).problems == 0


@pytest.mark.parametrize("page_bytes", [1, 10**6])
async def test_what_is_counted_is_no_more_than_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, page_bytes: int
) -> None:
    """Not a page of events, of which only some are counted; over pages it is the same."""
    looked_at: list[object] = []

    def event_of(values: Any) -> PersistedEvent:
        looked_at.append(values)
        return columns.event_of(values)

    monkeypatch.setattr(queries, "event_of", event_of)
    monkeypatch.setattr("trio_eventlog.stores.sqlite._summaries._PAGE_BYTES", page_bytes)
    async with SqliteStore.open(path, synchronous="off") as store:
        await store.append_batch(
            [
                PersistedEvent(f"id-{seq}", seq, seq, None, ModuleEvent("m", "t", {"k": 1}))
                for seq in range(1, 101)
            ]
        )
        assert await store.count(EventQuery(fields={"k": 1}), at_most=3) == 3
        # The last one of a page is one too many, and is read again.
        assert len(looked_at) <= 2 * 3
        assert await store.count(EventQuery(fields={"k": 1}), at_most=100) == 100


async def plan_of(store: SqliteStore, query: EventQuery) -> list[str]:
    def explain(db: apsw.Connection) -> list[str]:
        plan = queries.select(query, 1, indexed_keys(db, "events_1"))
        assert plan is not None
        return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {plan.sql}", plan.bindings)]

    return await store._reader.run(explain)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"fields": {"k": 1}, "after_seq": 3}, "(<expr>=? AND rowid>?)"),
        ({"fields": {"x": 2, "k": None}}, "(<expr>=?)"),
        ({"fields": {"k": 1}, "member_id": "a"}, "(<expr>=?)"),
        ({"fields": {"k": 1}, "run_id": "a"}, "(run_id=?)"),
        ({"fields": {"k": 1}, "since_ms": 5}, "(<expr>=?)"),
        ({"fields": {"k": [1]}}, "SCAN events_1"),
        ({"fields": {"x": 1}}, "SCAN events_1"),
        ({"module": "m"}, "SCAN events_1"),
        ({"module": "m", "since_ms": 5}, "SCAN events_1"),
    ],
)
async def test_plans(path: Path, query: dict[str, Any], expected: str) -> None:
    """One index finds the rows, in order."""
    async with SqliteStore.open(path, index=["k"]) as store:
        plan = await plan_of(store, EventQuery(**query))

    touched = [step for step in plan if "events_1" in step]
    assert touched
    assert all(expected in step for step in touched)
    assert not any("TEMP B-TREE" in step for step in plan)


def event(seq: int, payload: Any) -> PersistedEvent:
    return PersistedEvent(f"id-{seq}", seq, seq, None, ModuleEvent("m", "t", payload))


@pytest.mark.parametrize("index", [(), ("a",)])
async def test_a_key_does_not_end_at_nul(path: Path, index: tuple[str, ...]) -> None:
    """As SQLite has it, which takes the first of these for the second."""
    events = [
        event(1, {"a\0b": 1}),
        event(2, {"a\0b": 1, "a": 2}),
        event(3, {"a": 1, "a\0b": 2}),
        event(4, {"a": "\0"}),
        event(5, {"a": "\\u0000"}),
        event(6, {"a": 1}),
    ]
    async with SqliteStore.open(path, index=index) as store:
        await store.append_batch(events)
        for value, expected in ((1, [3, 6]), (2, [2]), ("\0", [4]), ("\\u0000", [5])):
            query = EventQuery(fields={"a": value})
            assert [found.seq for found in await store.query(query)] == expected
            assert [found.seq for found in await store.latest(query, limit=1)] == expected[-1:]
            assert await store.count(query, at_most=9) == len(expected)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX {name} ON events_1 (payload -> '$.\"other\"')",
        index_sql("events_1", "a  b").replace(index_name("events_1", "a  b"), "{name}"),
        "CREATE INDEX {name} ON events_1 (zeroblob(1000000000))",
    ],
)
async def test_an_index_of_that_name_that_is_another_is_refused(path: Path, sql: str) -> None:
    """It would hide events, or take all memory."""
    async with SqliteStore.open(path):
        pass
    db = apsw.Connection(str(path))
    db.execute(sql.format(name=index_name("events_1", "a b")))
    db.close()

    with pytest.raises(StoreUnusable, match="is not what trio_eventlog makes"):
        async with SqliteStore.open(path, read_only=True):
            pass


@pytest.mark.parametrize(
    ("index", "error"),
    [
        ("key", TypeError),
        (7, TypeError),
        ([7], TypeError),
        ([""], ValueError),
        (['a"b'], ValueError),
        (["a\\b"], ValueError),
        (["a\nb"], ValueError),
        (["\ud800"], ValueError),
        (["x" * 129], ValueError),
    ],
)
async def test_keys_are_checked(path: Path, index: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^index: "):
        async with SqliteStore.open(path, index=index):
            pass
    assert not await trio.Path(path).exists()


async def test_two_writers_of_a_file_make_their_indexes_at_once(path: Path) -> None:
    """Each for its own log."""

    async def write(log: str) -> None:
        async with SqliteStore.open(path, log=log, index=["k"]) as store:
            await store.append_batch([event(1, {"k": log})])
            assert await store.query(EventQuery(fields={"k": log}))

    async with trio.open_nursery() as nursery:
        for log in "abc":
            nursery.start_soon(write, log)
