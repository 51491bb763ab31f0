"""Reading page by page, and reporting what was pruned meanwhile."""

from __future__ import annotations

from typing import Final, overload

import attrs
import trio
from rich.console import Console

from trio_eventlog import EventQuery, EventsPruned, PersistedEvent
from trio_eventlog.abc import EventStore, PrunedStore
from trio_eventlog.cli._terminal import complain
from trio_eventlog.reading import EventStream, LogEvent, MergedEvents

PAGE_SIZE: Final = 1000
"""The most events of a page."""

_BEYOND_ALL_SEQS: Final = 2**63


def bounded(query: EventQuery) -> EventQuery:
    """The same query, whose ``after_seq`` beyond all seqs is a bound and not the cursor of another log."""
    return query if (query.after_seq or 0) < _BEYOND_ALL_SEQS else attrs.evolve(query, limit=0)


@attrs.define
class PruneReporter:
    """Reports events that were pruned before a command could read them."""

    console: Console
    ignored_through: int = 0
    """The command starts at the first event there is, so what is pruned up to this seq does not matter."""

    has_reported: bool = False

    def report(self, exc: EventsPruned) -> None:
        """Report the events, if they matter."""
        if exc.last_seq > self.ignored_through:
            self.has_reported = True
            complain(". ".join((str(exc), *getattr(exc, "__notes__", ()))), self.console)


async def prune_reporter_for(store: EventStore, after_seq: int, console: Console) -> PruneReporter:
    """The reporter for a command that reads what comes after ``after_seq``. A checkpoint.

    Raises:
      StoreError: the store failed.
    """
    if after_seq or not isinstance(store, PrunedStore):
        await trio.lowlevel.checkpoint()
        return PruneReporter(console)
    return PruneReporter(console, await store.pruned_seq())


@overload
async def next_page(events: EventStream, pruned: PruneReporter) -> list[PersistedEvent]: ...
@overload
async def next_page(events: MergedEvents, pruned: PruneReporter) -> list[LogEvent]: ...
async def next_page(
    events: EventStream | MergedEvents, pruned: PruneReporter
) -> list[PersistedEvent] | list[LogEvent]:
    """The next events, one page of them; none at the end. A checkpoint.

    Raises:
      StoreError: a store failed. The next call returns what this one would have returned.
    """
    while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
        try:
            return await anext(events.pages(), [])
        except EventsPruned as exc:
            pruned.report(exc)
