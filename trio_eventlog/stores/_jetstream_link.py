"""A connection to a NATS server or cluster that mends itself. The seam between the store and its driver.

The driver, nats-py, is written for asyncio. It runs in an event loop in a thread that belongs to the
``async with`` block: what is sent goes over with one call, and what comes in comes back in one call for all
that has come meanwhile.

Each connection is a client of its own, which does not connect anew. One that did would send on the next
connection what was left of a batch, would give up for good at most errors that a server can report, and would
wait for as long as the system likes, some fifteen minutes, for a network that was unplugged (issue 671 of
nats-io/nats.py).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import random
import socket
import ssl
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import attrs
import msgspec
import trio

from trio_eventlog._errors import StoreError, StoreUnusable
from trio_eventlog._handover import giving_way
from trio_eventlog._util import NoPublicConstructor, fork_count

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

_logger: Final = logging.getLogger("trio_eventlog")

ANSWER_SECONDS: Final = 5.0
"""How long an answer may take. The election of a new leader takes about as long."""

_CONNECT_SECONDS: Final = 3
"""For each attempt with one server."""

_PING_EVERY: Final = 1
_MOST_PINGS: Final = 2
"""A connection on which so many had no answer when the next is due is given up: after three seconds."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
"""Seconds between two rounds of attempts to connect."""

_UNSENT: Final = 256 * 1024
"""Bytes that the driver takes before it waits for the network. A ping waits behind them."""

_MOMENT: Final = 0.01
"""Seconds in which the driver has acted on what it reports."""

_FAREWELL_SECONDS: Final = 0.5
"""To send what is not sent yet, when the store is left."""

_CLOSE_SECONDS: Final = 2.0
"""After which the thread is left to itself. It ends once the system has answered for the name of a host."""

_DEFAULT_PORT: Final = 4222

_FORBIDDEN: Final = "permissions violation"

_REFUSED: Final = ("authorization violation", "authentication", "account")
"""What the server says when it does not know us, in lower case."""


# --- values ---------------------------------------------------------------------------------------


@attrs.frozen
class Info:
    """What a server says of itself."""

    version: tuple[int, int, int] = (0, 0, 0)
    max_payload: int = 0
    """Bytes of one message, headers included."""


@attrs.frozen
class Message:
    """A message that came in."""

    subject: str
    reply: str
    headers: Mapping[str, str]
    data: bytes
    status: int = 0
    """What the server has to say in place of a message, such as 404; 0 for a message."""
    subscription: int = 0
    """The number of the subscription that it came for; 0 for that of all answers."""


@attrs.frozen
class Publication:
    """A message that goes out. Neither names nor values of headers have line ends."""

    subject: str
    data: bytes
    headers: Mapping[str, str] | None = None
    reply: str = ""


@attrs.frozen
class _Subscribe:
    number: int
    subject: str


@attrs.frozen
class _Unsubscribe:
    number: int


_Outgoing = Sequence[Publication | _Subscribe | _Unsubscribe]


class NobodyThere(StoreError):
    """Nobody on the network takes what was sent."""


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
            with trio.move_on_after(seconds), giving_way():
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
        self._forks = fork_count()
        self._prefix = f"_INBOX.{base64.b32encode(os.urandom(10)).decode().lower()}"
        # By where answers go, all through one subscription; and by the number of a subscription of their own.
        self._inboxes: dict[str, Inbox] = {}
        self._subscribed: dict[int, Inbox] = {}
        self._count = 0
        self._publish: Callable[[_Outgoing], object] | None = None
        self._is_closed = False
        self._trouble = "no server was asked yet"
        self._complaint = ""
        self._scope = trio.CancelScope(shield=True)
        self._tasks: trio.Nursery | None = None
        self._has_begun = trio.Event()
        self._refusal: StoreError | None = None
        self._has_ended = trio.Event()
        self._driver = _Driver(self, to, f"{self._prefix}.*", trio.lowlevel.current_trio_token())
        self.info: Info = Info()
        """What the server last said of itself."""

        self.generation: int = 0
        """How often a connection was made."""

    def __str__(self) -> str:
        return str(self._access)

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
        if self._publish is None:
            raise self._not_connected()

    def _not_connected(self) -> StoreError:
        return StoreError(f"{self}: not connected: {self._trouble}")

    def send(self, publications: _Outgoing) -> None:
        """Send messages, all of them or, if the connection breaks, none or some from the first on.

        Raises:
          StoreError: as :meth:`check`.
        """
        self.check_open()
        if self._publish is None:
            raise self._not_connected()
        self._publish(publications)

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
        inbox = Inbox(self, f"{self._prefix}.{self._count}")
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
        number = self._count
        inbox = Inbox(self, f"{self._prefix}-{number}")
        self.send([_Subscribe(number, inbox.reply)])
        self._subscribed[number] = inbox
        return number, inbox

    def unsubscribe(self, number: int) -> None:
        """Have nothing pushed any more."""
        if self._subscribed.pop(number, None) is not None and self._publish is not None:
            self.send([_Unsubscribe(number)])

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
            self.send([Publication(subject, data, headers, inbox.reply)])
            return self.answer((await inbox.wait(seconds))[0])

    def answer(self, message: Message) -> Message:
        """``message``, unless it says that nobody is there.

        Raises:
          NobodyThere: so it does.
        """
        if message.status == 503:  # noqa: PLR2004 - no responders
            raise NobodyThere(f"{self}: JetStream does not answer now: its servers may be choosing a leader")
        return message

    # --- what the driver tells, in Trio's thread ---------------------------------------------------

    def failed(self, refusal: StoreError) -> None:
        """There was no connection to begin with."""
        self._refusal = refusal
        self._has_begun.set()

    def up(self, info: Info, publish: Callable[[_Outgoing], object]) -> None:
        """There is a connection."""
        self.info = info
        self.generation += 1
        self._complaint = ""
        self._publish = publish
        self._has_begun.set()

    def down(self, trouble: str) -> None:
        """There is none any more."""
        self._publish = None
        self._trouble = trouble
        if not self._has_begun.is_set():
            self.failed(StoreError(f"{self}: {trouble}"))
        for inbox in (*self._inboxes.values(), *self._subscribed.values()):
            inbox.lose(f"{self}: the connection was lost: {trouble}")

    def trouble(self, text: str) -> None:
        """This is why there is none."""
        self._trouble = text

    def complain(self, text: str) -> None:
        """The server does not do something. Whoever waits for it gets no answer."""
        self._complaint = text

    def arrived(self, messages: Sequence[Message]) -> None:
        """These have come."""
        for message in messages:
            number = message.subscription
            inbox = self._subscribed.get(number) if number else self._inboxes.get(message.subject)
            if inbox is not None:
                inbox.put(message)

    # --- the thread -------------------------------------------------------------------------------

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a task beside the connection, until the link is left. It raises nothing."""
        assert self._tasks is not None
        self._tasks.start_soon(function)

    async def hold(self) -> None:
        """Keep the thread until :meth:`aclose`. For a task of its own.

        Shielded: the body of the store is cancelled first, and needs the connection to give its lock back.
        That takes a bounded time, and then this is ended in any case.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as self._tasks:
                    await trio.to_thread.run_sync(
                        self._driver.run,
                        thread_name="trio-eventlog nats",
                        abandon_on_cancel=True,
                        # Its place is not one of those that the program has for its own threads.
                        limiter=trio.CapacityLimiter(1),
                    )
                    self._tasks.cancel_scope.cancel(reason="the store is left")
            if self._scope.cancelled_caught:
                _logger.debug("%s: the connection does not end; its thread was left to itself", self)
        finally:
            self.down("the store is left")
            self._has_begun.set()
            self._has_ended.set()

    async def start(self) -> None:
        """Wait for the first connection, to whichever server answers first in the order given."""
        with giving_way():
            await self._has_begun.wait()
        if self._refusal is not None:
            raise self._refusal

    async def aclose(self) -> None:
        """Refuse what comes from now on, and wait until the connection is gone; for two seconds at most."""
        self._is_closed = True
        self._driver.stop()
        self._scope.deadline = trio.current_time() + _CLOSE_SECONDS
        # The deadline above bounds it; this one is for the case that even that does not end it.
        with trio.move_on_after(2 * _CLOSE_SECONDS, shield=True), giving_way():
            await self._has_ended.wait()


# --- the driver, in its thread --------------------------------------------------------------------


class _Loop(asyncio.SelectorEventLoop):
    """Knows its connections, and can drop them. To close one waits for what the network has not taken."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self.is_secured = False
        """Whether the connection made last is encrypted."""

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        self.is_secured = False
        made = await super().create_connection(*args, **options)
        self._connections.add(made[0])
        return made

    async def start_tls(self, *args: Any, **options: Any) -> Any:
        made = await super().start_tls(*args, **options)
        # The driver does not tell its protocol. If nobody does, nothing holds back a server that sends faster
        # than we read, and asyncio warns at the end of each connection.
        args[1].connection_made(made)
        self.is_secured = True
        return made

    def drop_connections(self) -> None:
        for connection in list(self._connections):
            assert isinstance(connection, asyncio.WriteTransport)
            connection.abort()
        self._connections.clear()


class _Driver:
    """Keeps one client of nats-py connected. Tells the link in Trio's thread what happens."""

    def __init__(self, link: Link, to: Access, subject: str, token: trio.lowlevel.TrioToken) -> None:
        self._link = link
        self._access = to
        self._subject = subject
        self._token = token
        self._servers = list(to.servers)
        self._loop: _Loop | None = None
        self._is_stopped = False
        self._stopping = asyncio.Event()
        self._leaves = False
        self._own: set[asyncio.Task[Any]] = set()
        self._look = asyncio.Event()
        self._reported: Exception | None = None
        self._arrived: deque[Message] = deque()
        self._is_announced = False

    def stop(self) -> None:
        """From Trio's thread: end."""
        # In this order, and run() has it the other way round: one of the two sees what the other has done.
        self._is_stopped = True
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended
                loop.call_soon_threadsafe(self._stopping.set)

    def run(self) -> None:
        """The whole life of the thread."""
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)
        loop.set_exception_handler(_note)
        self._loop = loop
        if self._is_stopped:
            self._stopping.set()
        keeper = asyncio.create_task(self._keep(loop))
        stopping = asyncio.create_task(self._stopping.wait())
        self._own |= {keeper, stopping, *asyncio.all_tasks()}
        await asyncio.wait({keeper, stopping}, return_when=asyncio.FIRST_COMPLETED)
        keeper.cancel()
        await asyncio.wait({keeper}, timeout=_CLOSE_SECONDS)
        loop.drop_connections()
        if keeper.done() and not keeper.cancelled():
            keeper.result()

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        with suppress(trio.RunFinishedError):  # left to itself, it may outlive the program's run
            self._token.run_sync_soon(function, *args)

    async def _keep(self, loop: _Loop) -> None:
        try:
            client = await self._connect_first(loop)
        except StoreError as exc:
            self._tell(self._link.failed, exc)
            return  # noqa: ASYNC910 - asyncio's, as all in this class
        while True:
            await self._serve(loop, client)
            client = await self._connect_again(loop)

    # --- connecting -------------------------------------------------------------------------------

    async def _connect_first(self, loop: _Loop) -> Client:
        reasons: list[str] = []
        for server in list(self._servers):
            try:
                return await self._connect(loop, server)
            except StoreUnusable:
                raise
            except StoreError as exc:
                reasons.append(str(exc))
        raise StoreError("; ".join(reasons))

    async def _connect_again(self, loop: _Loop) -> Client:
        pause = _FIRST_PAUSE
        while True:
            # Not all clients of a server that went down shall ask the same one next.
            for server in random.sample(self._servers, len(self._servers)):
                try:
                    return await self._connect(loop, server)
                except StoreError as exc:
                    self._tell(self._link.trouble, str(exc))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _connect(self, loop: _Loop, server: Server) -> Client:
        try:
            from nats.aio.client import Client  # noqa: PLC0415 - only a store that is opened needs it
        except ImportError as exc:
            raise StoreUnusable("JetStreamStore needs nats-py: pip install 'trio-eventlog[nats]'") from exc
        self._reported = None
        is_connected = False
        client = Client()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await client.connect(f"nats://{server}", **self._options(loop))
                self._require_tls(loop)
            is_connected = True
        except StoreError:
            raise
        except Exception as exc:  # the driver lets through what others raise
            raise self._refusal(server, exc) from exc
        finally:
            if not is_connected:
                await self._drop(loop, client)  # noqa: ASYNC102 - bounded, and cancelled once at most
        self._learn(client)
        return client

    def _options(self, loop: _Loop) -> dict[str, Any]:
        to = self._access
        options: dict[str, Any] = {
            "name": "trio-eventlog",
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0,
            "connect_timeout": _CONNECT_SECONDS,
            "ping_interval": _PING_EVERY,
            "max_outstanding_pings": _MOST_PINGS,
            "pending_size": _UNSENT,
            "tls": to.tls,
            "error_cb": self._report,
            "closed_cb": self._closed,
            "lame_duck_mode_cb": self._lame,
        }
        if to.user is not None:
            options["user"] = partial(self._secret, loop, to.user)
            options["password"] = partial(self._secret, loop, to.password or "")
        if to.token is not None:
            options["token"] = partial(self._secret, loop, to.token)
        if to.credentials is not None:
            options["user_credentials"] = _credentials(to.credentials)
        return options

    def _secret(self, loop: _Loop, text: str) -> str:
        self._require_tls(loop)
        return text

    def _require_tls(self, loop: _Loop) -> None:
        """The driver encrypts only if the server asks for it. Called before a secret is sent."""
        if self._access.tls is not None and not loop.is_secured:
            raise StoreError(f"{self._access}: the server offers no TLS")

    def _refusal(self, server: Server, exc: Exception) -> StoreError:
        # The driver has tried again, and then says only that there are no servers left.
        cause = exc if self._reported is None else self._reported
        if isinstance(cause, StoreError):
            return cause
        if isinstance(exc, ImportError):
            return StoreUnusable("credentials need the package nkeys: pip install 'trio-eventlog[nats]'")
        text = _reason(cause)
        if any(word in text.lower() for word in _REFUSED):
            return StoreUnusable(
                f"{server}: the server refuses the connection: {text};"
                " check user, password, token or credentials"
            )
        if self._access.credentials is not None and type(cause).__module__.startswith(("nkeys", "binascii")):
            return StoreUnusable(
                f"credentials {os.fspath(self._access.credentials)!r}: the seed is malformed"
            )
        if "info message" in text.lower():
            text = f"the server does not speak the protocol of NATS: {text}"
        return StoreError(f"{server}: {text}")

    def _learn(self, client: Client) -> None:
        for url in client.discovered_servers:
            if url.hostname:
                server = Server(url.hostname, url.port or _DEFAULT_PORT)
                if server not in self._servers:
                    self._servers.append(server)

    # --- connected --------------------------------------------------------------------------------

    async def _serve(self, loop: _Loop, client: Client) -> None:
        """Send and receive until the connection ends, for whatever reason."""
        outgoing: asyncio.Queue[_Outgoing] = asyncio.Queue()
        self._look.clear()
        self._leaves = False
        self._reported = None
        sender = asyncio.create_task(self._send(client, outgoing))
        try:
            await self._subscribe(client, 0, self._subject)
            self._tell(self._link.up, _info(client), partial(_put, loop, outgoing))
            while client.is_connected and not sender.done() and not self._leaves:
                # It tells when it is done with a connection, unless that makes it wait for one that hangs.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), _PING_EVERY)
                    self._look.clear()
                    await asyncio.sleep(_MOMENT)
        except Exception as exc:  # noqa: BLE001 - the driver's, whatever it is, ends this connection and no more
            self._reported = exc
        finally:
            cause = client.last_error or self._reported
            self._tell(self._link.down, "the server closed it" if cause is None else _reason(cause))
            self._learn(client)
            await self._drop(loop, client)  # noqa: ASYNC102 - as above

    async def _drop(self, loop: _Loop, client: Client) -> None:  # noqa: ASYNC910 - asyncio's
        """Let a client go, with all that it has begun."""
        if self._stopping.is_set():
            with suppress(Exception):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await client.close()
        loop.drop_connections()
        with suppress(Exception):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await client.close()
        rest = asyncio.all_tasks() - self._own
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=_FAREWELL_SECONDS)

    async def _send(self, client: Client, outgoing: asyncio.Queue[_Outgoing]) -> None:  # noqa: ASYNC910 - asyncio's
        subscribed: dict[int, Subscription] = {}
        try:
            while True:
                for item in await outgoing.get():
                    if isinstance(item, Publication):
                        headers = None if item.headers is None else dict(item.headers)
                        await client.publish(item.subject, item.data, item.reply, headers)
                    elif isinstance(item, _Subscribe):
                        subscribed[item.number] = await self._subscribe(client, item.number, item.subject)
                    elif item.number in subscribed:
                        await subscribed.pop(item.number).unsubscribe()
        except Exception as exc:  # noqa: BLE001 - see _serve
            self._reported = exc
            self._look.set()

    async def _subscribe(self, client: Client, number: int, subject: str) -> Subscription:
        # No limits: nobody asks for more than can wait, and what was dropped would look like the end.
        return await client.subscribe(
            subject, cb=partial(self._take, number), pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def _take(self, number: int, message: Msg) -> None:  # noqa: ASYNC910 - asyncio's
        headers: Mapping[str, str] = message.headers or {}
        status = headers.get("Status", "")
        self._arrived.append(
            Message(
                message.subject,
                message.reply,
                headers,
                message.data,
                int(status) if status.isdigit() and not message.data else 0,
                number,
            )
        )
        # One call for all that comes before Trio has time for it.
        if not self._is_announced:
            self._is_announced = True
            self._tell(self._hand_over)

    def _hand_over(self) -> None:
        """In Trio's thread: what has come."""
        # First this: a message that comes from here on is either seen below or announced anew.
        self._is_announced = False
        arrived: list[Message] = []
        while self._arrived:
            arrived.append(self._arrived.popleft())
        self._link.arrived(arrived)

    # --- what the client reports, of itself -------------------------------------------------------

    async def _report(self, exc: Exception) -> None:  # noqa: ASYNC910 - asyncio's
        _logger.debug("%s: nats-py reports: %s", self._access, _reason(exc))
        self._reported = exc
        text = str(exc)
        if "permissions" in text.lower():
            self._tell(self._link.complain, _reason(exc))
        self._look.set()

    async def _closed(self) -> None:  # noqa: ASYNC910 - asyncio's
        self._look.set()

    async def _lame(self) -> None:  # noqa: ASYNC910 - asyncio's
        # The server is about to shut down, and wants its clients to go elsewhere.
        self._reported = StoreError("the server is about to shut down")
        self._leaves = True
        self._look.set()


def _put(
    loop: asyncio.AbstractEventLoop,
    outgoing: asyncio.Queue[_Outgoing],
    items: _Outgoing,
) -> None:
    """From Trio's thread: send."""
    with suppress(RuntimeError):  # the loop is closed, and the link will hear of it
        loop.call_soon_threadsafe(outgoing.put_nowait, items)


def _note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What went wrong in a task of the client that nobody waits for: it shows in the connection, too."""
    _logger.debug("nats-py: %s", context.get("message"), exc_info=context.get("exception"))


def _info(client: Client) -> Info:
    version = client.connected_server_version
    try:
        numbers = version.major, version.minor, version.patch
    except ValueError:
        numbers = (0, 0, 0)  # of none that was released
    return Info(numbers, client.max_payload)


def _reason(exc: BaseException) -> str:
    """What the driver or the system says, in one line."""
    if isinstance(exc, TimeoutError):
        return f"no answer within {_CONNECT_SECONDS} seconds"
    if isinstance(exc, ssl.SSLError):
        return f"TLS: {exc.strerror or exc}"
    if isinstance(exc, OSError) and exc.errno is not None:
        return (exc.strerror or str(exc)) if isinstance(exc, socket.gaierror) else os.strerror(exc.errno)
    return str(exc).removeprefix("nats: ").strip(" '") or type(exc).__name__


def _credentials(path: Path) -> Any:
    """What a credentials file holds. Read anew for each connection: some are replaced every few hours."""
    from nats.aio.client import RawCredentials  # noqa: PLC0415 - as above

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise StoreUnusable(f"credentials {os.fspath(path)!r} cannot be read: {_reason(exc)}") from exc
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        # The driver would look for them for ever.
        raise StoreUnusable(f"credentials {os.fspath(path)!r} hold no user JWT with the seed of its key")
    return RawCredentials(text)


# --- opening --------------------------------------------------------------------------------------


@asynccontextmanager
async def open_link(to: Access) -> AsyncIterator[Link]:
    """A connection, for the length of an ``async with`` block.

    Entering is a checkpoint. What the body raises comes out as it is.

    Raises:
      StoreError: no server can be reached now.
      StoreUnusable: a server does not know us, or the driver is missing.
    """
    link = Link._create(to)
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.hold)
            try:
                try:
                    await link.start()
                    yield link
                finally:
                    await link.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside
            except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, once the nursery is gone
                body_error = exc
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
