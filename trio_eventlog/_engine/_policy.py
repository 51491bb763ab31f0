"""How long to wait before trying again."""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs

from trio_eventlog._numbers import check_number


def _positive(_policy: RetryPolicy, field: attrs.Attribute[float], value: Any) -> None:
    check_number(field.name, value, above=True)


def _fraction(_policy: RetryPolicy, field: attrs.Attribute[float], value: Any) -> None:
    check_number(field.name, value, maximum=1.0)


def _function(_policy: RetryPolicy, field: attrs.Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{field.name}: expected a function, got {type(value).__name__}")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    The wait after the n-th failure in a row is ``initial * multiplier ** (n - 1)`` seconds, at most
    ``maximum``, shortened by a random fraction of up to ``jitter``. It is shortened rather than prolonged so
    that ``maximum`` holds, and programs that all have reached it still spread out.

    Args:
      initial: seconds to wait after the first failure, more than 0.
      maximum: longest wait in seconds, at least ``initial``.
      multiplier: growth per failure, at least 1.
      jitter: largest fraction by which a wait is shortened, 0 to 1.
      random: source of randomness, a function that returns a float from 0 up to 1. Replace it for
        reproducible tests.

    Raises:
      TypeError: an argument is of another type.
      ValueError: a number is out of range; NaN always is.
    """

    initial: float = attrs.field(default=0.1, validator=_positive)
    maximum: float = attrs.field(default=30.0, validator=_positive)
    multiplier: float = attrs.field(default=2.0, validator=_positive)
    jitter: float = attrs.field(default=0.1, validator=_fraction)
    random: Callable[[], float] = attrs.field(default=_random.random, repr=False, validator=_function)

    def __attrs_post_init__(self) -> None:
        if self.maximum < self.initial:
            raise ValueError(f"maximum: expected at least initial ({self.initial} s), got {self.maximum}")
        if self.multiplier < 1:
            raise ValueError(f"multiplier: expected at least 1, got {self.multiplier}")

    def delay(self, failures: int) -> float:
        """Seconds to wait after ``failures`` failures in a row (1 or more)."""
        try:
            # float(): the power of an int would be an int, of a million digits in a long outage.
            base = min(self.maximum, self.initial * float(self.multiplier) ** (failures - 1))
        except OverflowError:
            base = self.maximum
        return base * (1 - self.jitter * self._drawn())

    def _drawn(self) -> float:
        # A source that fails or returns something else costs the jitter, never the wait.
        with suppress(Exception):
            # Whatever kind of number it is, such as a Decimal.
            drawn = float(self.random())
            if 0 <= drawn <= 1:
                return drawn
        return 0.0
