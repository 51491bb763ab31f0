"""Which events go. Pure: no clock, no store."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from trio_eventlog import PersistedEvent, to_json
from trio_eventlog.audit import CheckpointReader


def _older_than(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"older_than: expected seconds, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"older_than: expected 0 or more seconds, got {value}")
    return float(value)


def _most(_policy: RetentionPolicy, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field.name}: expected an integer, got {type(value).__name__}")
    if not 0 <= value < 2**63:
        raise ValueError(f"{field.name}: expected 0 to 2**63 - 1, got {value}")


def directory_of(value: Any) -> Path | None:
    """The path of an archive."""
    if value is None:
        return None
    path: object = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"archive: expected the path of a directory, got {type(value).__name__}")
    if not path or "\0" in path:
        raise ValueError(f"archive: expected the path of a directory, got {path!r}")
    return Path(path)


def check_checkpoints(value: object) -> None:
    """Check where checkpoints are said to be."""
    if not (value is None or isinstance(value, CheckpointReader)):
        raise TypeError(f"checkpoints: expected a CheckpointReader or None, got {type(value).__name__}")


def _reader(_policy: RetentionPolicy, _field: attrs.Attribute[Any], value: Any) -> None:
    check_checkpoints(value)


@attrs.frozen(kw_only=True)
class RetentionPolicy:
    """Which events of a log are deleted: those that any of the three criteria names.

    Attributes:
      older_than: seconds; an event goes if its timestamp is further than this behind the wall clock. 0 or
        more; None for no such bound.
      most_events: all events go but this many, those with the highest seqs. 0 or more, or None.
      most_bytes: so many of the oldest go that the rest has at most this many bytes as JSON lines. 0 or more,
        or None. Takes time in proportion to the log: all of it is read each time.
      archive: the directory to which events are moved, created if it is not there; or None.
      checkpoints: where the checkpoints of the log are, or None. With them, only events that a checkpoint
        covers are moved, and the manifest of each segment names it. Needs ``archive``.

    Raises:
      TypeError: an argument is of the wrong type.
      ValueError: one is out of range, or there is no criterion.
    """

    older_than: float | None = attrs.field(default=None, converter=_older_than)
    most_events: int | None = attrs.field(default=None, validator=_most)
    most_bytes: int | None = attrs.field(default=None, validator=_most)
    archive: Path | None = attrs.field(default=None, converter=directory_of)
    checkpoints: CheckpointReader | None = attrs.field(default=None, validator=_reader)

    def __attrs_post_init__(self) -> None:
        if self.older_than is self.most_events is self.most_bytes is None:
            raise ValueError("older_than, most_events, most_bytes: expected at least one")
        if self.checkpoints is not None and self.archive is None:
            raise ValueError("checkpoints: expected an archive with them")

    def before_ms(self, now_ms: int) -> int:
        """The time before which events go at ``now_ms``, both milliseconds since 1970; 0 for none."""
        return 0 if self.older_than is None else max(now_ms - math.ceil(self.older_than * 1000), 0)


def size_of(event: PersistedEvent) -> int:
    """Bytes of an event as a line of JSON."""
    return len(to_json(event)) + 1


@attrs.define
class Taking:
    """Takes events from the front of a log, page by page, until enough are taken.

    An event is taken while one of both numbers is above 0.
    """

    through: int
    """No event with a higher seq is taken: it was not there when the taking was planned."""

    events: float = 0
    """How many more to take."""

    excess: int = 0
    """How many more bytes to take."""

    is_over: bool = False

    def cut(self, page: Sequence[PersistedEvent]) -> list[PersistedEvent]:
        """Those events of the next page that are taken."""
        taken: list[PersistedEvent] = []
        for event in page:
            if event.seq > self.through or not (self.events > 0 or self.excess > 0):
                self.is_over = True
                break
            taken.append(event)
            self.events -= 1
            if self.excess > 0:
                self.excess -= size_of(event)
        self.is_over = self.is_over or not page
        return taken
