"""Where a database is: its hosts and their addresses, and how a connection to it is set up."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Sequence
from typing import Final

import attrs
import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog.stores.postgres._connection import TrioConnection, translated_errors
from trio_eventlog.stores.postgres._names import Names

MIN_SERVER_VERSION: Final = 140_000
"""PostgreSQL 14: the first to end a statement whose client is gone, and to wait for a backend to end."""

_CONNECT_TIMEOUT: Final = 30.0
"""Seconds for an address to answer, without ``connect_timeout``."""

_CONNECT_TIMEOUT_OF_SEVERAL: Final = 5.0
"""The same if there are other addresses to try."""

# A host that has vanished is noticed within 15 seconds instead of hours. This is for the server's side, which
# then releases the locks of vanished clients.
_SERVER_SETTINGS: Final = {
    "search_path": "pg_catalog",
    "idle_session_timeout": "0",  # the lock of a log is held by a session that may be idle for days
    "row_security": "off",  # a policy that would hide rows is an error, rather than a log that looks empty
    # Every statement has a suitable index. PostgreSQL would read a whole table, in several processes, where
    # it assumes that a log is smaller, or an event more frequent, than it is.
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

# The same for this side, for options that the caller has not set.
_CLIENT_DEFAULTS: Final = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "fallback_application_name": "trio_eventlog",
}

_BACKEND_START: Final = b"""
select (extract(epoch from backend_start) * 1000000)::bigint from pg_stat_activity
where pid = pg_backend_pid()
"""

# When a connection is refused, libpq passes on the server's words without its code. In languages other than
# English they are not recognized, and taken as transient. Only for a first connection: see Target.
_PERMANENT_WORDS: Final = (
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


@attrs.frozen
class _Address:
    """One place to connect to."""

    host: str
    hostaddr: str
    port: str

    def options(self) -> dict[str, str]:
        return {name: value for name, value in attrs.asdict(self).items() if value}

    def __str__(self) -> str:
        return f"{self.host or self.hostaddr or 'the local socket'}:{self.port or '5432'}"


class Target:
    """A database, and how to connect to it. ValueError if ``conninfo`` cannot be read."""

    def __init__(self, conninfo: str, names: Names, *, writes: bool) -> None:
        self.names: Final = names
        self._options = _parsed(conninfo)
        if "service" in self._options:
            # Only libpq knows what it means, and would block while it looks up the host.
            raise ValueError(
                "conninfo: service: name it in the variable PGSERVICE, or write host, port and dbname instead"
            )
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
        self._options["client_encoding"] = "UTF8"
        self._last: _Address | None = None
        self._silent: list[_Address] = []
        """Addresses that did not answer, the latest last."""
        self._has_worked = False
        self.has_several: bool = False
        """Whether there was more than one address to choose from when they were last looked up."""
        name = effective.get("dbname") or effective.get("user") or ""
        places = ",".join(dict.fromkeys(str(address) for address in self._hosts))
        self.label: Final = f"PostgreSQL {places}/{name}"
        """The database, for messages; without user and password."""

    def __repr__(self) -> str:
        return f"<Target {self.label}>"

    async def connect(self, *, settings: dict[str, str] | None = None) -> TrioConnection:
        """Connect to the first address that accepts, with ``settings`` for the session.

        The address of the last connection comes first: a reader that moves between standbys could see the log
        go back. Addresses that did not answer come last: if the caller is cancelled while it waits for one,
        its next attempt begins with another.

        A checkpoint. Cancelled, there is no connection.

        Raises:
          StoreError: no address accepts now.
          StoreUnusable: none will. Never after a connection was made: what worked then can work again.
        """
        # libpq may fail at once, without anything to wait for.
        await trio.lowlevel.checkpoint()
        failures: list[StoreError] = []
        # As libpq does for this setting; only here are all addresses known.
        rounds = ("standby", "any") if self._session_attrs == "prefer-standby" else (self._session_attrs,)
        for session_attrs in rounds:
            for address in await self._addresses(failures):
                try:
                    connection = await self._connect_in_time(address, session_attrs, settings or {})
                except StoreError as exc:
                    failures.append(exc)
                else:
                    self._last = address
                    self._has_worked = True
                    return connection
        raise _joined(self.label, failures, is_transient=self._has_worked)

    async def _addresses(self, failures: list[StoreError]) -> list[_Address]:
        found: list[_Address] = []
        several = len(self._hosts) > 1
        for host in self._hosts:
            try:
                with trio.fail_after(self._patience(several=several)):
                    found += await _resolved(host)
            except OSError as exc:
                failures.append(StoreError(f"{self.label}: host {host.host!r} is not found: {exc.strerror}"))
            except trio.TooSlowError:
                failures.append(StoreError(f"{self.label}: looking up host {host.host!r} took too long"))
            except (UnicodeError, RuntimeError) as exc:
                # It can never be a name; or no thread can be started now.
                kind = StoreUnusable if isinstance(exc, UnicodeError) else StoreError
                failures.append(kind(f"{self.label}: host {host.host!r} is not found: {exc}"))
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
            # libpq applies the option only where it waits itself, which it does not here.
            return self._timeout
        return _CONNECT_TIMEOUT_OF_SEVERAL if several else _CONNECT_TIMEOUT

    async def _connect_in_time(
        self, address: _Address, session_attrs: str, settings: dict[str, str]
    ) -> TrioConnection:
        seconds = self._patience(several=self.has_several)
        if address in self._silent:
            self._silent.remove(address)
        try:
            with trio.fail_after(seconds):
                return await self._connect_to(address, session_attrs, settings)
        except trio.TooSlowError as exc:
            self._silent.append(address)
            raise StoreError(f"{self.label}: {address} did not answer within {seconds:.0f} s") from exc
        except trio.Cancelled:
            self._silent.append(address)
            raise

    async def _connect_to(
        self, address: _Address, session_attrs: str, settings: dict[str, str]
    ) -> TrioConnection:
        options = {**self._options, **address.options(), "target_session_attrs": session_attrs}
        options.pop("load_balance_hosts", None)
        try:
            connection = await TrioConnection.open(make_conninfo(**options), self.label, self.names)
        except psycopg.Error as exc:
            permanent = any(words in str(exc) for words in _PERMANENT_WORDS)
            raise (StoreUnusable if permanent else StoreError)(f"{self.label}: {exc}") from exc
        try:
            await self._set_up(connection, {**_SERVER_SETTINGS, **settings})
        except BaseException:
            connection.drop()
            raise
        return connection

    async def _set_up(self, connection: TrioConnection, settings: dict[str, str]) -> None:
        version = connection.info.server_version
        if version < MIN_SERVER_VERSION:
            raise StoreUnusable(
                f"{self.label}: PostgreSQL {version // 10_000} is too old, it must be"
                f" {MIN_SERVER_VERSION // 10_000} or newer"
            )
        # The server's own function, whatever the search path is until then.
        calls = ", ".join(
            f"pg_catalog.set_config(${index}, ${index + 1}, false)"
            for index in range(1, 2 * len(settings), 2)
        )
        parameters = [text for item in settings.items() for text in item]
        with translated_errors(self.label, opening=not self._has_worked):
            await connection.fetch(f"select {calls}".encode(), *parameters)
            # Any role can see its own row of that view.
            for (started,) in await connection.fetch(_BACKEND_START):
                connection.backend = (connection.backend[0], started)


def _parsed(conninfo: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except (psycopg.Error, UnicodeEncodeError):
        # libpq's message quotes what it could not read, which may be the password.
        unknown = _unknown_option(conninfo)
        raise ValueError(
            "conninfo: libpq cannot read it; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE,"
            " with %XX for characters that are special there, or HOST=… DBNAME=… in its own form"
            f"{'' if unknown is None else f'; it has no option {unknown!a}'}"
        ) from None


def _unknown_option(conninfo: str) -> str | None:
    """The option in a URL that libpq does not know, unless it may be part of a password."""
    text = conninfo.rpartition("@")[2].partition("?")[2]
    if "password" in text.lower():
        return None
    known = {item.keyword.decode() for item in pq.Conninfo.get_defaults()} | {"ssl"}
    names = (item.partition("=")[0] for item in text.split("&"))
    return next((name for name in names if name and name not in known), None)


def _defaults() -> dict[str, str]:
    """The values of options that are not given: from the environment, a service named there, or libpq."""
    return {item.keyword.decode(): item.val.decode() for item in pq.Conninfo.get_defaults() if item.val}


def _seconds(text: str) -> float | None:
    """``connect_timeout`` as in libpq: 0 and less mean no limit, and 1 means 2. None if it is not given."""
    if not text:
        return None
    try:
        seconds = int(text)
    except ValueError:
        raise ValueError(f"connect_timeout: expected a whole number of seconds, got {text!r}") from None
    return math.inf if seconds <= 0 else max(2, seconds)


def _listed(options: dict[str, str]) -> list[_Address]:
    """The addresses in lists of hosts and of ports."""
    hosts = options.get("host", "").split(",")
    addresses = options.get("hostaddr", "").split(",")
    ports = options.get("port", "").split(",")
    count = max(len(hosts), len(addresses))
    if not {len(hosts), len(addresses), len(ports)} <= {1, count}:
        raise ValueError(
            f"conninfo: {len(hosts)} hosts, {len(addresses)} addresses and {len(ports)} ports do not match"
        )
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
    # A path is the directory of a local server's socket; without a host it is the default one.
    if place.hostaddr or not place.host or place.host.startswith(("/", "@")):
        return [place]
    found = await trio.socket.getaddrinfo(place.host, place.port or "5432", type=socket.SOCK_STREAM)
    numbers = dict.fromkeys(str(item[4][0]) for item in found)
    return [_Address(place.host, number, place.port) for number in numbers]


def _joined(label: str, failures: Sequence[StoreError], *, is_transient: bool) -> StoreError:
    """One error for all attempts; it is transient if any of them is."""
    transient = [exc for exc in failures if not isinstance(exc, StoreUnusable)]
    chosen = (transient or failures)[-1]
    kind = StoreError if transient or is_transient else StoreUnusable
    if len(failures) == 1 and type(chosen) is kind:
        return chosen
    texts = dict.fromkeys(str(exc).removeprefix(f"{label}: ") for exc in failures)
    error = kind(f"{label}: {'; '.join(texts)}")
    error.__cause__ = chosen
    return error
