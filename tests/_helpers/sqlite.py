"""What the tests of SqliteStore share: its threads, its connections, and other processes."""

import contextlib
import os
import subprocess
import sys
import threading

import apsw
import attrs
import pytest
import trio
import trio.testing

from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _schema


def workers():
    """The threads in which something of a store runs that does not come to its end by itself."""
    for _ in range(500):
        found = [thread for thread in threading.enumerate() if "trio_eventlog" in thread.name]
        if not found:
            break
        found[0].join(0.01)
    return found


class Gate:
    """Something that a worker thread gets stuck in until it is let go."""

    def __init__(self):
        self.reached = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._open = threading.Event()

    def __call__(self, *_args, **_kwargs):
        self._token.run_sync_soon(self.reached.set)
        assert self._open.wait(30)

    def open(self):
        self._open.set()


def connections_of(path):
    """Those to a file that are open in this process."""
    return [db for db in apsw.connections() if db.filename == str(path)]


def raw(path, *statements):
    """Run statements on a connection of its own, and return the rows of the last one."""
    db = apsw.Connection(str(path))
    try:
        for statement in statements:
            rows = db.execute(statement).fetchall()
        return rows
    finally:
        db.close()


def write_log(path, *, name="default", **changes):
    """Change the row of a log, and its checksum with it."""
    db = apsw.Connection(str(path))
    try:
        log = attrs.evolve(_schema.find_log(db, name), **changes)
        db.execute("REPLACE INTO logs VALUES (?, ?, ?, ?, ?, ?)", log.row())
    finally:
        db.close()


PRELUDE = """
import os, sys, trio
from trio_eventlog import *
from trio_eventlog.stores import SqliteStore

def agent(seq):
    return PersistedEvent(f"id-{seq}", seq, seq, "a", AgentEvent("a", "t", None))

def say(text):
    print(text, flush=True)

def wait_for_end_of_input():
    sys.stdin.read()

path = sys.argv[1]
"""


@contextlib.asynccontextmanager
async def process(path, program, *arguments):
    """A Python program beside us, killed at the end; it ends by itself when its input does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    async with trio.open_nursery() as nursery:
        other = await trio.lowlevel.open_process(
            [sys.executable, "-c", PRELUDE + program, str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        try:
            yield other
        finally:
            other.kill()
            with trio.move_on_after(10, shield=True):
                await other.stdin.aclose()
                await other.wait()
                await other.stdout.aclose()
            nursery.cancel_scope.cancel()


async def line(other):
    text = b""
    while not text.endswith(b"\n"):
        more = await other.stdout.receive_some()
        assert more, "the process ended"
        text += more
    return text.decode().strip()


async def lines(other):
    """All that it has to say, to its end."""
    text = b""
    async for more in other.stdout:
        text += more
    return text.decode().splitlines()


async def refused(kind, match, path, **options):
    with pytest.raises(kind, match=match) as caught:
        async with SqliteStore.open(path, **options):
            pytest.fail("opened")  # pragma: no cover
    return caught.value
