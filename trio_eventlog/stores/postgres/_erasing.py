"""Erasing payloads of a log in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from trio_eventlog._model._events import PersistedEvent, wall_clock_ms
from trio_eventlog._model._query import EventQuery
from trio_eventlog.stores._common._erasure import (
    MAX_PAGE_BYTES,
    has_nothing_to_erase,
    next_query,
    tombstone_of,
)
from trio_eventlog.stores._common._prune import CHUNK_EVENTS
from trio_eventlog.stores.postgres._reader import LogReader
from trio_eventlog.stores.postgres._rows import ByteaArray, Int8Array, encoded, payload_of

_ERASE: Final = """
update :s.events set payload = erased.payload, identity = null, mob_id = null, run_id = null, step_id = null
from unnest($2::bigint[], $3::bytea[], $4::bytea[]) as erased (seq, payload, was)
where events.log = $1::bigint and events.seq = erased.seq
    and sha256(events.payload) is not distinct from erased.was
returning events.seq
"""
"""Only what is as it was read: another call may have erased it meanwhile, whose commitment would be lost."""


async def erase(
    reader: LogReader, query: EventQuery, reason: str, commitment: Callable[[PersistedEvent], str] | None
) -> int:
    """See :meth:`PostgresStore.erase`."""
    at_ms, erased, seen, after = wall_clock_ms(), 0, 0, query.after_seq or 0
    async with reader.pool.connection() as connection:
        await reader.pruned_seq(connection)
        while True:
            page = next_query(query, after, seen, CHUNK_EVENTS)
            found = (await reader.query(page, MAX_PAGE_BYTES)).events
            if not found:
                return erased
            erasable = [event for event in found if not has_nothing_to_erase(event)]
            seqs = Int8Array([event.seq for event in erasable])
            tombstones = [tombstone_of(event, reason, at_ms, commitment) for event in erasable]
            payloads = ByteaArray(encoded([payload_of(tombstone.event) for tombstone in tombstones]))
            read = encoded([payload_of(event.event) for event in erasable])
            digests = ByteaArray([None if text is None else sha256(text).digest() for text in read])
            if erasable:
                # Fewer, if some were pruned meanwhile.
                erased += len(await connection.fetch(_ERASE, reader.number, seqs, payloads, digests))
            seen += len(found)
            after = found[-1].seq
