"""Writing to standard output and to terminals."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TextIO

import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

PROGRAM: Final = "trio-eventlog"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class CommandError(Exception):
    """A command cannot go on; the message is for its user, on one line.

    Attributes:
      status: what the program exits with.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class OutputError(CommandError):
    """Standard output cannot be written to, because the disk is full for example."""


class ReaderGone(Exception):
    """Whoever read our standard output has closed it, as ``head`` does when it has seen enough."""


# --- text that came from elsewhere ----------------------------------------------------------------


def visible(text: str) -> str:
    """``text`` with every character escaped that a terminal could take for a command.

    Control characters, and also invisible ones that reorder text. Without this, an event could move the
    cursor, change the title of the window or hide a part of itself.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def visible_json(text: str) -> str:
    """JSON ``text`` of the same value that a terminal shows as it is."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _json_escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _json_escaped(char: str) -> str:
    # json leaves DEL as it is.
    return f"\\u{ord(char):04x}" if char.isascii() else json.dumps(char)[1:-1]


def time_text(timestamp_ms: int) -> str:
    """A timestamp in ISO 8601, UTC; in milliseconds, if it is beyond the year 9999."""
    try:
        moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return f"{timestamp_ms} ms"
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """``1 event``, ``2,000 events``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


# --- consoles -------------------------------------------------------------------------------------


class HelpConsole(Console):
    """Where help goes. Says it our way if nobody reads it, or if it cannot be written."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the program with status 1."""
        raise ReaderGone

    def print(self, *objects: Any, **options: Any) -> None:
        """As the console does.

        Raises:
          ReaderGone, OutputError: standard output cannot be written to.
        """
        with writing():
            super().print(*objects, **options)


def error_console() -> Console:
    """Where progress and complaints go."""
    return Console(
        stderr=True,
        force_terminal=is_terminal(sys.stderr),
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at ``stream``.

    The console would also take variables such as ``FORCE_COLOR`` for an answer; but what goes into a pipe
    must not depend on them.
    """
    return stream is not None and stream.isatty()


def complain(message: str, console: Console | None = None) -> None:
    """Print one line to standard error, whatever ``message`` holds."""
    (console or error_console()).print(Text(f"{PROGRAM}: {visible(message)}"), soft_wrap=True)


def output_console() -> Console:
    """What lays out text for standard output; :func:`write` then writes it."""
    console = Console(force_terminal=is_terminal(sys.stdout), highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # Nobody looks at the edge of a file: do not cut what would not fit into 80 columns.
        console.width = 200
    return console


def rendered(console: Console, *things: object) -> str:
    """What ``console`` would print.

    Raises:
      ReaderGone, OutputError: standard output, which it touches all the same, cannot be written to.
    """
    with writing(), console.capture() as capture:
        for thing in things:
            console.print(thing)
    return capture.get()


class FactSheet:
    """Names and what is to be said of each, for :func:`rendered`."""

    def __init__(self) -> None:
        self.table: Final = Table.grid(padding=(0, 2, 0, 0))
        self.table.add_column(style="bold", no_wrap=True)
        self.table.add_column(overflow="fold")

    def add(self, name: str, *lines: str) -> None:
        """Add a row; without lines there is none of what it names."""
        self.table.add_row(Text(name), Text("\n".join(visible(line) for line in lines) or "none"))


def gap_lines(
    gaps: int, missing: int, first_gaps: Sequence[tuple[int, int]], why: str = "missing"
) -> list[str]:
    """What there is to say of gaps in seq; nothing if there are none."""
    if not gaps:
        return []
    lines = [f"{counted(gaps, 'gap')}, {counted(missing, 'seq')} {why}"]
    lines += [f"{first}" if first == last else f"{first} to {last}" for first, last in first_gaps]
    if gaps > len(first_gaps):
        lines.append(f"and {gaps - len(first_gaps):,} more")
    return lines


# --- standard output ------------------------------------------------------------------------------


@contextmanager
def writing() -> Iterator[None]:
    """Have an error of standard output leave the block as one of ours.

    Raises:
      ReaderGone: the reader has closed it.
      OutputError: it cannot be written to.
    """
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as exc:
        msg = f"cannot write to standard output: {exc.strerror}"
        raise OutputError(msg) from exc


async def write(text: str | bytes) -> None:
    """Write to standard output, however long its reader takes. Always a checkpoint.

    Cancelled, it returns at once; a part of the text may be written.

    Raises:
      ReaderGone: the reader has closed it.
      OutputError: it cannot be written to, because the disk is full for example.
    """
    if isinstance(text, str):
        text = text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", "backslashreplace")
    # Past Python's buffers: a thread that was left behind in one of them would hold its lock, and the
    # interpreter could not end.
    await trio.to_thread.run_sync(_write_all, text, abandon_on_cancel=True)


def _write_all(text: bytes) -> None:
    rest = memoryview(text)
    with writing():
        while rest:
            rest = rest[os.write(1, rest) :]
