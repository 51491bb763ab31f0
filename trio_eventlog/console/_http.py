"""Requests and answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from trio_eventlog.console._encoding import encode
from trio_eventlog.console._errors import ApiError, answer_for
from trio_eventlog.console._state import Console

logger: Final = logging.getLogger("trio_eventlog.console")

Handler: TypeAlias = Callable[[Console, Request], Awaitable[ASGIApp]]
"""Answers a request. The answer is an ASGI application."""


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON, which nobody keeps."""
    return Response(
        encode(content),
        status,
        {"cache-control": "no-store"} | (headers or {}),
        media_type="application/json",
    )


def error_answer(error: ApiError) -> Response:
    """An error as an answer."""
    return json_answer({"error": error.content()}, error.status, dict(error.headers))


@attrs.frozen(eq=False)
class Endpoint:
    """An ASGI application that answers with a handler, and answers its errors."""

    console: Console
    handler: Handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = await self.handler(self.console, Request(scope, receive))
        except ClientDisconnect:
            return
        except Exception as exc:  # noqa: BLE001 - a defect must not reach the program
            answer = self._answer_for(exc)
        await answer(scope, receive, send)

    @staticmethod
    def _answer_for(exc: Exception) -> Response:
        error = answer_for(exc)
        if error is None:
            logger.error("a request to the console failed", exc_info=exc)
            error = ApiError(500, "internal", "the console failed; its log says why")
        return error_answer(error)
