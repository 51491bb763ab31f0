"""Fixtures of the tests of SqliteStore."""

import pytest

from tests._helpers.sqlite import workers


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def no_threads_left():
    """S15, after each test."""
    assert not workers()
    yield
    assert not workers()
