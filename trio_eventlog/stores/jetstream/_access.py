"""Which servers a store connects to and as which user; those it has learnt of. No I/O."""

from __future__ import annotations

import ipaddress
import os
import random
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

DEFAULT_PORT: Final = 4222

MAX_LEARNT: Final = 64
"""Most servers that are remembered because another one has advertised them."""


@attrs.frozen
class Server:
    """Where a server listens."""

    host: str
    port: int
    certified: str | None = attrs.field(default=None, eq=False)
    """The name that its certificate has to show, if not ``host``."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen(kw_only=True)
class Access:
    """How to reach a cluster."""

    servers: tuple[Server, ...]
    user: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    credentials: Path | None = attrs.field(default=None, repr=False)
    """A file with the seed of a key and, in most cases, a JWT."""

    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    """None: only if the server insists, and then by the rules of :func:`ssl.create_default_context`."""

    def __str__(self) -> str:
        return ", ".join(map(str, self.servers))


def access(
    servers: str | Sequence[str],
    *,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    credentials: str | os.PathLike[str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Access:
    """Check the arguments that say where to connect, and as whom.

    Raises:
      TypeError, ValueError: one is not as described; the message contains no secrets.
    """
    _check_types(servers, {"user": user, "password": password, "token": token}, credentials, tls)
    given = servers.split(",") if isinstance(servers, str) else list(servers)
    if not all(isinstance(item, str) for item in given):
        raise TypeError("servers: expected strings such as 'nats://host:4222'")
    found: list[Server] = []
    named: list[tuple[str | None, str | None]] = []
    wants_tls = False
    for number, item in enumerate(given, start=1):
        server, found_user, found_password, is_tls = _entry(item.strip(), number)
        found.append(server)
        wants_tls = wants_tls or is_tls
        if found_user is not None:
            named.append((found_user, found_password))
    if not found:
        raise ValueError("servers: expected at least one, such as 'nats://host:4222'")
    if len(set(named)) > 1:
        raise ValueError("servers: their users differ; a cluster has the same for all its servers")
    if named:
        if user is not None or password is not None or token is not None:
            raise ValueError("servers, user, password, token: give the user in one place only")
        user, password = named[0]
        if password is None:
            # nats://secret@host, as the clients of NATS have it.
            user, token = None, user
    if password is not None and user is None:
        raise ValueError("password: needs a user, too")
    if sum(given is not None for given in (user, token, credentials)) > 1:
        raise ValueError("user, token, credentials: expected one of them at most")
    if wants_tls and tls is None:
        tls = ssl.create_default_context()
    return Access(
        servers=tuple(dict.fromkeys(found)),
        user=user,
        password=password,
        token=token,
        credentials=None if credentials is None else Path(credentials),
        tls=tls,
    )


def _check_types(servers: object, strings: Mapping[str, object], credentials: object, tls: object) -> None:
    if not isinstance(servers, str | Iterable):
        raise TypeError(f"servers: expected strings such as 'nats://host:4222', got {type(servers).__name__}")
    for name, value in strings.items():
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name}: expected a string, got {type(value).__name__}")
    if credentials is not None and not isinstance(credentials, str | os.PathLike):
        raise TypeError(f"credentials: expected the path of a file, got {type(credentials).__name__}")
    if tls is not None and not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls: expected an ssl.SSLContext, got {type(tls).__name__}")


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``host[:port]``, as servers advertise each other.

    Raises:
      ValueError: it cannot be parsed.
    """
    return _host_and_port(urlsplit(f"nats://{address}"))


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    host, port = parts.hostname, parts.port
    if not host:
        raise ValueError("names no host")
    if port == 0:
        raise ValueError("no server has port 0")
    if not host.isprintable() or " " in host:
        raise ValueError("the host is malformed")
    # The system's resolver raises for empty and overlong labels what is not an OSError. Addresses have none.
    host.encode("idna")
    return host, port or DEFAULT_PORT


def _entry(text: str, number: int) -> tuple[Server, str | None, str | None, bool]:
    """``[nats://|tls://][user[:password]@]host[:port]``."""
    which = f"servers: number {number}"
    if "://" not in text:
        text = "nats://" + text
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises for what is not a port
    except ValueError:
        raise ValueError(f"{which}: the host or the port is malformed; write nats://host:4222") from None
    if parts.scheme not in ("nats", "tls"):
        raise ValueError(f"{which}: expected the scheme nats or tls, got {parts.scheme!r}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(
            f"{which}: expected nothing after the port; the stream is an argument, or use open_store(url)"
        )
    if not parts.hostname:
        raise ValueError(f"{which} names no host; write nats://host:4222")
    try:
        host, port = _host_and_port(parts)
    except UnicodeError:
        raise ValueError(f"{which}: the host is malformed; write nats://host:4222") from None
    except ValueError as exc:
        raise ValueError(f"{which}: {exc}; write nats://host:4222") from None
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Server(host, port), user, password, parts.scheme == "tls"


# --- which of them to try ---------------------------------------------------------------------------


@attrs.define(eq=False)
class Servers:
    """Which servers there are, and in which order to try them."""

    given: Sequence[Server]
    _known: list[Server] = attrs.field(init=False)
    """The given ones, then those learnt, the latest last."""
    _silent: set[Server] = attrs.field(factory=set, init=False)
    """Of those learnt, the ones that have not answered since the last connection was made."""
    _left: dict[Server, float] = attrs.field(factory=dict, init=False)
    """When the last connection to a server ended."""
    _malformed: set[str] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._known = list(self.given)

    def __len__(self) -> int:
        return len(self._known)

    def in_random_order(self) -> list[Server]:
        """All of them, those whose connections ended last at the end.

        In random order otherwise: not all clients of a server that went down must go to the same one.
        """
        shuffled = random.sample(self._known, len(self._known))
        return sorted(shuffled, key=lambda server: self._left.get(server, 0.0))

    def has_not_answered(self, server: Server) -> None:
        """An attempt to connect has failed."""
        if server not in self.given:
            self._silent.add(server)

    def has_answered(self, server: Server, advertised: object) -> list[str]:
        """A connection was made; see also :meth:`learn`.

        The servers that did not answer meanwhile are forgotten, unless the cluster still advertises them.
        """
        self._known = [known for known in self._known if known not in self._silent]
        self._silent.clear()
        return self.learn(server, advertised)

    def was_left(self, server: Server, time: float) -> None:
        """The connection to a server has ended."""
        self._left[server] = time

    def learn(self, teller: Server, advertised: object) -> list[str]:
        """Remember the servers that another one advertises.

        Returns:
          What cannot be parsed, and was not returned before.
        """
        malformed: list[str] = []
        if isinstance(advertised, str):
            advertised = (advertised,)
        for address in advertised if isinstance(advertised, Iterable) else ():
            try:
                server = self._parsed(teller, address)
            except (TypeError, ValueError):
                malformed.append(repr(address)[:100])
                continue
            if server not in self.given:
                if server in self._known:
                    self._known.remove(server)
                self._known.append(server)
        del self._known[len(self.given) : max(len(self.given), len(self._known) - MAX_LEARNT)]
        self._left = {server: time for server, time in self._left.items() if server in self._known}
        news = [address for address in malformed if address not in self._malformed]
        if len(self._malformed) < MAX_LEARNT:
            self._malformed.update(news)
            return news
        return []

    @staticmethod
    def _parsed(teller: Server, address: object) -> Server:
        if not isinstance(address, str):
            raise TypeError("expected a string")
        host, port = parse_address(address)
        # Servers advertise addresses, and certificates have names.
        name = teller.certified or teller.host
        return Server(host, port, name if _is_address(host) and not _is_address(name) else None)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
