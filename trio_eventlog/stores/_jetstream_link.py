"""A connection to a NATS server or cluster that mends itself. The seam between the store and the network.

Speaks the protocol in Trio's own tasks. The driver that there is (nats-py) is written for asyncio; behind a
thread or trio-asyncio it took about five times as long to answer a request, and read a tenth of the messages
a second. What it would add and this has not: WebSocket. How to measure that anew stands in
docs/how-to/jetstream.md.
"""

from __future__ import annotations

import base64
import os
import random
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import attrs
import msgspec
import trio

from trio_eventlog._errors import StoreError, StoreUnusable
from trio_eventlog._util import NoPublicConstructor, fork_count
from trio_eventlog.stores import _jetstream_protocol as protocol
from trio_eventlog.stores._jetstream_protocol import Message

ANSWER_SECONDS: Final = 5.0
"""How long an answer may take. The election of a new leader takes about as long."""

_BYTES_PER_SECOND: Final = 4 * 1024 * 1024
"""What is sent has so much more time."""

_CONNECT_SECONDS: Final = 3.0
"""For each attempt with one server."""

_PING_EVERY: Final = 1.0
_DEAD_AFTER: Final = 3.0
"""Seconds without a sign of life after which a connection is given up."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
"""Seconds between two rounds of attempts to connect."""

_PIECE: Final = 64 * 1024
"""Bytes that are sent in one go."""

_ANSWERS: Final = 1
"""The number of the subscription for all answers."""

_DEFAULT_PORT: Final = 4222

_FORBIDDEN: Final = "permissions violation"

_REFUSED: Final = ("authorization violation", "authentication", "account")
"""What the server says when it does not know us, in lower case."""


# --- where, and as whom ---------------------------------------------------------------------------


@attrs.frozen
class Server:
    """Where a server listens."""

    host: str
    port: int

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
    return Server(parts.hostname, port or _DEFAULT_PORT), user, password, parts.scheme == "tls"


# --- answers --------------------------------------------------------------------------------------


class Inbox:
    """Where the answers to something come in."""

    def __init__(self, link: Link, reply: str) -> None:
        self.reply: Final = reply
        self._link = link
        self._messages: deque[Message] = deque()
        self._wake = trio.Event()
        self._lost: str | None = None

    def put(self, message: Message) -> None:
        """Of the link: a message has come."""
        self._messages.append(message)
        self._wake.set()

    def lose(self, reason: str) -> None:
        """Of the link: the connection is lost, and with it what has not come yet."""
        if self._lost is None:
            self._lost = reason
        self._wake.set()

    @property
    def is_lost(self) -> bool:
        """Whether nothing will come any more."""
        return self._lost is not None

    async def wait(self, seconds: float) -> list[Message]:
        """What has come, at least one message. A checkpoint; cancelled, nothing is missed.

        Raises:
          StoreError: nothing came within ``seconds``, or the connection is lost.
        """
        await trio.lowlevel.checkpoint()
        if not self._messages and self._lost is None:
            self._wake = trio.Event()
            with trio.move_on_after(seconds):
                await self._wake.wait()
        if self._messages:
            messages = list(self._messages)
            self._messages.clear()
            return messages
        if self._lost is not None:
            self._link.check_open()
            raise StoreError(self._lost)
        raise self._link.no_answer(seconds)


# --- the link -------------------------------------------------------------------------------------


class Link(metaclass=NoPublicConstructor):
    """See :func:`open_link`."""

    def __init__(self, to: Access) -> None:
        self._access = to
        self._servers = list(to.servers)
        self._forks = fork_count()
        self._inbox = f"_INBOX.{_unique(12)}"
        # By where answers go, all through one subscription; and by the number of a subscription of their own.
        self._inboxes: dict[str, Inbox] = {}
        self._subscribed: dict[int, Inbox] = {}
        self._count = 0
        self._outgoing: list[bytes] = []
        self._wake = trio.Event()
        self._last_sign = 0.0
        self._is_up = False
        self._is_closed = False
        self._trouble = "no server was asked yet"
        self._scope = trio.CancelScope(shield=True)
        self._tasks: trio.Nursery | None = None
        self._complaint = ""
        self.info = protocol.Info()
        """What the server last said of itself."""

        self.generation = 0
        """How often a connection was made."""

    def __str__(self) -> str:
        return str(self._access)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._is_up

    def no_answer(self, seconds: float) -> StoreError:
        """The error for an answer that did not come."""
        text = f"{self}: no answer within {seconds:.1f} seconds"
        if self._complaint:
            text += f" (the server said: {self._complaint})"
        # What may not be asked, nobody will answer.
        return StoreUnusable(text) if _FORBIDDEN in self._complaint.lower() else StoreError(text)

    # --- sending ----------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Whether this can be used at all.

        Raises:
          StoreUnusable: the link was closed, or belongs to the process that forked this one.
        """
        if self._forks != fork_count():
            raise StoreUnusable(
                f"{self}: the store belongs to the process that forked this one; open it anew"
            )
        if self._is_closed:
            raise StoreUnusable(f"{self}: the store is closed")

    def check(self) -> None:
        """Whether something can be sent now.

        Raises:
          StoreUnusable: as :meth:`check_open`.
          StoreError: there is no connection now.
        """
        self.check_open()
        if not self._is_up:
            raise StoreError(f"{self}: not connected: {self._trouble}")

    def send(self, pieces: Sequence[bytes]) -> None:
        """Send commands, all of them or, if the connection breaks, none or some from the first on.

        Raises:
          StoreError: as :meth:`check`.
        """
        self.check()
        self._outgoing.extend(pieces)
        self._wake.set()

    @contextmanager
    def expecting(self) -> Iterator[Inbox]:
        """Somewhere for answers to go, for the length of the block."""
        inbox = self.open_inbox()
        try:
            yield inbox
        finally:
            self.close_inbox(inbox)

    def open_inbox(self) -> Inbox:
        """The same without a block; to be closed with :meth:`close_inbox`."""
        self._count += 1
        inbox = Inbox(self, f"{self._inbox}.{self._count}")
        self._inboxes[inbox.reply] = inbox
        return inbox

    def close_inbox(self, inbox: Inbox) -> None:
        """What comes now goes nowhere."""
        self._inboxes.pop(inbox.reply, None)

    def subscribe(self) -> tuple[int, Inbox]:
        """The same for what is pushed: it comes under its own subject, with a subscription of its own.

        Returns:
          Its number, for :meth:`unsubscribe`, and the inbox. A connection that is made anew does not have it.
        """
        self._count += 1
        number = self._count + _ANSWERS
        inbox = Inbox(self, f"{self._inbox}-{number}")
        self.send([protocol.subscribe(inbox.reply, number)])
        self._subscribed[number] = inbox
        return number, inbox

    def unsubscribe(self, number: int) -> None:
        """Have nothing pushed any more."""
        if self._subscribed.pop(number, None) is not None and self._is_up:
            self.send([protocol.unsubscribe(number)])

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Message:
        """Publish, and wait for the one answer. A checkpoint.

        Raises:
          StoreError: as :meth:`send`; no answer came, or nobody is there to give one.
        """
        await trio.lowlevel.checkpoint()
        with self.expecting() as inbox:
            if headers is None:
                self.send([protocol.publish(subject, inbox.reply, data)])
            else:
                block = protocol.headers(headers)
                self.send([protocol.publish_with_headers(subject, inbox.reply, block, data)])
            return self.answer((await inbox.wait(seconds))[0])

    def answer(self, message: Message) -> Message:
        """``message``, unless it says that nobody is there.

        Raises:
          StoreError: so it does.
        """
        if message.status == 503:  # noqa: PLR2004 - no responders
            raise StoreError(f"{self}: JetStream does not answer now: its servers may be choosing a leader")
        return message

    # --- the connection ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect for the first time, to whichever server answers first in the order given."""
        reasons: list[str] = []
        for server in list(self._servers):
            try:
                stream, parser = await self._connect(server)
            except StoreUnusable:
                raise
            except StoreError as exc:
                reasons.append(str(exc))
            else:
                self._first = (stream, parser)
                self._up()
                return
        raise StoreError("; ".join(reasons))

    async def run(self) -> None:
        """Keep the connection, and make a new one when it is lost. Never returns."""
        stream, parser = self._first
        del self._first
        while True:
            try:
                await self._serve(stream, parser)
            finally:
                self._down()
            stream, parser = await self._reconnect()
            self._up()

    async def _reconnect(self) -> tuple[trio.abc.Stream, protocol.Parser]:
        pause = _FIRST_PAUSE
        while True:
            # Not all clients of a server that went down shall ask the same one next.
            for server in random.sample(self._servers, len(self._servers)):
                try:
                    return await self._connect(server)
                except StoreError as exc:
                    self._trouble = str(exc)
            await trio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _up(self) -> None:
        self.generation += 1
        self._is_up = True
        self._complaint = ""
        self._outgoing = [protocol.subscribe(f"{self._inbox}.*", _ANSWERS)]
        self._wake.set()
        self._last_sign = trio.current_time()

    def _down(self) -> None:
        self._is_up = False
        self._outgoing.clear()
        for inbox in (*self._inboxes.values(), *self._subscribed.values()):
            inbox.lose(f"{self}: the connection was lost: {self._trouble}")

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a task beside the connection, until the link is left. It raises nothing."""
        assert self._tasks is not None
        self._tasks.start_soon(function)

    async def hold(self) -> None:
        """Keep the connection until :meth:`close`. For a task of its own.

        Shielded: the body of the store is cancelled first, and needs the connection to give its lock back.
        That takes a bounded time, and then this is ended in any case.
        """
        with self._scope:
            async with trio.open_nursery() as self._tasks:
                await self.run()

    def close(self) -> None:
        """Refuse what comes from now on, and let the connection go."""
        self._is_closed = True
        self._scope.cancel(reason="the store is left")

    async def _connect(self, server: Server) -> tuple[trio.abc.Stream, protocol.Parser]:
        stream: trio.abc.Stream | None = None
        done = False
        try:
            with trio.fail_after(_CONNECT_SECONDS):
                tcp = await trio.open_tcp_stream(server.host, server.port)
                stream = tcp
                parser = protocol.Parser()
                stream = await self._greet(server, tcp, parser)
                done = True
                return stream, parser
        except StoreUnusable:
            raise
        except StoreError as exc:
            raise StoreError(f"{server}: {exc}") from exc
        except trio.TooSlowError as exc:
            raise StoreError(f"{server}: no answer within {_CONNECT_SECONDS:.0f} seconds") from exc
        except (OSError, ssl.SSLError, trio.BrokenResourceError) as exc:
            raise StoreError(f"{server}: {_reason(exc)}") from exc
        finally:
            if stream is not None and not done:
                # Closes at once, whatever the cancellation says.
                await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - see above

    async def _greet(
        self, server: Server, stream: trio.abc.Stream, parser: protocol.Parser
    ) -> trio.abc.Stream:
        """INFO, perhaps TLS, CONNECT and PING; then the server says PONG, or why not."""
        said = await _more(stream, parser)
        if not said or not isinstance(said[0], protocol.Info):
            raise StoreError("the server does not speak the protocol of NATS")
        self._learn(said[0])
        context = self._access.tls
        if context is None and self.info.tls_required:
            context = ssl.create_default_context()
        if context is not None:
            secured = trio.SSLStream(stream, context, server_hostname=server.host)
            try:
                await secured.do_handshake()
            except trio.BrokenResourceError as exc:
                raise StoreError(f"TLS: {_reason(exc)}") from exc
            stream = secured
        options = self._introduction(is_secured=context is not None)
        if self._access.credentials is not None:
            options |= await _signed(self._access.credentials, self.info.nonce)
        await stream.send_all(protocol.connect(options))
        while True:
            for item in await _more(stream, parser):
                if isinstance(item, protocol.Pong):
                    return stream
                if isinstance(item, protocol.Info):
                    self._learn(item)
                if isinstance(item, protocol.Refusal):
                    text = f"{server}: the server refuses the connection: {item.text}"
                    if any(word in item.text.lower() for word in _REFUSED):
                        raise StoreUnusable(text + "; check user, password, token or credentials")
                    raise StoreError(text)

    def _introduction(self, *, is_secured: bool) -> dict[str, Any]:
        to = self._access
        options: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "tls_required": is_secured,
            "name": "trio-eventlog",
            "lang": "python-trio",
            "version": "1",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
        }
        if to.user is not None:
            options["user"] = to.user
            options["pass"] = to.password or ""
        if to.token is not None:
            options["auth_token"] = to.token
        return options

    def _learn(self, info: protocol.Info) -> None:
        self.info = info
        for url in info.connect_urls:
            try:
                server = _entry(url, 0)[0]
            except ValueError:
                continue
            if server not in self._servers:
                self._servers.append(server)

    async def _serve(self, stream: trio.abc.Stream, parser: protocol.Parser) -> None:
        """Read and write until the connection ends, for whatever reason."""
        self._trouble = "the server closed it"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, nursery.cancel_scope)
                nursery.start_soon(self._feel_pulse, nursery.cancel_scope)
                await self._read(stream, parser)
                nursery.cancel_scope.cancel(reason="the connection has ended")
        finally:
            await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - closes at once, whatever the cancellation says

    async def _read(self, stream: trio.abc.Stream, parser: protocol.Parser) -> None:
        await trio.lowlevel.checkpoint()
        try:
            while data := await stream.receive_some():
                self._last_sign = trio.current_time()
                for item in parser.feed(data):
                    if not self._take(item):
                        return
        except (OSError, trio.BrokenResourceError, StoreError) as exc:
            self._trouble = _reason(exc)

    def _take(self, item: protocol.Incoming) -> bool:
        """Whether to go on with this server."""
        if isinstance(item, Message):
            number = item.subscription
            inbox = self._inboxes.get(item.subject) if number == _ANSWERS else self._subscribed.get(number)
            if inbox is not None:
                inbox.put(item)
        elif isinstance(item, protocol.Ping):
            self._outgoing.append(protocol.PONG)
            self._wake.set()
        elif isinstance(item, protocol.Info):
            self._learn(item)
            if item.ldm:
                self._trouble = "the server is about to shut down"
                return False
        elif isinstance(item, protocol.Refusal):
            # Most end the connection. A permission that is missing does not, and whoever waits gets no
            # answer.
            self._complaint = item.text
            self._trouble = f"the server said: {item.text}"
        return True

    async def _write(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        await trio.lowlevel.checkpoint()
        try:
            while True:  # noqa: ASYNC913 - waits if there is nothing to send, and sends if there is
                if not self._outgoing:
                    self._wake = trio.Event()
                    await self._wake.wait()
                data = memoryview(b"".join(self._outgoing))
                self._outgoing.clear()
                for start in range(0, len(data), _PIECE):
                    await stream.send_all(data[start : start + _PIECE])
                    if start:
                        # As long as much is on its way, a PONG may have to wait. A little, the system takes
                        # from us whether anybody is there or not.
                        self._last_sign = trio.current_time()
        except (OSError, trio.BrokenResourceError) as exc:
            self._trouble = _reason(exc)
            scope.cancel(reason="the connection is broken")

    async def _feel_pulse(self, scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(_PING_EVERY)
            silent = trio.current_time() - self._last_sign
            if silent >= _DEAD_AFTER:
                self._trouble = f"no sign of life for {silent:.0f} seconds"
                scope.cancel(reason="no sign of life")
            elif silent >= _PING_EVERY / 2:
                self._outgoing.append(protocol.PING)
                self._wake.set()


async def _more(stream: trio.abc.Stream, parser: protocol.Parser) -> list[protocol.Incoming]:
    """What the server says next, before the connection is in use."""
    while True:
        data = await stream.receive_some()
        if not data:
            raise StoreError("the server closed the connection")
        if found := parser.feed(data):
            return found


def _reason(exc: BaseException) -> str:
    """What the system says, in one line. A broken stream says it in its cause."""
    if isinstance(exc, trio.BrokenResourceError) and exc.__cause__ is not None:
        exc = exc.__cause__
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__


def _unique(size: int) -> str:
    """Random letters and digits, of so many bytes."""
    return base64.b32encode(os.urandom(size)).decode().rstrip("=").lower()


# --- credentials ----------------------------------------------------------------------------------

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----\s*(\S+)\s*-+END")


async def _signed(path: Path, nonce: str) -> dict[str, str]:
    """The JWT of a credentials file, and the server's nonce signed with its key."""
    try:
        text = await trio.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise StoreUnusable(f"credentials {os.fspath(path)!r} cannot be read: {_reason(exc)}") from exc
    blocks = dict(_BLOCK.findall(text))
    jwt = blocks.get("NATS USER JWT")
    seed = blocks.get("USER NKEY SEED")
    if jwt is None or seed is None:
        raise StoreUnusable(f"credentials {os.fspath(path)!r} hold no user JWT with the seed of its key")
    try:
        # Only those who sign need it.
        nkeys: Any = import_module("nkeys")
    except ImportError as exc:
        raise StoreUnusable("credentials need the package nkeys: pip install 'trio-eventlog[nats]'") from exc
    try:
        signature = nkeys.from_seed(seed.encode()).sign(nonce.encode())
    except Exception as exc:  # the package's own errors have no base but this
        raise StoreUnusable(f"credentials {os.fspath(path)!r}: the seed is malformed") from exc
    return {"jwt": jwt, "sig": base64.urlsafe_b64encode(signature).decode().rstrip("=")}


# --- opening --------------------------------------------------------------------------------------


@asynccontextmanager
async def open_link(to: Access) -> AsyncIterator[Link]:
    """A connection, for the length of an ``async with`` block.

    Entering is a checkpoint. What the body raises comes out as it is.

    Raises:
      StoreError: no server can be reached now.
      StoreUnusable: a server does not know us.
    """
    link = Link._create(to)
    body_error: BaseException | None = None
    await link.start()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.hold)
            try:
                yield link
            except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, once the nursery is gone
                body_error = exc
            link.close()
        if body_error is not None:
            raise body_error
    finally:
        # An exception that stays in a local of its own traceback is a cycle.
        del body_error


def decode(message: Message) -> dict[str, Any]:
    """The JSON object in a message.

    Raises:
      StoreError: there is none.
    """
    try:
        value = msgspec.json.decode(message.data)
    except msgspec.DecodeError as exc:
        raise StoreError(f"the server answers with what is no JSON: {message.data[:60]!r}") from exc
    if not isinstance(value, dict):
        raise StoreError(f"the server answers with what is no JSON object: {message.data[:60]!r}")
    return value
