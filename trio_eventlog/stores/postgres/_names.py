"""Names in PostgreSQL: the schema in statements, the numbers of locks, and channels."""

from __future__ import annotations

import hashlib
from typing import Final


class Names:
    """The name of the schema, in statements and for locks."""

    def __init__(self, schema: str) -> None:
        self.schema: Final = schema
        escaped = schema.replace('"', '""')
        self.quoted: Final = f'"{escaped}"'

    def sql(self, template: str) -> bytes:
        """A statement in which ``:s`` stands for the schema. Values are parameters, and never in it."""
        return template.replace(":s.", f"{self.quoted}.").encode()

    def create_schema(self) -> bytes:
        """The statement that creates the schema."""
        return f"create schema if not exists {self.quoted}".encode()

    def key(self, purpose: str, log: str = "") -> int:
        """A 64-bit number for an advisory lock; differs by purpose, schema and log."""
        return int.from_bytes(self._digest(purpose, log)[:8], "big", signed=True)

    def channel(self, log: str) -> bytes:
        """The channel on which changes of a log are notified."""
        return b"trio_eventlog_" + self._digest("changes", log).hex()[:32].encode()

    def _digest(self, purpose: str, log: str) -> bytes:
        # The schema's name has no NUL, so no two of these are equal.
        return hashlib.sha256(f"trio_eventlog\0{purpose}\0{self.schema}\0{log}".encode()).digest()
