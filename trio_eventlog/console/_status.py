"""What there is, how it is doing, and who may see it: logs, statistics, tasks, sessions."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from trio_eventlog import EventLog
from trio_eventlog.console._errors import ApiError, answer_for
from trio_eventlog.console._guard import cookie_for, cookie_value
from trio_eventlog.console._http import json_answer
from trio_eventlog.console._parameters import Parameters
from trio_eventlog.console._rpc import read_json
from trio_eventlog.console._sampler import INTERVAL_MS, Sampler, now_ms
from trio_eventlog.console._source import Source
from trio_eventlog.console._state import Console, no_live_log

_MAX_BODY: Final = 4096

_PATIENCE: Final = 2.0
"""Seconds to wait for the store of a live log."""

_COUNTERS: Final = (
    *("ingested", "persisted", "duplicate", "filtered", "pending", "pending_bytes"),
    *("spilled", "spill_bytes", "lost_total", "appends", "failures"),
)


async def get_logs(console: Console, request: Request) -> ASGIApp:
    """``GET api/logs``."""
    Parameters(request.scope["query_string"], ())
    await trio.lowlevel.checkpoint()
    logs = [{"name": source.name, "live": source.log is not None} for source in console.sources.values()]
    return json_answer({"logs": logs, "version": own_version()})


def own_version() -> str | None:
    """The version of the installed package; None if it is not installed."""
    try:
        return version("trio-eventlog")
    except PackageNotFoundError:
        return None


async def get_statistics(console: Console, request: Request) -> ASGIApp:
    """``GET api/statistics``."""
    parameters = Parameters(request.scope["query_string"], ("log",))
    source = console.source(parameters.text("log"))
    last_seq, pruned_seq = await _ends(console, source)
    return json_answer(
        {
            "now_ms": now_ms(),
            "store": {
                "kind": type(source.store).__name__,
                "last_seq": str(last_seq),
                "pruned_seq": None if pruned_seq is None else str(pruned_seq),
            },
            "live": None if source.log is None else _live(source.log, console.sampler),
            "console": {
                "requests": console.waiting,
                "streams": console.streams,
                "max_streams": console.limits.streams,
            },
        }
    )


async def _ends(console: Console, source: Source) -> tuple[int, int | None]:
    """The last seq and the last one that was pruned, of which a live log knows the first without its store.

    How a log is doing is asked for most of all while its store fails.
    """
    patience = _PATIENCE if source.log is not None else math.inf
    with trio.move_on_after(patience):  # noqa: ASYNC912 - asking a store is a checkpoint
        try:
            async with console.at_the_store():
                return await source.last_seq(), await source.pruned_seq()
        except Exception as exc:
            if source.log is None or answer_for(exc) is None:
                raise
    return await source.end_seq(), None


def _live(log: EventLog, sampler: Sampler | None) -> dict[str, Any]:
    statistics = log.statistics()
    return {
        "state": str(statistics.state),
        **{name: getattr(statistics, name) for name in _COUNTERS},
        "lost": {str(reason): count for reason, count in statistics.lost.items()},
        "last_assigned_seq": str(statistics.last_assigned_seq),
        "last_durable_seq": str(statistics.last_durable_seq),
        "failing_since_ms": None if sampler is None else sampler.failing_since_ms,
        "interval_ms": INTERVAL_MS,
        "samples": [] if sampler is None else list(sampler.samples),
    }


async def get_tasks(console: Console, request: Request) -> ASGIApp:
    """``GET api/tasks``."""
    Parameters(request.scope["query_string"], ())
    await trio.lowlevel.checkpoint()
    if console.tasks is None:
        raise no_live_log()
    tasks, is_complete = await console.tasks.read()
    return json_answer({"now_ms": now_ms(), "tasks": tasks, "is_complete": is_complete})


# --- sessions -------------------------------------------------------------------------------------


def cookie_name(request_scope: Any) -> str:
    """The name of the cookie: browsers do not keep those of several ports of a host apart."""
    server = request_scope.get("server")
    return f"trio_eventlog_{server[1] if server and server[1] else 0}"


async def handle_session(console: Console, request: Request) -> ASGIApp:
    """``GET``, ``POST`` and ``DELETE`` of ``api/session``."""
    Parameters(request.scope["query_string"], ())
    name = cookie_name(request.scope)
    if request.method == "POST":
        token = await _read_token(request)
        if console.sessions.token_required and not console.sessions.accepts_token(token):
            raise ApiError(401, "unauthorized", "this is not the token")
        secret = console.sessions.begin() if console.sessions.token_required else ""
        return _with_cookie(request, name, secret)
    await trio.lowlevel.checkpoint()
    if request.method == "DELETE":
        secret = cookie_value(request.headers.get("cookie"), name) or ""
        console.sessions.end(secret)
        return _with_cookie(request, name, "")
    return json_answer(
        {
            "token_required": console.sessions.token_required,
            "authorized": console.sessions.is_authorized(request.headers, name),
        }
    )


async def _read_token(request: Request) -> str:
    body = await read_json(request, _MAX_BODY)
    try:
        return msgspec.json.decode(body, type=dict[str, str])["token"]
    except (ValueError, KeyError, RecursionError):
        # Not a word about the content, which has a token.
        raise ApiError(400, "invalid_parameter", 'token: expected {"token": "…"}', field="token") from None


def _with_cookie(request: Request, name: str, secret: str) -> Response:
    path = request.scope.get("root_path", "").rstrip("/") + "/"
    answer = Response(status_code=204, headers={"cache-control": "no-store"})
    answer.headers["set-cookie"] = cookie_for(
        name, secret, path, is_secure=request.scope.get("scheme") == "https"
    )
    return answer
