"""Where the servers of NATS are, and as whom a store speaks to them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

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
    """A file with a JWT and the seed of its key."""

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
    """Check the arguments that say where and as whom.

    Raises:
      TypeError, ValueError: one is not as described; what may be secret stays out of the message.
    """
    given = servers.split(",") if isinstance(servers, str) else list(servers)
    if not all(isinstance(item, str) for item in given):
        raise TypeError("servers: expected texts such as 'nats://host:4222'")
    places: list[Server] = []
    named: list[tuple[str | None, str | None]] = []
    wants_tls = False
    for number, item in enumerate(given, start=1):
        place, found_user, found_password, is_tls = _entry(item.strip(), number)
        places.append(place)
        wants_tls = wants_tls or is_tls
        if found_user is not None:
            named.append((found_user, found_password))
    if not places:
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
        servers=tuple(dict.fromkeys(places)),
        user=user,
        password=password,
        token=token,
        credentials=None if credentials is None else Path(credentials),
        tls=tls,
    )


def _entry(text: str, number: int) -> tuple[Server, str | None, str | None, bool]:
    """``[nats://|tls://][user[:password]@]host[:port]``."""
    which = f"servers: number {number}"
    if "://" not in text:
        text = "nats://" + text
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        msg = f"{which}: the host or the port is malformed; write nats://host:4222"
        raise ValueError(msg) from None
    if port == 0:
        msg = f"{which}: no server has port 0; write nats://host:4222"
        raise ValueError(msg)
    if parts.scheme not in ("nats", "tls"):
        msg = f"{which}: expected the scheme nats or tls, got {parts.scheme!r}"
        raise ValueError(msg)
    if not parts.hostname:
        msg = f"{which} names no host; write nats://host:4222"
        raise ValueError(msg)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        msg = f"{which}: expected nothing behind the port; the stream is an argument, or use open_store(url)"
        raise ValueError(msg)
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Server(parts.hostname, port or DEFAULT_PORT), user, password, parts.scheme == "tls"
