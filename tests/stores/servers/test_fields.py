"""Fields of payloads, on servers: with an index and without, all stores find the same."""

from __future__ import annotations

import psycopg
import pytest

from tests._helpers.field_queries import KEY, assert_finds_as_memory_does, events_with_fields, field_queries
from tests._helpers.nats_server import running_server
from tests._helpers.postgres_server import postgres_server
from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent, StoreUnusable
from trio_eventlog.stores import PostgresStore, open_store
from trio_eventlog.stores.postgres._select import select


async def test_postgresql_finds_values_by_what_they_are() -> None:
    """Without indexes, with one that is made on opening, and with one more."""
    events = events_with_fields(500)
    queries = field_queries(60, 500)
    with postgres_server() as server:
        async with PostgresStore.open(server.url()) as store:
            await store.append_batch(events[:300])
            await assert_finds_as_memory_does(store, events[:300], queries)
        async with PostgresStore.open(server.url(), index=["k"]) as store:
            await store.append_batch(events[300:])
            await assert_finds_as_memory_does(store, events, queries)
        async with (
            PostgresStore.open(server.url(), log="other", index=["k", KEY]) as other,
            PostgresStore.open(server.url(), read_only=True) as store,
        ):
            await other.append_batch(events[:100])
            await assert_finds_as_memory_does(store, events, queries)
            assert (await store.verify()).problems == 0
        assert_uses_the_index(server.url())
        with pytest.raises(TypeError, match=r"^index: "):
            async with PostgresStore.open(server.url(), index="k"):
                pass


def assert_uses_the_index(url: str) -> None:
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
        connection.execute("analyze trio_eventlog.events")
        connection.execute("set enable_seqscan = off")
        (log,) = connection.execute("select log from trio_eventlog.logs where name = 'default'").fetchone()
        plan = select(EventQuery(fields={"k": 1}), log, {"k"})
        sql = plan.sql.replace(":s.", "trio_eventlog.")
        lines = connection.execute(f"explain {sql}", plan.parameters).fetchall()
    text = "\n".join(line for (line,) in lines)
    assert text.count("events_field_") == 2


async def test_an_index_needs_a_database_in_utf_8() -> None:
    """Others cannot look into every payload."""
    with postgres_server() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(
                "create database latin encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'"
            )
        url = server.url().replace("/postgres", "/latin")
        assert url != server.url()
        with pytest.raises(StoreUnusable, match=r"index: the database has the encoding LATIN1"):
            async with PostgresStore.open(url, index=["k"]):
                pass
        events = events_with_fields(100)
        async with PostgresStore.open(url) as store:
            await store.append_batch(events)
            await assert_finds_as_memory_does(store, events, field_queries(30, 100))


async def test_jetstream_finds_values_by_what_they_are() -> None:
    """It looks at every event that its subject does not exclude."""
    events = events_with_fields(300)
    with running_server() as server:
        async with open_store(f"{server.url}/EVENTS") as store:
            await store.append_batch(events)
            await assert_finds_as_memory_does(store, events, field_queries(60, 300))


async def test_only_what_has_a_field_is_erased() -> None:
    """Of what the statement finds, not all matches."""
    alike = ({"k": 1}, {"k": 1.0}, {"k": {"k": 1}}, {"k": 12}, {"a": '"k":1'}, {"b": {"k": 1}})
    events = [
        PersistedEvent(f"id-{seq}", seq, seq, None, ModuleEvent("m", "t", payload))
        for seq, payload in enumerate(alike, start=1)
    ]
    with postgres_server() as server:
        async with PostgresStore.open(server.url()) as store:
            await store.append_batch(events)
            assert await store.erase(EventQuery(fields={"k": 1}), reason="asked for") == 1
            found = await store.query(EventQuery())
    assert [event.event.payload for event in found][1:] == list(alike[1:])
    assert found[0].event.payload != {"k": 1}
