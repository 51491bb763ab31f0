"""Stores on servers filter by every field of a query."""

from __future__ import annotations

from tests._helpers.nats_server import running_server
from tests._helpers.postgres_server import postgres_server
from tests._helpers.query_fields import assert_filters_by_every_field
from trio_eventlog.stores import open_store


async def test_postgresql_filters_by_every_field() -> None:
    """In the statements that it makes."""
    with postgres_server() as server:
        async with open_store(server.url()) as store:
            await assert_filters_by_every_field(store)


async def test_jetstream_filters_by_every_field() -> None:
    """By subjects, or by looking at the events."""
    with running_server() as server:
        async with open_store(f"{server.url}/EVENTS") as store:
            await assert_filters_by_every_field(store)
