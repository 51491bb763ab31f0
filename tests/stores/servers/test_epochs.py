"""Logs on servers that were restored by the tools of the server, and adopted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests._helpers.jetstream_snapshots import restore_snapshot, take_snapshot
from tests._helpers.nats_server import running_server
from tests._helpers.pages import ROOT, fences
from tests._helpers.postgres_server import postgres_server
from trio_eventlog import AgentEvent, EventQuery, StaleCursor, StoreWentBack, open_event_log
from trio_eventlog.reading import iter_events, list_epochs, tail
from trio_eventlog.stores import JetStreamStore, PostgresStore, begin_epoch, open_store

PAGE = ROOT / "docs" / "how-to" / "back-up-and-restore.md"


async def ingest(store, count):
    async with open_event_log(store) as log:
        for number in range(count):
            log.ingest(AgentEvent("w", "t", number))


async def check_adopted(url, shared, lost):
    """Adopt a log that has ``shared`` events, and had up to seq ``lost``."""
    async with open_store(url) as store:
        assert await store.last_seq() == shared
        epoch = await begin_epoch(store, reason="restored")
        assert await list_epochs(store) == [epoch]
        async with open_event_log(store) as log:
            assert log.ingest(AgentEvent("w", "new")) == epoch.seq + 1
            await log.flush()
            async with log.subscribe(after_seq=lost) as events:
                with pytest.raises(StaleCursor):
                    await anext(events)
        assert (await store.verify()).problems == 0
    async with open_store(url, read_only=True) as store:
        for query in (EventQuery(after_seq=lost), EventQuery(after_seq=lost, event_types=("new",))):
            with pytest.raises(StaleCursor) as info:
                await anext(iter_events(store, query))
            assert (info.value.last_seq, info.value.epoch_seq) == (shared, epoch.seq)
            with pytest.raises(StaleCursor):
                await tail(store, query).__aenter__()
        query = EventQuery(after_seq=shared)
        assert [event.seq async for event in iter_events(store, query)] == [epoch.seq, epoch.seq + 1]
        assert (await store.describe()).last_seq == epoch.seq + 1


async def test_a_dump_of_postgresql(tmp_path):
    """Into another database, with the commands of the page."""
    with postgres_server() as server:
        (text,) = [one.text for one in fences(PAGE) if "postgresql" in one.notes]
        dump, *restore, verify, adopt = re.findall(r"^\$ (.*)", text, flags=re.MULTILINE)
        path = os.pathsep.join([str(server.programs), str(Path(sys.executable).parent), os.environ["PATH"]])

        def run(command):
            command = command.replace("postgresql://db.example", server.url("").rstrip("/")).replace(
                "/app", "/postgres"
            )
            environment = {**os.environ, "PATH": path}
            subprocess.run(command.split(), check=True, cwd=tmp_path, env=environment)

        async with PostgresStore.open(server.url()) as store:
            log_id = store.log_id
            await ingest(store, 5)
            run(dump)
            await ingest(store, 4)
        for command in (*restore, verify):
            run(command)
        assert adopt == "trio-eventlog adopt --store postgresql://db.example/restored"

        await check_adopted(server.url("restored"), 5, 9)
        async with PostgresStore.open(server.url("restored")) as store:
            assert store.log_id == log_id


async def test_a_snapshot_of_jetstream():
    with running_server() as server:
        url = f"{server.url}/EVENTS?lock_timeout=2"
        async with JetStreamStore.open(server.url, stream="EVENTS", lock_timeout=2) as store:
            await ingest(store, 5)
            log_id = store.log_id
        async with JetStreamStore.open(server.url, stream="EVENTS", read_only=True) as reader:
            snapshot = await take_snapshot(reader)
            async with JetStreamStore.open(server.url, stream="EVENTS", lock_timeout=2) as store:
                await ingest(store, 4)
            assert await reader.last_seq() == 9
            await restore_snapshot(reader, snapshot)
            with pytest.raises(StoreWentBack):
                await reader.last_seq()

        await check_adopted(url, 5, 9)
        async with JetStreamStore.open(server.url, stream="EVENTS", lock_timeout=2) as store:
            assert store.log_id == log_id
