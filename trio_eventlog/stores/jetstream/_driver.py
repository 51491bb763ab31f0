"""The driver of JetStreamStore, nats-py, in a thread of its own.

It is written for asyncio, and so is this module, which is the only one that touches it: it runs in an event
loop in a thread that belongs to the ``async with`` block of the store. What is sent goes over with one call,
and what comes in comes back in one call for all that has come meanwhile.

Each connection is a client of its own, which does not connect anew. One that did would send on the next
connection what was left of a batch, would give up for good at most errors that a server can report, and would
wait for as long as the system likes, some fifteen minutes, for a network that was unplugged (issue 671 of
nats-io/nats.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import random
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._util import SOME_LOG, at_work, how_to_install
from trio_eventlog.stores.jetstream._access import DEFAULT_PORT, Access, Server

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

_logger: Final = logging.getLogger("trio_eventlog")

_CONNECT_SECONDS: Final = 3.0
"""For each attempt with one server."""

_HASTY_SECONDS: Final = 0.5
"""The same in the first round of attempts after a connection was lost; twice as long in each further one.
Where nobody is any more, nobody answers."""

_NEXT_ADDRESS: Final = 0.25
"""Seconds after which the next address of a name is tried, too."""

_MOST_LEARNT: Final = 64
"""Servers that are known because another has told of them."""

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

CLOSE_SECONDS: Final = 2.0
"""After which the thread is left to itself. It ends once the system has answered for the name of a host."""

_REFUSED: Final = ("authorization violation", "authentication", "account")
"""What the server says when it does not know us, in lower case."""

_BUSY: Final = ("exceeded", "timeout")
"""What it says if it may know us a little later, such as that an account has too many connections."""


# --- values ---------------------------------------------------------------------------------------


@attrs.frozen
class Info:
    """What a server says of itself."""

    version: tuple[int, int, int] = (0, 0, 0)
    max_payload: int = 0
    """Bytes of one message, headers included."""
    is_alone: bool = True
    """Whether it is connected to no other servers, such as those of a cluster or the hub of a leaf node."""


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
class Subscribe:
    """Have what is published to a subject pushed."""

    number: int
    subject: str


@attrs.frozen
class Unsubscribe:
    """Have it pushed no more."""

    number: int


Outgoing = Sequence[Publication | Subscribe | Unsubscribe]


class Listener(Protocol):
    """Who hears of what happens, in Trio's thread."""

    def failed(self, refusal: StoreError) -> None:
        """There was no connection to begin with."""

    def up(self, info: Info, publish: Callable[[Outgoing], object]) -> None:
        """There is a connection."""

    def down(self, trouble: str) -> None:
        """There is none any more."""

    def trouble(self, text: str) -> None:
        """This is why there is none."""

    def complain(self, text: str) -> None:
        """The server does not do something. Whoever waits for it gets no answer."""

    def arrived(self, messages: Sequence[Message]) -> None:
        """These have come."""


# --- the thread -----------------------------------------------------------------------------------


class _Loop(asyncio.SelectorEventLoop):
    """Knows its connections, and can drop them. To close one waits for what the network has not taken."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        # Those of attempts. The race between addresses does not close what it has won when it is cancelled.
        self._attempts: set[socket.socket] = set()
        self.is_secured = False
        """Whether the connection made last is encrypted."""

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        self.is_secured = False
        # Otherwise one address that does not answer would use up the time for all that the name has.
        options.setdefault("happy_eyeballs_delay", _NEXT_ADDRESS)
        made = await super().create_connection(*args, **options)
        self._connections.add(made[0])
        self._attempts.clear()
        return made

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self._attempts.add(sock)
        await super().sock_connect(sock, address)

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
        while self._attempts:
            self._attempts.pop().close()


class Driver:
    """Keeps one client of nats-py connected. Tells the link in Trio's thread what happens."""

    def __init__(self, listener: Listener, to: Access, subject: str, token: trio.lowlevel.TrioToken) -> None:
        self._listener = listener
        self._access = to
        self._subject = subject
        self._token = token
        # Those that were given, then those that were learnt, the latest at the end.
        self._servers = list(to.servers)
        # Those of the latter that have not answered since there was a connection last.
        self._silent: set[Server] = set()
        self._server = self._servers[0]
        # When the connection to a server ended last, by the clock of the loop.
        self._left: dict[Server, float] = {}
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

    def leave(self) -> None:
        """From Trio's thread: go on with another server, if there is one."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # as above
                loop.call_soon_threadsafe(self._leave, "it was left, since it does not answer")

    def run(self) -> None:
        """The whole life of the thread."""
        # What the driver says here must lead to no events, which it would have to send.
        at_work.set(SOME_LOG)
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
        await asyncio.wait({keeper}, timeout=CLOSE_SECONDS)
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
            self._tell(self._listener.failed, exc)
            return
        # Before Python 3.12, asyncio.wait_for may swallow a cancellation, and the client uses it.
        while not self._stopping.is_set():
            await self._serve(loop, client)
            client = await self._connect_again(loop)

    # --- connecting -------------------------------------------------------------------------------

    async def _connect_first(self, loop: _Loop) -> Client:
        reasons: list[str] = []
        for server in list(self._servers):
            try:
                return await self._connect(loop, server, _CONNECT_SECONDS)
            except StoreUnusable:
                raise
            except StoreError as exc:
                reasons.append(str(exc))
        raise StoreError("; ".join(reasons))

    async def _connect_again(self, loop: _Loop) -> Client:
        pause, seconds = _FIRST_PAUSE, _HASTY_SECONDS
        while True:
            # Not all clients of a server that went down shall ask the same one next. Those that were left
            # come last, the latest at the end.
            servers = random.sample(self._servers, len(self._servers))
            for server in sorted(servers, key=lambda server: self._left.get(server, 0.0)):
                try:
                    return await self._connect(loop, server, seconds)
                except StoreError as exc:
                    if server not in self._access.servers:
                        self._silent.add(server)
                    self._tell(self._listener.trouble, str(exc))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)
            seconds = min(2 * seconds, _CONNECT_SECONDS)

    async def _connect(self, loop: _Loop, server: Server, seconds: float) -> Client:
        try:
            from nats.aio.client import Client  # noqa: PLC0415 - only a store that is opened needs it
        except ImportError as exc:
            raise StoreUnusable(f"JetStreamStore needs nats-py: {how_to_install('nats')}") from exc
        self._reported = None
        is_connected = False
        client = Client()
        try:
            async with asyncio.timeout(seconds):
                await client.connect(f"nats://{server}", **self._options(loop, server))
                self._require_tls(loop)
            is_connected = True
        except StoreError:
            raise
        except Exception as exc:  # the driver lets through what others raise
            raise self._refusal(server, exc) from exc
        finally:
            if not is_connected:
                await self._drop(loop, client)
        self._server = server
        # What the cluster names now is there, even if it did not answer. The others may be gone for good.
        self._servers = [known for known in self._servers if known not in self._silent]
        self._silent.clear()
        self._learn(client)
        return client

    def _options(self, loop: _Loop, server: Server) -> dict[str, Any]:
        to = self._access
        options: dict[str, Any] = {
            "name": "trio-eventlog",
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0,
            "connect_timeout": _CONNECT_SECONDS,
            "tls_hostname": server.certified,
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
            return StoreUnusable(f"credentials need the package nkeys: {how_to_install('nats')}")
        text = _reason(cause)
        said = text.lower()
        if any(word in said for word in _REFUSED) and not any(word in said for word in _BUSY):
            return StoreUnusable(
                f"{server}: the server refuses the connection: {text};"
                " check user, password, token or credentials"
            )
        if self._access.credentials is not None and type(cause).__module__.startswith(("nkeys", "binascii")):
            return StoreUnusable(
                f"credentials {os.fspath(self._access.credentials)!r}: the seed is malformed"
            )
        if "info message" in said:
            text = f"the server does not speak the protocol of NATS: {text}"
        return StoreError(f"{server}: {text}")

    def _learn(self, client: Client) -> None:
        named = self._server.certified or self._server.host
        for url in client.discovered_servers:
            if url.hostname:
                # Servers tell each other's addresses, and certificates have names.
                certified = named if _is_address(url.hostname) and not _is_address(named) else None
                server = Server(url.hostname, url.port or DEFAULT_PORT, certified)
                if server not in self._access.servers:
                    if server in self._servers:
                        self._servers.remove(server)
                    self._servers.append(server)
        given = len(self._access.servers)
        del self._servers[given : max(given, len(self._servers) - _MOST_LEARNT)]
        self._left = {server: when for server, when in self._left.items() if server in self._servers}

    # --- connected --------------------------------------------------------------------------------

    async def _serve(self, loop: _Loop, client: Client) -> None:
        """Send and receive until the connection ends, for whatever reason."""
        outgoing: asyncio.Queue[Outgoing] = asyncio.Queue()
        self._look.clear()
        self._leaves = False
        self._reported = None
        sender = asyncio.create_task(self._send(client, outgoing))
        try:
            await self._subscribe(client, 0, self._subject)
            self._tell(self._listener.up, _info(client), partial(_put, loop, outgoing))
            while client.is_connected and not sender.done() and not self._leaves:
                # It tells when it is done with a connection, unless that makes it wait for one that hangs.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PING_EVERY):
                        await self._look.wait()
                    self._look.clear()
                    await asyncio.sleep(_MOMENT)
        except Exception as exc:  # noqa: BLE001 - the driver's, whatever it is, ends this connection and no more
            self._reported = exc
        finally:
            cause = client.last_error or self._reported
            self._tell(self._listener.down, "the server closed it" if cause is None else _reason(cause))
            self._learn(client)
            self._left[self._server] = loop.time()
            await self._drop(loop, client)

    async def _drop(self, loop: _Loop, client: Client) -> None:
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

    async def _send(self, client: Client, outgoing: asyncio.Queue[Outgoing]) -> None:
        subscribed: dict[int, Subscription] = {}
        try:
            while True:
                for item in await outgoing.get():
                    if isinstance(item, Publication):
                        headers = None if item.headers is None else dict(item.headers)
                        await client.publish(item.subject, item.data, item.reply, headers)
                    elif isinstance(item, Subscribe):
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

    async def _take(self, number: int, message: Msg) -> None:
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
        self._listener.arrived(arrived)

    # --- what the client reports, of itself -------------------------------------------------------

    async def _report(self, exc: Exception) -> None:
        _logger.debug("%s: nats-py reports: %s", self._access, _reason(exc))
        self._reported = exc
        text = str(exc)
        if "permissions" in text.lower():
            self._tell(self._listener.complain, _reason(exc))
        self._look.set()

    async def _closed(self) -> None:
        self._look.set()

    async def _lame(self) -> None:
        # It wants its clients to go elsewhere.
        self._leave("it is about to shut down")

    def _leave(self, why: str) -> None:
        if len(self._servers) > 1:
            self._reported = StoreError(f"{self._server}: {why}")
            self._leaves = True
            self._look.set()


def _put(
    loop: asyncio.AbstractEventLoop,
    outgoing: asyncio.Queue[Outgoing],
    items: Outgoing,
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
    told: Mapping[str, Any] = client._server_info
    return Info(numbers, client.max_payload, is_alone=not (told.get("cluster") or told.get("domain")))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(exc: BaseException) -> str:
    """What the driver or the system says, in one line."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
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
