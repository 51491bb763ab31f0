"""The parameters of a request, checked. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from trio_eventlog import EventQuery
from trio_eventlog.console._errors import ApiError, invalid, invalid_query

MAX_QUERY_STRING: Final = 8192
"""Bytes of a query string."""

_MAX_PARAMETERS: Final = 100
_MAX_SHOWN: Final = 40
_MAX_DIGITS: Final = 20
_MAX_U64: Final = 2**64 - 1

_STRINGS: Final = ("member_id", "module", "identity", "mob_id", "run_id", "step_id")
_TIMES: Final = ("since_ms", "until_ms")

FILTERS: Final = ("log", *_TIMES, *_STRINGS, "event_type", "fields")
"""The parameters that say which events."""


class Parameters:
    """The parameters of one request.

    Args:
      query_string: as it came.
      known: the names that there can be.
      repeatable: those of them that can be given more than once.

    Raises:
      ApiError: it is malformed, or has other parameters.
    """

    def __init__(
        self, query_string: bytes, known: Collection[str], *, repeatable: Collection[str] = ("event_type",)
    ) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in _split(query_string):
            if name not in known:
                raise invalid(name[:_MAX_SHOWN], f"there is no such parameter; there are {', '.join(known)}")
            if name in self._values and name not in repeatable:
                raise invalid(name, "given more than once")
            self._values.setdefault(name, []).append(value)

    def texts(self, name: str) -> list[str]:
        """All values of a parameter."""
        return self._values.get(name, [])

    def text(self, name: str) -> str | None:
        """The value of a parameter; None if it is not given."""
        values = self.texts(name)
        return values[0] if values else None

    def choice(self, name: str, choices: Collection[str], default: str) -> str:
        """One of a few words."""
        value = self.text(name)
        if value is None:
            return default
        if value not in choices:
            raise invalid(name, f"expected {' or '.join(choices)}, got {shown(value)}")
        return value

    def integer(self, name: str, *, low: int = 0, high: int = _MAX_U64) -> int | None:
        """An integer; None if it is not given."""
        value = self.text(name)
        return None if value is None else read_integer(name, value, low, high)

    def number(self, name: str, default: int, *, low: int, high: int) -> int:
        """An integer with a default."""
        value = self.integer(name, low=low, high=high)
        return default if value is None else value

    def query(self, **more: Any) -> EventQuery:
        """The filters, as a query; with ``more`` fields."""
        fields: dict[str, Any] = {name: self.text(name) for name in _STRINGS if self.texts(name)}
        fields |= {name: self.integer(name) for name in _TIMES if self.texts(name)}
        if self.texts("event_type"):
            fields["event_types"] = tuple(self.texts("event_type"))
        if (text := self.text("fields")) is not None:
            fields["fields"] = _read_object("fields", text)
        try:
            return EventQuery(**fields, **more)
        except (TypeError, ValueError) as exc:
            raise invalid_query(exc) from None


def read_integer(name: str, value: str, low: int, high: int) -> int:
    """An integer in plain digits.

    Raises:
      ApiError: ``value`` is none, or is out of range.
    """
    if not (value.isascii() and value.isdecimal()):
        raise invalid(name, f"expected digits, got {shown(value)}")
    # Converting a very long number takes quadratic time.
    if len(value) > _MAX_DIGITS or not low <= int(value) <= high:
        raise invalid(name, f"expected {low} to {high}, got {shown(value)}")
    return int(value)


def shown(value: str) -> str:
    """What a client sent, for a message."""
    return ascii(value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "…")


def _split(query_string: bytes) -> list[tuple[str, str]]:
    if len(query_string) > MAX_QUERY_STRING:
        raise ApiError(414, "too_large", f"the query string is longer than {MAX_QUERY_STRING} bytes")
    try:
        return parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_PARAMETERS,
        )
    except UnicodeDecodeError:
        raise ApiError(400, "invalid_parameter", "the query string is not UTF-8 with %-escapes") from None
    except ValueError:
        raise ApiError(
            400, "invalid_parameter", f"there are more than {_MAX_PARAMETERS} parameters"
        ) from None


def _read_object(name: str, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError) as exc:
        raise invalid(name, f"expected a JSON object, got {shown(text)} ({exc})") from None
