"""Events as rows of the table, and back. Independent of the driver.

Strings are ``bytea``, in UTF-8: PostgreSQL's own ``text`` cannot hold NUL, and what it can hold depends on
the encoding of the database. For the same reason, and because ``jsonb`` rounds numbers, a payload is kept as
the bytes of its JSON.

An entry of an index has at most 2,704 bytes, and a string may be longer. So a column with an index holds a
*key*: the string itself if it has fewer than 1,024 bytes; or else its first 992 and its SHA-256, 1,024 bytes
in all. Equal keys mean equal strings. The whole string is in the column ``long`` then, as JSON, unless it is
in the payload anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import attrs
import msgspec
import trio

from trio_eventlog._model._errors import EventRejected
from trio_eventlog._model._events import AgentEvent, PersistedEvent, UnifiedEvent
from trio_eventlog._model._sealed import encoded_payload, scopes_of_event
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores._common._columns import AGENT, MODULE
from trio_eventlog.stores._common._columns import event_of as event_of_columns

MAX_EVENT_BYTES: Final = 64 * 1024 * 1024
"""Of all strings and the payload of an event together."""

MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024
"""Of the events of one statement, unless a single one is larger. Sending that takes milliseconds."""

_KEY_BYTES: Final = 1024
_KEY_PREFIX_BYTES: Final = 992

_AT_ONCE: Final = 128
"""Events of which columns are made in one step of the event loop: in some 250 microseconds, unless they are
large."""

COLUMNS: Final = (
    *("seq", "timestamp_ms", "kind", "id", "actor", "event_type", "member_id"),
    *("identity", "mob_id", "run_id", "step_id", "payload", "long"),
)

Row: TypeAlias = tuple[int, int, int, bytes, bytes, bytes, bytes | None, bytes | None, bytes | None]
"""The columns that make an event, as :data:`READ` selects them."""

READ: Final = "seq, timestamp_ms, kind, id, actor, event_type, member_id, payload, long"
READ_COLUMNS: Final = 9


class Int8Array(list[int]):
    """A parameter of type ``bigint[]``, whatever its items are."""


class ByteaArray(list[bytes | None]):
    """A parameter of type ``bytea[]``, whatever its items are."""


def key_of(text: bytes) -> bytes:
    """The key of a string; see the top of this module."""
    if len(text) < _KEY_BYTES:
        return text
    return text[:_KEY_PREFIX_BYTES] + hashlib.sha256(text).digest()


def is_cut(key: bytes) -> bool:
    """Whether a key stands for a longer string."""
    return len(key) >= _KEY_BYTES


class _Long(msgspec.Struct, omit_defaults=True):
    """The strings of an event that are too long for an index."""

    id: str | None = None
    event_type: str | None = None
    member_id: str | None = None


_encode_long: Final = msgspec.json.Encoder().encode
_decode_long: Final = msgspec.json.Decoder(_Long).decode


def whole_text(column: str, key: bytes, long: bytes | None) -> str:
    """The string of a key; ValueError if the row is damaged."""
    if not is_cut(key):
        return key.decode()
    found: str | None = None if long is None else getattr(_decode_long(long), column)
    if found is None or key_of(found.encode()) != key:
        raise ValueError(f"{column}: the whole text is missing")
    return found


def event_of(row: Row) -> PersistedEvent:
    """The event of a row; its payload stays JSON until it is read. ValueError if the row is damaged."""
    seq, timestamp_ms, kind, event_id, actor, event_type, member_id, payload, long = row
    return event_of_columns(
        (
            seq,
            whole_text("id", event_id, long),
            timestamp_ms,
            kind,
            actor.decode(),
            whole_text("event_type", event_type, long),
            None if member_id is None else whole_text("member_id", member_id, long),
            payload,
        )
    )


# --- batches --------------------------------------------------------------------------------------


@attrs.define
class Columns:
    """Events, column by column: made event by event, they take two to three times as long."""

    numbers: list[list[int]]
    """``seq``, ``timestamp_ms`` and ``kind``."""

    strings: list[list[bytes | None]]
    """The other columns, as :data:`COLUMNS` lists them."""

    size: int
    """The bytes of all strings, payloads included."""

    def extend(self, more: Columns) -> None:
        """Add more events."""
        for numbers, added in zip(self.numbers, more.numbers, strict=True):
            numbers.extend(added)
        for strings, added_strings in zip(self.strings, more.strings, strict=True):
            strings.extend(added_strings)
        self.size += more.size

    def arrays(self) -> list[Int8Array | ByteaArray]:
        """The parameters of a statement."""
        return [*map(Int8Array, self.numbers), *map(ByteaArray, self.strings)]


def columns_of(events: Sequence[PersistedEvent]) -> Columns:
    """The columns of sealed events, at least one."""
    contents = [event.event for event in events]
    actors = [content.agent_id if isinstance(content, AgentEvent) else content.module for content in contents]
    ids = encoded([event.id for event in events])
    types = encoded([content.event_type for content in contents])
    members = encoded([event.member_id for event in events])
    scopes = list(map(encoded, zip(*map(scopes_of_event, contents), strict=True)))
    payloads = encoded([payload_of(content) for content in contents])
    long: list[bytes | None] = [None] * len(events)
    if any(map(_has_long, (ids, types, members, *scopes))):
        long = list(map(_long_of, events))
        ids, types, members, *scopes = map(_keys, (ids, types, members, *scopes))
    numbers = [
        [event.seq for event in events],
        [event.timestamp_ms for event in events],
        [AGENT if isinstance(content, AgentEvent) else MODULE for content in contents],
    ]
    strings = [ids, encoded(actors), types, members, *scopes, payloads, long]
    return Columns(numbers, strings, sum(map(_size_of, strings)))


def payload_of(event: UnifiedEvent) -> bytes | str | None:
    """The column ``payload`` of a sealed event."""
    payload = encoded_payload(event)
    return None if payload in (b"null", "null") else payload


def encoded(texts: Iterable[bytes | str | None]) -> list[bytes | None]:
    """Texts as PostgreSQL gets them."""
    return [text.encode() if isinstance(text, str) else text for text in texts]


def _keys(texts: Iterable[bytes | None]) -> list[bytes | None]:
    return [None if text is None else key_of(text) for text in texts]


def _size_of(texts: Iterable[bytes | None]) -> int:
    return sum(map(len, filter(None, texts)))


def _has_long(texts: Iterable[bytes | None]) -> bool:
    return max(map(len, filter(None, texts)), default=0) >= _KEY_BYTES


def _long_of(event: PersistedEvent) -> bytes | None:
    """The column ``long`` of an event."""
    texts = {"id": event.id, "event_type": event.event.event_type, "member_id": event.member_id}
    cut = {name: text for name, text in texts.items() if text is not None and is_cut(text.encode())}
    return _encode_long(_Long(**cut)) if cut else None


async def encoded_chunks(events: Iterable[PersistedEvent]) -> list[Columns]:
    """A batch as columns, without the repeats in it, for one statement each. Never blocks the loop for long.

    Raises EventRejected for all events that are too large.
    """
    first: dict[str, PersistedEvent] = {}
    for event in events:
        # The first one wins, and PostgreSQL does not promise to insert them in order.
        first.setdefault(event.id, event)
    unique = list(first.values())
    chunks: list[Columns] = []
    too_large: list[PersistedEvent] = []
    time_slice = TimeSlice()
    for start in range(0, len(unique), _AT_ONCE):
        await time_slice.checkpoint_if_over()
        group = unique[start : start + _AT_ONCE]
        columns = columns_of(group)
        if columns.size <= MAX_CHUNK_BYTES:
            _add(chunks, columns)
            continue
        for event in group:
            await time_slice.checkpoint_if_over()
            columns = columns_of([event])
            if columns.size > MAX_EVENT_BYTES:
                too_large.append(event)
            _add(chunks, columns)
    if too_large:
        await trio.lowlevel.checkpoint()
        raise EventRejected(too_large, f"larger than {MAX_EVENT_BYTES // 2**20} MiB")
    return chunks


def _add(chunks: list[Columns], columns: Columns) -> None:
    if chunks and chunks[-1].size + columns.size <= MAX_CHUNK_BYTES:
        chunks[-1].extend(columns)
    else:
        chunks.append(columns)
