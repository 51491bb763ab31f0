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
from collections.abc import Sequence
from typing import Final, TypeAlias, cast

import attrs
import msgspec
import trio

from trio_eventlog._model._errors import EventRejected
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores._common._columns import columns_of
from trio_eventlog.stores._common._columns import event_of as event_of_columns

MAX_EVENT_BYTES: Final = 64 * 1024 * 1024
"""Of all strings and the payload of an event together."""

MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024
"""Of the events of one statement, unless a single one is larger. Sending that takes milliseconds."""

_KEY_BYTES: Final = 1024
_KEY_PREFIX_BYTES: Final = 992

_STRINGS_AT: Final = 3
"""Index of the first column of bytes in a stored row."""

StoredRow: TypeAlias = tuple[int | bytes | None, ...]
"""The columns of an event as :data:`COLUMNS` lists them."""

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


def row_of(event: PersistedEvent) -> StoredRow:
    """The row of a sealed event."""
    seq, id_text, timestamp_ms, kind, actor, type_text, member_text, *scope_texts, payload = columns_of(event)
    event_id, event_type = id_text.encode(), type_text.encode()
    member_id = None if member_text is None else member_text.encode()
    long: bytes | None = None
    if max(len(event_id), len(event_type), len(member_id or b"")) >= _KEY_BYTES:
        long = _encode_long(
            _Long(
                id=id_text if is_cut(event_id) else None,
                event_type=type_text if is_cut(event_type) else None,
                member_id=member_text if is_cut(member_id or b"") else None,
            )
        )
        event_id, event_type = key_of(event_id), key_of(event_type)
        member_id = None if member_id is None else key_of(member_id)
    scopes = [None if text is None else key_of(text.encode()) for text in scope_texts]
    if isinstance(payload, str):
        payload = payload.encode()
    head = (seq, timestamp_ms, kind, event_id, actor.encode(), event_type, member_id)
    return (*head, *scopes, payload, long)


def size_of(row: StoredRow) -> int:
    """The bytes of an event's strings and payload."""
    return sum(map(len, filter(None, cast("Sequence[bytes | None]", row[_STRINGS_AT:]))))


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
class Chunk:
    """Events for one statement."""

    size: int = 0
    """In bytes."""

    rows: list[StoredRow] = attrs.Factory(list)

    def columns(self) -> list[list[int] | list[bytes | None]]:
        """The parameters of the statement that are arrays."""
        seqs, timestamps, kinds, *strings = zip(*self.rows, strict=True)
        return [*map(Int8Array, (seqs, timestamps, kinds)), *map(ByteaArray, strings)]


async def encoded_chunks(events: Sequence[PersistedEvent]) -> list[Chunk]:
    """A batch as rows, without the repeats in it. Never blocks the loop for long.

    Raises EventRejected for all events that are too large.
    """
    seen: set[str] = set()
    too_large: list[PersistedEvent] = []
    chunks = [Chunk()]
    time_slice = TimeSlice()
    for event in events:
        await time_slice.checkpoint_if_over()
        # The first one wins, and PostgreSQL does not promise to insert them in order.
        if event.id in seen:
            continue
        seen.add(event.id)
        row = row_of(event)
        size = size_of(row)
        if size > MAX_EVENT_BYTES:
            too_large.append(event)
        if chunks[-1].rows and chunks[-1].size + size > MAX_CHUNK_BYTES:
            chunks.append(Chunk())
        chunks[-1].rows.append(row)
        chunks[-1].size += size
    if too_large:
        await trio.lowlevel.checkpoint()
        raise EventRejected(too_large, f"larger than {MAX_EVENT_BYTES // 2**20} MiB")
    return chunks
