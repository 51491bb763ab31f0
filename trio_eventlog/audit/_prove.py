"""Making proofs. Trio."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from trio_eventlog import EventQuery, EventsPruned, EventStore, PersistedEvent, StaleCursor
from trio_eventlog._threads import run_sync
from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._keys import CommitmentKey, Verifier
from trio_eventlog.audit._leaves import LeafHasher, canonical_payload, kept_commitment
from trio_eventlog.audit._proofs import ConsistencyProof, InclusionProof
from trio_eventlog.audit._records import Record
from trio_eventlog.audit._tree import ProofTree
from trio_eventlog.audit._verify import load_records
from trio_eventlog.reading import iter_events


async def prove_inclusion(
    store: EventStore,
    path: str | os.PathLike[str],
    verifier: Verifier,
    commitment_key: CommitmentKey,
    event_id: str,
) -> InclusionProof:
    """Prove that the last checkpoint covers an event.

    Looks for the event from the start of the log, and reads all that come after the checkpoint before it. A
    checkpoint of Trio; cancelled, it stops.

    Args:
      store: the store of the log, read-only or not.
      path: the file of the checkpoints.
      verifier: the public key.
      commitment_key: the key that the payloads were sealed with.
      event_id: the id of the event.

    Raises:
      AuditError: there is no such event, no checkpoint covers it, the file cannot be read, or the log is not
        what was sealed.
      StoreError: the store failed.
      CodecError: the store is damaged: a payload is no JSON.
    """
    records = await _records(path, verifier)
    last = records[-1]
    event = await _find(store, event_id)
    if event.seq > last.last_seq:
        raise AuditError(
            f"no checkpoint covers event {event_id!a:.100}, seq {event.seq}, yet: the last one ends with seq"
            f" {last.last_seq}"
        )
    start = _last_before(records, lambda record: record.last_seq < event.seq)
    tree = _tree_of(start)
    hasher = LeafHasher(commitment_key, last.checkpoint.origin)
    index = -1

    def take(events: Sequence[PersistedEvent], leaves: Sequence[bytes]) -> None:
        nonlocal event, index
        places = [place for place, found in enumerate(events) if found.seq == event.seq]
        if not places:
            tree.extend(leaves)
            return
        (place,) = places
        # As it is now: it may have been erased since it was found.
        event = events[place]
        tree.extend(leaves[:place])
        index = tree.size
        tree.append_marked(leaves[place])
        tree.extend(leaves[place + 1 :])

    await _read(store, hasher, start, last.last_seq, take)
    _require_root(tree, last)
    is_erased = kept_commitment(canonical_payload(event.event)) is not None
    key = None if is_erased else hasher.payload_key(event.seq)
    return InclusionProof(event, key, index, tree.path(), last.note)


async def prove_consistency(
    store: EventStore,
    path: str | os.PathLike[str],
    verifier: Verifier,
    commitment_key: CommitmentKey,
    old_note: str,
) -> ConsistencyProof:
    """Prove that the last checkpoint continues an older note.

    Reads all events after the last checkpoint that the older note covers. A checkpoint of Trio; cancelled, it
    stops.

    Args:
      store: the store of the log, read-only or not.
      path: the file of the checkpoints.
      verifier: the public key.
      commitment_key: the key that the payloads were sealed with.
      old_note: the older note, of the same log and key.

    Raises:
      AuditError: there is no such proof, since the log is not what was sealed, or the older note is of
        another one; or the file cannot be read.
      StoreError: the store failed.
      CodecError: the store is damaged: a payload is no JSON.
    """
    records = await _records(path, verifier)
    last = records[-1]
    old = verifier.verify(old_note, origin=last.checkpoint.origin)
    if old.size > last.checkpoint.size:
        raise AuditError(
            f"the older note covers {old.size:,} events, the last checkpoint {last.checkpoint.size:,}"
        )
    start = _last_before(records, lambda record: record.checkpoint.size <= old.size)
    tree = _tree_of(start)
    hasher = LeafHasher(commitment_key, last.checkpoint.origin)

    def mark() -> None:
        if tree.root() != old.root:
            raise AuditError("the older note is not of this log, or the log is not what was sealed")
        if old.size:
            tree.mark()

    def take(_events: Sequence[PersistedEvent], leaves: Sequence[bytes]) -> None:
        before = max(old.size - tree.size, 0)
        if before > 0:
            tree.extend(leaves[:before])
            if tree.size == old.size:
                mark()
        tree.extend(leaves[before:])

    if tree.size == old.size:
        mark()
    await _read(store, hasher, start, last.last_seq, take)
    _require_root(tree, last)
    return ConsistencyProof(old_note, tree.consistency() if old.size else (), last.note)


async def _records(path: str | os.PathLike[str], verifier: Verifier) -> list[Record]:
    loaded = await run_sync(partial(load_records, os.fspath(path), verifier), abandon_on_cancel=False)
    if not loaded.records:
        raise AuditError(
            f"{os.fspath(path)} has no valid checkpoint" + "".join(f"; {p}" for p in loaded.problems)
        )
    return loaded.records


async def _find(store: EventStore, event_id: str) -> PersistedEvent:
    events = iter_events(store)
    async for page in events.pages():
        for event in page:
            if event.id == event_id:
                return event
    raise AuditError(f"the log has no event {event_id!a:.100}")


def _last_before(records: Sequence[Record], is_before: Callable[[Record], bool]) -> Record | None:
    found = [record for record in records if is_before(record)]
    return found[-1] if found else None


def _tree_of(record: Record | None) -> ProofTree:
    return ProofTree() if record is None else ProofTree(record.checkpoint.size, record.frontier)


async def _read(
    store: EventStore,
    hasher: LeafHasher,
    start: Record | None,
    through: int,
    take: Callable[[Sequence[PersistedEvent], Sequence[bytes]], None],
) -> None:
    events = iter_events(store, EventQuery(after_seq=0 if start is None else start.last_seq))
    while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
        try:
            page: list[PersistedEvent] = await anext(events.pages(), [])
        except EventsPruned as exc:
            raise AuditError(f"the proof needs events that are gone: {exc}") from exc
        except StaleCursor as exc:
            raise AuditError(f"the log is shorter than what was sealed: {exc}") from exc
        wanted = [event for event in page if event.seq <= through]
        if wanted:
            take(wanted, hasher.leaves(wanted))
        if not page or len(wanted) < len(page):
            return


def _require_root(tree: ProofTree, record: Record) -> None:
    if tree.size != record.checkpoint.size or tree.root() != record.checkpoint.root:
        raise AuditError(
            "the log is not what was sealed, or events that the proof needs were pruned, or the commitment"
            " key is another one: run verify"
        )
