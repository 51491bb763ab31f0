"""What was done to a store, by whom, when, and what came of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from typing import Final

import attrs

from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent

SCOPES: Final = ("identity", "mob_id", "run_id", "step_id")
"""What a query looks at in a payload."""

MAX_SHOWN: Final = 5
"""Most seqs that a message names."""


class Outcome(enum.StrEnum):
    """What is known of an operation."""

    OK = "ok"
    """It returned."""

    FAILED = "fail"
    """It raised, and certainly changed nothing. Every query and ``last_seq`` that raised has this outcome."""

    UNKNOWN = "info"
    """An append that raised, was cancelled, or never came back. Its events may be stored, now or later."""


@attrs.frozen(kw_only=True)
class Operation:
    """One call of a store's method. :class:`AppendOperation`, :class:`QueryOperation` and
    :class:`LastSeqOperation` have what belongs to each.

    Attributes:
      process: who called: the name that was given to :func:`recording`.
      instance: which store object it was. Tasks that share one have the same.
      read_only: whether it was opened for reading only.
      clock: which clock :attr:`began` and :attr:`ended` are by. Only times by the same one can be compared.
      began: just before the call, in seconds.
      ended: just after it; infinity for a call that never came back.
      outcome: what is known of it.
      error: what it raised, as text; None if it returned or never came back.
    """

    process: str
    instance: str
    read_only: bool
    clock: str
    began: float
    ended: float = math.inf
    outcome: Outcome = Outcome.UNKNOWN
    error: str | None = None

    def _what(self) -> str:
        raise NotImplementedError

    def describe(self, start: float = 0.0) -> str:
        """One line, with times in seconds since ``start``."""
        until = "never came back" if math.isinf(self.ended) else f"to {self.ended - start:.6f} s"
        how = "" if self.outcome is Outcome.OK else f", {self.outcome}"
        why = f" ({self.error})" if self.error else ""
        return f"{self.process}: {self._what()}, {self.began - start:.6f} s {until}{how}{why}"

    def __str__(self) -> str:
        return self.describe()


@attrs.frozen(kw_only=True)
class AppendOperation(Operation):
    """A call of ``append_batch``.

    Attributes:
      process: as in :class:`Operation`, which explains these fields.
      instance: which store object it was.
      read_only: whether that was opened for reading only.
      clock: which clock the times are by.
      began: just before the call, in seconds.
      ended: just after it.
      outcome: what is known of it.
      error: what it raised, as text.
      batch: the events, with payloads reduced to the keys that queries look at.
      returned: the seqs that it returned: those whose events are held under other seqs.
      went_back_to: the last seq, if it raised :exc:`StoreWentBack`.
    """

    batch: tuple[PersistedEvent, ...]
    returned: frozenset[int] = frozenset()
    went_back_to: int | None = None

    def _what(self) -> str:
        return f"append_batch of {shown_seqs([event.seq for event in self.batch])}"


@attrs.frozen(kw_only=True)
class QueryOperation(Operation):
    """A call of ``query``.

    Attributes:
      process: as in :class:`Operation`, which explains these fields.
      instance: which store object it was.
      read_only: whether that was opened for reading only.
      clock: which clock the times are by.
      began: just before the call, in seconds.
      ended: just after it.
      outcome: what is known of it.
      error: what it raised, as text.
      query: what was asked.
      found: the seq and the id of each event in the result, in order.
    """

    query: EventQuery
    found: tuple[tuple[int, str], ...] = ()

    def _what(self) -> str:
        if self.outcome is not Outcome.OK:
            return "query"
        return f"query that found {shown_seqs([seq for seq, _ in self.found])}"


@attrs.frozen(kw_only=True)
class LastSeqOperation(Operation):
    """A call of ``last_seq``.

    Attributes:
      process: as in :class:`Operation`, which explains these fields.
      instance: which store object it was.
      read_only: whether that was opened for reading only.
      clock: which clock the times are by.
      began: just before the call, in seconds.
      ended: just after it.
      outcome: what is known of it.
      error: what it raised, as text.
      last_seq: what it returned; None if it did not return.
    """

    last_seq: int | None = None

    def _what(self) -> str:
        return "last_seq" if self.last_seq is None else f"last_seq {self.last_seq}"


def reduced(event: PersistedEvent) -> PersistedEvent:
    """``event`` with no more of its payload than queries look at. Shares nothing with it that can change."""
    payload = event.event.payload
    scopes = None
    if isinstance(payload, dict):
        scopes = {key: payload[key] for key in SCOPES if type(payload.get(key)) is str} or None
    inner = event.event
    if isinstance(inner, ModuleEvent):
        kept = ModuleEvent(inner.module, inner.event_type, scopes)
        return PersistedEvent(event.id, event.seq, event.timestamp_ms, event.member_id, kept)
    return attrs.evolve(event, event=attrs.evolve(inner, payload=scopes))


def shown_seqs(seqs: Collection[int]) -> str:
    """``seqs 1 to 7``, ``seqs 1, 3, 9``, ``seqs 1, 3, 4, 7, 9 and 12 more``, ``nothing``."""
    ordered = sorted(set(seqs))
    if not ordered:
        return "nothing"
    if len(ordered) == 1:
        return f"seq {ordered[0]}"
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:  # noqa: PLR2004 - "1 and 2" is shorter
        return f"seqs {ordered[0]} to {ordered[-1]}"
    first = ", ".join(map(str, ordered[:MAX_SHOWN]))
    return f"seqs {first}" + (f" and {len(ordered) - MAX_SHOWN} more" if len(ordered) > MAX_SHOWN else "")
