"""Stores on servers cut pages off by bytes as stores in files do."""

from __future__ import annotations

import tracemalloc

from tests._helpers.nats_server import running_server
from tests._helpers.pages_in_bytes import (
    LARGE,
    assert_pages_are_the_query,
    assert_pages_weigh_names,
    large_and_small,
)
from tests._helpers.postgres_server import postgres_server
from trio_eventlog import AgentEvent, EventQuery, PersistedEvent
from trio_eventlog.stores import JetStreamStore, open_store

MIB = 2**20

MIXED = ("everything", "types")
"""Filters for logs whose events lie in another order than their seqs."""


async def test_pages_of_postgresql() -> None:
    with postgres_server() as server:
        async with open_store(server.url()) as store:
            await store.append_batch(large_and_small())

            await assert_pages_are_the_query(store)
        async with open_store(f"{server.url()}?log=names") as store:
            await assert_pages_weigh_names(store)
        async with open_store(f"{server.url()}?log=mixed") as store:
            for event in reversed(large_and_small()):
                await store.append_batch([event])
            await assert_pages_are_the_query(store, MIXED)


async def test_pages_of_jetstream() -> None:
    with running_server() as server:
        async with open_store(f"{server.url}/EVENTS") as store:
            await store.append_batch(large_and_small())

            await assert_pages_are_the_query(store)
        async with open_store(f"{server.url}/EVENTS?log=names") as store:
            await assert_pages_weigh_names(store)
        async with open_store(f"{server.url}/EVENTS?log=mixed") as store:
            for event in reversed(large_and_small()):
                await store.append_batch([event])
            await assert_pages_are_the_query(store, MIXED)


async def test_a_log_of_jetstream_is_never_in_memory_as_a_whole() -> None:
    """Also if its events lie in another order than their seqs, so that each page takes a look at all."""
    text = "x" * LARGE
    every = [
        PersistedEvent(f"e{seq}", seq, seq, "a", AgentEvent("a", "t", {"text": text}))
        for seq in range(300, 0, -1)
    ]
    with running_server() as server:
        async with JetStreamStore.open(server.url, stream="EVENTS") as store:
            for start in range(0, 300, 30):
                await store.append_batch(every[start : start + 30])
            del every

            async def first_page() -> None:
                page = await store.query_page(EventQuery(), max_bytes=MIB)
                assert [event.seq for event in page.events] == list(range(1, 12))

            async def first_events() -> None:
                found = await store.query(EventQuery(limit=3))
                assert [event.seq for event in found] == [1, 2, 3]

            async def upkeep() -> None:
                assert (await store.verify()).events == 300
                assert (await store.describe()).events == 300
                assert await store.prune(keep=0, dry_run=True) == 300

            for look in (first_page, first_events, upkeep):
                tracemalloc.start()
                await look()
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak < 15 * MIB, look
