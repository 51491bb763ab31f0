"""Reading a log page by page."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from trio_eventlog import EventQuery, EventStore, PersistedEvent

PAGE: Final = 1000
"""Events that are in memory at once."""


class Pages:
    """All that matches, ascending by seq, also what comes meanwhile.

    Args:
      store: where it is.
      query: what to look for.
      size: most events of a page.
    """

    def __init__(self, store: EventStore, query: EventQuery, size: int) -> None:
        self._store = store
        self._query = query
        self._size = size
        self._is_at_end = False

    async def read(self) -> list[PersistedEvent]:
        """The next page; an empty one at the end. A checkpoint.

        Raises:
          StoreError: the store failed.
        """
        if self._is_at_end:
            await trio.lowlevel.checkpoint()
            return []
        left = self._query.limit
        limit = self._size if left is None else min(self._size, left)
        page = await self._store.query(attrs.evolve(self._query, limit=limit))
        self._is_at_end = len(page) < limit or left == len(page)
        if page:
            left = None if left is None else left - len(page)
            self._query = attrs.evolve(self._query, limit=left, after_seq=page[-1].seq)
        return page
