"""What is in a spill file: a header, marks, and lines with events. Pure.

The layout is described in ``_spill_file``.
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from itertools import islice
from typing import Final

from trio_eventlog._model._errors import CodecError
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._sealed import seal_persisted
from trio_eventlog._model._wire import from_json, to_json

VERSION: Final = 1
"""Of the layout."""

PREFIX: Final = b'{"trio_eventlog": "spill"'
"""How headers and marks begin."""

_MARK: Final = re.compile(
    rb'(\{"trio_eventlog": "spill", "durable_seq": (\d{1,19})), "crc": "([0-9a-f]{8})"\}\n'
)

MAX_MARK: Final = 128
"""Bytes of a mark."""

_EVENT_START: Final = re.compile(rb"[0-9a-f]{8} \{")
"""Where an event may begin."""

LINE_START: Final = re.compile(_EVENT_START.pattern + b"|" + re.escape(PREFIX))
"""Where an event or a mark may begin."""

_MAX_SEARCHED: Final = 16
"""Places in one line at which an event is looked for; each costs a checksum of the rest of the line."""


def header_of(log_id: str | None) -> bytes:
    """The header of the file of a log, with its line break."""
    return json.dumps({"trio_eventlog": "spill", "version": VERSION, "log_id": log_id}).encode() + b"\n"


def mark_of(durable_seq: int) -> bytes:
    """The mark that says that the store has everything up to a seq, with its line break."""
    text = PREFIX + b', "durable_seq": %d' % durable_seq
    return text + b', "crc": "%08x"}\n' % zlib.crc32(text)


def mark_in(text: bytes, start: int = 0) -> tuple[int, bytes] | None:
    """The seq and the bytes of the mark at ``start``, if there is one."""
    found = _MARK.match(text, start)
    if found is None or zlib.crc32(found[1]) != int(found[3], 16) or int(found[2]) > MAX_STORED:
        return None
    return int(found[2]), found[0]


def line_of(event: PersistedEvent) -> bytes:
    """The line of an event, with its line break."""
    text = to_json(event)
    return b"%08x %b\n" % (zlib.crc32(text), text)


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


def is_beginning(text: bytes) -> bool:
    """Whether ``text`` can be a header of which only the beginning was written; zeros count as nothing."""
    text = text.rstrip(b"\0")
    return b"\n" not in text and (text.startswith(PREFIX) or PREFIX.startswith(text))
