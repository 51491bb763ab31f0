"""What stands in place of a payload that was erased. Floor 1: pure."""

from __future__ import annotations

from typing import Any, Final

ERASED: Final = "@erased"
"""The only key of the payload of an event that was erased; see :meth:`ErasableStore.erase`."""


def is_tombstone(payload: Any) -> bool:
    """Whether a payload stands in place of one that was erased, and not only looks as if it did.

    For stores that can erase, which leave such events alone, and for readers.
    """
    if type(payload) is not dict or len(payload) != 1:
        return False
    found = payload.get(ERASED)
    return (
        type(found) is dict
        and set(found) == {"reason", "at_ms", "commitment"}
        and type(found["reason"]) is str
        and type(found["at_ms"]) is int
        and (found["commitment"] is None or type(found["commitment"]) is str)
    )
