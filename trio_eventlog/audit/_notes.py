"""Checkpoints, and the signed notes that carry them: C2SP ``tlog-checkpoint`` and ``signed-note``. Pure.

::

    5f0c…e2                                           the origin: which log
    1000                                              the number of events
    qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=      the root of their tree

    — 5f0c…e2 Y3Vy…                                   a signature: name, key hash and Ed25519 in Base64
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

import attrs

from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._tree import HASH_BYTES

KEY_HASH_BYTES: Final = 4

_ORIGIN: Final = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE: Final = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")

_BODY_LINES: Final = 3

_MAX_NOTE: Final = 1_000_000
"""Characters. A note may have lines of extensions and the signatures of witnesses."""


@attrs.frozen
class Checkpoint:
    """What a note says: the first events of a log, and the root of the tree over them.

    Attributes:
      origin: the id of the log.
      size: how many events, 0 or more; those with the lowest seqs.
      root: the root of their Merkle tree, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text that is signed, without extensions."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@attrs.frozen
class Signature:
    """A signature line of a note."""

    name: str
    key_hash: bytes
    value: bytes


@attrs.frozen
class SignedNote:
    """A note that was taken apart. Nothing in it is verified."""

    text: str
    """What is signed."""

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]


def check_origin(origin: object) -> str:
    """Return ``origin`` if it can be one.

    Raises:
      TypeError: it is not a string.
      ValueError: it has white space or a plus sign, is empty, or has more than 200 characters.
    """
    if not isinstance(origin, str):
        raise TypeError(f"origin: expected a str, got {type(origin).__name__}")
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(
            f"origin: {origin!a:.100} cannot name a log in a note; expected 1 to 200 characters without white"
            " space and '+'"
        )
    return origin


def signature_line(name: str, key_hash: bytes, value: bytes) -> str:
    """A signature as a line of a note."""
    return f"— {name} {base64.b64encode(key_hash + value).decode()}\n"


def parse_note(note: str) -> SignedNote:
    """Take a note apart.

    Raises:
      AuditError: it is not a note with a checkpoint.
    """
    text, separator, lines = note.rpartition("\n\n")
    if not separator or not lines.endswith("\n") or len(note) > _MAX_NOTE:
        raise AuditError("not a signed note: there are no signatures after an empty line")
    text += "\n"
    body = text.split("\n")[:-1]
    if len(body) < _BODY_LINES or not all(body):
        raise AuditError("not a checkpoint: expected an origin, a size and a root")
    origin, size, root_text, *_extensions = body
    root = decode_base64(root_text)
    if not _ORIGIN.fullmatch(origin) or not _SIZE.fullmatch(size) or len(root or b"") != HASH_BYTES:
        raise AuditError("not a checkpoint: the origin, the size or the root is malformed")
    signatures = tuple(_parse_signature(line) for line in lines.split("\n")[:-1])
    return SignedNote(text, Checkpoint(origin, int(size), root or b""), signatures)


def _parse_signature(line: str) -> Signature:
    found = _SIGNATURE.fullmatch(line)
    value = decode_base64(found[2]) if found else None
    if found is None or value is None or len(value) <= KEY_HASH_BYTES:
        raise AuditError("not a signed note: a signature line is malformed")
    return Signature(found[1], value[:KEY_HASH_BYTES], value[KEY_HASH_BYTES:])


def decode_base64(text: str) -> bytes | None:
    """Bytes from standard Base64 in its one canonical form; None if it is not."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if base64.b64encode(value).decode() == text else None
