"""A tree that grows, the file of its checkpoints, and what is said of them. Trio."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from trio_eventlog import EventQuery, EventStore, PersistedEvent
from trio_eventlog._threads import run_sync
from trio_eventlog.abc import PrunedStore
from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._file import CheckpointFile
from trio_eventlog.audit._keys import Signer
from trio_eventlog.audit._leaves import LeafHasher
from trio_eventlog.audit._notes import Checkpoint, check_origin
from trio_eventlog.audit._records import PRINT_BYTES, Record, Sealer

logger: Final = logging.getLogger("trio_eventlog")


class Work:
    """A tree that grows, and the file that its checkpoints go to; None for no file."""

    def __init__(self, origin: str, signer: Signer, file: CheckpointFile | None) -> None:
        self.origin = origin
        self.record: Record | None = None if file is None else file.last
        """The last one."""

        self.sealer: Sealer = Sealer(origin, self.record)
        self._hasher = LeafHasher(signer.commitment_key, origin)
        self._signer = signer
        self._file = file
        self._limiter = trio.CapacityLimiter(1)

    async def require_same_log(self, store: EventStore) -> None:
        """Make sure that the log still has the event that was sealed last. A checkpoint of Trio.

        Raises:
          AuditError: it has not.
          StoreError: the store failed.
        """
        record = self.record
        if record is None or not record.prints:
            await trio.lowlevel.checkpoint()
            return
        seq = record.last_seq
        found = await store.query(EventQuery(after_seq=seq - 1, limit=1))
        if found and found[0].seq == seq:
            if self._hasher.leaves(found)[0][:PRINT_BYTES] != record.prints[-PRINT_BYTES:]:
                raise AuditError(
                    f"event {seq} is not the one that was sealed last: it was changed, or the log or the"
                    " commitment key is another one"
                )
        elif not (isinstance(store, PrunedStore) and seq <= await store.pruned_seq()):
            raise AuditError(
                f"the log has no event {seq}, which was sealed last: it went back to an older state, was"
                " tampered with, or is another one"
            )

    def take(self, events: Sequence[PersistedEvent], every_events: int) -> Sequence[PersistedEvent]:
        """Take events in, up to where a checkpoint is due; returns the rest.

        Raises:
          CodecError: the store is damaged: a payload is no JSON.
        """
        room = every_events - self.sealer.unsealed
        # Without room, a checkpoint could not be written: all events wait for the next one.
        end = room if room > 0 else len(events)
        self.add(events[:end])
        return events[end:]

    def add(self, events: Sequence[PersistedEvent]) -> None:
        """Take events in, in ascending order of seq.

        Raises:
          CodecError: the store is damaged: a payload is no JSON.
        """
        self.sealer.add([event.seq for event in events], self._hasher.leaves(events))

    async def seal(self) -> Record:
        """Make a checkpoint, and write it. A checkpoint of Trio too; once it has begun, it ends.

        Raises:
          AuditError: it cannot be written. Another call tries again.
        """
        record = self.sealer.record(self._signer)
        if self._file is None:
            await trio.lowlevel.checkpoint()
        else:
            await run_sync(partial(self._file.append, record), limiter=self._limiter, abandon_on_cancel=False)
        self.sealer.sealed()
        self.record = record
        return record


class CheckpointRecorder:
    """What was sealed until now: :func:`record_checkpoints` yields it, and :func:`seal` returns it.

    Attributes:
      origin: the id of the log in the notes.
    """

    origin: str

    def __init__(self, work: Work) -> None:
        self.origin = work.origin
        self._work = work

    @property
    def last(self) -> Checkpoint | None:
        """The last checkpoint, which may be from an earlier run; None before the first."""
        record = self._work.record
        return None if record is None else record.checkpoint

    @property
    def last_note(self) -> str | None:
        """The note of the last checkpoint; None before the first."""
        record = self._work.record
        return None if record is None else record.note

    @property
    def sealed_seq(self) -> int:
        """All events up to this seq are covered by the last checkpoint; 0 before the first."""
        record = self._work.record
        return 0 if record is None else record.last_seq

    @property
    def unsealed(self) -> int:
        """Events that were read since the last checkpoint."""
        return self._work.sealer.unsealed

    def __repr__(self) -> str:
        return f"<CheckpointRecorder of {self.origin}, sealed up to seq {self.sealed_seq}>"


@asynccontextmanager
async def opened_work(
    store: EventStore, signer: Signer, path: str | os.PathLike[str] | None, origin: str | None
) -> AsyncIterator[Work]:
    """Go on where a file ends, for the length of the block.

    Raises:
      TypeError, ValueError: an argument is not what it should be, or the id of the log is not known.
      AuditError: the file cannot be opened, or is not one of this log and key.
      StoreError: the store failed.
    """
    if not isinstance(signer, Signer):
        raise TypeError(f"signer: expected a Signer, got {type(signer).__name__}")
    if origin is not None:
        check_origin(origin)
    file: CheckpointFile | None = None
    if path is None:
        await trio.lowlevel.checkpoint()
    else:
        file = await run_sync(
            partial(CheckpointFile, os.fspath(path), signer.verifier), abandon_on_cancel=False
        )
    try:
        work = Work(_origin_of(store, file, origin), signer, file)
        await work.require_same_log(store)
        yield work
    finally:
        if file is not None:
            file.close()


def _origin_of(store: EventStore, file: CheckpointFile | None, origin: str | None) -> str:
    last = None if file is None or file.last is None else file.last.checkpoint.origin
    if origin is None:
        origin = getattr(store, "log_id", None) or last
    if origin is None:
        raise ValueError("origin: the store does not know the id of its log; name it")
    if last is not None and file is not None and last != origin:
        raise AuditError(f"{file.path}: its checkpoints are of the log {last}, not of {origin!a:.100}")
    return check_origin(origin)
