"""Reading page by page."""

from __future__ import annotations

from typing import Final

import attrs
import trio
from rich.console import Console

from trio_eventlog import (
    EventQuery,
    EventsPruned,
    EventStore,
    PersistedEvent,
    StoreError,
    to_json,
)
from trio_eventlog.cli._terminal import complain
from trio_eventlog.reading import EventStream, LogEvent, MergedEvents

PAGE: Final = 1000
"""Most events that are in memory at once,"""

PAGE_BYTES: Final = 4 * 1024 * 1024
"""and bytes of their JSON after which they are enough."""


def bounded(query: EventQuery) -> EventQuery:
    """The same, of which an ``after_seq`` beyond all seqs is a bound, and not a cursor of another log."""
    return query if (query.after_seq or 0) < _BEYOND else attrs.evolve(query, limit=0)


_BEYOND: Final = 2**63


@attrs.define
class Pruned:
    """Tells of events that were pruned before a command could read them."""

    console: Console
    before: int = 0
    """What is pruned up to here does not matter: the command begins at the first event that is there."""

    is_told: bool = False

    def tell(self, exc: EventsPruned) -> None:
        """Say so, if it matters."""
        if exc.last_seq > self.before:
            self.is_told = True
            complain(". ".join((str(exc), *getattr(exc, "__notes__", ()))), self.console)


async def pruned_for(store: EventStore, after_seq: int, console: Console) -> Pruned:
    """For a command that reads what is behind ``after_seq``. A checkpoint.

    Raises:
      StoreError: the store failed.
    """
    pruned_seq = getattr(store, "pruned_seq", None)
    if pruned_seq is None or after_seq:
        await trio.lowlevel.checkpoint()
        return Pruned(console)
    return Pruned(console, await pruned_seq())


async def next_page(events: EventStream, pruned: Pruned) -> list[PersistedEvent]:
    """The events that come together; none at the end. A checkpoint.

    Raises:
      StoreError: the store failed.
    """
    page: list[PersistedEvent] = []
    while not page:
        try:
            async for event in events:
                page.append(event)
                if not events.at_hand:
                    break
            else:
                break
        except EventsPruned as exc:
            pruned.tell(exc)
    return page  # noqa: ASYNC910 - as the iterator has it


async def next_merged(events: MergedEvents, pruned: Pruned) -> list[LogEvent]:
    """The next events of several logs, as many as fit into a page; none at the end. A checkpoint.

    Raises:
      StoreError: a store failed. If some events were there before, they are returned: the next call will say.
    """
    page: list[LogEvent] = []
    size = 0
    while len(page) < PAGE and size < PAGE_BYTES:
        try:
            item = await anext(events)
            page.append(item)
            size += len(to_json(item.event))
        except StopAsyncIteration:
            break
        except EventsPruned as exc:
            pruned.tell(exc)
        except StoreError:
            if not page:
                raise
            break
    return page  # noqa: ASYNC910 - as the iterator has it
