"""Events as JSON for a browser. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs
import msgspec

from trio_eventlog import PersistedEvent, to_json

_encode: Final = msgspec.json.Encoder().encode


def encode(content: Any) -> bytes:
    """``content`` as compact JSON."""
    return _encode(content)


def encode_event(event: PersistedEvent, max_payload: int | None = None) -> bytes:
    """An event as JSON, with its seq as a string, since JavaScript cannot hold every seq as a number.

    Args:
      event: the event.
      max_payload: bytes of JSON after which the payload is left out; None to keep it.

    Raises:
      CodecError: a store handed out something that is no event.
    """
    inner = to_json(event.event)
    fields: dict[str, Any] = {
        "seq": str(event.seq),
        "id": event.id,
        "timestamp_ms": event.timestamp_ms,
        "member_id": event.member_id,
    }
    if max_payload is not None and len(inner) > max_payload:
        bare = to_json(attrs.evolve(event.event, payload=None))
        size = len(inner) - len(bare)
        if size > max_payload:
            fields["payload_bytes"] = size
            inner = bare
    return _encode(fields | {"event": msgspec.Raw(inner)})


def joined(items: Iterable[bytes]) -> msgspec.Raw:
    """Values in JSON as an array."""
    return msgspec.Raw(b"[" + b",".join(items) + b"]")
