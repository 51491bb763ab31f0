"""``trio-eventlog copy``: from one log to another, with the ids and seqs of the events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console

from trio_eventlog import EventQuery, EventRejected, PersistedEvent, StoreError, StoreUnusable, to_json
from trio_eventlog.abc import BoundedStore, EventStore
from trio_eventlog.cli._options import Count, opened_store
from trio_eventlog.cli._reading import PAGE_SIZE, PruneReporter, next_page, prune_reporter_for
from trio_eventlog.cli._running import progress_bar, retrying, stopping_on_signals
from trio_eventlog.cli._terminal import CommandError, complain, counted, error_console, write_summary
from trio_eventlog.reading import iter_events, list_epochs

EXAMPLES: Final = """
trio-eventlog copy --from sqlite:events.db --to sqlite:backup.db
trio-eventlog copy --from 'sqlite:all.db?log=worker-3' --to sqlite:worker-3.db
trio-eventlog copy --from sqlite:events.db --to 'postgresql://db.example/app?log=worker-3'
trio-eventlog copy --from sqlite:events.db --to 'nats://n1,n2,n3/EVENTS?log=worker-3&replicas=3'
"""

_BATCH_SIZE: Final = PAGE_SIZE

_MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
"""Of one append, unless a single event is larger."""

_RETRY_TIMEOUT: Final = 60.0
"""Seconds for which a failing store is retried: a cluster needs a few to elect a new leader."""

_LAST_QUESTION_TIMEOUT: Final = 10.0


async def copy(
    *,
    from_: Annotated[str, Parameter(name="--from", metavar="URL")],
    to: Annotated[str, Parameter(metavar="URL")],
    show_rejected: Count = 20,
) -> int:
    """Copy a log to another one, keeping the ids and seqs of its events.

    The logs can be in stores of any kind; their URLs are those of `--store` in the other commands. The copy
    starts after the last event of the target, so repeat the command to continue after an interruption or to
    bring the target up to date.

    Args:
      from_: The log to copy. Another process may write to it at the same time.
      to: The target: an empty log, or an earlier copy.
      show_rejected: Number of rejected events to list; all are counted.
    """
    async with opened_store(from_, "--from", read_only=True) as source, opened_store(to, "--to") as target:
        return await copy_events(source, target, max_shown=show_rejected)


@attrs.define
class _Copied:
    seq: int
    """The last one that was dealt with."""

    events: int = 0
    duplicates: int = 0
    rejected: int = 0
    in_doubt: bool = False
    """Whether the target may hold more than was counted."""

    @property
    def summary(self) -> str:
        parts = [f"{'at least ' if self.in_doubt else ''}{counted(self.events, 'event')} copied"]
        if self.duplicates:
            parts.append(f"{self.duplicates:,} already there under another seq")
        if self.rejected:
            parts.append(f"{self.rejected:,} rejected")
        return f"{', '.join(parts)}; up to seq {self.seq}"


async def copy_events(source: EventStore, target: EventStore, *, max_shown: int) -> int:
    """Copy all events after the last one of ``target``; return the exit status.

    Args:
      source: the log to copy.
      target: an empty log, or an earlier copy.
      max_shown: how many rejected events to report.

    Raises:
      StoreError: one of the stores failed at the beginning.
      CommandError: ``target`` is not an earlier copy.
    """
    console = error_console()
    start = await target.last_seq()
    await _require_prefix(source, target, start)
    last_seq = await source.last_seq()
    copied = _Copied(start)
    pruned = await prune_reporter_for(source, start, console)
    error: StoreError | None = None
    async with stopping_on_signals("stopping; repeat the command to continue", console) as stop:
        with stop.stoppable():
            async with progress_bar(
                console, max(last_seq - start, 1), lambda: (copied.seq - start, f"{copied.events:,} events")
            ):
                try:
                    await _copy(source, target, copied, max_shown, pruned)
                except StoreError as exc:
                    error = exc
        if stop.status:
            await _count_cut_off(target, copied)
        is_reported = await write_summary(copied.summary)
    if error is not None:
        advice = "" if isinstance(error, StoreUnusable) else "; repeat the command to continue"
        complain(f"{error}{advice}", console)
    is_complete = error is None and not (copied.rejected or pruned.has_reported)
    return stop.status or (0 if is_complete and is_reported else 1)


async def _count_cut_off(target: EventStore, copied: _Copied) -> None:  # noqa: ASYNC910 - asks the store
    """Find out whether the append that a signal cancelled was done."""
    copied.in_doubt = True
    with trio.move_on_after(_LAST_QUESTION_TIMEOUT), suppress(StoreError):
        # A store answers this after the append (S4).
        last_seq = await target.last_seq()
        if last_seq > copied.seq:
            copied.events += len(await target.query(EventQuery(after_seq=copied.seq)))
            copied.seq = last_seq
        copied.in_doubt = False


async def _require_prefix(source: EventStore, target: EventStore, last_seq: int) -> None:
    if not last_seq:
        return
    at_end = EventQuery(after_seq=last_seq - 1, limit=1)
    ours, theirs = await source.query(at_end), await target.query(at_end)
    if await source.last_seq() < last_seq:
        raise CommandError(
            f"--to: its log goes up to seq {last_seq}, beyond that of --from; copy to an empty log"
        )
    if not (ours and theirs and ours[0].seq == theirs[0].seq):
        for epoch in await list_epochs(source):
            if epoch.is_stale(last_seq):
                raise CommandError(
                    f"--to: its log goes up to seq {last_seq}, of a state of --from that is gone: --from was"
                    f" restored to its state at seq {epoch.after_seq}; copy to an empty log"
                )
        # One of them was pruned. Continuing could mix two logs irrevocably.
        raise CommandError(
            f"--to: its last event, seq {last_seq}, cannot be compared with that of --from: one of them no"
            " longer has it; copy to an empty log"
        )
    if ours[0].id != theirs[0].id:
        raise CommandError(
            f"--to: its log is not a copy of that of --from: seq {last_seq} is event {theirs[0].id!a}"
            f" there and {ours[0].id!a} here; copy to an empty log"
        )


async def _copy(
    source: EventStore, target: EventStore, copied: _Copied, max_shown: int, pruned: PruneReporter
) -> None:
    max_batch = target.max_batch if isinstance(target, BoundedStore) else None
    events = iter_events(
        source, EventQuery(after_seq=copied.seq), page_size=min(_BATCH_SIZE, max_batch or _BATCH_SIZE)
    )
    while page := await retrying(
        partial(next_page, events, pruned), pruned.console, what="the --from store", timeout=_RETRY_TIMEOUT
    ):
        for batch in _batches(page):
            await _append(target, batch, copied, max_shown, pruned.console)


def _batches(page: Sequence[PersistedEvent]) -> Iterator[list[PersistedEvent]]:
    """The parts of a page that are appended at once."""
    batch: list[PersistedEvent] = []
    size = 0
    for event in page:
        more = len(to_json(event))
        if batch and size + more > _MAX_BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += more
    if batch:
        yield batch


async def _append(
    target: EventStore, events: Sequence[PersistedEvent], copied: _Copied, max_shown: int, console: Console
) -> None:
    batch = list(events)
    while batch:
        try:
            duplicates = await retrying(
                partial(target.append_batch, batch), console, what="the --to store", timeout=_RETRY_TIMEOUT
            )
        except EventRejected as exc:
            seqs = {event.seq for event in exc.events}
            rejected = [event for event in batch if event.seq in seqs]
            if not rejected:
                raise
            for event in rejected:
                copied.rejected += 1
                if copied.rejected <= max_shown:
                    complain(f"seq {event.seq}: the store rejects event {event.id!a}: {exc.reason}", console)
            batch = [event for event in batch if event.seq not in seqs]
        else:
            copied.events += len(batch) - len(duplicates)
            copied.duplicates += len(duplicates)
            break
    copied.seq = events[-1].seq
