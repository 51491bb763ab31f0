"""Fixtures of the tests of PostgresStore."""

import os

import pytest

from tests._helpers.postgres_logs import URL_VARIABLE
from tests._helpers.postgres_server import postgres_server


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        os.environ[URL_VARIABLE] = running.url()
        yield running
        del os.environ[URL_VARIABLE]


@pytest.fixture
def log(request, server):
    """A log of the test's own."""
    return request.node.name


@pytest.fixture
def place(request, server):
    """A schema of the test's own."""
    return f"s{abs(hash(request.node.name))}"
