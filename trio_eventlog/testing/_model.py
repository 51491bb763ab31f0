"""What a store should answer, worked out without any code of a store or of ``EventQuery.matches``.

An oracle that shared code with what it judges would share its mistakes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent


@attrs.frozen
class Accepted:
    """An append that succeeds."""

    elsewhere: tuple[int, ...]
    """The seqs of those repeats that are held under another seq, ascending."""


@attrs.frozen
class Conflict:
    """An append that must raise ``SequenceConflict``."""

    seqs: tuple[int, ...]
    """The seqs that are taken, ascending."""


class Model:
    """One log, as it should be."""

    def __init__(self) -> None:
        self._by_id: dict[str, PersistedEvent] = {}
        self._by_seq: dict[int, PersistedEvent] = {}
        self.highest = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def expect(self, batch: Iterable[PersistedEvent]) -> tuple[Accepted | Conflict, list[PersistedEvent]]:
        """What appending ``batch`` should lead to, and the events that it would add; changes nothing."""
        added: dict[str, PersistedEvent] = {}
        elsewhere: set[int] = set()
        for event in batch:
            held = self._by_id.get(event.id) or added.get(event.id)
            if held is None:
                added[event.id] = event
            elif held.seq != event.seq:
                elsewhere.add(event.seq)
        taken: set[int] = set()
        used: set[int] = set()
        for event in added.values():
            if event.seq in used or event.seq in self._by_seq:
                taken.add(event.seq)
            used.add(event.seq)
        if taken:
            return Conflict(tuple(sorted(taken))), []
        return Accepted(tuple(sorted(elsewhere))), list(added.values())

    def adopt(self, events: Iterable[PersistedEvent]) -> None:
        """Take events that are known to be stored."""
        for event in events:
            self._by_id[event.id] = event
            self._by_seq[event.seq] = event
            self.highest = max(self.highest, event.seq)

    def append(self, batch: Iterable[PersistedEvent]) -> Accepted | Conflict:
        """Append ``batch``, and say what a store should answer."""
        outcome, added = self.expect(batch)
        self.adopt(added)
        return outcome

    def holds(self, event_id: str) -> bool:
        """Whether an event of this id is stored."""
        return event_id in self._by_id

    def events(self) -> list[PersistedEvent]:
        """Everything, ascending by seq."""
        return [self._by_seq[seq] for seq in sorted(self._by_seq)]

    def query(self, query: EventQuery) -> list[PersistedEvent]:
        """What a store should find."""
        found = [event for event in self.events() if _passes(query, event)]
        return found if query.limit is None else found[: query.limit]


def _passes(query: EventQuery, event: PersistedEvent) -> bool:
    passes = True
    if query.after_seq is not None:
        passes &= event.seq > query.after_seq
    if query.since_ms is not None:
        passes &= event.timestamp_ms >= query.since_ms
    if query.until_ms is not None:
        passes &= event.timestamp_ms < query.until_ms
    if query.member_id is not None:
        passes &= event.member_id == query.member_id
    if query.event_types:
        passes &= event.event.event_type in set(query.event_types)
    payload = event.event.payload
    for key, wanted in (
        ("identity", query.identity),
        ("mob_id", query.mob_id),
        ("run_id", query.run_id),
        ("step_id", query.step_id),
    ):
        if wanted is not None:
            value = payload.get(key) if isinstance(payload, dict) else None
            passes &= type(value) is str and value == wanted
    if query.module is not None:
        passes &= isinstance(event.event, ModuleEvent) and event.event.module == query.module
    for key, wanted in query.fields.items():
        passes &= isinstance(payload, dict) and key in payload and _typed(payload[key]) == _typed(wanted)
    return passes


# --- comparing ------------------------------------------------------------------------------------


def canonical(event: PersistedEvent) -> tuple[Any, ...]:
    """Everything about an event, types included; the order of keys is free."""
    inner = event.event
    actor = inner.agent_id if isinstance(inner, AgentEvent) else inner.module
    fields = (event.id, event.seq, event.timestamp_ms, event.member_id, actor, inner.event_type)
    return (type(inner).__name__, *((type(field).__name__, field) for field in fields), _typed(inner.payload))


def _typed(value: Any) -> Any:
    """``value`` with the types that ``==`` and JSON do not tell apart: 1, 1.0, true; lists and tuples."""
    if isinstance(value, dict):
        items = [(type(key).__name__, str(key), _typed(item)) for key, item in value.items()]
        return type(value).__name__, sorted(items, key=lambda item: item[:2])
    if isinstance(value, list | tuple):
        return type(value).__name__, [_typed(item) for item in value]
    # repr, because 0.0 equals -0.0.
    return type(value).__name__, repr(value)


def difference(found: Sequence[PersistedEvent], expected: Sequence[PersistedEvent]) -> str | None:
    """How a result differs from what it should be, in one line; None if it does not."""
    seqs = [event.seq for event in found]
    wanted = [event.seq for event in expected]
    if seqs != wanted:
        return f"found seqs {_shown(seqs)}, expected {_shown(wanted)}"
    for event, right in zip(found, expected, strict=True):
        if canonical(event) != canonical(right):
            return f"found {_cut(ascii(event))}, expected {_cut(ascii(right))}"
    return None


def assert_same_events(found: Sequence[PersistedEvent], expected: Sequence[PersistedEvent]) -> None:
    """Check that a result is what it should be: the same events in the same order.

    Stricter than ``==``, to which 1, 1.0 and True are the same; the order of keys in payloads is free.

    Args:
      found: what a store returned.
      expected: what it should have returned.

    Raises:
      AssertionError: they differ; the message says where.
    """
    message = difference(found, expected)
    if message is not None:
        raise AssertionError(message)


_SHOWN = 12


def _shown(seqs: Sequence[int]) -> str:
    if len(seqs) <= _SHOWN:
        return str(list(seqs))
    return f"[{seqs[0]}, {seqs[1]}, ..., {seqs[-1]}] ({len(seqs)} of them)"


def _cut(text: str, most: int = 600) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
