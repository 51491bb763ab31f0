"""The wire form: compact JSON, as the Rust crate meerkat-mobkit writes it.

The kind of an event is in a field ``kind``, and absent options are left out. Structuring is composed of
cattrs hooks; the text is read by the standard library, which notices a field that appears twice, and written
by msgspec.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Final, TypeVar, cast, overload

import cattrs
import msgspec
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import make_converter

from trio_eventlog._model._base_errors import CodecError
from trio_eventlog._model._checks import (
    check_string,
    check_unsigned,
    path_of,
    require_integer,
    require_string,
    shown,
)
from trio_eventlog._model._events import (
    AgentEvent,
    EventEnvelope,
    ModuleEvent,
    PersistedEvent,
    UnifiedEvent,
    source_of,
)
from trio_eventlog._model._payload import MAX_DEPTH, MIN_INT, encode
from trio_eventlog._model._query import EventQuery
from trio_eventlog._model._sealed import check_persisted, encoded_payload, seal_event

T = TypeVar("T")


def _structure_strings(value: object, _type: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if type(value) is not list:
        raise TypeError(f"expected a list of strings, got {shown(value)}")
    for index, item in enumerate(cast("list[object]", value)):
        if type(item) is not str:
            raise TypeError(f"expected a list of strings, got {shown(item)} at index {index}")
        check_string(item)
    return tuple(value)


def _structure_fields(value: object, _type: object) -> dict[str, Any] | None:
    # What is in it is checked by the query.
    return None if value is None else _require_object(value)


def _require_object(value: object) -> dict[str, Any]:
    if type(value) is not dict:
        raise TypeError(f"expected an object, got {shown(value)}")
    return value


@cache
def _converter() -> cattrs.Converter:
    # Made on first use: it takes as long as importing half of this package does.
    converter = make_converter()
    # All integers of the model are unsigned and have 64 bits.
    converter.register_structure_hook(int, lambda value, _cls: check_unsigned(value))
    converter.register_structure_hook(str, lambda value, _cls: check_string(value))
    converter.register_structure_hook_func(lambda cls: cls == tuple[str, ...], _structure_strings)
    converter.register_structure_hook_func(lambda cls: cls == Mapping[str, Any], _structure_fields)
    _register(converter, AgentEvent, unstructure=_unstructure_payload(converter, AgentEvent))
    _register(
        converter,
        ModuleEvent,
        # A module event always carries a payload, though the constructor lets a program omit it.
        structure=_require_field("payload", make_dict_structure_fn(ModuleEvent, converter)),
        unstructure=_unstructure_payload(converter, ModuleEvent),
    )
    converter.register_structure_hook(
        UnifiedEvent,
        _require_field("kind", lambda fields, _cls: converter.structure(fields, _class_of(fields["kind"]))),
    )
    # The kind comes first, as in the original.
    converter.register_unstructure_hook(
        UnifiedEvent, lambda event: {"kind": source_of(event), **converter.unstructure(event)}
    )
    structure_persisted = make_dict_structure_fn(PersistedEvent, converter)
    _register(
        converter,
        PersistedEvent,
        structure=lambda fields, cls: structure_persisted({"member_id": None, **fields}, cls),
    )
    _register(converter, EventEnvelope)
    _register(
        converter,
        EventQuery,
        unstructure=make_dict_unstructure_fn(
            EventQuery, converter, _cattrs_omit_if_default=True, fields=override(unstruct_hook=dict)
        ),
    )
    return converter


def _register(
    converter: cattrs.Converter,
    cls: type,
    *,
    structure: Callable[[dict[str, Any], Any], Any] | None = None,
    unstructure: Callable[[Any], dict[str, Any]] | None = None,
) -> None:
    make = make_dict_structure_fn(cls, converter) if structure is None else structure
    converter.register_structure_hook(cls, lambda value, cls: make(_require_object(value), cls))
    converter.register_unstructure_hook(
        cls, make_dict_unstructure_fn(cls, converter) if unstructure is None else unstructure
    )


def _require_field(name: str, structure: Callable[[dict[str, Any], Any], Any]) -> Callable[[Any, Any], Any]:
    def structure_fields(value: object, cls: Any) -> Any:
        fields = _require_object(value)
        if name not in fields:
            raise ValueError(f"{name}: required field is missing")
        return structure(fields, cls)

    return structure_fields


def _class_of(kind: object) -> type[UnifiedEvent]:
    if kind == "agent":
        return AgentEvent
    if kind == "module":
        return ModuleEvent
    raise ValueError(f"kind: expected 'agent' or 'module', got {shown(kind)}")


def _unstructure_payload(
    converter: cattrs.Converter, cls: type[UnifiedEvent]
) -> Callable[[UnifiedEvent], dict[str, Any]]:
    # Payloads pass through untouched: as text where sealed, never field by field.
    unstructure_rest = make_dict_unstructure_fn(cls, converter, payload=override(omit=True))

    def unstructure(event: UnifiedEvent) -> dict[str, Any]:
        fields = unstructure_rest(event)
        encoded = encoded_payload(event)
        if cls is ModuleEvent or encoded not in (b"null", "null"):
            fields["payload"] = msgspec.Raw(encoded)
        return fields

    return unstructure


_UNIONS: Final[dict[object, Any]] = {AgentEvent: UnifiedEvent, ModuleEvent: UnifiedEvent}
"""Classes that are written as a member of a union, with their ``kind``."""

_TYPES: Final = (AgentEvent, ModuleEvent, EventEnvelope, PersistedEvent, EventQuery)
"""Classes that have a wire form."""


def to_json(obj: UnifiedEvent | EventEnvelope | PersistedEvent | EventQuery) -> bytes:
    """The wire form of ``obj``: compact JSON in UTF-8.

    Payloads are JSON: None, bool, int (-2**63 to 2**64 - 1), finite float, str without lone
    surrogates, list, and dict with str keys, at most 200 levels deep. Nothing is coerced: a value that would
    not come back equal (a tuple, NaN, a datetime, an instance of your own class) is refused.

    Raises:
      CodecError: a field holds something that the wire form cannot carry; ``path`` names it.
      TypeError: ``obj`` is none of the types above.
    """
    cls = type(obj)
    if cls not in _TYPES:
        raise TypeError(f"cannot encode {cls.__name__}: it is not an event, envelope or query")
    _check(obj)
    return encode(_converter().unstructure(obj, unstructure_as=_UNIONS.get(cls, cls)))


@overload
def from_json(data: bytes | str, type: type[T]) -> T: ...
@overload
def from_json(data: bytes | str, type: UnionType) -> UnifiedEvent: ...
def from_json(data: bytes | str, type: Any) -> Any:  # noqa: A002 - the name that a caller expects
    """Read the wire form of a ``type``.

    Unknown fields are ignored, so that the output of a newer version can be read. Anything else that is
    malformed is an error, including a field that appears twice.

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
        raise TypeError(f"cannot decode {wanted!r}: it is not an event, envelope or query")
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
    """Check every field of ``obj``, down to its payload.

    Constructors accept anything, and the parser accepts lone surrogates and numbers of any size.
    """
    if isinstance(obj, EventEnvelope):
        require_string(obj.event_id, "event_id")
        require_string(obj.source, "source")
        require_integer(obj.timestamp_ms, "timestamp_ms")
        seal_event(obj.event, "event.")
    elif isinstance(obj, PersistedEvent):
        check_persisted(obj)
        seal_event(obj.event, "event.")
    elif not isinstance(obj, EventQuery):  # a query checks itself
        seal_event(obj)


def codec_error(exc: Exception) -> CodecError:
    """One plain error of what cattrs raises: a group, which must not be mistaken for that of a nursery."""
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
    # These fields of a union are checked before its member is known: their names are in the reason.
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
        raise TypeError(f"expected bytes or str, got {type(data).__name__}")
    try:
        try:
            return _decoder.decode(text)
        except _RepeatedField:
            steps = _find_repeated(_pairs_decoder.decode(text))
            raise CodecError(path_of("", steps).removeprefix("."), "appears twice in one object") from None
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
    """An object of the text has a field twice; the parser does not know where."""


def _find_repeated(value: object) -> list[str | int]:
    """The steps to a field that appears twice; objects are tuples of pairs."""
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
            return [step, *steps]
    return []


def _parse_int(digits: str) -> int | float:
    # Converting a very long number takes quadratic time. An infinite float is refused like any number out of
    # range, by the check of the field that holds it, which names the field.
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


_MAX_DIGITS: Final = len(str(MIN_INT)) + 1

# NaN, Infinity and numbers too large for a float are accepted here for the same reason.
_decoder: Final = json.JSONDecoder(object_pairs_hook=_unique_fields, parse_int=_parse_int)
_pairs_decoder: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_int=_parse_int)
