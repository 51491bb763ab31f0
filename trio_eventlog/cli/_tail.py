"""``trio-eventlog tail``: the last events of a log, and then those to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from trio_eventlog import EventQuery, EventStore, LogEvent, PersistedEvent, iter_events, merge_events, tail
from trio_eventlog.cli._pages import PAGE, next_items, next_page
from trio_eventlog.cli._query import Printer
from trio_eventlog.stores import SqliteStore

_FIRST_STEP: Final = 1_000
"""Seqs to look back over at first, and how many times as many with each further look."""

_FACTOR: Final = 8

_POLL_INTERVAL: Final = 0.5
_NEW_LOGS_EVERY: Final = 2.0
"""Seconds after which a file is looked over for logs that are new."""


async def follow(store: EventStore, query: EventQuery, *, last: int, as_json: bool) -> int:
    """Print events, and go on until the limit of the query is reached, if it has one.

    Args:
      store: where they are.
      query: which, behind its ``after_seq`` if it has one.
      last: how many of those that are there to print, if it has none.
      as_json: print JSON lines also on a terminal.

    Returns:
      The exit status.

    Raises:
      StoreError: the store failed.
      StaleCursor: the log does not reach as far as ``after_seq``.
      ReaderGone, CommandError: standard output cannot be written to.
    """
    printer = Printer(as_json=as_json)
    after = query.after_seq
    if after is None:
        recent, after = await _last_events(store, query, last)
        recent = recent[: query.limit]
        await printer.print(recent)
        if query.limit is not None:
            query = attrs.evolve(query, limit=query.limit - len(recent))
    async with tail(
        store, attrs.evolve(query, after_seq=None), after_seq=after, poll_interval=_POLL_INTERVAL
    ) as events:
        while page := await next_page(events):
            await printer.print(page)
    return 0


async def follow_all(path: str, query: EventQuery, *, last: int, as_json: bool) -> int:
    """The same of all logs of a SQLite file, those included that are made meanwhile.

    What is found together is printed by time.
    """
    printer = Printer(as_json=as_json)
    async with SqliteStore.open_readers(path) as stores:
        recent, cursors = await _last_of_all(stores, query, last)
    recent = recent[: query.limit]
    await printer.print(recent)
    left = None if query.limit is None else query.limit - len(recent)
    while left is None or left:
        async with SqliteStore.open_readers(path) as stores:
            seen_all_at = trio.current_time()
            while (left is None or left) and trio.current_time() < seen_all_at + _NEW_LOGS_EVERY:
                events = merge_events(stores, attrs.evolve(query, limit=left), cursors=cursors)
                while page := await next_items(events, PAGE):
                    await printer.print(page)
                    left = None if left is None else left - len(page)
                cursors = events.cursors
                # One pause for all logs: what has come by then is in order.
                await trio.sleep(_POLL_INTERVAL)
    return 0


async def _last_of_all(
    stores: Mapping[str, EventStore], query: EventQuery, count: int
) -> tuple[list[LogEvent], dict[str, int]]:
    found: list[LogEvent] = []
    cursors: dict[str, int] = {}
    for name, store in stores.items():
        events, cursors[name] = await _last_events(store, query, count)
        found += [LogEvent(name, event) for event in events]
    await trio.lowlevel.checkpoint()
    found.sort(key=lambda item: (item.event.timestamp_ms, item.log, item.event.seq))
    return found[-count:] if count else [], cursors


async def _last_events(store: EventStore, query: EventQuery, count: int) -> tuple[list[PersistedEvent], int]:
    """The last events that match, and the seq up to which there are no others."""
    end = await store.last_seq()
    if not count:
        return [], end
    step = max(_FIRST_STEP, count)
    while True:
        # A store can be asked for its first events and not for its last: look back further and further.
        start = max(end - step, 0)
        found: deque[PersistedEvent] = deque(maxlen=count)
        async for event in iter_events(store, attrs.evolve(query, after_seq=start, limit=None)):
            found.append(event)
        if len(found) == count or not start:
            return list(found), max(end, found[-1].seq if found else 0)
        step *= _FACTOR
