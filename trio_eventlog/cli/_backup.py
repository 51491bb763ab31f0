"""``trio-eventlog backup``: copy a file of logs while programs write to it."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import Parameter

from trio_eventlog import EventStore
from trio_eventlog.cli._options import USAGE_STATUS, StoreUrl, opened_store
from trio_eventlog.cli._running import progress_bar, stopping_on_signals
from trio_eventlog.cli._terminal import CommandError, counted, error_console, write_summary
from trio_eventlog.stores import SqliteStore, without_secrets

EXAMPLES: Final = """
trio-eventlog backup --store sqlite:events.db --to events-2026-07-14.db
"""


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
    done = pages = events = 0

    def note(so_far: int, of: int) -> None:
        nonlocal done, pages
        done, pages = so_far, of

    console = error_console()
    async with stopping_on_signals("stopping; there is no copy", console) as stop:
        with stop.stoppable():
            async with progress_bar(console, None, lambda: (done, f"{done:,} of {pages:,} pages")):
                try:
                    events = await store.backup(path, on_progress=note)
                except ValueError as exc:
                    raise CommandError(f"--to: {exc}", USAGE_STATUS) from exc
        if stop.status:
            return stop.status
        return 0 if await write_summary(f"{counted(events, 'event')} backed up to {path}") else 1
