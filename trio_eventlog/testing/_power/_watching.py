"""The two ways to watch the files of a store: by way of SQLite, and in a file system that forgets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from pathlib import Path
from typing import Protocol

import attrs
import trio

from trio_eventlog.testing._power._fuse import LossyMount, mounted, open_mount
from trio_eventlog.testing._power._journal import FileJournal
from trio_eventlog.testing._power._vfs import record_files


@attrs.frozen
class Watched:
    """A directory that is watched.

    Attributes:
      path: where to open the store.
      journal: what happens there. Complete once the directory is not watched any more.
      acknowledge: notes that so many batches are promised from here on.
    """

    path: Path
    journal: FileJournal
    acknowledge: Callable[[int], Awaitable[None]]


class Watcher(Protocol):
    """A way to watch what a store does to its files."""

    def watch(self, directory: Path, failing_syncs: Collection[int]) -> AbstractAsyncContextManager[Watched]:
        """Watch ``directory``, or one in its place."""
        ...

    def unsynced(self, directory: Path) -> AbstractContextManager[object]:
        """Do without true syncs there, if that can be: they take most of the time."""
        ...


class ApswWatcher:
    """Watches stores on apsw."""

    @asynccontextmanager
    async def watch(self, directory: Path, failing_syncs: Collection[int]) -> AsyncIterator[Watched]:
        """See :class:`Watcher`."""
        with record_files(directory, failing_syncs=frozenset(failing_syncs)) as journal:

            async def acknowledge(count: int) -> None:
                # At once: another task may use the store meanwhile.
                journal.acknowledge(count)
                await trio.lowlevel.checkpoint()

            yield Watched(directory, journal, acknowledge)

    def unsynced(self, directory: Path) -> AbstractContextManager[object]:
        """See :class:`Watcher`."""
        return record_files(directory)


@attrs.frozen
class FuseWatcher:
    """Watches any store, whose files are in a file system that forgets."""

    _mount: LossyMount

    @asynccontextmanager
    async def watch(self, directory: Path, failing_syncs: Collection[int]) -> AsyncIterator[Watched]:
        """See :class:`Watcher`."""
        del directory
        async with self._mount.directory(failing_syncs=failing_syncs) as lossy:
            yield Watched(lossy.path, lossy.journal, lossy.acknowledge)

    def unsynced(self, directory: Path) -> AbstractContextManager[object]:
        """See :class:`Watcher`."""
        del directory
        return nullcontext()


@contextmanager
def watcher_of(access: str) -> Iterator[Watcher]:
    """What watches the files of a store that accesses them in this way.

    Raises:
      CannotMount: a file system is needed, and cannot be mounted here.
    """
    if access == "apsw":
        yield ApswWatcher()
    else:
        with mounted() as mount:
            yield FuseWatcher(mount)


@asynccontextmanager
async def open_watcher(access: str) -> AsyncIterator[Watcher]:
    """The same for programs that run Trio; mounting takes a while."""
    if access == "apsw":
        yield ApswWatcher()
    else:
        async with open_mount() as mount:
            yield FuseWatcher(mount)
