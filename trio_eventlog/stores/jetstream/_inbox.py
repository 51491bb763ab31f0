"""Where answers and pushed messages arrive."""

from __future__ import annotations

import base64
import os
import re
from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

import attrs
import trio

from trio_eventlog._model._errors import StoreError
from trio_eventlog.stores.jetstream._protocol import Command, Message, Publish, Subscribe

_FORBIDDEN: Final = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE
)
"""How a server says that the user has no permission for a subject."""


class NoResponders(StoreError):
    """Nothing on the network takes what was sent."""


class PermissionDenied(StoreError):
    """The user may not do that. An operator can change it while the program runs."""


class NoAnswer(StoreError):
    """A server did not answer in time."""


class Owner(Protocol):
    """What an inbox belongs to: the connection."""

    def check_open(self) -> None:
        """Raise StoreUnusable if it cannot be used any more."""

    def not_served(self, seconds: float) -> None:
        """The server gave no answer for this many seconds."""


@attrs.define(eq=False)
class Inbox:
    """Where the answers to something arrive."""

    reply: str
    sid: int
    _owner: Owner
    is_server_asked: bool
    """Whether it is the server of the connection that has to answer."""
    _messages: deque[Message] = attrs.field(factory=deque, init=False)
    _has_news: trio.Event = attrs.field(factory=trio.Event, init=False)
    _lost: str | None = attrs.field(default=None, init=False)
    _denied: str | None = attrs.field(default=None, init=False)
    _asked: set[str] = attrs.field(factory=set, init=False)

    def on_sent(self, subject: str) -> None:
        """Something was sent whose answers arrive here."""
        self._asked.add(subject.lower())

    def on_denied(self, subject: str | None, text: str) -> None:
        """The user may not publish to a subject; None: may not receive any answers."""
        if subject is None or subject.lower() in self._asked:
            self._denied = text
            self._has_news.set()

    def on_message(self, message: Message) -> None:
        """A message has arrived."""
        self._messages.append(message)
        self._has_news.set()

    def on_lost(self, reason: str) -> None:
        """The connection was lost, and everything that has not arrived yet with it."""
        self._lost = self._lost or reason
        self._has_news.set()

    @property
    def is_lost(self) -> bool:
        """Whether nothing will arrive any more."""
        return self._lost is not None

    async def wait(self, seconds: float) -> list[Message]:
        """What has arrived, at least one message. Cancelled, it misses nothing.

        Not a checkpoint if there is something already.

        Raises:
          StoreError: nothing arrived within ``seconds``, or the connection is lost.
          PermissionDenied: nothing will arrive.
        """
        if not self._messages and self._lost is None and self._denied is None:
            self._has_news = trio.Event()
            with trio.move_on_after(seconds):
                await self._has_news.wait()
        if self._messages:
            messages = list(self._messages)
            self._messages.clear()
            return messages
        if self._lost is not None:
            self._owner.check_open()
            raise StoreError(self._lost)
        if self._denied is not None:
            raise PermissionDenied(f"{self._owner}: {self._denied}")
        if self.is_server_asked:
            self._owner.not_served(seconds)
        raise NoAnswer(f"{self._owner}: no answer within {seconds:.1f} seconds")


@attrs.define(eq=False)
class Inboxes:
    """All inboxes of a connection. Answers share one subscription, with the number 0."""

    _owner: Owner
    _prefix: str = attrs.field(
        factory=lambda: f"_INBOX.{base64.b32encode(os.urandom(10)).decode().lower()}", init=False
    )
    _by_reply: dict[str, Inbox] = attrs.field(factory=dict, init=False)
    _by_sid: dict[int, Inbox] = attrs.field(factory=dict, init=False)
    """Those with a subscription of their own."""
    _count: int = attrs.field(default=0, init=False)
    _deaf: str | None = attrs.field(default=None, init=False)
    """Why no answers can be received, if so."""

    def subscription(self) -> Subscribe:
        """What has to be sent on every new connection."""
        self._deaf = None
        return Subscribe(0, f"{self._prefix}.*")

    def open(self, *, is_server_asked: bool = True) -> Inbox:
        """A new inbox for answers."""
        self._count += 1
        inbox = Inbox(f"{self._prefix}.{self._count}", 0, self._owner, is_server_asked)
        self._by_reply[inbox.reply] = inbox
        if self._deaf is not None:
            inbox.on_denied(None, self._deaf)
        return inbox

    def open_subscription(self) -> Inbox:
        """A new inbox for what is pushed under other subjects, with a subscription of its own."""
        self._count += 1
        inbox = Inbox(f"{self._prefix}-{self._count}", self._count, self._owner, is_server_asked=False)
        self._by_sid[inbox.sid] = inbox
        return inbox

    def close(self, inbox: Inbox) -> None:
        """What arrives from now on is dropped."""
        self._by_reply.pop(inbox.reply, None)
        self._by_sid.pop(inbox.sid, None)

    def __iter__(self) -> Iterator[Inbox]:
        return iter((*self._by_reply.values(), *self._by_sid.values()))

    def on_sent(self, command: Command) -> None:
        """A command was sent."""
        if isinstance(command, Publish) and command.reply in self._by_reply:
            self._by_reply[command.reply].on_sent(command.subject)

    def on_message(self, message: Message) -> None:
        """A message has arrived."""
        inbox = self._by_sid.get(message.sid) if message.sid else self._by_reply.get(message.subject)
        if inbox is not None:
            inbox.on_message(message)

    def on_lost(self, reason: str) -> None:
        """The connection was lost."""
        for inbox in self:
            inbox.on_lost(reason)

    def on_error(self, text: str) -> None:
        """The server has refused something. What waits for just that gets no answer."""
        found = _FORBIDDEN.search(text)
        if found is None:
            return
        what, subject = found.groups()
        if (what.lower(), subject.lower()) == ("subscription", f"{self._prefix}.*".lower()):
            self._deaf = text
        for inbox in self._by_reply.values():
            inbox.on_denied(None if self._deaf else subject, text)
