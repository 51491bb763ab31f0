"""Checks of arguments that several stores take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trio_eventlog._model._events import MAX_STORED
from trio_eventlog._model._query import EventQuery
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
    if logs is not None and not isinstance(logs, Iterable):
        raise TypeError(f"logs: expected names, got {type(logs).__name__}")
    names = None if logs is None else list(logs)
    for name in names or ():
        check_log_name(name)
    return names


def checked_top(top: object) -> int:
    """Check the argument ``top`` of ``describe``, and cut it to what a database can take."""
    return min(check_integer("top", top, 0), MAX_STORED)


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless it is True or False: other values can be meant either way."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")


def check_query(query: object) -> None:
    """Check the argument ``query`` of ``query``."""
    if not isinstance(query, EventQuery):
        raise TypeError(f"query: expected an EventQuery, got {type(query).__name__}")


def check_query_page(query: object, max_bytes: object) -> None:
    """Check the arguments of ``query_page``."""
    check_query(query)
    check_integer("max_bytes", max_bytes, 1)


def _check_on_progress(on_progress: object) -> None:
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress: expected a function or None, got {type(on_progress).__name__}")


def check_verify(most_findings: object, on_progress: object) -> None:
    """Check the arguments of ``verify``."""
    check_integer("most_findings", most_findings, 0)
    _check_on_progress(on_progress)


def check_prune(
    before_ms: object, keep: object, through_seq: object, dry_run: object, on_progress: object
) -> None:
    """Check the arguments of ``prune``: something must say which events go."""
    check_flag("dry_run", dry_run)
    _check_on_progress(on_progress)
    if (keep is None) == (before_ms is None and through_seq is None):
        raise ValueError("before_ms, keep, through_seq: expected one of them, or the first and the last")
    for name, value in (("before_ms", before_ms), ("keep", keep), ("through_seq", through_seq)):
        if value is not None:
            check_integer(name, value, 0, MAX_STORED)
