"""Stores by URL, and what is loaded for them."""

import json
import os
import subprocess
import sys

import attrs
import pytest
import trio
import trio.testing

from tests._helpers.events import agent
from trio_eventlog import (
    EventQuery,
    EventRejected,
    LogNotFound,
    StoreUnusable,
)
from trio_eventlog.stores import (
    MemoryStore,
    NullStore,
    SqliteStore,
    open_readers,
    open_store,
    without_secrets,
)

CANCELLED = trio.Cancelled


async def test_open_store_memory_and_null():
    async with open_store("memory:") as store:
        assert type(store) is MemoryStore
    async with open_store("null:") as store:
        assert type(store) is NullStore


async def test_open_store_entered_cancelled():
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(CANCELLED):
            async with open_store("memory:"):
                pytest.fail("not cancelled")  # pragma: no cover


async def test_open_store_sqlite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite:a%3fb%20%25.db?log=l%26%C3%A9&synchronous=normal") as store:
        await store.append_batch([agent(1)])
    assert (tmp_path / "a?b %.db").exists()
    async with SqliteStore.open(tmp_path / "a?b %.db", log="l&é") as store:
        assert await store.last_seq() == 1
    assert await SqliteStore.logs("a?b %.db") == ["l&é"]
    async with open_store(f"sqlite://{tmp_path}/a%3fb%20%25.db?log=l%26%C3%A9", read_only=True) as store:
        assert await store.last_seq() == 1
        with pytest.raises(StoreUnusable, match="read-only"):
            await store.append_batch([agent(2)])
    async with open_store(f"SQLITE:{tmp_path}/plain.db?") as store:
        assert await store.last_seq() == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty"),
        ("events.db", r"write 'sqlite:events\.db'"),
        ("/tmp/events.db", r"write 'sqlite:/tmp/events\.db'"),  # noqa: S108 - not opened
        ("C:\\events.db", "no store URL"),
        ("mysql://host/db", "unknown scheme 'mysql'"),
        ("sqlite:", "names no file"),
        ("sqlite://", "names no file"),
        ("sqlite:?log=x", "names no file"),
        ("sqlite://host/events.db", "host 'host'.*sqlite:PATH"),
        ("sqlite:x.db?mode=ro", "unknown option 'mode'"),
        ("sqlite:x.db?log", "'log'.*no value"),
        ("sqlite:x.db?log=a&log=b", "'log' appears twice"),
        ("sqlite:x.db?log=a&", "unknown option ''"),
        ("sqlite:x.db?log=", "1 to 512 bytes"),
        ("sqlite:x.db?log=%zz", "starts no escape"),
        ("sqlite:x%.db", "starts no escape"),
        ("sqlite:x.db?log=%ff", "not UTF-8"),
        ("sqlite:x.db?synchronous=maybe", "synchronous must be one of"),
        ("sqlite::memory:", "MemoryStore"),
        ("memory:x", "'memory:'"),
        ("memory:?log=x", "'memory:'"),
        ("null://x", "'null:'"),
        ("postgresql://me:se/cret@db/app", r"^'postgresql://\*\*\*@db/app': write %2F"),
        ("nats://me:se/cret@n1/S", r"^'nats://\*\*\*@n1/S': write %2F"),
    ],
)
async def test_open_store_explains_what_is_wrong(url, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        async with open_store(url):
            pytest.fail("opened")  # pragma: no cover
    assert not list(tmp_path.iterdir())


async def test_open_store_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="starts empty"):
        async with open_store("memory:", read_only=True):
            pytest.fail("opened")  # pragma: no cover
    with pytest.raises(TypeError, match="str"):
        async with open_store(None):
            pytest.fail("opened")  # pragma: no cover


async def test_open_readers_by_url(tmp_path):
    path = tmp_path / "events.db"
    for name in ("a", "b"):
        async with SqliteStore.open(path, log=name) as store:
            await store.append_batch([agent(1)])
    async with open_readers(f"sqlite:{path}?synchronous=normal") as readers:
        assert list(readers) == ["a", "b"]
        assert [await reader.last_seq() for reader in readers.values()] == [1, 1]
        with pytest.raises(StoreUnusable, match="read-only"):
            await readers["a"].append_batch([agent(2)])
    async with open_readers(f"sqlite:{path}", logs=["b"]) as readers:
        assert [await reader.last_seq() for reader in readers.values()] == [1]
    with pytest.raises(LogNotFound, match=r"no log 'new' in .*; it has 'a', 'b'"):
        async with open_readers(f"sqlite:{path}", logs=["b", "new"]):
            pytest.fail("opened")  # pragma: no cover
    with pytest.raises(LogNotFound, match="no log 'c'"):
        async with open_store(f"sqlite:{path}?log=c", read_only=True):
            pytest.fail("opened")  # pragma: no cover


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:x.db?log=a", "'sqlite:x.db.log=a' names one log; leave out log="),
        ("postgresql://u:secret@h/d?log=a", "leave out log="),
        ("memory:", "has one log"),
        ("null:", "has one log"),
        ("mysql://host/db", "unknown scheme 'mysql'"),
    ],
)
async def test_open_readers_explains_what_is_wrong(url, message):
    with pytest.raises(ValueError, match=message) as refused:
        async with open_readers(url):
            pytest.fail("opened")  # pragma: no cover
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db/app?log=a", "postgresql://***@db/app?log=a"),
        ("postgres://db/app?password=secret&log=a", "postgres://db/app?password=***&log=a"),
        ("postgresql://me:secret@/#?@db/app", "postgresql://***@db/app"),
        ("nats://secret@n1,secret@n2/S?log=a", "nats://***@n2/S?log=a"),
        ("postgresq://me:secret@db/app", "postgresq://***@db/app"),
        ("nats://n1/S", "nats://n1/S"),
        ("nats://n1/S?token=secret&log=a", "nats://n1/S?token=***&log=a"),
        ("nats://n1/S?PASSWORD=secret", "nats://n1/S?PASSWORD=***"),
        ("me:secret@db/app", "***@db/app"),
        ("postgresql:me:secret@db/app", "***@db/app"),
        (r"host=db password='my \'secret' dbname=app", "host=db password=*** dbname=app"),
        ("sqlite:a//b@c.db?log=d@e", "sqlite:a//b@c.db?log=d@e"),
        ("SQLite:///b@c.db", "SQLite:///b@c.db"),
        ("", ""),
    ],
)
def test_urls_are_shown_without_secrets(url, shown):
    assert without_secrets(url) == shown


async def test_open_readers_entered_cancelled(tmp_path):
    async with SqliteStore.open(tmp_path / "events.db"):
        pass
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(CANCELLED):
            async with open_readers(f"sqlite:{tmp_path}/events.db"):
                pytest.fail("not cancelled")  # pragma: no cover


# --- importing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import trio_eventlog", False),
        ("from trio_eventlog.stores import MemoryStore, NullStore, open_store", False),
        ("from trio_eventlog.stores import SqliteStore", True),
    ],
)
def test_the_driver_is_loaded_when_it_is_needed(statement, loaded):
    program = f"import sys, json\n{statement}\nprint(json.dumps('apsw' in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)

    assert json.loads(done.stdout) is loaded


def test_a_store_that_does_not_exist():
    import trio_eventlog.stores

    assert "SqliteStore" in dir(trio_eventlog.stores)
    with pytest.raises(AttributeError, match="NoStore"):
        trio_eventlog.stores.NoStore  # noqa: B018 - under test


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": "\ud800"}, "id"),
        ({"id": b"x"}, "id"),
        ({"seq": True}, "seq"),
        ({"seq": 5.0}, "seq"),
        ({"seq": 0}, "seq"),
        ({"timestamp_ms": -5}, "timestamp_ms"),
        ({"timestamp_ms": 1.5}, "timestamp_ms"),
        ({"timestamp_ms": 2**63}, "timestamp_ms"),
        ({"member_id": 7}, "member_id"),
    ],
)
async def test_what_was_read_and_then_changed_is_checked_again(opened, changes, field):
    """That the event in it was sealed says nothing of the rest."""
    async with opened as store:
        await store.append_batch([agent(1)])
        (stored,) = await store.query(EventQuery())
        changed = attrs.evolve(stored, **{"id": "other", "seq": 2, **changes})
        with pytest.raises(EventRejected, match=f"^{field}: "):
            await store.append_batch([changed])
        assert await store.query(EventQuery()) == [stored]
