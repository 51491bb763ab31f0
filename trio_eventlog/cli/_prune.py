"""``trio-eventlog prune``: delete old events."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Final

import trio
from cyclopts import Parameter

from trio_eventlog.abc import EventStore, PrunableStore
from trio_eventlog.audit import CheckpointReader
from trio_eventlog.cli._audit_options import MaybeFile, load_verifier
from trio_eventlog.cli._options import USAGE_STATUS, Age, Flag, Number, StoreUrl, Time, opened_store
from trio_eventlog.cli._running import progress_bar, stopping_on_signals
from trio_eventlog.cli._terminal import CommandError, counted, error_console, write, write_summary
from trio_eventlog.retention import ArchiveError, prune_to_archive
from trio_eventlog.stores import without_secrets

EXAMPLES: Final = """
trio-eventlog prune --store sqlite:events.db --older-than 30d --dry-run
trio-eventlog prune --store sqlite:events.db --before 2026-07-01
trio-eventlog prune --store 'sqlite:events.db?log=worker-3' --keep 100000
trio-eventlog prune --store sqlite:events.db --older-than 90d --archive archive
trio-eventlog prune --store sqlite:e.db --keep 10000 --archive a --checkpoints e.seal --public-key key.pub
"""

_MAX_BOUND: Final = 2**63 - 1
"""Beyond what a store can hold: everything, or nothing."""


async def prune(
    *,
    store: StoreUrl,
    before: Time = None,
    older_than: Age = None,
    keep: Number = None,
    archive: Annotated[str | None, Parameter(metavar="DIR")] = None,
    checkpoints: MaybeFile = None,
    public_key: MaybeFile = None,
    dry_run: Flag = False,
) -> int:
    """Delete old events permanently.

    Another process may write to the log at the same time. Events are deleted in small batches: after an
    interruption, repeat the command to continue. Seqs are not reused; disk space is.

    Args:
      store: The log.
      before: Delete events from before this time: milliseconds since 1970, or ISO 8601.
      older_than: Delete events older than this: a number and s, m, h, d or w.
      keep: Delete all events except this many with the highest seqs.
      archive: Move the events to an archive in this directory: each is deleted only after it was written,
        synced and read back.
      checkpoints: The file of the log's checkpoints: move only events that one covers, and name it in the
        manifest of each segment.
      public_key: The public key of the checkpoints, as `keygen` writes it.
      dry_run: Only print how many events would be deleted.
    """
    if [before, older_than, keep].count(None) != 2:  # noqa: PLR2004 - of three
        raise CommandError("specify exactly one of --before, --older-than and --keep", USAGE_STATUS)
    if older_than is not None:
        before = max(time.time_ns() // 1_000_000 - older_than, 0)
    before, keep = (None if value is None else min(value, _MAX_BOUND) for value in (before, keep))
    reader = await _checkpoint_reader(archive, checkpoints, public_key)
    async with opened_store(store, read_only=True) as opened:
        return await prune_events(
            opened,
            without_secrets(store),
            before_ms=before,
            keep=keep,
            archive=archive,
            checkpoints=reader,
            dry_run=dry_run,
        )


async def _checkpoint_reader(
    archive: str | None, checkpoints: str | None, public_key: str | None
) -> CheckpointReader | None:
    """What reads the file of ``--checkpoints``. A checkpoint of Trio.

    Raises:
      AuditError: the key cannot be read.
      CommandError: an option is missing.
    """
    if checkpoints is None:
        await trio.lowlevel.checkpoint()
        if public_key is not None:
            raise CommandError("--public-key: --checkpoints is missing", USAGE_STATUS)
        return None
    if archive is None or public_key is None:
        missing = "--archive" if archive is None else "--public-key"
        raise CommandError(f"--checkpoints: {missing} is missing", USAGE_STATUS)
    return CheckpointReader(checkpoints, await load_verifier(public_key))


async def prune_events(
    store: EventStore,
    url: str,
    *,
    before_ms: int | None,
    keep: int | None,
    archive: str | None = None,
    checkpoints: CheckpointReader | None = None,
    dry_run: bool = False,
) -> int:
    """Delete old events; return the exit status.

    Raises:
      StoreError: the store failed.
      AuditError: the checkpoints cannot be read.
      CommandError: the store cannot be pruned, or the archive cannot be used.
    """
    if not isinstance(store, PrunableStore):
        raise CommandError(f"{url}: stores of this kind cannot be pruned")
    if dry_run:
        count = await store.prune(before_ms=before_ms, keep=keep, dry_run=True)
        await write(f"{counted(count, 'event')} would be pruned\n")
        return 0
    console = error_console()
    done = total = 0

    def note(so_far: int, of: int) -> None:
        nonlocal done, total
        done, total = so_far, of

    async with stopping_on_signals("stopping; events already pruned stay pruned", console) as stop:
        with stop.stoppable():
            async with progress_bar(console, None, lambda: (done, f"{done:,} of {total:,} pruned")):
                move = store.prune if archive is None else partial(_move, store, archive, checkpoints)
                await move(before_ms=before_ms, keep=keep, on_progress=note)
        # The batch that was being deleted when the signal arrived may be gone as well.
        text = f"{counted(done, 'event')} {'pruned' if archive is None else f'moved to {archive}'}"
        is_reported = await write_summary(f"at least {text} of {total:,}" if stop.status else text)
    return stop.status or (0 if is_reported else 1)


async def _move(
    store: EventStore,
    archive: str,
    checkpoints: CheckpointReader | None,
    *,
    before_ms: int | None,
    keep: int | None,
    on_progress: Callable[[int, int], object],
) -> int:
    try:
        return await prune_to_archive(
            store,
            archive,
            before_ms=before_ms,
            keep=keep,
            checkpoints=checkpoints,
            on_progress=on_progress,
        )
    except ArchiveError as exc:
        raise CommandError(f"--archive: {exc}") from exc
    except ValueError as exc:
        raise CommandError(f"--{exc}", USAGE_STATUS) from exc
    except OSError as exc:
        raise CommandError(f"--archive: {archive}: {exc.strerror}") from exc
