"""Messages of a stream: events on their way in and out, and the headers that make them a batch."""

from __future__ import annotations

from typing import Final

import attrs
import msgspec

from trio_eventlog._model._codec import (
    from_json,
    persisted_event,
    sealed_agent_event,
    sealed_module_event,
    to_json,
)
from trio_eventlog._model._errors import CodecError, StoreUnusable
from trio_eventlog._model._events import PersistedEvent, UnifiedEvent
from trio_eventlog.stores.jetstream._head import Head
from trio_eventlog.stores.jetstream._protocol import Publish
from trio_eventlog.stores.jetstream._subjects import Subjects

MAX_BATCH: Final = 999
"""A server takes a thousand messages in a batch, and one of them is the head."""

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_BATCH: Final = "Nats-Batch-Id"
_BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
_BATCH_COMMIT: Final = "Nats-Batch-Commit"
_TTL: Final = "Nats-TTL"

_HEADERS_SIZE: Final = 256
"""Bytes of the headers of an event except for its id filter, rounded up."""


# --- in -------------------------------------------------------------------------------------------


@attrs.frozen
class Draft:
    """An event on its way into a message."""

    event: PersistedEvent
    subject: str
    id_filter: str
    body: bytes

    @property
    def size(self) -> int:
        """Upper bound of the size of the message, headers included, in bytes."""
        return len(self.body) + len(self.id_filter) + _HEADERS_SIZE


def draft(subjects: Subjects, event: PersistedEvent) -> Draft:
    """Prepare a sealed event."""
    id_filter = subjects.id_filter(event.id)
    return Draft(event, subjects.of_event(event, id_filter), id_filter, to_json(event))


def batch_piece(item: Draft, batch: str, number: int) -> Publish:
    """An event as the message with this number in a batch. It is stored only if its id is not there yet."""
    headers = {
        _EXPECTED: "0",
        _EXPECTED_SUBJECT: item.id_filter,
        _BATCH: batch,
        _BATCH_SEQUENCE: str(number),
    }
    return Publish(item.subject, item.body, headers)


def batch_end(subjects: Subjects, head: Head, *, after: int, batch: str, number: int, reply: str) -> Publish:
    """The head that ends a batch, if the one before it is at ``after``."""
    headers = {**head_fields(after), _BATCH: batch, _BATCH_SEQUENCE: str(number), _BATCH_COMMIT: "1"}
    return Publish(subjects.head, head.encode(), headers, reply)


def batch_abort(subjects: Subjects, batch: str, reply: str = "") -> Publish:
    """A message that no batch can go on with, so that the server drops what it has of this one."""
    headers = {_BATCH: batch, _BATCH_SEQUENCE: str(MAX_BATCH + 1)}
    return Publish(f"{subjects.base}.abort", b"", headers, reply)


def head_fields(after: int) -> dict[str, str]:
    """The headers of a head. Whatever the stream forgets with time, it keeps this."""
    return {_EXPECTED: str(after), _TTL: "never"}


def lock_fields(after: int, seconds: int) -> dict[str, str]:
    """The headers of a lock that lives this long, if the one before it is at ``after``; 0 for none."""
    return {_EXPECTED: str(after), _TTL: str(seconds)}


# --- out ------------------------------------------------------------------------------------------


class _Agent(msgspec.Struct, tag_field="kind", tag="agent"):
    agent_id: str
    event_type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _Module(msgspec.Struct, tag_field="kind", tag="module"):
    module: str
    event_type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    id: str
    seq: int
    timestamp_ms: int
    event: _Agent | _Module
    member_id: str | None = None


_decode_body: Final = msgspec.json.Decoder(_Body).decode


def event_of(body: bytes) -> PersistedEvent:
    """The event in a message. Its payload is decoded when it is first read.

    Raises:
      StoreUnusable: there is none.
    """
    try:
        found = _decode_body(body)
    except ValueError as exc:
        raise StoreUnusable(f"damaged: a message holds no event: {exc}: {body[:60]!r}") from exc
    inner = found.event
    event: UnifiedEvent
    if type(inner) is _Agent:
        event = sealed_agent_event(inner.agent_id, inner.event_type, bytes(inner.payload))
    else:
        assert type(inner) is _Module
        event = sealed_module_event(inner.module, inner.event_type, bytes(inner.payload))
    return persisted_event(found.id, found.seq, found.timestamp_ms, found.member_id, event)


def flaw(subjects: Subjects, subject: str, body: bytes) -> str | None:
    """Why a message cannot be the event that was stored there; None if it can."""
    try:
        event = from_json(body, PersistedEvent)
    except CodecError as exc:
        return str(exc)
    expected = subjects.of_event(event, subjects.id_filter(event.id))
    if subject != expected:
        return f"its subject is {subject!a:.300}, expected {expected!a:.300}"
    return None
