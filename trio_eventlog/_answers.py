"""What a store answers, checked. Floor 2, next to the contract.

A store is foreign code. An answer that breaks the contract is an error that names the store and the method,
rather than one that comes from somewhere within this package.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

from trio_eventlog._model._errors import StoreError
from trio_eventlog._model._events import MAX_STORED, PersistedEvent
from trio_eventlog._model._query import EventQuery
from trio_eventlog._numbers import shown_integer
from trio_eventlog.abc import EventPage, EventStore, LatestStore, PagedStore, PrunedStore, WatchableStore

T = TypeVar("T")

_MAX_SHOWN: Final = 100
"""Characters of an answer in a message."""


def awaitable(store: object, method: str, returned: T) -> T:
    """Return what a method of ``store`` returned, or raise TypeError if it cannot be awaited."""
    if inspect.isawaitable(returned):
        return returned
    raise TypeError(
        f"store: {method} of {type(store).__name__} returned {type(returned).__name__} and nothing to await;"
        f" the methods of a store must be async: async def {method}(…)"
    )


async def ask_last_seq(store: EventStore) -> int:
    """The last seq of ``store``; 0 if it has no events."""
    return await _ask_seq(store, "last_seq", store.last_seq())


async def ask_pruned_seq(store: PrunedStore) -> int:
    """The highest seq that was pruned from ``store``; 0 if none was."""
    return await _ask_seq(store, "pruned_seq", store.pruned_seq())


async def _ask_seq(store: object, method: str, call: Awaitable[object]) -> int:
    seq = await _answer(store, method, call)
    if type(seq) is not int or not 0 <= seq <= MAX_STORED:
        raise _wrong(store, method, "an int of 0 to 2**63 - 1", shown(seq))
    return seq


async def ask_query(store: EventStore, query: EventQuery) -> list[PersistedEvent]:
    """The events that match ``query``."""
    found: object = await _answer(store, "query", store.query(query))
    return _checked_events(store, "query", found, query)


async def ask_page(store: PagedStore, query: EventQuery, max_bytes: int) -> EventPage:
    """The same, cut off after ``max_bytes``."""
    call = store.query_page(query, max_bytes=max_bytes)
    page: Any = await _answer(store, "query_page", call)
    if not isinstance(page, EventPage):
        raise _wrong(store, "query_page", "an EventPage", type(page).__name__)
    if type(page.is_complete) is not bool:
        raise _wrong(store, "query_page", "True or False for is_complete", shown(page.is_complete))
    if not _checked_events(store, "query_page", page.events, query) and not page.is_complete:
        raise _wrong(store, "query_page", "an event or a complete page", "neither")
    return page


async def ask_latest(
    store: LatestStore, query: EventQuery, before_seq: int | None, limit: int
) -> list[PersistedEvent]:
    """The last events that match, newest first."""
    call = store.latest(query, before_seq=before_seq, limit=limit)
    found: Any = await _answer(store, "latest", call)
    if not isinstance(found, list):
        raise _wrong(store, "latest", "a list of events", type(found).__name__)
    _checked_events(store, "latest", found[::-1], query, "descending")
    if found and before_seq is not None and found[0].seq >= before_seq:
        raise _wrong(store, "latest", f"seqs below {before_seq}", shown(found[0].seq))
    if len(found) > limit:
        raise _wrong(store, "latest", f"at most {limit} events", str(len(found)))
    return found


def _checked_events(
    store: object, method: str, found: object, query: EventQuery, order: str = "ascending"
) -> list[PersistedEvent]:
    if not isinstance(found, list):
        raise _wrong(store, method, "a list of events", type(found).__name__)
    last = query.after_seq or 0
    for event in found:
        if not isinstance(event, PersistedEvent):
            raise _wrong(store, method, "PersistedEvents", type(event).__name__)
        if type(event.seq) is not int or event.seq <= last:
            raise _wrong(
                store, method, f"events in {order} order of seq", f"seq {shown(event.seq)} after {last}"
            )
        if event.seq > MAX_STORED:
            # It would be no cursor for the next query.
            raise _wrong(store, method, "seqs of 1 to 2**63 - 1", shown(event.seq))
        last = event.seq
    if query.limit is not None and len(found) > query.limit:
        raise _wrong(store, method, f"at most {query.limit} events", str(len(found)))
    return found


@asynccontextmanager
async def ask_changes(store: WatchableStore) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Watch ``store`` for the length of the block; yields the ``wait`` of the watch."""
    manager: object = store.watch_changes()
    if not isinstance(manager, AbstractAsyncContextManager):
        if inspect.iscoroutine(manager):
            manager.close()
        raise _wrong_watch(store, "return an async context manager", manager)
    async with manager as watch:
        wait = getattr(watch, "wait", None)
        if not callable(wait):
            raise _wrong_watch(store, "yield an object with wait()", watch)
        call: Callable[[], Any] = wait
        yield lambda: awaitable(watch, "wait", call())


async def _answer(store: object, method: str, call: Awaitable[object]) -> object:
    try:
        return await awaitable(store, method, call)
    except StopAsyncIteration as exc:
        # It would end the iteration of a reader as if there were no more events.
        raise StoreError(f"{method} of {shown(store)} raised StopAsyncIteration") from exc


def _wrong(store: object, method: str, expected: str, found: str) -> StoreError:
    return StoreError(f"{method} of {shown(store)} must return {expected}, got {found:.{_MAX_SHOWN}}")


def _wrong_watch(store: object, expected: str, found: object) -> TypeError:
    # Not a StoreError, which means that the store cannot be watched now.
    return TypeError(f"watch_changes of {shown(store)} must {expected}, got {type(found).__name__}")


def shown(value: object) -> str:
    """A foreign object for a message, whatever its ``repr`` does."""
    try:
        text = shown_integer(value) if type(value) is int else repr(value)
    except Exception:  # noqa: BLE001 - it is code of the program
        return f"<{type(value).__name__} that cannot be shown>"
    return text.removeprefix("integer ")
