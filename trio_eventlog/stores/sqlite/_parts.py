"""The parts of a store that is open, and closing them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import apsw
import attrs
import trio

from trio_eventlog._lock_file import FileLock
from trio_eventlog._model._errors import StoreUnusable
from trio_eventlog.stores.sqlite import _files as files
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _worker as workers
from trio_eventlog.stores.sqlite._worker import SerialWorker


@attrs.define(eq=False)
class Parts:
    """What must be closed of a store, however far it was opened."""

    workers: list[SerialWorker] = attrs.Factory(list)
    lock: FileLock | None = None

    async def aclose(self) -> None:
        """Close all of them, whatever the others raise, before one common deadline."""
        deadline = trio.current_time() + workers.CLOSE_SECONDS
        if self.lock is not None and not self.workers:
            # Otherwise the writer releases it.
            await workers.release(self.lock.path, self.lock.release, deadline)
        # The reader first: SQLite checkpoints its log when the last connection that may write is closed.
        async with AsyncExitStack() as stack:
            for worker in self.workers:
                stack.push_async_callback(worker.aclose, deadline)


@trio.lowlevel.enable_ki_protection  # between opening a connection and noting it
async def start(
    place: files.Place,
    parts: Parts,
    prepare: Callable[[apsw.Connection], object],
    flags: int,
    *,
    is_interruptible: bool = False,
    at_end: Callable[[], object] | None = None,
) -> SerialWorker:
    """Open a connection, add it to ``parts``, and make it ready."""
    worker = await SerialWorker.start(place.path, flags, is_interruptible=is_interruptible, at_end=at_end)
    parts.workers.append(worker)

    def first_job(db: apsw.Connection) -> None:
        try:
            prepare(db)
        except apsw.CantOpenError as exc:
            if db.system_errno in files.TRANSIENT_ERRNOS:
                raise
            # Only now does SQLite open the file and create its side files.
            raise StoreUnusable(f"{place.path}: {exc}: may the file, and its directory, be written?") from exc

    await worker.run(first_job)
    return worker


async def start_reader(place: files.Place, parts: Parts) -> SerialWorker:
    """Open a connection for reading."""
    return await start(place, parts, schema.prepare_reader, apsw.SQLITE_OPEN_READONLY, is_interruptible=True)
