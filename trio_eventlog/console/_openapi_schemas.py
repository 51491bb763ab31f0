"""What the answers of the interface look like, as JSON Schema."""

from __future__ import annotations

from typing import Any, Final

_SEQ: Final = {"type": "string", "pattern": "^[0-9]+$"}
_MAYBE_SEQ: Final = {"type": ["string", "null"], "pattern": "^[0-9]+$"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_BOOL: Final = {"type": "boolean"}
_TEXT: Final = {"type": "string"}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}
_MAYBE_COUNT: Final = {"type": ["integer", "null"]}


def _object(optional: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_AGENT: Final = _object(("payload",), kind={"const": "agent"}, agent_id=_TEXT, event_type=_TEXT, payload={})
_MODULE: Final = _object(kind={"const": "module"}, module=_TEXT, event_type=_TEXT, payload={})

_SAMPLE: Final = _object(
    at_ms=_COUNT,
    ingested=_COUNT,
    pending=_COUNT,
    lost=_COUNT,
    failures=_COUNT,
    flush_ms=_MAYBE_COUNT,
)

_LIVE: Final = _object(
    state=_TEXT,
    ingested=_COUNT,
    persisted=_COUNT,
    duplicate=_COUNT,
    filtered=_COUNT,
    pending=_COUNT,
    pending_bytes=_COUNT,
    spilled=_COUNT,
    spill_bytes=_COUNT,
    lost={"type": "object", "additionalProperties": _COUNT},
    lost_total=_COUNT,
    appends=_COUNT,
    failures=_COUNT,
    last_assigned_seq=_SEQ,
    last_durable_seq=_SEQ,
    failing_since_ms=_MAYBE_COUNT,
    interval_ms=_COUNT,
    samples=_array(_SAMPLE),
)

SCHEMAS: Final[dict[str, Any]] = {
    "Error": _object(
        error={
            "type": "object",
            "properties": {"code": _TEXT, "message": _TEXT, "field": _TEXT},
            "required": ["code", "message"],
        }
    ),
    "Logs": _object(logs=_array(_object(name=_TEXT, live=_BOOL)), version=_MAYBE_TEXT),
    "Event": _object(
        ("payload_bytes",),
        seq=_SEQ,
        id=_TEXT,
        timestamp_ms=_COUNT,
        member_id=_MAYBE_TEXT,
        payload_bytes=_COUNT,
        event={"oneOf": [_AGENT, _MODULE]},
    ),
    "OneEvent": _object(event=_ref("Event")),
    "Gap": _object(first_seq=_SEQ, last_seq=_SEQ, reason={"enum": ["pruned", "missing"]}),
    "Events": _object(
        events=_array(_ref("Event")),
        next=_MAYBE_SEQ,
        is_complete=_BOOL,
        last_seq=_SEQ,
        gaps={"anyOf": [_array(_ref("Gap")), {"type": "null"}]},
    ),
    "Count": _object(count=_COUNT, is_exact=_BOOL),
    "Histogram": _object(
        bucket_ms=_COUNT,
        since_ms=_MAYBE_COUNT,
        until_ms=_MAYBE_COUNT,
        event_types=_array(_TEXT),
        buckets=_array(_object(start_ms=_COUNT, counts=_array(_COUNT), other=_COUNT)),
        total=_COUNT,
        is_complete=_BOOL,
        from_seq=_MAYBE_SEQ,
    ),
    "Facets": _object(
        facets=_array(
            _object(
                field=_TEXT,
                distinct=_COUNT,
                values=_array(_object(value=_TEXT, count=_COUNT)),
                is_complete=_BOOL,
                from_seq=_MAYBE_SEQ,
            )
        )
    ),
    "Statistics": _object(
        now_ms=_COUNT,
        store=_object(kind=_TEXT, last_seq=_SEQ, pruned_seq=_MAYBE_SEQ),
        live={"anyOf": [_LIVE, {"type": "null"}]},
        console=_object(requests=_COUNT, streams=_COUNT, max_streams=_COUNT),
    ),
    "Tasks": _object(
        now_ms=_COUNT,
        tasks=_array(
            _object(
                id=_COUNT,
                parent=_MAYBE_COUNT,
                nursery=_MAYBE_COUNT,
                name=_TEXT,
                where=_array(_object(file=_TEXT, line=_MAYBE_COUNT, function=_TEXT)),
                is_cancelled=_BOOL,
                is_console=_BOOL,
                is_log=_BOOL,
            )
        ),
        is_complete=_BOOL,
    ),
    "Session": _object(token_required=_BOOL, authorized=_BOOL),
    "Token": _object(token=_TEXT),
    "RpcAnswer": {
        "type": ["object", "array"],
        "properties": {"jsonrpc": {"const": "2.0"}, "id": {}, "result": {}, "error": {"type": "object"}},
    },
}
