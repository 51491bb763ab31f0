"""Sealed events: checked in full, and their payload encoded, exactly once.

:func:`seal_event` is the only place that seals. What it finds out on the way (the JSON text, the scopes, the
size) is carried along in the event, for the log, its buffers and the stores to use.
"""

from __future__ import annotations

import sys

from trio_eventlog._model._base_errors import CodecError
from trio_eventlog._model._checks import require_integer, require_string, shown
from trio_eventlog._model._events import (
    MAX_STORED,
    AgentEvent,
    EventEnvelope,
    ModuleEvent,
    PersistedEvent,
    Scopes,
    UnifiedEvent,
    persisted,
    sealed,
    source_of,
)
from trio_eventlog._model._payload import NO_SCOPES, SCOPES, encode, encode_payload, scopes_in, scopes_of
from trio_eventlog._speedups import core

if core is not None:
    core.configure(encode, AgentEvent, ModuleEvent, EventEnvelope, PersistedEvent, SCOPES, NO_SCOPES)


def seal_event(event: UnifiedEvent, prefix: str = "", max_bytes: int = sys.maxsize) -> UnifiedEvent:
    """A sealed copy of ``event``, which shares nothing mutable with it.

    ``prefix`` goes before the names of fields in a CodecError; ``max_bytes`` is as in ``encode_payload``.
    """
    # Exact classes: the fields that a subclass adds have no place on the wire.
    kind = type(event)
    if kind is AgentEvent:
        actor = event.agent_id
    elif kind is ModuleEvent:
        actor = event.module
    else:
        raise CodecError(
            prefix.removesuffix("."), f"expected an AgentEvent or a ModuleEvent, got {shown(event)}"
        )
    event_type = event.event_type
    # Strings are usually ASCII, of which there is nothing else to check.
    if type(actor) is str and type(event_type) is str and actor.isascii() and event_type.isascii():
        size = len(actor) + len(event_type)
    else:
        require_string(actor, prefix + ("agent_id" if kind is AgentEvent else "module"))
        require_string(event_type, f"{prefix}event_type")
        size = _utf8_size(actor) + _utf8_size(event_type)
    text = event._text
    if text is not None:
        return sealed(kind, actor, event_type, text, event._scopes, event._size)
    payload = event.payload
    text = encode_payload(payload, prefix, max_bytes)
    return sealed(kind, actor, event_type, text, scopes_in(payload), size + len(text))


class SealedEvents(tuple[PersistedEvent, ...]):
    """Sealed events that a log hands to its store.

    A store that knows this type need not look at each of them again. None of them came from other code, nor
    was given to it before.
    """

    __slots__ = ()


def check_persisted(event: PersistedEvent) -> None:
    """Check what ``event`` adds to the event in it."""
    require_string(event.id, "id")
    require_integer(event.seq, "seq")
    require_integer(event.timestamp_ms, "timestamp_ms")
    if event.member_id is not None:
        require_string(event.member_id, "member_id")


def seal_persisted(event: PersistedEvent) -> PersistedEvent:
    """A sealed copy of ``event``, which shares nothing mutable with it."""
    check_persisted(event)
    return reseal(event)


def reseal(event: PersistedEvent) -> PersistedEvent:
    """A copy of a sealed event that shares nothing mutable with it, its decoded payload included."""
    copy: PersistedEvent | None = None if core is None else core.reseal(event)
    return reseal_in_python(event) if copy is None else copy


def reseal_in_python(event: PersistedEvent) -> PersistedEvent:
    """See :func:`reseal`."""
    inner = event.event
    if type(inner) is AgentEvent and inner._text is not None and event.member_id == inner.agent_id:
        # Nearly always: in two thirds of the time.
        copy = sealed(AgentEvent, inner.agent_id, inner.event_type, inner._text, inner._scopes, inner._size)
        return persisted(event.id, event.seq, event.timestamp_ms, copy)
    return PersistedEvent(
        event.id, event.seq, event.timestamp_ms, event.member_id, seal_event(event.event, "event.")
    )


def is_sealed(event: PersistedEvent) -> bool:
    """Whether nothing is left to check or to copy.

    False for some events that have no flaw, such as those with an id that is not ASCII.
    """
    inner, event_id, member_id = event.event, event.id, event.member_id
    return (
        (type(inner) is AgentEvent or type(inner) is ModuleEvent)
        and inner._text is not None
        and type(event_id) is str
        and event_id.isascii()
        and (member_id is None or (type(member_id) is str and member_id.isascii()))
        and type(event.seq) is int
        and type(event.timestamp_ms) is int
        and 1 <= event.seq <= MAX_STORED
        and 0 <= event.timestamp_ms <= MAX_STORED
    )


def check_envelope(envelope: EventEnvelope) -> None:
    """Check what an envelope adds to its event, as strictly as a store requires."""
    event_id, timestamp_ms, expected = envelope.event_id, envelope.timestamp_ms, source_of(envelope.event)
    # For speed, what usually holds is asked for here.
    if not (type(event_id) is str and event_id.isascii()):
        require_string(event_id, "event_id")
    if not (type(timestamp_ms) is int and 0 <= timestamp_ms <= MAX_STORED):
        require_integer(timestamp_ms, "timestamp_ms", MAX_STORED)
    if envelope.source != expected:
        raise CodecError("source", f"expected {expected!r} for this event, got {shown(envelope.source)}")


# --- what a sealed event is asked for ---------------------------------------------------------------


def encoded_payload(event: UnifiedEvent) -> bytes | str:
    """The payload of ``event`` as JSON."""
    text = event._text
    return encode_payload(event.payload) if text is None else text


def payload_json(event: UnifiedEvent) -> bytes:
    """The payload of an event as compact JSON in UTF-8, ``null`` for None.

    For events that a log or a store hands out this is the text that was stored: it is neither decoded nor
    looked into. So it costs much less than to read ``event.payload``, and to encode that.

    Raises:
      CodecError: the payload is not JSON.
    """
    text = encoded_payload(event)
    return text.encode() if isinstance(text, str) else text


def scopes_of_event(event: UnifiedEvent) -> Scopes:
    """The scopes of ``event``: ``identity``, ``mob_id``, ``run_id`` and ``step_id``."""
    text = event._text
    if text is None:
        return scopes_in(event.payload)
    scopes = event._scopes
    return scopes_of(text) if scopes is None else scopes


def event_size(event_id: str, event: UnifiedEvent) -> int:
    """Bytes of an event: payload, id, agent or module, and type, as UTF-8."""
    size = None if event._text is None else event._size
    if size is None:
        actor = event.agent_id if type(event) is AgentEvent else event.module
        size = _utf8_size(encoded_payload(event)) + _utf8_size(actor) + _utf8_size(event.event_type)
    return size + (len(event_id) if event_id.isascii() else len(event_id.encode()))


def size_of(event: PersistedEvent) -> int:
    """Bytes of a sealed event: payload, id, agent or module, and type, as UTF-8."""
    return event_size(event.id, event.event)


def _utf8_size(text: bytes | str) -> int:
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode())
