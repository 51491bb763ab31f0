"""What tests of logging share."""

from __future__ import annotations

import logging

import pytest

from trio_eventlog.logging import EventLogHandler


@pytest.fixture
def logger(request):
    """One that nobody else has."""
    logger = logging.getLogger(f"tests.{request.node.name}")
    logger.setLevel(1)
    logger.propagate = False
    yield logger
    assert not [handler for handler in logger.handlers if isinstance(handler, EventLogHandler)]
