"""Running the command line: in this process, on a terminal, or as a process that a test controls."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from unittest import mock

import apsw
import attrs
import pytest
import trio

from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventQuery,
    EventRejected,
    PersistedEvent,
    StoreError,
    open_event_log,
    to_json,
)
from trio_eventlog.cli import main
from trio_eventlog.stores import MemoryStore, SqliteStore

PROGRAM = [sys.executable, "-m", "trio_eventlog"]

SECONDS = 60
"""How long a test waits for something that takes a moment."""

STYLE = re.compile("\x1b\\[[0-9;]*m")


# --- events ---------------------------------------------------------------------------------------


def envelope(number: int, **payload: object) -> EventEnvelope:
    event = AgentEvent(
        f"agent-{number % 7}", f"type-{number % 3}", {"run_id": f"run-{number % 10}", **payload}
    )
    return EventEnvelope.of(event, event_id=f"event-{number}", timestamp_ms=1_700_000_000_000 + number)


def lines(*envelopes: EventEnvelope) -> bytes:
    return b"".join(to_json(envelope) + b"\n" for envelope in envelopes)


def many(count: int, start: int = 1) -> bytes:
    return lines(*map(envelope, range(start, start + count)))


def add(path: Path, first: int, last: int, log: str = "default") -> None:
    """Ingest events into a log."""

    async def write() -> None:
        async with (
            SqliteStore.open(path, log=log, synchronous="off") as store,
            open_event_log(store) as opened,
        ):
            for number in range(first, last + 1):
                opened.ingest(envelope(number))

    trio.run(write)


def stored(path: Path, log: str = "default") -> list[PersistedEvent]:
    async def read() -> list[PersistedEvent]:
        async with SqliteStore.open(path, log=log, read_only=True) as store:
            return await store.query(EventQuery())

    return trio.run(read)


def stored_numbers(path: Path) -> Counter[int]:
    return Counter(int(event.id.removeprefix("event-")) for event in stored(path))


@contextlib.contextmanager
def held_open(path: Path) -> Iterator[None]:
    """Hold a log open for appending, in another thread."""
    opened, leave = threading.Event(), trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def hold() -> None:
        async with SqliteStore.open(path):
            token.append(trio.lowlevel.current_trio_token())
            opened.set()
            await leave.wait()

    holder = threading.Thread(target=trio.run, args=(hold,))
    holder.start()
    assert opened.wait(SECONDS)
    try:
        yield
    finally:
        token[0].run_sync_soon(leave.set)
        holder.join(SECONDS)


def raw(path: Path, statement: str) -> None:
    """Change a database behind its store's back."""
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


# --- in this process ------------------------------------------------------------------------------


@attrs.frozen
class Done:
    status: int | str | None
    out: str
    err: str

    @property
    def summary(self) -> str:
        return self.out.partition(" (")[0]


def run_main(*arguments: object) -> int | str | None:
    """Run the command line in this process; its exit status."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


@contextlib.contextmanager
def standard_input(data: bytes) -> Iterator[None]:
    """A pipe with ``data`` as standard input, below Python's own stream."""
    reading, writing = os.pipe()
    saved = os.dup(0)
    os.dup2(reading, 0)
    os.close(reading)

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        feeder.join(SECONDS)


def on_terminal(*arguments: object, cwd: Path | None = None, columns: int = 120) -> Done:
    """Run the command line on a terminal of its own, in this process; ``out`` is everything it prints."""
    environment = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}
    with mock.patch.dict(os.environ, environment), contextlib.chdir(cwd or "."):
        os.environ.pop("NO_COLOR", None)
        with terminal() as printed:
            status = run_main(*arguments)
    return Done(status, b"".join(printed).decode().replace("\r\n", "\n"), "")


@contextlib.contextmanager
def standard_output(file: Path, *, buffering: int) -> Iterator[None]:
    """A file as standard output of this process. What is still buffered at the end is written to it."""
    saved = os.dup(1)
    descriptor = os.open(file, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)
    try:
        with open(1, "w", buffering, closefd=False) as stdout, mock.patch.object(sys, "stdout", stdout):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def terminal() -> Iterator[list[bytes]]:
    """A terminal as the standard streams of this process; what was printed to it, once the block is left."""
    leader, follower = pty.openpty()
    printed: list[bytes] = []

    def read() -> None:
        # Linux reports the end of a terminal as an error.
        with contextlib.suppress(OSError):
            while part := os.read(leader, 65_536):
                printed.append(part)
        os.close(leader)

    saved = [os.dup(number) for number in range(3)]
    for number in range(3):
        os.dup2(follower, number)
    os.close(follower)
    reader = threading.Thread(target=read)
    reader.start()
    with (
        open(0, closefd=False) as stdin,
        open(1, "w", closefd=False) as stdout,
        open(2, "w", closefd=False) as stderr,
        mock.patch.multiple(sys, stdin=stdin, stdout=stdout, stderr=stderr),
    ):
        try:
            yield printed
        finally:
            with contextlib.suppress(OSError):
                stdout.flush()
                stderr.flush()
            for number, copy in enumerate(saved):
                os.dup2(copy, number)
                os.close(copy)
            reader.join(SECONDS)


# --- as a process ---------------------------------------------------------------------------------


def process(*arguments: object, data: bytes | None = None, **options: Any) -> Done:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        timeout=SECONDS,
        check=False,
        **options,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


@contextlib.contextmanager
def feeding(*arguments: object, prelude: str = "pass") -> Iterator[subprocess.Popen[bytes]]:
    """The command line as a process whose standard input is in the test's hands.

    Args:
      arguments: its arguments.
      prelude: Python code that it runs first.
    """
    code = f"{textwrap.dedent(prelude)}\nfrom trio_eventlog.cli import main\nmain()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def finish(child: subprocess.Popen[bytes]) -> Done:
    out, err = child.communicate(timeout=SECONDS)
    return Done(child.returncode, out.decode(), err.decode())


def read_lines(child: subprocess.Popen[bytes], count: int) -> list[dict[str, Any]]:
    """The next JSON lines that a process prints."""
    assert child.stdout is not None
    return [json.loads(child.stdout.readline()) for _ in range(count)]


def wait_for_line(stream: IO[bytes] | None, expected: str) -> None:
    """Read lines until one contains ``expected``."""
    assert stream is not None
    for line in stream:
        if expected in line.decode():
            return
    pytest.fail(f"{expected!r} never came")


def wait_for_events(path: Path, count: int) -> None:
    """Wait until a log that a process is writing holds at least ``count`` events."""

    async def wait() -> None:
        with trio.fail_after(SECONDS):
            while True:
                # The process may not have made the file yet, or be making it.
                with contextlib.suppress(StoreError):
                    async with SqliteStore.open(path, read_only=True) as store:
                        while await store.last_seq() < count:  # noqa: ASYNC110 - another process
                            await trio.sleep(0.01)
                        return
                await trio.sleep(0.01)

    trio.run(wait)


def interrupt_at(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int, number: int = signal.SIGINT
) -> None:
    """Send a signal to this process when a function is called for the ``call``-th time; once."""
    function: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(number)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)


# --- stores ---------------------------------------------------------------------------------------


class FailingStore(MemoryStore):
    """Raises ``errors`` first, one an append; and rejects events whose id is in ``never``."""

    def __init__(self, *errors: Exception, never: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.errors = list(errors)
        self.never = never

    async def append_batch(self, events):
        if self.errors:
            await trio.lowlevel.checkpoint()
            raise self.errors.pop(0)
        if rejected := [event for event in events if event.id in self.never]:
            await trio.lowlevel.checkpoint()
            raise EventRejected(rejected, "no")
        return await super().append_batch(events)


DOWN = """
    import contextlib
    from trio_eventlog import StoreError
    from trio_eventlog.cli import _options
    from trio_eventlog.stores import MemoryStore

    class Failing(MemoryStore):
        async def append_batch(self, events):
            raise StoreError("down")

    @contextlib.asynccontextmanager
    async def open_it(url, *, read_only=False):
        yield Failing()

    _options.open_store = open_it
"""
"""A prelude of :func:`feeding` with a store that never takes anything."""
