"""Files of envelopes, or of events as stores keep them, one JSON text a line, plain or gzipped.

Everything here blocks, and is called in a thread, a block of lines at a time: a thread hop for each line
would cost more than the line.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from types import TracebackType
from typing import Final, Self

import attrs
import msgspec

from trio_eventlog import CodecError, EventEnvelope, PersistedEvent, from_json

STDIN: Final = "-"

MAX_LINE: Final = 16 * 2**20
"""Most bytes of a line. A longer one is skipped, not loaded."""

_BLOCK: Final = 2**18
"""Bytes, once decompressed, that are read and decoded in one go. Takes some 20 ms."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@attrs.frozen
class Line:
    """A line that is not blank."""

    number: int
    """Counted from 1."""

    size: int
    """Bytes, without the end of line; at most :data:`MAX_LINE` even if it was longer."""

    content: EventEnvelope | str
    """What it says, or why it cannot be read."""


@attrs.frozen
class Block:
    """Some lines of a file."""

    lines: list[Line]

    position: int
    """Bytes of the file read so far, as they stand on the disk."""

    problem: str | None = None
    """Why the file cannot be read beyond these lines, if it cannot."""

    problem_line: int | None = None
    """The line it happened in, if reading had begun."""

    is_last: bool = False
    """Whether the file ends here."""


class _RawFile(io.RawIOBase):
    """The bytes as they come, counted, after a look at the first of them.

    Without a buffer: a thread that was left behind while it waits for a pipe must not hold a lock that
    the interpreter wants when it ends.
    """

    def __init__(self, file: io.FileIO) -> None:
        super().__init__()
        self._file = file
        self._head = b""
        self.position = 0
        while len(self._head) < len(_GZIP_MAGIC) and (more := self._file.read(1)):
            self._head += more
        self.is_gzip = self._head == _GZIP_MAGIC
        self.is_empty = not self._head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        if self._head:
            count = min(len(buffer), len(self._head))
            buffer[:count], self._head = self._head[:count], self._head[count:]
        else:
            count = self._file.readinto(buffer) or 0
        self.position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class EnvelopeFile:
    """A file of envelopes, or standard input. Opened when the first block is read.

    Args:
      name: path of the file; ``-`` for standard input.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._raw: _RawFile | None = None
        self._stream: io.RawIOBase | gzip.GzipFile | None = None
        self._number = 0
        # The beginning of a line whose end has not been read.
        self._partial: list[bytes] = []
        self._partial_size = 0
        self._is_reading = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # If a thread still reads, because the reader was cancelled and the thread was left behind, then
        # closing would pull the file away under it.
        if self._raw is not None and not self._is_reading:
            self._raw.close()

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return "standard input" if self.name == STDIN else self.name

    def size(self) -> int | None:
        """Its size in bytes, as it stands on the disk; None if that says nothing about what will be read."""
        if self.name == STDIN or not os.path.isfile(self.name):  # noqa: PTH113 - str all along
            return None
        return os.stat(self.name).st_size  # noqa: PTH116 - str all along

    def read_block(self) -> Block:
        """Read on. Blocks; once it has said that a block is the last, it must not be called again."""
        self._is_reading = True
        try:
            return self._read_block()
        finally:
            self._is_reading = False

    def _read_block(self) -> Block:
        lines: list[Line] = []
        problem: str | None = None
        try:
            data = self._read()
        except OSError as exc:
            # gzip.BadGzipFile is one, and has no strerror.
            problem = exc.strerror or f"damaged gzip data: {exc}"
        except EOFError:
            problem = "the gzip data ends in the middle: the file is truncated"
        except zlib.error as exc:
            problem = f"damaged gzip data: {exc}"
        else:
            self._split(data, lines)
            return Block(lines, self._position, is_last=not data)
        # What was read of the line before it broke off is part of the problem, not a line.
        line = None if self._raw is None else self._number + 1
        return Block(lines, self._position, problem, line, is_last=True)

    @property
    def _position(self) -> int:
        return 0 if self._raw is None else self._raw.position

    def _read(self) -> bytes:
        if self._raw is None or self._stream is None:
            self._raw = _RawFile(io.FileIO(0, closefd=False) if self.name == STDIN else io.FileIO(self.name))
            self._stream = gzip.GzipFile(fileobj=self._raw) if self._raw.is_gzip else self._raw
            if self._raw.is_empty and self.name.endswith(".gz"):
                raise EOFError
        if isinstance(self._stream, gzip.GzipFile):
            # Bounded in what comes out, however much a few bytes may expand to.
            return self._stream.read1(_BLOCK)
        return self._stream.read(_BLOCK) or b""

    def _split(self, data: bytes, lines: list[Line]) -> None:
        first, *others = data.split(b"\n")
        self._add_part(first)
        for part in others:
            self._end_line(lines)
            self._add_part(part)
        if not data and self._partial_size:
            # The last line need not end like the others.
            self._end_line(lines)

    def _add_part(self, part: bytes) -> None:
        self._partial_size += len(part)
        if self._partial_size > MAX_LINE:
            self._partial.clear()
        elif part:
            self._partial.append(part)

    def _end_line(self, lines: list[Line]) -> None:
        text, size = b"".join(self._partial), self._partial_size
        self._partial.clear()
        self._partial_size = 0
        self._number += 1
        if size > MAX_LINE:
            reason = f"longer than {MAX_LINE // 2**20} MiB"
            lines.append(Line(self._number, MAX_LINE, reason))
            return
        if self._number == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if not text or text.isspace():
            return
        if _SPILL_HEADER.match(text):
            return
        lines.append(Line(self._number, size, _read(text)))


_SPILL_HEADER: Final = re.compile(rb'\{"trio_eventlog": "spill"')
_SPILLED: Final = re.compile(rb"([0-9a-f]{8}) (?=\{)")


def _read(text: bytes) -> EventEnvelope | str:
    """An envelope, also from an event as a store keeps it, bare or as in a spill file; or what is wrong."""
    spilled = _SPILLED.match(text)
    if spilled is not None:
        text = text[spilled.end() :]
        if zlib.crc32(text) != int(spilled[1], 16):
            return "damaged: its checksum does not match"
    try:
        if spilled is not None or _is_kept(text):
            kept = from_json(text, PersistedEvent)
            return EventEnvelope.of(kept.event, event_id=kept.id, timestamp_ms=kept.timestamp_ms)
        return from_json(text, EventEnvelope)
    except CodecError as exc:
        return str(exc)


_KEYS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _is_kept(text: bytes) -> bool:
    """Whether it is an event as a store keeps it: by its fields, in any order, with others beside them."""
    try:
        keys = _KEYS.decode(text).keys()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False  # whoever reads it says why
    return "event_id" not in keys and ("id" in keys or "seq" in keys)
