"""What is in a spill file, and how it is found. Pure: files are read by a function that is passed in.

The file is lines of UTF-8. The first is a header in JSON. Each of the others is one event, the CRC-32 of its
JSON in eight hexadecimal digits, a blank, and the JSON (:func:`to_json` never writes a line break), or a
mark, which says up to which seq the store had acknowledged events when it was written::

    {"trio_eventlog": "spill", "version": 1, "log_id": "…"}
    {"trio_eventlog": "spill", "durable_seq": 16, "crc": "8a0b4d3e"}
    1c291ca3 {"id": "…", "seq": 17, …}

A damaged line costs itself and no other. A last line without its line break was being written when the
process ended; it was never acknowledged, and is cut off. Zeros, as file systems leave them after a loss of
power, are ignored.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, TypeAlias

import attrs

from trio_eventlog._model._errors import CodecError, StoreUnusable
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._sealed import seal_persisted
from trio_eventlog._model._wire import from_json, to_json

VERSION: Final = 1
"""Of the layout."""

BLOCK_SIZE: Final = 256 * 1024
"""Bytes that are read at once."""

_PREFIX: Final = b'{"trio_eventlog": "spill"'
"""How headers and marks begin."""

_MARK: Final = re.compile(
    rb'(\{"trio_eventlog": "spill", "durable_seq": (\d{1,19})), "crc": "([0-9a-f]{8})"\}\n'
)

_MAX_MARK: Final = 128
"""Bytes of a mark."""

_MAX_HEADER: Final = 64 * 1024

_MAX_EMPTY: Final = 4096
"""Bytes of a file that is new although it has zeros in place of its header: one block of a disk."""

_EVENT_START: Final = re.compile(rb"[0-9a-f]{8} \{")
_LINE_START: Final = re.compile(_EVENT_START.pattern + b"|" + re.escape(_PREFIX))

_MAX_SEARCHED: Final = 16
"""Places in one line at which an event is looked for; each costs a checksum of the rest of the line."""

_MAX_LAST_LINE: Final = 16 * 1024 * 1024
"""Bytes at the end of the file in which the last intact line is looked for."""

Read: TypeAlias = Callable[[int, int], bytes]
"""Reads at most as many bytes of a file as its first argument says, from the byte that the second says."""


# --- lines ----------------------------------------------------------------------------------------


def header_of(log_id: str | None) -> bytes:
    """The header of the file of a log, with its line break."""
    return json.dumps({"trio_eventlog": "spill", "version": VERSION, "log_id": log_id}).encode() + b"\n"


def mark_of(durable_seq: int) -> bytes:
    """The mark that says that the store has everything up to a seq, with its line break."""
    text = _PREFIX + b', "durable_seq": %d' % durable_seq
    return text + b', "crc": "%08x"}\n' % zlib.crc32(text)


def _mark_in(text: bytes, start: int = 0) -> tuple[int, bytes] | None:
    """The seq and the bytes of the mark at ``start``, if there is one."""
    found = _MARK.match(text, start)
    if found is None or zlib.crc32(found[1]) != int(found[3], 16) or int(found[2]) > MAX_STORED:
        return None
    return int(found[2]), found[0]


def line_of(event: PersistedEvent) -> bytes:
    """The line of an event, with its line break."""
    text = to_json(event)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def is_event(line: bytes) -> bool:
    """Whether a line is that of an event, perhaps a damaged one, and not a mark."""
    return not line.startswith(_PREFIX)


def event_in(line: bytes) -> tuple[PersistedEvent | None, bool]:
    """The event in a line, if one is intact, and whether the whole line is.

    A line whose first event is damaged is searched for another one: it may have lost its line break.
    """
    for found in islice(_EVENT_START.finditer(line), _MAX_SEARCHED):
        checksum, text = line[found.start() :][:8], line[found.start() + 9 :]
        if zlib.crc32(text) == int(checksum, 16):
            with contextlib.suppress(CodecError):
                # Sealed: its payload stays text, and a store that changes it changes nothing here.
                return seal_persisted(from_json(text, PersistedEvent)), found.start() == 0
    return None, False


def lines_in(read: Read, start: int, end: int) -> Iterator[tuple[bytes, bool, int]]:
    """Each line from byte ``start`` to ``end``: its text, whether it is as it was written, and its end."""
    parts: list[bytes] = []
    position = line_end = start
    while position < end:
        block = read_some(read, position, min(position + BLOCK_SIZE, end))
        begin = 0
        while (stop := block.find(b"\n", begin)) >= 0:
            line = b"".join((*parts, block[begin:stop]))
            parts.clear()
            begin = stop + 1
            line_end = position + begin
            yield line.replace(b"\0", b""), b"\0" not in line, line_end
        # A run of zeros can be as long as the file.
        rest = block[begin:]
        parts.append(rest if rest.strip(b"\0") else rest[:1])
        position += len(block)
    if line_end < end:
        # Its line break was overwritten.
        yield b"".join(parts).replace(b"\0", b""), False, end


def read_some(read: Read, start: int, end: int) -> bytes:
    """Bytes from ``start`` on, one or more, and none from ``end`` on. Raises OSError if there are none."""
    block = read(end - start, start)
    if not block:
        raise OSError(errno.EIO, f"it ends at byte {start}, and should have {end}")
    return block


# --- what a file has ------------------------------------------------------------------------------


@attrs.frozen
class Contents:
    """What is in a file."""

    header: bytes = b""  # its first line; empty if that is damaged or not there
    log_id: Any = None
    top: bytes = b""  # the header, and the mark if one follows
    top_seq: int = 0  # of that mark
    start: int = 0  # where the first line begins
    end: int = 0  # where the last line ends
    lines: int = 0  # with an event, damaged ones included
    known_seq: int = 0  # highest seq of a mark
    last_seq: int = 0  # of the last intact event, as it was written
    is_empty: bool = False  # whether it is as good as a new one

    def number_after(self, last_seq: int) -> int:
        """After which seq numbers go on, if the store has ``last_seq``.

        A store that was put back to an older state has a lower one than the file knows of. A reader that was
        beyond it must not miss what is new: that comes after everything that the file has a number of.
        """
        after = max(last_seq, self.known_seq)
        if self.last_seq == last_seq + self.lines >= after:
            # What the store has lost is here, and gets the seqs that it had.
            return last_seq
        # The line that was last then gets no lower seq than it had. Lines that are missing are lost events.
        return max(after, self.last_seq - self.lines) if self.last_seq < MAX_STORED else after


def contents_of(read: Read, size: int, log_id: str | None) -> Contents:
    """What is in a file of ``size`` bytes. Raises StoreUnusable if the log ``log_id`` cannot take it up."""
    head = read(_MAX_HEADER, 0)
    if size <= _MAX_EMPTY and _is_beginning(head):
        # New, or its process ended while it was new.
        return Contents(is_empty=True)
    header = head[: head.find(b"\n") + 1]
    is_header, version, found_id = _parse(header)
    if not is_header:
        header = b""
    elif version != VERSION:
        raise StoreUnusable(
            f"written by another version of trio_eventlog (layout {version}, this one knows {VERSION})"
        )
    start = len(header) if header else _find_line(read)
    if start is None:
        raise StoreUnusable("this is no spill file; name another one, or move this one away")
    top, top_seq = header, 0
    if header and (mark := _mark_in(head, start)) is not None:
        top_seq, top = mark[0], header + mark[1]
        start = len(top)
    lines, end, marked_seq = survey(read, start)
    is_anothers = found_id is not None and log_id is not None and found_id != log_id
    if is_anothers and lines:
        raise StoreUnusable(
            f"it has events of another log ({found_id}, not {log_id}); open that log with it once, or move it"
            " away"
        )
    known_seq, last_seq = max(marked_seq, top_seq), _find_last_seq(read, start, end)
    is_empty = is_anothers or bool(header and not lines and not known_seq)
    return Contents(header, found_id, top, top_seq, start, end, lines, known_seq, last_seq, is_empty)


def may_begin(text: bytes) -> bool:
    """Whether ``text`` can be the beginning of a file of ours, as far as it was written."""
    return _PREFIX.startswith(text[: len(_PREFIX)].partition(b"\0")[0])


def _is_beginning(text: bytes) -> bool:
    """Whether ``text`` can be a header of which only the beginning was written; zeros count as nothing."""
    text = text.rstrip(b"\0")
    return b"\n" not in text and (text.startswith(_PREFIX) or _PREFIX.startswith(text))


def _parse(line: bytes) -> tuple[bool, Any, Any]:
    """Whether ``line`` is a header, and the version and the log that it names."""
    try:
        header: Any = json.loads(line)
        return header["trio_eventlog"] == "spill", header["version"], header["log_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False, None, None


def survey(read: Read, start: int) -> tuple[int, int, int]:
    """How many events follow byte ``start``, where the last line ends, and the highest seq of a mark."""
    lines, end, durable_seq, last_mark = 0, start, 0, -1
    position, before = start, b"\n"
    while block := read(BLOCK_SIZE, position):
        text = before + block
        lines += block.count(b"\n")
        at = text.find(b"\n" + _PREFIX)
        while at >= 0:
            lines -= 1
            last_mark = position - len(before) + at + 1
            mark = _mark_in(read(_MAX_MARK, last_mark))
            durable_seq = max(durable_seq, mark[0] if mark is not None else 0)
            at = text.find(b"\n" + _PREFIX, at + 1)
        if (last := block.rfind(b"\n")) >= 0:
            end = position + last + 1
        before = text[-len(_PREFIX) :]
        position += len(block)
    return lines + (last_mark >= end), end, durable_seq


def _find_line(read: Read) -> int | None:
    """Where the first intact event or mark begins, if there is no header.

    The end of the file if it has only zeros and the beginning of a header; None if it has something else.
    """
    position, before, is_nothing, searched_to = 0, b"", True, 0
    while block := read(BLOCK_SIZE, position):
        is_nothing = is_nothing and (not block.strip(b"\0") if position else _is_beginning(block))
        text = before + block
        for found in _LINE_START.finditer(text):
            at = position - len(before) + found.start()
            if at < searched_to:
                continue
            line = _line_at(read, at)
            if _mark_in(line + b"\n") is not None or event_in(line)[0] is not None:
                return at
            searched_to = at + len(line)
        before = text[1 - len(_PREFIX) :]
        position += len(block)
    return position if is_nothing else None


def _line_at(read: Read, position: int) -> bytes:
    """The line that begins at ``position``, without zeros and its line break."""
    parts: list[bytes] = []
    while len(parts) < _MAX_LAST_LINE // BLOCK_SIZE and (block := read(BLOCK_SIZE, position)):
        line, end, _ = block.partition(b"\n")
        parts.append(line)
        if end:
            break
        position += len(block)
    return b"".join(parts).replace(b"\0", b"")


def _find_last_seq(read: Read, start: int, end: int) -> int:
    """The seq of the last intact event, as it was written; 0 if there is none."""
    most = BLOCK_SIZE
    while True:
        begin = max(end - most, start)
        for line, *_ in reversed(list(lines_in(read, begin, end))):
            event, _ = event_in(line)
            if event is not None:
                return event.seq
        if begin == start or most >= _MAX_LAST_LINE:
            return 0
        most *= 4
