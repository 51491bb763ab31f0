"""``trio-eventlog query``: events of a log, as a table or as JSON lines."""

from __future__ import annotations

import json
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trio_eventlog import AgentEvent, EventQuery, EventStore, PersistedEvent, to_json
from trio_eventlog.cli._pages import PAGE, Pages
from trio_eventlog.cli._terminal import (
    counted,
    output_console,
    rendered,
    time_text,
    visible,
    visible_json,
    write,
)

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
    console = output_console()
    as_json = as_json or not console.is_terminal
    pages, found = Pages(store, query, _PAGE), 0
    while page := await pages.read():
        if as_json:
            await write(json_lines(page, console))
        else:
            await write(rendered(console, _table(page, is_first=not found)))
        found += len(page)
    if not as_json:
        await write(rendered(console, Text(counted(found, "event"), style="dim")))
    return 0


def json_lines(page: list[PersistedEvent], console: Console) -> bytes:
    """Events as JSON lines; on a terminal, with what it could take for a command escaped."""
    lines = b"".join(to_json(event) + b"\n" for event in page)
    if not console.is_terminal:
        return lines
    # Only at newlines: splitlines() knows more ends of a line, and JSON lets them stand in a string.
    return "\n".join(visible_json(line) for line in lines.decode().split("\n")).encode()


def _table(page: list[PersistedEvent], *, is_first: bool) -> Table:
    # Of a fixed width for what has one, and shares of the rest: pages then line up with each other.
    table = Table(box=None, expand=True, show_header=is_first, pad_edge=False, header_style="bold")
    table.add_column("seq", justify="right", min_width=8, no_wrap=True)
    table.add_column("time (UTC)", min_width=24, no_wrap=True)
    for name, share in (("member", 2), ("type", 3), ("payload", 6)):
        table.add_column(name, ratio=share, no_wrap=True, overflow="ellipsis")
    for event in page:
        inner = event.event
        # Text, not str: square brackets in an event are no markup.
        member = (
            Text(visible(inner.agent_id))
            if isinstance(inner, AgentEvent)
            else Text(f"({visible(inner.module)})", style="dim")
        )
        table.add_row(
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
