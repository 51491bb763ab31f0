"""A connection to a NATS server or cluster that mends itself: Trio's side of the driver."""

from __future__ import annotations

import base64
import logging
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import msgspec
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._util import NoPublicConstructor, fork_count
from trio_eventlog.stores.jetstream._access import Access
from trio_eventlog.stores.jetstream._driver import (
    CLOSE_SECONDS,
    Driver,
    Info,
    Message,
    Outgoing,
    Publication,
    Subscribe,
    Unsubscribe,
)

_logger: Final = logging.getLogger("trio_eventlog")

ANSWER_SECONDS: Final = 5.0
"""How long an answer may take. The election of a new leader takes about as long."""

_FORBIDDEN: Final = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE
)
"""What a server says of something that a user may not do, with its subject."""


class NobodyThere(StoreError):
    """Nobody on the network takes what was sent."""


class Denied(StoreError):
    """The user may not do that. An operator can change it while the program runs."""


class NoAnswer(StoreError):
    """A server did not answer in time."""


# --- answers --------------------------------------------------------------------------------------


class Inbox:
    """Where the answers to something come in."""

    def __init__(self, link: Link, reply: str, *, is_asked: bool) -> None:
        self.reply: Final = reply
        self._link = link
        self._is_asked = is_asked
        self._messages: deque[Message] = deque()
        self._wake = trio.Event()
        self._lost: str | None = None
        self._denied: str | None = None
        self._asked: set[str] = set()

    def ask(self, subject: str) -> None:
        """Of the link: something was sent whose answers come here."""
        self._asked.add(subject.lower())

    def deny(self, subject: str | None, text: str) -> None:
        """Of the link: the server says that the user may not send to a subject; None: not receive answers."""
        if subject is None or subject.lower() in self._asked:
            self._denied = text
            self._wake.set()

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
          Denied: nothing will come.
        """
        await trio.lowlevel.checkpoint()
        if not self._messages and self._lost is None and self._denied is None:
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
        if self._denied is not None:
            raise Denied(f"{self._link}: {self._denied}")
        if self._is_asked:
            self._link.not_served(seconds)
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
        self._publish: Callable[[Outgoing], object] | None = None
        self._is_closed = False
        self._trouble = "no server was asked yet"
        self._complaint = ""
        self._is_deaf = False
        self._not_served_since: float | None = None
        self._scope = trio.CancelScope(shield=True)
        self._tasks: trio.Nursery | None = None
        self._has_begun = trio.Event()
        self._refusal: StoreError | None = None
        self._has_ended = trio.Event()
        self._driver = Driver(self, to, f"{self._prefix}.*", trio.lowlevel.current_trio_token())
        self.info: Info = Info()
        """What the server last said of itself."""

        self.generation: int = 0
        """How often a connection was made."""

    def __str__(self) -> str:
        return str(self._access)

    def no_answer(self, seconds: float) -> StoreError:
        """The error for an answer that did not come."""
        return NoAnswer(f"{self}: no answer within {seconds:.1f} seconds")

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
            raise StoreError(f"{self}: not connected: {self._trouble}")

    def send(self, publications: Outgoing) -> None:
        """Send messages, all of them or, if the connection breaks, none or some from the first on.

        Raises:
          StoreError: as :meth:`check`.
        """
        self.check()
        assert self._publish is not None
        for item in publications:
            if isinstance(item, Publication) and item.reply in self._inboxes:
                self._inboxes[item.reply].ask(item.subject)
        self._publish(publications)

    @contextmanager
    def expecting(self, *, is_asked: bool = True) -> Iterator[Inbox]:
        """Somewhere for answers to go, for the length of the block.

        Args:
          is_asked: whether the server that we talk to is to blame if none comes.
        """
        inbox = self.open_inbox(is_asked=is_asked)
        try:
            yield inbox
        finally:
            self.close_inbox(inbox)

    def open_inbox(self, *, is_asked: bool = True) -> Inbox:
        """The same without a block; to be closed with :meth:`close_inbox`."""
        self._count += 1
        inbox = Inbox(self, f"{self._prefix}.{self._count}", is_asked=is_asked)
        self._inboxes[inbox.reply] = inbox
        if self._is_deaf:
            inbox.deny(None, self._complaint)
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
        inbox = Inbox(self, f"{self._prefix}-{number}", is_asked=False)
        self.send([Subscribe(number, inbox.reply)])
        self._subscribed[number] = inbox
        return number, inbox

    def unsubscribe(self, number: int) -> None:
        """Have nothing pushed any more."""
        if self._subscribed.pop(number, None) is not None and self._publish is not None:
            self.send([Unsubscribe(number)])

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
        is_asked: bool = True,
    ) -> Message:
        """Publish, and wait for the one answer. A checkpoint.

        Raises:
          StoreError: as :meth:`send`; no answer came, or nobody is there to give one.
        """
        await trio.lowlevel.checkpoint()
        with self.expecting(is_asked=is_asked) as inbox:
            self.send([Publication(subject, data, headers, inbox.reply)])
            return self.answer((await inbox.wait(seconds))[0])

    def answer(self, message: Message) -> Message:
        """``message``, unless it says that nobody is there.

        Raises:
          NobodyThere: so it does.
        """
        if message.status == 503:  # noqa: PLR2004 - no responders
            self.not_served()
            raise NobodyThere(
                f"{self}: JetStream does not answer now: its servers choose a leader, or cannot be reached"
            )
        return message

    # --- whether the server serves ----------------------------------------------------------------

    def served(self) -> None:
        """The server has done what it was asked for."""
        self._not_served_since = None

    def not_served(self, seconds: float = 0.0) -> None:
        """The server gave no answer for so many seconds, or said that the stream has no leader.

        While a leader is chosen, none does better. One that goes on like this may be cut off from the others,
        to which clients come through all the same.
        """
        began = trio.current_time() - seconds
        if self._not_served_since is None:
            self._not_served_since = began
        if trio.current_time() - min(began, self._not_served_since) >= ANSWER_SECONDS:
            self._not_served_since = None
            self._driver.leave()

    # --- what the driver tells, in Trio's thread ---------------------------------------------------

    def failed(self, refusal: StoreError) -> None:
        """There was no connection to begin with."""
        self._refusal = refusal
        self._has_begun.set()

    def up(self, info: Info, publish: Callable[[Outgoing], object]) -> None:
        """There is a connection."""
        self.info = info
        self.generation += 1
        self._complaint = ""
        self._is_deaf = False
        self._not_served_since = None
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
        """The server does not do something. Whoever waits for just that gets no answer."""
        self._complaint = text
        found = _FORBIDDEN.search(text)
        if found is None:
            return
        what, subject = found.groups()
        self._is_deaf = self._is_deaf or (what.lower(), subject) == (
            "subscription",
            f"{self._prefix}.*".lower(),
        )
        for inbox in self._inboxes.values():
            inbox.deny(None if self._is_deaf else subject, text)

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

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is for the program, not for this task
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
        await self._has_begun.wait()
        if self._refusal is not None:
            raise self._refusal

    async def aclose(self) -> None:
        """Refuse what comes from now on, and wait until the connection is gone; for two seconds at most."""
        self._is_closed = True
        self._driver.stop()
        self._scope.deadline = trio.current_time() + CLOSE_SECONDS
        # The deadline above bounds it; this one is for the case that even that does not end it.
        with trio.move_on_after(2 * CLOSE_SECONDS, shield=True):
            await self._has_ended.wait()


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
