"""``trio-eventlog stats``: what a log holds, in numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

import attrs
from rich.table import Table

from trio_eventlog import EventStore
from trio_eventlog.abc import StoreDescription
from trio_eventlog.cli._options import WithNeighbours
from trio_eventlog.cli._terminal import (
    CommandError,
    FactSheet,
    gap_lines,
    output_console,
    rendered,
    time_text,
    visible,
    visible_json,
    write,
)

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")


@runtime_checkable
class _Describable(Protocol):
    async def describe(self, *, top: int = 10) -> StoreDescription: ...


async def print_statistics(store: EventStore, url: str, *, top: int, as_json: bool) -> int:
    """Print what a log holds.

    Args:
      store: the log.
      url: its URL, without secrets.
      top: how many event types and members to name.
      as_json: print one JSON object.

    Returns:
      The exit status.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: standard output cannot be written to, or the store cannot describe itself.
    """
    if not isinstance(store, _Describable):
        msg = f"{url}: a store of this kind cannot describe itself"
        raise CommandError(msg)
    description = await store.describe(top=top)
    logs = await store.log_names() if isinstance(store, WithNeighbours) else []
    console = output_console()
    if as_json:
        text = json.dumps({"store": url, "logs": logs, **attrs.asdict(description)}, ensure_ascii=False)
        # A lone surrogate in the path of the file is the one thing that UTF-8 cannot carry.
        line = (visible_json(text) if console.is_terminal else text).encode(errors="backslashreplace")
        await write(line + b"\n")
    else:
        await write(rendered(console, _table(url, logs, description)))
    return 0


def _table(url: str, logs: Sequence[str], description: StoreDescription) -> Table:
    sheet = FactSheet()
    add = sheet.add
    add("store", url)
    if logs:
        add("logs", *logs)
    add("events", f"{description.events:,}")
    if description.first_seq is not None and description.last_seq is not None:
        add("seq", f"{description.first_seq} to {description.last_seq}")
    add("highest seq ever", str(description.highest_seq))
    if description.first_timestamp_ms is not None and description.last_timestamp_ms is not None:
        first, last = description.first_timestamp_ms, description.last_timestamp_ms
        add("time (UTC)", f"{time_text(first)} to {time_text(last)}")
    add("gaps in seq", *gap_lines(description.gaps, description.missing, description.first_gaps))
    add("event types", *_ranking(description.event_types, description.distinct_event_types))
    add("members", *_ranking(description.members, description.distinct_members))
    if description.size_bytes is not None:
        add("size", f"{_size(description.size_bytes)} ({description.size_bytes:,} bytes)")
    if description.wal_bytes:
        add("of it write-ahead log", f"{_size(description.wal_bytes)} ({description.wal_bytes:,} bytes)")
    return sheet.table


def _ranking(counts: Sequence[tuple[str, int]], distinct: int) -> list[str]:
    width = max((len(f"{count:,}") for _, count in counts), default=0)
    lines = [f"{count:>{width},}  {visible(name)}" for name, count in counts]
    if distinct > len(counts):
        lines.append(f"and {distinct - len(counts):,} more")
    return lines


def _size(size: float) -> str:
    unit = "bytes"
    for larger in _UNITS:
        if size < 1024:  # noqa: PLR2004 - the factor from one unit to the next
            break
        size, unit = size / 1024, larger
    return f"{size:,.1f} {unit}"
