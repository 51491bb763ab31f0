"""Connecting to a server of NATS: addresses, TLS, and who asks."""

from __future__ import annotations

import base64
import math
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._threads import run_sync
from trio_eventlog._util import how_to_install
from trio_eventlog.stores.jetstream._access import Access, Server
from trio_eventlog.stores.jetstream._protocol import (
    PING,
    Parser,
    Pong,
    ProtocolError,
    ServerError,
    ServerInfo,
    connect,
)
from trio_eventlog.stores.jetstream._transport import CONNECTION_ERRORS, Wire, reason_of

T = TypeVar("T")

_NEXT_ADDRESS_DELAY: Final = 0.25
"""Seconds after which the next address of a name is tried as well."""

_MAX_THREADS: Final = 4
"""For what blocks: the resolver of the system, and files."""

_REFUSED: Final = ("authorization violation", "authentication", "account")
"""What a server says when it does not accept the user, in lower case."""

_BUSY: Final = ("exceeded", "timeout")
"""What it says if it may accept the user later, for example when an account has too many connections."""

_JWT: Final = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED: Final = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END USER NKEY SEED-+")


class _RefusedByServerError(Exception):
    """The server has answered the handshake with an error."""


@attrs.frozen(eq=False)
class Dialer:
    """Makes connections to the servers of a cluster."""

    access: Access
    # Its own threads: when all of Trio's default ones are busy, a connection can be made all the same.
    _limiter: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(_MAX_THREADS), init=False
    )

    async def dial(self, server: Server, seconds: float) -> Wire:
        """Connect to a server and log in, within this many seconds.

        Raises:
          StoreError: the server cannot be reached, or does not answer as it should.
          StoreUnusable: it does not accept the user, or the credentials cannot be used.
        """
        try:
            with trio.fail_after(seconds):
                return await self._dial(server, seconds)
        except trio.TooSlowError as exc:
            raise StoreError(f"{server}: no answer in time") from exc
        except _RefusedByServerError as exc:
            raise _refusal(server, str(exc)) from exc
        except ProtocolError as exc:
            raise StoreError(f"{server}: the server does not speak the protocol of NATS: {exc}") from exc
        except (*CONNECTION_ERRORS, UnicodeError) as exc:
            # The resolver raises UnicodeError for some names.
            raise StoreError(f"{server}: {reason_of(exc)}") from exc

    async def _dial(self, server: Server, seconds: float) -> Wire:
        wire = Wire(server, await self._open_tcp(server))
        is_connected = False
        try:
            await self._greet(wire, seconds)
            await self._log_in(wire)
            is_connected = True
        finally:
            if not is_connected:
                wire.abort()
        return wire

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await run_sync(function, limiter=self._limiter)

    # --- TCP --------------------------------------------------------------------------------------

    async def _open_tcp(self, server: Server) -> trio.SocketStream:
        """Connect to one of the addresses of a server, whichever answers first.

        They are tried one after the other, with little delay. As :func:`trio.open_tcp_stream` does; that one
        shares its threads with the program, though, and wraps a KeyboardInterrupt into a group.
        """
        addresses = await self._look_up(server)
        error: BaseException | None = None
        send, receive = trio.open_memory_channel[trio.socket.SocketType | OSError](len(addresses))
        sock: trio.socket.SocketType | None = None
        is_ours = True
        try:
            async with trio.open_nursery() as nursery:
                try:
                    sock = await _first_to_answer(nursery, addresses, send, receive)
                except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, outside of the nursery
                    error = exc
                nursery.cancel_scope.cancel(reason="an address has answered")
            if error is not None:
                raise error
            is_ours = False
        finally:
            del error
            # Sockets that nobody gets: those that came late, and all if this was cancelled meanwhile.
            while receive.statistics().current_buffer_used:
                late = receive.receive_nowait()
                if not isinstance(late, OSError):
                    late.close()
            if is_ours and sock is not None:
                sock.close()
        assert sock is not None
        return trio.SocketStream(sock)

    async def _look_up(self, server: Server) -> list[Any]:
        look_up = partial(socket.getaddrinfo, server.host, server.port, type=socket.SOCK_STREAM)
        with suppress(socket.gaierror):
            return look_up(flags=socket.AI_NUMERICHOST)
        return await self._in_thread(look_up)

    # --- INFO and TLS -----------------------------------------------------------------------------

    async def _greet(self, wire: Wire, seconds: float) -> None:
        """Receive the INFO of a server, and have the connection encrypted where it has to be."""
        tls = self.access.tls
        with trio.move_on_after(math.inf if tls is None else seconds / 3) as scope:
            await self._receive_info(wire)
        if scope.cancelled_caught:
            # A server that is configured with `handshake_first` says nothing before the TLS handshake.
            if wire.parser.is_empty:
                await self._encrypt(wire)
            await self._receive_info(wire)
            if isinstance(wire.stream, trio.SSLStream):
                return
        if wire.info.tls_required or (tls is not None and wire.info.tls_available):
            await self._encrypt(wire)
        elif tls is not None:
            # Before any secret is sent.
            raise StoreError(f"{self.access}: the server offers no TLS")

    async def _receive_info(self, wire: Wire) -> None:
        try:
            event = await wire.receive()
        except ProtocolError as exc:
            raise ProtocolError(f"expected INFO: {exc}") from exc
        if isinstance(event, ServerError):
            raise _RefusedByServerError(event.text)
        if not isinstance(event, ServerInfo):
            raise ProtocolError(f"expected INFO, got {type(event).__name__}")
        wire.info = event

    async def _encrypt(self, wire: Wire) -> None:
        # To load the certificates of the system takes tens of milliseconds.
        context = self.access.tls
        if context is None:
            context = await self._in_thread(ssl.create_default_context)
        assert isinstance(wire.stream, trio.SocketStream)
        stream = trio.SSLStream(
            wire.stream,
            context,
            server_hostname=wire.server.certified or wire.server.host,
            https_compatible=True,
        )
        await stream.do_handshake()
        wire.stream = stream
        # What came in the clear behind INFO did not come from the server.
        wire.parser = Parser()

    # --- who asks ---------------------------------------------------------------------------------

    async def _log_in(self, wire: Wire) -> None:
        options = {
            "verbose": False,
            "pedantic": False,
            "tls_required": isinstance(wire.stream, trio.SSLStream),
            "name": "trio-eventlog",
            "lang": "python",
            "version": "1",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            **await self._secrets(wire.info.nonce),
        }
        await wire.stream.send_all(connect(options) + PING)
        while not isinstance(event := await wire.receive(), Pong):
            if isinstance(event, ServerInfo):
                wire.info = event
            elif isinstance(event, ServerError):
                raise _RefusedByServerError(event.text)

    async def _secrets(self, nonce: str) -> dict[str, str]:
        to = self.access
        if to.user is not None:
            return {"user": to.user, "pass": to.password or ""}
        if to.token is not None:
            return {"auth_token": to.token}
        if to.credentials is not None:
            # Read for each connection: some are replaced every few hours.
            return await self._in_thread(partial(_signed, to.credentials, nonce))
        return {}


async def _first_to_answer(
    nursery: trio.Nursery,
    addresses: Sequence[Any],
    send: trio.MemorySendChannel[trio.socket.SocketType | OSError],
    receive: trio.MemoryReceiveChannel[trio.socket.SocketType | OSError],
) -> trio.socket.SocketType:
    waiting = deque(addresses)
    errors: list[OSError] = []
    while len(errors) < len(addresses):
        if waiting:
            nursery.start_soon(_attempt, waiting.popleft(), send)
        with trio.move_on_after(_NEXT_ADDRESS_DELAY if waiting else math.inf):
            outcome = await receive.receive()
            if not isinstance(outcome, OSError):
                return outcome
            errors.append(outcome)
    raise errors[0]


@trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is for the program, not for these tasks
async def _attempt(address: Any, send: trio.MemorySendChannel[trio.socket.SocketType | OSError]) -> None:
    family, kind, protocol, _, where = address
    sock: trio.socket.SocketType | None = None
    try:
        sock = trio.socket.socket(family, kind, protocol)
        await sock.connect(where)
    except OSError as exc:
        if sock is not None:
            sock.close()
        send.send_nowait(exc)
    except BaseException:
        assert sock is not None
        sock.close()
        raise
    else:
        send.send_nowait(sock)


def _refusal(server: Server, text: str) -> StoreError:
    said = text.lower()
    if any(word in said for word in _REFUSED) and not any(word in said for word in _BUSY):
        return StoreUnusable(
            f"{server}: the server refuses the connection: {text}; check user, password, token or credentials"
        )
    return StoreError(f"{server}: {text}")


def _signed(path: Path, nonce: str) -> dict[str, str]:
    """What a credentials file has to say to a server that sends this nonce."""
    shown = repr(os.fspath(path))
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise StoreUnusable(f"credentials {shown} cannot be read: {reason_of(exc)}") from exc
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if seed is None or (jwt is None and "NATS USER JWT" in text):
        raise StoreUnusable(f"credentials {shown} hold no user JWT with the seed of its key, and no seed")
    try:
        import nkeys  # type: ignore[import-untyped] # noqa: PLC0415 - only credentials need it
    except ImportError as exc:
        raise StoreUnusable(f"credentials need the package nkeys: {how_to_install('nats')}") from exc
    try:
        keys: Any = nkeys.from_seed(seed[1].encode())
        signature = base64.urlsafe_b64encode(keys.sign(nonce.encode())).rstrip(b"=").decode()
        user = {"jwt": jwt[1]} if jwt is not None else {"nkey": keys.public_key.decode()}
    except Exception:  # noqa: BLE001 - its errors, which have other names in each release, and those of PyNaCl
        # Without the cause: the error may show the seed.
        raise StoreUnusable(f"credentials {shown}: the seed is malformed") from None
    return {**user, "sig": signature}
