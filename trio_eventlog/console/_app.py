"""The console as an ASGI application."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

import attrs
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trio_eventlog import EventLog
from trio_eventlog.abc import EventStore
from trio_eventlog.console._errors import ApiError, not_found
from trio_eventlog.console._events import get_event, get_events
from trio_eventlog.console._guard import (
    HEADERS,
    Sessions,
    check_host,
    check_site,
    checked_hosts,
    checked_token,
    headers_of,
)
from trio_eventlog.console._http import Endpoint, Handler, error_answer
from trio_eventlog.console._limits import ConsoleLimits
from trio_eventlog.console._numbers import get_count, get_facets, get_histogram
from trio_eventlog.console._openapi import get_openapi
from trio_eventlog.console._rpc import post_rpc
from trio_eventlog.console._source import Source
from trio_eventlog.console._state import Console
from trio_eventlog.console._static import Page, StaticFile, read_static_files
from trio_eventlog.console._status import cookie_name, get_logs, get_statistics, get_tasks, handle_session
from trio_eventlog.console._streams import get_mob_stream, get_stream

_SESSION_PATH: Final = "/api/session"
_OPEN_TO_ALL: Final = ("/", "/favicon.ico", _SESSION_PATH)
"""What needs no session, beside the files of the page, which hold nothing of the log."""

_STATIC_PREFIX: Final = "/static/"

_HANDLERS: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("/api/logs", "GET", get_logs),
    ("/api/events", "GET", get_events),
    ("/api/events/stream", "GET", get_stream),
    ("/api/events/{seq}", "GET", get_event),
    ("/api/count", "GET", get_count),
    ("/api/histogram", "GET", get_histogram),
    ("/api/facets", "GET", get_facets),
    ("/api/statistics", "GET", get_statistics),
    ("/api/tasks", "GET", get_tasks),
    ("/api/openapi.json", "GET", get_openapi),
    (_SESSION_PATH, "GET POST DELETE", handle_session),
    ("/rpc", "POST", post_rpc),
    ("/mobkit/mob_events/stream", "GET", get_mob_stream),
)


def create_app(
    stores: EventStore | Mapping[str, EventStore],
    *,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    limits: ConsoleLimits | None = None,
) -> ASGIApp:
    """The console as an application, to be mounted in an ASGI application that runs on Trio.

    ::

        app = Starlette(routes=[Mount("/log", create_app(store))])

    It reads and never writes, and needs nothing of the lifespan protocol. Reads the files of the page, and so
    blocks for a moment. To see the state of a log of the same program, and not to need a server, use
    :func:`serve_console`.

    Args:
      stores: an open store, or several by the names under which to show them. They must stay open while the
        application is used.
      token: what a browser or a program must show to read anything, 16 characters or more; None for nothing,
        if the application around it sees to that.
      allowed_hosts: names of hosts under which it can be reached. Addresses and ``localhost`` need not be
        named; all others are refused, since they could be those of another site (DNS rebinding).
      limits: what it may use; by default :class:`ConsoleLimits`.

    Raises:
      TypeError, ValueError: an argument is not as described.
    """
    console = Console(
        sources=sources_of(stores),
        limits=checked_limits(limits),
        sessions=Sessions(checked_token(token)),
        allowed_hosts=checked_hosts(allowed_hosts),
    )
    return make_app(console, read_static_files())


def sources_of(shown: object) -> dict[str, Source]:
    """The logs to show, by name.

    Raises:
      TypeError: ``shown`` is none.
    """
    if isinstance(shown, EventLog):
        return {"default": Source("default", shown.store, shown)}
    if isinstance(shown, Mapping):
        sources: dict[str, Source] = {}
        for name, store in shown.items():
            if not isinstance(name, str):
                raise TypeError(f"stores: expected names as str, got {type(name).__name__}")
            sources[name] = Source(name, _checked_store(store))
        return sources
    return {"default": Source("default", _checked_store(shown))}


def _checked_store(store: object) -> EventStore:
    if isinstance(store, type) or not isinstance(store, EventStore):
        raise TypeError(f"stores: expected an open store, got {type(store).__name__}")
    return store


def checked_limits(limits: object) -> ConsoleLimits:
    """The limits that are given as an argument.

    Raises:
      TypeError: they are none.
    """
    if limits is None:
        return ConsoleLimits()
    if not isinstance(limits, ConsoleLimits):
        raise TypeError(f"limits: expected ConsoleLimits, got {type(limits).__name__}")
    return limits


def make_app(console: Console, static: Mapping[str, StaticFile]) -> ASGIApp:
    """The application that shows ``console``."""
    page = Page(static)
    routes: list[BaseRoute] = [
        Route(path, Endpoint(console, handler), methods=methods.split())
        for path, methods, handler in _HANDLERS
    ]
    routes.append(Route("/", page, methods=["GET"]))
    routes.append(Route(_STATIC_PREFIX + "{path:path}", page, methods=["GET"]))
    return _Application(console, Router(routes, redirect_slashes=False))


@attrs.frozen(eq=False)
class _Application:
    """Lets requests in, and sees to the headers of all answers."""

    console: Console
    router: Router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _refuse(scope, receive, send)
            return
        send = partial(_send_with_headers, send)
        try:
            self._check(scope)
            await self.router({**scope, "app": self, "router": self.router}, receive, send)
        except ApiError as exc:
            await error_answer(exc)(scope, receive, send)
        except HTTPException as exc:
            await error_answer(_error_of(exc))(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = headers_of(scope["headers"])
        check_host(headers.get("host"), self.console.allowed_hosts)
        path = _path_of(scope)
        if path.startswith(_STATIC_PREFIX) or path == "/":
            return
        check_site(headers)
        if path in _OPEN_TO_ALL:
            return
        if not self.console.sessions.is_authorized(headers, cookie_name(scope)):
            raise ApiError(
                401,
                "unauthorized",
                "this console wants its token",
                headers={"www-authenticate": "Bearer"},
            )


def _path_of(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    # Servers differ in whether a path includes where the application is mounted.
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _error_of(exc: HTTPException) -> ApiError:
    if exc.status_code == 405:  # noqa: PLR2004 - by its name
        allowed = ", ".join(sorted((exc.headers or {}).get("Allow", "").split(", ")))
        return ApiError(405, "method_not_allowed", f"only {allowed}", headers={"allow": allowed})
    return not_found("there is no such path")


async def _send_with_headers(send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
    await send(message)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """There is nothing for WebSockets, and no lifespan."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        return
    await _live_in_vain(receive, send)


async def _live_in_vain(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        kind = message["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
