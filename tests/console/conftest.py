"""A log with a few events, and the console that shows it."""

import pytest

from tests._helpers.events import agent, module
from trio_eventlog.console import create_app
from trio_eventlog.stores import MemoryStore

RUN = {"run_id": "r-1", "order_id": "o-1"}


@pytest.fixture
async def store():
    """Seqs 1 to 9 without 4 and 5, times of 10 ms a seq."""
    found = MemoryStore()
    await found.append_batch(
        [
            agent(1, agent_id="w-1", event_type="started", payload=RUN),
            agent(2, agent_id="w-2", event_type="started", payload={"run_id": "r-2"}),
            module(3, event_type="tick"),
            agent(6, agent_id="w-1", event_type="failed", payload=RUN),
            agent(7, agent_id="w-1", event_type="retried", payload=RUN),
            module(8, event_type="tick", payload=[1, 1.0, True]),
            agent(9, agent_id="w-2", event_type="ended", payload={"run_id": "r-2", "identity": "boss"}),
        ]
    )
    return found


@pytest.fixture
async def app(store):
    return create_app(store)
