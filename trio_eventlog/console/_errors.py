"""Errors as answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio

from trio_eventlog import CodecError, EventQuery, StaleCursor, StoreError, StoreUnusable
from trio_eventlog.stores import without_secrets

RETRY_AFTER: Final = {"retry-after": "2"}
"""Header of errors that may pass."""


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.more = more
        self.headers = headers or {}

    def content(self) -> dict[str, Any]:
        """What is in the answer under ``error``."""
        content: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.field is not None:
            content["field"] = self.field
        return content | dict(self.more)


def invalid(field: str, reason: str) -> ApiError:
    """The error for a parameter that is wrong."""
    return ApiError(400, "invalid_parameter", f"{field}: {reason}", field=field)


def invalid_query(exc: TypeError | ValueError) -> ApiError:
    """The error for what :class:`EventQuery` refuses; its message begins with the field."""
    field, _, reason = str(exc).partition(": ")
    name = field.partition("[")[0]
    if name not in {known.name for known in attrs.fields(EventQuery)}:
        return ApiError(400, "invalid_parameter", str(exc))
    return invalid("event_type" if name == "event_types" else name, reason)


def not_found(message: str, *, field: str | None = None) -> ApiError:
    """The error for what is not there."""
    return ApiError(404, "not_found", message, field=field)


def busy(message: str) -> ApiError:
    """The error for one too many."""
    return ApiError(503, "busy", message, headers=RETRY_AFTER)


def stale(exc: StaleCursor) -> ApiError:
    """The error for a cursor beyond the end of the log."""
    return ApiError(410, "stale_cursor", str(exc), after_seq=str(exc.after_seq), last_seq=str(exc.last_seq))


def answer_for(exc: Exception) -> ApiError | None:
    """The answer for an error of reading; None if ``exc`` is a defect."""
    match exc:
        case ApiError():
            return exc
        case StaleCursor():
            return stale(exc)
        case StoreUnusable():
            return ApiError(503, "store_unusable", f"the store cannot be read: {_shown(exc)}")
        case StoreError():
            return ApiError(503, "store_failed", f"the store failed: {_shown(exc)}", headers=RETRY_AFTER)
        case CodecError():
            return ApiError(503, "store_failed", f"an event cannot be read: {_shown(exc)}")
        case trio.TooSlowError():
            return ApiError(504, "timeout", "the store took too long", headers=RETRY_AFTER)
        case trio.ClosedResourceError():
            return ApiError(503, "store_unusable", "the log is closed")
        case _:
            return None


def _shown(exc: Exception) -> str:
    return without_secrets(str(exc))
