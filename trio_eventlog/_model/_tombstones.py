"""What stands in place of a payload that was erased. Floor 1: pure."""

from __future__ import annotations

from typing import Any, Final

ERASED: Final = "@erased"
"""The only key of the payload of an event that was erased; see :meth:`ErasableStore.erase`."""


def is_tombstone(payload: Any) -> bool:
    """Whether a payload stands in place of one that was erased."""
    return type(payload) is dict and len(payload) == 1 and ERASED in payload
