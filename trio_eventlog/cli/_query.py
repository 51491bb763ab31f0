"""``trio-eventlog query``: events of a log, as a table or as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Final

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from trio_eventlog import AgentEvent, EventQuery, PersistedEvent, to_json
from trio_eventlog.abc import EventStore
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
from trio_eventlog.cli._reading import (
    PAGE_SIZE,
    PruneReporter,
    bounded,
    next_page,
    prune_reporter_for,
)
from trio_eventlog.cli._terminal import (
    CommandError,
    counted,
    error_console,
    is_terminal,
    rendered,
    time_text,
    visible,
    visible_json,
    write,
)
from trio_eventlog.reading import LogEvent, iter_events, latest_events, merge_events

EXAMPLES: Final = """
trio-eventlog query --store sqlite:events.db --run-id r-1 --limit 20
trio-eventlog query --store sqlite:events.db --since 2026-07-14 --event-type run_failed --event-type run_lost
trio-eventlog query --store sqlite:events.db --json | jq .event.payload
trio-eventlog query --store sqlite:events.db --latest 5 --event-type run_failed
trio-eventlog query --store sqlite:workers.db --all-logs --limit 100
"""

_PAGE_SIZE: Final = PAGE_SIZE

_MAX_PAYLOAD: Final = 1000
"""Characters of a payload in a table, where most of them are cut off anyway."""


async def query(
    *,
    store: StoreUrl,
    filters: Filters = Filters(),  # noqa: B008 - immutable
    latest: Annotated[Number, Parameter(show_default=False)] = None,
    all_logs: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Print events in order of seq, as a table on a terminal and as JSON lines otherwise.

    An event must match all filters that are given; strings are compared exactly. Another process may write to
    the log at the same time.

    Args:
      store: The log.
      filters: Which events.
      latest: Print this many of the last events, newest first; not with `--limit` or `--all-logs`.
      all_logs: Read all logs of the file, database or stream together, ordered by time; `--limit` applies to
        all of them together.
      as_json: Print JSON lines on a terminal, too.
    """
    wanted = filters.query()
    if latest is not None:
        for option, is_given in (("--limit", wanted.limit is not None), ("--all-logs", all_logs)):
            if is_given:
                raise CommandError(f"--latest, {option}: only one of them can be given", USAGE_STATUS)
        async with opened_store(store, read_only=True) as opened:
            return await print_latest(opened, wanted, latest, as_json=as_json)
    if all_logs:
        require_no_cursor(wanted)
        return await print_merged(store, wanted, as_json=as_json)
    async with opened_store(store, read_only=True) as opened:
        return await print_events(opened, wanted, as_json=as_json)


def require_no_cursor(query: EventQuery) -> None:
    """Refuse ``--after-seq`` with ``--all-logs``."""
    if query.after_seq is not None:
        raise CommandError(
            "--after-seq: cannot be combined with --all-logs, since every log has its own seqs", USAGE_STATUS
        )


async def print_events(store: EventStore, query: EventQuery, *, as_json: bool) -> int:
    """Print the events that match; return the exit status.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: standard output cannot be written to.
    """
    printer = Printer(as_json=as_json)
    pruned = await prune_reporter_for(store, query.after_seq or 0, error_console())
    events = iter_events(store, bounded(query), page_size=_PAGE_SIZE)
    while page := await next_page(events, pruned):
        await printer.print(page)
    await printer.print_count()
    return 1 if pruned.has_reported else 0


async def print_latest(store: EventStore, query: EventQuery, count: int, *, as_json: bool) -> int:
    """Print the last events that match, newest first; return the exit status.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: standard output cannot be written to.
    """
    printer = Printer(as_json=as_json)
    before_seq: int | None = None
    while count:
        page = await latest_events(store, query, before_seq=before_seq, limit=min(count, _PAGE_SIZE))
        await printer.print(page)
        if len(page) < min(count, _PAGE_SIZE):
            break
        count -= len(page)
        before_seq = page[-1].seq
    await printer.print_count()
    return 0


async def print_merged(url: str, query: EventQuery, *, as_json: bool) -> int:
    """Print the events of all logs of a file, database or stream by time; return the exit status."""
    printer = Printer(as_json=as_json)
    async with opened_readers(url) as stores:
        # Each log is read from its first event, so what was pruned earlier does not matter.
        pruned = PruneReporter(error_console())
        events = merge_events(stores, query)
        while page := await next_page(events, pruned):
            await printer.print(page)
    await printer.print_count()
    return 1 if pruned.has_reported else 0


class Printer:
    """Prints events as they come: a table on a terminal, JSON lines otherwise.

    Args:
      as_json: print JSON lines on a terminal, too.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json or not is_terminal(sys.stdout)
        self._printed = 0

    async def print(self, page: Sequence[PersistedEvent | LogEvent]) -> None:
        """Print more events. A checkpoint.

        Raises:
          ReaderGone, CommandError: standard output cannot be written to.
        """
        if self._as_json:
            await write(event_lines(page))
        else:
            await write(rendered(_table(page, is_first=not self._printed)) if page else "")
        self._printed += len(page)

    async def print_count(self) -> None:
        """Print the number of events below a table. A checkpoint.

        Raises:
          ReaderGone, CommandError: standard output cannot be written to.
        """
        text = Text(counted(self._printed, "event"), style="dim")
        await write("" if self._as_json else rendered(text))


def event_lines(page: Sequence[PersistedEvent | LogEvent]) -> bytes:
    """Events as JSON lines that are safe to print on standard output."""
    lines = b"".join(_event_json(item) + b"\n" for item in page)
    if not is_terminal(sys.stdout):
        return lines
    # Not splitlines(): it also splits at characters that JSON allows in a string.
    return "\n".join(visible_json(line) for line in lines.decode().split("\n")).encode()


def _event_json(item: PersistedEvent | LogEvent) -> bytes:
    if isinstance(item, PersistedEvent):
        return to_json(item)
    # The same as without the log, plus one field.
    return b'{"log":' + json.dumps(item.log, ensure_ascii=False).encode() + b"," + to_json(item.event)[1:]


def _table(page: Sequence[PersistedEvent | LogEvent], *, is_first: bool) -> Table:
    # Fixed widths where possible and shares of the rest, so that the columns of all pages line up.
    table = Table(box=None, expand=True, show_header=is_first, pad_edge=False, header_style="bold")
    shares = [("member", 2), ("type", 3), ("payload", 6)]
    if page and isinstance(page[0], LogEvent):
        # With a ratio, the width is a minimum. Names often differ at the end, as worker-17 does.
        table.add_column("log", ratio=2, width=10, no_wrap=True, overflow="ellipsis")
    table.add_column("seq", justify="right", min_width=8, no_wrap=True)
    table.add_column("time (UTC)", min_width=24, no_wrap=True)
    for name, share in shares:
        table.add_column(name, ratio=share, no_wrap=True, overflow="ellipsis")
    for item in page:
        event = item if isinstance(item, PersistedEvent) else item.event
        inner = event.event
        # Text, so that square brackets in an event are not markup.
        member = (
            Text(visible(inner.agent_id))
            if isinstance(inner, AgentEvent)
            else Text(f"({visible(inner.module)})", style="dim")
        )
        table.add_row(
            *((Text(visible(item.log)),) if isinstance(item, LogEvent) else ()),
            Text(str(event.seq)),
            Text(time_text(event.timestamp_ms)),
            member,
            Text(visible(inner.event_type)),
            Text(_payload_text(event)),
        )
    return table


def _payload_text(event: PersistedEvent) -> str:
    payload = event.event.payload
    if payload is None:
        return ""
    return visible_json(json.dumps(payload, ensure_ascii=False)[:_MAX_PAYLOAD])
