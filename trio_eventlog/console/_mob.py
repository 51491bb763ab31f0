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
_PAGE: Final = 1000


def store_query(query: EventQuery) -> EventQuery:
    """What a store can filter of ``query``.

    It cannot tell the identity of an agent, which is in the payload or is the member; and an empty ``mob_id``
    means that there is none.
    """
    mob_id = query.mob_id or None
    return attrs.evolve(query, identity=None, member_id=None, mob_id=mob_id, limit=None, after_seq=None)


@attrs.frozen
class MobPage:
    """Mob events, in ascending order of cursor."""

    events: list[MobEvent]
    resume_after: int
    """The cursor to go on from."""


async def find_mob_events(source: Source, query: EventQuery) -> MobPage:
    """Mob events that match: after the cursor of ``query``, or else the latest.

    Raises:
      StaleCursor: the cursor is beyond the end of the log.
    """
    limit = min(DEFAULT_LIMIT if query.limit is None else query.limit, MAX_LIMIT)
    last_seq = await source.last_seq()
    if query.after_seq is None:
        if not limit:
            return MobPage([], last_seq)
        return MobPage(await _latest(source, query, limit), last_seq)
    if query.after_seq > last_seq:
        raise StaleCursor(query.after_seq, last_seq)
    return await _after(source, query, query.after_seq, limit, last_seq)


async def _after(source: Source, query: EventQuery, after: int, limit: int, last_seq: int) -> MobPage:
    events: list[MobEvent] = []
    if not limit:
        return MobPage(events, after)
    scanned = 0
    while scanned < MAX_SCAN:
        found = await source.oldest(attrs.evolve(store_query(query), after_seq=after), _PAGE)
        for event in found.events:
            after = event.seq
            _add(events, event, query)
            if len(events) == limit:
                return MobPage(events, after)
        if not found.events:
            return MobPage(events, max(after, last_seq))
        scanned += len(found.events)
    return MobPage(events, after)


async def _latest(source: Source, query: EventQuery, limit: int) -> list[MobEvent]:
    events: deque[MobEvent] = deque()
    before: int | None = None
    scanned = 0
    while scanned < MAX_SCAN:
        found = await source.newest(store_query(query), before, min(limit, _PAGE))
        part: list[MobEvent] = []
        for event in found.events:
            _add(part, event, query)
        events.extendleft(part[: limit - len(events)])
        if len(events) == limit or found.next is None:
            break
        scanned += max(len(found.events), 1)
        before = found.next
    return list(events)


def _add(events: list[MobEvent], event: PersistedEvent, query: EventQuery) -> None:
    mob_event = MobEvent.of(event)
    if mob_event.matches(query):
        events.append(mob_event)
