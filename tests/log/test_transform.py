"""What a transform is given, what may come of it, and that nothing else of an event goes on."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tests._helpers.fakes import Clock, FakeStore
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    UnifiedEvent,
    open_event_log,
)
from trio_eventlog.stores import MemoryStore


async def test_what_it_returns_is_stored_and_nothing_else(autojump_clock: Clock) -> None:
    """Bare or in an envelope, waiting or not; with the id and the time of the envelope."""
    seen: list[Any] = []

    def transform(event: UnifiedEvent) -> UnifiedEvent:
        seen.append(event)
        return attrs.evolve(event, payload="kept")

    store = FakeStore()
    async with open_event_log(store, transform=transform) as log:
        assert log.ingest(AgentEvent("w", "x", object())) == 1
        assert log.ingest(EventEnvelope("e-2", "agent", 5, AgentEvent("w", "y", "secret"))) == 2
        assert await log.ingest_wait(ModuleEvent("m", "z", {"secret": 1})) == 3

    assert [type(event) for event in seen] == [AgentEvent, AgentEvent, ModuleEvent]
    assert [event.event.payload for event in store.held.values()] == ["kept"] * 3
    assert store.held["e-2"] == PersistedEvent("e-2", 2, 5, "w", AgentEvent("w", "y", "kept"))


async def test_it_may_change_the_payload_that_it_is_given(autojump_clock: Clock) -> None:
    """Also that of an event which another log has handed out, with its payload encoded."""

    def transform(event: UnifiedEvent) -> UnifiedEvent:
        event.payload["secret"] = None
        return event

    first, store = MemoryStore(), FakeStore()
    async with open_event_log(first) as log:
        log.ingest(AgentEvent("w", "x", {"secret": 1}))
    (handed_out,) = await first.query(EventQuery())
    async with open_event_log(store, transform=transform) as log:
        log.ingest(AgentEvent("w", "x", {"secret": 1}))
        log.ingest(handed_out.event)
        log.ingest(EventEnvelope("e-3", "agent", 5, handed_out.event))

    assert [event.event.payload for event in store.held.values()] == [{"secret": None}] * 3


async def test_it_may_return_an_event_of_the_other_kind(autojump_clock: Clock) -> None:
    store = FakeStore()
    async with open_event_log(store, transform=lambda event: ModuleEvent("m", event.event_type)) as log:
        log.ingest(EventEnvelope("e-1", "agent", 0, AgentEvent("ann", "x")))

    assert list(store.held.values()) == [PersistedEvent("e-1", 1, 0, None, ModuleEvent("m", "x"))]


async def test_none_keeps_the_event_out(autojump_clock: Clock) -> None:
    """It counts as filtered, and spends no seq."""
    store = FakeStore()
    async with open_event_log(
        store, transform=lambda event: event if event.event_type == "x" else None
    ) as log:
        assert log.ingest(AgentEvent("w", "noise")) is None
        assert await log.ingest_wait(AgentEvent("w", "noise")) is None
        assert log.ingest(AgentEvent("w", "x")) == 1
        assert (log.statistics().filtered, log.statistics().ingested) == (2, 1)


async def test_the_filter_comes_first(autojump_clock: Clock) -> None:
    """It sees the event as it came; the transform only what has passed."""
    calls: list[str] = []

    def keep(event: UnifiedEvent) -> bool:
        calls.append(f"filter {event.event_type}")
        return event.event_type != "noise"

    def transform(event: UnifiedEvent) -> UnifiedEvent:
        calls.append(f"transform {event.event_type}")
        return attrs.evolve(event, event_type="changed")

    store = FakeStore()
    async with open_event_log(store, filter=keep, transform=transform) as log:
        log.ingest(AgentEvent("w", "noise"))
        log.ingest(AgentEvent("w", "x"))

    assert calls == ["filter noise", "filter x", "transform x"]
    assert [event.event.event_type for event in store.held.values()] == ["changed"]


async def test_what_it_raises_the_caller_gets(autojump_clock: Clock) -> None:
    """The log goes on, and counts nothing."""
    error = LookupError("of the transform")

    def transform(event: UnifiedEvent) -> UnifiedEvent:
        if event.event_type == "bad":
            raise error
        return event

    store = FakeStore()
    async with open_event_log(store, transform=transform) as log:
        for ingest in (log.ingest, log.ingest_wait):
            with pytest.raises(LookupError) as caught:
                result: Any = ingest(AgentEvent("w", "bad"))
                await result
            assert caught.value is error
        log.ingest(AgentEvent("w", "x"))
        assert log.statistics().filtered == 0

    assert store.seqs == [1]


@pytest.mark.parametrize("answer", [{"a": 1}, "x", True, EventEnvelope.of(AgentEvent("a", "t"))], ids=type)
async def test_it_must_return_an_event(answer: object, autojump_clock: Clock) -> None:
    """An envelope is none: its id and time are not the transform's to change."""
    transform: Any = lambda event: answer  # noqa: E731 - of the wrong type
    async with open_event_log(FakeStore(), transform=transform) as log:
        with pytest.raises(TypeError, match=f"transform: .* got {type(answer).__name__}"):
            log.ingest(AgentEvent("w", "x"))
        assert log.statistics().ingested == 0


async def test_what_it_returns_is_checked_like_any_event(autojump_clock: Clock) -> None:
    """What it was given is not: a transform may make JSON of something else."""
    async with open_event_log(FakeStore(), transform=lambda event: attrs.evolve(event, payload=(1,))) as log:
        with pytest.raises(CodecError, match="payload: tuple is not a JSON type"):
            log.ingest(AgentEvent("w", "x", {}))
        envelope = EventEnvelope("e-1", "module", 0, AgentEvent("w", "x"))
        with pytest.raises(CodecError, match="source: expected 'agent'"):
            log.ingest(envelope)


async def _async(event: UnifiedEvent) -> UnifiedEvent:
    return event


def _generator(event: UnifiedEvent) -> Any:
    yield event


async def _async_generator(event: UnifiedEvent) -> Any:  # noqa: ASYNC900 - it is refused
    yield event


class _AsyncCall:
    async def __call__(self, event: UnifiedEvent) -> UnifiedEvent:
        return event


@pytest.mark.parametrize("transform", [_async, _generator, _async_generator, _AsyncCall(), 1])
async def test_only_a_plain_function_is_taken(transform: Any) -> None:
    with pytest.raises(TypeError, match=r"^transform: expected a"):
        async with open_event_log(FakeStore(), transform=transform):
            pytest.fail("it was taken")
