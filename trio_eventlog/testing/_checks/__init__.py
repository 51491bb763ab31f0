"""The checks, by clause. Each is a strategy for cases and a function that tries one."""

from __future__ import annotations

from trio_eventlog.testing._checks import (
    _appending,
    _atomicity,
    _cancellation,
    _damage,
    _durability,
    _erasing,
    _errors,
    _fields,
    _filters,
    _histories,
    _opening,
    _power,
    _scale,
    _summaries,
    _values,
)
from trio_eventlog.testing._report import CLAUSES
from trio_eventlog.testing._search import Check

__all__ = ["CHECKS"]

_ORDER = list(CLAUSES)

CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (
            # First of their clauses: what they find is what matters most, and only the first check that fails
            # is reported.
            *_power.CHECKS,
            *_atomicity.CHECKS,
            *_appending.CHECKS,
            *_filters.CHECKS,
            *_fields.CHECKS,
            *_values.CHECKS,
            *_durability.CHECKS,
            *_cancellation.CHECKS,
            *_errors.CHECKS,
            *_opening.CHECKS,
            *_histories.CHECKS,
            *_damage.CHECKS,
            *_erasing.CHECKS,
            *_scale.CHECKS,
            *_summaries.CHECKS,
        ),
        key=lambda check: _ORDER.index(check.clause),
    )
)
"""All of them."""
