"""The events of an archive in the order of the log. Blocks."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Final

from trio_eventlog import PersistedEvent, to_json
from trio_eventlog.retention._archive import read_segment, segments_of
from trio_eventlog.retention._manifest import ArchiveSegment

_PAGE: Final = 1_000


def read_archive(directory: str | os.PathLike[str], *, after_seq: int = 0) -> Iterator[list[PersistedEvent]]:
    """The events of an archive, in pages, in ascending order of seq. Each step blocks.

    Segments that overlap, because their events were deleted by different criteria, are merged. An event that
    was moved twice, because the store went back to an older state in between, is yielded once; but two events
    with one seq are both yielded. What is yielded is certain once no error was raised before the end.

    Args:
      directory: the archive.
      after_seq: only events with a higher seq.

    Raises:
      ArchiveError: a manifest or a segment is damaged; or what reading needs is not installed.
      OSError: a file cannot be read.
    """
    place = Path(directory)
    found = [segment for segment in segments_of(place) if segment.last_seq > after_seq]
    for overlapping in _overlapping(sorted(found, key=attrgetter("first_seq"))):
        pages = (read_segment(segment.path_in(place), segment) for segment in overlapping)
        for page in _merged(list(pages)):
            if kept := [event for event in page if event.seq > after_seq]:
                yield kept


def _overlapping(segments: Sequence[ArchiveSegment]) -> Iterator[list[ArchiveSegment]]:
    """Groups of segments with seqs of one group below those of the next."""
    group: list[ArchiveSegment] = []
    last = 0
    for segment in segments:
        if group and segment.first_seq > last:
            yield group
            group = []
        group.append(segment)
        last = max(last, segment.last_seq)
    if group:
        yield group


def _merged(segments: list[Iterator[list[PersistedEvent]]]) -> Iterator[list[PersistedEvent]]:
    if len(segments) == 1:
        yield from segments[0]
        return
    page: list[PersistedEvent] = []
    last: PersistedEvent | None = None
    for event in heapq.merge(*map(chain.from_iterable, segments), key=attrgetter("seq")):
        if last is not None and event.seq == last.seq and to_json(event) == to_json(last):
            continue
        last = event
        page.append(event)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page
