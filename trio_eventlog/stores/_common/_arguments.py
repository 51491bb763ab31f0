"""Checks of arguments that several stores take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trio_eventlog._model._events import MAX_STORED

_MOST_LOG_NAME_BYTES: Final = 512


def check_name(what: str, name: object, most: int) -> None:
    """A name of 1 to ``most`` bytes in UTF-8.

    Raises:
      TypeError, ValueError: it is none.
    """
    if not isinstance(name, str):
        msg = f"{what} must be text, got {type(name).__name__}"
        raise TypeError(msg)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        msg = f"{what} name {name!a} has a lone surrogate"
        raise ValueError(msg) from None
    if not 1 <= size <= most:
        msg = f"a {what} name has 1 to {most} bytes, got {size}"
        raise ValueError(msg)


def check_log_name(log: object) -> None:
    """The name of a log: 1 to 512 bytes in UTF-8.

    Raises:
      TypeError, ValueError: it is none.
    """
    check_name("log", log, _MOST_LOG_NAME_BYTES)


def checked_log_names(logs: Iterable[str] | None) -> list[str] | None:
    """The argument ``logs`` of ``open_readers``.

    Raises:
      TypeError, ValueError: one is no name of a log, or a text stands for all of them.
    """
    if isinstance(logs, str):
        msg = "logs: expected names, got a single text"
        raise TypeError(msg)
    names = None if logs is None else list(logs)
    for name in names or ():
        check_log_name(name)
    return names


def checked_top(top: int) -> int:
    """The argument ``top`` of ``describe``, no higher than a database takes it.

    Raises:
      TypeError, ValueError: it is no integer, or negative.
    """
    if type(top) is not int:
        msg = f"top: expected an integer, got {type(top).__name__}"
        raise TypeError(msg)
    if top < 0:
        msg = f"top: expected 0 or more, got {top}"
        raise ValueError(msg)
    return min(top, MAX_STORED)


def check_max_bytes(max_bytes: object) -> None:
    """The argument ``max_bytes`` of ``query_page``.

    Raises:
      TypeError, ValueError: it is no integer, or less than 1.
    """
    if type(max_bytes) is not int:
        msg = f"max_bytes: expected an integer, got {type(max_bytes).__name__}"
        raise TypeError(msg)
    if max_bytes < 1:
        msg = f"max_bytes: expected 1 or more, got {max_bytes}"
        raise ValueError(msg)


def check_criteria(before_ms: int | None, keep: int | None) -> None:
    """The arguments of ``prune`` that say what goes.

    Raises:
      ValueError: not exactly one is given, or it is out of range.
    """
    if (before_ms is None) == (keep is None):
        msg = "before_ms, keep: expected one of them"
        raise ValueError(msg)
    for name, value in (("before_ms", before_ms), ("keep", keep)):
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_STORED):
            msg = f"{name}: expected an integer of 0 to 2**63 - 1, got {value!r:.50}"
            raise ValueError(msg)
