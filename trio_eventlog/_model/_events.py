"""The event model: what a program hands in, and what a store keeps.

Plain values, immutable and free of any event loop. Floor 0: attrs, the standard library, and the decoder of
payloads.
"""

from __future__ import annotations

import time
from typing import Any, Final, Literal, TypeAlias, cast

import attrs
import msgspec

from trio_eventlog._model._base_errors import CodecError

MAX_U64: Final = 2**64 - 1
"""The largest integer that the wire form can carry."""

MAX_STORED: Final = 2**63 - 1
"""The largest seq and the largest timestamp that a store keeps."""


_decode: Final = msgspec.json.Decoder().decode
"""Four times as fast as the standard library's, and stricter with what only a damaged store can hold."""


class _SealedPayload:
    """Lets an event carry its payload as JSON text and decode it only when somebody looks.

    A *sealed* event is one whose payload was checked and encoded once, at ingest or when a store
    read it. The ``payload`` slot stays empty until it is first read; Python then falls back to
    ``__getattr__``, which fills it. (attrs builds ``cached_property`` on slotted classes in the same
    way.) The encoded text stays authoritative: a sealed event that was read and whose payload was
    then changed still is the event that was sealed.
    """

    __slots__ = ("_encoded",)

    _encoded: bytes | str | None

    def __getattr__(self, name: str) -> Any:
        if name == "payload":
            encoded = self._encoded
            if encoded is not None:
                try:
                    payload = _decode(encoded)
                except ValueError as exc:
                    # A store hands out what it holds, and does not look into it.
                    raise CodecError("payload", f"not JSON, the store is damaged: {exc}") from exc
                object.__setattr__(self, "payload", payload)
                return payload
        elif name == "_encoded":
            # Unset: the event was unpickled.
            return None
        msg = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(msg)


@attrs.frozen(init=False)
class AgentEvent(_SealedPayload):
    """Something that an agent (a worker, a member of a group) did or that happened to it.

    Attributes:
      agent_id: which agent. Text of any script; a store holds at least 512 bytes of UTF-8.
      event_type: what happened, for example ``"run_started"``.
      payload: details as JSON (see :func:`to_json` for what that means), or None for none.
    """

    agent_id: str
    event_type: str
    payload: Any = attrs.field(default=None, hash=False)

    def __init__(self, agent_id: str, event_type: str, payload: Any = None) -> None:
        # What attrs would write, and the mark that it is not sealed: a look for one that is not set costs as
        # much as all the rest.
        _set_agent_id(self, agent_id)
        _set_agent_type(self, event_type)
        _set_agent_payload(self, payload)
        _set_encoded(self, None)


@attrs.frozen(init=False)
class ModuleEvent(_SealedPayload):
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
        # What attrs would write, and the mark that it is not sealed: a look for one that is not set costs as
        # much as all the rest.
        _set_module(self, module)
        _set_module_type(self, event_type)
        _set_module_payload(self, payload)
        _set_encoded(self, None)


# Setting a field of a frozen class through object.__setattr__ costs five times as much.
_set_encoded: Any = cast("Any", _SealedPayload)._encoded.__set__
_set_agent_id: Any = cast("Any", AgentEvent).agent_id.__set__
_set_agent_type: Any = cast("Any", AgentEvent).event_type.__set__
_set_agent_payload: Any = cast("Any", AgentEvent).payload.__set__
_set_module: Any = cast("Any", ModuleEvent).module.__set__
_set_module_type: Any = cast("Any", ModuleEvent).event_type.__set__
_set_module_payload: Any = cast("Any", ModuleEvent).payload.__set__

UnifiedEvent: TypeAlias = AgentEvent | ModuleEvent
"""Either kind of event. On the wire the field ``kind`` tells them apart."""


def source_of(event: UnifiedEvent) -> Literal["agent", "module"]:
    """The ``source`` that an envelope of ``event`` must carry."""
    return "agent" if isinstance(event, AgentEvent) else "module"


@attrs.frozen
class EventEnvelope:
    """An event with its identity and time: what a program hands to a log.

    Attributes:
      event_id: the identity of the event. A store keeps one event per id; the first write wins.
      source: ``"agent"`` or ``"module"``, in agreement with the event. Reading accepts any text here,
        as the ancestor of this format does; :meth:`EventLog.ingest` refuses what does not agree.
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
        """Wrap ``event``, filling in what is not given.

        Args:
          event: the event.
          event_id: its identity; by default a new UUIDv7 (RFC 9562), which is unique and ascends
            with time.
          timestamp_ms: milliseconds since 1970-01-01 UTC, 0 to 2**63 - 1; by default now, by the
            wall clock.

        Raises:
          TypeError: ``event`` is neither an :class:`AgentEvent` nor a :class:`ModuleEvent`.
        """
        if not isinstance(event, AgentEvent | ModuleEvent):
            msg = f"event must be an AgentEvent or a ModuleEvent, got {type(event).__name__}"
            raise TypeError(msg)
        return cls(
            new_event_id() if event_id is None else event_id,
            source_of(event),
            wall_clock_ms() if timestamp_ms is None else timestamp_ms,
            event,
        )


@attrs.frozen
class PersistedEvent:
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


def wall_clock_ms() -> int:
    """Milliseconds since 1970-01-01 UTC, now, by the wall clock. Only ever stamps events."""
    return time.time_ns() // 1_000_000


def new_event_id() -> str:
    """A new UUIDv7 as text, 36 characters."""
    return str(_uuid7())


def _uuid7() -> object:
    # Imported on first use so that importing this package stays light: not every program lets the
    # library make ids. From then on, it stands in the place of this function.
    global _uuid7  # noqa: PLW0603 - see above
    from uuid_utils import uuid7  # noqa: PLC0415 - see above

    _uuid7 = uuid7
    return uuid7()
