"""Examples that need a second process: one that is killed, one that has the lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from trio_eventlog import LogBusy, PersistedEvent
from trio_eventlog.testing._code import batch_code
from trio_eventlog.testing._session import Cut, Session

_CHILD_SECONDS: Final = 60.0
"""A loaded machine takes long to start Python."""

_APPENDER: Final = """\
import os, signal, sys
from pathlib import Path

import trio

from trio_eventlog import AgentEvent, ModuleEvent, PersistedEvent
{opening}


async def main():
    async with open_store(Path(sys.argv[1])) as store:
        async with trio.open_nursery() as nursery:
{body}


trio.run(main)
"""

_OPENER: Final = """\
import sys
from pathlib import Path

import trio

from trio_eventlog import LogBusy
{opening}


async def main():
    async with open_store(Path(sys.argv[1])):
        print("opened", flush=True)
        sys.stdin.read()


try:
    trio.run(main)
except LogBusy:
    print("busy")
"""


def opener_source(session: Session) -> str:
    """A program that opens the store, says how that went, and keeps it open until its input ends."""
    assert session.subject.children is not None
    return _OPENER.format(opening=session.subject.children.opening)


def _appender_source(session: Session, batches: Sequence[Sequence[PersistedEvent]], cut: Cut | None) -> str:
    assert session.subject.children is not None
    lines: list[str] = []
    for number, batch in enumerate(batches, start=1):
        if cut is not None and number == len(batches):
            lines += [f"nursery.start_soon(store.append_batch, {batch_code(batch)})", cut.code()]
        else:
            lines += [
                f"await store.append_batch({batch_code(batch)})",
                f'print("appended", {number}, flush=True)',
            ]
    lines.append("os.kill(os.getpid(), signal.SIGKILL)")
    indented = (f"            {line}" for line in "\n".join(lines).splitlines())
    return _APPENDER.format(opening=session.subject.children.opening, body="\n".join(indented))


def _note(session: Session, source: str) -> None:
    # Within quotes a backslash is written twice.
    session.script.add("child = '''" + source.replace("\\", "\\\\") + "'''", verbatim=True)


async def run_child(session: Session, source: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with the location as its argument."""
    assert session.subject.children is not None
    session.alive("running a child process", expected_seconds=_CHILD_SECONDS)
    _note(session, source)
    session.script.add(
        "result = subprocess.run([sys.executable, '-c', child, str(location)],"
        " stdin=subprocess.DEVNULL, capture_output=True)"
    )
    result: subprocess.CompletedProcess[bytes] | None = None
    with trio.move_on_after(_CHILD_SECONDS):
        result = await trio.run_process(
            [sys.executable, "-c", source, os.fspath(session.location)],
            env=session.subject.children.environment(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    if result is None:
        session.violated(f"a child process did not end within {_CHILD_SECONDS:.0f} s")
    return result


def last_line(stderr: bytes) -> str:
    """What a traceback ends with."""
    return (stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]


async def run_killed(session: Session, batches: Sequence[Sequence[PersistedEvent]], cut: Cut | None) -> int:
    """Append in a process that then kills itself, and wait until its lock is gone.

    Args:
      session: the example.
      batches: what is appended, one after the other.
      cut: when to kill it during the last append; None for after that has returned.

    Returns:
      How many of the appends had returned.
    """
    result = await run_child(session, _appender_source(session, batches, cut))
    if result.returncode != -signal.SIGKILL:
        session.violated(f"the store failed in a child process: {last_line(result.stderr)}")
    await wait_for_lock(session)
    return result.stdout.count(b"appended")


async def wait_for_lock(session: Session) -> None:
    """Until the lock of a process that was killed is gone, as long as the store says it may take."""
    deadline = trio.current_time() + session.subject.lock_timeout
    if session.subject.lock_timeout:
        with session.script.block(f"with trio.move_on_after({session.subject.lock_timeout}):"):
            session.script.add(
                "while True:\n    try:\n        async with open_store(location):\n            break"
            )
            session.script.add("    except LogBusy:\n        await trio.sleep(0.05)")
    while trio.current_time() < deadline:
        session.alive("waiting for the lock", expected_seconds=1)
        try:
            async with session.subject.open_store(session.location):
                return
        except LogBusy:
            await trio.sleep(0.05)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is not due
            session.violated(f"opening the store after a kill raised {exc!r}; expected LogBusy at most", exc)


@asynccontextmanager
async def held_by_child(session: Session) -> AsyncIterator[None]:
    """While this lasts another process has the store open; then it is killed."""
    assert session.subject.children is not None
    source = opener_source(session)
    session.alive("running a child process", expected_seconds=_CHILD_SECONDS)
    script = session.script
    _note(session, source)
    script.add(
        "process = subprocess.Popen([sys.executable, '-c', child, str(location)],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)"
    )
    script.add("assert process.stdout.readline() == b'opened\\n'")
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", source, os.fspath(session.location)],
        env=session.subject.children.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        printed: bytes | bytearray = b""
        with trio.move_on_after(_CHILD_SECONDS):
            # It may come in pieces.
            while not printed.endswith(b"\n") and (piece := await process.stdout.receive_some()):
                printed += piece
        session.expect(
            printed == b"opened\n",
            f"another process could not open the log, which nobody had open: it printed {bytes(printed)!r}",
        )
        yield
    finally:
        process.kill()
        with trio.move_on_after(_CHILD_SECONDS, shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()
        script.add("process.kill()\nprocess.communicate()")
