"""Eight processes write a log each into one server, and readers see each event once and in order."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests._helpers.nats_server import running_cluster
from tests._helpers.postgres_server import postgres_server
from trio_eventlog import EventQuery
from trio_eventlog.reading import merge_events, tail
from trio_eventlog.stores import open_readers, open_store

EXAMPLE = Path(__file__).parents[3] / "examples" / "many_writers.py"
NAMES = [f"writer-{number}" for number in range(1, 9)]
EVENTS = 500


@contextmanager
def postgres():
    with postgres_server() as server:
        yield server.url()


@contextmanager
def cluster():
    with running_cluster() as servers:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in servers.nodes)
        yield f"nats://{hosts}/EVENTS?replicas=3"


@pytest.mark.parametrize("server", [postgres, cluster])
async def test_each_event_once_and_in_order(server, tmp_path):
    seen = {name: [] for name in NAMES}

    async def follow(name, store):
        async with tail(store, EventQuery(limit=EVENTS), after_seq=0, poll_interval=30) as events:
            async for event in events:
                seen[name].append(event.event.payload["number"])

    with server() as database:
        for name in ("default", *NAMES):
            # A log that is not there cannot be read.
            async with open_store(f"{database}{'&' if '?' in database else '?'}log={name}"):
                pass
        with trio.fail_after(120):
            async with open_readers(database, logs=NAMES) as stores, trio.open_nursery() as nursery:
                for name, store in stores.items():
                    nursery.start_soon(follow, name, store)
                done = await trio.run_process(
                    [sys.executable, EXAMPLE, database], capture_stdout=True, cwd=tmp_path
                )
        assert seen == {name: list(range(EVENTS)) for name in NAMES}

        merged = {name: [] for name in NAMES}
        times = []
        async with open_readers(database) as stores:
            assert set(stores) == {*NAMES, "default"}
            async for item in merge_events(stores):
                merged[item.log].append((item.event.seq, item.event.event.payload["number"]))
                times.append(item.event.timestamp_ms)
        assert merged == {name: [(number + 1, number) for number in range(EVENTS)] for name in NAMES}
        assert times == sorted(times)
    assert done.stdout.decode().count("500 events, each once and in order") == len(NAMES)


async def test_a_password_is_in_no_argument_and_no_error(tmp_path):
    done = await trio.run_process(
        [sys.executable, EXAMPLE, "postgresql://me:hushhush@127.0.0.1:1/d"],
        cwd=tmp_path,
        capture_stderr=True,
        check=False,
    )
    # It names the command of the child that failed.
    assert b"writer-" in done.stderr
    assert b"hushhush" not in done.stderr
