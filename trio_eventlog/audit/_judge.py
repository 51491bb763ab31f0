"""Whether the events of a log are those that were sealed. Pure.

The records divide a log into intervals. Each is judged by itself: from the frontier of the record before it,
which that note vouches for, the leaves must lead to the root of its own note. So one that was changed does
not hide what became of the others. Only if it was, what the record says beside its note, seqs and beginnings
of leaves, is asked which events are not what they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from trio_eventlog.abc import Finding
from trio_eventlog.audit._notes import Checkpoint
from trio_eventlog.audit._records import PRINT_BYTES, Record, ranges_of
from trio_eventlog.audit._tree import MerkleTree

_NOTE: Final = "a note that was kept elsewhere"


@attrs.frozen(kw_only=True)
class CheckpointVerification:
    """What :func:`verify_checkpoints` has found.

    Attributes:
      origin: the id of the log; None if there is no valid checkpoint.
      checkpoints: how many of them are valid.
      sealed: events that the last of them covers.
      sealed_seq: seq of the last event that it covers; 0 if there is none.
      unsealed: events after that, which nothing vouches for yet. If an archive was compared alone, those that
        only checkpoints cover that cover others as well.
      erased: events that were compared by the commitment that is left of their payload.
      skipped_seq: events up to this seq were not compared, because ``pruned_through`` said so; 0 for none.
      problems: how many problems there are; 0 if the log is what was sealed.
      findings: the first of them.
    """

    origin: str | None
    checkpoints: int
    sealed: int
    sealed_seq: int
    unsealed: int
    erased: int
    skipped_seq: int
    problems: int
    findings: tuple[Finding, ...]


class Findings:
    """Problems: all are counted, the first are kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = 0
        self.kept: list[Finding] = []

    def add(self, seq: int | None, problem: str) -> None:
        """A problem, of one event or of several."""
        self.count += 1
        if len(self.kept) < self._most:
            self.kept.append(Finding(seq=seq, problem=problem))


class Judge:
    """Compares the leaves of a log with its records.

    Args:
      records: valid ones, in ascending order of size and of last seq.
      notes: checkpoints of the same log that were kept elsewhere, in any order.
      start: the index of the first record to compare with; the one before it is taken for granted.
      findings: where problems go.
    """

    def __init__(
        self, records: Sequence[Record], notes: Iterable[Checkpoint], start: int, findings: Findings
    ) -> None:
        self._records = records
        self._notes = sorted(notes, key=lambda note: note.size)
        self._next = start
        self._tree = records[start - 1].tree() if start else MerkleTree()
        self._seqs: list[int] = []
        self._leaves: list[bytes] = []
        self._findings = findings
        self._last_seq = records[start - 1].last_seq if start else 0
        self.unsealed = 0
        """Events after the last record; known once all are judged."""

        if start:
            self._compare_skipped(records[:start])

    def add(self, seqs: Sequence[int], leaves: Sequence[bytes]) -> None:
        """Events of the log, in ascending order of seq."""
        done = 0
        while done < len(seqs) and self._next < len(self._records):
            end = self._records[self._next].last_seq
            if seqs[-1] <= end:
                break
            place = done
            while seqs[place] <= end:
                place += 1
            self._take(seqs[done:place], leaves[done:place])
            self._close()
            done = place
        self._take(seqs[done:], leaves[done:])

    def finish(self, *, is_whole: bool = True) -> None:
        """There are no more events; unless the log ``is_whole``, there may be some elsewhere."""
        if not is_whole:
            while self._next < len(self._records) and self._records[self._next].last_seq <= self._last_seq:
                self._close()
            self.unsealed = len(self._seqs)
            return
        if self._next < len(self._records):
            end = self._records[-1].last_seq
            if self._last_seq < end:
                self._findings.add(
                    None,
                    f"the log ends {_after(self._last_seq)}, but events up to seq {end} were sealed: its end"
                    " was cut off",
                )
        while self._next < len(self._records):
            self._close()
        self.unsealed = len(self._seqs)
        self._compare_notes(self._tree.copy(), self._leaves, is_sound=True)
        total = self._tree.size + len(self._leaves)
        for note in self._notes:
            self._findings.add(
                None,
                f"{_NOTE} covers {note.size:,} events, but the log has {total:,}: its end was cut off",
            )

    def _take(self, seqs: Sequence[int], leaves: Sequence[bytes]) -> None:
        self._seqs += seqs
        self._leaves += leaves
        if seqs:
            self._last_seq = seqs[-1]

    def _close(self) -> None:
        """Judge the interval of the next record."""
        record = self._records[self._next]
        self._next += 1
        before = self._tree
        tree = before.copy()
        tree.extend(self._leaves)
        is_sound = tree.size == record.checkpoint.size and tree.root() == record.checkpoint.root
        if not is_sound:
            self._explain(record, record.checkpoint.size - before.size)
        self._compare_notes(before, self._leaves, is_sound=is_sound, through=record.checkpoint.size)
        self._tree = record.tree()
        self._seqs.clear()
        self._leaves.clear()

    def _compare_skipped(self, records: Sequence[Record]) -> None:
        """Compare the notes of a part of the log that is not read, with the records of it."""
        roots = {record.checkpoint.size: record.checkpoint.root for record in records}
        while self._notes and self._notes[0].size <= self._tree.size:
            note = self._notes.pop(0)
            if note.size not in roots:
                self._findings.add(
                    None,
                    f"{_NOTE} covers {note.size:,} events, and cannot be compared: some of them are pruned",
                )
            elif roots[note.size] != note.root:
                self._findings.add(None, _other_root(note))

    def _compare_notes(
        self, tree: MerkleTree, leaves: Sequence[bytes], *, is_sound: bool, through: int | None = None
    ) -> None:
        """Compare the notes within an interval. Extends ``tree``."""
        end = tree.size + len(leaves) if through is None else through
        first = tree.size
        while self._notes and self._notes[0].size <= end:
            note = self._notes.pop(0)
            # In an interval that was changed, the note cannot be told from a wrong one.
            if is_sound:
                tree.extend(leaves[tree.size - first : note.size - first])
                if tree.root() != note.root:
                    self._findings.add(None, _other_root(note))

    def _explain(self, record: Record, count: int) -> None:
        """Say as exactly as possible how an interval differs from what was sealed."""
        where = f"in the checkpoint of {record.checkpoint.size:,} events, up to seq {record.last_seq}"
        prints = record.prints
        sealed = {
            seq: prints[place * PRINT_BYTES : (place + 1) * PRINT_BYTES]
            for place, seq in enumerate(record.seqs())
        }
        if len(sealed) != count:
            # What is beside the note was changed, or a checkpoint between is missing.
            self._findings.add(
                None,
                f"{where}: {count:,} events were sealed since the one before it; the log has others there",
            )
            return
        found = {seq: leaf[:PRINT_BYTES] for seq, leaf in zip(self._seqs, self._leaves, strict=True)}
        removed = [seq for seq in sealed if seq not in found]
        inserted = [seq for seq in found if seq not in sealed]
        changed = [seq for seq, leaf in found.items() if sealed.get(seq, leaf) != leaf]
        for first, last in ranges_of(removed):
            self._findings.add(first, f"{_were(first, last)} removed, or given another seq; sealed {where}")
        for first, last in ranges_of(inserted):
            self._findings.add(first, f"{_were(first, last)} inserted, or given this seq; not sealed {where}")
        for first, last in ranges_of(changed):
            self._findings.add(first, f"{_were(first, last)} changed, or moved here; sealed {where}")
        if not (removed or inserted or changed):
            self._findings.add(None, f"{where}: some events are not what was sealed")


def _were(first: int, last: int) -> str:
    return "was" if first == last else f"this and all up to seq {last} were"


def _after(seq: int) -> str:
    return f"with seq {seq}" if seq else "before its first event"


def _other_root(note: Checkpoint) -> str:
    return (
        f"{_NOTE} has another root for the first {note.size:,} events: the log was written anew, or the note"
        " is of a copy that went its own way"
    )
