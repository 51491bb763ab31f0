"""The checks, by clause. Each is a strategy for cases and a function that tries one."""

from __future__ import annotations

from trio_eventlog.testing._checks import (
    _appending,
    _atomicity,
    _cancellation,
    _durability,
    _errors,
    _filters,
    _histories,
    _opening,
    _scale,
    _values,
)
from trio_eventlog.testing._search import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = (
    *_appending.CHECKS,
    *_filters.CHECKS,
    *_values.CHECKS,
    *_durability.CHECKS,
    *_cancellation.CHECKS,
    *_errors.CHECKS,
    *_opening.CHECKS,
    *_histories.CHECKS,
    *_scale.CHECKS,
    *_atomicity.CHECKS,
)
"""All of them."""
