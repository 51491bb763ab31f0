"""Which servers a store connects to, and as which user."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

DEFAULT_PORT: Final = 4222


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
