"""Where a log can be kept, each as a context manager that yields a URL for ``open_store``.

The servers are those of the tests, on loopback, with the settings that they have by default: PostgreSQL
forces every commit to the disk, NATS does that every two minutes. They share the processors with what is
measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

# At the end, so that what is measured is the installed package and not the source tree.
sys.path.append(str(Path(__file__).parents[1]))

from tests._helpers.nats_server import running_cluster, running_server
from tests._helpers.postgres_server import postgres_server

_BY_DEFAULT = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB", "max_connections": "100"}
"""What the tests change for their speed."""

_OWN = "OWN"
"""Stands for the log in a URL of which each log has its own."""


@contextmanager
def sqlite(directory: Path) -> Iterator[str]:
    """A file."""
    yield f"sqlite:{directory / 'logs.db'}"


@contextmanager
def postgres(_directory: Path) -> Iterator[str]:
    """PostgreSQL."""
    with postgres_server(**_BY_DEFAULT) as server:
        yield server.url()


@contextmanager
def jetstream(_directory: Path) -> Iterator[str]:
    """NATS JetStream on one server."""
    with running_server() as server:
        yield f"{server.url}/BENCH"


@contextmanager
def jetstream_streams(_directory: Path) -> Iterator[str]:
    """The same, with a stream for each log."""
    with running_server() as server:
        yield f"{server.url}/{_OWN}"


@contextmanager
def jetstream_synced(directory: Path) -> Iterator[str]:
    """NATS JetStream on one server that forces every batch to the disk."""
    config = f"jetstream {{ store_dir: {str(directory)!r}, sync_interval: always }}"
    with running_server(jetstream=False, config=config) as server:
        yield f"{server.url}/BENCH"


@contextmanager
def jetstream3(_directory: Path) -> Iterator[str]:
    """NATS JetStream on three servers, each with a copy."""
    with running_cluster() as cluster:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        yield f"nats://{hosts}/BENCH?replicas=3"


Place = Callable[[Path], AbstractContextManager[str]]

PLACES: dict[str, Place] = {
    place.__name__: place
    for place in (sqlite, postgres, jetstream, jetstream_synced, jetstream_streams, jetstream3)
}


def with_log(url: str, log: str) -> str:
    """The URL of one log there."""
    url = url.replace(_OWN, log)
    return f"{url}{'&' if '?' in url else '?'}log={log}"
