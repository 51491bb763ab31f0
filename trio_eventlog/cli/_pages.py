"""Reading page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, TypeVar

from trio_eventlog import EventStream, PersistedEvent, StoreError

T = TypeVar("T")

PAGE: Final = 1000
"""Events that are in memory at once."""


async def next_page(events: EventStream) -> list[PersistedEvent]:
    """The events that come together; none at the end. A checkpoint.

    Raises:
      StoreError: the store failed.
    """
    page: list[PersistedEvent] = []
    async for event in events:
        page.append(event)
        if not events.at_hand:
            break
    return page


async def next_items(items: AsyncIterator[T], most: int) -> list[T]:
    """The next ``most`` items, or what is left. A checkpoint if the iterator is one.

    Raises:
      StoreError: a store failed. If some items were there before, these are returned: the next call will say.
    """
    page: list[T] = []
    try:
        async for item in items:
            page.append(item)
            if len(page) == most:
                break
    except StoreError:
        if not page:
            raise
    return page  # noqa: ASYNC910 - as the iterator has it
