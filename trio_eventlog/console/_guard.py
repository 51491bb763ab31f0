"""Who may ask: hosts, sites, tokens and sessions, and the headers that every answer has. Pure."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from trio_eventlog.console._errors import ApiError

HEADERS: Final = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            b" connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none';"
            b" frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"interest-cohort=()"),
)
"""Headers of every answer."""

MAX_SESSIONS: Final = 256
_SESSION_BYTES: Final = 32
MIN_TOKEN: Final = 16
"""Characters of a token at least."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")


def check_host(header: str | None, allowed: Collection[str]) -> None:
    """Refuse a ``Host`` that a page of another site could have made a browser send, by DNS rebinding.

    An address cannot be rebound, and neither can ``localhost``; other names must be among ``allowed``.

    Raises:
      ApiError: the header is missing, malformed, or names another host.
    """
    found = None if header is None else _HOST.fullmatch(header)
    if found is None:
        raise ApiError(400, "invalid_host", "the Host header is missing or malformed")
    name = found[1].lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost") or name in allowed or _is_address(name):
        return
    raise ApiError(403, "host_refused", "this host is not one that the console serves; see allowed_hosts")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def check_site(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another site has a browser send.

    It could not read the answer, but it could keep the console busy.

    Raises:
      ApiError: the request is from another site.
    """
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if site is not None and site not in {"same-origin", "none"}:
        raise ApiError(403, "cross_site", "a page of another site sent this request")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        raise ApiError(403, "cross_site", "a page of another site sent this request")


class Sessions:
    """Who has shown the token.

    Args:
      token: the token; None if none is needed.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else _digest(token)
        # Only digests are kept: a dump of the process shows no session that could be used.
        self._sessions: OrderedDict[bytes, None] = OrderedDict()

    @property
    def token_required(self) -> bool:
        """Whether a token is needed."""
        return self._token is not None

    def accepts_token(self, token: str) -> bool:
        """Whether this is the token. Takes the same time whatever is wrong with it."""
        return self._token is not None and hmac.compare_digest(_digest(token), self._token)

    def begin(self) -> str:
        """A new session; returns its secret. The one that was not used for longest ends if there are many."""
        secret = secrets.token_urlsafe(_SESSION_BYTES)
        self._sessions[_digest(secret)] = None
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return secret

    def end(self, secret: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(secret), None)

    def knows(self, secret: str) -> bool:
        """Whether there is such a session."""
        digest = _digest(secret)
        if digest not in self._sessions:
            return False
        self._sessions.move_to_end(digest)
        return True

    def is_authorized(self, headers: Mapping[str, str], cookie_name: str) -> bool:
        """Whether a request with these headers may read events."""
        if self._token is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.accepts_token(token.strip()):
            return True
        secret = cookie_value(headers.get("cookie"), cookie_name)
        return secret is not None and self.knows(secret)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def cookie_value(header: str | None, name: str) -> str | None:
    """The value of a cookie; None if there is none.

    Whatever else is in the header is of other servers on this host, and may be malformed. Of several, the
    first is for the longest path.
    """
    for pair in (header or "").split(";"):
        key, _, value = pair.partition("=")
        if key.strip() == name:
            return value.strip()
    return None


def cookie_for(name: str, secret: str, path: str, *, is_secure: bool) -> str:
    """The header that sets a cookie; with an empty secret, the one that removes it."""
    parts = [f"{name}={secret}", f"Path={path}", "HttpOnly", "SameSite=Strict"]
    if is_secure:
        parts.append("Secure")
    if not secret:
        parts.append("Max-Age=0")
    return "; ".join(parts)


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers of a request by lower-case name; of one that is repeated, the first.

    Raises:
      ApiError: there is more than one host.
    """
    headers: dict[str, str] = {}
    for raw_name, value in raw:
        name = raw_name.decode("latin-1").lower()
        if name == "host" and name in headers:
            raise ApiError(400, "invalid_host", "there is more than one Host header")
        headers.setdefault(name, value.decode("latin-1"))
    return headers


def checked_token(token: object) -> str | None:
    """A token that is given as an argument.

    Raises:
      TypeError: it is not a string.
      ValueError: it is too short to be a secret, or cannot be sent in a header.
    """
    if token is None:
        return None
    if not isinstance(token, str):
        raise TypeError(f"token: expected a str, got {type(token).__name__}")
    if len(token) < MIN_TOKEN:
        raise ValueError(f"token: expected {MIN_TOKEN} characters or more")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("token: expected printable ASCII without blanks")
    return token


def checked_hosts(hosts: object) -> frozenset[str]:
    """Names of hosts that are given as an argument.

    Raises:
      TypeError: it is not a collection of strings.
      ValueError: one of them is not the name of a host.
    """
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):
        raise TypeError(f"allowed_hosts: expected a collection of names, got {type(hosts).__name__}")
    names: set[str] = set()
    for host in hosts:
        if not isinstance(host, str):
            raise TypeError(f"allowed_hosts: expected names as str, got {type(host).__name__}")
        found = _HOST.fullmatch(host)
        if found is None or found[2] is not None:
            raise ValueError(f"allowed_hosts: expected the name of a host without a port, got {host!r}")
        names.add(host.lower().removesuffix("."))
    return frozenset(names)
