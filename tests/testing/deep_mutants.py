"""The harness judged on every store that is durable: each wrapper that breaks one is caught.

``nox -s mutants``; some minutes.
"""

import os
from contextlib import asynccontextmanager

import pytest

from tests._helpers.nats_server import running_server
from tests._helpers.postgres_server import postgres_server
from trio_eventlog.stores import MemoryStore, PostgresStore, SqliteStore
from trio_eventlog.stores.jetstream._store import JetStreamStore
from trio_eventlog.testing import check_harness

# Child processes of the harness find the servers by these.
NATS = "TRIO_EVENTLOG_TEST_NATS_SERVER"
POSTGRES = "TRIO_EVENTLOG_TEST_MUTANTS_POSTGRES"


@asynccontextmanager
async def open_memory(location):
    yield MemoryStore()


def open_sqlite(location):
    return SqliteStore.open(location / "events.db")


def open_postgres(location):
    return PostgresStore.open(os.environ[POSTGRES], log=location.name)


def open_jetstream(location):
    return JetStreamStore.open(os.environ[NATS], stream="HARNESS", log=location.name, lock_timeout=2)


@pytest.fixture
def postgres():
    with postgres_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(POSTGRES, server.url())
        yield


@pytest.fixture
def jetstream():
    with running_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(NATS, server.url)
        yield


def check_all_caught(open_store, *, durable=True, skipped=0):
    report = check_harness(open_store, durable=durable, budget=900.0)
    print(report)  # noqa: T201 - how soon each is caught is what one runs this for

    assert report.missed == ()
    assert sum(result.verdict == "skipped" for result in report.results) == skipped
    assert [result.caught_by for result in report.results if result.verdict == "caught"] == [
        result.clause for result in report.results if result.verdict == "caught"
    ]


def test_memory():
    check_all_caught(open_memory, durable=False, skipped=4)


def test_sqlite():
    check_all_caught(open_sqlite)


@pytest.mark.usefixtures("postgres")
def test_postgres():
    check_all_caught(open_postgres)


@pytest.mark.usefixtures("jetstream")
def test_jetstream():
    check_all_caught(open_jetstream)
