"""Checks of arguments, with one form of message. They come before anything runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path


def check_integer(name: str, value: object, least: int | None, *, optional: bool = False) -> None:
    """Raise TypeError or ValueError unless ``value`` is an integer of at least ``least``.

    A bool is none.
    """
    if optional and value is None:
        return
    if type(value) is not int:
        raise TypeError(f"{name}: expected an int{_or_none(optional)}, got {type(value).__name__}")
    if least is not None and value < least:
        raise ValueError(f"{name}: expected {least} or more, got {value}")


def check_seconds(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless ``value`` is a number of seconds, more than 0 and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected seconds, got {type(value).__name__}")
    # There are integers beyond every float.
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name}: expected more than 0 seconds, and finite, got {value}")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")


def check_function(name: str, value: object, what: str, *, optional: bool = False) -> None:
    """Raise TypeError unless ``value`` can be called; ``what`` it should be, in words."""
    if not callable(value) and not (optional and value is None):
        raise TypeError(f"{name}: expected {what}{_or_none(optional)}, got {type(value).__name__}")


def check_opener(value: object, name: str = "open_store", *, optional: bool = False) -> None:
    """Raise TypeError unless ``value`` can be called, as what opens a store."""
    check_function(name, value, "a function of a location", optional=optional)


def check_names(name: str, value: object, example: str, known: Collection[str], words: str) -> None:
    """Raise TypeError or ValueError unless ``value`` is a collection of ``known`` names, at least one."""
    if isinstance(value, str) or not isinstance(value, Collection):
        got, example = ("a string", value) if isinstance(value, str) else (type(value).__name__, example)
        raise TypeError(f"{name}: expected a collection such as [{example!r}], got {got}")
    for one in value:
        if not isinstance(one, str):
            raise TypeError(f"{name}: expected a collection of strings, got one with {type(one).__name__}")
    unknown = sorted(set(value) - set(known))
    if unknown or not value:
        got = ", ".join(one if one.isprintable() and one.strip() else repr(one) for one in unknown)
        raise ValueError(f"{name}: expected some of {words}, got {got or 'none'}")


def check_deviations(value: object, clauses: Collection[str], words: str) -> None:
    """Raise TypeError or ValueError unless ``value`` has a reason for each of some clauses."""
    if not isinstance(value, Mapping):
        raise TypeError(f"deviations: expected a mapping of clauses to reasons, got {type(value).__name__}")
    for clause, reason in value.items():
        if clause not in clauses:
            raise ValueError(f"deviations: expected some of {words}, got {clause}")
        if not isinstance(reason, str):
            raise TypeError(f"deviations[{clause}]: expected a string, got {type(reason).__name__}")
        if not reason.strip():
            raise ValueError(f"deviations[{clause}]: expected a reason, got {reason!r}")


def check_instance(name: str, value: object, kind: type, article: str = "a") -> None:
    """Raise TypeError unless ``value`` is a ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {article} {kind.__name__}, got {type(value).__name__}")


def check_integers(name: str, value: object, least: int) -> None:
    """Raise TypeError or ValueError unless ``value`` is a collection of integers of at least ``least``."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        raise TypeError(f"{name}: expected a collection of integers, got {type(value).__name__}")
    for one in value:
        check_integer(name, one, least)


def checked_path(name: str, value: object) -> Path:
    """``value`` as a path; TypeError if it is none."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {type(value).__name__}")
    return Path(value)


def _or_none(optional: bool) -> str:
    return " or None" if optional else ""
