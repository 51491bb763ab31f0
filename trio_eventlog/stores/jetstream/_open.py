"""Opening a stream: is it there, is it ours, and can its server hold logs?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from trio_eventlog._model._errors import LogNotFound, StoreError, StoreUnusable
from trio_eventlog.stores.jetstream._access import Access
from trio_eventlog.stores.jetstream._api import Stream, retrying
from trio_eventlog.stores.jetstream._config import MIN_PAYLOAD, check_stream
from trio_eventlog.stores.jetstream._connection import Connection, open_connection
from trio_eventlog.stores.jetstream._inbox import NoResponders
from trio_eventlog.stores.jetstream._maintenance import log_names
from trio_eventlog.stores.jetstream._subjects import Subjects, check_stream_name

OPEN_TIMEOUT: Final = 10.0
"""How long to try, in seconds, where servers are there but not ready."""

_INFO_TIMEOUT: Final = 2.0
"""Seconds for an answer about the stream. A cluster that was started just now drops the question."""

_MIN_VERSION: Final = (2, 14, 4)
"""Of the server. Atomic batches came with 2.12, but until here they take some ids for new that are held: of
conditions that are as long as each other, one may be looked up in the place of another (issue 8376 of
nats-io/nats-server)."""


@asynccontextmanager
async def open_stream(
    access: Access, name: str, config: Mapping[str, Any] | None, logs: Sequence[str] | None
) -> AsyncIterator[Stream]:
    """Connect to a stream. With a configuration it is created if need be; without, the logs must be there."""
    check_stream_name(name)
    async with open_connection(access) as connection:
        _check_server(connection)
        stream = Stream(connection, name)
        deadline = trio.current_time() + OPEN_TIMEOUT
        place = f"{'nats' if access.tls is None else 'tls'}://{','.join(map(str, access.servers))}/{name}"
        await retrying(deadline, _check_stream, stream, config, logs, place)
        if config is None and logs:
            await retrying(deadline, _check_logs, stream, logs, place)
        yield stream


async def _check_logs(stream: Stream, logs: Sequence[str], place: str) -> None:
    for log in logs:
        subjects = Subjects(stream.name, log)
        # A log without its head is damaged, and there.
        if await stream.last(subjects.head) is None and await stream.last(subjects.all_events) is None:
            raise LogNotFound(log, await log_names(stream), place)


async def _check_stream(
    stream: Stream, config: Mapping[str, Any] | None, logs: Sequence[str] | None, place: str
) -> None:
    try:
        info = await stream.info(seconds=_INFO_TIMEOUT)
    except NoResponders as exc:
        # Each server that has JetStream takes this request, also while it cannot answer it. One in a cluster,
        # or a leaf node, may have been cut off from those that have it.
        server = stream.connection.info
        if server.cluster or server.domain:
            raise
        raise StoreUnusable(
            f"{stream.connection}: the server has no JetStream; start it with `-js` or configure `jetstream`"
        ) from exc
    if info is None:
        if config is None:
            if logs:
                raise LogNotFound(logs[0], (), place)
            raise StoreUnusable(f"{stream}: there is no such stream")
        await stream.create(config)
        info = await stream.info()
        if info is None:
            raise StoreError(f"{stream}: the stream was created, but is not there yet")
    check_stream(stream.name, info["config"], writes=config is not None)


def _check_server(connection: Connection) -> None:
    info = connection.info
    if info.numbers < _MIN_VERSION:
        raise StoreUnusable(
            f"{connection}: NATS server {_dotted(info.numbers)} cannot be relied on to store an event once;"
            f" JetStreamStore needs {_dotted(_MIN_VERSION)} or newer"
        )
    if info.max_payload < MIN_PAYLOAD:
        raise StoreUnusable(
            f"{connection}: the server's max_payload is {info.max_payload} bytes;"
            f" set it to {MIN_PAYLOAD} or more"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
