"""What is known of a segment, as it stands in its manifest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import attrs

PART: Final = ".part"
"""Ends the name of a file until it is whole."""

_FORMAT: Final = "archive"
_VERSION: Final = 1


class ManifestError(ValueError):
    """A manifest cannot be read; its message says why."""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


@attrs.frozen(kw_only=True)
class ArchiveSegment:
    """A segment of an archive: a file of events, and what its manifest says of it.

    Attributes:
      number: its place in the archive, from 1 on.
      file: the name of the file, within the directory.
      first_seq: the lowest seq in it.
      last_seq: the highest.
      count: how many events it has.
      size_bytes: their bytes as JSON lines, uncompressed.
      sha256: of the file, compressed as it is, in hexadecimal digits.
      log_id: the log they are from; None if its store did not say.
      before_ms: all of them were from before this time, in milliseconds since 1970; None if they were deleted
        for their seq.
      checkpoint: the note of the first checkpoint that covers all of them, and all events before; None if it
        was not known. See :mod:`trio_eventlog.audit`.
    """

    number: int
    file: str
    first_seq: int
    last_seq: int
    count: int
    size_bytes: int
    sha256: str
    log_id: str | None
    before_ms: int | None
    checkpoint: str | None

    def path_in(self, directory: str | os.PathLike[str]) -> Path:
        """Where the file is: under its own name, or under that of a part if a process was killed just then.

        Args:
          directory: the archive.
        """
        path = Path(directory) / self.file
        part = path.with_name(self.file + PART)
        return part if not path.exists() and part.exists() else path

    def manifest(self) -> bytes:
        """The content of the manifest."""
        content = {"trio_eventlog": _FORMAT, "version": _VERSION, **attrs.asdict(self)}
        return json.dumps(content, indent=2).encode() + b"\n"

    @classmethod
    def from_manifest(cls, text: bytes) -> ArchiveSegment:
        """Read a manifest; ManifestError if it is none."""
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise ManifestError(f"not JSON: {exc}") from exc
        if not isinstance(content, dict) or content.pop("trio_eventlog", None) != _FORMAT:
            raise ManifestError("not the manifest of a segment")
        if (version := content.pop("version", None)) != _VERSION:
            raise ManifestError(f"of version {version!r}, this library knows {_VERSION}")
        names = {field.name for field in attrs.fields(cls)}
        if set(content) != names:
            raise ManifestError(f"its fields are not {', '.join(sorted(names))}")
        found = cls(**content)
        numbers = (found.number, found.first_seq, found.last_seq, found.count, found.size_bytes)
        texts = (found.file, found.sha256)
        maybe_texts = (found.log_id, found.checkpoint)
        if (
            not all(map(_is_count, numbers))
            or not all(isinstance(text, str) for text in texts)
            or not all(text is None or isinstance(text, str) for text in maybe_texts)
            or not (found.before_ms is None or _is_count(found.before_ms))
            # Nothing outside of the directory.
            or found.file != data_name(found.number)
        ):
            raise ManifestError("a field has a value that it cannot have")
        return found


def data_name(number: int) -> str:
    """The name of the file of a segment."""
    return f"events-{number:06}.jsonl.zst"


def manifest_name(number: int) -> str:
    """The name of its manifest."""
    return f"events-{number:06}.json"
