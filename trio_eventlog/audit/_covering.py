"""Which events checkpoints cover. For whoever deletes what is sealed."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from trio_eventlog.audit._errors import AuditError
from trio_eventlog.audit._keys import Verifier
from trio_eventlog.audit._records import Record
from trio_eventlog.audit._verify import load_records


class Checkpoints:
    """The valid checkpoints of a file, as it was when it was read; made by :meth:`CheckpointReader.read`.

    Attributes:
      origin: the id of the log in the notes; None if there is no checkpoint.
      sealed_seq: all events up to this seq are covered; 0 if there is no checkpoint.
    """

    origin: str | None
    sealed_seq: int

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self.origin = records[0].checkpoint.origin if records else None
        self.sealed_seq = records[-1].last_seq if records else 0

    def covering(self, seq: int) -> str | None:
        """The note of the first checkpoint that covers all events up to a seq; None if there is none yet."""
        place = bisect_left(self._records, seq, key=lambda record: record.last_seq)
        return self._records[place].note if place < len(self._records) else None

    def __repr__(self) -> str:
        return f"<Checkpoints of {self.origin}, sealed up to seq {self.sealed_seq}>"


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"path: expected the path of a file, got {type(value).__name__}")
    return Path(value)


def _is_verifier(_self: Any, _field: Any, value: Any) -> None:
    if not isinstance(value, Verifier):
        raise TypeError(f"verifier: expected a Verifier, got {type(value).__name__}")


@attrs.frozen
class CheckpointReader:
    """Where the checkpoints of a log are, and the key that they are verified with.

    Args:
      path: the file that :func:`record_checkpoints` or :func:`seal` appends to.
      verifier: the public key.

    Raises:
      TypeError: an argument is of the wrong type.
    """

    path: Path = attrs.field(converter=_path)
    verifier: Verifier = attrs.field(validator=_is_verifier)

    def read(self) -> Checkpoints:
        """Read the file. Blocks.

        Raises:
          AuditError: it cannot be read, or has a line before its end that is no checkpoint of this key.
        """
        loaded = load_records(os.fspath(self.path), self.verifier)
        if loaded.problems:
            raise AuditError(loaded.problems[0])
        return Checkpoints(loaded.records)
