"""Answers of a store that break the contract: each reader raises an error that names store and method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest

from tests._helpers.fakes import numbered
from trio_eventlog import EventQuery, PersistedEvent, StoreError, open_event_log
from trio_eventlog.abc import EventPage
from trio_eventlog.reading import iter_events, merge_events, tail
from trio_eventlog.stores import MemoryStore


def event(seq: Any) -> PersistedEvent:
    return PersistedEvent(f"e{seq}", seq, 0, "worker", numbered(1))


def huge_event() -> PersistedEvent:
    """With a seq that Python refuses to convert to a string."""
    return PersistedEvent("huge", 10**5000, 0, "worker", numbered(1))


class Store(MemoryStore):
    """Has events, and answers what it is told to."""

    answer: Any = None

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        if query.limit == 0:
            return await super().query(query)
        await self.last_seq()
        return self.answer  # type: ignore[no-any-return]  # that is what is tried


class PagingStore(Store):
    """The same, by pages."""

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        await self.last_seq()
        return self.answer  # type: ignore[no-any-return]


@asynccontextmanager
async def all_events(store: Store) -> AsyncIterator[AsyncIterator[Any]]:
    yield iter_events(store)


@asynccontextmanager
async def pages(store: Store) -> AsyncIterator[AsyncIterator[Any]]:
    yield iter_events(store).pages()


@asynccontextmanager
async def merged(store: Store) -> AsyncIterator[AsyncIterator[Any]]:
    yield merge_events({"a": store})


@asynccontextmanager
async def followed(store: Store) -> AsyncIterator[AsyncIterator[Any]]:
    async with tail(store, after_seq=0) as events:
        yield events


@asynccontextmanager
async def subscribed(store: Store) -> AsyncIterator[AsyncIterator[Any]]:
    async with open_event_log(store) as log, log.subscribe(after_seq=0) as events:
        yield events


class NotAnInteger:
    def __repr__(self) -> str:
        raise ValueError("no repr")


READERS = [all_events, pages, merged, followed, subscribed]

WRONG_EVENTS: list[tuple[Any, str]] = [
    (None, "a list of events, got NoneType"),
    ((event(1),), "a list of events, got tuple"),
    (iter([event(1)]), "a list of events, got list_iterator"),
    ([event(1), None], "PersistedEvents, got NoneType"),
    ([event(1), numbered(2)], "PersistedEvents, got AgentEvent"),
    ([event(2), event(1)], "events in ascending order of seq, got seq 1 after 2"),
    ([event(2), event(2)], "events in ascending order of seq, got seq 2 after 2"),
    ([event(0)], "events in ascending order of seq, got seq 0 after 0"),
    ([event(True)], "events in ascending order of seq, got seq True after 0"),
    ([event(2**64)], f"seqs of 1 to 2**63 - 1, got {2**64}"),
    ([event("1")], "events in ascending order of seq, got seq '1' after 0"),
    ([huge_event()], "seqs of 1 to 2**63 - 1, got an integer of 16610 bits"),
]

WRONG_PAGES: list[tuple[Any, str]] = [
    *((EventPage(events, is_complete=False), expected) for events, expected in WRONG_EVENTS),
    (None, "an EventPage, got NoneType"),
    ([event(1)], "an EventPage, got list"),
    (([event(1)], True), "an EventPage, got tuple"),
    (EventPage([], is_complete=False), "an event or a complete page, got neither"),
    (EventPage([event(1)], is_complete=None), "True or False for is_complete, got None"),  # type: ignore[arg-type]
    (EventPage([event(1)], is_complete="no"), "True or False for is_complete, got 'no'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("make", "method", "answer", "expected"),
    [
        *((Store, "query", answer, expected) for answer, expected in WRONG_EVENTS),
        *((PagingStore, "query_page", answer, expected) for answer, expected in WRONG_PAGES),
    ],
)
async def test_events(
    reader: Callable[[Store], Any], make: type[Store], method: str, answer: Any, expected: str
) -> None:
    store = make()
    await store.append_batch([event(1), event(2)])
    store.answer = answer
    async with reader(store) as events:
        with pytest.raises(StoreError) as caught:
            await anext(events)
    assert str(caught.value) == f"{method} of {store!r} must return {expected}"


async def test_more_events_than_asked_for() -> None:
    store = Store()
    store.answer = [event(seq) for seq in range(1, 5)]

    with pytest.raises(StoreError, match=r"query of .* must return at most 3 events, got 4"):
        await anext(iter_events(store, EventQuery(limit=3)))


@pytest.mark.parametrize(("answer", "expected"), WRONG_EVENTS)
async def test_a_query_of_the_log(answer: Any, expected: str) -> None:
    store = Store()
    store.answer = answer
    async with open_event_log(store) as log:
        with pytest.raises(StoreError) as caught:
            await log.query()
    assert str(caught.value) == f"query of {store!r} must return {expected}"


@pytest.mark.parametrize("reader", READERS)
async def test_an_error_that_would_end_an_iteration(reader: Callable[[Store], Any]) -> None:
    """What a store raises does not look like the end of its events."""
    store = Store()
    await store.append_batch([event(1)])
    async with reader(store) as events:
        with mock.patch.object(store, "query", mock.AsyncMock(side_effect=StopAsyncIteration)):
            with pytest.raises(StoreError, match=r"query of .* raised StopAsyncIteration"):
                await anext(events)


@asynccontextmanager
async def yields(watch: object) -> AsyncIterator[object]:
    yield watch


class HasOrdinaryWait:
    def wait(self) -> None:
        pass


async def not_a_manager() -> None:
    pass


@pytest.mark.parametrize(
    ("watch_changes", "expected"),
    [
        (lambda: None, "watch_changes of .* must return an async context manager, got NoneType"),
        (not_a_manager, "watch_changes of .* must return an async context manager, got coroutine"),
        (lambda: yields(None), r"watch_changes of .* must yield an object with wait\(\), got NoneType"),
        (lambda: yields(HasOrdinaryWait()), "wait of HasOrdinaryWait returned NoneType and nothing to await"),
    ],
)
async def test_watches(watch_changes: Any, expected: str) -> None:
    store = MemoryStore()
    with mock.patch.object(store, "watch_changes", watch_changes, create=True):
        with pytest.raises(TypeError, match=expected):
            async with tail(store) as events:
                await anext(events)


@pytest.mark.parametrize(
    "wrong", [None, -1, True, 1.0, "3", 2**63, pytest.param(10**5000, id="huge"), NotAnInteger()]
)
@pytest.mark.parametrize("method", ["last_seq", "pruned_seq"])
async def test_seqs(method: str, wrong: Any) -> None:
    store = MemoryStore()
    await store.append_batch([event(1), event(2), event(5)])
    expected = rf"{method} of .* must return an int of 0 to 2\*\*63 - 1, got "
    with mock.patch.object(store, method, mock.AsyncMock(return_value=wrong)):
        with pytest.raises(StoreError, match=expected):
            async with tail(store, after_seq=1) as events:
                await anext(events)
        with pytest.raises(StoreError, match=expected):
            async for _ in iter_events(store, EventQuery(after_seq=2 if method == "pruned_seq" else 5)):
                pass


@pytest.mark.parametrize("method", ["query", "last_seq", "pruned_seq"])
async def test_a_method_that_is_not_async(method: str) -> None:
    store = MemoryStore()
    await store.append_batch([event(1), event(3)])
    with mock.patch.object(store, method, mock.Mock(return_value=0)):
        with pytest.raises(TypeError, match=rf"{method} of MemoryStore returned int and nothing to await"):
            async with tail(store, after_seq=1) as events:
                await anext(events)
