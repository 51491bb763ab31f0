"""Every built-in store, by the public harness alone."""

import os
from contextlib import asynccontextmanager

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from trio_eventlog.stores import MemoryStore, SqliteStore
from trio_eventlog.testing import StoreConformance, StoreStateMachine

EXAMPLES = 60 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 20
"""Other ones in each run: a few are enough until the night."""

BUDGET = 300.0
"""Seconds, which the number of examples keeps it from using. What is not finished in time has not passed."""


@asynccontextmanager
async def open_memory(_location):
    yield MemoryStore()


class TestMemoryStore(StoreConformance):
    durable = False
    max_examples = EXAMPLES
    budget = BUDGET

    def open_store(self, location):
        return open_memory(location)


class TestSqliteStore(StoreConformance):
    max_examples = EXAMPLES
    budget = BUDGET

    def open_store(self, location):
        return SqliteStore.open(location / "events.db")

    def open_reader(self, location):
        return SqliteStore.open(location / "events.db", read_only=True)


class TestSqliteStoreInOneFile(StoreConformance):
    """All locations are logs of one database, which grows from example to example."""

    max_examples = 20
    budget = BUDGET

    def open_store(self, location):
        return SqliteStore.open(location.parent / "events.db", log=location.name, synchronous="off")

    def open_reader(self, location):
        return SqliteStore.open(location.parent / "events.db", log=location.name, read_only=True)


class MemoryMachine(StoreStateMachine):
    durable = False

    def open_store(self, location):
        return open_memory(location)


class SqliteMachine(StoreStateMachine):
    def open_store(self, location):
        return SqliteStore.open(location / "events.db", synchronous="off")


def test_memory_store_as_a_machine():
    run_state_machine_as_test(MemoryMachine, settings=settings(max_examples=20, stateful_step_count=30))


def test_sqlite_store_as_a_machine():
    run_state_machine_as_test(SqliteMachine, settings=settings(max_examples=10, stateful_step_count=30))
