"""Directories in a file system that forgets what was not synced; see ``_fuse_server``."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import trio

from trio_eventlog.testing._arguments import check_integer, check_integers
from trio_eventlog.testing._power import _journal
from trio_eventlog.testing._power._journal import FileJournal

_SERVER: Final = Path(__file__).with_name("_fuse_server.py")

_STOP_SECONDS: Final = 10.0
_CLEAN_UP_SECONDS: Final = 20.0


class CannotMount(RuntimeError):
    """A file system cannot be mounted here; the message says why."""


class LossyMount:
    """A file system that forgets; made by :func:`mounted`. Its methods block for a moment."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self._path: Final = path
        self._process: Final = process
        self._lock: Final = threading.Lock()
        self._numbers: Final = count(1)

    def command(self, name: str, *arguments: object) -> None:
        """Have the server do something.

        Raises:
          RuntimeError: it has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
                self._process.stdin.flush()
            if self._process.stdout.readline() != b'"done"\n':
                raise RuntimeError("the file system that forgets has ended")

    @asynccontextmanager
    async def directory(
        self, *, failing_syncs: Collection[int] = (), capacity: int | None = None
    ) -> AsyncIterator[LossyDirectory]:
        """Make a new directory, and remove it in the end."""
        name = f"{next(self._numbers)}"
        await trio.to_thread.run_sync(self.command, "begin", name, sorted(failing_syncs), capacity)
        lossy = LossyDirectory(self, name, self._path / name)
        has_failed = True
        try:
            yield lossy
            has_failed = False
        finally:
            with trio.move_on_after(_CLEAN_UP_SECONDS, shield=True):
                try:
                    await lossy.read_journal()
                    await trio.to_thread.run_sync(self.command, "end", name)
                except RuntimeError:
                    # The server has ended. What the block raised says more.
                    if not has_failed:
                        raise


class LossyDirectory:
    """A directory in a file system that forgets what was not synced; made by :func:`open_lossy_directory`.

    Attributes:
      path: where it is.
      journal: what happened in it. Filled by :meth:`read_journal`, and when the directory is left.
    """

    def __init__(self, mount: LossyMount, name: str, path: Path) -> None:
        self.path: Final = path
        self.journal: Final = FileJournal()
        self._mount = mount
        self._name = name

    def __repr__(self) -> str:
        return f"<LossyDirectory {str(self.path)!r}>"

    async def acknowledge(self, count: int) -> None:
        """Note that from here on ``count`` batches are promised. A checkpoint; cannot be cancelled.

        Raises:
          TypeError, ValueError: it is not an integer of 0 or more.
        """
        check_integer("count", count, 0)
        await trio.to_thread.run_sync(self._mount.command, "acknowledge", self._name, count)

    async def settle(self) -> None:
        """Take all that is there for synced, and begin the journal anew.

        A checkpoint; cannot be cancelled.
        """
        await trio.to_thread.run_sync(self._mount.command, "settle", self._name)

    async def read_journal(self) -> FileJournal:
        """Read what has happened so far. A checkpoint; cannot be cancelled."""
        self.journal.settled, self.journal.operations[:] = await trio.to_thread.run_sync(self._read)
        return self.journal

    def _read(self) -> tuple[int, list[_journal.Operation]]:
        descriptor, path = tempfile.mkstemp()
        os.close(descriptor)
        try:
            self._mount.command("write_journal", self._name, path)
            settled, noted = pickle.loads(Path(path).read_bytes())  # noqa: S301 - of our own process
        finally:
            Path(path).unlink()
        return settled, [_operation(*entry) for entry in noted]


def _operation(kind: str, *fields: Any) -> _journal.Operation:
    made: _journal.Operation = getattr(_journal, kind)(*fields)
    return made


@contextmanager
def mounted() -> Iterator[LossyMount]:
    """Mount a file system that forgets, for the length of a ``with`` block. Blocks for half a second.

    Raises:
      CannotMount: that is not possible here.
    """
    if importlib.util.find_spec("pyfuse3") is None:
        raise CannotMount("pyfuse3 is not installed, which the extra testing-fuse brings")
    if not Path("/dev/fuse").exists():
        raise CannotMount("there is no /dev/fuse")
    with tempfile.TemporaryDirectory(prefix="trio_eventlog_", ignore_cleanup_errors=True) as directory:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, str(_SERVER), directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C on a terminal would end it before those who use it. It ends with its standard input.
            start_new_session=True,
        )
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() != b'"mounted"\n':
                said = process.stderr.read().decode(errors="replace").strip().splitlines()
                raise CannotMount(f"mounting a file system failed: {said[-1] if said else 'no reason given'}")
            try:
                yield LossyMount(Path(directory), process)
            finally:
                _stop(process, directory)


def _stop(process: subprocess.Popen[bytes], directory: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode:
        # It has not unmounted itself.
        with suppress(OSError):
            subprocess.run(  # noqa: S603 - the program that libfuse runs, too
                ["fusermount3", "-u", "-z", directory],  # noqa: S607 - wherever it is
                stderr=subprocess.DEVNULL,
                check=False,
            )


@asynccontextmanager
async def open_lossy_directory(
    *, failing_syncs: Collection[int] = (), capacity: int | None = None
) -> AsyncIterator[LossyDirectory]:
    """Open a new directory in a file system that forgets, for the length of an ``async with`` block.

    What is written to it is kept in memory, and what happens is written down. From the journal
    :func:`crash_state` makes what a disk may hold after power was lost at any moment. It works for any
    program: what belongs to the file system is served by a process of its own.

    It needs Linux, the extra ``testing-fuse``, ``/dev/fuse``, and the right to mount.

    Entering and leaving are checkpoints; they cannot be cancelled, and take about half a second.

    Args:
      failing_syncs: which syncs fail, by their number from 1 on; after each of them, what was written to
        that file before can no longer be made safe, as on Linux.
      capacity: how many bytes fit in; then the disk is full. None for no bound.

    Raises:
      TypeError, ValueError: these are not integers, or one is out of range.
      RuntimeError: no such file system can be mounted here; the message says why.
    """
    check_integers("failing_syncs", failing_syncs, 1)
    check_integer("capacity", capacity, 0, optional=True)
    async with (
        open_mount() as mount,
        mount.directory(failing_syncs=failing_syncs, capacity=capacity) as lossy,
    ):
        yield lossy


@asynccontextmanager
async def open_mount() -> AsyncIterator[LossyMount]:
    """What :func:`mounted` does, in threads. Entering and leaving cannot be cancelled."""
    mount = mounted()
    entered = await trio.to_thread.run_sync(mount.__enter__)
    try:
        yield entered
    finally:
        with trio.move_on_after(_CLEAN_UP_SECONDS, shield=True):
            await trio.to_thread.run_sync(mount.__exit__, None, None, None)
