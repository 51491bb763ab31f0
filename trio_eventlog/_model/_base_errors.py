"""The errors that events raise themselves; ``_errors`` has all the others, and these too."""

from __future__ import annotations


def require_strings(**arguments: object) -> None:
    """Raise TypeError unless each argument is a string."""
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a string, got {type(value).__name__}")


class EventLogError(Exception):
    """Base of all errors of this library."""


class CodecError(EventLogError, ValueError):
    """Text that is not the JSON of the type asked for, or a value that JSON cannot carry unchanged.

    Raised by :func:`from_json` and :func:`to_json`, and by :meth:`EventLog.ingest` in the frame of its
    caller; the event was not accepted. The caller can mend the field that ``path`` names.

    Attributes:
      path: the field, such as ``"event.payload.items[3]"``; empty if the whole text is meant.
      reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        require_strings(path=path, reason=reason)
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason
