"""`StoreConformance` under pytest."""

import os
import subprocess
import sys

CONFORMANCE = """
from contextlib import asynccontextmanager

from tests._helpers.broken_stores import BROKEN
from tests._helpers.correct_stores import open_memory
from trio_eventlog.testing import StoreConformance

(broken,) = [broken for broken in BROKEN if broken.name == "case-insensitive"]
dropped = []


class TestGood(StoreConformance):
    durable = False
    max_examples = 3

    def open_store(self, location):
        return open_memory(location)

    async def drop_store(self, location):
        dropped.append(location)
        await super().drop_store(location)

    def test_more_of_my_own(self):
        assert dropped


class TestBad(StoreConformance):
    durable = False
    max_examples = 5
    seed = 1

    def open_store(self, location):
        return broken.open_store(location)
"""


def test_a_test_class_has_a_test_per_clause(tmp_path):
    """Without any plugin; what fails shows the clause, the message and the example, and no machinery."""
    (tmp_path / "test_my_store.py").write_text(CONFORMANCE)

    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rsf", "-p", "no:trio", "-p", "no:cacheprovider", tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_ADDOPTS": ""},
    )

    assert "1 failed, 28 passed, 8 skipped" in result.stdout, result.stdout + result.stderr
    assert "the store is not durable" in result.stdout
    assert "TestBad::test_s6" in result.stdout
    assert "ConformanceError: S6: Strings and values of payloads compare exactly." in result.stdout
    assert "async with open_store(location) as store:" in result.stdout
    assert "_check_store.py" not in result.stdout
    assert "_report.py" not in result.stdout
