"""JetStreamStore against real servers: the public harness, on a cluster of three and on one server."""

import os

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests._helpers.nats_server import running_cluster, running_server
from trio_eventlog.stores.jetstream._store import JetStreamStore
from trio_eventlog.testing import StoreConformance, StoreStateMachine

# Child processes of the harness find the servers by these.
CLUSTER = "TRIO_EVENTLOG_TEST_NATS_CLUSTER"
SERVER = "TRIO_EVENTLOG_TEST_NATS_SERVER"

PATIENCE = 20.0
"""Seconds for an operation: the servers share two cores with the tests, and logs share a stream."""


@pytest.fixture(scope="module")
def cluster():
    with running_cluster() as nodes, pytest.MonkeyPatch.context() as patch:
        patch.setenv(CLUSTER, nodes.url)
        yield nodes


@pytest.fixture(scope="module")
def server():
    with running_server() as node, pytest.MonkeyPatch.context() as patch:
        patch.setenv(SERVER, node.url)
        yield node


def open_in_cluster(location, **options):
    return JetStreamStore.open(
        os.environ[CLUSTER], stream="HARNESS", log=location.name, replicas=3, lock_timeout=2, **options
    )


def open_on_server(location, **options):
    return JetStreamStore.open(
        os.environ[SERVER], stream="HARNESS", log=location.name, lock_timeout=2, **options
    )


@pytest.mark.usefixtures("cluster")
class TestJetStreamStoreInACluster(StoreConformance):
    """All clauses. All locations are logs of one stream, which grows from example to example."""

    budget = 300.0
    op_timeout = PATIENCE
    max_examples = 20

    def open_store(self, location):
        return open_in_cluster(location)

    def open_reader(self, location):
        return open_in_cluster(location, read_only=True)


@pytest.mark.usefixtures("server")
class TestJetStreamStoreOnOneServer(StoreConformance):
    budget = 300.0
    op_timeout = PATIENCE
    max_examples = 10

    def open_store(self, location):
        return open_on_server(location)

    def open_reader(self, location):
        return open_on_server(location, read_only=True)


class JetStreamMachine(StoreStateMachine):
    def open_store(self, location):
        return open_on_server(location)


@pytest.mark.usefixtures("server")
def test_as_a_machine():
    run_state_machine_as_test(JetStreamMachine, settings=settings(max_examples=8, stateful_step_count=20))
