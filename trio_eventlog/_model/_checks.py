"""Checks of strings and integers, said once for queries, payloads and the wire form."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Final

from trio_eventlog._model._base_errors import CodecError
from trio_eventlog._model._events import MAX_U64
from trio_eventlog._numbers import shown_integer

_MAX_PATH: Final = 200
"""Characters of a path in an error."""

_MAX_SHOWN: Final = 50
"""Characters of a value in an error."""

_repr: Final = reprlib.Repr().repr


def check_string(value: object) -> str:
    """Return ``value`` if it is a string that JSON can carry: no subclass, and no lone surrogate."""
    if type(value) is not str:
        raise TypeError(f"expected a string, got {shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise ValueError(
                f"lone surrogate {value[exc.start]!a} at character {exc.start}; JSON text cannot carry it"
            ) from None
    return value


def check_unsigned(value: object, maximum: int = MAX_U64) -> int:
    """Return ``value`` if it is an integer (not a bool) from 0 to ``maximum``, which is 2**n - 1."""
    if type(value) is not int:
        raise TypeError(f"expected an integer, got {shown(value)}")
    if not 0 <= value <= maximum:
        found = shown_integer(value).removeprefix("integer ")
        raise ValueError(f"expected 0 to 2**{maximum.bit_length()} - 1, got {found}")
    return value


def require_string(value: object, path: str) -> None:
    """Raise CodecError unless ``value`` is a string that JSON can carry."""
    try:
        check_string(value)
    except (TypeError, ValueError) as exc:
        raise CodecError(path, str(exc)) from None


def require_integer(value: object, path: str, maximum: int = MAX_U64) -> None:
    """Raise CodecError unless ``value`` is an integer from 0 to ``maximum``."""
    try:
        check_unsigned(value, maximum)
    except (TypeError, ValueError) as exc:
        raise CodecError(path, str(exc)) from None


def shown(value: object) -> str:
    """The type of ``value`` and a short form of it, for an error. Never fails, and never takes long."""
    if value is None:
        return "null"
    kind = type(value)
    try:
        # Cut first: escaping all of a long string would take far more memory than the string itself.
        text = ascii(value[:_MAX_SHOWN]) if isinstance(value, str) else _repr(value)
    except Exception:  # noqa: BLE001 - a repr that is not ours may raise anything
        return kind.__name__
    return f"{kind.__name__} ({text.encode('ascii', 'backslashreplace').decode():.{_MAX_SHOWN}})"


def path_of(root: str, steps: Iterable[str | int]) -> str:
    """The path to an item of a payload, such as ``payload.items[3]``, cut to a readable length."""
    path = root
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier():
            path += f".{step}"
        else:
            # ascii(): a path must be printable whatever the key holds.
            path += f"[{step!a}]"
        if len(path) > _MAX_PATH:
            return path[:_MAX_PATH] + "…"
    return path
