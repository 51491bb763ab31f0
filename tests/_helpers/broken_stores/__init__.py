"""Stores that break one clause of the contract each, by a fault that real stores have.

What checks stores must find every one of them. Derived from the correct stores, so that the lines of a
class are its fault.
"""

from tests._helpers.broken_stores import (
    appending,
    atomicity,
    cancellation,
    concurrency,
    damage,
    durability,
    erasing,
    errors,
    filters,
    isolation,
    lifecycle,
    locking,
    power,
    scale,
    summaries,
    values,
)
from tests._helpers.broken_stores._broken import Broken

BROKEN: tuple[Broken, ...] = (
    *appending.BROKEN,
    *atomicity.BROKEN,
    *filters.BROKEN,
    *values.BROKEN,
    *durability.BROKEN,
    *power.BROKEN,
    *cancellation.BROKEN,
    *errors.BROKEN,
    *locking.BROKEN,
    *isolation.BROKEN,
    *lifecycle.BROKEN,
    *damage.BROKEN,
    *erasing.BROKEN,
    *scale.BROKEN,
    *summaries.BROKEN,
    *concurrency.BROKEN,
)
"""All of them."""
