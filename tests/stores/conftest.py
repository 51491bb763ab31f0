"""Fixtures of the tests of stores."""

import pytest

from tests._helpers.stores import KINDS


@pytest.fixture(params=KINDS)
def opened(request, tmp_path):
    """An async context manager around an empty store."""
    return KINDS[request.param](tmp_path)
