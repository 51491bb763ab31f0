"""Numbers that are given as arguments: of another type, or out of range."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from trio_eventlog._numbers import check_integer, check_number


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, "n: expected an integer, got bool"),
        (1.0, TypeError, "n: expected an integer, got float"),
        ("1", TypeError, "n: expected an integer, got str"),
        (0, ValueError, r"n: expected 1 to 2\*\*63 - 1, got 0"),
        (2**63, ValueError, f"got {2**63}"),
        (2**200, ValueError, "got an integer of 201 bits"),
    ],
)
def test_an_integer_out_of_range(value: object, error: type[Exception], message: str) -> None:
    """The message shows it, however long it is."""
    with pytest.raises(error, match=message):
        check_integer("n", value, 1, 2**63 - 1)
    assert check_integer("n", 7, 7) == 7


def test_an_integer_of_a_unit() -> None:
    """It is named. Without bounds only the type counts."""
    with pytest.raises(TypeError, match="n: expected a number of bytes as an int, got NoneType"):
        check_integer("n", None, 1, unit="bytes")
    with pytest.raises(ValueError, match="n: expected 1 or more bytes, got 0"):
        check_integer("n", 0, 1, unit="bytes")
    assert check_integer("n", -5) == -5


@pytest.mark.parametrize(
    ("bounds", "value", "error", "message"),
    [
        ({}, True, TypeError, "n: expected a number, got bool"),
        ({}, Decimal(1), TypeError, "n: expected a number, got Decimal"),
        ({"unit": "seconds"}, "1", TypeError, "n: expected seconds, got str"),
        ({}, -0.5, ValueError, "n: expected 0 or more, and finite, got -0.5"),
        ({}, math.nan, ValueError, "n: expected 0 or more, and finite, got nan"),
        ({}, math.inf, ValueError, "n: expected 0 or more, and finite, got inf"),
        ({"above": True}, 0, ValueError, "n: expected more than 0, and finite, got 0"),
        ({"infinite": True}, -math.inf, ValueError, "n: expected 0 or more, got -inf"),
        ({"infinite": True}, 10**400, ValueError, "n: expected 0 or more, got an integer of 1329 bits"),
        ({"infinite": True}, math.nan, ValueError, "n: expected 0 or more, got nan"),
        ({"minimum": 2, "maximum": 3, "unit": "s"}, 3.5, ValueError, "n: expected 2 to 3 s, got 3.5"),
        ({"minimum": 2, "maximum": 3}, math.nan, ValueError, "n: expected 2 to 3, got nan"),
        (
            {"minimum": 2, "maximum": 3},
            10**400,
            ValueError,
            "n: expected 2 to 3, got an integer of 1329 bits",
        ),
    ],
)
def test_a_number_out_of_range(
    bounds: dict[str, Any], value: object, error: type[Exception], message: str
) -> None:
    """The message has the bounds and the unit."""
    with pytest.raises(error, match=f"^{message}$"):
        check_number("n", value, **bounds)


def test_numbers_in_range() -> None:
    """The bounds are in, and an int becomes a float."""
    assert check_number("n", 0) == 0.0
    assert type(check_number("n", 3, minimum=2, maximum=3)) is float
    assert check_number("n", math.inf, infinite=True) == math.inf
    assert check_number("n", 1e-300, above=True) == 1e-300
