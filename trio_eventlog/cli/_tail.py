"""``trio-eventlog tail``: the last events of a log, and then those to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import attrs
import trio
from rich.console import Console

from trio_eventlog import (
    EventQuery,
    EventStore,
    Subscription,
)
from trio_eventlog.cli._options import WithNeighbours, opened_readers
from trio_eventlog.cli._pages import Pruned, next_merged, next_page
from trio_eventlog.cli._patience import patiently
from trio_eventlog.cli._query import Printer
from trio_eventlog.cli._terminal import ending_with_reader, error_console
from trio_eventlog.reading import iter_events, merge_events, tail

_FIRST_STEP: Final = 1_000
"""Seqs to look back over at first, and how many times as many with each further look."""

_FACTOR: Final = 8

_POLL_INTERVAL: Final = 0.5
_NEW_LOGS_EVERY: Final = 2.0
"""Seconds after which somebody asks for logs that are new."""


async def follow(store: EventStore, query: EventQuery, *, last: int, as_json: bool) -> int:
    """Print events, and go on until the limit of the query is reached, if it has one.

    Once it has begun, it goes on also while the store fails for reasons that may pass.

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
    printer, console = Printer(as_json=as_json), error_console()
    pruned = Pruned(console)
    after = query.after_seq
    if after is None:
        recent, after = await _last_events(store, query, last)
        if recent:
            # Read once more, page by page: all of them may not fit into memory.
            after = recent[0].seq - 1

    async def begin() -> Subscription:
        following = attrs.evolve(query, after_seq=None)
        return await stack.enter_async_context(
            tail(store, following, after_seq=after, poll_interval=_POLL_INTERVAL)
        )

    async with ending_with_reader(), AsyncExitStack() as stack:
        events = await patiently(begin, console)
        while page := await patiently(partial(next_page, events, pruned), console):
            await printer.print(page)
    return 0


async def follow_all(url: str, query: EventQuery, *, last: int, as_json: bool) -> int:
    """The same of all logs of a file, database or stream, those included that are made meanwhile.

    What is found together is printed by time.
    """
    printer, console = Printer(as_json=as_json), error_console()
    async with opened_readers(url) as stores:
        cursors, too_old = await _last_of_all(stores, query, last)
    following = _Following(printer, query, cursors, too_old, query.limit, Pruned(console))
    async with ending_with_reader():
        while not following.is_over:
            async with AsyncExitStack() as stack:
                stores = await patiently(partial(_enter, stack, url), console)
                await _follow_until_new_logs(following, stores, console)
    return 0


async def _enter(stack: AsyncExitStack, url: str) -> Mapping[str, EventStore]:
    return await stack.enter_async_context(opened_readers(url))


async def _follow_until_new_logs(
    following: _Following, stores: Mapping[str, EventStore], console: Console
) -> None:
    looked_at = trio.current_time()
    while True:
        await patiently(partial(following.print_news, stores), console)
        if following.is_over:
            return
        # One pause for all logs: what has come by then is in order.
        await trio.sleep(_POLL_INTERVAL)
        if trio.current_time() >= looked_at + _NEW_LOGS_EVERY:
            looked_at = trio.current_time()
            if await patiently(partial(_has_new_logs, stores), console):
                return


async def _has_new_logs(stores: Mapping[str, EventStore]) -> bool:
    """On a connection that is there: a new one each time would be a burden to a server."""
    for store in stores.values():
        if isinstance(store, WithNeighbours):
            return not stores.keys() >= set(await store.log_names())
    # There is nobody to ask.
    await trio.lowlevel.checkpoint()
    return True


@attrs.define
class _Following:
    """How far the logs were read."""

    printer: Printer
    query: EventQuery
    cursors: dict[str, int]
    too_old: set[tuple[str, int]]
    """Logs and seqs behind the cursors which are not among the last events."""

    left: int | None
    """Events of the limit of the query, if it has one."""

    pruned: Pruned

    @property
    def is_over(self) -> bool:
        return self.left == 0

    async def print_news(self, stores: Mapping[str, EventStore]) -> None:
        """Print what has come meanwhile. An error skips nothing, and repeats nothing."""
        events = merge_events(stores, attrs.evolve(self.query, limit=None), cursors=self.cursors)
        while page := await next_merged(events, self.pruned):
            if self.too_old:
                page = [item for item in page if (item.log, item.event.seq) not in self.too_old]
            page = page[: self.left]
            await self.printer.print(page)
            self.left = None if self.left is None else self.left - len(page)
            self.cursors = events.cursors
            if self.is_over:
                return
        # They may have passed what was pruned.
        self.cursors = events.cursors


@attrs.frozen
class _Found:
    """An event, without what it holds."""

    timestamp_ms: int
    log: str
    seq: int


async def _last_of_all(
    stores: Mapping[str, EventStore], query: EventQuery, count: int
) -> tuple[dict[str, int], set[tuple[str, int]]]:
    """Where to begin in each log, and what is to be passed over there."""
    found: list[_Found] = []
    cursors: dict[str, int] = {}
    for name, store in stores.items():
        recent, cursors[name] = await _last_events(store, query, count, name)
        found += recent
    await trio.lowlevel.checkpoint()
    found.sort(key=lambda item: (item.timestamp_ms, item.log, item.seq))
    for item in found[-count:] if count else ():
        cursors[item.log] = min(cursors[item.log], item.seq - 1)
    # The times of a log need not ascend.
    older = found[:-count] if count else ()
    return cursors, {(item.log, item.seq) for item in older if item.seq > cursors[item.log]}


async def _last_events(
    store: EventStore, query: EventQuery, count: int, log: str = ""
) -> tuple[list[_Found], int]:
    """The last events that match, and the seq up to which there are no others."""
    end = await store.last_seq()
    if not count:
        return [], end
    step = max(_FIRST_STEP, count)
    while True:
        # A store can be asked for its first events and not for its last: look back further and further.
        start = max(end - step, 0)
        found: deque[_Found] = deque(maxlen=count)
        events = iter_events(store, attrs.evolve(query, after_seq=start, limit=None))
        # What is pruned there was before we came.
        while page := await next_page(events, Pruned(error_console(), before=end)):
            found += [_Found(event.timestamp_ms, log, event.seq) for event in page]
        if len(found) == count or not start:
            return list(found), max(end, found[-1].seq if found else 0)
        step *= _FACTOR
