"""JSON-RPC 2.0, in the forms that MobKit documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode

import attrs
import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from trio_eventlog import (
    CodecError,
    EventLogError,
    EventQuery,
    StaleCursor,
    from_json,
    to_json,
)
from trio_eventlog.console._encoding import encode, joined
from trio_eventlog.console._errors import ApiError, answer_for
from trio_eventlog.console._http import json_answer, logger
from trio_eventlog.console._mob import MAX_BYTES, find_mob_events
from trio_eventlog.console._parameters import Parameters
from trio_eventlog.console._state import Console

MAX_BODY: Final = 2**16
MAX_BATCH: Final = 16
MAX_EVENTS: Final = 10_000
_PAGE: Final = 100
_BODY_TIMEOUT: Final = 10.0

CONTRACT_VERSION: Final = "0.4.0"
"""Of MobKit, whose clients look at it."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
FAILED: Final = -32000
STALE_CURSOR: Final = -32010

MOB_EVENTS_PATH: Final = "/mobkit/mob_events/stream"
KEEP_ALIVE: Final = {"interval_ms": 15_000, "event": "keep_alive"}

Method: TypeAlias = Callable[[Console, EventQuery], Awaitable[Any]]


class RpcError(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def content(self) -> dict[str, Any]:
        """What is in the answer under ``error``."""
        content = {"code": self.code, "message": self.message}
        return content if self.data is None else content | {"data": self.data}


def stale_data(after_cursor: int, latest_cursor: int) -> dict[str, Any]:
    """What is said of a cursor beyond the end."""
    return {"error": "event_query_stale", "after_cursor": after_cursor, "latest_cursor": latest_cursor}


async def post_rpc(console: Console, request: Request) -> ASGIApp:
    """``POST rpc``."""
    Parameters(request.scope["query_string"], ())
    body = await read_json(request, MAX_BODY)
    try:
        content = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return json_answer(_failed(None, RpcError(PARSE_ERROR, "Parse error")))
    if not isinstance(content, list):
        answer = await _answer(console, content)
        return Response(status_code=204) if answer is None else json_answer(answer)
    if not 0 < len(content) <= MAX_BATCH:
        error = RpcError(INVALID_REQUEST, f"Invalid Request: expected 1 to {MAX_BATCH} requests")
        return json_answer(_failed(None, error))
    answers = [answer for item in content if (answer := await _answer(console, item)) is not None]
    return json_answer(answers) if answers else Response(status_code=204)


async def read_json(request: Request, max_bytes: int) -> bytes:
    """The body of a request, which says that it is JSON. A page of another site cannot send that unasked.

    Raises:
      ApiError: it says something else, is too large, or does not come.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(415, "unsupported_media_type", "expected content-type: application/json")
    body = bytearray()
    with trio.move_on_after(_BODY_TIMEOUT) as waiting:
        async with aclosing(request.stream()) as parts:
            async for part in parts:
                body += part
                if len(body) > max_bytes:
                    raise ApiError(413, "too_large", f"the body is larger than {max_bytes} bytes")
    if waiting.cancelled_caught:
        raise ApiError(408, "timeout", "the body did not come")
    return bytes(body)


async def _answer(console: Console, content: Any) -> dict[str, Any] | None:
    """The answer to one request; None to one that wants none."""
    if not isinstance(content, dict):
        return _failed(None, RpcError(INVALID_REQUEST, "Invalid Request: expected an object"))
    request_id = content.get("id")
    if not isinstance(request_id, str | int | float | None) or isinstance(request_id, bool):
        return _failed(None, RpcError(INVALID_REQUEST, "Invalid Request: id"))
    method = content.get("method")
    if content.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return _failed(request_id, RpcError(INVALID_REQUEST, "Invalid Request"))
    try:
        result = await _call(console, method, content.get("params"))
    except RpcError as error:
        answer = _failed(request_id, error)
    else:
        answer = {"jsonrpc": "2.0", "id": request_id, "result": result}
    return answer if "id" in content else None


def _failed(request_id: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": error.content()}


async def _call(console: Console, name: str, params: Any) -> Any:
    if name == "mobkit/capabilities":
        return {
            "contract_version": CONTRACT_VERSION,
            "methods": sorted((*METHODS, "mobkit/capabilities")),
            "loaded_modules": [],
        }
    method = METHODS.get(name)
    if method is None:
        raise RpcError(METHOD_NOT_FOUND, "Method not found")
    query = _read_query(params)
    try:
        return await method(console, query)
    except StaleCursor as exc:
        raise RpcError(
            STALE_CURSOR,
            f"stale mob event cursor: requested {exc.after_seq}, latest {exc.last_seq}",
            stale_data(exc.after_seq, exc.last_seq),
        ) from exc
    except (EventLogError, ApiError, trio.TooSlowError, trio.ClosedResourceError) as exc:
        answer = answer_for(exc)
        reason = str(exc) if answer is None else answer.message
        raise RpcError(FAILED, f"{name.removeprefix('mobkit/')} failed: {reason}") from exc
    except Exception as exc:
        logger.error("a call of JSON-RPC failed", exc_info=exc)
        raise RpcError(FAILED, f"{name.removeprefix('mobkit/')} failed") from exc


def _read_query(params: Any) -> EventQuery:
    try:
        return from_json(encode({} if params is None else params), EventQuery)
    except CodecError as exc:
        raise RpcError(INVALID_PARAMS, f"Invalid params: {exc}") from exc


async def _query_events(console: Console, query: EventQuery) -> Any:
    if not console.sources:
        return {"status": "no_event_log_configured", "events": []}
    source = console.source(None)
    limit = MAX_EVENTS if query.limit is None else min(query.limit, MAX_EVENTS)
    encoded: list[bytes] = []
    after, size = query.after_seq or 0, 0
    while len(encoded) < limit:
        async with console.at_the_store():
            found = await source.oldest(
                attrs.evolve(query, after_seq=after), min(limit - len(encoded), _PAGE)
            )
        for event in found.events:
            text = to_json(event)
            size += len(text)
            if size > MAX_BYTES and encoded:
                return joined(encoded)
            encoded.append(text)
            after = event.seq
        if not found.events:
            break
    return joined(encoded)


async def _query_mob_events(console: Console, query: EventQuery) -> Any:
    async with console.at_the_store():
        page = await find_mob_events(console.source(None), query)
    return {"events": joined(page.events), "next_after_seq": page.resume_after}


async def _subscribe_mob_events(console: Console, query: EventQuery) -> Any:
    async with console.at_the_store():
        page = await find_mob_events(console.source(None), query)
    return {
        "stream": "mob_events",
        "events": joined(page.events),
        "next_after_seq": page.resume_after,
        "subscribe_url": subscribe_url(query, page.resume_after),
        "keep_alive": KEEP_ALIVE,
    }


def subscribe_url(query: EventQuery, after_seq: int) -> str:
    """Where to go on from ``after_seq`` with the same filters. Pure."""
    parameters = [("after_seq", str(after_seq))]
    names = ("mob_id", "run_id", "step_id", "identity", "member_id", "since_ms", "until_ms")
    parameters += [(name, str(value)) for name in names if (value := getattr(query, name)) is not None]
    if query.event_types:
        parameters.append(("event_types", ",".join(query.event_types)))
    return f"{MOB_EVENTS_PATH}?{urlencode(parameters)}"


METHODS: Final[dict[str, Method]] = {
    "mobkit/query_events": _query_events,
    "mobkit/mob_events/query": _query_mob_events,
    "mobkit/mob_events/subscribe": _subscribe_mob_events,
}
"""What can be called, by name."""
