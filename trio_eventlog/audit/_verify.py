"""Verifying a log against its checkpoints. Trio."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import attrs

from trio_eventlog import (
    CodecError,
    EventStore,
    PersistedEvent,
    StaleCursor,
    StoreUnusable,
)
from trio_eventlog._threads import run_sync
from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._file import read_lines
from trio_eventlog.audit._judge import CheckpointVerification, Findings, Judge
from trio_eventlog.audit._keys import CommitmentKey, Verifier
from trio_eventlog.audit._leaves import LeafHasher
from trio_eventlog.audit._records import Record, parse_record
from trio_eventlog.audit._sources import FromArchive, FromStore, Merged, Source, SourceError


@attrs.frozen
class Loaded:
    """The valid records of a file, and what is wrong with the others."""

    records: list[Record]
    problems: list[str]

    @property
    def origin(self) -> str | None:
        """The id of their log."""
        return self.records[0].checkpoint.origin if self.records else None


def load_records(path: str, verifier: Verifier) -> Loaded:
    """Read a file of checkpoints. Blocks.

    Raises:
      AuditError: it cannot be read.
    """
    loaded = Loaded([], [])
    for number, line in enumerate(read_lines(path), 1):
        try:
            record = parse_record(line, verifier, loaded.origin)
        except AuditError as exc:
            loaded.problems.append(f"{path}, line {number}: {exc}")
            continue
        if loaded.records:
            last = loaded.records[-1]
            if not (record.checkpoint.size > last.checkpoint.size and record.last_seq > last.last_seq):
                loaded.problems.append(f"{path}, line {number}: it is not later than the one before it")
                continue
        loaded.records.append(record)
    return loaded


async def verify_checkpoints(
    store: EventStore | None,
    path: str | os.PathLike[str],
    verifier: Verifier,
    commitment_key: CommitmentKey,
    *,
    archived: Iterator[Sequence[PersistedEvent]] | None = None,
    notes: Sequence[str] = (),
    pruned_through: int = 0,
    most_findings: int = 100,
    on_progress: Callable[[int], object] | None = None,
) -> CheckpointVerification:
    """Compare a log with its checkpoints.

    Reads the whole log, and says of every event that was changed, removed, inserted, moved or cut off in
    which interval it is, and usually its seq. What a store can find out by itself is another matter: see
    :class:`trio_eventlog.abc.VerifiableStore`. A program may append meanwhile. A copy of the log, in whatever
    store, verifies as well. A checkpoint of Trio; cancelled, it stops.

    Args:
      store: the store of the log, read-only or not. None to compare what is archived alone: up to its last
        event, with the checkpoints that cover nothing beyond that.
      path: the file of the checkpoints.
      verifier: the public key.
      commitment_key: the key that the payloads were sealed with.
      archived: the events that were moved from the log to an archive:
        :func:`trio_eventlog.retention.read_archive`, or another iterator of pages in ascending order of seq.
        Steps are made in a thread.
      notes: notes that were kept where the owner of the log cannot change them. Only they can show that the
        file itself was cut off or written anew with the private key.
      pruned_through: events up to this seq were pruned on purpose, 0 or more. The comparison begins after the
        first checkpoint that covers them all. It is a problem if the log has not even come so far.
      most_findings: how many problems to name at most, 0 or more. All are counted.
      on_progress: called with a seq every now and then; all events up to it were read.

    Raises:
      ValueError: there is neither a store nor what was archived.
      AuditError: the file cannot be read, or one of ``notes`` is not signed by this key or is of another log.
      StoreError: the store failed; another call may succeed.
    """
    if store is None and archived is None:
        raise ValueError("store: expected one, or archived events instead")
    loaded = await run_sync(partial(load_records, os.fspath(path), verifier), abandon_on_cancel=False)
    findings = Findings(most_findings)
    for problem in loaded.problems:
        findings.add(None, problem)
    records, origin = loaded.records, loaded.origin
    kept = [verifier.verify(note, origin=origin) for note in notes]
    if origin is None:
        findings.add(None, f"{os.fspath(path)} has no valid checkpoint: nothing vouches for the log")
        return _result(records, findings, None, 0, 0)
    if pruned_through and store is not None and pruned_through > (end := await store.last_seq()):
        findings.add(
            None,
            f"events up to seq {pruned_through} are said to be pruned, but the log has only come to seq"
            f" {end}",
        )
    start = _first_compared(records, pruned_through)
    judge = Judge(records, kept, start, findings)
    skipped = records[start - 1].last_seq if start else 0
    hasher = LeafHasher(commitment_key, origin)
    source = _source(store, archived, skipped)
    try:
        await _judge_log(source, hasher, judge, skipped, on_progress)
    except SourceError as exc:
        findings.add(None, f"what was archived cannot be read to its end: {exc.__cause__}")
    except (StoreUnusable, CodecError) as exc:
        findings.add(None, f"the log cannot be read to its end: {exc}")
    except StaleCursor as exc:
        findings.add(None, f"the log is shorter than what was sealed: {exc}")
    else:
        judge.finish(is_whole=store is not None)
    finally:
        source.close()
    return _result(records, findings, judge, hasher.erased, skipped)


def _first_compared(records: Sequence[Record], pruned_through: int) -> int:
    """The index of the first record whose events all must be there."""
    if not pruned_through:
        return 0
    for index, record in enumerate(records):
        if record.last_seq >= pruned_through:
            return index + 1
    return len(records)


def _source(
    store: EventStore | None, archived: Iterator[Sequence[PersistedEvent]] | None, after: int
) -> Source:
    if store is None:
        assert archived is not None, "one of them is given"
        return FromArchive(archived)
    if archived is None:
        return FromStore(store, after)
    return Merged(FromStore(store, after), FromArchive(archived))


async def _judge_log(
    source: Source,
    hasher: LeafHasher,
    judge: Judge,
    after: int,
    on_progress: Callable[[int], object] | None,
) -> None:
    while page := await source.next_page():
        wanted = page if page[0].seq > after else [event for event in page if event.seq > after]
        judge.add([event.seq for event in wanted], hasher.leaves(wanted))
        if on_progress is not None:
            on_progress(page[-1].seq)


def _result(
    records: Sequence[Record], findings: Findings, judge: Judge | None, erased: int, skipped: int
) -> CheckpointVerification:
    last = records[-1] if records else None
    return CheckpointVerification(
        origin=None if last is None else last.checkpoint.origin,
        checkpoints=len(records),
        sealed=0 if last is None else last.checkpoint.size,
        sealed_seq=0 if last is None else last.last_seq,
        unsealed=0 if judge is None else judge.unsealed,
        erased=erased,
        skipped_seq=skipped,
        problems=findings.count,
        findings=tuple(findings.kept),
    )
