"""What can happen to a process: it is suspended, or killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

import trio

AnyProcess: TypeAlias = "trio.Process | subprocess.Popen[bytes] | subprocess.Popen[str] | int"

_STOP_SECONDS: Final = 5.0
_HIGHEST_ID: Final = 2**31 - 1


@asynccontextmanager
async def paused(process: AnyProcess) -> AsyncIterator[None]:
    """Suspend a process for the length of the block, as a machine that hangs, with SIGSTOP and SIGCONT.

    When the block begins, the process has stopped, if it is a child of this one. It goes on when the block
    ends, however that ends, unless it has ended meanwhile. Entering is a checkpoint.

    Args:
      process: which one: a :class:`trio.Process`, a :class:`subprocess.Popen`, or its id.

    Raises:
      TypeError: it is none of these.
      ValueError: no process has such an id.
      ProcessLookupError: it has ended.
      PermissionError: it belongs to somebody else.
      trio.TooSlowError: it did not stop within 5 seconds.
    """
    pid = _pid_of(process)
    os.kill(pid, signal.SIGSTOP)
    try:
        with trio.fail_after(_STOP_SECONDS):
            await trio.lowlevel.checkpoint()
            while not _has_stopped(pid):  # noqa: ASYNC110 - the system tells only by SIGCHLD, which is not ours
                await trio.sleep(0.001)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def kill(process: trio.Process | subprocess.Popen[bytes] | subprocess.Popen[str]) -> int:
    """Kill a process, also one that is suspended, with SIGKILL, and wait until it has ended.

    A checkpoint. It is killed even if this is called when cancelled; it is then not waited for.

    Args:
      process: which one: a :class:`trio.Process` or a :class:`subprocess.Popen`.

    Returns:
      The return code of the process, which is minus the number of the signal unless it had ended before.

    Raises:
      TypeError: it is neither.
    """
    if not isinstance(process, trio.Process | subprocess.Popen):
        raise TypeError(
            f"process: expected a trio.Process or a subprocess.Popen, got {type(process).__name__}"
        )
    process.kill()
    if isinstance(process, trio.Process):
        return await process.wait()
    return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


def _pid_of(process: object) -> int:
    if isinstance(process, trio.Process | subprocess.Popen):
        if process.poll() is not None:
            raise ProcessLookupError(f"process {process.pid} has ended")
        return process.pid
    if type(process) is not int:
        raise TypeError(
            f"process: expected a trio.Process, a subprocess.Popen or an id, got {type(process).__name__}"
        )
    if not 1 <= process <= _HIGHEST_ID:
        # Lower ones stand for groups of processes.
        raise ValueError(f"process: expected the id of a process, got {process}")
    return process


def _has_stopped(pid: int) -> bool:
    """Whether a child has stopped, or ended; True for what is no child of ours, which cannot be asked."""
    try:
        flags = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, pid, flags) is not None
    except ChildProcessError:
        return True
