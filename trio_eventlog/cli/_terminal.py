"""Writing to standard output and to terminals."""

from __future__ import annotations

import errno
import json
import os
import select
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TextIO

import trio
from rich.console import Console, ConsoleDimensions
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
    """Standard output cannot be written to, because the disk is full for example.

    Attributes:
      is_closed: whether it was closed when the program began.
    """

    def __init__(self, error: OSError) -> None:
        self.is_closed = error.errno == errno.EBADF
        super().__init__(
            f"cannot write to standard output: {'it is closed' if self.is_closed else error.strerror}"
        )


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


_NARROWEST: Final = 20
_WIDEST: Final = 1000
_USUAL: Final = ConsoleDimensions(80, 25)
_FLATTEST: Final = 3


class _Console(Console):
    """A console of a size that somebody can read.

    A terminal or an environment may say 0 for "not known"; and what is laid out in one column, or in a
    billion, takes all memory.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(_environ=_environment(), **options)

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        width, height = super().size
        return ConsoleDimensions(
            min(width, _WIDEST) if width >= _NARROWEST else _USUAL.width,
            height if height >= _FLATTEST else _USUAL.height,
        )

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


def _environment() -> Mapping[str, str]:
    environment = dict(os.environ)
    for name in ("COLUMNS", "LINES"):
        value = environment.get(name, "")
        # The console would take 0 for a width, and break at other digits than these.
        if not (value.isascii() and value.isdecimal() and int(value[:9]) > 0 and len(value) <= 9):  # noqa: PLR2004 - digits
            environment.pop(name, None)
    return environment


class HelpConsole(_Console):
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
    """Where progress and complaints go. That it cannot be written to changes nothing."""
    return _Console(
        file=_StandardError(),
        force_terminal=is_terminal(sys.stderr),
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


class _StandardError:
    """Standard error, whether or not somebody is left to read it: after SIGHUP its terminal is gone."""

    encoding = property(lambda _: getattr(sys.stderr, "encoding", None))

    def isatty(self) -> bool:
        return is_terminal(sys.stderr)

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


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
    console = _Console(force_terminal=is_terminal(sys.stdout), highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # Nobody looks at the edge of a file: do not cut what would not fit into 80 columns.
        console.width = 200
    return console


def rendered(console: Console, *things: object, soft_wrap: bool = False) -> str:
    """What ``console`` would print.

    Args:
      console: which one.
      things: what.
      soft_wrap: leave long lines to the terminal.

    Raises:
      ReaderGone, OutputError: standard output, which it touches all the same, cannot be written to.
    """
    with writing(), console.capture() as capture:
        for thing in things:
            console.print(thing, soft_wrap=soft_wrap)
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
        raise OutputError(exc) from exc


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


async def write_summary(text: str) -> bool:
    """Say what was done, on standard output; or on standard error, if that is closed. A checkpoint.

    What is done is done, whether or not it can be said.

    Returns:
      False if somebody wanted to read it who now cannot.
    """
    try:
        await write(f"{text}\n")
    except ReaderGone:
        return True  # noqa: ASYNC910 - writing was a checkpoint
    except OutputError as exc:
        if not exc.is_closed:
            complain(str(exc))
        complain(text)
        return exc.is_closed  # noqa: ASYNC910 - as above
    return True


@asynccontextmanager
async def ending_with_reader() -> AsyncIterator[None]:
    """Watch standard output for the length of the block, which is left once nobody reads it any more.

    For a command that may wait for ever before it has something to write. Owns a nursery: what the block
    raises comes out in a group.

    Raises:
      ReaderGone: the reader has closed it.
    """
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        # Left behind at the end: there is nothing that would wake it.
        if is_gone := await trio.to_thread.run_sync(_wait_until_nobody_reads, abandon_on_cancel=True):
            nursery.cancel_scope.cancel(reason="nobody reads standard output")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield
        nursery.cancel_scope.cancel(reason="the block has ended")
    if is_gone:
        raise ReaderGone


def _wait_until_nobody_reads() -> bool:
    if not hasattr(select, "poll"):
        return False  # Windows: the next write will tell
    watched = select.poll()
    # What ends the waiting is reported without being asked for.
    watched.register(1, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in watched.poll())
