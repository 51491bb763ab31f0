"""Checks of arguments."""

from __future__ import annotations


def checked_events(name: str, value: object) -> int:
    """A number of events, 1 or more.

    Raises:
      TypeError, ValueError: it is not one.
    """
    if type(value) is not int:
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: expected 1 or more, got {value}")
    return value


def checked_seconds(name: str, value: object, *, above: bool = False) -> float:
    """A number of seconds, 0 or more; with ``above``, more than 0.

    Raises:
      TypeError, ValueError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number of seconds, got {type(value).__name__}")
    # NaN fails every comparison.
    if not value >= 0 or (above and value == 0):
        raise ValueError(f"{name}: expected {'more than 0' if above else '0 or more'}, got {value}")
    return float(value)
