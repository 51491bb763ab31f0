"""Mob events of a log: what the store can filter, and what it cannot."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from trio_eventlog import EventQuery, PersistedEvent, StaleCursor
from trio_eventlog.console._source import MAX_SCAN, Source
from trio_eventlog.mobkit import MobEvent

DEFAULT_LIMIT: Final = 256
MAX_LIMIT: Final = 10_000
MAX_BYTES: Final = 16 * 2**20
"""Bytes of the JSON of an answer, which has one event at least."""

_PAGE: Final = 100
"""Events that are read at a time, since all may be large, and since encoding them takes a moment."""


def store_query(query: EventQuery) -> EventQuery:
    """What a store can filter of ``query``.

    It cannot tell the identity of an agent, which is in the payload or is the member; and an empty ``mob_id``
    means that there is none.
    """
    mob_id = query.mob_id or None
    return attrs.evolve(query, identity=None, member_id=None, mob_id=mob_id, limit=None, after_seq=None)


@attrs.frozen
class MobPage:
    """Mob events."""

    events: list[bytes]
    """In JSON, in ascending order of cursor."""

    resume_after: int
    """The cursor to go on from."""


async def find_mob_events(source: Source, query: EventQuery) -> MobPage:
    """Mob events that match: after the cursor of ``query``, or else the latest.

    Raises:
      StaleCursor: the cursor is beyond the end of the log, or from before it was restored.
    """
    limit = min(DEFAULT_LIMIT if query.limit is None else query.limit, MAX_LIMIT)
    last_seq = await source.last_seq()
    if query.after_seq is None:
        if not limit:
            return MobPage([], last_seq)
        return MobPage(await _latest(source, query, limit), last_seq)
    if query.after_seq > last_seq:
        raise StaleCursor(query.after_seq, last_seq)
    if 0 < query.after_seq < last_seq:
        for epoch in await source.epochs():
            if epoch.is_stale(query.after_seq):
                raise StaleCursor(query.after_seq, epoch.after_seq, epoch.seq)
    return await _after(source, query, query.after_seq, limit, last_seq)


async def _after(source: Source, query: EventQuery, after: int, limit: int, last_seq: int) -> MobPage:
    events: list[bytes] = []
    if not limit:
        return MobPage(events, after)
    scanned = size = 0
    while scanned < MAX_SCAN:
        found = await source.oldest(attrs.evolve(store_query(query), after_seq=after), _PAGE)
        for event in found.events:
            text = _encoded(event, query)
            size += len(text)
            if events and size > MAX_BYTES:
                return MobPage(events, after)
            after = event.seq
            if text:
                events.append(text)
            if len(events) == limit:
                return MobPage(events, after)
        if not found.events:
            return MobPage(events, max(after, last_seq))
        scanned += len(found.events)
    return MobPage(events, after)


async def _latest(source: Source, query: EventQuery, limit: int) -> list[bytes]:
    events: deque[bytes] = deque()
    before: int | None = None
    scanned = size = 0
    while scanned < MAX_SCAN:
        found = await source.newest(store_query(query), before, min(limit, _PAGE))
        for event in found.events:
            text = _encoded(event, query)
            size += len(text)
            if events and size > MAX_BYTES:
                return list(events)
            if text:
                events.appendleft(text)
            if len(events) == limit:
                return list(events)
        if found.next is None:
            break
        scanned += max(len(found.events), 1)
        before = found.next
    return list(events)


def _encoded(event: PersistedEvent, query: EventQuery) -> bytes:
    """The mob event in JSON; empty if it does not match."""
    mob_event = MobEvent.of(event)
    return mob_event.to_json() if mob_event.matches(query) else b""
