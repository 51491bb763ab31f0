"""Classes of a program as events. Floor 1: pure."""

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
from typing import Any, Final, TypeAlias, TypeVar, get_args, get_origin, overload
from uuid import UUID

import attrs
import cattrs
from cattrs.cols import defaultdict_structure_factory, is_defaultdict, is_mapping
from cattrs.gen import make_mapping_structure_fn, make_mapping_unstructure_fn
from cattrs.strategies import configure_union_passthrough

from trio_eventlog._model._errors import CodecError
from trio_eventlog._model._events import AgentEvent, EventEnvelope, ModuleEvent, PersistedEvent
from trio_eventlog._model._payload import encode_payload
from trio_eventlog._model._wire import codec_error

T = TypeVar("T")

AnyEvent: TypeAlias = AgentEvent | ModuleEvent | EventEnvelope | PersistedEvent

Upcaster: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the payload of one version into that of the next."""

U = TypeVar("U", bound=Upcaster)

_VERSION: Final = "@version"
"""The key of a payload that holds the version. No field of a class can have such a name."""

_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@attrs.frozen
class _EventType:
    cls: type
    name: str
    version: int


class EventTypes:
    """Lets instances of a program's own classes travel as events.

    ::

        orders = EventTypes(module="orders")

        @orders.event
        @attrs.frozen
        class OrderPlaced:
            order_id: UUID
            total: Decimal
            placed_at: datetime

        log.ingest(orders.wrap(OrderPlaced(...)))
        for event in await log.query():
            match orders.unwrap(event):
                case OrderPlaced(order_id=order_id): ...

    An instance becomes a :class:`ModuleEvent` whose payload has its fields, as cattrs makes JSON of them, and
    ``"@version"`` if its version is not 1. So a field ``run_id: str`` is found by ``EventQuery(run_id=…)``.
    Of the types of fields, those of JSON stay what they are. These become text: :class:`~datetime.datetime`,
    :class:`~datetime.date` and :class:`~datetime.time` (ISO 8601, and
    ``[fold=1]`` behind it if a time without an offset has that), :class:`~uuid.UUID`,
    :class:`~decimal.Decimal`, :class:`bytes` (Base64), :class:`~pathlib.Path`. A :class:`~datetime.timedelta`
    becomes seconds, an enum its value, a set or a tuple a list, an attrs class or dataclass an object. Keys
    of mappings that are integers become text. What
    is read must be of the type that the field says; nothing is coerced. A ``Sequence`` is read as a tuple.

    Args:
      module: the module of the events.
      converter: what makes JSON of fields and fields of JSON, for those who register hooks of their own; by
        default one that knows the types above.
      check: whether :meth:`wrap` makes sure that what it has made can be read back as an equal instance. That
        costs as much again, and finds what no type checker has seen: a field of another type than it says, an
        instance of a subclass whose further fields would be left out, a field that is not written (``init``
        is false) and would not come back as it is. All fields count, also those that ``==`` does not look at,
        and so does ``fold`` of a time without an offset. Of a time with one, the moment and the offset do.

    Raises:
      TypeError: ``module`` is no text.
    """

    def __init__(self, module: str, *, converter: cattrs.Converter | None = None, check: bool = True) -> None:
        if not isinstance(module, str):
            msg = f"module: expected a str, got {type(module).__name__}"
            raise TypeError(msg)
        self._module = module
        self._converter = make_event_converter() if converter is None else converter
        self._check = check
        self._by_class: dict[type, _EventType] = {}
        self._by_name: dict[str, _EventType] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}
        self._ready: set[type] = set()

    def __repr__(self) -> str:
        return f"<EventTypes {self._module!r}: {', '.join(self._by_name) or 'none'}>"

    # --- registering ------------------------------------------------------------------------------

    @overload
    def event(self, cls: type[T], /) -> type[T]: ...
    @overload
    def event(self, /, *, name: str | None = None, version: int = 1) -> Callable[[type[T]], type[T]]: ...
    def event(
        self, cls: type[T] | None = None, /, *, name: str | None = None, version: int = 1
    ) -> type[T] | Callable[[type[T]], type[T]]:
        """Register an attrs class or dataclass; a decorator, with arguments or without.

        Args:
          cls: the class, which is returned unchanged.
          name: the type of its events; by default the name of the class in snake case.
          version: raise it when the fields change so that old payloads cannot be read any more, and register
            an :meth:`upcaster` for them. 1 or more.

        Raises:
          TypeError: it is no such class, or an argument is of the wrong type.
          ValueError: the class or the name is registered already, or ``version`` is less than 1.
        """
        if name is not None and not isinstance(name, str):
            msg = f"name: expected a str, got {type(name).__name__}"
            raise TypeError(msg)
        _check_version("version", version)

        def register(cls: type[T]) -> type[T]:
            if not _has_fields(cls):
                msg = f"expected an attrs class or a dataclass, got {cls!r:.100}"
                raise TypeError(msg)
            event_type = _EventType(
                cls, _WORDS.sub("_", cls.__name__).lower() if name is None else name, version
            )
            if cls in self._by_class:
                msg = f"{cls.__name__} is registered already, as {self._by_class[cls].name!r}"
                raise ValueError(msg)
            if event_type.name in self._by_name:
                other = self._by_name[event_type.name].cls
                msg = f"{event_type.name!r} is {other.__name__} already; give {cls.__name__} another name"
                raise ValueError(msg)
            self._by_class[cls] = self._by_name[event_type.name] = event_type
            return cls

        return register if cls is None else register(cls)

    def upcaster(self, name: str | type, from_version: int) -> Callable[[U], U]:
        """Register what turns a payload of an older version into the next version; a decorator.

        ::

            @orders.upcaster("order_placed", from_version=1)
            def _(payload: dict[str, Any]) -> dict[str, Any]:
                return {**payload, "currency": "EUR"}

        Args:
          name: the type of the events, or the class that is registered for it.
          from_version: the version that the function reads. Several are called in turn.

        Raises:
          ValueError: there is one already, or ``from_version`` is less than 1.
          TypeError: an argument is of the wrong type.
          LookupError: the class is not registered.
        """
        event_name = name if isinstance(name, str) else self._registered(name).name
        _check_version("from_version", from_version)

        def register(upcaster: U) -> U:
            if (event_name, from_version) in self._upcasters:
                msg = f"{event_name!r} has an upcaster from version {from_version} already"
                raise ValueError(msg)
            self._upcasters[event_name, from_version] = upcaster
            return upcaster

        return register

    def names(self, *classes: type) -> tuple[str, ...]:
        """The event types of classes, for ``EventQuery(event_types=…)``; without arguments, all of them.

        Raises:
          LookupError: a class is not registered.
        """
        if not classes:
            return tuple(self._by_name)
        return tuple(self._registered(cls).name for cls in classes)

    def _registered(self, cls: type) -> _EventType:
        event_type = self._by_class.get(cls)
        if event_type is None:
            msg = f"{getattr(cls, '__name__', repr(cls))} is not registered with {self!r}"
            raise LookupError(msg)
        return event_type

    # --- there and back ---------------------------------------------------------------------------

    def wrap(self, instance: object) -> ModuleEvent:
        """An event that carries ``instance``. What this takes, :meth:`EventLog.ingest` takes, up to its size.

        Raises:
          LookupError: its class is not registered.
          TypeError: a field is of a type of which the converter could not make an instance again.
          CodecError: a field cannot be turned into JSON, as NaN, or the instance would not come back equal;
            the message names the field.
        """
        event_type = self._registered(type(instance))
        self._require_readable(event_type)
        try:
            payload = self._converter.unstructure(instance, unstructure_as=event_type.cls)
        except Exception as exc:
            raise CodecError("payload", f"{event_type.cls.__name__} cannot become JSON: {exc}") from exc
        if type(payload) is not dict:
            found = type(payload).__name__
            raise CodecError(
                "payload", f"expected a dict of {event_type.cls.__name__}, the converter made {found}"
            )
        encode_payload(payload)
        if self._check:
            _require_equal(self._structured(payload, event_type), instance, event_type.cls)
        if event_type.version > 1:
            payload[_VERSION] = event_type.version
        return ModuleEvent(self._module, event_type.name, payload)

    @overload
    def unwrap(self, event: AnyEvent) -> object: ...
    @overload
    def unwrap(self, event: AnyEvent, cls: type[T]) -> T: ...
    def unwrap(self, event: AnyEvent, cls: type[T] | None = None) -> object:
        """The instance that an event carries.

        An event that is none of these types is handed back as it is; so is one of a version for which there
        is no upcaster, or that is newer than the class.

        Args:
          event: what was read, or made.
          cls: what it must be.

        Returns:
          An instance of a registered class, or ``event``.

        Raises:
          CodecError: the payload is not that of the class, or, with ``cls``, the event is another one.
          TypeError: as :meth:`wrap`.
          Exception: what an upcaster raises.
        """
        instance = self._unwrap(event)
        if cls is None or isinstance(instance, cls):
            return instance
        expected = self._registered(cls)
        found = _inner(event)
        version = self._version_of(found) if expected.name == found.event_type else None
        shown = f"{found.event_type!r}" + (f" version {version}" if version is not None else "")
        raise CodecError(
            "event_type",
            f"expected {expected.name!r} version {expected.version} of {self._module!r}, got {shown}",
        )

    def _unwrap(self, event: AnyEvent) -> object:
        inner = _inner(event)
        if not isinstance(inner, ModuleEvent) or inner.module != self._module:
            return event
        event_type = self._by_name.get(inner.event_type)
        if event_type is None:
            return event
        payload = inner.payload
        if not isinstance(payload, dict):
            raise CodecError("payload", f"expected an object for {event_type.name!r}, got {payload!r:.50}")
        version = self._version_of(inner)
        payload = {key: value for key, value in payload.items() if key != _VERSION}
        if version < event_type.version:
            # Upcasters may change it in place, however deep.
            payload = deepcopy(payload)
        while version < event_type.version:
            upcaster = self._upcasters.get((event_type.name, version))
            if upcaster is None:
                return event
            payload = upcaster(payload)
            if not isinstance(payload, dict):
                msg = f"the upcaster of {event_type.name!r} from version {version} returned no dict"
                raise TypeError(msg)
            version += 1
        if version > event_type.version:
            return event
        self._require_readable(event_type)
        return self._structured(payload, event_type)

    def _structured(self, payload: dict[str, Any], event_type: _EventType) -> object:
        try:
            return self._converter.structure(payload, event_type.cls)
        except Exception as exc:
            error = codec_error(exc)
            path = error.path if error.path.startswith("[") or not error.path else f".{error.path}"
            raise CodecError(f"payload{path}", error.reason) from exc

    def _version_of(self, event: AgentEvent | ModuleEvent) -> int:
        payload = event.payload
        version: object = payload.get(_VERSION, 1) if isinstance(payload, dict) else 1
        if type(version) is not int or version < 1:
            raise CodecError(
                f"payload[{_VERSION!r}]", f"expected a version of 1 or more, got {version!r:.50}"
            )
        return version

    def _require_readable(self, event_type: _EventType) -> None:
        """Before the first event is written of what nobody could read."""
        if event_type.cls in self._ready:
            return
        try:
            self._converter.get_structure_hook(event_type.cls)
        except Exception as exc:
            msg = f"{event_type.cls.__name__} could not be read back: {exc}"
            raise TypeError(msg) from exc
        self._ready.add(event_type.cls)


def _inner(event: AnyEvent) -> AgentEvent | ModuleEvent:
    inner = event.event if isinstance(event, EventEnvelope | PersistedEvent) else event
    if not isinstance(inner, AgentEvent | ModuleEvent):
        msg = f"event: expected an event, or what carries one, got {type(event).__name__}"
        raise TypeError(msg)
    return inner


def _has_fields(cls: object) -> bool:
    return isinstance(cls, type) and (attrs.has(cls) or dataclasses.is_dataclass(cls))


def _require_equal(read: object, instance: object, cls: Any) -> None:
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
    except Exception:  # noqa: BLE001 - of a stranger's ==, or of a signalling NaN
        return False


def _shown(value: object) -> str:
    try:
        return f"{value!r:.100}"
    except Exception:  # noqa: BLE001 - of a stranger's repr
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
    if _has_fields(kind) and kind.__eq__ is not object.__eq__:
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


def _check_version(name: str, version: object) -> None:
    if type(version) is not int:
        msg = f"{name}: expected an int, got {type(version).__name__}"
        raise TypeError(msg)
    if version < 1:
        msg = f"{name}: expected 1 or more, got {version}"
        raise ValueError(msg)


# --- the converter --------------------------------------------------------------------------------


def make_event_converter() -> cattrs.Converter:
    """A converter as :class:`EventTypes` has it by default, to register further hooks with."""
    converter = cattrs.Converter(
        # Of collections JSON has one, and a tuple would not come back as an equal value.
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
    # The keys of objects are text.
    converter.register_unstructure_hook_factory(_has_integer_keys, _integer_keys_to_text)
    converter.register_structure_hook_factory(_has_integer_keys, _integer_keys_from_text)
    # What has no type is handed on as it is; it shall not be shared with the event.
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
"""As Python writes them, and no longer than those of payloads."""


def _strictly(cls: Any) -> Callable[[Any, Any], Any]:
    def structure(value: Any, wanted: Any) -> object:
        if isinstance(wanted, type) and issubclass(wanted, Enum):
            return wanted(value)
        # An int field may be annotated as float, and was written by whoever set it to an int.
        if type(value) is not cls and not (cls is float and type(value) is int):
            msg = f"expected {cls.__name__}, got {value!r:.50}"
            raise TypeError(msg)
        return cls(value)

    return structure


def _from_text(parse: Callable[[str], object]) -> Callable[[Any, Any], Any]:
    def structure(value: object, _type: object) -> object:
        if type(value) is not str:
            msg = f"expected text, got {value!r:.50}"
            raise TypeError(msg)
        try:
            return parse(value)
        except (InvalidOperation, binascii.Error) as exc:
            msg = f"malformed: {value!r:.50}"
            raise ValueError(msg) from exc

    return structure


_FOLD: Final = "[fold=1]"
"""After a time without an offset: the second of the two that there are when clocks are set back."""


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
    msg = f"{value!r} is too long to be kept to the microsecond"
    raise ValueError(msg)


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
