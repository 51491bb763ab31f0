"""``trio-eventlog erase``: erase what events say."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import Parameter

from trio_eventlog import EventQuery, EventStore
from trio_eventlog.abc import ErasableStore
from trio_eventlog.cli._options import USAGE_STATUS, Filters, Flag, StoreUrl, opened_store
from trio_eventlog.cli._running import progress_bar
from trio_eventlog.cli._terminal import CommandError, counted, error_console, write_summary
from trio_eventlog.reading import iter_events
from trio_eventlog.stores import without_secrets

EXAMPLES: Final = """
trio-eventlog erase --store sqlite:events.db --identity ann --reason "request 17" --dry-run
trio-eventlog erase --store sqlite:events.db --identity ann --reason "request 17"
"""


async def erase(
    *,
    store: StoreUrl,
    filters: Filters = Filters(),  # noqa: B008 - immutable
    reason: Annotated[str, Parameter(metavar="TEXT")],
    dry_run: Flag = False,
) -> int:
    """Erase the payloads of events for good; the events stay.

    Each payload is replaced by a tombstone with the reason and the time. Order, count and seqs stay. Another
    process may write to the log at the same time. Copies in backups, archives and spill files are not erased.
    After an interruption, repeat the command.

    Args:
      store: The log.
      filters: Which events; at least one filter is required.
      reason: Why. It is kept, so do not repeat what is to be erased.
      dry_run: Only print how many events would be erased.
    """
    query = filters.query()
    if query == EventQuery():
        raise CommandError("specify which events: at least one of --identity, --member-id, …", USAGE_STATUS)
    async with opened_store(store, read_only=True) as opened:
        return await erase_events(opened, without_secrets(store), query, reason=reason, dry_run=dry_run)


async def erase_events(store: EventStore, url: str, query: EventQuery, *, reason: str, dry_run: bool) -> int:
    """Erase the payloads of events; return the exit status.

    Raises:
      StoreError: the store failed.
      CommandError: the store cannot erase, or the reason is no reason.
    """
    if not isinstance(store, ErasableStore):
        raise CommandError(f"{url}: stores of this kind cannot erase what they have stored")
    if dry_run:
        count = 0
        async for page in iter_events(store, query).pages():
            count += len(page)
        return 0 if await write_summary(f"{counted(count, 'event')} would be erased") else 1
    async with progress_bar(error_console(), None, lambda: (0, "erasing")):
        try:
            count = await store.erase(query, reason=reason)
        except ValueError as exc:
            raise CommandError(f"--{exc}", USAGE_STATUS) from exc
    return 0 if await write_summary(f"{counted(count, 'event')} erased") else 1
