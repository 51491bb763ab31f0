"""The event model: what a program hands in, and what a store keeps.

Plain immutable values, free of any event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import attrs
import msgspec

from trio_eventlog._model._base_errors import CodecError
from trio_eventlog._speedups import core

MAX_U64: Final = 2**64 - 1
"""The largest integer that the wire form can carry."""

MAX_STORED: Final = 2**63 - 1
"""The largest seq and the largest timestamp that a store keeps."""

_decode: Final = msgspec.json.Decoder().decode
"""Four times as fast as the standard library's, and stricter with text that only a damaged store has."""


Scopes: TypeAlias = tuple[str | None, str | None, str | None, str | None]
"""The values of the four scope keys in a payload; see ``SCOPES``."""


class _SealedPayload:
    """Lets an event carry its payload as JSON text and decode it only when it is read.

    A *sealed* event is one whose payload was checked and encoded, at ingest or before a store wrote it. Its
    ``payload`` slot stays empty until it is read; Python falls back to ``__getattr__``, which fills it.
    (attrs builds ``cached_property`` on slotted classes in the same way.) The text stays authoritative:
    changing the decoded payload does not change what was sealed.
    """

    # In the event itself and not in an object of its own, which costs ingest 5 %.
    __slots__ = ("_scopes", "_size", "_text")

    _text: bytes | str | None
    """The payload as JSON; None if the event is not sealed. The other two are set only if it is."""

    _scopes: Scopes | None
    """The scopes of the payload; None if they are not known."""

    _size: int | None
    """Bytes of payload, agent or module, and type, as UTF-8; None if they are not known."""

    def __getattr__(self, name: str) -> Any:
        if name == "payload" and (text := self._text) is not None:
            try:
                payload = _decode(text)
            except (ValueError, RecursionError) as exc:
                # A store hands out the text that it holds and does not look into it.
                raise CodecError("payload", f"not JSON, the store is damaged: {exc}") from exc
            object.__setattr__(self, "payload", payload)
            return payload
        if name == "_text":
            # Unset: the event was unpickled.
            return None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


# An object of a frozen class is slow to fill: its constructor has to go past its own ``__setattr__``. What
# ingest makes for each event is filled while it is still a *draft*, of a mutable base class that has all the
# slots, and becomes an event before anything else sees it. Measured with CPython 3.11, where ingest takes
# 4.1 µs: the constructors of attrs would add 0.3 µs for an event, and as much for its PersistedEvent.


class _AgentDraft(_SealedPayload):
    __slots__ = ("__weakref__", "agent_id", "event_type", "payload")

    agent_id: str
    event_type: str
    payload: Any

    def __init__(
        self, agent_id: str, event_type: str, text: bytes | str, scopes: Scopes | None, size: int | None
    ) -> None:
        self.agent_id = agent_id
        self.event_type = event_type
        self._text = text
        self._scopes = scopes
        self._size = size


@attrs.frozen(init=False)
class AgentEvent(_AgentDraft):
    """Something that an agent (a worker, a member of a group) did, or that happened to it.

    Attributes:
      agent_id: which agent: a string of any script. A store holds at least 512 bytes of UTF-8.
      event_type: what happened, for example ``"run_started"``.
      payload: details as JSON (see :func:`to_json` for what that means), or None.
    """

    agent_id: str
    event_type: str
    payload: Any = attrs.field(default=None, hash=False)

    def __init__(self, agent_id: str, event_type: str, payload: Any = None) -> None:
        _set_agent_id(self, agent_id)
        _set_agent_type(self, event_type)
        _set_agent_payload(self, payload)
        _set_text(self, None)


class _ModuleDraft(_SealedPayload):
    __slots__ = ("__weakref__", "event_type", "module", "payload")

    module: str
    event_type: str
    payload: Any

    def __init__(
        self, module: str, event_type: str, text: bytes | str, scopes: Scopes | None, size: int | None
    ) -> None:
        self.module = module
        self.event_type = event_type
        self._text = text
        self._scopes = scopes
        self._size = size


@attrs.frozen(init=False)
class ModuleEvent(_ModuleDraft):
    """Something that happened in a module of the program rather than to one agent.

    Attributes:
      module: which module, for example ``"scheduler"``.
      event_type: what happened.
      payload: details as JSON, or None.
    """

    module: str
    event_type: str
    payload: Any = attrs.field(default=None, hash=False)

    def __init__(self, module: str, event_type: str, payload: Any = None) -> None:
        _set_module(self, module)
        _set_module_type(self, event_type)
        _set_module_payload(self, payload)
        _set_text(self, None)


UnifiedEvent: TypeAlias = AgentEvent | ModuleEvent
"""Either kind of event. On the wire the field ``kind`` tells them apart."""


E = TypeVar("E", bound=UnifiedEvent)

# attrs' own constructors call object.__setattr__, which takes twice as long.
_set_text: Final = cast("Any", _SealedPayload)._text.__set__
_set_agent_id: Final = cast("Any", _AgentDraft).agent_id.__set__
_set_agent_type: Final = cast("Any", _AgentDraft).event_type.__set__
_set_agent_payload: Final = cast("Any", _AgentDraft).payload.__set__
_set_module: Final = cast("Any", _ModuleDraft).module.__set__
_set_module_type: Final = cast("Any", _ModuleDraft).event_type.__set__
_set_module_payload: Final = cast("Any", _ModuleDraft).payload.__set__


def sealed(  # noqa: PLR0917 - by position, since it is called for every event
    kind: type[E],
    actor: str,
    event_type: str,
    text: bytes | str,
    scopes: Scopes | None = None,
    size: int | None = None,
) -> E:
    """An event around a payload that is JSON already, and trusted to be.

    The ``actor`` is the agent or the module. The size is in bytes of payload, actor and type as UTF-8.
    """
    make_draft: Any = _AgentDraft if kind is AgentEvent else _ModuleDraft
    event: E = make_draft(actor, event_type, text, scopes, size)
    event.__class__ = kind  # type: ignore[assignment]  # mypy resolves E to its bound
    return event


def source_of(event: UnifiedEvent) -> Literal["agent", "module"]:
    """The ``source`` that an envelope of ``event`` must carry."""
    return "agent" if isinstance(event, AgentEvent) else "module"


@attrs.frozen
class EventEnvelope:
    """An event with its identity and time: what a program hands to a log.

    Attributes:
      event_id: the identity of the event. A store keeps one event per id; the first write wins.
      source: ``"agent"`` or ``"module"``, in agreement with the event. Reading accepts any string here, as
        the original of this format does; :meth:`EventLog.ingest` refuses one that does not agree.
      timestamp_ms: wall-clock time in milliseconds since 1970-01-01 UTC.
      event: the event itself.
    """

    event_id: str
    source: str
    timestamp_ms: int
    event: UnifiedEvent

    @classmethod
    def of(
        cls,
        event: UnifiedEvent,
        *,
        event_id: str | None = None,
        timestamp_ms: int | None = None,
    ) -> EventEnvelope:
        """Wrap ``event`` in an envelope.

        Args:
          event: the event.
          event_id: its identity; by default a new UUIDv7 (RFC 9562), which is unique and increases with time.
          timestamp_ms: milliseconds since 1970-01-01 UTC, 0 to 2**63 - 1; by default now, by the wall clock.

        Raises:
          TypeError: ``event`` is neither an :class:`AgentEvent` nor a :class:`ModuleEvent`.
        """
        if not isinstance(event, AgentEvent | ModuleEvent):
            raise TypeError(f"event must be an AgentEvent or a ModuleEvent, got {type(event).__name__}")
        return cls(
            new_event_id() if event_id is None else event_id,
            source_of(event),
            wall_clock_ms() if timestamp_ms is None else timestamp_ms,
            event,
        )


class _PersistedDraft:
    __slots__ = ("__weakref__", "event", "id", "member_id", "seq", "timestamp_ms")

    id: str
    seq: int
    timestamp_ms: int
    member_id: str | None
    event: UnifiedEvent

    def __init__(
        self, event_id: str, seq: int, timestamp_ms: int, member_id: str | None, event: UnifiedEvent
    ) -> None:
        self.id = event_id
        self.seq = seq
        self.timestamp_ms = timestamp_ms
        self.member_id = member_id
        self.event = event


_make_persisted_draft: Final[Any] = _PersistedDraft


@attrs.frozen
class PersistedEvent(_PersistedDraft):
    """What a store keeps.

    Attributes:
      id: the identity of the event; a log holds an id once.
      seq: its place in the log, 1 to 2**63 - 1. Gaps are legal.
      timestamp_ms: wall-clock time in milliseconds since 1970-01-01 UTC, 0 to 2**63 - 1.
      member_id: the agent's id, None for module events.
      event: the event itself.
    """

    id: str
    seq: int
    timestamp_ms: int
    member_id: str | None
    event: UnifiedEvent


def persisted(event_id: str, seq: int, timestamp_ms: int, event: UnifiedEvent) -> PersistedEvent:
    """What the constructor of :class:`PersistedEvent` makes of these, faster. The member is the agent."""
    member_id = event.agent_id if type(event) is AgentEvent else None
    persisted: PersistedEvent = _make_persisted_draft(event_id, seq, timestamp_ms, member_id, event)
    persisted.__class__ = PersistedEvent
    return persisted


def wall_clock_ms() -> int:
    """Milliseconds since 1970-01-01 UTC, by the wall clock. Used for the timestamps of events only."""
    nanoseconds = time.time_ns()
    if nanoseconds < 0:
        raise ValueError("time.time_ns() is before 1970")
    return nanoseconds // 1_000_000


def new_event_id() -> str:
    """A new UUIDv7 as a string of 36 characters."""
    return str(_uuid7()()) if core is None else core.new_event_id()


@cache
def _uuid7() -> Callable[[], object]:
    # Imported on first use, so that importing this package stays light: not every program lets the library
    # make ids.
    from uuid_utils import uuid7  # noqa: PLC0415 - see above

    return uuid7
