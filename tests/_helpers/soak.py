"""Appending and reading while the servers of a cluster are killed and restarted, again and again."""

import itertools
import random

import trio

from trio_eventlog import AgentEvent, EventQuery, RetryPolicy, StoreError, StoreUnusable, open_event_log
from trio_eventlog.reading import tail
from trio_eventlog.stores import JetStreamStore

EAGER = RetryPolicy(initial=0.05, maximum=0.25)


async def soak(cluster, *, rounds, seed, stream="SOAK", log_name="soak"):
    """Go through some rounds, in each of which a server goes down and comes back.

    Every event is stored exactly once and in order. A follower on a connection of its own reads them once
    and in order. Returns how many there were.
    """
    choose = random.Random(seed)  # noqa: S311 - no secret
    number = itertools.count()
    followed = []
    options = {"stream": stream, "log": log_name}
    async with (
        JetStreamStore.open(cluster.url, replicas=len(cluster.nodes), **options) as store,
        JetStreamStore.open(cluster.url, read_only=True, **options) as reader,
        open_event_log(store, retry=EAGER, retry_buffer_cap=1_000_000, grace_period=60) as log,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_produce, log, number)
            nursery.start_soon(_follow, reader, followed)
            for _ in range(rounds):
                persisted = log.statistics().persisted
                node = choose.choice(cluster.nodes)
                await trio.to_thread.run_sync(choose.choice((node.kill, node.stop)))
                await trio.sleep(choose.uniform(0, 1.5))
                await trio.to_thread.run_sync(node.start)
                await trio.to_thread.run_sync(node.wait_for_leader)
                with trio.fail_after(90):
                    while log.statistics().persisted < persisted + 500:  # noqa: ASYNC110 - nothing tells
                        await trio.sleep(0.02)
            nursery.cancel_scope.cancel(reason="the rounds are over")
        ingested = next(number)
        with trio.fail_after(90):
            await log.flush()
        assert log.statistics().lost_total == 0
        found = await _patiently(store.query, EventQuery())
        assert [event.event.payload["number"] for event in found] == list(range(ingested))
        assert [event.seq for event in found] == list(range(1, ingested + 1))
        assert len({event.id for event in found}) == ingested
        assert followed == list(range(1, len(followed) + 1))
        assert (await _patiently(store.verify)).problems == 0
    return ingested


async def _produce(log, number):
    while True:
        for _ in range(20):
            log.ingest(AgentEvent("w", "t", {"number": next(number)}))
        await trio.sleep(0.01)


async def _follow(reader, followed):
    while True:
        try:
            async with tail(reader, after_seq=followed[-1] if followed else 0, poll_interval=0.5) as events:
                async for event in events:
                    followed.append(event.seq)
        except StoreUnusable:
            raise
        except StoreError:
            await trio.sleep(0.05)


async def _patiently(function, *args):
    with trio.fail_after(60):
        while True:
            try:
                return await function(*args)
            except StoreUnusable:
                raise
            except StoreError:
                await trio.sleep(0.05)
