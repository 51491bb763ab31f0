"""A connection to a NATS server or cluster that mends itself.

Each connection to a server is a ``Wire`` of its own: what was given to one that is lost is lost with it, and
never sent on the next.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import trio

from trio_eventlog._engine._policy import RetryPolicy
from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._own_work import SOME_LOG, at_work
from trio_eventlog._util import NoPublicConstructor
from trio_eventlog.stores._common._closing import Closing, OwningProcess, closed_error
from trio_eventlog.stores.jetstream._access import Access, Server, Servers
from trio_eventlog.stores.jetstream._dial import Dialer
from trio_eventlog.stores.jetstream._inbox import Inbox, Inboxes, NoResponders
from trio_eventlog.stores.jetstream._protocol import (
    Command,
    Message,
    Publish,
    ServerInfo,
    Subscribe,
    Unsubscribe,
    decode_json,
)
from trio_eventlog.stores.jetstream._transport import Wire

_logger: Final = logging.getLogger("trio_eventlog")

ANSWER_TIMEOUT: Final = 5.0
"""How long an answer may take, in seconds. The election of a new leader takes about as long."""

_CONNECT_TIMEOUT: Final = 3.0
"""Seconds for each attempt to connect to one server."""

_FIRST_CONNECT_TIMEOUT: Final = 0.5
"""The same in the first round of attempts after a connection was lost; twice as long in each further one.
A machine that is gone does not answer, and others may."""

_PAUSES: Final = RetryPolicy(initial=0.05, maximum=1.0, jitter=0.5)
"""Between two rounds of attempts."""

_CLOSE_TIMEOUT: Final = 0.5
"""Seconds to send what is not sent yet when the store is closed."""

_NO_RESPONDERS: Final = 503


class Connection(metaclass=NoPublicConstructor):
    """See :func:`open_connection`."""

    def __init__(self, access: Access) -> None:
        self._dialer = Dialer(access)
        self._servers = Servers(access.servers)
        self._inboxes = Inboxes(self)
        self._process = OwningProcess()
        self._wire: Wire | None = None
        self._down_reason = "no server was asked yet"
        self._not_served_since: float | None = None
        self._is_closed = False
        self._tasks: trio.Nursery | None = None
        # Shielded: the body of the store is cancelled first, and needs the connection to release its lock.
        self._scope = trio.CancelScope(shield=True)
        self._has_ended = trio.Event()
        self.body_scope: Final = trio.CancelScope()
        """Of the body of the store. Cancelled if the connection fails because of a bug."""

        self.bug: Exception | None = None
        self.info: ServerInfo = ServerInfo()
        """What the server last said about itself."""

        self.generation: int = 0
        """How often a connection was made."""

    def __str__(self) -> str:
        return str(self._dialer.access)

    # --- sending ----------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Check whether this can be used at all.

        Raises:
          StoreUnusable: the connection was closed, has failed because of a bug, or belongs to the process
            that forked this one.
        """
        self._process.check(str(self))
        if self.bug is not None:
            raise self.failure() from self.bug
        if self._is_closed:
            raise closed_error(str(self))

    def check_connected(self) -> Wire:
        """Check whether something can be sent now.

        Raises:
          StoreUnusable: as :meth:`check_open`.
          StoreError: there is no connection now.
        """
        self.check_open()
        if self._wire is None:
            raise StoreError(f"{self}: not connected: {self._down_reason}")
        return self._wire

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands: all of them or, if the connection breaks, the first ones or none.

        Raises:
          StoreError: as :meth:`check_connected`.
        """
        self.check_connected().send(commands)
        for command in commands:
            self._inboxes.on_sent(command)

    @contextmanager
    def expecting(self, *, is_server_asked: bool = True) -> Iterator[Inbox]:
        """An inbox for answers, for the length of the block.

        If none arrives, the server of this connection is to blame, unless ``is_server_asked`` is False.
        """
        inbox = self.open_inbox(is_server_asked=is_server_asked)
        try:
            yield inbox
        finally:
            self.close_inbox(inbox)

    def open_inbox(self, *, is_server_asked: bool = True) -> Inbox:
        """The same without a block; to be closed with :meth:`close_inbox`."""
        return self._inboxes.open(is_server_asked=is_server_asked)

    def close_inbox(self, inbox: Inbox) -> None:
        """Drop what arrives from now on."""
        self._inboxes.close(inbox)

    def subscribe(self) -> Inbox:
        """An inbox for what is pushed to its ``reply``, under any subject, until the connection is lost.

        Raises:
          StoreError: as :meth:`check_connected`.
        """
        self.check_connected()
        inbox = self._inboxes.open_subscription()
        self.send([Subscribe(inbox.sid, inbox.reply)])
        return inbox

    def unsubscribe(self, inbox: Inbox) -> None:
        """Close the inbox of a subscription."""
        self.close_inbox(inbox)
        if not inbox.is_lost:
            self.send([Unsubscribe(inbox.sid)])

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_TIMEOUT,
        is_server_asked: bool = True,
    ) -> Message:
        """Publish a message, and wait for the one answer.

        Raises:
          StoreError: as :meth:`send`; or no answer arrived, or there is nothing that could answer.
        """
        with self.expecting(is_server_asked=is_server_asked) as inbox:
            self.send([Publish(subject, data, headers, inbox.reply)])
            return self.checked((await inbox.wait(seconds))[0])

    def checked(self, message: Message) -> Message:
        """``message``, unless it says that nothing has received what it would answer.

        Raises:
          NoResponders: it says so.
        """
        if message.status == _NO_RESPONDERS:
            self.not_served(0.0)
            raise NoResponders(
                f"{self}: JetStream does not answer now: its servers choose a leader, or cannot be reached"
            )
        return message

    # --- whether the server serves ----------------------------------------------------------------

    def served(self) -> None:
        """The server has done what it was asked for."""
        self._not_served_since = None

    def not_served(self, seconds: float) -> None:
        """The server gave no answer for this many seconds, or said that the stream has no leader.

        While a leader is elected, no server does better. One that goes on like this may be cut off from the
        others, although clients reach it.
        """
        began = trio.current_time() - seconds
        if self._not_served_since is None:
            self._not_served_since = began
        if trio.current_time() - min(began, self._not_served_since) >= ANSWER_TIMEOUT:
            self._not_served_since = None
            self._leave("it was left, since it does not answer")

    def _leave(self, reason: str) -> None:
        """Go on with another server, if there is one."""
        if len(self._servers) > 1 and self._wire is not None:
            self._wire.end(f"{self._wire.server}: {reason}")

    # --- what the server says ---------------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """A message has arrived."""
        self._inboxes.on_message(message)

    def on_info(self, info: ServerInfo) -> None:
        """The server has news about itself or its cluster."""
        assert self._wire is not None
        if info.max_payload:  # otherwise it tells of the cluster alone
            self.info = info
        self._warn(self._servers.learn(self._wire.server, info.connect_urls))
        if info.ldm:
            self._leave("it is about to shut down")

    def on_error(self, text: str) -> None:
        """The server has refused something."""
        _logger.debug("%s: the server says: %s", self, text)
        self._inboxes.on_error(text)

    def _warn(self, malformed: Sequence[str]) -> None:
        for address in malformed:
            _logger.warning("%s: a server advertises an address that cannot be parsed: %s", self, address)

    # --- its life ---------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Make the first connection, with the first of the given servers that answers.

        Raises:
          StoreError: none can be reached.
          StoreUnusable: one does not accept the user, for example.
        """
        reasons: list[str] = []
        for server in self._servers.given:
            try:
                self._on_up(await self._dial(server, _CONNECT_TIMEOUT))
            except StoreUnusable:
                raise
            except StoreError as exc:
                reasons.append(str(exc))
            else:
                return
        raise StoreError("; ".join(reasons))

    async def _dial(self, server: Server, seconds: float) -> Wire:
        wire = await self._dialer.dial(server, seconds)
        self._warn(self._servers.has_answered(server, wire.info.connect_urls))
        return wire

    async def _reconnect(self) -> Wire:
        failures = 0
        while True:
            seconds = min(_FIRST_CONNECT_TIMEOUT * 2 ** min(failures, 8), _CONNECT_TIMEOUT)
            for server in self._servers.in_random_order():
                try:
                    return await self._dial(server, seconds)
                except StoreError as exc:
                    self._servers.has_not_answered(server)
                    self._down_reason = str(exc)
            failures += 1
            await trio.sleep(_PAUSES.delay(failures))

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a task for as long as the connection; it may outlive the body of the store by a moment."""
        assert self._tasks is not None
        _start_as_own_work(self._tasks, self._guarded, function)

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is for the program, not for these tasks
    async def _guarded(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except Exception as exc:  # open_connection() raises it, since here it would come out in a group
            _logger.exception("%s: internal error", self)
            self.bug = exc
            self._scope.cancel(reason="internal error")
            self.body_scope.cancel(reason="the connection of the store has failed")

    def failure(self) -> StoreUnusable:
        """The error for :attr:`bug`, a new one each time."""
        return StoreUnusable(f"{self}: internal error of the connection: {self.bug!r}")

    @trio.lowlevel.enable_ki_protection  # as above
    async def hold(self) -> None:
        """Stay connected until :meth:`aclose`. For a task of its own, which raises nothing."""
        try:
            with self._scope:
                async with trio.open_nursery() as self._tasks:
                    await self._guarded(self._stay_connected)
                    self._tasks.cancel_scope.cancel(reason="the store is closed")
        finally:
            self._on_down("the store is closed")
            self._has_ended.set()

    async def _stay_connected(self) -> None:
        while True:
            wire, reason = self._wire, "internal error"
            assert wire is not None
            try:
                reason = await wire.carry(self)
            finally:
                self._on_down(reason)
                self._servers.was_left(wire.server, trio.current_time())
            if self._is_closed:
                return
            self._on_up(await self._reconnect())

    def _on_up(self, wire: Wire) -> None:
        self._wire = wire
        self.info = wire.info
        self.generation += 1
        self._not_served_since = None
        wire.send([self._inboxes.subscription()])

    def _on_down(self, reason: str) -> None:
        self._wire = None
        self._down_reason = reason
        self._inboxes.on_lost(f"{self}: the connection was lost: {reason}")

    async def aclose(self) -> None:
        """Refuse what is sent from now on, and wait until the connection has ended; it takes a bounded time.

        Raises:
          KeyboardInterrupt: one has arrived meanwhile; raised at the end.
        """
        self._is_closed = True
        if self._wire is None:
            self._scope.cancel(reason="the store is closed")
        else:
            self._wire.finish()
            self._scope.deadline = trio.current_time() + _CLOSE_TIMEOUT
        # Ends later than that: the tasks take a moment to end once they are cancelled.
        closing = Closing(trio.current_time() + 2 * _CLOSE_TIMEOUT)
        await closing.run(self._has_ended.wait)
        closing.raise_interrupt()


def _start_as_own_work(nursery: trio.Nursery, function: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Start a task that counts as work for a log: what it says must not lead to events, for it to send."""
    token = at_work.set(SOME_LOG)
    try:
        nursery.start_soon(function, *args)
    finally:
        at_work.reset(token)


@asynccontextmanager
async def open_connection(access: Access) -> AsyncIterator[Connection]:
    """A connection, for the length of an ``async with`` block.

    What the body raises comes out as it is. If the connection fails because of a bug, the body is cancelled,
    and one StoreUnusable comes out, from the bug.

    Raises:
      StoreError: no server can be reached now.
      StoreUnusable: a server does not accept the user, or the credentials cannot be used.
    """
    connection = Connection._create(access)
    await connection.connect()
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            _start_as_own_work(nursery, connection.hold)
            try:
                try:
                    with connection.body_scope:
                        yield connection
                finally:
                    await connection.aclose()  # noqa: ASYNC102 - shielded, with a bound, inside
            except BaseException as exc:  # noqa: BLE001, ASYNC103 - raised below, once the nursery is gone
                body_error = exc
        if body_error is not None:
            raise body_error
        if connection.bug is not None:
            raise connection.failure() from connection.bug
    finally:
        # An exception that stays in a local of its own traceback is a cycle.
        del body_error


def decode(message: Message) -> dict[str, Any]:
    """The JSON object in a message.

    Raises:
      StoreError: there is none.
    """
    try:
        answer = decode_json(message.data, dict[str, Any])
    except ValueError as exc:
        raise StoreError(f"the server answers with what is not a JSON object: {message.data[:60]!r}") from exc
    # What the API answers with, if it answers with them.
    for name in ("error", "config", "state"):
        if name in answer and not isinstance(answer[name], dict):
            raise StoreError(f"the server answers with a malformed {name}: {message.data[:60]!r}")
    return answer
