"""Proofs that are checked without the log: that an event is in it, that one note continues another. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, Literal

import attrs
import msgspec

from trio_eventlog import CodecError, PersistedEvent, from_json, to_json
from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._keys import Verifier
from trio_eventlog.audit._leaves import (
    KEY_BYTES,
    canonical_payload,
    commitment_of,
    kept_commitment,
    leaf_of,
)
from trio_eventlog.audit._notes import Checkpoint
from trio_eventlog.audit._tree import HASH_BYTES, is_consistent, root_from_inclusion

FORMAT: Final = 1


class _Inclusion(msgspec.Struct, tag_field="proof", tag="inclusion"):
    format: Literal[1]
    event: msgspec.Raw
    payload_key: str | None
    index: int
    path: list[str]
    note: str


class _Consistency(msgspec.Struct, tag_field="proof", tag="consistency"):
    format: Literal[1]
    old_note: str
    path: list[str]
    note: str


_encode: Final = msgspec.json.Encoder().encode
_decode: Final[Any] = msgspec.json.Decoder(_Inclusion | _Consistency).decode


@attrs.frozen
class InclusionProof:
    """Proof that an event is in a log.

    It has the event in it, and lets its holder check this payload, but no other.

    Attributes:
      event: the event.
      payload_key: the key of its payload, 32 bytes; None if that was erased, so that nobody can guess it.
      index: its place in the tree, from 0.
      path: the hashes beside the way from its leaf to the root, from the bottom up.
      note: the signed note of the checkpoint that covers it.
    """

    event: PersistedEvent
    payload_key: bytes | None = attrs.field(repr=False)
    index: int
    path: tuple[bytes, ...]
    note: str

    def check(self, verifier: Verifier) -> Checkpoint:
        """Check the proof; the checkpoint that covers the event.

        Raises:
          AuditError: it proves nothing; the message says why.
        """
        checkpoint = verifier.verify(self.note)
        try:
            leaf = leaf_of(self.event, self._commitment())
        except (CodecError, OverflowError) as exc:
            raise AuditError(f"the proof has no event that a log can hold: {exc}") from exc
        if root_from_inclusion(leaf, self.index, checkpoint.size, self.path) != checkpoint.root:
            raise AuditError(
                "the proof is wrong: the event is not the one that was sealed, or the note is another one"
            )
        return checkpoint

    def _commitment(self) -> bytes:
        if self.payload_key is not None:
            return commitment_of(self.event.event, self.payload_key)
        kept = kept_commitment(canonical_payload(self.event.event))
        if kept is None:
            raise AuditError("the proof is wrong: it lacks the key of the payload, which was not erased")
        return kept

    def to_json(self) -> bytes:
        """The proof as one line of JSON."""
        event = msgspec.Raw(to_json(self.event))
        key = None if self.payload_key is None else base64.b64encode(self.payload_key).decode()
        return _encode(_Inclusion(FORMAT, event, key, self.index, _texts(self.path), self.note)) + b"\n"


@attrs.frozen
class ConsistencyProof:
    """Proof that the events of an older note are the first ones of a newer note.

    Attributes:
      old_note: the older note.
      path: the hashes that lead from both trees to their roots.
      note: the newer note.
    """

    old_note: str
    path: tuple[bytes, ...]
    note: str

    def check(self, verifier: Verifier) -> tuple[Checkpoint, Checkpoint]:
        """Check the proof; both checkpoints, the older one first.

        Raises:
          AuditError: it proves nothing; the message says why.
        """
        new = verifier.verify(self.note)
        old = verifier.verify(self.old_note, origin=new.origin)
        if not is_consistent(old.size, old.root, new.size, new.root, self.path):
            raise AuditError("the proof is wrong: the newer note does not continue the older one")
        return old, new

    def to_json(self) -> bytes:
        """The proof as one line of JSON."""
        return _encode(_Consistency(FORMAT, self.old_note, _texts(self.path), self.note)) + b"\n"


def parse_proof(data: bytes) -> InclusionProof | ConsistencyProof:
    """Read a proof. Whether it proves anything, its ``check`` says.

    Raises:
      AuditError: the text is no proof.
    """
    try:
        found = _decode(data)
        path = tuple(_hash(text) for text in found.path)
        if isinstance(found, _Consistency):
            return ConsistencyProof(found.old_note, path, found.note)
        event = from_json(bytes(found.event), PersistedEvent)
        key = None if found.payload_key is None else _hash(found.payload_key, KEY_BYTES)
        return InclusionProof(event, key, found.index, path, found.note)
    except (ValueError, RecursionError) as exc:
        raise AuditError(f"not a proof: {exc}") from exc


def _texts(path: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(item).decode() for item in path]


def _hash(text: str, size: int = HASH_BYTES) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"{text!a:.60} is no Base64") from exc
    if len(value) != size:
        raise ValueError(f"{text!a:.60} has {len(value)} bytes, expected {size}")
    return value
