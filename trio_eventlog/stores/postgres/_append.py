"""Appending a batch to a log in PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

import trio

from trio_eventlog._model._errors import EventRejected, SequenceConflict, StoreWentBack
from trio_eventlog._model._events import PersistedEvent
from trio_eventlog.stores._common._batches import Steps
from trio_eventlog.stores.postgres import _schema as schema
from trio_eventlog.stores.postgres._appender import Writer
from trio_eventlog.stores.postgres._connection import ServerError, Session
from trio_eventlog.stores.postgres._schema import Names, int8, number

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_UNIQUE_VIOLATION: Final = "23505"

_HELD: Final = "select id, seq from :s.events where log = $1::bigint and id = any($2::bytea[])"
_TAKEN: Final = "select seq from :s.events where log = $1::bigint and seq = any($2::bigint[])"


async def append(
    writer: Writer, names: Names, events: Sequence[PersistedEvent], channel: bytes | None
) -> Collection[int]:
    """Store a batch of sealed events, at least one, and tell a channel of it.

    Returns:
      The seqs of those whose id is held under another one.

    Raises:
      EventRejected, SequenceConflict, StoreWentBack, StoreError: see :meth:`PostgresStore.append_batch`.
    """
    chunks = await _encoded(events)
    appending = _Appending(writer, names, channel, events)
    return await writer.run(lambda session: appending.run(session, chunks))


async def _encoded(events: Sequence[PersistedEvent]) -> list[schema.Chunk]:
    """The batch as parameters, without repeats in it.

    A checkpoint as often as it takes not to block the loop.

    Raises:
      EventRejected: events are too large. Names all of them.
    """
    seen: set[str] = set()
    too_large: list[PersistedEvent] = []
    chunks = [schema.Chunk()]
    steps = Steps()
    for event in events:
        if steps.is_over():
            await steps.rest()
        # The first one wins, and PostgreSQL promises no order in which it inserts them.
        if event.id in seen:
            continue
        seen.add(event.id)
        row = schema.EncodedRow(event)
        if row.size > schema.MOST_EVENT_BYTES:
            too_large.append(event)
        if chunks[-1].events and chunks[-1].size + row.size > schema.CHUNK_BYTES:
            chunks.append(schema.Chunk())
        chunks[-1].add(row)
    if too_large:
        raise EventRejected(too_large, f"larger than {schema.MOST_EVENT_BYTES // 2**20} MiB")
    await trio.lowlevel.checkpoint()
    return chunks


class _Appending:
    """One append, in the session of the writer."""

    def __init__(
        self, writer: Writer, names: Names, channel: bytes | None, events: Sequence[PersistedEvent]
    ) -> None:
        self._writer = writer
        self._names = names
        self._channel = channel
        self._events = events

    async def run(self, session: Session, chunks: Sequence[schema.Chunk]) -> Collection[int]:
        """Store the events. Returns the seqs of those whose id is held under another one."""
        failure: StoreWentBack | ServerError
        try:
            added, highest = await self._insert_all(session, chunks)
        except StoreWentBack as exc:
            failure = exc
        except ServerError as exc:
            if exc.sqlstate != _UNIQUE_VIOLATION:
                raise
            failure = exc
        else:
            self._writer.expected_seq = highest
            if self._channel is not None and added:
                session.post(schema.NOTIFY.encode(), [self._channel])
            if added == len(self._events):
                return ()  # noqa: ASYNC910 - there is a chunk, and it was sent
            return await self._elsewhere(session)
        if not session.is_idle():
            await session.script(b"rollback")
        if isinstance(failure, StoreWentBack):
            # Nothing that can be cancelled comes after this: it is said once, and certainly.
            self._writer.expected_seq = failure.last_seq
            raise failure
        conflicts = await self._conflicts(session)
        if not conflicts:
            raise failure
        raise SequenceConflict(conflicts) from failure

    async def _insert_all(self, session: Session, chunks: Sequence[schema.Chunk]) -> tuple[int, int]:
        """Store the events in one transaction. Returns how many are new, and the log's highest seq then."""
        added = highest = 0
        if len(chunks) > 1:
            await session.script(b"begin")
        for chunk in chunks:
            count, highest = await self._insert(session, chunk)
            added += count
        if len(chunks) > 1:
            await session.script(b"commit")
        return added, highest  # noqa: ASYNC910 - there is a chunk

    async def _elsewhere(self, session: Session) -> Collection[int]:
        held = await self._held(session)
        return tuple(event.seq for event in self._events if held.get(event.id, event.seq) != event.seq)

    async def _insert(self, session: Session, chunk: schema.Chunk) -> tuple[int, int]:
        """Store a part. Returns how many events are new, and the highest seq of the log then."""
        writer = self._writer
        result = await self._execute(session, chunk)
        if not result.ntuples:
            # Somebody else has the log; or the tables were restored under the session that has the lock.
            await writer.take_again(session)
            result = await self._execute(session, chunk)
        if not result.ntuples:
            writer.raise_taken()
        before, added, after = (number(result.get_value(0, column)) for column in range(3))
        if before < writer.expected_seq:
            raise StoreWentBack(before, writer.expected_seq)
        return added, after

    async def _execute(self, session: Session, chunk: schema.Chunk) -> PGresult:
        writer = self._writer
        head = [int8(writer.number), int8(writer.epoch), int8(writer.expected_seq)]
        return await session.execute_again(self._names.sql(schema.APPEND), [*head, *chunk.parameters()])

    async def _held(self, session: Session) -> dict[str, int]:
        """Those of the ids that are held, with their seqs."""
        keys = {schema.key_of(event.id.encode()): event.id for event in self._events}
        result = await session.execute(
            self._names.sql(_HELD), [int8(self._writer.number), schema.bytea_array(list(keys))]
        )
        return {
            keys[result.get_value(row, 0) or b""]: number(result.get_value(row, 1))
            for row in range(result.ntuples)
        }

    async def _conflicts(self, session: Session) -> list[int]:
        """The seqs of new events that are taken, by others or by another of the batch."""
        known = set(await self._held(session))
        seqs: list[int] = []
        for event in self._events:
            if event.id not in known:
                known.add(event.id)
                seqs.append(event.seq)
        result = await session.execute(
            self._names.sql(_TAKEN), [int8(self._writer.number), schema.int8_array(seqs)]
        )
        conflicts = {number(result.get_value(row, 0)) for row in range(result.ntuples)}
        conflicts.update(seq for seq, times in Counter(seqs).items() if times > 1)
        return sorted(conflicts)
