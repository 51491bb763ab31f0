"""Arguments of stores of the wrong type or out of range: named, before anything is done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests._helpers.fakes import numbered
from trio_eventlog import EventQuery, PersistedEvent
from trio_eventlog.stores import JetStreamStore, PostgresStore, SqliteStore, open_store


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    url = "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'events.db'}"
    async with open_store(url) as opened:
        await opened.append_batch(
            [PersistedEvent(f"e{seq}", seq, seq, "w", numbered(seq)) for seq in (1, 2, 3)]
        )
        yield opened


@pytest.mark.parametrize("wrong", [None, 0, 1, "", "no"])
async def test_a_dry_run_is_a_dry_run_or_not(store: Any, wrong: Any) -> None:
    """Nothing is deleted for a value that could be meant either way."""
    with pytest.raises(TypeError, match="dry_run: expected a bool, got "):
        await store.prune(keep=0, dry_run=wrong)
    assert len(await store.query(EventQuery())) == 3


async def test_progress_can_be_reported(store: Any) -> None:
    """That it cannot is not found out when something is gone."""
    with pytest.raises(TypeError, match="on_progress: expected a function or None, got int"):
        await store.prune(keep=0, on_progress=3)
    assert len(await store.query(EventQuery())) == 3


@pytest.mark.parametrize("wrong", [None, 1, "all", EventQuery])
async def test_queries(store: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match="query: expected an EventQuery, got "):
        await store.query(wrong)
    if isinstance(store, SqliteStore):
        with pytest.raises(TypeError, match="query: expected an EventQuery, got "):
            await store.query_page(wrong, max_bytes=1)


@pytest.mark.parametrize("wrong", ["x", [1], [None], [numbered(1)]])
async def test_batches(store: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match="events: expected PersistedEvents, got "):
        await store.append_batch(wrong)
    await trio.lowlevel.checkpoint()
    assert await store.last_seq() == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"most_findings": -1}, ValueError, "most_findings: expected 0 or more, got -1"),
        ({"most_findings": True}, TypeError, "most_findings: expected an integer, got bool"),
        ({"most_findings": "1"}, TypeError, "most_findings: expected an integer, got str"),
        ({"on_progress": 3}, TypeError, "on_progress: expected a function or None, got int"),
    ],
)
async def test_verify(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    async with SqliteStore.open(tmp_path / "events.db") as store:
        with pytest.raises(error, match=message):
            await store.verify(**arguments)


NOWHERE = "nats://127.0.0.1:1"


OPENING: list[tuple[Callable[[], Any], str]] = [
    (lambda: SqliteStore.open("x.db", read_only="no"), "read_only: expected a bool, got str"),  # type: ignore[arg-type]
    (lambda: SqliteStore.open("x.db", read_only=None), "read_only: expected a bool, got NoneType"),  # type: ignore[arg-type]
    (lambda: SqliteStore.open("x.db", synchronous=1), "synchronous: expected a str, got int"),  # type: ignore[arg-type]
    (lambda: SqliteStore.open_readers("x.db", logs=1), "logs: expected names, got int"),  # type: ignore[arg-type]
    (lambda: open_store("memory:", read_only=None), "read_only: expected a bool, got NoneType"),  # type: ignore[arg-type]
    (lambda: PostgresStore.open("", read_only=0), "read_only: expected a bool, got int"),  # type: ignore[arg-type]
    (lambda: PostgresStore.open("", notify=1), "notify: expected a bool, got int"),  # type: ignore[arg-type]
    (lambda: JetStreamStore.open(NOWHERE, read_only=0), "read_only: expected a bool, got int"),  # type: ignore[arg-type]
    (lambda: JetStreamStore.open(None), "servers: expected strings such as .*, got NoneType"),  # type: ignore[arg-type]
    (lambda: JetStreamStore.open(NOWHERE, user=1), "user: expected a string, got int"),  # type: ignore[arg-type]
    (
        lambda: JetStreamStore.open(NOWHERE, user="u", password=b"s"),
        "password: expected a string, got bytes",
    ),  # type: ignore[arg-type]
    (lambda: JetStreamStore.open(NOWHERE, token=[]), "token: expected a string, got list"),  # type: ignore[arg-type]
    (
        lambda: JetStreamStore.open(NOWHERE, credentials=1),
        "credentials: expected the path of a file, got int",
    ),  # type: ignore[arg-type]
    (lambda: JetStreamStore.open(NOWHERE, tls=True), "tls: expected an ssl.SSLContext, got bool"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("manager", "message"), OPENING, ids=map(str, range(len(OPENING))))
async def test_opening(manager: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        async with manager():
            pytest.fail("opened")
