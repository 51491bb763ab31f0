"""Connections to PostgreSQL for Trio: the only module that touches the driver.

psycopg's own asynchronous connections need asyncio. What they stand on does not: ``psycopg.pq``, its
documented wrapper of libpq, never blocks by itself if it is used as libpq's manual says for non-blocking
programs, and waiting for the socket is what Trio is good at. So a statement costs neither a thread nor a
lock, and a cancellation reaches it: the server is asked to stop, and the connection is good for the next
statement.

Two things of libpq's do block and are kept away from it: looking up host names, and (before version 17)
asking a server to stop.
"""

from __future__ import annotations

import logging
import math
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import attrs
import psycopg
import trio
from psycopg import pq

from trio_eventlog._model._errors import StoreError, StoreUnusable

_logger: Final = logging.getLogger("trio_eventlog")

OLDEST_SERVER: Final = 140_000
"""PostgreSQL 14: the first that ends a statement whose client has gone, and waits for a backend to end."""

_STOP_SECONDS: Final = 0.75
"""For a statement that was cancelled to end; below the second that a store has for it."""

_LIBPQ_CAN_CANCEL: Final = 170_000
"""The first libpq that asks a server to stop without blocking."""

_CONNECT_SECONDS: Final = 30.0
"""For an address to answer, if there is no ``connect_timeout``."""

_CONNECT_SECONDS_OF_SEVERAL: Final = 5.0
"""The same if there are others to try."""

# About the network: that a host has vanished shows within 15 seconds, and not only once the system gives up
# after hours. This is the server's side of it, so that the locks of vanished clients go away.
_SERVER_SETTINGS: Final = {
    "search_path": "pg_catalog",
    "client_encoding": "UTF8",
    "idle_session_timeout": "0",  # the lock of a log is held by a session that may be idle for days
    "row_security": "off",  # a policy that would hide rows is an error, and not a log that looks empty
    # Every statement has an index that suits it. Reading a whole table, and starting other processes for it,
    # is what PostgreSQL does if it takes a log for smaller, or an event for more frequent, than it is.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",  # compiling takes longer than any of these statements
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
    "client_connection_check_interval": "1s",
}

# The same on our side, for options that the caller has left open.
_CLIENT_DEFAULTS: Final = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "fallback_application_name": "trio_eventlog",
}


# --- errors ---------------------------------------------------------------------------------------

_PASSING: Final = (
    "08",
    "25P02",
    "25P03",
    "25P04",
    "26",
    "40",
    "42P05",
    "53",
    "54000",
    "55",
    "57",
    "58",
    "72",
    "XX000",
)
"""Beginnings of SQLSTATEs that the next attempt may not meet, whatever anybody does.

Connection, a transaction that ended early, a statement that another session has prepared, rollback,
resources, transaction numbers that are used up (54000), not in the right state (a lock), intervention of an
operator, the system under the server, a snapshot that is too old, and what PostgreSQL had no better code for.
"""

_REPAIRABLE: Final = (
    "09",
    "0B",
    "0L",
    "0P",
    "23",
    "25006",
    "28",
    "2B",
    "2F",
    "38",
    "39",
    "3D",
    "3F",
    "42501",
    "42704",
    "42883",
    "42P01",
    "42P10",
    "44",
    "57P04",
    "F0",
    "HV",
    "P0",
)
"""Beginnings of those that an operator can put right while a program runs, and does.

Writes are switched off; a password, role, permission or policy; a trigger or constraint that somebody added
and that fails; a database, schema, table, index or function that is not there, as while it is restored.
"""

_READ_ONLY: Final = "25006"

_NOT_PREPARED: Final = ("26000", "42P05")
"""Somebody between us and the server has taken a prepared statement away, or mixed up sessions."""

# When a connection is refused, libpq passes on the server's words and not its code. In another language than
# English these are not known, and taken for what may pass. Only for a first connection: see Target.
_STAYING_WORDS: Final = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "is not permitted to log in",
    "is not currently accepting connections",
    "permission denied",
    "pg_hba.conf rejects",
    "unrecognized configuration parameter",
    "certificate verify failed",
    "does not match host name",
    "does not support SSL, but SSL was required",
    "root certificate file",
    "invalid ",
)


class ServerError(Exception):
    """An error that the server has reported for a statement; made one of ours before it leaves the store.

    Attributes:
      sqlstate: its code, five characters.
      is_final: whether it has ended the session, too.
    """

    def __init__(self, sqlstate: str, message: str, *, is_final: bool = False) -> None:
        super().__init__(sqlstate, message)
        self.sqlstate = sqlstate
        self.is_final = is_final

    def __str__(self) -> str:
        return f"{self.args[1]} (SQLSTATE {self.sqlstate})"

    @classmethod
    def of(cls, result: pq.abc.PGresult) -> ServerError:
        """The error that is in a result."""
        field = pq.DiagnosticField
        texts: list[str] = []
        for code in (
            field.SQLSTATE,
            field.MESSAGE_PRIMARY,
            field.MESSAGE_HINT,
            field.SEVERITY_NONLOCALIZED,
        ):
            raw = result.error_field(code)
            texts.append("" if raw is None else raw.decode(errors="replace"))
        sqlstate, message, hint, severity = texts
        if not message:
            # Of libpq's own, as when a connection is lost.
            message = result.get_error_message() or "no message"
        return cls(
            sqlstate or "08006",
            f"{message}: {hint}" if hint else message,
            is_final=severity in ("FATAL", "PANIC"),
        )

    def passes(self, *, opening: bool = False) -> bool:
        """Whether a later attempt may not meet it.

        What an operator can put right while a program runs passes, but not on opening: nothing was accepted
        yet, and whoever opens a log should hear at once that the password is wrong.
        """
        if self.sqlstate.startswith(_REPAIRABLE):
            return not opening
        return self.sqlstate.startswith(_PASSING)

    def needs_another_session(self, *, has_several: bool) -> bool:
        """Whether it will pass, but not in the session that met it."""
        if self.sqlstate == _READ_ONLY:
            # Another server may be the one that takes writes now. If there is no other, the lock is kept.
            return has_several
        return self.sqlstate in _NOT_PREPARED

    def as_store_error(self, label: str, *, opening: bool = False) -> StoreError:
        """The same as an error of this library."""
        return (StoreError if self.passes(opening=opening) else StoreUnusable)(f"{label}: {self}")


@contextmanager
def errors_of(label: str, *, opening: bool = False) -> Iterator[None]:
    """Have what the server reports leave the block as an error of this library."""
    try:
        yield
    except ServerError as exc:
        raise exc.as_store_error(label, opening=opening) from exc


# --- where the server is --------------------------------------------------------------------------


@attrs.frozen
class _Address:
    """One place to try."""

    host: str
    hostaddr: str
    port: str

    def options(self) -> dict[str, str]:
        named = {"host": self.host, "hostaddr": self.hostaddr, "port": self.port}
        return {name: value for name, value in named.items() if value}

    def __str__(self) -> str:
        return f"{self.host or self.hostaddr or 'the local socket'}:{self.port or '5432'}"


def _quoted(options: dict[str, str]) -> bytes:
    parts: list[str] = []
    for name, value in options.items():
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        parts.append(f"{name}='{escaped}'")
    return " ".join(parts).encode()


def _parsed(conninfo: str) -> dict[str, str]:
    try:
        found = pq.Conninfo.parse(conninfo.encode())
    except (psycopg.Error, UnicodeEncodeError):
        # Its message quotes what it could not read, and that may be the password.
        unknown = _unknown_option(conninfo)
        msg = (
            "conninfo: libpq cannot read it; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE,"
            " with %XX for signs that mean something there, or HOST=… DBNAME=… in its own form"
            f"{'' if unknown is None else f'; it has no option {unknown!a}'}"
        )
        raise ValueError(msg) from None
    return {item.keyword.decode(): item.val.decode() for item in found if item.val is not None}


def _unknown_option(conninfo: str) -> str | None:
    """What libpq may have stumbled over in a URL, if it is no part of a password."""
    text = conninfo.rpartition("@")[2].partition("?")[2]
    if "password" in text.lower():
        return None
    known = {item.keyword.decode() for item in pq.Conninfo.get_defaults()} | {"ssl"}
    names = (item.partition("=")[0] for item in text.split("&"))
    return next((name for name in names if name and name not in known), None)


def _defaults() -> dict[str, str]:
    """What the environment, a service named there, and libpq itself say for options that are not given."""
    return {item.keyword.decode(): item.val.decode() for item in pq.Conninfo.get_defaults() if item.val}


def _seconds(text: str) -> float | None:
    """``connect_timeout`` as libpq means it: 0 and negative are for ever, and at least 2. None: not given."""
    if not text:
        return None
    try:
        seconds = int(text)
    except ValueError:
        msg = f"connect_timeout: expected a whole number of seconds, got {text!r}"
        raise ValueError(msg) from None
    return math.inf if seconds <= 0 else max(2, seconds)


class Target:
    """A database, and how to connect to it."""

    def __init__(self, conninfo: str, *, writes: bool) -> None:
        """Take options apart.

        Raises:
          ValueError: ``conninfo`` cannot be read.
        """
        self._options = _parsed(conninfo)
        if "service" in self._options:
            # Only libpq knows what is behind it, and would look up the host while the program stands still.
            msg = (
                "conninfo: service: name it in the variable PGSERVICE, or write host, port and dbname instead"
            )
            raise ValueError(msg)
        defaults = _defaults()
        effective = {**defaults, **self._options}
        self._timeout = _seconds(effective.get("connect_timeout", ""))
        self._session_attrs = self._options.get(
            "target_session_attrs", "read-write" if writes else defaults.get("target_session_attrs", "any")
        )
        self._shuffled = effective.get("load_balance_hosts") == "random"
        self._hosts = _listed(effective)
        for name, value in _CLIENT_DEFAULTS.items():
            if name not in effective:
                self._options[name] = value
        self._last: _Address | None = None
        self._silent: list[_Address] = []
        """Where nobody answered, the latest at the end."""
        self._has_worked = False
        self.has_several: bool = False
        """Whether there was more than one address to choose from when it was last looked up."""
        name = effective.get("dbname") or effective.get("user") or ""
        places = ",".join(dict.fromkeys(str(address) for address in self._hosts))
        self.label: Final = f"PostgreSQL {places}/{name}"
        """Which database, for messages; without user and password."""

    def __repr__(self) -> str:
        return f"<Target {self.label}>"

    async def connect(self, *, settings: dict[str, str] | None = None) -> Session:
        """Open a session, at the first of the addresses that takes it.

        Where the last one was, first: a reader that changes between standbys could see the log go back. Where
        nobody answered, last: whoever is cancelled while that is waited for gets on the next time.

        A checkpoint. Cancelled, there is no session.

        Raises:
          StoreError: none takes it now.
          StoreUnusable: none will. Not once a session was open: what was right then can become so again.
        """
        await trio.lowlevel.checkpoint()
        failures: list[StoreError] = []
        # As libpq does for this setting, which it can only do if it knows all addresses.
        rounds = ("standby", "any") if self._session_attrs == "prefer-standby" else (self._session_attrs,)
        for session_attrs in rounds:
            for address in await self._addresses(failures):
                try:
                    session = await self._connect_in_time(address, session_attrs, settings or {})
                except StoreError as exc:
                    failures.append(exc)
                else:
                    self._last = address
                    self._has_worked = True
                    return session
        raise _worst(self.label, failures, may_pass=self._has_worked)

    async def _addresses(self, failures: list[StoreError]) -> list[_Address]:
        await trio.lowlevel.checkpoint()
        found: list[_Address] = []
        several = len(self._hosts) > 1
        for host in self._hosts:
            try:
                with trio.fail_after(self._patience(several=several)):
                    found += await _resolved(host)
            except OSError as exc:
                failures.append(StoreError(f"{self.label}: host {host.host!r} is not found: {exc.strerror}"))
            except trio.TooSlowError:
                failures.append(StoreError(f"{self.label}: nobody says where host {host.host!r} is"))
        if self._shuffled:
            random.shuffle(found)
        if self._last in found:
            found.remove(self._last)
            found.insert(0, self._last)
        self._silent = [address for address in self._silent if address in found]
        self.has_several = len(found) > 1
        return [address for address in found if address not in self._silent] + self._silent

    def _patience(self, *, several: bool) -> float:
        """Seconds for an address to answer."""
        if self._timeout is not None:
            # The option of libpq's that its own waiting follows, and this one must.
            return self._timeout
        return _CONNECT_SECONDS_OF_SEVERAL if several else _CONNECT_SECONDS

    async def _connect_in_time(
        self, address: _Address, session_attrs: str, settings: dict[str, str]
    ) -> Session:
        seconds = self._patience(several=self.has_several)
        if address in self._silent:
            self._silent.remove(address)
        try:
            with trio.fail_after(seconds):
                return await self._connect_to(address, session_attrs, settings)
        except trio.TooSlowError as exc:
            self._silent.append(address)
            msg = f"{self.label}: {address} did not answer within {seconds:.0f} s"
            raise StoreError(msg) from exc
        except trio.Cancelled:
            self._silent.append(address)
            raise

    async def _connect_to(self, address: _Address, session_attrs: str, settings: dict[str, str]) -> Session:
        options = {**self._options, **address.options(), "target_session_attrs": session_attrs}
        options.pop("load_balance_hosts", None)
        try:
            pgconn = pq.PGconn.connect_start(_quoted(options))
        except psycopg.Error as exc:
            msg = f"{self.label}: {exc}"
            raise StoreError(msg) from exc
        session = Session(pgconn, self.label, opening=not self._has_worked)
        try:
            await session._finish_connecting()
            await session._set_up({**_SERVER_SETTINGS, **settings})
        except BaseException:
            session.drop()
            raise
        return session


def _listed(options: dict[str, str]) -> list[_Address]:
    """The places that lists of hosts and of ports mean."""
    hosts = options.get("host", "").split(",")
    addresses = options.get("hostaddr", "").split(",")
    ports = options.get("port", "").split(",")
    count = max(len(hosts), len(addresses))
    if len(hosts) not in (1, count) or (len(addresses) not in (1, count)) or len(ports) not in (1, count):
        msg = f"conninfo: {len(hosts)} hosts, {len(addresses)} addresses and {len(ports)} ports do not match"
        raise ValueError(msg)
    if not all(_is_port(port) for port in ports if port):
        # Not quoted: if a slash in a password was not escaped, this is a part of it.
        raise ValueError("conninfo: a port is a number of 1 to 65535; write %2F for a slash in a password")

    def of(items: list[str], index: int) -> str:
        return items[index] if len(items) == count else items[0]

    return [_Address(of(hosts, i), of(addresses, i), of(ports, i)) for i in range(count)]


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 65_536  # noqa: PLR2004 - as TCP has them


async def _resolved(place: _Address) -> list[_Address]:
    """The addresses behind a host name."""
    # A directory is where the socket of a server on this machine is; no host is its default place.
    if place.hostaddr or not place.host or place.host.startswith(("/", "@")):
        await trio.lowlevel.checkpoint()
        return [place]
    found = await trio.socket.getaddrinfo(place.host, place.port or "5432", type=socket.SOCK_STREAM)
    numbers = dict.fromkeys(str(item[4][0]) for item in found)
    return [_Address(place.host, number, place.port) for number in numbers]


def _worst(label: str, failures: Sequence[StoreError], *, may_pass: bool) -> StoreError:
    """One error for all attempts: it passes if any of them does."""
    passing = [exc for exc in failures if not isinstance(exc, StoreUnusable)]
    chosen = (passing or failures)[-1]
    kind = StoreError if passing or may_pass else StoreUnusable
    if len(failures) == 1 and type(chosen) is kind:
        return chosen
    texts = dict.fromkeys(str(exc).removeprefix(f"{label}: ") for exc in failures)
    error = kind(f"{label}: {'; '.join(texts)}")
    error.__cause__ = chosen
    return error


# --- a session ------------------------------------------------------------------------------------


class Session:
    """One connection to a server, for one task at a time; made by :meth:`Target.connect`.

    A statement that is cancelled is stopped at the server, and awaited: after that the session is as before.
    If it does not stop within 0.75 seconds, the session is dropped.
    """

    def __init__(self, pgconn: pq.abc.PGconn, label: str, *, opening: bool) -> None:
        self._pgconn = pgconn
        self._label = label
        self._opening = opening
        self._pid = os.getpid()
        self._dropped = False
        self._owes = False
        self._waited_in_vain = False
        self._prepared: dict[bytes, bytes] = {}
        self._names = 0
        self.backend: tuple[int, bytes] = (0, b"")
        """The server's process, and when it began, which tells it from a later one of that number."""

        self.server_version: int = 0
        """Such as 160014."""

    def __repr__(self) -> str:
        state = "dropped" if self._dropped else f"backend {self.backend[0]}"
        return f"<Session {self._label} {state}>"

    # --- its life ---------------------------------------------------------------------------------

    async def _finish_connecting(self) -> None:
        await trio.lowlevel.checkpoint()
        # libpq's manual has the program poll, and wait for what it then says.
        while True:
            status = self._pgconn.connect_poll()
            if status == pq.PollingStatus.OK:
                break
            if status == pq.PollingStatus.READING:
                await trio.lowlevel.wait_readable(self._pgconn.socket)
            elif status == pq.PollingStatus.WRITING:
                await trio.lowlevel.wait_writable(self._pgconn.socket)
            else:
                message = " ".join(self._pgconn.get_error_message().split())
                staying = any(words in message for words in _STAYING_WORDS)
                msg = f"{self._label}: {message}"
                raise (StoreUnusable if staying else StoreError)(msg)
        self._pgconn.nonblocking = 1
        self._pgconn.notice_handler = self._notice
        self.server_version = self._pgconn.server_version
        if self.server_version < OLDEST_SERVER:
            msg = (
                f"{self._label}: PostgreSQL {self.server_version // 10_000} is too old, it must be"
                f" {OLDEST_SERVER // 10_000} or newer"
            )
            raise StoreUnusable(msg)

    async def _set_up(self, settings: dict[str, str]) -> None:
        parameters: list[bytes] = []
        calls: list[str] = []
        for name, value in settings.items():
            calls.append(f"set_config(${len(parameters) + 1}, ${len(parameters) + 2}, false)")
            parameters += [name.encode(), value.encode()]
        # A settings function that is not the server's own would have to be in a schema of the search path.
        pgconn = self._pgconn
        with errors_of(self._label, opening=self._opening):
            await self.execute(f"select pg_catalog.{', pg_catalog.'.join(calls)}".encode(), parameters)
            result = await self.execute(
                b"select backend_start from pg_catalog.pg_stat_activity"
                b" where pid = pg_catalog.pg_backend_pid()"
            )
        # Nothing is there for roles that may not look at it, but their own.
        started = result.get_value(0, 0) if result.ntuples else None
        self.backend = (pgconn.backend_pid, started or b"")

    def _notice(self, result: pq.abc.PGresult) -> None:
        # The server told of a commit that was to wait for a standby and was made to stop. Its words depend on
        # the language, and its code is that of any warning.
        source = result.error_field(pq.DiagnosticField.SOURCE_FILE) or b""
        if source.endswith(b"syncrep.c"):
            self._waited_in_vain = True

    def is_usable(self) -> bool:
        """Whether the next statement may come through.

        Looks what the server has sent meanwhile, so that a session which it has ended is noticed before a
        statement is sent; takes microseconds and does not wait.
        """
        if self._dropped:
            return False
        try:
            self._pgconn.consume_input()
            # Reading the end of a connection takes a second look.
            self._pgconn.consume_input()
        except psycopg.Error:
            return False
        return self._pgconn.status == pq.ConnStatus.OK

    def is_idle(self) -> bool:
        """Whether no transaction is open."""
        # What was posted is a transaction by itself, and nobody waits for its end.
        idle = self._owes or self._pgconn.transaction_status == pq.TransactionStatus.IDLE
        return idle and not self._dropped

    def drop(self) -> None:
        """Close the connection, now. Whoever waits for it meanwhile gets an error."""
        if self._dropped:
            return
        self._dropped = True
        if os.getpid() != self._pid:
            # It is the parent's: a word to the server would end the parent's session.
            return
        descriptor = _descriptor(self._pgconn)
        if descriptor is not None:
            trio.lowlevel.notify_closing(descriptor)
        self._pgconn.notice_handler = None
        self._pgconn.finish()

    # --- statements -------------------------------------------------------------------------------

    async def execute(self, sql: bytes, parameters: Sequence[bytes | None] = ()) -> pq.abc.PGresult:
        """Run one statement; parameters and results are in PostgreSQL's binary format.

        Outside of a transaction it is one by itself, in one round trip.

        A checkpoint. Cancelled, the statement is stopped; if it was too late for that, it is done.

        Raises:
          ServerError: the server has reported an error.
          StoreError: the connection was lost; the session is dropped. What became of the statement is
            unknown. Or a commit stopped waiting for its standby: it is done here, and may not be there.
        """
        return await self._exchange(lambda: self._send(sql, parameters))

    async def execute_again(self, sql: bytes, parameters: Sequence[bytes | None]) -> pq.abc.PGresult:
        """As :meth:`execute`, for a statement that comes again and again: the server plans it once.

        The first time takes two round trips. Not for a pooler that hands sessions on after each transaction.
        """
        name = self._prepared.get(sql)
        if name is None:
            # A name is used once: one that was cancelled may be there, or not.
            self._names += 1
            name = b"trio_eventlog_%d" % self._names
            await self._prepare(name, sql)
        formats = [pq.Format.BINARY] * len(parameters)
        return await self._exchange(
            lambda: self._pgconn.send_query_prepared(name, parameters, formats, pq.Format.BINARY)
        )

    async def _prepare(self, name: bytes, sql: bytes) -> None:
        await self._exchange(lambda: self._pgconn.send_prepare(name, sql))
        self._prepared[sql] = name

    async def script(self, sql: bytes) -> None:
        """Run statements without parameters and results. As :meth:`execute`."""
        await self._exchange(lambda: self._pgconn.send_query(sql))

    def post(self, sql: bytes, parameters: Sequence[bytes | None]) -> None:
        """Send a statement and do not wait: whether it fails is of no interest.

        What comes next in this session comes after it.
        """
        try:
            self._send(sql, parameters)
            self._pgconn.flush()
        except psycopg.Error:
            self.drop()
        else:
            self._owes = True

    def _send(self, sql: bytes, parameters: Sequence[bytes | None]) -> None:
        self._pgconn.send_query_params(
            sql,
            parameters,
            param_formats=[pq.Format.BINARY] * len(parameters),
            result_format=pq.Format.BINARY,
        )

    async def _exchange(self, send: Callable[[], None]) -> pq.abc.PGresult:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._dropped:
            msg = f"{self._label}: the connection was closed"
            raise StoreError(msg)
        try:
            if self._owes:
                await self._results()
            self._waited_in_vain = False
            send()
            results = await self._results()
        except psycopg.Error as exc:
            self.drop()
            msg = f"{self._label}: the connection was lost: {_first_line(exc)}"
            raise StoreError(msg) from exc
        except trio.ClosedResourceError as exc:
            msg = f"{self._label}: the connection was closed"
            raise StoreError(msg) from exc
        except BaseException:
            # Cancelled, or a KeyboardInterrupt, which may have come anywhere.
            await self._stop()  # noqa: ASYNC102 - shielded, with a bound, inside
            raise
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = ServerError.of(result)
                if error.is_final or self._pgconn.status != pq.ConnStatus.OK:
                    self.drop()
                    msg = f"{self._label}: the connection was lost: {error}"
                    raise StoreError(msg) from error
                raise error
        if self._waited_in_vain:
            msg = (
                f"{self._label}: the server was made to stop waiting for its standby, by a timeout or by"
                " somebody: what it stored may be lost if the standby takes over"
            )
            raise StoreError(msg)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return results[-1]

    async def _results(self) -> list[pq.abc.PGresult]:
        """All that is to come for what was sent. A checkpoint only if it must wait."""
        await self._flush()
        results: list[pq.abc.PGresult] = []
        while True:  # noqa: ASYNC913 - libpq has more, or we wait for it
            while self._pgconn.is_busy():
                await trio.lowlevel.wait_readable(self._pgconn.socket)
                self._pgconn.consume_input()
            result = self._pgconn.get_result()
            if result is None:
                self._owes = False
                return results  # noqa: ASYNC910 - whoever calls this sees to it
            results.append(result)

    async def _flush(self) -> None:  # noqa: ASYNC910 - as above
        self._owes = True
        while self._pgconn.flush():
            # The server may have to say something first.
            await _wait_either(self._pgconn.socket)
            self._pgconn.consume_input()

    async def _stop(self) -> None:  # noqa: ASYNC910 - as above
        """Have the server stop, and read what it still sends; or else drop the session."""
        stopped = False
        try:
            with trio.move_on_after(_STOP_SECONDS, shield=True):
                # It can only stop what has arrived.
                await self._flush()
                await self._ask_to_stop()
                await self._results()
                stopped = True
        except (psycopg.Error, trio.ClosedResourceError) as exc:
            _logger.debug("%s: a statement could not be stopped: %s", self._label, exc)
        finally:
            if not stopped:
                self.drop()

    async def _ask_to_stop(self) -> None:  # noqa: ASYNC910 - as above
        if pq.version() < _LIBPQ_CAN_CANCEL:
            # A thread that outlives this only closes its own connection late.
            await trio.to_thread.run_sync(
                self._pgconn.get_cancel().cancel, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
            return
        request = self._pgconn.cancel_conn()
        try:
            request.start()
            while (status := request.poll()) != pq.PollingStatus.OK:
                if status == pq.PollingStatus.READING:
                    await trio.lowlevel.wait_readable(request.socket)
                elif status == pq.PollingStatus.WRITING:
                    await trio.lowlevel.wait_writable(request.socket)
                else:
                    # Then it goes on; whoever waits for its end has a bound.
                    return  # noqa: ASYNC910 - as above
        finally:
            # Nobody else waits for its socket, which libpq may have closed by now.
            request.finish()

    # --- notifications ----------------------------------------------------------------------------

    async def wait_notified(self) -> None:
        """Wait for a notification that has not been seen yet. A checkpoint; cancelled, none is missed.

        Raises:
          StoreError: the connection was lost; the session is dropped.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while not self._take_notifications():
                await trio.lowlevel.wait_readable(self._pgconn.socket)
                self._pgconn.consume_input()
        except (psycopg.Error, trio.ClosedResourceError) as exc:
            self.drop()
            msg = f"{self._label}: the connection was lost: {_first_line(exc)}"
            raise StoreError(msg) from exc
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _take_notifications(self) -> bool:
        found = False
        while self._pgconn.notifies() is not None:
            found = True
        return found


def _descriptor(pgconn: pq.abc.PGconn) -> int | None:
    try:
        descriptor = pgconn.socket
    except psycopg.Error:
        return None
    return descriptor if descriptor >= 0 else None


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__


async def _wait_either(descriptor: int) -> None:  # noqa: ASYNC910 - the nursery waits for either
    """Until something can be written or read."""

    async def wait(how: Callable[[int], Awaitable[None]]) -> None:
        await how(descriptor)
        nursery.cancel_scope.cancel(reason="one is enough")

    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, trio.lowlevel.wait_readable)
            nursery.start_soon(wait, trio.lowlevel.wait_writable)
    except BaseExceptionGroup as group:
        # That there is a nursery is nobody's business. A cancellation or a KeyboardInterrupt comes before a
        # connection that was closed.
        failure = min(group.exceptions, key=lambda exc: isinstance(exc, Exception))
    try:
        if failure is not None:
            raise failure
    finally:
        # An exception that stays in a local of its own traceback is a cycle.
        del failure
