"""``trio-eventlog query``: events of a log, as a table or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trio_eventlog import (
    AgentEvent,
    EventQuery,
    EventStore,
    PersistedEvent,
    to_json,
)
from trio_eventlog.cli._options import opened_readers
from trio_eventlog.cli._pages import PAGE, Pruned, bounded, next_merged, next_page, pruned_for
from trio_eventlog.cli._terminal import (
    counted,
    error_console,
    output_console,
    rendered,
    time_text,
    visible,
    visible_json,
    write,
)
from trio_eventlog.reading import LogEvent, iter_events, merge_events

_PAGE: Final = PAGE

_MOST_SHOWN: Final = 1000
"""Characters of a payload in a table, most of which the table cuts off."""


async def print_events(store: EventStore, query: EventQuery, *, as_json: bool) -> int:
    """Print the events that match.

    Args:
      store: where they are.
      query: which.
      as_json: print JSON lines also on a terminal.

    Returns:
      The exit status.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: standard output cannot be written to.
    """
    printer = Printer(as_json=as_json)
    pruned = await pruned_for(store, query.after_seq or 0, error_console())
    events = iter_events(store, bounded(query), page_size=_PAGE)
    while page := await next_page(events, pruned):
        await printer.print(page)
    await printer.print_count()
    return 1 if pruned.is_told else 0


async def print_merged(url: str, query: EventQuery, *, as_json: bool) -> int:
    """The same of all logs of a file, database or stream, by time."""
    printer = Printer(as_json=as_json)
    async with opened_readers(url) as stores:
        # From the first event of each: what was pruned before does not matter, and little is meanwhile.
        pruned = Pruned(error_console())
        events = merge_events(stores, query)
        while page := await next_merged(events, pruned):
            await printer.print(page)
    await printer.print_count()
    return 1 if pruned.is_told else 0


class Printer:
    """Prints events as they come: a table on a terminal, JSON lines otherwise.

    Args:
      as_json: print JSON lines also on a terminal.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._console = output_console()
        self._as_json = as_json or not self._console.is_terminal
        self._printed = 0

    async def print(self, page: Sequence[PersistedEvent | LogEvent]) -> None:
        """Print more of them. A checkpoint.

        Raises:
          ReaderGone, CommandError: standard output cannot be written to.
        """
        if self._as_json:
            await write(json_lines(page, self._console))
        else:
            table = _table(page, is_first=not self._printed)
            await write(rendered(self._console, table) if page else "")
        self._printed += len(page)

    async def print_count(self) -> None:
        """Say how many they were, in a table. A checkpoint.

        Raises:
          ReaderGone, CommandError: as above.
        """
        text = Text(counted(self._printed, "event"), style="dim")
        await write("" if self._as_json else rendered(self._console, text))


def json_lines(page: Sequence[PersistedEvent | LogEvent], console: Console) -> bytes:
    """Events as JSON lines; on a terminal, with what it could take for a command escaped."""
    lines = b"".join(_json_line(item) + b"\n" for item in page)
    if not console.is_terminal:
        return lines
    # Only at newlines: splitlines() knows more ends of a line, and JSON lets them stand in a string.
    return "\n".join(visible_json(line) for line in lines.decode().split("\n")).encode()


def _json_line(item: PersistedEvent | LogEvent) -> bytes:
    if isinstance(item, PersistedEvent):
        return to_json(item)
    # The event as ever, with one field more.
    return b'{"log":' + json.dumps(item.log, ensure_ascii=False).encode() + b"," + to_json(item.event)[1:]


def _table(page: Sequence[PersistedEvent | LogEvent], *, is_first: bool) -> Table:
    # Of a fixed width for what has one, and shares of the rest: pages then line up with each other.
    table = Table(box=None, expand=True, show_header=is_first, pad_edge=False, header_style="bold")
    shares = [("member", 2), ("type", 3), ("payload", 6)]
    if page and isinstance(page[0], LogEvent):
        # Beside a ratio, a width is the least. Names differ at their end, as worker-17 does.
        table.add_column("log", ratio=2, width=10, no_wrap=True, overflow="ellipsis")
    table.add_column("seq", justify="right", min_width=8, no_wrap=True)
    table.add_column("time (UTC)", min_width=24, no_wrap=True)
    for name, share in shares:
        table.add_column(name, ratio=share, no_wrap=True, overflow="ellipsis")
    for item in page:
        event = item if isinstance(item, PersistedEvent) else item.event
        inner = event.event
        # Text, not str: square brackets in an event are no markup.
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
    # No terminal is wider than the part that is escaped.
    return visible_json(json.dumps(payload, ensure_ascii=False)[:_MOST_SHOWN])
