"""What a line of a file of checkpoints says. Pure.

Each line is a JSON object. The signed note alone counts as evidence. The frontier is what the tree goes on
from, and is evidence because the root of the note is its root. The rest is not signed: it tells the events of
a changed interval that were not changed from those that were.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs
import msgspec

from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._keys import Signer, Verifier
from trio_eventlog.audit._notes import Checkpoint
from trio_eventlog.audit._tree import HASH_BYTES, MerkleTree

FORMAT: Final = 1

RECORD_BEGIN: Final = b'{"format":'
"""What each line begins with."""

PRINT_BYTES: Final = 4
"""Bytes of a leaf that are kept, to tell which event was changed."""

_MAX_SEQ: Final = 2**63 - 1


class _Line(msgspec.Struct):
    format: int
    note: str
    last_seq: int
    frontier: str
    seqs: list[tuple[int, int]]
    leaves: str


_encode_line: Final = msgspec.json.Encoder().encode
_decode_line: Final = msgspec.json.Decoder(_Line).decode


@attrs.frozen
class Record:
    """A checkpoint, and what is needed to go on from it."""

    note: str
    checkpoint: Checkpoint
    last_seq: int
    """Of the last event that it covers."""

    frontier: tuple[bytes, ...]
    ranges: tuple[tuple[int, int], ...]
    """Seqs of the events since the last checkpoint, first and last of each range without a gap."""

    prints: bytes
    """The beginnings of their leaves."""

    def tree(self) -> MerkleTree:
        """The tree that it is a checkpoint of."""
        return MerkleTree(self.checkpoint.size, self.frontier)

    def seqs(self) -> Iterator[int]:
        """Seqs of the events since the last checkpoint."""
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def line(self) -> bytes:
        """The record as a line of the file."""
        frontier = base64.b64encode(b"".join(self.frontier)).decode()
        leaves = base64.b64encode(self.prints).decode()
        ranges = list(self.ranges)
        return _encode_line(_Line(FORMAT, self.note, self.last_seq, frontier, ranges, leaves)) + b"\n"


def parse_record(line: bytes, verifier: Verifier, origin: str | None = None) -> Record:
    """The record on a line.

    Raises:
      AuditError: it is malformed, about another log, not signed by this key, or disagrees with itself.
    """
    try:
        found = _decode_line(line)
        frontier_bytes = base64.b64decode(found.frontier, validate=True)
        prints = base64.b64decode(found.leaves, validate=True)
    except (ValueError, RecursionError, binascii.Error) as exc:
        raise AuditError("not a record of a checkpoint") from exc
    if found.format != FORMAT:
        raise AuditError(f"it has format {found.format}, this version of trio-eventlog knows {FORMAT}")
    checkpoint = verifier.verify(found.note, origin=origin)
    frontier = tuple(
        frontier_bytes[place : place + HASH_BYTES] for place in range(0, len(frontier_bytes), HASH_BYTES)
    )
    try:
        root = MerkleTree(checkpoint.size, frontier).root()
    except ValueError as exc:
        raise AuditError("the frontier beside the note is not that of its tree") from exc
    if root != checkpoint.root:
        raise AuditError("the frontier beside the note is not that of its tree")
    if not checkpoint.size <= found.last_seq <= _MAX_SEQ:
        raise AuditError("the last seq beside the note is not that of its tree")
    return Record(
        found.note, checkpoint, found.last_seq, frontier, _checked_ranges(found, len(prints)), prints
    )


def _checked_ranges(found: _Line, prints: int) -> tuple[tuple[int, int], ...]:
    last = 0
    count = 0
    for first, end in found.seqs:
        if not last < first <= end <= found.last_seq:
            raise AuditError("the seqs beside the note do not ascend")
        last = end
        count += end - first + 1
    if count * PRINT_BYTES != prints:
        raise AuditError("the seqs beside the note are not as many as the leaves")
    return tuple(found.seqs)


def ranges_of(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending seqs as ranges without a gap."""
    ranges: list[tuple[int, int]] = []
    first = last = -1
    for seq in seqs:
        if seq != last + 1 or last < 0:
            if last >= 0:
                ranges.append((first, last))
            first = seq
        last = seq
    if last >= 0:
        ranges.append((first, last))
    return ranges


class Sealer:
    """Collects leaves, and makes records of them.

    Args:
      origin: the id of the log.
      record: the last record; None to begin a tree.
    """

    def __init__(self, origin: str, record: Record | None) -> None:
        self._origin = origin
        self._tree = MerkleTree() if record is None else record.tree()
        self.last_seq: int = 0 if record is None else record.last_seq
        """Of the last event that was added."""

        self._seqs: list[int] = []
        self._prints: list[bytes] = []

    @property
    def unsealed(self) -> int:
        """Events since the last record."""
        return len(self._seqs)

    @property
    def size(self) -> int:
        """Events in all."""
        return self._tree.size

    def add(self, seqs: Sequence[int], leaves: Sequence[bytes]) -> None:
        """Add events, in ascending order of seq."""
        if not seqs:
            return
        self._tree.extend(leaves)
        self._seqs += seqs
        self._prints += [leaf[:PRINT_BYTES] for leaf in leaves]
        self.last_seq = seqs[-1]

    def record(self, signer: Signer) -> Record:
        """A record of everything up to now. Changes nothing."""
        checkpoint = Checkpoint(self._origin, self._tree.size, self._tree.root())
        return Record(
            signer.sign(checkpoint),
            checkpoint,
            self.last_seq,
            self._tree.frontier,
            tuple(ranges_of(self._seqs)),
            b"".join(self._prints),
        )

    def sealed(self) -> None:
        """The record that was made last is kept; the next one begins after it."""
        self._seqs.clear()
        self._prints.clear()
