"""Messages of a stream: events on their way in and out, and the headers that make them a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from trio_eventlog._model._errors import CodecError, StoreUnusable
from trio_eventlog._model._events import AgentEvent, ModuleEvent, PersistedEvent, UnifiedEvent, sealed
from trio_eventlog._model._sealed import encoded_payload
from trio_eventlog._model._wire import from_json
from trio_eventlog.stores.jetstream._head import Head
from trio_eventlog.stores.jetstream._protocol import Publish, header_lines
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


# --- the wire form --------------------------------------------------------------------------------


class _Agent(msgspec.Struct, tag_field="kind", tag="agent", omit_defaults=True):
    agent_id: str
    event_type: str
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Module(msgspec.Struct, tag_field="kind", tag="module"):
    module: str
    event_type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _Body(msgspec.Struct, kw_only=True):
    id: str
    seq: int
    timestamp_ms: int
    member_id: str | None = None
    event: _Agent | _Module


_encode_body: Final = msgspec.json.Encoder().encode
_decode_body: Final = msgspec.json.Decoder(_Body).decode


# --- in -------------------------------------------------------------------------------------------


class Draft(msgspec.Struct, frozen=True):
    """An event on its way into a message."""

    event: PersistedEvent
    subject: str
    id_filter: str
    body: bytes
    size: int
    """Upper bound of the size of the message, headers included, in bytes."""


def draft(subjects: Subjects, event: PersistedEvent) -> Draft:
    """Prepare a sealed event."""
    id_filter = subjects.id_filter(event.id)
    body = _body_of(event)
    size = len(body) + len(id_filter) + _HEADERS_SIZE
    return Draft(event, subjects.of_event(event, id_filter), id_filter, body, size)


def _body_of(event: PersistedEvent) -> bytes:
    """What ``to_json`` returns, for an event that was checked when it was sealed."""
    content = event.event
    encoded = encoded_payload(content)
    payload = msgspec.Raw(encoded)
    inner: _Agent | _Module
    if isinstance(content, AgentEvent):
        is_absent = encoded in ("null", b"null")
        inner = _Agent(content.agent_id, content.event_type, msgspec.UNSET if is_absent else payload)
    else:
        inner = _Module(content.module, content.event_type, payload)
    return _encode_body(
        _Body(
            id=event.id,
            seq=event.seq,
            timestamp_ms=event.timestamp_ms,
            member_id=event.member_id,
            event=inner,
        )
    )


def batch_pieces(items: Iterable[Draft], batch: str) -> list[Publish]:
    """Events as the first messages of a batch. Each is stored only if its id is not there yet."""
    same = header_lines({_EXPECTED: "0", _BATCH: batch})
    # Neither what filters are made of nor a number can hold a line end.
    return [
        Publish(
            item.subject,
            item.body,
            f"{same}{_EXPECTED_SUBJECT}: {item.id_filter}\r\n{_BATCH_SEQUENCE}: {number}\r\n",
        )
        for number, item in enumerate(items, start=1)
    ]


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
    if isinstance(inner, _Agent):
        payload = b"null" if isinstance(inner.payload, msgspec.UnsetType) else bytes(inner.payload)
        event = sealed(AgentEvent, inner.agent_id, inner.event_type, payload)
    else:
        event = sealed(ModuleEvent, inner.module, inner.event_type, bytes(inner.payload))
    return PersistedEvent(found.id, found.seq, found.timestamp_ms, found.member_id, event)


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
