"""The long soak of JetStreamStore against restarts: one round takes some five seconds.

Run as ``pytest tests/stores/jetstream/deep_soak.py``; ``TRIO_EVENTLOG_SOAK_ROUNDS`` says how many rounds.
"""

import os

import pytest

from tests._helpers.nats_server import running_cluster
from tests._helpers.soak import soak

ROUNDS = int(os.environ.get("TRIO_EVENTLOG_SOAK_ROUNDS", "20"))


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_event_once_and_in_order_while_servers_are_restarted(seed):
    with running_cluster() as cluster:
        assert await soak(cluster, rounds=ROUNDS, seed=seed) >= 500 * ROUNDS
