"""Checks of arguments that are numbers, with one form of message for all of them."""

from __future__ import annotations

import sys
from typing import Final

_MAX_BITS_SHOWN: Final = 128
"""Python refuses to convert very long integers to strings."""


def check_integer(
    name: str, value: object, minimum: int | None = None, maximum: int | None = None, *, unit: str = ""
) -> int:
    """Return ``value``, the argument ``name``, if it is an integer in range; None for no bound.

    Raises:
      TypeError: it is not an integer; a bool is not one.
      ValueError: it is out of range.
    """
    if type(value) is not int:
        expected = f"a number of {unit} as an int" if unit else "an integer"
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    if minimum is not None and (value < minimum or (maximum is not None and value > maximum)):
        expected = f"{minimum} or more" if maximum is None else f"{minimum} to {_shown(maximum)}"
        raise ValueError(f"{name}: expected {expected}{unit and ' ' + unit}, got {_shown(value)}")
    return value


def check_number(
    name: str,
    value: object,
    *,
    minimum: float = 0.0,
    maximum: float | None = None,
    above: bool = False,
    infinite: bool = False,
    unit: str = "",
) -> float:
    """Return ``value``, the argument ``name``, as a float if it is a number in range.

    With ``above`` it must be more than the minimum; with ``infinite`` it may be infinite.

    Raises:
      TypeError: it is neither an int nor a float; a bool is not one.
      ValueError: it is out of range. NaN always is, and an int beyond every float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected {unit or 'a number'}, got {type(value).__name__}")
    # NaN fails every comparison. An int beyond every float would compare as less than infinity.
    highest = sys.float_info.max if maximum is None else maximum
    if minimum <= value <= highest and not (above and value == minimum):
        return float(value)
    if infinite and value == float("inf"):
        return float(value)
    if maximum is not None:
        expected = f"{minimum:.0f} to {maximum:.0f}"
    else:
        expected = f"more than {minimum:.0f}" if above else f"{minimum:.0f} or more"
    expected += (unit and f" {unit}") + ("" if infinite or maximum is not None else ", and finite")
    found = value if isinstance(value, float) else _shown(value)
    raise ValueError(f"{name}: expected {expected}, got {found}")


def _shown(value: int) -> str:
    if value in (2**63 - 1, 2**64 - 1):
        return f"2**{value.bit_length()} - 1"
    return shown_integer(value).removeprefix("integer ")


def shown_integer(value: int) -> str:
    """An integer, for a message."""
    bits = value.bit_length()
    return f"integer {value}" if bits <= _MAX_BITS_SHOWN else f"an integer of {bits} bits"
