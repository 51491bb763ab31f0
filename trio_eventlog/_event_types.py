"""Classes of a program as events. Floor 1: pure."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar, overload
from uuid import UUID

import attrs
import cattrs
from cattrs.strategies import configure_union_passthrough

from trio_eventlog._codec import codec_error
from trio_eventlog._errors import CodecError
from trio_eventlog._events import AgentEvent, EventEnvelope, ModuleEvent, PersistedEvent

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
    :class:`~datetime.date` and :class:`~datetime.time` (ISO 8601), :class:`~uuid.UUID`,
    :class:`~decimal.Decimal`, :class:`bytes` (Base64), :class:`~pathlib.Path`. A :class:`~datetime.timedelta`
    becomes seconds, an enum its value, a set or a tuple a list, an attrs class or dataclass an object. What
    is read must be of the type that the field says; nothing is coerced. A ``Sequence`` is read as a tuple.

    Args:
      module: the module of the events.
      converter: what makes JSON of fields and fields of JSON, for those who register hooks of their own; by
        default one that knows the types above.
      check: whether :meth:`wrap` makes sure that what it has made can be read back as an equal instance. That
        costs as much again, and finds what no type checker has seen: a field of another type than it says, an
        instance of a subclass whose further fields would be left out.

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
        """An event that carries ``instance``.

        What is no JSON, such as NaN, is refused by :meth:`EventLog.ingest`, by the name of the field.

        Raises:
          LookupError: its class is not registered.
          TypeError: a field is of a type of which the converter could not make an instance again.
          CodecError: a field cannot be turned into JSON, or the instance would not come back equal.
        """
        event_type = self._registered(type(instance))
        self._require_readable(event_type)
        try:
            payload = self._converter.unstructure(instance, unstructure_as=event_type.cls)
        except Exception as exc:
            raise CodecError("payload", f"{event_type.cls.__name__} cannot become JSON: {exc}") from exc
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
    if read == instance:
        return
    fields = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    for field in fields:
        wrote, found = getattr(instance, field.name), getattr(read, field.name)
        if wrote != found:
            raise CodecError(f"payload.{field.name}", f"{wrote!r:.100} would be read back as {found!r:.100}")
    raise CodecError("payload", f"{instance!r:.100} would be read back as {read!r:.100}, which is not equal")


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
    converter.register_unstructure_hook(timedelta, _seconds)
    converter.register_structure_hook(
        timedelta, lambda value, _: timedelta(seconds=_strictly(float)(value, float))
    )
    return converter


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
    (datetime, datetime.isoformat, datetime.fromisoformat),
    (date, date.isoformat, date.fromisoformat),
    (time, time.isoformat, time.fromisoformat),
    (UUID, str, UUID),
    (Decimal, str, Decimal),
    (bytes, _encoded, _decoded),
)
