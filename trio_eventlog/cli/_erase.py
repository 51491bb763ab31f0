"""``trio-eventlog erase``: erase what events say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

import attrs
import trio
from cyclopts import Parameter

from trio_eventlog import EventQuery, EventsPruned, EventStore, PersistedEvent
from trio_eventlog.abc import ErasableStore, IdentifiedStore, is_tombstone
from trio_eventlog.audit import CommitmentKey, commitment_with
from trio_eventlog.cli._audit_options import MaybeFile
from trio_eventlog.cli._options import USAGE_STATUS, Filters, Flag, StoreUrl, opened_store
from trio_eventlog.cli._running import progress_bar
from trio_eventlog.cli._terminal import CommandError, counted, error_console, write_summary
from trio_eventlog.reading import EventStream, iter_events
from trio_eventlog.stores import without_secrets

EXAMPLES: Final = """
trio-eventlog erase --store sqlite:events.db --identity ann --reason "request 17" --dry-run
trio-eventlog erase --store sqlite:events.db --identity ann --reason "request 17"
trio-eventlog erase --store sqlite:e.db --run-id r-7 --reason "request 18" --commitment-key key.commitment
"""

Commitment: TypeAlias = Callable[[PersistedEvent], str]


async def erase(
    *,
    store: StoreUrl,
    filters: Filters = Filters(),  # noqa: B008 - immutable
    reason: Annotated[str, Parameter(metavar="TEXT")],
    commitment_key: MaybeFile = None,
    origin: Annotated[str | None, Parameter(metavar="ID")] = None,
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
      commitment_key: The commitment key that the log is sealed with: its checkpoints hold for what is left.
        Without it, or with another one, those that cover erased events do not hold any more: `verify` with
        this key first.
      origin: The id of the log in its checkpoints; by default that of the log.
      dry_run: Only print how many events would be erased.
    """
    query = filters.query()
    if query == EventQuery():
        raise CommandError("specify which events: at least one of --identity, --member-id, …", USAGE_STATUS)
    if not reason:
        # A dry run must not accept what the erasure would refuse.
        raise CommandError("--reason: expected a few words, got ''", USAGE_STATUS)
    async with opened_store(store, read_only=True) as opened:
        url = without_secrets(store)
        if not isinstance(opened, ErasableStore):
            raise CommandError(f"{url}: stores of this kind cannot erase what they have stored")
        commitment = await _commitment(opened, url, commitment_key, origin)
        return await _erase(opened, opened, query, reason=reason, commitment=commitment, dry_run=dry_run)


async def _commitment(
    store: EventStore, url: str, commitment_key: str | None, origin: str | None
) -> Commitment | None:
    """What makes the commitments to the payloads, with the key of ``--commitment-key``. A checkpoint of Trio.

    Raises:
      AuditError: the key cannot be read.
      CommandError: an option is missing, or the id is none.
    """
    if commitment_key is None:
        await trio.lowlevel.checkpoint()
        if origin is not None:
            raise CommandError("--origin: --commitment-key is missing", USAGE_STATUS)
        return None
    key = await trio.to_thread.run_sync(CommitmentKey.load, commitment_key)
    if origin is None and isinstance(store, IdentifiedStore):
        origin = store.log_id
    if origin is None:
        raise CommandError(f"{url}: the store does not know the id of its log; name it with --origin")
    try:
        return commitment_with(key, origin)
    except ValueError as exc:
        raise CommandError(f"--{exc}", USAGE_STATUS) from exc


async def _erase(
    store: EventStore,
    erasable: ErasableStore,
    query: EventQuery,
    *,
    reason: str,
    commitment: Commitment | None = None,
    dry_run: bool,
) -> int:
    """Erase the payloads of events; return the exit status.

    Raises:
      StoreError: the store failed.
      StaleCursor: the log has gone on from a state before ``after_seq``.
      CommandError: the reason is no reason.
    """
    if dry_run:
        count, events = 0, iter_events(store, query)
        while page := await _next_page(events):
            # What was erased before is left alone.
            count += sum(not is_tombstone(event.event.payload) for event in page)
        return 0 if await write_summary(f"{counted(count, 'event')} would be erased") else 1
    # A cursor of a state that is gone is followed by other events than those that were meant.
    await _next_page(iter_events(store, attrs.evolve(query, limit=1)))
    async with progress_bar(error_console(), None, lambda: (0, "erasing")):
        try:
            count = await erasable.erase(query, reason=reason, commitment=commitment)
        except ValueError as exc:
            raise CommandError(f"--{exc}", USAGE_STATUS) from exc
    return 0 if await write_summary(f"{counted(count, 'event')} erased") else 1


async def _next_page(events: EventStream) -> list[PersistedEvent]:
    while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
        try:
            return await anext(events.pages(), [])
        except EventsPruned:
            continue  # nothing is left of them that could be erased
