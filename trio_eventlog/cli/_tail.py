"""``trio-eventlog tail``: the last events of a log, followed by new ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console

from trio_eventlog import EventQuery, Subscription
from trio_eventlog.abc import EventStore, MultiLogStore
from trio_eventlog.cli._options import (
    USAGE_STATUS,
    AsJson,
    Filters,
    Flag,
    Number,
    StoreUrl,
    opened_readers,
    opened_store,
)
from trio_eventlog.cli._query import Printer, require_no_cursor
from trio_eventlog.cli._reading import PruneReporter, next_page
from trio_eventlog.cli._running import retrying
from trio_eventlog.cli._terminal import CommandError, ending_with_reader, error_console
from trio_eventlog.reading import iter_events, merge_events
from trio_eventlog.reading import tail as subscribe

EXAMPLES: Final = """
trio-eventlog tail --store sqlite:events.db --run-id r-1
trio-eventlog tail --store sqlite:events.db --last 0 --json | jq .event.payload
trio-eventlog tail --store sqlite:workers.db --all-logs
"""

_DEFAULT_LAST: Final = 10

_FIRST_STEP: Final = 1_000
"""How many seqs to look back at first, and the factor by which that grows with each further attempt."""

_FACTOR: Final = 8

_POLL_INTERVAL: Final = 0.5
_NEW_LOGS_INTERVAL: Final = 2.0
"""Seconds between two checks for new logs."""


async def tail(
    *,
    store: StoreUrl,
    filters: Filters = Filters(),  # noqa: B008 - immutable
    last: Annotated[Number, Parameter(show_default=False)] = None,
    all_logs: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Print the last events, then new ones as they arrive, until Ctrl-C.

    Every event is printed once and in order, within half a second after it was stored. A store that fails
    temporarily is retried. An event must match all filters that are given; strings are compared exactly.

    Args:
      store: The log.
      filters: Which events; with `--limit`, the command exits after this many.
      last: Number of existing events to print: 10, unless `--after-seq` says where to start.
      all_logs: Follow all logs of the file, database or stream, including new ones; events that are found
        together are printed in order of time.
      as_json: Print JSON lines on a terminal, too.
    """
    query = filters.query()
    if last is not None and query.after_seq is not None:
        raise CommandError("--last, --after-seq: only one of them can be given", USAGE_STATUS)
    count = _DEFAULT_LAST if last is None else last
    if all_logs:
        require_no_cursor(query)
        return await follow_all(store, query, last=count, as_json=as_json)
    async with opened_store(store, read_only=True) as opened:
        return await follow(opened, query, last=count, as_json=as_json)


async def follow(store: EventStore, query: EventQuery, *, last: int, as_json: bool) -> int:
    """Print events until the limit of the query is reached, if it has one; return the exit status.

    Once the first events are printed, a store that fails temporarily is retried.

    Args:
      store: the log.
      query: which events, starting after its ``after_seq`` if it has one.
      last: how many existing events to print if it has none.
      as_json: print JSON lines on a terminal, too.

    Raises:
      StoreError: the store failed.
      StaleCursor: the log does not reach as far as ``after_seq``.
      ReaderGone, CommandError: standard output cannot be written to.
    """
    printer, console = Printer(as_json=as_json), error_console()
    pruned = PruneReporter(console)
    after = query.after_seq
    if after is None:
        recent, after = await _last_events(store, query, last)
        if recent:
            # Read again, page by page: all of them may not fit into memory.
            after = recent[0].seq - 1

    async def begin() -> Subscription:
        following = attrs.evolve(query, after_seq=None)
        return await stack.enter_async_context(
            subscribe(store, following, after_seq=after, poll_interval=_POLL_INTERVAL)
        )

    async with ending_with_reader(), AsyncExitStack() as stack:
        events = await retrying(begin, console)
        while page := await retrying(partial(next_page, events, pruned), console):
            await printer.print(page)
    return 0


async def follow_all(url: str, query: EventQuery, *, last: int, as_json: bool) -> int:
    """Print the events of all logs of a file, database or stream, including new logs.

    Events that are found together are printed in order of time.
    """
    printer, console = Printer(as_json=as_json), error_console()
    async with opened_readers(url) as stores:
        cursors, too_old = await _last_of_all(stores, query, last)
    following = _Following(printer, query, cursors, too_old, query.limit, PruneReporter(console))
    async with ending_with_reader():
        while not following.is_over:
            async with AsyncExitStack() as stack:
                stores = await retrying(partial(_enter, stack, url), console)
                await _follow_until_new_logs(following, stores, console)
    return 0


async def _enter(stack: AsyncExitStack, url: str) -> Mapping[str, EventStore]:
    return await stack.enter_async_context(opened_readers(url))


async def _follow_until_new_logs(
    following: _Following, stores: Mapping[str, EventStore], console: Console
) -> None:
    checked_at = trio.current_time()
    while True:
        await retrying(partial(following.print_news, stores), console)
        if following.is_over:
            return
        # One pause for all logs: the events that arrive during it are merged.
        await trio.sleep(_POLL_INTERVAL)
        if trio.current_time() >= checked_at + _NEW_LOGS_INTERVAL:
            checked_at = trio.current_time()
            if await retrying(partial(_has_new_logs, stores), console):
                return


async def _has_new_logs(stores: Mapping[str, EventStore]) -> bool:
    # Asked on a connection that is open: a new one each time would be a burden on a server.
    for store in stores.values():
        if isinstance(store, MultiLogStore):
            return not stores.keys() >= set(await store.log_names())
    return True


@attrs.define
class _Following:
    """How far the logs have been read."""

    printer: Printer
    query: EventQuery
    cursors: dict[str, int]
    too_old: set[tuple[str, int]]
    """Logs and seqs after the cursors that are not among the last events."""

    left: int | None
    """How many more events to print, if the query has a limit."""

    pruned: PruneReporter

    @property
    def is_over(self) -> bool:
        return self.left == 0

    async def print_news(self, stores: Mapping[str, EventStore]) -> None:
        """Print the events that have arrived. After an error, the next call continues without a gap."""
        events = merge_events(stores, attrs.evolve(self.query, limit=None), cursors=self.cursors)
        while page := await next_page(events, self.pruned):
            if self.too_old:
                page = [item for item in page if (item.log, item.event.seq) not in self.too_old]
            page = page[: self.left]
            await self.printer.print(page)
            self.left = None if self.left is None else self.left - len(page)
            self.cursors = events.cursors
            if self.is_over:
                return
        # They may have moved past events that were pruned.
        self.cursors = events.cursors


@attrs.frozen
class _Found:
    """An event without its content."""

    timestamp_ms: int
    log: str
    seq: int


async def _last_of_all(
    stores: Mapping[str, EventStore], query: EventQuery, count: int
) -> tuple[dict[str, int], set[tuple[str, int]]]:
    """Where to start in each log, and the events to skip there."""
    found: list[_Found] = []
    cursors: dict[str, int] = {}
    for name, store in stores.items():
        recent, cursors[name] = await _last_events(store, query, count, name)
        found += recent
    found.sort(key=lambda item: (item.timestamp_ms, item.log, item.seq))
    for item in found[-count:] if count else ():
        cursors[item.log] = min(cursors[item.log], item.seq - 1)
    # The times in a log need not ascend.
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
        # A store returns the lowest seqs first, so look back further and further.
        start = max(end - step, 0)
        found: deque[_Found] = deque(maxlen=count)
        events = iter_events(store, attrs.evolve(query, after_seq=start, limit=None))
        # What is pruned there was pruned before the command started.
        while page := await next_page(events, PruneReporter(error_console(), ignored_through=end)):
            found += [_Found(event.timestamp_ms, log, event.seq) for event in page]
        if len(found) == count or not start:
            return list(found), max(end, found[-1].seq if found else 0)
        step *= _FACTOR
