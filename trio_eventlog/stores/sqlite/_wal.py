"""Keeping the write-ahead log small. What is here runs in the threads of connections.

SQLite folds it into the database by itself, but begins it anew only if a writer comes at a moment in which
nobody reads from it. A few readers that overlap leave no such moment, and one that stays in a transaction
leaves none at all; then it grows without bound. So a writer asks for such a moment once it is large, and
waits a little for it: whoever begins to read meanwhile reads from the database alone.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import apsw

from trio_eventlog.stores.sqlite._files import size_of
from trio_eventlog.stores.sqlite._schema import BUSY_TIMEOUT

_logger: Final = logging.getLogger("trio_eventlog")

_MIB: Final = 1024 * 1024

_LARGE: Final = 8 * _MIB
"""Bytes from which on it is to be begun anew. SQLite folds it in from 4 MiB on."""

_VERY_LARGE: Final = 16 * _MIB
"""Bytes from which on it is worth a warning that it could not be begun anew."""

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 1.0
"""Seconds to wait for readers; twice as long each time it was in vain. Other writers wait meanwhile."""

_SHARE: Final = 20
"""An attempt may take one part in this many of the time."""

_WARN_EVERY: Final = 600.0
"""Seconds between two warnings at least."""


class WriteAheadLog:
    """The write-ahead log of a database, as one writer sees it."""

    def __init__(self, path: str) -> None:
        self._path: Final = path
        self._wait = _FIRST_WAIT
        self._next_attempt = self._next_warning = -math.inf

    def keep_small(self, db: apsw.Connection) -> None:
        """Have it begun anew if it is large; once a transaction has ended. Raises nothing.

        The file then shrinks with the next transaction.
        """
        now = time.monotonic()
        if now < self._next_attempt or self.size_bytes() < _LARGE:
            return
        problem: str | None = None
        db.set_busy_timeout(round(self._wait * 1000))
        try:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            problem = _who_reads(self._path)
        except apsw.Error as exc:
            # What was appended is stored all the same.
            problem = str(exc)
        finally:
            db.set_busy_timeout(round(BUSY_TIMEOUT * 1000))
        took = time.monotonic() - now
        self._next_attempt = now + took * _SHARE
        if problem is None:
            self._wait = max(_FIRST_WAIT, min(self._wait, 2 * took))
            return
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        if self.size_bytes() >= _VERY_LARGE and now >= self._next_warning:
            self._next_warning = now + _WARN_EVERY
            _logger.warning(
                "%s-wal: the write-ahead log has %d MiB and grows, since it could not be begun anew: %s",
                self._path,
                self.size_bytes() // _MIB,
                problem,
            )

    def size_bytes(self) -> int:
        """Its size; 0 if there is none."""
        return size_of(f"{self._path}-wal")


# --- who reads ------------------------------------------------------------------------------------

# For messages alone: which files threads of this process work on, and since when.
_at_work: Final[set[tuple[str, int, float]]] = set()


@contextmanager
def at_work(path: str) -> Iterator[None]:
    """For the length of a block, this thread reads from a database or writes to it."""
    entry = (path, threading.get_ident(), time.monotonic())
    _at_work.add(entry)
    try:
        yield
    finally:
        _at_work.discard(entry)


def _who_reads(path: str) -> str:
    thread = threading.get_ident()
    since = [begun for name, other, begun in _at_work.copy() if name == path and other != thread]
    if not since:
        return "another connection, in this process or another, goes on reading from it"
    longest = time.monotonic() - min(since)
    readers = "a store" if len(since) == 1 else f"{len(since)} stores"
    return f"{readers} of this process read from it, the longest for {longest:.1f} s"
