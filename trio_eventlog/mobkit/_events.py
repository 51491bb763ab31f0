"""Mob events: the flat form in which MobKit streams what happens to its agents. Pure."""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    UnifiedEvent,
    from_json,
)

EVENT_ID_PREFIX: Final = "mob-evt-"
"""What the ids of mob events begin with; the cursor follows."""

_MODULE: Final = "mob"
"""The module of what is no agent's."""

_SCOPES: Final = ("mob_id", "run_id", "step_id", "identity")
_LABELS: Final = ("mob_labels", "run_labels")
_KEYS: Final = frozenset((*_SCOPES, *_LABELS, "data"))
_MAX_STORED: Final = 2**63 - 1
_PAYLOAD_OF: Final = b'{"kind":"module","module":"","event_type":"","payload":'


@attrs.frozen(kw_only=True)
class MobEvent:
    """A structural event of a mob, as ``mobkit/mob_events`` has it.

    Attributes:
      cursor: its place in the stream, to resume after.
      mob_id: of which mob; ``""`` if it is of none.
      timestamp_ms: milliseconds since 1970-01-01 UTC.
      kind: what happened, for example ``"flow_started"``.
      run_id: of which run; None if it is of none.
      step_id: of which step; None if it is of none.
      agent_identity: of which agent; None if it is of none.
      mob_labels: labels of the mob at that time.
      run_labels: labels of the run at that time.
      data: what else there is to say, as JSON.
    """

    cursor: int
    mob_id: str
    timestamp_ms: int
    kind: str
    run_id: str | None = None
    step_id: str | None = None
    agent_identity: str | None = None
    mob_labels: dict[str, str] = attrs.field(factory=dict)
    run_labels: dict[str, str] = attrs.field(factory=dict)
    data: Any = None

    @property
    def event_id(self) -> str:
        """Its identity, ``"mob-evt-"`` and the cursor."""
        return f"{EVENT_ID_PREFIX}{self.cursor}"

    def to_json(self) -> bytes:
        """The wire form: compact JSON in UTF-8, without what the event does not have."""
        return msgspec.json.encode(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The wire form, before it is encoded."""
        fields: dict[str, Any] = {
            "event_id": self.event_id,
            "cursor": self.cursor,
            "mob_id": self.mob_id,
            "timestamp_ms": self.timestamp_ms,
            "kind": self.kind,
        }
        for name in ("run_id", "step_id", "agent_identity"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        for name in _LABELS:
            if labels := getattr(self, name):
                fields[name] = labels
        return fields | {"data": self.data}

    @classmethod
    def from_json(cls, text: bytes | str) -> MobEvent:
        """Read the wire form. Fields of later versions are ignored.

        Raises:
          CodecError: it is malformed; ``path`` names the field.
        """
        fields = _parse(text)
        return cls(
            cursor=_integer(fields, "cursor"),
            mob_id=_string(fields, "mob_id"),
            timestamp_ms=_integer(fields, "timestamp_ms"),
            kind=_string(fields, "kind"),
            run_id=_optional(fields, "run_id"),
            step_id=_optional(fields, "step_id"),
            agent_identity=_optional(fields, "agent_identity"),
            mob_labels=_labels(fields, "mob_labels"),
            run_labels=_labels(fields, "run_labels"),
            data=fields.get("data"),
        )

    @classmethod
    def of(cls, event: PersistedEvent) -> MobEvent:
        """What an event of a log looks like as a mob event. Its cursor is the seq."""
        payload = event.event.payload
        fields: dict[str, Any] = payload if isinstance(payload, dict) else {}
        identity = _text_in(fields, "identity")
        # What came from a stream of mob events has this form; see `envelope`.
        is_returned = "data" in fields and "mob_id" in fields and fields.keys() <= _KEYS
        return cls(
            cursor=event.seq,
            mob_id=_text_in(fields, "mob_id") or "",
            timestamp_ms=event.timestamp_ms,
            kind=event.event.event_type,
            run_id=_text_in(fields, "run_id"),
            step_id=_text_in(fields, "step_id"),
            agent_identity=event.member_id if identity is None else identity,
            mob_labels=_labels_in(fields, "mob_labels"),
            run_labels=_labels_in(fields, "run_labels"),
            data=fields["data"] if is_returned else payload,
        )

    def envelope(self) -> EventEnvelope:
        """What to hand to a log: an event of the agent, or of the module ``"mob"`` if it is of none.

        The payload has ``mob_id``, ``run_id``, ``step_id`` and the labels, as far as there are any, and
        ``data``. The id is :attr:`event_id`, so that a log stores an event once.
        """
        payload: dict[str, Any] = {"mob_id": self.mob_id}
        for name in ("run_id", "step_id", *_LABELS):
            if value := getattr(self, name):
                payload[name] = value
        for name in ("run_id", "step_id"):
            if getattr(self, name) == "":
                payload[name] = ""
        payload["data"] = self.data
        event: UnifiedEvent
        if self.agent_identity is None:
            event = ModuleEvent(_MODULE, self.kind, payload)
        else:
            event = AgentEvent(self.agent_identity, self.kind, payload)
        return EventEnvelope.of(event, event_id=self.event_id, timestamp_ms=self.timestamp_ms)

    def matches(self, query: EventQuery) -> bool:
        """Whether it passes the filters of ``query``, as MobKit applies them.

        ``identity``, or else ``member_id``, is the agent's identity.
        """
        identity = query.member_id if query.identity is None else query.identity
        return (
            (query.since_ms is None or self.timestamp_ms >= query.since_ms)
            and (query.until_ms is None or self.timestamp_ms < query.until_ms)
            and (query.mob_id is None or self.mob_id == query.mob_id)
            and (query.run_id is None or self.run_id == query.run_id)
            and (query.step_id is None or self.step_id == query.step_id)
            and (identity is None or self.agent_identity == identity)
            and (not query.event_types or self.kind in query.event_types)
        )


def _parse(text: bytes | str) -> dict[str, Any]:
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    try:
        value = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as exc:
        raise CodecError("", f"not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise CodecError("", f"expected an object, got {type(value).__name__}")
    # As strict as for everything else that comes into a log: repeated fields, depth, range of numbers.
    try:
        event = from_json(
            b'{"kind":"module","module":"","event_type":"","payload":' + raw + b"}", ModuleEvent
        )
    except CodecError as exc:
        raise CodecError(exc.path.removeprefix("payload").removeprefix("."), exc.reason) from exc
    fields: dict[str, Any] = event.payload
    return fields


def _text_in(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


def _labels_in(fields: dict[str, Any], name: str) -> dict[str, str]:
    value = fields.get(name)
    if not isinstance(value, dict) or not all(isinstance(label, str) for label in value.values()):
        return {}
    return value


def _required(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise CodecError(name, "required field is missing")
    return fields[name]


def _string(fields: dict[str, Any], name: str) -> str:
    value = _required(fields, name)
    if not isinstance(value, str):
        raise CodecError(name, f"expected a string, got {type(value).__name__}")
    return value


def _optional(fields: dict[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else _string(fields, name)


def _integer(fields: dict[str, Any], name: str) -> int:
    value = _required(fields, name)
    if type(value) is not int:
        raise CodecError(name, f"expected an integer, got {type(value).__name__}")
    if not 0 <= value <= _MAX_STORED:
        raise CodecError(name, f"expected 0 to 2**63 - 1, got {value}")
    return value


def _labels(fields: dict[str, Any], name: str) -> dict[str, str]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(label, str) for label in value.values()):
        raise CodecError(name, "expected an object of strings")
    return value
