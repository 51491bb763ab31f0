"""What was done to a store, written down as a program that does it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import attrs

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent

_WIDTH: Final = 110


class Series(list[PersistedEvent]):
    """Many events that differ in their seqs alone, so that a program can name them in one line."""

    def __init__(self, first: int, count: int, *, module: str = "m") -> None:
        super().__init__(
            PersistedEvent(f"id-{seq}", seq, seq, None, ModuleEvent(module, "t", {"n": seq}))
            for seq in range(first, first + count)
        )
        self.code = (
            f'[PersistedEvent(f"id-{{n}}", n, n, None, ModuleEvent({module!a}, "t", {{"n": n}}))'
            f" for n in range({first}, {first + count})]"
        )

    def __repr__(self) -> str:
        return self.code


def event_code(event: PersistedEvent) -> str:
    """An event as Python."""
    inner = event.event
    actor = inner.agent_id if isinstance(inner, AgentEvent) else inner.module
    payload = "" if inner.payload is None else f", {_value_code(inner.payload)}"
    kind = type(inner).__name__
    return (
        f"PersistedEvent({event.id!a}, {event.seq}, {event.timestamp_ms}, {event.member_id!a},"
        f" {kind}({actor!a}, {inner.event_type!a}{payload}))"
    )


def _value_code(value: object) -> str:
    # Texts and nestings that no one would read are written the way somebody would type them.
    if isinstance(value, str) and len(value) > _WIDTH and len(set(value)) == 1:
        return f"{value[0]!a} * {len(value)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!a}: {_value_code(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value_code, value)) + "]"
    return ascii(value)


def batch_code(batch: Sequence[PersistedEvent]) -> str:
    """A batch as Python, on one line or on several."""
    if isinstance(batch, Series):
        return batch.code
    events = [event_code(event) for event in batch]
    line = f"[{', '.join(events)}]"
    if len(line) <= _WIDTH:
        return line
    return "\n".join(["[", *(f"    {event}," for event in events), "]"])


def query_code(query: EventQuery) -> str:
    """A query as Python, without what it does not ask for."""
    fields: list[str] = []
    for field in attrs.fields(EventQuery):
        value = getattr(query, field.name)
        if value is None or value == ():
            continue
        code = ascii(value)
        if isinstance(value, tuple) and len(value) > _SHOWN_TYPES and value == numbered_types(len(value)):
            code = f'tuple(f"type-{{n}}" for n in range({len(value)}))'
        fields.append(f"{field.name}={code}")
    return f"EventQuery({', '.join(fields)})"


_SHOWN_TYPES: Final = 20


def numbered_types(count: int) -> tuple[str, ...]:
    """Many event types, as :func:`query_code` can write them in short."""
    return tuple(f"type-{n}" for n in range(count))


class Script:
    """A program that grows line by line while it is being carried out."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 1

    def add(self, code: str, *, verbatim: bool = False) -> None:
        """Append one statement, or several.

        Args:
          code: their lines.
          verbatim: it is one statement, and its further lines are text that must not be indented.
        """
        indent = "    " * self._depth
        lines = code.splitlines()
        if verbatim:
            self._lines.append(indent + "\n".join(lines))
        else:
            self._lines.extend(indent + line if line else "" for line in lines)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """Everything that is added inside stands in a block under ``header``."""
        self.add(header)
        self._depth += 1
        before = len(self._lines)
        try:
            yield
        finally:
            if len(self._lines) == before:
                self.add("pass")
            self._depth -= 1

    def program(self, open_store: str, why: str, open_reader: str | None = None) -> str:
        """The whole program.

        Args:
          open_store: statements after which ``open_store`` is the function that opens the store.
          why: what it shows; becomes a comment.
          open_reader: the same for ``open_reader``.
        """
        body = "\n".join(self._lines)
        optional = [name for name in ("gc", "subprocess", "sys", "threading") if f"{name}." in body]
        imports = [f"import {name}" for name in sorted([*optional, "os", "tempfile"])]
        imports += ["from pathlib import Path", "", "import trio", ""]
        if "suppress(" in body:
            imports.insert(imports.index("from pathlib import Path"), "from contextlib import suppress")
        names = [name for name in _PACKAGE_NAMES if name in body]
        if names:
            imports.append(f"from trio_eventlog import {', '.join(names)}")
        if "assert_same_events(" in body:
            imports.append("from trio_eventlog.testing import assert_same_events")
        if "trio.testing." in body:
            imports.insert(imports.index("import trio") + 1, "import trio.testing")
        openers = [open_store] if open_reader is None else [open_store, open_reader]
        # What a store raised may have any characters.
        ascii_only = why.encode("ascii", "backslashreplace").decode()
        comment = [f"# {line}" for line in ascii_only.splitlines()]
        head = [
            "async def main() -> None:",
            '    location = Path(tempfile.mkdtemp()) / f"te_{os.urandom(10).hex()}"',
            "    location.mkdir()",
        ]
        return "\n".join([*comment, *imports, *openers, "", "", *head, body, "", "", "trio.run(main)", ""])


_PACKAGE_NAMES: Final = (
    "AgentEvent",
    "EventQuery",
    "EventRejected",
    "LogBusy",
    "ModuleEvent",
    "PersistedEvent",
    "SequenceConflict",
    "StoreError",
    "StoreUnusable",
    "to_json",
)
