"""JSON to model and back, and the sealing of payloads.

The wire form is that of the Rust crate meerkat-mobkit: compact JSON, the kind of an event in a field
``kind``, absent options left out. Structuring is composed by cattrs hooks; the text itself is read
by the standard library (which can tell a field that appears twice) and written by msgspec.
Floor 1: pure, no Trio, no clock.
"""

from __future__ import annotations

import json
import math
import reprlib
import sys
from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, Final, TypeVar, cast, overload

import cattrs
import msgspec
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import make_converter
from cattrs.strategies import configure_tagged_union

from trio_eventlog._model._errors import CodecError
from trio_eventlog._model._events import (
    MAX_STORED,
    MAX_U64,
    AgentEvent,
    EventEnvelope,
    ModuleEvent,
    PersistedEvent,
    UnifiedEvent,
    _set_agent_id,
    _set_agent_type,
    _set_encoded,
    _set_module,
    _set_module_type,
    source_of,
)
from trio_eventlog._model._query import SCOPES, EventQuery

T = TypeVar("T")

MAX_DEPTH: Final = 200
"""Most levels of lists and dicts in a payload."""

MIN_INT: Final = -(2**63)
"""The smallest integer in a payload; the largest is 2**64 - 1."""

_encode: Final = msgspec.json.Encoder().encode


# --- payloads: checked and encoded once, then carried as text -------------------------------------


class _Flaw(Exception):
    """Something in a payload that JSON cannot carry, and the steps that lead there, last first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str | int] = []


def _check_payload(value: object, depth: int) -> None:
    """Raise ``_Flaw`` unless ``value`` comes back from JSON as an equal value of the same types."""
    kind = type(value)
    if kind is str:
        _check_text(cast("str", value))
    elif kind is int:
        if not MIN_INT <= cast("int", value) <= MAX_U64:
            msg = f"{_integer(cast('int', value))} is outside -2**63 to 2**64 - 1"
            raise _Flaw(msg)
    elif kind is float:
        if not math.isfinite(cast("float", value)):
            msg = f"{value} is no JSON number"
            raise _Flaw(msg)
    elif kind is dict or kind is list:
        if depth == MAX_DEPTH:
            msg = f"nested more than {MAX_DEPTH} levels deep"
            raise _Flaw(msg)
        if kind is dict:
            _check_dict(cast("dict[object, object]", value), depth + 1)
        else:
            _check_list(cast("list[object]", value), depth + 1)
    elif value is not None and kind is not bool:
        msg = (
            f"{kind.__name__} is no JSON value; use None, bool, int, float, str, list or dict"
            " themselves, not subclasses"
        )
        raise _Flaw(msg)


def _check_dict(value: dict[object, object], depth: int) -> None:
    for key in value:
        if type(key) is not str:
            msg = f"keys must be str, got {_named(key)}"
            raise _Flaw(msg)
    for key, item in value.items():
        assert type(key) is str
        try:
            _check_text(key)
            _check_payload(item, depth)
        except _Flaw as flaw:
            flaw.steps.append(key)
            raise


def _check_list(value: list[object], depth: int) -> None:
    for index, item in enumerate(value):
        try:
            _check_payload(item, depth)
        except _Flaw as flaw:
            flaw.steps.append(index)
            raise


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        msg = f"lone surrogate {value[exc.start]!a} at character {exc.start}; JSON text cannot carry it"
        raise _Flaw(msg) from None


def _path(root: str, steps: list[str | int]) -> str:
    path = root
    for step in reversed(steps):
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier():
            path += f".{step}"
        else:
            # ascii(): a path must itself be printable whatever the key holds.
            path += f"[{step!a}]"
        if len(path) > _MAX_PATH:
            return path[:_MAX_PATH] + "…"
    return path


_MAX_PATH: Final = 200


def encode_payload(payload: object, path: str = "payload", most: int = sys.maxsize) -> bytes:
    """``payload`` as compact JSON.

    Args:
      payload: the payload.
      path: its name in an error.
      most: bytes of an event. What has more is refused before it is walked, or encoded, as a whole: a value
        that holds another one twice, which does so too, and so on, is small and its JSON is not. What has
        less is not refused; nor is all that has more.

    Raises:
      CodecError: it holds something that would not come back as an equal value, or too much.
    """
    if payload is None:
        return b"null"
    try:
        # Most payloads are objects.
        if type(payload) is dict:
            _check_room(payload, 1, most - len(payload), most - _FEW)
        else:
            _check_room((payload,), 0, most, most - _FEW)
        return _encode(payload)
    except _TooLarge:
        raise CodecError("event", too_large(most, "more than ")) from None
    except (_Unplain, UnicodeEncodeError):
        pass
    try:
        # It has a flaw: find it, and as soon as it was found above.
        _check_payload(payload, 0)
    except _Flaw as flaw:
        raise CodecError(_path(path, flaw.steps), flaw.reason) from None
    return _encode(payload)  # pragma: no cover - only if another thread mended the payload meanwhile


def too_large(most: int, than: str = "", size: int | None = None) -> str:
    """What is wrong with an event that is."""
    return f"the event has {than}{most if size is None else size:,} bytes; max_event_bytes is {most:,}"


class _Unplain(Exception):
    """A payload would not come back from JSON as an equal value of the same types."""


class _TooLarge(Exception):
    """A payload has more bytes than there is room for."""


def _check_room(container: Any, depth: int, room: int, few: int) -> int:  # noqa: C901, PLR0912 - for speed
    """Returns the bytes that are left after the values of a list or dict at most, which itself is paid for.

    Called for every event, so that it says nothing of a flaw but that there is one, and leaves lone
    surrogates to the encoder, which refuses them by itself. The bytes of numbers and of short texts are not
    counted, but for one; nor are those of keys while more than ``few`` bytes are left.

    Raises:
      _Unplain: not all values come back from JSON as equal values of the same types.
      _TooLarge: there is too much, and it was not gone on.
    """
    if room < 0:
        raise _TooLarge
    if depth > MAX_DEPTH:
        raise _Unplain
    if type(container) is dict:
        for key in container:
            if type(key) is not str:
                raise _Unplain
        if room < few:
            # Checked with the next list or dict: those of this one are in memory already.
            room -= sum(map(len, container))
        container = container.values()
    for value in container:
        kind = type(value)
        if kind is str:
            if len(value) > 64:  # noqa: PLR2004 - here and below: a name would have to be looked up each time
                room -= len(value)
                if room < 0:
                    raise _TooLarge
        elif kind is int:
            # MIN_INT and MAX_U64
            if not -0x8000000000000000 <= value <= 0xFFFFFFFFFFFFFFFF:  # noqa: PLR2004 - see above
                raise _Unplain
        elif value is None or kind is bool:
            pass
        elif kind is dict:
            # With its quotes, colon and comma, an item has five bytes at least,
            room = _check_room(value, depth + 1, room - 5 * len(value), few)
        elif kind is list:
            # and here two.
            room = _check_room(value, depth + 1, room - 2 * len(value), few)
        elif not (kind is float and _is_finite(value)):
            raise _Unplain
    return room


_is_finite: Final = math.isfinite

_FEW: Final = 512
"""Bytes of a payload, texts left aside, in which there are so few keys that their lengths are no matter."""


def _require_text(value: object, path: str) -> None:
    if type(value) is not str:
        raise CodecError(path, f"expected a string, got {_named(value)}")
    if not value.isascii():
        try:
            _check_text(value)
        except _Flaw as flaw:
            raise CodecError(path, flaw.reason) from None


def _require_int(value: object, path: str, maximum: int = MAX_U64) -> None:
    if type(value) is not int:
        raise CodecError(path, f"expected an integer, got {_named(value)}")
    if not 0 <= value <= maximum:
        raise CodecError(path, f"expected 0 to 2**{maximum.bit_length()} - 1, got {_integer(value)}")


def _named(value: object) -> str:
    if value is None:
        return "null"
    kind = type(value)
    try:
        # Not the whole of it: that may be far more than the value itself.
        shown = ascii(value[:_MOST_SHOWN]) if kind is str else _shown(value)  # type: ignore[index] # it is one
    except Exception:  # noqa: BLE001 - whatever the repr of a stranger raises, or of an integer in it
        return kind.__name__
    return f"{kind.__name__} ({shown.encode('ascii', 'backslashreplace').decode():.50})"


_MOST_SHOWN: Final = 50
_shown: Final = reprlib.Repr().repr


def _integer(value: int) -> str:
    # Python refuses to turn very long integers into text.
    bits = value.bit_length()
    return f"integer {value}" if bits <= _MOST_BITS_SHOWN else f"an integer of {bits} bits"


_MOST_BITS_SHOWN: Final = 128


# Objects are built past their constructors: one event means several of them.
_new = object.__new__
_set_id: Any = cast("Any", PersistedEvent.id).__set__
_set_seq: Any = cast("Any", PersistedEvent.seq).__set__
_set_timestamp: Any = cast("Any", PersistedEvent.timestamp_ms).__set__
_set_member: Any = cast("Any", PersistedEvent.member_id).__set__
_set_event: Any = cast("Any", PersistedEvent.event).__set__


def sealed_agent_event(agent_id: str, event_type: str, encoded: bytes | str) -> AgentEvent:
    """An agent event around a payload that is JSON already, and trusted to be."""
    event = _new(AgentEvent)
    _set_agent_id(event, agent_id)
    _set_agent_type(event, event_type)
    _set_encoded(event, encoded)
    return event


def sealed_module_event(module: str, event_type: str, encoded: bytes | str) -> ModuleEvent:
    """A module event around a payload that is JSON already, and trusted to be."""
    event = _new(ModuleEvent)
    _set_module(event, module)
    _set_module_type(event, event_type)
    _set_encoded(event, encoded)
    return event


# Of one type, so that either can be chosen.
_seal_agent: Callable[[str, str, bytes | str], UnifiedEvent] = sealed_agent_event
_seal_module: Callable[[str, str, bytes | str], UnifiedEvent] = sealed_module_event


def persisted_event(
    event_id: str, seq: int, timestamp_ms: int, member_id: str | None, event: UnifiedEvent
) -> PersistedEvent:
    """The same as the constructor of :class:`PersistedEvent`, at a fifth of its cost."""
    persisted = _new(PersistedEvent)
    _set_id(persisted, event_id)
    _set_seq(persisted, seq)
    _set_timestamp(persisted, timestamp_ms)
    _set_member(persisted, member_id)
    _set_event(persisted, event)
    return persisted


def give_seq(event: PersistedEvent, seq: int) -> None:
    """Number an event that nobody else has seen yet."""
    _set_seq(event, seq)


def encoded_payload(event: UnifiedEvent, path: str = "payload") -> bytes | str:
    """The payload of ``event`` as JSON: what it was sealed with, or encoded now.

    Raises:
      CodecError: it holds something that JSON cannot carry.
    """
    encoded = event._encoded
    return encode_payload(event.payload, path) if encoded is None else encoded


def seal_event(event: UnifiedEvent, prefix: str = "", most: int = sys.maxsize) -> UnifiedEvent:
    """A copy of ``event`` that shares nothing mutable with it, checked in full.

    Args:
      event: the event.
      prefix: what comes before the name of a field in an error, such as ``"event."``.
      most: as for :func:`encode_payload`.

    Raises:
      CodecError: a field is malformed.
    """
    # Exact classes: the fields that a subclass adds have no place on the wire.
    kind = type(event)
    if kind is AgentEvent:
        actor, make = event.agent_id, _seal_agent
    elif kind is ModuleEvent:
        actor, make = event.module, _seal_module
    else:
        raise CodecError(
            prefix.removesuffix("."), f"expected an AgentEvent or a ModuleEvent, got {_named(event)}"
        )
    event_type = event.event_type
    # Names of fields are put together only for those that have a flaw, or may have one.
    if not (type(actor) is str and type(event_type) is str and actor.isascii() and event_type.isascii()):
        _require_text(actor, prefix + ("agent_id" if kind is AgentEvent else "module"))
        _require_text(event_type, f"{prefix}event_type")
    encoded = event._encoded
    if encoded is None:
        encoded = encode_payload(event.payload, prefix + "payload", most)
    return make(actor, event_type, encoded)


def _sealed(event: UnifiedEvent, encoded: bytes | str) -> UnifiedEvent:
    if isinstance(event, AgentEvent):
        return sealed_agent_event(event.agent_id, event.event_type, encoded)
    return sealed_module_event(event.module, event.event_type, encoded)


def reseal(event: PersistedEvent) -> PersistedEvent:
    """A copy of a sealed event that shares nothing mutable with it."""
    inner = _sealed(event.event, encoded_payload(event.event))
    return persisted_event(event.id, event.seq, event.timestamp_ms, event.member_id, inner)


def size_of(event: PersistedEvent) -> int:
    """What a sealed event weighs, in bytes: payload, id, agent or module, and type, as UTF-8."""
    inner = event.event
    actor = inner.agent_id if type(inner) is AgentEvent else inner.module
    size = 0
    for text in (encoded_payload(inner), event.id, actor, inner.event_type):
        size += len(text.encode()) if type(text) is str and not text.isascii() else len(text)
    return size


def prepare_event(
    event_id: str, timestamp_ms: int, event: UnifiedEvent, prefix: str = "", most: int = sys.maxsize
) -> tuple[PersistedEvent, int]:
    """Seal an event for a log, which numbers it later.

    Returns:
      What waits for its seq, which is 0, and what it weighs; see :func:`size_of`. That can be more than
      ``most`` bytes; see :func:`encode_payload`.

    Raises:
      CodecError: a field is malformed, or the payload is too large.
    """
    kind = type(event)
    if kind is AgentEvent:
        actor: Any = event.agent_id
        event_type: Any = event.event_type
        # As a rule: nothing but what follows. It is written out since it runs for every event.
        if (
            type(actor) is str
            and type(event_type) is str
            and actor.isascii()
            and event_type.isascii()
            and event_id.isascii()
        ):
            encoded = event._encoded
            if encoded is None:
                encoded = encode_payload(event.payload, prefix + "payload" if prefix else "payload", most)
            if type(encoded) is bytes:
                sealed = _new(AgentEvent)
                _set_agent_id(sealed, actor)
                _set_agent_type(sealed, event_type)
                _set_encoded(sealed, encoded)
                prepared = _new(PersistedEvent)
                _set_id(prepared, event_id)
                _set_seq(prepared, 0)
                _set_timestamp(prepared, timestamp_ms)
                _set_member(prepared, actor)
                _set_event(prepared, sealed)
                return prepared, len(encoded) + len(event_id) + len(actor) + len(event_type)
    inner = seal_event(event, prefix, most)
    member_id = inner.agent_id if type(inner) is AgentEvent else None
    prepared = persisted_event(event_id, 0, timestamp_ms, member_id, inner)
    return prepared, size_of(prepared)


def check_envelope(envelope: EventEnvelope) -> None:
    """Check what an envelope adds to its event, as strictly as a store needs it.

    Raises:
      CodecError: the id is no text, the time is out of a store's range, or ``source`` does not agree
        with the event.
    """
    event_id, timestamp_ms, expected = envelope.event_id, envelope.timestamp_ms, source_of(envelope.event)
    # What has no flaw is through at once.
    if not (type(event_id) is str and event_id.isascii()):
        _require_text(event_id, "event_id")
    if not (type(timestamp_ms) is int and 0 <= timestamp_ms <= MAX_STORED):
        _require_int(timestamp_ms, "timestamp_ms", MAX_STORED)
    if envelope.source != expected:
        raise CodecError("source", f"expected {expected!r} for this event, got {_named(envelope.source)}")


def is_sealed(event: PersistedEvent) -> bool:
    """Whether nothing is left to check or to copy: the payload is JSON already, and all else is plain.

    False for some events that have no flaw, such as those with an id that is not ASCII.
    """
    inner, event_id, member_id = event.event, event.id, event.member_id
    return (
        (type(inner) is AgentEvent or type(inner) is ModuleEvent)
        and inner._encoded is not None
        and type(event_id) is str
        and event_id.isascii()
        and (member_id is None or (type(member_id) is str and member_id.isascii()))
        and type(event.seq) is int
        and type(event.timestamp_ms) is int
        and 1 <= event.seq <= MAX_STORED
        and 0 <= event.timestamp_ms <= MAX_STORED
    )


def seal_persisted(event: PersistedEvent) -> PersistedEvent:
    """A copy of ``event`` that shares nothing mutable with it, checked in full.

    Raises:
      CodecError: a field is malformed.
    """
    check_persisted(event)
    return persisted_event(
        event.id, event.seq, event.timestamp_ms, event.member_id, seal_event(event.event, "event.")
    )


def check_persisted(event: PersistedEvent) -> None:
    """Check what ``event`` adds to the event in it.

    Raises:
      CodecError: a field is malformed.
    """
    _require_text(event.id, "id")
    _require_int(event.seq, "seq")
    _require_int(event.timestamp_ms, "timestamp_ms")
    if event.member_id is not None:
        _require_text(event.member_id, "member_id")


class _Scopes(msgspec.Struct, gc=False):
    """The scope keys of a payload that is an object; the rest of it is skipped, not built."""

    identity: str | None = None
    mob_id: str | None = None
    run_id: str | None = None
    step_id: str | None = None


class _AnyScopes(msgspec.Struct):
    """The same for payloads in which one of them is not text, and so does not count."""

    identity: Any = None
    mob_id: Any = None
    run_id: Any = None
    step_id: Any = None


_decode_scopes: Final = msgspec.json.Decoder(_Scopes).decode
_decode_any_scopes: Final = msgspec.json.Decoder(_AnyScopes).decode
_NO_SCOPES: Final = (None,) * len(SCOPES)


def scopes_of(encoded: bytes | str) -> tuple[str | None, str | None, str | None, str | None]:
    """``identity``, ``mob_id``, ``run_id`` and ``step_id`` of an encoded payload, None where absent.

    Only string values at the top level of an object count (see :class:`EventQuery`).
    """
    if encoded[:1] not in (b"{", "{"):
        return cast("tuple[None, None, None, None]", _NO_SCOPES)
    try:
        found = _decode_scopes(encoded)
    except msgspec.ValidationError:
        any_found = _decode_any_scopes(encoded)
        values = (any_found.identity, any_found.mob_id, any_found.run_id, any_found.step_id)
        identity, mob_id, run_id, step_id = (value if type(value) is str else None for value in values)
        return identity, mob_id, run_id, step_id
    return found.identity, found.mob_id, found.run_id, found.step_id


# --- the wire form --------------------------------------------------------------------------------


def _structure_int(value: object, _type: object) -> int:
    if type(value) is not int:
        msg = f"expected an integer, got {_named(value)}"
        raise TypeError(msg)
    if not 0 <= value <= MAX_U64:
        msg = f"expected 0 to 2**64 - 1, got {_integer(value)}"
        raise ValueError(msg)
    return value


def _structure_text(value: object, _type: object) -> str:
    if type(value) is not str:
        msg = f"expected a string, got {_named(value)}"
        raise TypeError(msg)
    _check_text(value)
    return value


def _structure_texts(value: object, _type: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if type(value) is not list:
        msg = f"expected a list of strings, got {_named(value)}"
        raise TypeError(msg)
    for index, item in enumerate(value):
        if type(item) is not str:
            msg = f"expected a list of strings, got {_named(item)} at index {index}"
            raise TypeError(msg)
        _check_text(item)
    return tuple(value)


def _require_object(value: object) -> dict[str, Any]:
    if type(value) is not dict:
        msg = f"expected an object, got {_named(value)}"
        raise TypeError(msg)
    return value


@cache
def _converter() -> cattrs.Converter:
    # Made on first use: it takes as long as importing half of this package.
    converter = make_converter()
    # All integers of the model are unsigned and of 64 bits.
    converter.register_structure_hook(int, _structure_int)
    converter.register_structure_hook(str, _structure_text)
    converter.register_structure_hook_func(lambda cls: cls == tuple[str, ...], _structure_texts)

    def register(
        cls: type, structure: Callable[..., Any], unstructure: Callable[[Any], dict[str, Any]]
    ) -> None:
        converter.register_structure_hook(cls, lambda value, cls: structure(_require_object(value), cls))
        converter.register_unstructure_hook(cls, unstructure)

    structure_module = make_dict_structure_fn(ModuleEvent, converter)

    def structure_module_event(value: dict[str, Any], cls: type[ModuleEvent]) -> ModuleEvent:
        # A module event always carries a payload, though the constructor lets a program omit it.
        if "payload" not in value:
            msg = "payload: required field is missing"
            raise ValueError(msg)
        return structure_module(value, cls)

    # Payloads pass through untouched: as text where sealed, never field by field.
    bare_agent = make_dict_unstructure_fn(AgentEvent, converter, payload=override(omit=True))
    bare_module = make_dict_unstructure_fn(ModuleEvent, converter, payload=override(omit=True))

    def unstructure_agent_event(event: AgentEvent) -> dict[str, Any]:
        fields = bare_agent(event)
        encoded = encoded_payload(event)
        if encoded not in (b"null", "null"):
            fields["payload"] = msgspec.Raw(encoded)
        return fields

    def unstructure_module_event(event: ModuleEvent) -> dict[str, Any]:
        return {**bare_module(event), "payload": msgspec.Raw(encoded_payload(event))}

    register(AgentEvent, make_dict_structure_fn(AgentEvent, converter), unstructure_agent_event)
    register(ModuleEvent, structure_module_event, unstructure_module_event)

    kinds: dict[type, str] = {AgentEvent: "agent", ModuleEvent: "module"}
    configure_tagged_union(UnifiedEvent, converter, kinds.__getitem__, tag_name="kind")
    structure_tagged = converter.get_structure_hook(UnifiedEvent)
    unstructure_tagged = converter.get_unstructure_hook(UnifiedEvent)

    def structure_event(value: object, cls: Any) -> UnifiedEvent:
        fields = _require_object(value)
        if "kind" not in fields:
            msg = "kind: required field is missing"
            raise ValueError(msg)
        if fields["kind"] not in ("agent", "module"):
            msg = f"kind: expected 'agent' or 'module', got {_named(fields['kind'])}"
            raise ValueError(msg)
        return cast("UnifiedEvent", structure_tagged(fields, cls))

    def unstructure_event(event: UnifiedEvent) -> dict[str, Any]:
        # The ancestor writes the kind first.
        fields = unstructure_tagged(event)
        return {"kind": fields.pop("kind"), **fields}

    converter.register_structure_hook(UnifiedEvent, structure_event)
    converter.register_unstructure_hook(UnifiedEvent, unstructure_event)

    structure_persisted = make_dict_structure_fn(PersistedEvent, converter)

    def structure_persisted_event(value: dict[str, Any], cls: type[PersistedEvent]) -> PersistedEvent:
        return structure_persisted({"member_id": None, **value}, cls)

    register(
        PersistedEvent,
        structure_persisted_event,
        make_dict_unstructure_fn(PersistedEvent, converter),
    )
    register(
        EventEnvelope,
        make_dict_structure_fn(EventEnvelope, converter),
        make_dict_unstructure_fn(EventEnvelope, converter),
    )
    register(
        EventQuery,
        make_dict_structure_fn(EventQuery, converter),
        make_dict_unstructure_fn(EventQuery, converter, _cattrs_omit_if_default=True),
    )
    return converter


_UNIONS: Final[dict[object, Any]] = {AgentEvent: UnifiedEvent, ModuleEvent: UnifiedEvent}
"""Classes that travel as a member of a union, with their ``kind``."""

_TYPES: Final = (AgentEvent, ModuleEvent, EventEnvelope, PersistedEvent, EventQuery)
"""Classes that have a wire form."""


def to_json(obj: UnifiedEvent | EventEnvelope | PersistedEvent | EventQuery) -> bytes:
    """The wire form of ``obj``: compact JSON in UTF-8.

    Payloads are JSON: None, bool, int (-2**63 to 2**64 - 1), finite float, str without lone
    surrogates, list, and dict with str keys, at most 200 levels deep. Nothing is coerced: a value
    that would not come back equal (a tuple, NaN, a datetime, an instance of a class of yours) is
    refused.

    Raises:
      CodecError: a field holds something that the wire form cannot carry; ``path`` names it.
      TypeError: ``obj`` is none of the types above.
    """
    cls = type(obj)
    if cls not in _TYPES:
        msg = f"cannot encode {cls.__name__}: it is no event, envelope or query"
        raise TypeError(msg)
    _check(obj)
    return _encode(_converter().unstructure(obj, unstructure_as=_UNIONS.get(cls, cls)))


@overload
def from_json(data: bytes | str, type: type[T]) -> T: ...
@overload
def from_json(data: bytes | str, type: UnionType) -> UnifiedEvent: ...
def from_json(data: bytes | str, type: Any) -> Any:  # noqa: A002 - the name that a caller expects
    """Read the wire form of a ``type``.

    Unknown fields are ignored, so that a newer writer can be read; everything else that is malformed
    is an error, a field that appears twice included.

    Args:
      data: JSON text, as UTF-8 or as a string.
      type: :class:`AgentEvent`, :class:`ModuleEvent`, ``UnifiedEvent`` (either of them),
        :class:`EventEnvelope`, :class:`PersistedEvent` or :class:`EventQuery`.

    Raises:
      CodecError: the text is not JSON, or not that of a ``type``; ``path`` names the field.
      TypeError: ``type`` is none of the types above.
    """
    wanted: Any = type
    if wanted not in _TYPES and wanted != UnifiedEvent:
        msg = f"cannot decode {wanted!r}: it is no event, envelope or query"
        raise TypeError(msg)
    value = _parse(data)
    try:
        result: Any = _converter().structure(value, _UNIONS.get(wanted, wanted))
    except Exception as exc:
        raise codec_error(exc) from exc
    _check(result)
    if wanted in _UNIONS and not isinstance(result, wanted):
        expected, found = ("agent", "module") if wanted is AgentEvent else ("module", "agent")
        raise CodecError("kind", f"expected {expected!r}, got {found!r}")
    return result


def _check(obj: UnifiedEvent | EventEnvelope | PersistedEvent | EventQuery) -> None:
    """Check every field of ``obj`` down to its payload: what the constructors, and the parser, let pass.

    The parser lets lone surrogates and numbers beyond JSON's common range through.
    """
    if isinstance(obj, EventEnvelope):
        _require_text(obj.event_id, "event_id")
        _require_text(obj.source, "source")
        _require_int(obj.timestamp_ms, "timestamp_ms")
        seal_event(obj.event, "event.")
    elif isinstance(obj, PersistedEvent):
        check_persisted(obj)
        seal_event(obj.event, "event.")
    elif not isinstance(obj, EventQuery):  # a query checks itself
        seal_event(obj)


def codec_error(exc: Exception) -> CodecError:
    """cattrs raises groups of errors, which must not cross a nursery: make one plain error of them."""
    found = cattrs.transform_error(exc, path="", format_exception=_format)
    first, *others = (_split(line) for line in found)
    path, reason = first
    if others:
        reason += "".join(f"; {path}: {reason}" for path, reason in others)
    return CodecError(path, reason)


def _format(exc: BaseException, _type: Any) -> str:
    if isinstance(exc, KeyError):
        return "required field is missing"
    return str(exc)


def _split(line: str) -> tuple[str, str]:
    reason, _, path = line.rpartition(" @ ")
    path = path.removeprefix(".")
    # The fields of a union are checked before its members are known: their names come in the reason.
    for field in ("kind", "payload"):
        if reason.startswith(f"{field}: "):
            return f"{path}.{field}".removeprefix("."), reason.removeprefix(f"{field}: ")
    return path, reason


def _parse(data: bytes | str) -> object:
    if isinstance(data, bytes):
        try:
            text = data.decode()
        except UnicodeDecodeError as exc:
            raise CodecError("", f"not UTF-8: {exc.reason} at byte {exc.start}") from exc
    elif isinstance(data, str):
        text = data
    else:
        msg = f"expected bytes or str, got {type(data).__name__}"
        raise TypeError(msg)
    try:
        try:
            return _decoder.decode(text)
        except _RepeatedField:
            steps = _find_repeated(_pairs_decoder.decode(text))
            raise CodecError(_path("", steps).removeprefix("."), "appears twice in one object") from None
    except json.JSONDecodeError as exc:
        raise CodecError("", f"not JSON: {exc}") from exc
    except RecursionError:
        raise CodecError("", f"nested more than {MAX_DEPTH} levels deep") from None


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _RepeatedField
    return fields


class _RepeatedField(Exception):
    """Some object of the text has a field twice; the parser does not know where it is."""


def _find_repeated(value: object) -> list[str | int]:
    """The steps that lead to a field that appears twice, last first; objects are tuples of pairs."""
    items: Any = ()
    seen: set[str | int] = set()
    if type(value) is tuple:
        items = value
    elif type(value) is list:
        items = enumerate(value)
    for step, item in items:
        if step in seen:
            return [step]
        seen.add(step)
        if steps := _find_repeated(item):
            return [*steps, step]
    return []


def _parse_int(digits: str) -> int | float:
    # Turning a very long number into an int takes quadratic time. As an infinite float it is refused
    # where every number out of range is refused: by the field that holds it, which names itself.
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


_MAX_DIGITS: Final = len(str(MIN_INT)) + 1

# NaN, Infinity and numbers too large for a float pass here for the same reason.
_decoder: Final = json.JSONDecoder(object_pairs_hook=_unique_fields, parse_int=_parse_int)
_pairs_decoder: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_int=_parse_int)
