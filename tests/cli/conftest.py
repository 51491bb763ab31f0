"""What the tests of the command line share."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests._helpers.cli import Done, add, run_main, standard_input
from trio_eventlog.cli import _copy, _export, _options
from trio_eventlog.stores import MemoryStore
from trio_eventlog.stores.sqlite import _reader as _sqlite_maintenance

Cli = Callable[..., Done]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process."""

    def run(*arguments: object, data: bytes | None = None) -> Done:
        with contextlib.nullcontext() if data is None else standard_input(data):
            status = run_main(*arguments)
        out, err = capfd.readouterr()
        return Done(status, out, err)

    return run


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def url(db: Path) -> str:
    return f"sqlite:{db}"


@pytest.fixture(scope="session")
def filled_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "events.db"
    add(path, 1, 2_500)
    return path


@pytest.fixture
def filled(filled_template: Path, db: Path, url: str) -> str:
    """A log with 2,500 events, its URL."""
    shutil.copyfile(filled_template, db)
    return url


@pytest.fixture
def use_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[MemoryStore], MemoryStore]:
    """Makes the commands use a store, whatever URL they are given."""

    def use(store: MemoryStore) -> MemoryStore:
        @contextlib.asynccontextmanager
        async def open_it(_url: str, *, read_only: bool = False) -> AsyncIterator[MemoryStore]:
            yield store

        monkeypatch.setattr(_options, "open_store", open_it)
        return store

    return use


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough for there to be a middle that can be interrupted."""
    monkeypatch.setattr(_copy, "_BATCH_SIZE", 100)
    monkeypatch.setattr(_export, "_PAGE_SIZE", 100)
    monkeypatch.setattr(_sqlite_maintenance, "CHUNK_EVENTS", 100)
