"""The converter between JSON and fields of a program's own classes, and what it keeps of their values."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import partial
from typing import Any, Final, get_args, get_origin
from uuid import UUID

import attrs
import cattrs
from cattrs.cols import defaultdict_structure_factory, is_defaultdict, is_mapping
from cattrs.gen import make_mapping_structure_fn, make_mapping_unstructure_fn
from cattrs.strategies import configure_union_passthrough

from trio_eventlog._model._errors import CodecError


def has_fields(cls: object) -> bool:
    return isinstance(cls, type) and (attrs.has(cls) or dataclasses.is_dataclass(cls))


def field_names(cls: Any) -> list[str]:
    return [field.name for field in _fields(cls)]


# --- what is kept ---------------------------------------------------------------------------------


def require_equal(read: object, instance: object, cls: Any) -> None:
    if _is_equal(read, instance):
        return
    for field in _fields(cls):
        wrote, found = getattr(instance, field.name, _MISSING), getattr(read, field.name, _MISSING)
        if not _is_equal(_essence_of_field(found, field), _essence_of_field(wrote, field)):
            raise CodecError(
                f"payload.{field.name}", f"{_shown(wrote)} would be read back as {_shown(found)}"
            )
    raise CodecError(
        "payload", f"{_shown(instance)} would be read back as {_shown(read)}, which is not equal"
    )


_MISSING: Final = object()


def _fields(cls: Any) -> tuple[Any, ...]:
    return attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)


def _is_equal(one: object, other: object) -> bool:
    try:
        return bool(_essence(one) == _essence(other))
    except Exception:  # noqa: BLE001 - a foreign ==, or a signalling NaN, may raise anything
        return False


def _shown(value: object) -> str:
    try:
        return f"{value!r:.100}"
    except Exception:  # noqa: BLE001 - a foreign repr may raise anything
        return f"<{type(value).__name__} that cannot be shown>"


def _essence(value: object) -> object:
    """Something that is equal for two values of which one may come back for the other."""
    if isinstance(value, datetime | time):
        offset = value.utcoffset()
        wall = value.replace(tzinfo=None)
        # With an offset, two moments can be compared, whatever zones they come from; == does not do that in
        # the hours that a zone has twice, or not at all. Without one, nothing says which of two was meant.
        return (wall, offset) if offset is not None else (wall, value.fold, value.tzinfo)
    kind = type(value)
    if has_fields(kind) and kind.__eq__ is not object.__eq__:
        values = ((getattr(value, field.name, _MISSING), field) for field in _fields(kind))
        return kind, tuple(_essence_of_field(of_field, field) for of_field, field in values)
    if isinstance(value, dict):
        return {_essence(key): _essence(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return frozenset(map(_essence, value))
    if isinstance(value, list):
        return list(map(_essence, value))
    return tuple(map(_essence, value)) if isinstance(value, tuple) else value


def _essence_of_field(value: object, field: Any) -> object:
    # attrs lets a field say how it is compared.
    eq_key = getattr(field, "eq_key", None)
    return _essence(value) if eq_key is None else eq_key(value)


# --- the converter --------------------------------------------------------------------------------


def make_event_converter() -> cattrs.Converter:
    """The converter that :class:`EventTypes` uses by default, to register further hooks with."""
    converter = cattrs.Converter(
        # JSON has one kind of collection, and a tuple would not come back as an equal value.
        unstruct_collection_overrides={AbstractSet: list, Sequence: list, tuple: list, Mapping: dict}
    )
    for primitive in (str, bool, int, float):
        converter.register_structure_hook(primitive, _strictly(primitive))
    for primitive in (str, int, float):
        # An enum may be a subclass of one of them.
        converter.register_unstructure_hook(
            primitive, lambda value: value.value if isinstance(value, Enum) else value
        )
    configure_union_passthrough(str | bool | int | float | None, converter)
    for cls, to_text, from_text in _AS_TEXT:
        converter.register_unstructure_hook(cls, to_text)
        converter.register_structure_hook(cls, _from_text(from_text))
    # The keys of JSON objects are strings.
    converter.register_unstructure_hook_factory(_has_integer_keys, _integer_keys_to_text)
    converter.register_structure_hook_factory(_has_integer_keys, _integer_keys_from_text)
    # A value without a type is passed on as it is, and must not be shared with the event.
    converter.register_structure_hook_func(lambda cls: cls is Any, lambda value, _: deepcopy(value))
    converter.register_unstructure_hook(timedelta, _seconds)
    converter.register_structure_hook(
        timedelta, lambda value, _: timedelta(seconds=_strictly(float)(value, float))
    )
    return converter


def _has_integer_keys(cls: Any) -> bool:
    if not is_mapping(cls) or not (arguments := get_args(cls)):
        return False
    key = arguments[0]
    if isinstance(key, type) and issubclass(key, Enum):
        return all(type(member.value) is int for member in key)
    return key is int


def _integer_keys_to_text(cls: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
    key_type = get_args(cls)[0]

    def to_text(key: object, _type: object = None) -> object:
        unstructured = converter.unstructure(key, unstructure_as=key_type)
        return str(unstructured) if type(unstructured) is int else unstructured

    return make_mapping_unstructure_fn(cls, converter, unstructure_to=dict, key_handler=to_text)


def _integer_keys_from_text(cls: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    origin: Any = get_origin(cls)
    if is_defaultdict(cls):
        structure: Callable[[Any, Any], Any] = defaultdict_structure_factory(cls, converter)
    else:
        to = origin if issubclass(origin, dict) else dict
        structure = make_mapping_structure_fn(cls, converter, structure_to=to)

    def from_text(value: Any, wanted: Any) -> Any:
        if type(value) is dict:
            value = {int(key) if _INTEGER.fullmatch(key) else key: item for key, item in value.items()}
        return structure(value, wanted)

    return from_text


_INTEGER: Final = re.compile("0|-?[1-9][0-9]{0,19}")
"""As Python writes integers, and no longer than those of payloads."""


def _strictly(cls: Any) -> Callable[[Any, Any], Any]:
    def structure(value: Any, wanted: Any) -> object:
        if isinstance(wanted, type) and issubclass(wanted, Enum):
            return wanted(value)
        # A program may set a field that is annotated as float to an int.
        if type(value) is not cls and not (cls is float and type(value) is int):
            raise TypeError(f"expected {cls.__name__}, got {value!r:.50}")
        return cls(value)

    return structure


def _from_text(parse: Callable[[str], object]) -> Callable[[Any, Any], Any]:
    def structure(value: object, _type: object) -> object:
        if type(value) is not str:
            raise TypeError(f"expected text, got {value!r:.50}")
        try:
            return parse(value)
        except (InvalidOperation, binascii.Error) as exc:
            raise ValueError(f"malformed: {value!r:.50}") from exc

    return structure


_FOLD: Final = "[fold=1]"
"""After a time without an offset: the second of the two, when clocks are set back."""


def _to_iso(value: datetime | time) -> str:
    return value.isoformat() + (_FOLD if value.fold and value.utcoffset() is None else "")


def _from_iso(cls: type[datetime | time], text: str) -> datetime | time:
    plain = text.removesuffix(_FOLD)
    value = cls.fromisoformat(plain)
    return value if plain == text else value.replace(fold=1)


def _seconds(value: timedelta) -> float:
    seconds = value.total_seconds()
    with suppress(OverflowError):
        if timedelta(seconds=seconds) == value:
            return seconds
    raise ValueError(f"{value!r} is too long to be kept to the microsecond")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_AS_TEXT: Final[tuple[tuple[type, Callable[[Any], str], Callable[[str], object]], ...]] = (
    (datetime, _to_iso, partial(_from_iso, datetime)),
    (date, date.isoformat, date.fromisoformat),
    (time, _to_iso, partial(_from_iso, time)),
    (UUID, str, UUID),
    (Decimal, str, Decimal),
    (bytes, _encoded, _decoded),
)
