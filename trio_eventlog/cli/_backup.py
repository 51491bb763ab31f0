"""``trio-eventlog backup``, ``restore`` and ``adopt``: copies of a log, and how it goes on in one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Final

from cyclopts import Parameter

from trio_eventlog import EventStore
from trio_eventlog.cli._options import USAGE_STATUS, Flag, StoreUrl, opened_store
from trio_eventlog.cli._running import progress_bar, stopping_on_signals
from trio_eventlog.cli._terminal import CommandError, counted, error_console, write_summary
from trio_eventlog.stores import SqliteStore, begin_epoch, restore_backup, without_secrets

BACKUP_EXAMPLES: Final = """
trio-eventlog backup --store sqlite:events.db --to events-2026-07-14.db
"""

RESTORE_EXAMPLES: Final = """
trio-eventlog restore --from events-2026-07-14.db --store sqlite:events.db
trio-eventlog restore --from events-2026-07-14.db --store sqlite:events.db --replace
"""

ADOPT_EXAMPLES: Final = """
trio-eventlog adopt --store sqlite:copied.db
trio-eventlog adopt --store postgresql://db.example/restored --reason "restored from the dump of July 14"
"""

_STOPPING: Final = "stopping; there is no copy"


async def backup(*, store: StoreUrl, to: Annotated[str, Parameter(metavar="FILE")]) -> int:
    """Copy a SQLite file with all of its logs while programs write to it, and verify the copy.

    The copy is of one moment. It gets its name once it was verified and synced.

    Args:
      store: A log of the file; the others are copied as well.
      to: The new file, readable by its owner only.
    """
    async with opened_store(store, read_only=True) as opened:
        return await back_up(opened, without_secrets(store), to)


async def back_up(store: EventStore, url: str, path: str) -> int:
    """Copy a file of logs; return the exit status.

    Raises:
      StoreError: a file cannot be read or written.
      CommandError: the store is in no file, or ``path`` does not name one.
    """
    if not isinstance(store, SqliteStore):
        raise CommandError(f"{url}: only SQLite files are backed up like this; use the tools of the server")
    return await _copied(partial(store.backup, path), "--to", "{} backed up to " + path)


async def restore(
    *,
    from_: Annotated[str, Parameter(name="--from", metavar="FILE")],
    store: StoreUrl,
    replace: Flag = False,
) -> int:
    """Restore a SQLite file with all of its logs from a backup.

    The backup is copied and verified, and an epoch begins in each log: it goes on with seqs that were never
    given out, and readers whose cursor is from the state that is gone are told. The file gets its name once
    all that is done.

    Args:
      from_: The backup. It is not changed.
      store: The file, as `sqlite:PATH`.
      replace: Replace a file that is there. No program may have it open.
    """
    shown = without_secrets(store)
    return await _copied(
        partial(restore_backup, from_, store, replace=replace), "--store", "{} restored to " + shown
    )


async def _copied(copy: Callable[..., Awaitable[int]], option: str, summary: str) -> int:
    """Copy a file, and say how many events it has; return the exit status."""
    done = pages = events = 0

    def note(so_far: int, of: int) -> None:
        nonlocal done, pages
        done, pages = so_far, of

    console = error_console()
    async with stopping_on_signals(_STOPPING, console) as stop:
        with stop.stoppable():
            async with progress_bar(console, None, lambda: (done, f"{done:,} of {pages:,} pages")):
                try:
                    events = await copy(on_progress=note)
                except ValueError as exc:
                    raise CommandError(f"{option}: {exc}", USAGE_STATUS) from exc
        if stop.status:
            return stop.status
        return 0 if await write_summary(summary.replace("{}", counted(events, "event"), 1)) else 1


async def adopt(*, store: StoreUrl, reason: Annotated[str, Parameter(metavar="TEXT")] = "adopted") -> int:
    """Begin an epoch of a log that some other tool has copied or restored.

    It then goes on with seqs that were never given out, and readers whose cursor is from the state that is
    gone are told. Do this once for each log, before a program opens it; after `restore` it is done already.

    Args:
      store: The log.
      reason: Why, for the event that begins the epoch.
    """
    # Opened for writing, it would be created.
    async with opened_store(store, read_only=True):
        pass
    async with opened_store(store) as opened:
        epoch = await begin_epoch(opened, reason=reason)
    text = f"the log had seqs up to {epoch.after_seq}, and goes on from seq {epoch.seq}"
    return 0 if await write_summary(text) else 1
