"""Requests to JetStream about one stream, and what its refusals mean."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import attrs
import msgspec
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import new_event_id
from trio_eventlog.stores._common._batches import TimeSlice
from trio_eventlog.stores.jetstream._connection import ANSWER_TIMEOUT, Connection, decode
from trio_eventlog.stores.jetstream._inbox import PermissionDenied
from trio_eventlog.stores.jetstream._protocol import Message, Publish

T = TypeVar("T")

_NO_MESSAGE: Final = 10037
_NO_STREAM: Final = 10059
_WRONG_POSITION: Final = frozenset({10071, 10164})
_NAME_IN_USE: Final = 10058
_NO_LEADER: Final = 10008
_NO_MAX_BYTES: Final = 10113
TOO_LARGE_BATCH: Final = 10199

_ALREADY_DELETED: Final = frozenset({_NO_MESSAGE, 10043, 10057})
"""What a server says about a message that it is asked to delete and does not have."""

PERMANENT_ERRORS: Final = frozenset(
    {
        10003,  # the request is malformed
        10025,  # it is not JSON
        10056,  # it names another stream
        10109,  # the stream is sealed
    }
)
"""Codes of refusals that nothing can change while the program runs. All others are taken for transient."""

PERMANENT_ON_OPENING: Final = frozenset(
    {
        10035,  # the account is not known
        10039,  # JetStream is not enabled for the account
        10052,  # the configuration of the stream is refused
        _NAME_IN_USE,
        10065,  # another stream has its subjects
        10074,  # a server on its own keeps no replicas
        10076,  # JetStream is not enabled
        _NO_MAX_BYTES,
        10120,  # the account has no limits for this number of replicas
        10122,  # max_bytes is more than the account may have
        10166,  # the stream does not support times to live
        10174,  # the stream does not support batches
    }
)
"""Codes that end an attempt to open the store. While it is open, an operator can change what is wrong."""

_MAX_REQUESTS: Final = 500
"""Requests that are under way at a time; a server queues 10,000 of all its clients."""

_FIRST_REQUESTS: Final = 16
"""The same until it is known how large the answers are."""

_MAX_BYTES: Final = 2 * 1024 * 1024
"""Most bytes that are asked for at once: the answer to a ping comes behind them, and must not take long."""

_CONSUMER_TIMEOUT: Final = 2.0
"""Seconds. If the server of a consumer is gone, no other one says so."""

_ACK_TOKENS: Final = 9
"""Of a subject for acknowledgements; newer ones have a domain and an account more in front."""

_RETRY_PAUSE: Final = 0.1

_END_OF_BATCH: Final = 204
_NOT_FOUND: Final = 404


class Refused(StoreError):
    """The server refuses something, for now."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class WrongPosition(Refused):
    """The last message of a subject is not the expected one; nothing was stored."""


@attrs.frozen
class StoredMessage:
    """A message as it lies in the stream."""

    position: int
    subject: str
    data: bytes


@attrs.frozen
class MessagePage:
    """Some messages of a stream, ascending by position."""

    messages: list[StoredMessage]
    is_last: bool
    """Whether the server that was asked has no more of them."""


class _Found(msgspec.Struct):
    seq: int
    subject: str
    data: bytes = b""


class _Answer(msgspec.Struct):
    """To a request for a message."""

    message: _Found | None = None
    error: dict[str, Any] | None = None


_decode_answer: Final = msgspec.json.Decoder(_Answer).decode


@attrs.frozen(eq=False)
class Stream:
    """A stream, through a connection."""

    connection: Connection
    name: str

    def __str__(self) -> str:
        return f"stream {self.name} at {self.connection}"

    def refusal(self, error: Mapping[str, Any]) -> StoreError:
        """What the server has against something, as an error of ours."""
        code = error.get("err_code", 0)
        if code == _NO_LEADER:
            self.connection.not_served(0.0)
        text = f"{self}: {error.get('description', 'refused')} (JetStream error {code})"
        if code in _WRONG_POSITION:
            return WrongPosition(text, code)
        if code in PERMANENT_ERRORS:
            return StoreUnusable(text)
        return Refused(text, code)

    async def _call(
        self, operation: str, request: Mapping[str, Any], *, seconds: float = ANSWER_TIMEOUT
    ) -> dict[str, Any]:
        message = await self.connection.request(
            f"$JS.API.{operation}.{self.name}", msgspec.json.encode(request), seconds=seconds
        )
        return decode(message)

    async def ask(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Have the server do something, and return its answer.

        Raises:
          StoreError: it refuses, or does not answer.
        """
        reply = await self._call(operation, request)
        if "error" in reply:
            raise self.refusal(reply["error"])
        self.connection.served()
        return reply

    # --- the stream itself ------------------------------------------------------------------------

    async def info(
        self, subjects: str | None = None, offset: int = 0, *, seconds: float = ANSWER_TIMEOUT
    ) -> dict[str, Any] | None:
        """Its configuration and state; None if there is no such stream.

        Args:
          subjects: also count the messages of each subject that matches this.
          offset: how many of these subjects to leave out; a server names 100,000 at once.
          seconds: how long the answer may take.
        """
        request = {} if subjects is None else {"subjects_filter": subjects, "offset": offset}
        reply = await self._call("STREAM.INFO", request, seconds=seconds)
        error = reply.get("error")
        if error is None:
            if not {"config", "state"} <= reply.keys():
                raise StoreError(f"{self}: the server does not say how it is configured, and what it has")
            self.connection.served()
            return reply
        if error.get("err_code") == _NO_STREAM:
            return None
        raise self.refusal(error)

    async def create(self, config: Mapping[str, Any]) -> None:
        """Create it, unless another program has done so meanwhile."""
        reply = await self._call("STREAM.CREATE", config)
        error = reply.get("error")
        if error is None or error.get("err_code") == _NAME_IN_USE:
            return
        refusal = self.refusal(error)
        if error.get("err_code") == _NO_MAX_BYTES:
            raise StoreUnusable(f"{refusal}; give max_bytes") from refusal
        raise refusal

    # --- single messages --------------------------------------------------------------------------

    async def last(self, subject: str) -> StoredMessage | None:
        """The last message of a subject, as the stream's leader has it."""
        return await self._get({"last_by_subj": subject})

    async def next(self, position: int, subject: str) -> StoredMessage | None:
        """The first message of a subject from a position on, as the stream's leader has it."""
        return await self._get({"seq": max(position, 1), "next_by_subj": subject})

    async def lasts(self, subjects: Iterable[str]) -> list[StoredMessage]:
        """The last message of each of these subjects that has one, in any order."""
        requests = [{"last_by_subj": subject} for subject in subjects]
        found = await self._call_all("STREAM.MSG.GET", requests, self._stored)
        return [stored for stored in found if stored is not None]

    async def at(self, positions: Sequence[int]) -> tuple[list[StoredMessage], int]:
        """The messages at these positions, as the leader has them, ascending. Some may be gone.

        Returns:
          Those at the first positions, until they weigh some MiB; and how many positions that are.
        """
        requests = [{"seq": position} for position in positions]
        answers = await self._call_all("STREAM.MSG.GET", requests, self._stored, _MAX_BYTES)
        found = [stored for stored in answers if stored is not None]
        return sorted(found, key=lambda message: message.position), len(answers)

    async def _get(self, request: Mapping[str, Any]) -> StoredMessage | None:
        message = await self.connection.request(
            f"$JS.API.STREAM.MSG.GET.{self.name}", msgspec.json.encode(request)
        )
        return self._stored(message)

    def _stored(self, message: Message) -> StoredMessage | None:
        try:
            answer = _decode_answer(message.data)
        except ValueError as exc:
            raise StoreError(f"{self}: the server answers without a message: {message.data[:60]!r}") from exc
        found, error = answer.message, answer.error
        if found is not None:
            self.connection.served()
            return StoredMessage(found.seq, found.subject, found.data)
        if error is not None and error.get("err_code") == _NO_MESSAGE:
            return None
        raise self.refusal(error or {})

    async def _call_all(
        self,
        operation: str,
        requests: Sequence[Mapping[str, Any]],
        take: Callable[[Message], T],
        max_bytes: float = math.inf,
    ) -> list[T]:
        """What ``take`` makes of the answers to many requests, in any order, with a bounded number under way.

        Once the answers weigh ``max_bytes``, no more is asked: they are those to the first requests then.
        """
        taken: list[T] = []
        size = sent = 0
        at_once = _FIRST_REQUESTS
        subject = f"$JS.API.{operation}.{self.name}"
        time_slice = TimeSlice()
        with self.connection.expecting() as inbox:
            while len(taken) < (len(requests) if size < max_bytes else sent):
                some = requests[sent : len(taken) + at_once] if size < max_bytes else ()
                sent += len(some)
                if some:
                    self.connection.send(
                        [
                            Publish(subject, msgspec.json.encode(request), None, inbox.reply)
                            for request in some
                        ]
                    )
                for message in await inbox.wait(ANSWER_TIMEOUT):
                    await time_slice.checkpoint_if_over()
                    taken.append(take(self.connection.checked(message)))
                    size += len(message.data)
                # The first ones may all be small.
                fitting = max(_MAX_BYTES * len(taken) // size, 1)
                at_once = min(fitting, _FIRST_REQUESTS + len(taken), _MAX_REQUESTS)
        return taken

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str], *, seconds: float = ANSWER_TIMEOUT
    ) -> int:
        """Store a message.

        Returns:
          Its position.

        Raises:
          WrongPosition: the headers say where the one before it is, and it is not there.
        """
        message = await self.connection.request(subject, data, headers=headers, seconds=seconds)
        return self.acknowledged(message)

    def acknowledged(self, message: Message) -> int:
        """The position that the answer to something published names."""
        reply = decode(message)
        if "error" in reply:
            raise self.refusal(reply["error"])
        position = reply.get("seq")
        if type(position) is not int:
            raise StoreError(f"{self}: the server answers {message.data[:60]!r} to what was published")
        self.connection.served()
        return position

    async def delete(self, positions: Iterable[int]) -> int:
        """Delete messages. Returns how many of them were there."""
        requests = [{"seq": position, "no_erase": True} for position in positions]
        count = 0
        for reply in await self._call_all("STREAM.MSG.DELETE", requests, decode):
            error = reply.get("error")
            if error is None:
                count += 1
            elif error.get("err_code") not in _ALREADY_DELETED:
                raise self.refusal(error)
        return count

    async def purge(self, subject: str, before: int) -> int:
        """Delete the messages of a subject below a position. Returns how many there were."""
        reply = await self.ask("STREAM.PURGE", {"filter": subject, "seq": before})
        count: int = reply["purged"]
        return count


# --- many messages --------------------------------------------------------------------------------


async def read_page(stream: Stream, position: int, subject: str, limit: int) -> MessagePage:
    """Messages of a subject from a position on, from whichever replica answers: the latest may be missing.

    Args:
      stream: where to read.
      position: where to begin.
      subject: with or without wildcards.
      limit: most messages.
    """
    request = {"seq": position, "next_by_subj": subject, "batch": limit, "max_bytes": _MAX_BYTES}
    messages: list[StoredMessage] = []
    connection = stream.connection
    with connection.expecting() as inbox:
        connection.send(
            [Publish(f"$JS.API.DIRECT.GET.{stream.name}", msgspec.json.encode(request), None, inbox.reply)]
        )
        while True:
            for message in await inbox.wait(ANSWER_TIMEOUT):
                if not message.status:
                    messages.append(_direct(stream, message))
                elif message.status == _END_OF_BATCH:
                    pending = message.headers.get("Nats-Num-Pending")
                    return MessagePage(messages, is_last=pending is None or int(pending) == 0)
                elif message.status == _NOT_FOUND:
                    return MessagePage(messages, is_last=True)
                else:
                    connection.checked(message)
                    raise StoreError(f"{stream}: reading failed with status {message.status}")


def _direct(stream: Stream, message: Message) -> StoredMessage:
    subject, position = message.headers.get("Nats-Subject"), message.headers.get("Nats-Sequence")
    if subject is None or position is None:
        raise StoreError(f"{stream}: the server sends a message without its position")
    return StoredMessage(int(position), subject, message.data)


async def create_consumer(stream: Stream, name: str, config: Mapping[str, Any]) -> None:
    """Have a server keep track of what was sent, for as long as something takes it."""
    whole = {
        "name": name,
        "ack_policy": "none",
        "max_deliver": 1,
        "inactive_threshold": int(30e9),
        "mem_storage": True,
        "num_replicas": 1,
        **config,
    }
    reply = decode(
        await stream.connection.request(
            f"$JS.API.CONSUMER.CREATE.{stream.name}.{name}",
            msgspec.json.encode({"stream_name": stream.name, "config": whole}),
            seconds=_CONSUMER_TIMEOUT,
            # Another server has it, chosen by a third one.
            is_server_asked=False,
        )
    )
    if "error" in reply:
        raise stream.refusal(reply["error"])


def drop_consumer(stream: Stream, name: str) -> None:
    """Have it stop. The answer does not matter: the server forgets a consumer by itself, too."""
    stream.connection.send([Publish(f"$JS.API.CONSUMER.DELETE.{stream.name}.{name}", b"")])


class Pull:
    """Messages of a subject from a position on, through a consumer; to be closed.

    It is on one of the replicas, so the latest messages may be missing, and it is gone if its server is.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._name = f"scan-{new_event_id()}"
        self._inbox = stream.connection.subscribe()
        self._count = self._position = 0
        self._at_once = _FIRST_REQUESTS

    async def begin(self, position: int, subject: str) -> None:
        """Have the server look for them."""
        config = {
            "filter_subject": subject,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": position,
        }
        self._position = position - 1
        await create_consumer(self._stream, self._name, config)

    async def page(self, limit: int) -> list[StoredMessage]:
        """The next messages, at most this many. An empty page may mean anything.

        Raises:
          StoreError: this cannot be used any more.
        """
        # The limit in bytes is for messages that are larger than those before: to a request that uses it up
        # to the last byte, the server does not reply.
        request = {"batch": min(limit, self._at_once), "max_bytes": _MAX_BYTES, "no_wait": True}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream.name}.{self._name}"
        self._stream.connection.send(
            [Publish(subject, msgspec.json.encode(request), None, self._inbox.reply)]
        )
        found: list[StoredMessage] = []
        size = 0
        while True:
            for message in await self._inbox.wait(_CONSUMER_TIMEOUT):
                if message.status:
                    if found:
                        self._at_once = max(_MAX_BYTES // 2 * len(found) // size, 1)
                    return found
                found.append(self._take(message))
                size += len(message.data) + len(message.subject) + len(message.reply)
                size += sum(len(name) + len(value) for name, value in message.headers.items())

    def _take(self, message: Message) -> StoredMessage:
        tokens = message.reply.split(".")
        place = tokens[5:7] if len(tokens) == _ACK_TOKENS else tokens[7:9]
        try:
            position, count = map(int, place)
        except ValueError as exc:
            raise StoreError(f"{self._stream}: the server sends a message without its position") from exc
        # Between servers, messages can be dropped.
        if count != self._count + 1 or position <= self._position:
            raise StoreError(f"{self._stream}: messages were lost between servers")
        self._count, self._position = count, position
        return StoredMessage(position, message.subject, message.data)

    def close(self) -> None:
        """Let the server forget it."""
        with suppress(StoreError):
            self._stream.connection.unsubscribe(self._inbox)
            drop_consumer(self._stream, self._name)


# --- patience -------------------------------------------------------------------------------------


async def retrying(deadline: float, function: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
    """Call a function again while its errors may be transient, until ``deadline`` of Trio's clock.

    For opening: servers that were started just now, or lost one of them, need a while.
    """
    call = partial(function, *args, **options)
    while True:
        try:
            return await call()
        except StoreUnusable:
            raise
        except PermissionDenied as exc:
            raise StoreUnusable(str(exc)) from exc
        except StoreError as exc:
            if isinstance(exc, Refused) and exc.code in PERMANENT_ON_OPENING:
                raise StoreUnusable(str(exc)) from exc
            if trio.current_time() >= deadline:
                raise
            await trio.sleep(_RETRY_PAUSE)
