"""Stores on servers cut pages off by bytes as stores in files do."""

from __future__ import annotations

from tests.pages_in_bytes import assert_pages_are_the_query, large_and_small
from tests.servers.nats_server import running_server
from tests.servers.postgres_server import postgres_server
from trio_eventlog.stores import open_store


async def test_pages_of_postgresql() -> None:
    with postgres_server() as server:
        async with open_store(server.url()) as store:
            await store.append_batch(large_and_small())

            await assert_pages_are_the_query(store)


async def test_pages_of_jetstream() -> None:
    with running_server() as server:
        async with open_store(f"{server.url}/EVENTS") as store:
            await store.append_batch(large_and_small())

            await assert_pages_are_the_query(store)
