"""Events as objects of a program's own classes, checked on the way in and on the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final, TypeAlias, TypeVar, overload

import attrs
import cattrs

from trio_eventlog._model._errors import CodecError
from trio_eventlog._model._event_converter import field_names, has_fields, make_event_converter, require_equal
from trio_eventlog._model._events import AgentEvent, EventEnvelope, ModuleEvent, PersistedEvent
from trio_eventlog._model._payload import encode_payload
from trio_eventlog._model._tombstones import is_tombstone
from trio_eventlog._model._wire import codec_error
from trio_eventlog._numbers import check_integer
from trio_eventlog._util import adopt_public_names

__all__ = ["EventTypes", "make_event_converter"]


def __dir__() -> list[str]:
    # What is imported for the module's own use is not offered by completion.
    return __all__


T = TypeVar("T")

AnyEvent: TypeAlias = AgentEvent | ModuleEvent | EventEnvelope | PersistedEvent

Upcaster: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the payload of one version into that of the next."""

U = TypeVar("U", bound=Upcaster)

_VERSION: Final = "@version"
"""The key of the version in a payload. No field can have such a name."""

_MODULE: Final = "@module"
"""The key of the module in the payload of an event that has a member, and so is one of an agent."""

_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@attrs.frozen
class _EventType:
    cls: type
    name: str
    version: int
    member: str | None
    """The field that names the member."""


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

    An instance becomes a :class:`ModuleEvent`, or an :class:`AgentEvent` of its member if it has one, with
    ``"@module"`` in its payload. The payload has the fields of the instance, converted to JSON by cattrs, and
    ``"@version"`` if the version is not 1. So ``EventQuery(run_id=…)`` finds a field ``run_id:
    str``. Values of JSON types stay as they are. These become strings: :class:`~datetime.datetime`,
    :class:`~datetime.date` and :class:`~datetime.time` (ISO 8601, followed by ``[fold=1]`` for a time without
    an offset that has it), :class:`~uuid.UUID`, :class:`~decimal.Decimal`, :class:`bytes` (Base64) and
    :class:`~pathlib.Path`. A :class:`~datetime.timedelta` becomes seconds, an enum its value, a set or a
    tuple a list, an attrs class or dataclass an object. Integer keys of mappings become strings. On reading,
    a value must be of the type that its field is annotated with; nothing is coerced. A ``Sequence`` is read
    as a tuple.

    Args:
      module: the module of the events.
      converter: converts fields to JSON and back. To register hooks of your own, start from
        :func:`make_event_converter`, which makes the default one.
      check: whether :meth:`wrap` makes sure that the event can be read back as an equal instance. This
        doubles its cost, and finds what type checkers miss: a field of another type than its annotation, an
        instance of a subclass whose additional fields would be left out, a field that is not written
        (``init=False``) and would come back with another value. All fields count, also those that ``==``
        ignores, and so does ``fold`` of a time without an offset. Of a time with an offset, the moment and
        the offset count.

    Raises:
      TypeError: ``module`` is not a string.
    """

    def __init__(self, module: str, *, converter: cattrs.Converter | None = None, check: bool = True) -> None:
        if not isinstance(module, str):
            raise TypeError(f"module: expected a str, got {type(module).__name__}")
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
    def event(
        self, /, *, name: str | None = None, version: int = 1, member: str | None = None
    ) -> Callable[[type[T]], type[T]]: ...
    def event(
        self,
        cls: type[T] | None = None,
        /,
        *,
        name: str | None = None,
        version: int = 1,
        member: str | None = None,
    ) -> type[T] | Callable[[type[T]], type[T]]:
        """Register an attrs class or dataclass; a decorator, with arguments or without.

        Args:
          cls: the class, which is returned unchanged.
          name: the type of its events; by default the name of the class in snake case.
          version: 1 or more. Raise it when the fields change so that old payloads can no longer be read, and
            register an :meth:`upcaster` for them.
          member: the field that names the member to which an instance belongs, to find it by ``member_id``.
            Its JSON must be a string, or null for an instance that has none.

        Raises:
          TypeError: it is not such a class, or an argument is of the wrong type.
          ValueError: the class or the name is registered already, ``version`` is less than 1, or there is no
            field ``member``.
        """
        for argument, value in (("name", name), ("member", member)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{argument}: expected a str, got {type(value).__name__}")
        check_integer("version", version, 1)

        def register(cls: type[T]) -> type[T]:
            if not has_fields(cls):
                raise TypeError(f"expected an attrs class or a dataclass, got {cls!r:.100}")
            if member is not None and member not in field_names(cls):
                raise ValueError(f"member: {cls.__name__} has no field {member!r}")
            event_name = _WORDS.sub("_", cls.__name__).lower() if name is None else name
            if cls in self._by_class:
                raise ValueError(f"{cls.__name__} is registered already, as {self._by_class[cls].name!r}")
            if event_name in self._by_name:
                other = self._by_name[event_name].cls
                raise ValueError(
                    f"{event_name!r} is {other.__name__} already; give {cls.__name__} another name"
                )
            self._by_class[cls] = self._by_name[event_name] = _EventType(cls, event_name, version, member)
            return cls

        return register if cls is None else register(cls)

    def upcaster(self, name: str | type, from_version: int) -> Callable[[U], U]:
        """Register a function that turns a payload into that of the next version; a decorator.

        ::

            @orders.upcaster("order_placed", from_version=1)
            def _(payload: dict[str, Any]) -> dict[str, Any]:
                return {**payload, "currency": "EUR"}

        Args:
          name: the type of the events, or the class that is registered for it.
          from_version: the version that the function reads. Several functions are called in turn.

        Raises:
          ValueError: there is one already, or ``from_version`` is less than 1.
          TypeError: an argument is of the wrong type.
          LookupError: the class is not registered.
        """
        event_name = name if isinstance(name, str) else self._registered(name).name
        check_integer("from_version", from_version, 1)

        def register(upcaster: U) -> U:
            if (event_name, from_version) in self._upcasters:
                raise ValueError(f"{event_name!r} has an upcaster from version {from_version} already")
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
            raise LookupError(f"{getattr(cls, '__name__', repr(cls))} is not registered with {self!r}")
        return event_type

    # --- there and back ---------------------------------------------------------------------------

    @overload
    def wrap(self, instance: object) -> ModuleEvent | AgentEvent: ...
    @overload
    def wrap(self, instance: object, *, member: str) -> AgentEvent: ...
    def wrap(self, instance: object, *, member: str | None = None) -> ModuleEvent | AgentEvent:
        """An event that carries ``instance``. :meth:`EventLog.ingest` accepts it, unless it is too large.

        Args:
          instance: of a registered class.
          member: the member to which it belongs; by default what its field says that was registered as such.

        Raises:
          LookupError: its class is not registered.
          TypeError: the converter cannot read back the type of a field, or ``member`` is not a string.
          CodecError: a field cannot be converted to JSON, such as NaN, the field that names the member is
            neither a string nor null there, or the instance would not come back equal; the message names the
            field.
        """
        if member is not None and not isinstance(member, str):
            raise TypeError(f"member: expected a str, got {type(member).__name__}")
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
            require_equal(self._structured(payload, event_type), instance, event_type.cls)
        member = _member_of(instance, payload, event_type, self._converter) if member is None else member
        if event_type.version > 1:
            payload[_VERSION] = event_type.version
        if member is None:
            return ModuleEvent(self._module, event_type.name, payload)
        payload[_MODULE] = self._module
        return AgentEvent(member, event_type.name, payload)

    @overload
    def unwrap(self, event: AnyEvent) -> object: ...
    @overload
    def unwrap(self, event: AnyEvent, cls: type[T]) -> T: ...
    def unwrap(self, event: AnyEvent, cls: type[T] | None = None) -> object:
        """The instance that an event carries.

        An event of another type is returned as it is. So is one whose version has no upcaster, or is newer
        than the class, and one whose payload was erased
        (:class:`ErasableStore <trio_eventlog.abc.ErasableStore>`).

        Args:
          event: an event, or an envelope or stored event that holds one.
          cls: the class that the instance must have.

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
        if is_tombstone(found.payload):
            raise CodecError("payload", f"expected that of {expected.name!r}, it was erased")
        version = self._version_of(found) if expected.name == found.event_type else None
        shown = f"{found.event_type!r}" + (f" version {version}" if version is not None else "")
        raise CodecError(
            "event_type",
            f"expected {expected.name!r} version {expected.version} of {self._module!r}, got {shown}",
        )

    def _unwrap(self, event: AnyEvent) -> object:
        inner = _inner(event)
        if _module_of(inner) != self._module:
            return event
        event_type = self._by_name.get(inner.event_type)
        payload = inner.payload
        # What is left of an erased one would be an instance that never was, if all fields have defaults.
        if event_type is None or is_tombstone(payload):
            return event
        if not isinstance(payload, dict):
            raise CodecError("payload", f"expected an object for {event_type.name!r}, got {payload!r:.50}")
        version = self._version_of(inner)
        payload = {key: value for key, value in payload.items() if key not in (_VERSION, _MODULE)}
        if version < event_type.version:
            # Upcasters may change it in place, however deep.
            payload = deepcopy(payload)
        while version < event_type.version:
            upcaster = self._upcasters.get((event_type.name, version))
            if upcaster is None:
                return event
            payload = upcaster(payload)
            if not isinstance(payload, dict):
                raise TypeError(
                    f"the upcaster of {event_type.name!r} from version {version} returned no dict"
                )
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
        """Check it once, before the first event is written."""
        if event_type.cls in self._ready:
            return
        try:
            self._converter.get_structure_hook(event_type.cls)
        except Exception as exc:
            raise TypeError(f"{event_type.cls.__name__} could not be read back: {exc}") from exc
        self._ready.add(event_type.cls)


def _inner(event: AnyEvent) -> AgentEvent | ModuleEvent:
    inner = event.event if isinstance(event, EventEnvelope | PersistedEvent) else event
    if not isinstance(inner, AgentEvent | ModuleEvent):
        raise TypeError(f"event: expected an event, or what carries one, got {type(event).__name__}")
    return inner


def _module_of(event: AgentEvent | ModuleEvent) -> object:
    """The module of the classes that an event may be of."""
    if isinstance(event, ModuleEvent):
        return event.module
    return event.payload.get(_MODULE) if isinstance(event.payload, dict) else None


def _member_of(
    instance: object, payload: dict[str, Any], event_type: _EventType, converter: cattrs.Converter
) -> str | None:
    name = event_type.member
    if name is None:
        return None
    # A converter may leave out what is the default, or write it under another key.
    member = payload[name] if name in payload else converter.unstructure(getattr(instance, name))
    if member is not None and type(member) is not str:
        raise CodecError(f"payload.{name}", f"names the member: expected a string, got {member!r:.50}")
    return member


adopt_public_names(globals())
