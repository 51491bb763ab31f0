"""Copying a database: the course of it. Floor 3: Trio."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite._backup import Backup
from trio_eventlog.stores.sqlite._files import Place
from trio_eventlog.stores.sqlite._parts import Parts, start


async def copy_database(place: Place, target: str, on_progress: Callable[[int, int], object] | None) -> None:
    """Copy what is at ``place`` at one moment to the part of ``target``, which is there. A checkpoint."""
    job, parts = Backup(place, target, on_progress), Parts()
    try:
        worker = await start(place, parts, schema.harden, apsw.SQLITE_OPEN_READONLY, at_end=job.dispose)
        await worker.run(job.begin)
        while await worker.run(job.copy_some):
            job.report()
        await worker.run(job.end)
        job.report()
    finally:
        await parts.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside
