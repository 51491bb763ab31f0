"""Deleting what a policy names, after it was archived."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import attrs
import trio

from trio_eventlog import EventQuery, EventsPruned, EventStore, PersistedEvent, StoreError, StoreUnusable
from trio_eventlog._threads import run_sync
from trio_eventlog.abc import IdentifiedStore, PrunableStore
from trio_eventlog.audit import CheckpointReader
from trio_eventlog.reading import EventStream, iter_events
from trio_eventlog.retention._archive import Archive, ArchiveInUse, SegmentWriter
from trio_eventlog.retention._manifest import ArchiveSegment
from trio_eventlog.retention._policy import (
    RetentionPolicy,
    Taking,
    check_checkpoints,
    directory_of,
    size_of,
)

_logger: Final = logging.getLogger("trio_eventlog")

_PAGE_SIZE: Final = 1000

Progress = Callable[[int, int], object]


async def retain(store: EventStore, policy: RetentionPolicy, *, every: float = 3600.0) -> NoReturn:
    """Delete what ``policy`` names, now and then again and again; a task of your program.

    ::

        policy = RetentionPolicy(older_than=30 * 86_400, archive="archive")
        nursery.start_soon(retain, store, policy)

    A log may append to the store meanwhile. With an archive, events are deleted only once they are in a
    segment that was synced and read back. A store or a disk that fails in passing is not an error, nor is an
    archive that another process is writing to just then: the logger ``trio_eventlog`` gets a warning, and the
    next round tries again.

    Runs until it is cancelled, which takes effect once the step on the disk that is running has ended.
    Whatever was archived, or deleted, by then stays so, and the next run goes on.

    Args:
      store: where to delete; one that can be pruned.
      policy: what to delete.
      every: seconds from the end of a round to the next; more than 0.

    Raises:
      TypeError: an argument is of the wrong type, or the store cannot be pruned.
      ValueError: ``every`` is out of range.
      StoreUnusable: the store will not answer any more.
      ArchiveError: the archive is damaged, or belongs to another log; or the extra ``archive`` is not
        installed.
      AuditError: the checkpoints cannot be read.
    """
    pruned = _checked_store(store)
    if not isinstance(policy, RetentionPolicy):
        raise TypeError(f"policy: expected a RetentionPolicy, got {type(policy).__name__}")
    if isinstance(every, bool) or not isinstance(every, int | float):
        raise TypeError(f"every: expected seconds, got {type(every).__name__}")
    if not 0 < every < math.inf:
        raise ValueError(f"every: expected more than 0 seconds, got {every}")
    while True:
        try:
            await apply_policy(store, pruned, policy)
        except StoreUnusable:
            raise
        except (StoreError, OSError, ArchiveInUse) as exc:
            _logger.warning("retention: trying again in %g seconds: %s", every, exc)
        await trio.sleep(every)


async def prune_to_archive(
    store: EventStore,
    directory: str,
    *,
    before_ms: int | None = None,
    keep: int | None = None,
    checkpoints: CheckpointReader | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Move old events of a store to an archive, once.

    They are deleted only once they are in a segment that was synced and read back, segment by segment. Events
    that are appended meanwhile stay. A checkpoint; cancelled, it stops once the step on the disk that is
    running has ended. What is deleted by then is in the archive, and another call goes on.

    Args:
      store: where to delete; one that can be pruned.
      directory: the archive, created if it is not there.
      before_ms: move events from before this time, in milliseconds since 1970-01-01 UTC.
      keep: move all events except this many with the highest seqs; 0 or more.
      checkpoints: where the checkpoints of the log are. With them, only events that a checkpoint covers are
        moved, and the manifest of each segment names it.
      on_progress: called with the number of events moved so far and the number to be moved, after each
        segment.

    Returns:
      The number of events that were moved.

    Raises:
      TypeError: an argument is of the wrong type, or the store cannot be pruned.
      ValueError: not exactly one of ``before_ms`` and ``keep`` is given, or it is not 0 to 2**63 - 1.
      StoreError: the store failed; another call may succeed.
      StoreUnusable: the store will never do it.
      ArchiveError: as for :func:`retain`, and if another process or task is writing to the archive.
      AuditError: the checkpoints cannot be read.
      OSError: the archive cannot be written to.
    """
    pruned = _checked_store(store)
    place = directory_of(directory)
    if place is None:
        raise TypeError("directory: expected the path of a directory, got NoneType")
    if (before_ms is None) == (keep is None):
        raise ValueError("before_ms, keep: expected one of them")
    check_checkpoints(checkpoints)
    async with _opened(store, pruned, place, checkpoints) as mover:
        total = await pruned.prune(before_ms=before_ms, keep=keep, dry_run=True)
        mover.tell = None if on_progress is None else lambda: on_progress(mover.moved, total)
        taking = Taking(await store.last_seq(), events=math.inf if keep is None else total)
        await mover.move(taking, before_ms)
        return mover.moved


def _checked_store(store: object) -> PrunableStore:
    if not isinstance(store, PrunableStore):
        raise TypeError(f"store: expected one that can be pruned, got {type(store).__name__}")
    return store


async def apply_policy(store: EventStore, pruned: PrunableStore, policy: RetentionPolicy) -> None:
    """Delete what ``policy`` names, once. A checkpoint."""
    before_ms = policy.before_ms(time.time_ns() // 1_000_000)
    if policy.archive is None:
        if before_ms:
            await pruned.prune(before_ms=before_ms)
        if policy.most_events is not None:
            await pruned.prune(keep=policy.most_events)
        if policy.most_bytes is not None:
            await _prune_bytes(store, pruned, policy.most_bytes)
        return
    async with _opened(store, pruned, policy.archive, policy.checkpoints) as mover:
        if before_ms:
            await mover.move(Taking(await store.last_seq(), events=math.inf), before_ms)
        # What is deleted for its number, or for its bytes, is at the front of the log.
        taking = Taking(await store.last_seq())
        if policy.most_events is not None:
            taking.events = await pruned.prune(keep=policy.most_events, dry_run=True)
        if policy.most_bytes is not None:
            taking.excess = await _bytes_of(store) - policy.most_bytes
        await mover.move(taking, None)


# --- what is in the log ---------------------------------------------------------------------------


async def _next_page(events: EventStream) -> list[PersistedEvent]:
    while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
        try:
            return await anext(events.pages(), [])
        except EventsPruned:
            # By somebody else, just now: they are not there to be moved.
            continue


async def _bytes_of(store: EventStore) -> int:
    """Bytes of all events as JSON lines. A checkpoint."""
    events, total = iter_events(store, page_size=_PAGE_SIZE), 0
    while page := await _next_page(events):
        total += sum(map(size_of, page))
    return total


async def _prune_bytes(store: EventStore, pruned: PrunableStore, most_bytes: int) -> None:
    taking = Taking(await store.last_seq(), excess=await _bytes_of(store) - most_bytes)
    events, through = iter_events(store, page_size=_PAGE_SIZE), 0
    while not taking.is_over:
        if taken := taking.cut(await _next_page(events)):
            through = taken[-1].seq
    if through:
        await pruned.prune(through_seq=through)


# --- moving ---------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(
    store: EventStore, pruned: PrunableStore, directory: Path, reader: CheckpointReader | None
) -> AsyncIterator[_Mover]:
    log_id = store.log_id if isinstance(store, IdentifiedStore) else None
    checkpoints = None if reader is None else await run_sync(reader.read, abandon_on_cancel=False)
    archive = await run_sync(partial(Archive, directory, log_id, checkpoints), abandon_on_cancel=False)
    try:
        mover = _Mover(store, pruned, archive)
        await mover.finish_last()
        yield mover
    finally:
        archive.close()


@attrs.define(eq=False)
class _Mover:
    """Moves events to an archive."""

    store: EventStore
    pruned: PrunableStore
    archive: Archive
    moved: int = 0
    tell: Callable[[], object] | None = None

    async def move(self, taking: Taking, before_ms: int | None) -> None:
        """Move the events that are taken, of those from before a time if one is given. A checkpoint."""
        events = iter_events(self.store, EventQuery(until_ms=before_ms), page_size=_PAGE_SIZE)
        if self.archive.checkpoints is not None:
            # What none covers yet could be in no tree any more.
            taking.through = min(taking.through, self.archive.checkpoints.sealed_seq)
        writer: SegmentWriter | None = None
        try:
            while not taking.is_over:
                if taken := taking.cut(await _next_page(events)):
                    if writer is None:
                        writer = await run_sync(
                            partial(self.archive.begin, before_ms), abandon_on_cancel=False
                        )
                    await run_sync(partial(writer.add, taken), abandon_on_cancel=False)
                if writer is not None and (writer.is_full or taking.is_over):
                    segment = await run_sync(writer.finish, abandon_on_cancel=False)
                    writer = None
                    await self._delete(segment)
        finally:
            if writer is not None:
                writer.discard()

    async def _delete(self, segment: ArchiveSegment) -> None:
        there = await self.pruned.prune(
            through_seq=segment.last_seq, before_ms=segment.before_ms, dry_run=True
        )
        if there > segment.count:
            # A spill file may be delivered late, for example. They are archived with the rest next time.
            raise StoreError(
                f"events were appended below seq {segment.last_seq} while those up to it were archived: none"
                " of them is deleted until the next try"
            )
        self.moved += await self.pruned.prune(through_seq=segment.last_seq, before_ms=segment.before_ms)
        if self.tell is not None:
            self.tell()

    async def finish_last(self) -> None:
        """Delete the events of the last segment if a process was killed before it could. A checkpoint.

        Not if the store has any other events there, as one has that went back to an older state.
        """
        if not self.archive.segments:
            await trio.lowlevel.checkpoint()
            return
        segment = self.archive.segments[-1]
        events = iter_events(self.store, EventQuery(until_ms=segment.before_ms), page_size=_PAGE_SIZE)
        archived: frozenset[tuple[int, str]] | None = None
        taking = Taking(segment.last_seq, events=math.inf)
        while not taking.is_over:
            taken = taking.cut(await _next_page(events))
            if taken and archived is None:
                archived = await run_sync(partial(_ids_in, self.archive, segment), abandon_on_cancel=False)
            if archived is not None and not archived.issuperset((event.seq, event.id) for event in taken):
                return
        if archived is not None:
            await self._delete(segment)


def _ids_in(archive: Archive, segment: ArchiveSegment) -> frozenset[tuple[int, str]]:
    return frozenset((event.seq, event.id) for page in archive.read(segment) for event in page)
