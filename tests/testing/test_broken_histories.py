"""A broken store is reported by the name of its anomaly: by the harness, or by the history of a program."""

import re

import pytest
import trio

from tests._helpers.broken_stores.concurrency import BY_ANOMALY, opened_unguarded
from tests._helpers.harness import check_clause, hardly_shrunk  # noqa: F401 - a fixture
from trio_eventlog import ModuleEvent, PersistedEvent
from trio_eventlog.testing import ANOMALIES, History, check_history, recording

BY_PROGRAM = "one seq with two events"


def test_every_anomaly_has_a_store():
    assert {*BY_ANOMALY, BY_PROGRAM} == set(ANOMALIES)


@pytest.mark.usefixtures("hardly_shrunk")
@pytest.mark.parametrize("name", ["real-time violation"])
def test_the_harness_names_the_anomaly(name):
    """The others, and with twenty seeds, in ``deep_harness.py``."""
    (failure,) = check_clause(BY_ANOMALY[name], seed=0).failures

    assert failure.check == "operations at once"
    assert failure.message.startswith(f"{name}: ")
    # The operations, with who made them.
    assert re.search(r"^  (appender|task \d): ", failure.message, re.MULTILINE)
    assert "check_history(history)" in failure.example


async def test_two_appends_that_take_the_same_seq(tmp_path):
    history = History()
    async with opened_unguarded(tmp_path) as store, trio.open_nursery() as nursery:
        for process in ("a", "b"):
            event = PersistedEvent(process, 1, 0, None, ModuleEvent("m", "t"))
            nursery.start_soon(recording(store, history, process=process).append_batch, [event])

    report = check_history(history)
    assert report.counts == {BY_PROGRAM: 1}
    assert {operation.process for operation in report.anomalies[0].operations} == {"a", "b"}
