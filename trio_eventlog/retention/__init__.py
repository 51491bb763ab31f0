"""The end of a log's life: old events are deleted by a policy, and kept in an archive if that is wanted.

An archive is a directory of *segments*: files of events as JSON lines, compressed with Zstandard, each with a
manifest. It needs the extra ``archive``.
"""

from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.retention._archive import ArchiveError, ArchiveVerification, segments_of, verify_archive
from trio_eventlog.retention._manifest import ArchiveSegment
from trio_eventlog.retention._policy import RetentionPolicy
from trio_eventlog.retention._reading import read_archive
from trio_eventlog.retention._retain import prune_to_archive, retain

__all__ = [
    "ArchiveError",
    "ArchiveSegment",
    "ArchiveVerification",
    "RetentionPolicy",
    "prune_to_archive",
    "read_archive",
    "retain",
    "segments_of",
    "verify_archive",
]

_adopt_public_names(globals())
