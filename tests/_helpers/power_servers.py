"""Servers whose data is in a file system that forgets, and what is left of a log when they lose power."""

import os
import pwd
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from tests._helpers.nats_server import Node, free_ports
from tests._helpers.postgres_server import PostgresServer
from tests._helpers.power import Tally, event_of
from trio_eventlog import EventQuery, LogBusy, StoreError
from trio_eventlog.stores import JetStreamStore, PostgresStore
from trio_eventlog.testing import Crash, crash_state, open_lossy_directory

BATCHES = 12
"""Appends of three events each."""


@attrs.frozen
class Postgres:
    """PostgreSQL with these settings, the second of them of the server or of the connection."""

    fsync: str
    synchronous_commit: str
    is_in_url: bool = False

    def create(self, root):
        # Its other settings as they come: full pages are what makes a torn one whole again.
        return PostgresServer(
            root, {"fsync": self.fsync, "synchronous_commit": self.synchronous_commit, "max_wal_size": "64MB"}
        )

    def set_up(self, server):
        server.create()

    def open(self, server):
        options = f"?options=-csynchronous_commit%3D{self.synchronous_commit}" if self.is_in_url else ""
        return PostgresStore.open(server.url() + options, log="power")

    def make_ready(self, root):
        """Give the data to the user that the server runs as."""
        # Of a process that does not exist after power was lost.
        (root / "data" / "postmaster.pid").unlink(missing_ok=True)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)
            if os.getuid() == 0:
                user = pwd.getpwnam("nobody")
                os.chown(path, user.pw_uid, user.pw_gid)


@attrs.frozen
class Nats:
    """One NATS server with this ``sync_interval``."""

    sync_interval: str

    def create(self, root):
        # What is beside the data stays where it is.
        (port,) = free_ports(1)
        node = Node("n", root, port, jetstream=False)
        with (root / "server.conf").open("a") as config:
            config.write(
                f"jetstream {{ store_dir: {str(root / 'store')!r}\nsync_interval: {self.sync_interval} }}\n"
            )
        return node

    def set_up(self, server):
        pass

    def open(self, server):
        return JetStreamStore.open(server.url, stream="POWER", log="power", lock_timeout=2.0)

    def make_ready(self, root):
        # Of another port.
        (root / "server.conf").unlink(missing_ok=True)


@asynccontextmanager
async def running(kind, root, *, is_new):
    server = kind.create(root)
    if is_new:
        await trio.to_thread.run_sync(kind.set_up, server)
    with trio.fail_after(60):
        await trio.to_thread.run_sync(server.start)
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(30):
            await trio.to_thread.run_sync(server.kill)


CRASHES = [
    *(Crash(count) for count in range(BATCHES + 1)),
    *(Crash(count, -1, "nothing") for count in range(0, BATCHES, 4)),
    *(
        Crash(count, -2, kept, count)
        for count in range(1, BATCHES, 3)
        for kept in ("some", "torn at 512", "torn at 4096")
    ),
]


async def tally_server(kind):
    """Append to a server, kill it, and start it again on what power may have left of its data."""
    async with open_lossy_directory() as lossy:
        async with running(kind, lossy.path, is_new=True) as server:
            async with kind.open(server):
                pass
            # Power is lost in the midst of appends, and not while all of it is set up.
            await trio.sleep(0.5)
            await lossy.settle()
            async with kind.open(server) as store:
                for number in range(BATCHES):
                    await store.append_batch([event_of(seq) for seq in range(3 * number + 1, 3 * number + 4)])
                    await lossy.acknowledge(number + 1)
        journal = await lossy.read_journal()
    tally = Tally()
    for crash in CRASHES:
        state = crash_state(journal, crash)
        with tempfile.TemporaryDirectory(prefix="te_power_", ignore_cleanup_errors=True) as directory:
            root = Path(directory)
            await trio.to_thread.run_sync(state.write, root)
            await trio.to_thread.run_sync(kind.make_ready, root)
            found, problem = await what_is_left(kind, root)
        tally.states += 1
        whole = len(found) % 3 == 0 and found == list(range(1, len(found) + 1))
        if problem is not None or not whole:
            tally.wrong.append((crash, found, problem))
        missing = max(0, state.promised - len(found) // 3)
        tally.lacking += missing > 0
        tally.most = max(tally.most, missing)
    return tally


@asynccontextmanager
async def opened(kind, server):
    """The log, once the lock of the process that lost power has expired."""
    with trio.move_on_after(20):
        while True:
            try:
                async with kind.open(server):
                    break
            except LogBusy:
                await trio.sleep(0.2)
    async with kind.open(server) as store:
        yield store


async def what_is_left(kind, root):
    """The seqs that are stored, and why the server does not start or the log cannot be read, if so."""
    try:
        async with running(kind, root, is_new=False) as server, opened(kind, server) as store:
            found = [event.seq for event in await store.query(EventQuery())]
            await store.append_batch([event_of(seq) for seq in range(1, 3 * BATCHES + 1)])
            again = [event.seq for event in await store.query(EventQuery())]
            wrong = None if again == list(range(1, 3 * BATCHES + 1)) else f"appended again: {again}"
            return found, wrong
    except (StoreError, TimeoutError, trio.TooSlowError, AssertionError, ExceptionGroup) as exc:
        return [], repr(exc)[:300]
