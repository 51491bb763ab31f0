"""A short soak of JetStreamStore against restarts; ``deep_soak.py`` has the long one."""

from tests._helpers.nats_server import running_cluster
from tests._helpers.soak import soak


async def test_every_event_once_and_in_order_while_servers_are_restarted():
    with running_cluster() as cluster:
        assert await soak(cluster, rounds=3, seed=1) >= 1_500
