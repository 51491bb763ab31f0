"""The description of the interface, as OpenAPI 3.1."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.types import ASGIApp

from trio_eventlog.console._events import DEFAULT_MAX_PAYLOAD, DEFAULT_PAGE, MAX_PAGE, MAX_PAYLOAD
from trio_eventlog.console._http import json_answer
from trio_eventlog.console._numbers import (
    DEFAULT_BUCKETS,
    DEFAULT_COUNT,
    DEFAULT_TOP,
    FIELDS,
    MAX_BUCKETS,
    MAX_COUNT,
    MAX_FACETS,
    MAX_TOP,
)
from trio_eventlog.console._openapi_schemas import SCHEMAS
from trio_eventlog.console._parameters import Parameters
from trio_eventlog.console._state import Console

_SEQ: Final = {"type": "string", "pattern": "^[0-9]{1,18}$"}
_FROM_1: Final = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
_TIME: Final = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
_TEXT: Final = {"type": "string"}


def _parameter(name: str, schema: dict[str, Any], description: str, *, required: bool = False) -> Any:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "schema": schema,
        "description": description,
    }


def _integer(low: int, high: int, default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high, "default": default}


_SCOPES: Final = ("identity", "mob_id", "run_id", "step_id")

_LOG: Final = _parameter("log", _TEXT, "name of the log")
_FILTERS: Final = [
    _LOG,
    _parameter("since_ms", _TIME, "earliest time, inclusive"),
    _parameter("until_ms", _TIME, "latest time, exclusive"),
    _parameter("member_id", _TEXT, "the member"),
    _parameter("module", _TEXT, "the module of a module event"),
    *(_parameter(name, _TEXT, f"the string under {name} in the payload") for name in _SCOPES),
    _parameter("event_type", {"type": "array", "items": _TEXT}, "any of these types of event")
    | {"style": "form", "explode": True},
    {
        "name": "fields",
        "in": "query",
        "description": "exact values of top-level keys of the payload",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
]
_AFTER: Final = _parameter("after_seq", _SEQ, "only higher seqs")
_BEFORE: Final = _parameter("before_seq", _SEQ, "only lower seqs")
_MAX_PAYLOAD: Final = _parameter(
    "max_payload", _integer(0, MAX_PAYLOAD, DEFAULT_MAX_PAYLOAD), "bytes after which a payload is left out"
)
_FIELD: Final = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_FACETS,
    "items": {"enum": list(FIELDS)},
}

_PARAMETERS: Final[dict[str, list[Any]]] = {
    "logs": [],
    "events": [
        *_FILTERS,
        _parameter("order", {"enum": ["newest", "oldest"], "default": "newest"}, "which come first"),
        _BEFORE,
        _AFTER,
        _parameter("limit", _integer(1, MAX_PAGE, DEFAULT_PAGE), "most events"),
        _MAX_PAYLOAD,
    ],
    "count": [
        *_FILTERS,
        _AFTER,
        _BEFORE,
        _parameter("at_most", _integer(1, MAX_COUNT, DEFAULT_COUNT), "where to stop counting"),
    ],
    "histogram": [
        *_FILTERS,
        _parameter("buckets", _integer(1, MAX_BUCKETS, DEFAULT_BUCKETS), "about how many"),
        _parameter("bucket_ms", {"type": "integer", "minimum": 1}, "the width instead"),
    ],
    "facets": [
        *_FILTERS,
        _parameter("field", _FIELD, "of which fields", required=True) | {"style": "form", "explode": True},
        _parameter("top", _integer(1, MAX_TOP, DEFAULT_TOP), "most values of each"),
    ],
    "statistics": [_LOG],
    "tasks": [],
}

_SUMMARIES: Final = {
    "logs": "the logs that can be shown",
    "events": "a page of events",
    "count": "how many events match",
    "histogram": "events over time, by type",
    "facets": "the most frequent values of fields",
    "statistics": "how the log is doing",
    "tasks": "the tasks of the program",
}


def _json_of(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _answers(schema: str) -> dict[str, Any]:
    return {
        "200": {"description": "the answer", "content": _json_of(schema)},
        "default": {"description": "an error", "content": _json_of("Error")},
    }


def _operation(summary: str, parameters: list[Any], answers: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": parameters, "responses": answers}}


_STREAM: Final = {
    "200": {"description": "Server-Sent Events", "content": {"text/event-stream": {"schema": {}}}},
    "default": {"description": "an error", "content": _json_of("Error")},
}

_SEQ_IN_PATH: Final = {"name": "seq", "in": "path", "required": True, "schema": _FROM_1}


@cache
def describe() -> dict[str, Any]:
    """The description."""
    paths: dict[str, Any] = {
        f"/api/{name}": _operation(_SUMMARIES[name], parameters, _answers(name.capitalize()))
        for name, parameters in _PARAMETERS.items()
    }
    paths["/api/events/{seq}"] = _operation("one event", [_SEQ_IN_PATH, _LOG], _answers("OneEvent"))
    lag = _parameter("on_lag", {"enum": ["keep", "skip"]}, "whether to jump to the newest events")
    paths["/api/events/stream"] = _operation(
        "events as they become durable", [*_FILTERS, _AFTER, _MAX_PAYLOAD, lag], _STREAM
    )
    paths["/api/session"] = _session()
    paths["/rpc"] = _rpc()
    return {
        "openapi": "3.1.0",
        "info": {"title": "trio-eventlog console", "version": "1"},
        "servers": [{"url": ".."}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _session() -> dict[str, Any]:
    error = {"description": "an error", "content": _json_of("Error")}
    body = {"required": True, "content": _json_of("Token")}
    changed = {"204": {"description": "done"}, "default": error}
    return {
        "get": {"summary": "whether a token is needed", "responses": _answers("Session")},
        "post": {"summary": "begin a session", "requestBody": body, "responses": changed},
        "delete": {"summary": "end the session", "responses": changed},
    }


def _rpc() -> dict[str, Any]:
    answers = _answers("RpcAnswer") | {"204": {"description": "nothing was to be answered"}}
    return {
        "post": {
            "summary": "JSON-RPC 2.0, in the forms of MobKit",
            "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}},
            "responses": answers,
        }
    }


async def get_openapi(_console: Console, request: Request) -> ASGIApp:
    """``GET api/openapi.json``."""
    Parameters(request.scope["query_string"], ())
    await trio.lowlevel.checkpoint()
    return json_answer(describe())
