"""Text that is safe to print, and the two streams that it is printed to."""

from __future__ import annotations

import errno
import io
import json
import os
import select
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TextIO

import trio
from rich.console import Console, ConsoleDimensions, RenderableType
from rich.text import Text

PROGRAM: Final = "trio-eventlog"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class CommandError(Exception):
    """A command cannot continue; the message is one line for the user.

    Attributes:
      status: the exit status of the program.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class OutputError(CommandError):
    """Standard output cannot be written to, for example because the disk is full.

    Attributes:
      is_closed: whether it was already closed when the program started.
    """

    def __init__(self, error: OSError) -> None:
        self.is_closed = error.errno == errno.EBADF
        super().__init__(
            f"cannot write to standard output: {'it is closed' if self.is_closed else error.strerror}"
        )


class ReaderGone(Exception):
    """The program that read our standard output has closed it, as ``head`` does once it has seen enough."""


# --- text from outside ----------------------------------------------------------------------------


def visible(text: str) -> str:
    """``text`` with every character escaped that a terminal could interpret as a command.

    These are control characters and invisible characters that reorder text. Without this, an event could
    move the cursor, change the title of the window, or hide part of itself.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def visible_lines(text: str) -> str:
    """``text`` as :func:`visible` makes it, with its ends of lines."""
    return "\n".join(map(visible, text.split("\n")))


def visible_json(text: str) -> str:
    """JSON ``text`` with the same value, safe to print on a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _json_escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _json_escaped(char: str) -> str:
    # json does not escape DEL.
    return f"\\u{ord(char):04x}" if char.isascii() else json.dumps(char)[1:-1]


def json_line(value: object) -> bytes:
    """``value`` as one line of JSON for standard output."""
    text = json.dumps(value, ensure_ascii=False)
    # UTF-8 can carry everything but a lone surrogate, which the path of a file may contain.
    return (visible_json(text) if is_terminal(sys.stdout) else text).encode(errors="backslashreplace") + b"\n"


def time_text(timestamp_ms: int) -> str:
    """A timestamp in ISO 8601, UTC; in milliseconds if it lies beyond the year 9999."""
    try:
        moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return f"{timestamp_ms} ms"
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def counted(count: int, singular: str) -> str:
    """``1 event``, ``2,000 events``."""
    return f"{count:,} {singular if count == 1 else singular + 's'}"


# --- consoles -------------------------------------------------------------------------------------

_DEFAULT_SIZE: Final = os.terminal_size((80, 25))
_MIN_WIDTH: Final = 20
_MAX_WIDTH: Final = 1000
_MIN_HEIGHT: Final = 3

_FILE_WIDTH: Final = 200
"""Columns of a table in a file or a pipe, where nothing should be cut off at 80."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal.

    Rich would also accept variables such as ``FORCE_COLOR``; but what goes into a pipe must not depend on
    them.
    """
    return stream is not None and stream.isatty()


def terminal_size(stream: TextIO) -> ConsoleDimensions:
    """A size that text can be laid out in.

    A terminal or the environment may say 0 for "unknown"; and a layout of one column, or of a billion, would
    take all memory.
    """
    try:
        fallback = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        fallback = _DEFAULT_SIZE
    width, height = shutil.get_terminal_size(fallback)
    return ConsoleDimensions(
        min(width, _MAX_WIDTH) if width >= _MIN_WIDTH else _DEFAULT_SIZE.columns,
        height if height >= _MIN_HEIGHT else _DEFAULT_SIZE.lines,
    )


def console_for(stream: TextIO, **options: Any) -> Console:
    """A console that prints to ``stream``; ``options`` are those of :class:`rich.console.Console`."""
    width, height = terminal_size(stream)
    settings: dict[str, Any] = {
        "file": stream,
        "force_terminal": is_terminal(stream),
        "width": width,
        "height": height,
        **options,
    }
    return Console(**settings, highlight=False, markup=False, emoji=False)


def error_console() -> Console:
    """A console for progress and messages. It ignores that standard error cannot be written to."""
    return console_for(sys.stderr, file=_StandardError(), soft_wrap=True)


class _StandardError:
    """Standard error, whether or not it can still be written to: after SIGHUP its terminal is gone."""

    encoding = property(lambda _: getattr(sys.stderr, "encoding", None))

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def complain(message: str, console: Console | None = None) -> None:
    """Print one line to standard error, whatever ``message`` contains."""
    (console or error_console()).print(Text(f"{PROGRAM}: {visible(message)}"), soft_wrap=True)


def layout_console(**options: Any) -> Console:
    """A console whose ``capture()`` gives text for standard output. It writes nothing by itself."""
    file = io.TextIOWrapper(io.BytesIO(), getattr(sys.stdout, "encoding", None) or "utf-8")
    return console_for(sys.stdout, file=file, **options)


def layout_width() -> int:
    """Columns of what is printed to standard output."""
    return terminal_size(sys.stdout).width if is_terminal(sys.stdout) else _FILE_WIDTH


def rendered(*things: RenderableType, soft_wrap: bool = False) -> str:
    """Text for standard output.

    Args:
      things: what to lay out.
      soft_wrap: let the terminal wrap long lines.
    """
    console = layout_console(width=layout_width())
    with console.capture() as capture:
        for thing in things:
            console.print(thing, soft_wrap=soft_wrap)
    return capture.get()


# --- standard output ------------------------------------------------------------------------------


async def write(text: str | bytes) -> None:
    """Write to standard output, however long its reader takes. Always a checkpoint.

    Returns at once when cancelled; part of the text may have been written.

    Raises:
      ReaderGone: the reader has closed it.
      OutputError: it cannot be written to, for example because the disk is full.
    """
    # Not through Python's buffers: an abandoned thread in one of them would hold its lock, and the
    # interpreter could not exit.
    await trio.to_thread.run_sync(write_now, text, abandon_on_cancel=True)


def write_now(text: str | bytes) -> None:
    """Write to standard output. Blocks.

    Raises:
      ReaderGone, OutputError: as for :func:`write`.
    """
    if isinstance(text, str):
        text = text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", "backslashreplace")
    rest = memoryview(text)
    try:
        while rest:
            rest = rest[os.write(1, rest) :]
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as exc:
        raise OutputError(exc) from exc


async def write_summary(text: str) -> bool:
    """Print what was done to standard output, or to standard error if that is closed. A checkpoint.

    The work is done, whether or not it can be reported.

    Returns:
      False if standard output was open and could not be written to.
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
    """Cancel the block once standard output is no longer read.

    For a command that may wait indefinitely before it has something to write. Owns a nursery: an exception
    from the block comes out in a group.

    Raises:
      ReaderGone: the reader has closed it.
    """
    is_gone = False
    # A thread that waits for the reader cannot be cancelled. It ends once the second one is closed.
    ended, ends = os.pipe()

    async def watch() -> None:
        nonlocal is_gone
        if is_gone := await trio.to_thread.run_sync(_wait_until_reader_gone, ended):
            nursery.cancel_scope.cancel(reason="standard output is no longer read")

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                yield
            finally:
                os.close(ends)
            nursery.cancel_scope.cancel(reason="the block has ended")
    finally:
        os.close(ended)
    if is_gone:
        raise ReaderGone


def _wait_until_reader_gone(ended: int) -> bool:
    """Wait until standard output is not read any more, or until the other end of a pipe is closed: False."""
    if not hasattr(select, "poll"):
        return False  # Windows: the next write will tell
    watched = select.poll()
    # The end is reported without being asked for.
    watched.register(1, 0)
    watched.register(ended, 0)
    polled = dict(watched.poll())
    return ended not in polled and bool(polled[1] & (select.POLLERR | select.POLLHUP))
