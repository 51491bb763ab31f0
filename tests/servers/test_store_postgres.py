"""PostgresStore against a real server: the public harness, and what only PostgreSQL can do to a store."""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.servers.postgres_server import postgres_server
from trio_eventlog.stores._postgres import PostgresStore
from trio_eventlog.testing import StoreConformance, StoreStateMachine

_URL = "TRIO_EVENTLOG_TEST_POSTGRES_URL"
"""Where child processes of the harness find the server, too."""


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        os.environ[_URL] = running.url()
        yield running
        del os.environ[_URL]


def url():
    return os.environ[_URL]


# --- the harness ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("server")
class TestPostgresStore(StoreConformance):
    """All locations are logs of one schema, which grows from example to example."""

    budget = 25
    max_examples = 25

    def open_store(self, location):
        return PostgresStore.open(url(), log=location.name)

    def open_reader(self, location):
        return PostgresStore.open(url(), log=location.name, read_only=True)


class PostgresMachine(StoreStateMachine):
    def open_store(self, location):
        return PostgresStore.open(url(), log=location.name)


@pytest.mark.usefixtures("server")
def test_postgres_store_as_a_machine():
    run_state_machine_as_test(
        PostgresMachine,
        settings=settings(
            max_examples=6, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
