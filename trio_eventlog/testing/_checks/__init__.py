"""The checks, by clause. Each is a strategy for cases and a function that tries one."""

from __future__ import annotations

from trio_eventlog.testing._checks import _appending, _living, _reading
from trio_eventlog.testing._search import Check

CHECKS: tuple[Check, ...] = (*_appending.CHECKS, *_reading.CHECKS, *_living.CHECKS)
"""All of them, in the order of the clauses."""
