"""Checks of arguments that several stores take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._numbers import check_integer

_MAX_LOG_NAME_BYTES: Final = 512


def check_name(what: str, name: object, max_bytes: int) -> None:
    """Raise TypeError or ValueError unless it is a string of 1 to ``max_bytes`` bytes in UTF-8."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a string, got {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} name {name!a} has a lone surrogate") from None
    if not 1 <= size <= max_bytes:
        raise ValueError(f"a {what} name has 1 to {max_bytes} bytes, got {size}")


def check_log_name(log: object) -> None:
    """Check the name of a log: 1 to 512 bytes in UTF-8."""
    check_name("log", log, _MAX_LOG_NAME_BYTES)


def checked_log_names(logs: Iterable[str] | None) -> list[str] | None:
    """Check the argument ``logs`` of ``open_readers``."""
    if isinstance(logs, str):
        raise TypeError("logs: expected names, got a single string")
    names = None if logs is None else list(logs)
    for name in names or ():
        check_log_name(name)
    return names


def checked_top(top: object) -> int:
    """Check the argument ``top`` of ``describe``, and cut it to what a database can take."""
    return min(check_integer("top", top, 0), MAX_STORED)


def check_max_bytes(max_bytes: object) -> None:
    """Check the argument ``max_bytes`` of ``query_page``."""
    check_integer("max_bytes", max_bytes, 1)


def check_prune(before_ms: int | None, keep: int | None) -> None:
    """Check the arguments of ``prune`` that say which events go: exactly one must be given."""
    if (before_ms is None) == (keep is None):
        raise ValueError("before_ms, keep: expected one of them")
    for name, value in (("before_ms", before_ms), ("keep", keep)):
        if value is not None:
            check_integer(name, value, 0, MAX_STORED)
