"""The latest events, and counts, of stores on servers."""

from __future__ import annotations

from tests._helpers.postgres_server import postgres_server
from tests._helpers.summaries import Questions
from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.stores import MemoryStore, PostgresStore, open_store


async def test_postgresql_answers_what_memory_does() -> None:
    """While a log is filled, pruned and opened again, by appenders and readers."""
    questions = Questions(1)
    with postgres_server() as server:
        for index in ((), ("k",)):
            async with PostgresStore.open(server.url(), index=index) as store:
                for _ in range(2):
                    await questions.append(store)
                    await questions.prune(store)
                    await questions.compare(store, 10)
            async with PostgresStore.open(server.url(), read_only=True) as store:
                await questions.compare(store, 10)


async def test_strings_that_are_too_long_for_an_index_are_counted_as_they_are() -> None:
    """Each is looked up once."""
    texts = ["x" * 2_000, "x" * 2_000 + "y", "x" * 1_023, "é" * 600]
    events = [
        PersistedEvent(f"id-{seq}", seq, seq, text, kind(text, text, {"run_id": text}))
        for seq, (text, kind) in enumerate(
            ((text, kind) for text in texts for kind in (AgentEvent, ModuleEvent)), start=1
        )
    ]
    memory = MemoryStore()
    await memory.append_batch(events)
    with postgres_server() as server:
        async with open_store(server.url()) as store:
            assert isinstance(store, PostgresStore)
            await store.append_batch(events)
            everything = EventQuery()
            assert await store.histogram(everything, bucket_ms=3) == await memory.histogram(
                everything, bucket_ms=3
            )
            for field in ("event_type", "member_id", "module", "run_id"):
                assert await store.facets(everything, field) == await memory.facets(everything, field)
