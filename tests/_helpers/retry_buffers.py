"""Events for tests of retry buffers, and what their tickets raise."""

from __future__ import annotations

import json
from typing import Any

from trio_eventlog import AgentEvent, LossReason, ModuleEvent, PersistedEvent
from trio_eventlog._engine._losses import FlushTicket, LossAccount
from trio_eventlog._engine._retry_buffer import RetryBuffer
from trio_eventlog._model._sealed import seal_event, size_of


def payload_of(seq: int) -> dict[str, Any]:
    """The payload that the event of ``seq`` was ingested with."""
    return {"seq": seq, "nested": [seq], "pad": "x" * (seq * 37 % 100)}


def event(seq: int) -> PersistedEvent:
    """An event as the log hands it over; both kinds take turns."""
    if seq % 2:
        return PersistedEvent(f"id-{seq}", seq, 0, None, seal_event(ModuleEvent("m", "t", payload_of(seq))))
    return PersistedEvent(f"id-{seq}", seq, 0, "a", seal_event(AgentEvent("a", "t", payload_of(seq))))


def put(buffer: RetryBuffer, *seqs: int) -> None:
    """Let events with these seqs arrive together."""
    arrivals = [event(seq) for seq in seqs]
    buffer.put(arrivals, sum(map(size_of, arrivals)))


def seqs_of(events: tuple[PersistedEvent, ...]) -> list[int]:
    """Their seqs, in their order."""
    return [event.seq for event in events]


def assert_untouched(events: tuple[PersistedEvent, ...]) -> None:
    """They say what was ingested, whatever a store did to the batches that it was given."""
    for each in events:
        assert f"id-{each.seq}" == each.id
        assert payload_of(each.seq) == each.event.payload


def scribble(batch: tuple[PersistedEvent, ...]) -> None:
    """What a careless store does to its batch."""
    for each in batch:
        each.event.payload["nested"].append("scribble")


def memory_seqs(buffer: RetryBuffer) -> list[int]:
    """What is pending in memory, in the order in which it would go to the store."""
    memory = (*buffer._in_flight, *buffer.again, *buffer._kept, *(buffer._filing or ()), *buffer._waiting)
    return seqs_of(memory)


def bytes_of(seqs: list[int]) -> int:
    """What these events weigh, counted without the code under test."""
    return sum(
        len(f"id-{seq}")
        + len("mt" if seq % 2 else "at")
        + len(json.dumps(payload_of(seq), separators=(",", ":")))
        for seq in seqs
    )


def filled(cap: int, count: int) -> RetryBuffer:
    """A buffer that was handed the seqs 1 to ``count``."""
    buffer = RetryBuffer(cap)
    for seq in range(1, count + 1):
        put(buffer, seq)
    return buffer


def raised_by(ticket: FlushTicket) -> tuple[int, int, int, dict[LossReason, int]]:
    """What the flush of a settled ticket raises, in numbers."""
    assert ticket.outcome is not None
    return numbers_of(ticket.outcome)


def numbers_of(account: LossAccount) -> tuple[int, int, int, dict[LossReason, int]]:
    """An account as values that compare."""
    return account.count, account.first_seq, account.last_seq, dict(account.by_reason)


def settle_and_raise(buffer: RetryBuffer) -> list[FlushTicket]:
    """Settle tickets, and let their flushes raise what they hold."""
    settled = buffer.settle()
    for ticket in settled:
        buffer.losses.tickets.raised(ticket)
    return settled
