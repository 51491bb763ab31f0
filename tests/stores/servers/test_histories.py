"""Stores on servers behind a network that is cut, stalls and trickles: their histories are legal."""

import random
from collections import Counter
from contextlib import contextmanager, suppress

import pytest
import trio

from tests._helpers.nats_server import running_server
from tests._helpers.postgres_server import postgres_server
from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent, StoreError, StoreUnusable
from trio_eventlog.stores import open_store
from trio_eventlog.testing import (
    AppendOperation,
    History,
    Outcome,
    QueryOperation,
    TcpProxy,
    check_history,
    recording,
)


@contextmanager
def postgres():
    with postgres_server() as server:
        yield server.port, lambda port: server.url(port=port)


@contextmanager
def nats():
    with running_server() as server:
        yield server.port, lambda port: f"nats://127.0.0.1:{port}/EVENTS"


def batch_of(number):
    seqs = range(1 + 5 * number, 6 + 5 * number)
    return [PersistedEvent(f"id-{seq}", seq, seq, None, ModuleEvent("m", "t")) for seq in seqs]


async def write(store, chance):
    """Append batch by batch, each until it is acknowledged or given up, until enough has gone wrong."""
    outcomes = Counter()
    number = 0
    while outcomes["ok"] < 20 or outcomes["unknown"] < 10:
        failed = True
        with suppress(StoreError), trio.move_on_after(0.5):
            await store.append_batch(batch_of(number))
            failed = False
        outcomes["unknown" if failed else "ok"] += 1
        if failed:
            await trio.sleep(0.05)
        if not failed or chance.random() < 0.3:
            number += 1


async def read(store, done, *, page):
    after_seq = 0
    while not done.is_set():
        with suppress(StoreError), trio.move_on_after(0.5):
            found = await store.query(EventQuery(after_seq=after_seq, limit=page))
            if page and found:
                after_seq = found[-1].seq
            await store.last_seq()
        await trio.sleep(0.005)


async def torment(proxy, done, chance):
    while not done.is_set():
        await trio.sleep(chance.uniform(0.0, 0.3))
        match chance.randrange(4):
            case 0:
                proxy.cut()
            case 1:
                proxy.stall()
            case 2:
                # Appends take effect, and nobody hears of it.
                proxy.stall(requests=False)
            case _:
                proxy.trickle(20_000)
        await trio.sleep(chance.uniform(0.0, 0.2))
        proxy.cut()
        proxy.resume()


@pytest.mark.parametrize("server", [postgres, nats])
async def test_a_history_under_a_bad_network(server, record_property):
    chance = random.Random(server.__name__)  # noqa: S311 - for nemeses
    history, done = History(), trio.Event()
    with trio.fail_after(120), server() as (port, url_of):
        async with (
            TcpProxy.open(port) as proxy,
            open_store(url_of(proxy.port)) as store,
            open_store(url_of(proxy.port), read_only=True) as reader,
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(torment, proxy, done, chance)
                for name, wrapped in (("appender's", store), ("reader's", reader)):
                    for page in (None, 7):
                        reading = recording(wrapped, history, process=f"{name} {page}")
                        nursery.start_soon(
                            lambda reading, page: read(reading, done, page=page), reading, page
                        )
                await write(recording(store, history, process="appender"), chance)
                done.set()
            proxy.resume()
            last = recording(store, history, process="the end")
            for _ in range(20):
                with suppress(StoreError):
                    await last.last_seq()
                    await last.query(EventQuery())
                    break
                await trio.sleep(0.2)

    report = check_history(history)
    report.raise_if_failed()
    outcomes = [
        operation.outcome for operation in history.operations if isinstance(operation, AppendOperation)
    ]
    counts = {str(outcome): outcomes.count(outcome) for outcome in Outcome}
    record_property("appends", counts)
    assert counts["info"] >= 10
    queries = [operation for operation in history.operations if isinstance(operation, QueryOperation)]
    assert queries[-1].process == "the end"
    assert queries[-1].outcome is Outcome.OK
    assert not any(
        (operation.error or "").startswith(StoreUnusable.__name__) for operation in history.operations
    )
