"""Ways to open an empty store."""

from contextlib import asynccontextmanager

from trio_eventlog.stores import MemoryStore, SqliteStore


@asynccontextmanager
async def memory_store(_directory):
    yield MemoryStore()


def sqlite_store(directory):
    return SqliteStore.open(directory / "events.db", synchronous="off")


KINDS = {"memory": memory_store, "sqlite": sqlite_store}
