"""Restoring a database from a backup. Floor 3: Trio."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import apsw
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog.stores._common._arguments import check_flag, check_verify
from trio_eventlog.stores._common._epochs import next_first_event
from trio_eventlog.stores.sqlite import _backup as backups
from trio_eventlog.stores.sqlite import _files as files
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _worker as workers
from trio_eventlog.stores.sqlite._appender import insert_rows, row_of
from trio_eventlog.stores.sqlite._copying import copy_database
from trio_eventlog.stores.sqlite._parts import Parts, start
from trio_eventlog.stores.sqlite._store import verified_events


@trio.lowlevel.enable_ki_protection  # of closing the connections
async def restore(
    source: str | os.PathLike[str],
    path: str,
    *,
    replace: bool,
    on_progress: Callable[[int, int], object] | None,
) -> int:
    """See :func:`trio_eventlog.stores.restore_backup`."""
    source, path = files.checked_path(source), files.checked_path(path)
    check_flag("replace", replace)
    check_verify(0, on_progress)
    place = await workers.in_thread(source, partial(files.existing, source))
    target, is_there = await workers.in_thread(
        path, partial(_create, path, place.path, replace=replace), lambda made: backups.remove(made[0])
    )
    try:
        await copy_database(place, target, on_progress)
        events = await verified_events(target + backups.PART)
        reason = f"restored from {os.path.basename(place.path)}"  # noqa: PTH119 - str all along
        names = await _begin_epochs(target + backups.PART, reason)
        await workers.in_thread(target, partial(_put_in_place, target, names if is_there else ()))
        return events
    finally:
        # Nothing, once it has its name.
        backups.remove(target)


def _create(path: str, source: str, *, replace: bool) -> tuple[str, bool]:
    """Create the file to copy to. Returns its path without links, and whether there is a file to replace."""
    target = os.path.realpath(path)
    is_there = replace and os.path.lexists(target)
    # A backup must not change, also under another name.
    if is_there and Path(target).samefile(source):
        raise StoreUnusable(f"{path}: this is the backup itself; restore it to another place")
    (backups.create_part if is_there else backups.create)(target)
    return target, is_there


async def _begin_epochs(path: str, reason: str) -> list[str]:
    """Begin an epoch of every log in a file that nobody else has; return their names."""
    parts = Parts()
    try:
        worker = await start(files.Place(path), parts, schema.harden, apsw.SQLITE_OPEN_READWRITE)
        return await worker.run(partial(_begin_each, reason=reason))
    finally:
        await parts.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside


def _begin_each(db: apsw.Connection, reason: str) -> list[str]:
    # Whoever kills this leaves no journal; the file is of no use then.
    schema.first_row(db, "PRAGMA journal_mode = MEMORY")
    names = schema.log_names(db)
    if not names:
        raise StoreUnusable(f"{db.filename}: no log is in it")
    with schema.transaction(db):
        for name in names:
            log = schema.same_log(db, name, None)
            event = next_first_event(log.last_seq, reason)
            insert_rows(db, log.number, [row_of(event, log.seed)])
            log.note(db, last_seq=event.seq)
    return names


def _put_in_place(target: str, replaced: Sequence[str]) -> None:
    """Give the file its name, in place of one with logs of the names ``replaced``."""
    with ExitStack() as locks:
        for name in replaced:
            locks.callback(files.acquire(target, name)[1].release)
        if replaced:
            _settle(target)
        backups.publish(target)


def _settle(path: str) -> None:
    """Empty the write-ahead log of a database, which SQLite would take for that of its replacement."""
    try:
        db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            schema.harden(db)
            # Named by mistake, it may be of another program.
            schema.is_initialised(db)
            # While another connection is open, this is refused.
            mode = schema.first_row(db, "PRAGMA journal_mode = DELETE")
        finally:
            db.close(True)
    except apsw.BusyError as exc:
        raise StoreError(f"{path}: it cannot be replaced while a program has it open") from exc
    except (apsw.NotADBError, apsw.CorruptError) as exc:
        raise StoreUnusable(
            f"{path}: it is damaged ({exc}), and is not replaced; move it away, with its -wal and -shm"
        ) from exc
    if mode != ("delete",):
        raise StoreError(f"{path}: it cannot be replaced while a program has it open")
