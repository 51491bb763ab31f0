"""Files of envelopes or of persisted events, one JSON value per line, plain or compressed.

Everything here blocks and is called in a thread, for a block of lines at a time: a thread hop for each line
would cost more than reading it.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Container, Mapping
from importlib import import_module
from types import TracebackType
from typing import Any, Final, Self

import attrs
import msgspec

from trio_eventlog import CodecError, EventEnvelope, PersistedEvent, from_json
from trio_eventlog._util import how_to_install
from trio_eventlog.mobkit import MobEvent

STDIN: Final = "-"

MAX_LINE: Final = 16 * 2**20
"""Bytes of a line at most. A longer one is skipped, not loaded."""

_BLOCK_SIZE: Final = 2**18
"""Decompressed bytes that are read and decoded at once, which takes about 20 ms."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@attrs.frozen
class Line:
    """A line that is not blank."""

    number: int
    """Counted from 1."""

    size: int
    """Bytes without the newline; :data:`MAX_LINE` if it was longer."""

    content: EventEnvelope | str
    """The envelope, or why the line cannot be read."""


@attrs.frozen
class Block:
    """Some lines of a file."""

    lines: list[Line]

    position: int
    """Bytes of the file, as stored on disk, that have been read so far."""

    problem: str | None = None
    """Why the file cannot be read beyond these lines; None if it can."""

    problem_line: int | None = None
    """The line with the problem, if reading had started."""

    is_last: bool = False
    """Whether the file ends here."""


class _RawFile(io.RawIOBase):
    """The bytes of a file, counted, after a look at the first ones.

    Without a buffer: an abandoned thread that waits for a pipe must not hold a lock that the interpreter
    needs to exit.
    """

    def __init__(self, file: io.FileIO) -> None:
        super().__init__()
        self._file = file
        self._head = b""
        self.position = 0
        while self._may_be_magic() and (more := self._file.read(1)):
            self._head += more
        self.is_gzip = self._head == _GZIP_MAGIC
        self.is_zstd = self._head == _ZSTD_MAGIC
        self.is_empty = not self._head

    def _may_be_magic(self) -> bool:
        return any(
            len(self._head) < len(magic) and magic.startswith(self._head)
            for magic in (_GZIP_MAGIC, _ZSTD_MAGIC)
        )

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


class _ZstdError(Exception):
    """Data is not what Zstandard makes."""


def _zstd() -> Any:
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


class EnvelopeFile:
    """A file of envelopes, or standard input. Opened when the first block is read.

    Args:
      name: path of the file; ``-`` for standard input.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._raw: _RawFile | None = None
        self._stream: Any = None
        self._compression = ""
        self._number = 0
        # The beginning of a line that continues in the next block.
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
        # An abandoned thread may still be reading; closing would pull the file away under it.
        if self._raw is not None and not self._is_reading:
            self._raw.close()

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "standard input" if self.name == STDIN else self.name

    def size(self) -> int | None:
        """Its size on disk in bytes; None if that does not tell how much will be read."""
        if self.name == STDIN or not os.path.isfile(self.name):  # noqa: PTH113 - str all along
            return None
        return os.stat(self.name).st_size  # noqa: PTH116 - str all along

    def read_block(self) -> Block:
        """Read the next block. Blocks. Must not be called again after the last one."""
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
            # gzip.BadGzipFile is an OSError without strerror.
            problem = exc.strerror or f"damaged gzip data: {exc}"
        except EOFError:
            problem = f"the {self._compression} data ends early: the file is truncated"
        except ImportError:
            problem = f"compressed with Zstandard; to read it: {how_to_install('archive')}"
        except (zlib.error, _ZstdError) as exc:
            problem = f"damaged {self._compression} data: {exc}"
        else:
            self._split(data, lines)
            return Block(lines, self._position, is_last=not data)
        # The beginning of a line that breaks off is part of the problem, not a line.
        line = None if self._raw is None else self._number + 1
        return Block(lines, self._position, problem, line, is_last=True)

    @property
    def _position(self) -> int:
        return 0 if self._raw is None else self._raw.position

    def _read(self) -> bytes:
        if self._raw is None:
            self._raw = _RawFile(io.FileIO(0, closefd=False) if self.name == STDIN else io.FileIO(self.name))
            self._open_stream(self._raw)
        if not self._compression:
            return self._stream.read(_BLOCK_SIZE) or b""
        try:
            # Bounds the output, however much a few bytes may expand to.
            found: bytes = self._stream.read1(_BLOCK_SIZE)
        except Exception as exc:
            # Its class is in a module that may not be installed.
            if type(exc).__name__ == "ZstdError":
                raise _ZstdError(str(exc)) from exc
            raise
        return found

    def _open_stream(self, raw: _RawFile) -> None:
        self._stream = raw
        if raw.is_gzip or (raw.is_empty and self.name.endswith(".gz")):
            self._compression, self._stream = "gzip", gzip.GzipFile(fileobj=raw)
        elif raw.is_zstd or (raw.is_empty and self.name.endswith(".zst")):
            self._compression, self._stream = "zstd", _zstd().ZstdFile(raw)
        if raw.is_empty and self._compression:
            raise EOFError

    def _split(self, data: bytes, lines: list[Line]) -> None:
        first, *others = data.split(b"\n")
        self._add_part(first)
        for part in others:
            self._end_line(lines)
            self._add_part(part)
        if not data and self._partial_size:
            # The last line need not have a newline.
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
        if _SPILL_HEADER.match(text) or _SSE_OTHER.match(text):
            return
        lines.append(Line(self._number, size, _read(text)))


_SPILL_HEADER: Final = re.compile(rb'\{"trio_eventlog": "spill"')
_SPILLED: Final = re.compile(rb"([0-9a-f]{8}) (?=\{)")


def _read(text: bytes) -> EventEnvelope | str:
    """The envelope in a line, or what is wrong with it.

    The line may also hold a persisted event, either alone or with a checksum as in a spill file; a flat event
    of MobKit; or the data of a message of its stream.
    """
    spilled = _SPILLED.match(text)
    if spilled is not None:
        text = text[spilled.end() :]
        if zlib.crc32(text) != int(spilled[1], 16):
            return "damaged: its checksum does not match"
    try:
        if text.startswith(_SSE_DATA):
            return MobEvent.from_json(text.removeprefix(_SSE_DATA)).envelope()
        keys = _keys_of(text)
        if spilled is not None or _is_persisted(keys):
            event = from_json(text, PersistedEvent)
            return EventEnvelope.of(event.event, event_id=event.id, timestamp_ms=event.timestamp_ms)
        if _is_flat(keys):
            text = _nested(keys)
        return from_json(text, EventEnvelope)
    except CodecError as exc:
        return str(exc)


_KEYS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _keys_of(text: bytes) -> dict[str, msgspec.Raw]:
    """What the line has at its top level; nothing if it is no object.

    Asked first because it costs a twentieth of trying to read an exported line as an envelope.
    """
    try:
        return _KEYS.decode(text)
    except (ValueError, RecursionError):
        return {}  # reading it will tell what is wrong


def _is_persisted(keys: Container[str]) -> bool:
    """Whether a line has the fields of a persisted event, in any order and with others among them."""
    return "event_id" not in keys and ("id" in keys or "seq" in keys)


def _is_flat(keys: Container[str]) -> bool:
    """Whether a line is an event of MobKit that has the fields of the event beside those of the envelope."""
    return "event_id" in keys and "event" not in keys and ("module" in keys or "agent_id" in keys)


def _nested(keys: Mapping[str, msgspec.Raw]) -> bytes:
    """A flat event as an envelope."""
    kind, actor = ("module", "module") if "module" in keys else ("agent", "agent_id")
    inner = {name: keys[name] for name in (actor, "event_type", "payload") if name in keys}
    outer = {name: keys[name] for name in ("event_id", "source", "timestamp_ms") if name in keys}
    return _encode(outer | {"event": {"kind": kind, **inner}})


_encode: Final = msgspec.json.Encoder().encode

_SSE_DATA: Final = b"data:"
_SSE_OTHER: Final = re.compile(rb":|(?:event|id|retry)(?::|$)")
"""Lines of such a stream that say nothing that the data does not."""
