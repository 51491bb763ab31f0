"""Examples that need a second process: one that is killed, or one that has the lock."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from trio_eventlog import LogBusy, PersistedEvent
from trio_eventlog.testing._example import CancelPoint, ClauseViolation, Example
from trio_eventlog.testing._program import code_of
from trio_eventlog.testing._subject import StoreOpener

CHILD_TIMEOUT: Final = 60.0
"""Seconds. A machine under load takes long to start Python. Helpers say it again: programs show them."""

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

from trio_eventlog import LogBusy, PersistedEvent
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

_READER: Final = """\
import select, sys
from pathlib import Path

import trio

from trio_eventlog import EventQuery
{opening}


async def main():
    async with open_reader(Path(sys.argv[1])) as reader:
        print("opened", flush=True)
        # Until the input ends.
        while not select.select([sys.stdin], [], [], 0)[0]:
            found = len(await reader.query(EventQuery()))
            if found not in {allowed}:
                print("saw", found, "events")
                return
        print("saw nothing else")


trio.run(main)
"""

# --- what programs do as well ---------------------------------------------------------------------


async def run_child(
    source: str, location: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with the location as its argument."""
    with trio.fail_after(60):
        return await trio.run_process(
            [sys.executable, "-c", source, str(location)],
            env=env,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


@asynccontextmanager
async def opened_by_child(
    source: str, location: Path, env: dict[str, str] | None = None
) -> AsyncIterator[trio.Process]:
    """While this lasts another process has the store open; then it is killed."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", source, str(location)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        printed: bytes | bytearray = b""
        with trio.fail_after(60):
            # It may come in pieces.
            while not printed.endswith(b"\n") and (piece := await process.stdout.receive_some()):
                printed += piece
        assert printed == b"opened\n", (
            f"another process could not open the log: it printed {bytes(printed)!r}"
        )
        yield process
    finally:
        process.kill()
        with trio.move_on_after(60, shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


@asynccontextmanager
async def watched_by_child(
    source: str, location: Path, env: dict[str, str] | None = None
) -> AsyncIterator[None]:
    """While this lasts another process reads all events again and again; then it says what it saw."""
    async with opened_by_child(source, location, env) as process:
        yield
        assert process.stdin is not None
        assert process.stdout is not None
        printed = b""
        with trio.fail_after(60):
            await process.stdin.aclose()
            async for piece in process.stdout:
                printed += piece
        assert printed == b"saw nothing else\n", (
            f"a reader in another process saw part of a batch: {printed.decode(errors='replace').strip()}"
        )


async def wait_for_lock(open_store: StoreOpener, location: Path, seconds: float) -> None:
    """Wait until the lock of a process that was killed is gone."""
    deadline = trio.current_time() + seconds
    while trio.current_time() < deadline:
        try:
            async with open_store(location):
                return
        except LogBusy:
            await trio.sleep(0.05)


# --- steps of an example --------------------------------------------------------------------------


def opener_source(example: Example) -> str:
    """A program that opens the store, says how that went, and keeps it open until its input ends."""
    assert example.subject.children is not None
    return _OPENER.format(opening=example.subject.children.opening)


def _appender_source(
    example: Example, batches: Sequence[Sequence[PersistedEvent]], point: CancelPoint | None
) -> str:
    assert example.subject.children is not None
    lines: list[str] = []
    for number, batch in enumerate(batches, start=1):
        if point is not None and number == len(batches):
            lines += [f"nursery.start_soon(store.append_batch, {code_of(list(batch))})", point.code()]
        else:
            lines += [
                f"await store.append_batch({code_of(list(batch))})",
                f'print("appended", {number}, flush=True)',
            ]
    lines.append("os.kill(os.getpid(), signal.SIGKILL)")
    indented = (f"            {line}" for line in "\n".join(lines).splitlines())
    return _APPENDER.format(opening=example.subject.children.opening, body="\n".join(indented))


async def run_to_its_end(example: Example, source: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end. The program of the example has the result in ``result``."""
    assert example.subject.children is not None
    program = example.program
    program.define_text("CHILD", source)
    program.define(run_child)
    program.add("result = await run_child(CHILD, location)")
    example.alive("running a child process", expected_seconds=CHILD_TIMEOUT)
    try:
        result = await run_child(source, example.location, example.subject.children.environment())
    except trio.TooSlowError as exc:
        example.violated(f"a child process did not end within {CHILD_TIMEOUT:.0f} s", exc)
    program.variables["result"] = result
    return result


def last_line(stderr: bytes) -> str:
    """What a traceback ends with."""
    return (stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]


async def run_killed(
    example: Example, batches: Sequence[Sequence[PersistedEvent]], point: CancelPoint | None
) -> int:
    """Append in a process that then kills itself, and wait until its lock is gone.

    It is killed during the last append, or with ``point=None`` after that. Returns how many had returned.
    """
    result = await run_to_its_end(example, _appender_source(example, batches, point))
    example.check(
        "result.returncode == $0",
        lambda: f"the store failed in a child process: {last_line(result.stderr)}",
        -int(signal.SIGKILL),
    )
    await wait_until_free(example)
    return result.stdout.count(b"appended")


async def wait_until_free(example: Example) -> None:
    """Wait until the lock of a process that was killed is gone, as long as the store says it may take."""
    seconds = example.subject.lock_timeout
    if seconds:
        what = "opening the store after a kill"
        await example.run(
            what, wait_for_lock, "open_store", "location", values=[seconds], expected_seconds=seconds
        )


@asynccontextmanager
async def held_elsewhere(example: Example) -> AsyncIterator[None]:
    """While this lasts another process has the store open; then it is killed."""
    async with child_meanwhile(example, opener_source(example), opened_by_child):
        yield


@asynccontextmanager
async def watched_elsewhere(example: Example, allowed: set[int]) -> AsyncIterator[None]:
    """While this lasts a reader in another process looks for numbers of events that are not ``allowed``."""
    children = example.subject.children
    assert children is not None
    assert children.reading is not None
    source = _READER.format(opening=children.reading, allowed=sorted(allowed))
    example.program.define(opened_by_child)
    async with child_meanwhile(example, source, watched_by_child):
        yield


@asynccontextmanager
async def child_meanwhile(
    example: Example,
    source: str,
    child: Callable[[str, Path, dict[str, str]], AbstractAsyncContextManager[object]],
) -> AsyncIterator[None]:
    """While this lasts a child process runs ``source``, started and ended by ``child``."""
    assert example.subject.children is not None
    example.program.define_text("CHILD", source)
    example.program.define(child)
    example.alive("running a child process", expected_seconds=CHILD_TIMEOUT)
    with example.program.block(f"async with {child.__name__}(CHILD, location):"):
        try:
            async with child(source, example.location, example.subject.children.environment()):
                yield
        except ClauseViolation:
            raise
        except AssertionError as exc:
            example.violated(str(exc), exc)
        except trio.TooSlowError as exc:
            example.violated(f"a child process did not start or end within {CHILD_TIMEOUT:.0f} s", exc)
