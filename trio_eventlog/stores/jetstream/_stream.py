"""What is asked of a stream on the server, and what its refusals mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import attrs
import msgspec
import trio

from trio_eventlog._model._errors import StoreError, StoreUnusable
from trio_eventlog._model._events import new_event_id
from trio_eventlog.stores._common._batches import Steps
from trio_eventlog.stores.jetstream._driver import Message, Publication
from trio_eventlog.stores.jetstream._link import ANSWER_SECONDS, Denied, Link, decode

T = TypeVar("T")

_NO_MESSAGE: Final = 10037
_NO_STREAM: Final = 10059
_WRONG_POSITION: Final = frozenset({10071, 10164})
_NAME_IN_USE: Final = 10058
_NO_LEADER: Final = 10008
_NO_MAX_BYTES: Final = 10113
TOO_LARGE_BATCH: Final = 10199

_GONE: Final = frozenset({_NO_MESSAGE, 10043, 10057})
"""What a server says of a message that it shall delete and does not have."""

_MOST_TOGETHER: Final = 500
"""Requests that are under way at a time; a server lets 10,000 of all its clients wait."""

_FIRST_TOGETHER: Final = 16
"""As long as nobody knows how large the answers are."""

LASTING: Final = frozenset(
    {
        10003,  # the request is malformed
        10025,  # it is no JSON
        10056,  # it names another stream
        10109,  # the stream is sealed
    }
)
"""Codes of refusals that nobody can change while the program runs. All others are taken for passing."""

LASTING_ON_OPENING: Final = frozenset(
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
        10166,  # the stream has no times to live
        10174,  # the stream takes no batches
    }
)
"""Codes that end an attempt to open the store. While it is open, an operator can change what is wrong."""

_BYTES_TOGETHER: Final = 2 * 1024 * 1024
"""Most bytes that are asked for at once: the answer to a ping comes behind them, and must not take long."""


_ACK_TOKENS: Final = 9
"""Of a subject for acknowledgements; newer ones have a domain and an account more in front."""


_CONSUMER_SECONDS: Final = 2.0
"""How long an answer of a consumer may take. If its server is gone, nobody says so."""


class Refused(StoreError):
    """The server refuses something, for now."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class WrongPosition(Refused):
    """The last message of a subject is another than was expected; nothing was stored."""


class _Found(msgspec.Struct):
    seq: int
    subject: str
    data: bytes = b""


class _Answer(msgspec.Struct):
    """To a request for a message."""

    message: _Found | None = None
    error: dict[str, Any] | None = None


_decode_answer: Final = msgspec.json.Decoder(_Answer).decode


@attrs.frozen
class Stored:
    """A message as it lies in the stream."""

    position: int
    subject: str
    data: bytes


@attrs.frozen
class Page:
    """Some messages of a stream, ascending by position."""

    messages: list[Stored]
    is_last: bool
    """Whether the server that was asked has no more of them."""


class Stream:
    """A stream, through a link."""

    def __init__(self, link: Link, name: str) -> None:
        self.link: Final = link
        self.name: Final = name

    def __str__(self) -> str:
        return f"stream {self.name} at {self.link}"

    def refusal(self, error: Mapping[str, Any]) -> StoreError:
        """What the server has against something, as an error of ours."""
        code = error.get("err_code", 0)
        if code == _NO_LEADER:
            self.link.not_served()
        text = f"{self}: {error.get('description', 'refused')} (JetStream error {code})"
        if code in _WRONG_POSITION:
            return WrongPosition(text, code)
        if code in LASTING:
            return StoreUnusable(text)
        return Refused(text, code)

    async def _call(
        self, what: str, request: Mapping[str, Any], *, seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        message = await self.link.request(
            f"$JS.API.{what}.{self.name}", msgspec.json.encode(request), seconds=seconds
        )
        return decode(message)

    async def _ask(self, what: str, request: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self._call(what, request)
        if "error" in reply:
            raise self.refusal(reply["error"])
        self.link.served()
        return reply

    # --- the stream itself ------------------------------------------------------------------------

    async def info(
        self, subjects: str | None = None, offset: int = 0, *, seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any] | None:
        """Its configuration and state; None if there is no such stream.

        Args:
          subjects: count the messages of subjects like this, too.
          offset: leave out so many of these subjects; a server names 100,000 at once.
          seconds: how long the answer may take.
        """
        request = {} if subjects is None else {"subjects_filter": subjects, "offset": offset}
        reply = await self._call("STREAM.INFO", request, seconds=seconds)
        error = reply.get("error")
        if error is None:
            self.link.served()
            return reply
        if error.get("err_code") == _NO_STREAM:
            return None
        raise self.refusal(error)

    async def create(self, config: Mapping[str, Any]) -> None:
        """Make it, unless somebody else has done so meanwhile."""
        reply = await self._call("STREAM.CREATE", config)
        error = reply.get("error")
        if error is None or error.get("err_code") == _NAME_IN_USE:
            return
        refusal = self.refusal(error)
        if error.get("err_code") == _NO_MAX_BYTES:
            raise StoreUnusable(f"{refusal}; give max_bytes") from refusal
        raise refusal

    # --- messages ---------------------------------------------------------------------------------

    async def last(self, subject: str) -> Stored | None:
        """The last message of a subject, as the stream's leader has it."""
        return await self._get({"last_by_subj": subject})

    async def next(self, position: int, subject: str) -> Stored | None:
        """The first message of a subject from a position on, as the stream's leader has it."""
        return await self._get({"seq": max(position, 1), "next_by_subj": subject})

    async def lasts(self, subjects: Iterable[str]) -> list[Stored]:
        """The last message of each of these subjects that has one, in any order."""
        return await self._get_all([{"last_by_subj": subject} for subject in subjects])

    async def at(self, positions: Sequence[int]) -> tuple[list[Stored], int]:
        """The messages at these positions, as the leader has them, ascending. Some may be gone.

        Returns:
          Those at the first positions, until they weigh some MiB; and how many positions that are.
        """
        requests = [{"seq": position} for position in positions]
        answers = await self._call_all("STREAM.MSG.GET", requests, self._stored, _BYTES_TOGETHER)
        found = [stored for stored in answers if stored is not None]
        return sorted(found, key=_position), len(answers)

    async def _get(self, request: Mapping[str, Any]) -> Stored | None:
        message = await self.link.request(
            f"$JS.API.STREAM.MSG.GET.{self.name}", msgspec.json.encode(request), seconds=ANSWER_SECONDS
        )
        return self._stored(message)

    async def _get_all(self, requests: Sequence[Mapping[str, Any]]) -> list[Stored]:
        found = await self._call_all("STREAM.MSG.GET", requests, self._stored)
        return [stored for stored in found if stored is not None]

    def _stored(self, message: Message) -> Stored | None:
        try:
            answer = _decode_answer(message.data)
        except msgspec.DecodeError as exc:
            raise StoreError(f"{self}: the server answers with no message: {message.data[:60]!r}") from exc
        found, error = answer.message, answer.error
        if found is not None:
            self.link.served()
            return Stored(found.seq, found.subject, found.data)
        if error is not None and error.get("err_code") == _NO_MESSAGE:
            return None
        raise self.refusal(error or {})

    async def _call_all(
        self,
        what: str,
        requests: Sequence[Mapping[str, Any]],
        take: Callable[[Message], T],
        most_bytes: float = math.inf,
    ) -> list[T]:
        """What ``take`` makes of the answers to many requests, in any order, with not too many under way.

        Once the answers weigh ``most_bytes``, no more is asked: it is that of the first requests then.
        """
        await trio.lowlevel.checkpoint()
        taken: list[T] = []
        size = sent = 0
        together = _FIRST_TOGETHER
        subject = f"$JS.API.{what}.{self.name}"
        steps = Steps()
        with self.link.expecting() as inbox:
            while len(taken) < (len(requests) if size < most_bytes else sent):
                some = requests[sent : len(taken) + together] if size < most_bytes else ()
                sent += len(some)
                if some:
                    self.link.send(
                        [
                            Publication(subject, msgspec.json.encode(request), reply=inbox.reply)
                            for request in some
                        ]
                    )
                for message in await inbox.wait(ANSWER_SECONDS):
                    if steps.is_over():
                        await steps.rest()
                    taken.append(take(self.link.answer(message)))
                    size += len(message.data)
                # The first ones may all be small.
                fitting = max(_BYTES_TOGETHER * len(taken) // size, 1)
                together = min(fitting, _FIRST_TOGETHER + len(taken), _MOST_TOGETHER)
        return taken

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str], *, seconds: float = ANSWER_SECONDS
    ) -> int:
        """Store a message.

        Returns:
          Its position.

        Raises:
          WrongPosition: the headers say where the one before it is, and it is not there.
        """
        message = await self.link.request(subject, data, headers=headers, seconds=seconds)
        return self.acknowledged(message)

    def acknowledged(self, message: Message) -> int:
        """The position that the answer to something published names."""
        reply = decode(message)
        if "error" in reply:
            raise self.refusal(reply["error"])
        position = reply.get("seq")
        if type(position) is not int:
            raise StoreError(f"{self}: the server answers {message.data[:60]!r} to what was published")
        self.link.served()
        return position

    async def delete(self, positions: Iterable[int]) -> int:
        """Remove messages, those that are there. Returns how many that were."""
        requests = [{"seq": position, "no_erase": True} for position in positions]
        count = 0
        for reply in await self._call_all("STREAM.MSG.DELETE", requests, decode):
            error = reply.get("error")
            if error is None:
                count += 1
            elif error.get("err_code") not in _GONE:
                raise self.refusal(error)
        return count

    async def purge(self, subject: str, before: int) -> int:
        """Remove the messages of a subject below a position. Returns how many there were."""
        reply = await self._ask("STREAM.PURGE", {"filter": subject, "seq": before})
        count: int = reply["purged"]
        return count

    async def page(self, position: int, subject: str, most: int) -> Page:
        """Messages of a subject from a position on, as whichever replica answers has them: the latest may
        lack.

        Args:
          position: where to begin.
          subject: with or without wildcards.
          most: at most so many.
        """
        request = {"seq": position, "next_by_subj": subject, "batch": most, "max_bytes": _BYTES_TOGETHER}
        messages: list[Stored] = []
        with self.link.expecting() as inbox:
            self.link.send(
                [
                    Publication(
                        f"$JS.API.DIRECT.GET.{self.name}", msgspec.json.encode(request), reply=inbox.reply
                    )
                ]
            )
            while True:
                for message in await inbox.wait(ANSWER_SECONDS):
                    if not message.status:
                        messages.append(self._direct(message))
                    elif message.status == 204:  # noqa: PLR2004 - the end of what was asked for
                        pending = message.headers.get("Nats-Num-Pending")
                        return Page(messages, is_last=pending is None or int(pending) == 0)
                    elif message.status == 404:  # noqa: PLR2004 - there is none
                        return Page(messages, is_last=True)
                    else:
                        self.link.answer(message)
                        raise StoreError(f"{self}: reading failed with status {message.status}")

    def _direct(self, message: Message) -> Stored:
        subject, position = message.headers.get("Nats-Subject"), message.headers.get("Nats-Sequence")
        if subject is None or position is None:
            raise StoreError(f"{self}: the server sends a message without its place")
        return Stored(int(position), subject, message.data)

    # --- consumers --------------------------------------------------------------------------------

    async def create_consumer(self, name: str, config: Mapping[str, Any]) -> None:
        """Have a server keep account of what was sent, for as long as somebody takes it."""
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
            await self.link.request(
                f"$JS.API.CONSUMER.CREATE.{self.name}.{name}",
                msgspec.json.encode({"stream_name": self.name, "config": whole}),
                seconds=_CONSUMER_SECONDS,
                # Another one has it, and was chosen by a third.
                is_asked=False,
            )
        )
        if "error" in reply:
            raise self.refusal(reply["error"])

    def drop_consumer(self, name: str) -> None:
        """Have it do so no more. Nobody waits for the answer: the server forgets it by itself, too."""
        self.link.send([Publication(f"$JS.API.CONSUMER.DELETE.{self.name}.{name}", b"")])


class Pull:
    """Messages of a subject from a position on, through a consumer; to be closed.

    It is on one of the replicas, so the latest messages may lack, and it is gone if its server is.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._name = f"scan-{new_event_id()}"
        self._number, self._inbox = stream.link.subscribe()
        self._count = self._position = 0
        self._together = _FIRST_TOGETHER

    async def begin(self, position: int, subject: str) -> None:
        """Have the server look for them."""
        config = {
            "filter_subject": subject,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": position,
        }
        self._position = position - 1
        await self._stream.create_consumer(self._name, config)

    async def page(self, most: int) -> list[Stored]:
        """The next messages, at most so many. None may mean anything.

        Raises:
          StoreError: this cannot be used any more.
        """
        # The limit in bytes is for messages that are larger than those before: on a request that uses it up
        # to the last byte, the server says nothing.
        request = {"batch": min(most, self._together), "max_bytes": _BYTES_TOGETHER, "no_wait": True}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream.name}.{self._name}"
        self._stream.link.send([Publication(subject, msgspec.json.encode(request), reply=self._inbox.reply)])
        found: list[Stored] = []
        size = 0
        while True:
            for message in await self._inbox.wait(_CONSUMER_SECONDS):
                if message.status:
                    if found:
                        self._together = max(_BYTES_TOGETHER // 2 * len(found) // size, 1)
                    return found
                found.append(self._take(message))
                size += len(message.data) + len(message.subject) + len(message.reply)
                size += sum(len(name) + len(value) for name, value in message.headers.items())

    def _take(self, message: Message) -> Stored:
        tokens = message.reply.split(".")
        place = tokens[5:7] if len(tokens) == _ACK_TOKENS else tokens[7:9]
        try:
            position, count = map(int, place)
        except ValueError as exc:
            raise StoreError(f"{self._stream}: the server sends a message without its place") from exc
        # Servers pass messages on to each other as well as they can.
        if count != self._count + 1 or position <= self._position:
            raise StoreError(f"{self._stream}: messages were lost between servers")
        self._count, self._position = count, position
        return Stored(position, message.subject, message.data)

    def close(self) -> None:
        """Let the server forget it."""
        with suppress(StoreError):
            self._stream.link.unsubscribe(self._number)
            self._stream.drop_consumer(self._name)


def _position(message: Stored) -> int:
    return message.position


async def patiently(deadline: float, function: Any, *args: object) -> Any:
    """Call a function again while its errors may pass, until ``deadline`` of Trio's clock.

    For opening: servers that were started just now, or lost one of them, need a while.
    """
    while True:
        try:
            return await function(*args)
        except StoreUnusable:
            raise
        except Denied as exc:
            raise StoreUnusable(str(exc)) from exc
        except StoreError as exc:
            if isinstance(exc, Refused) and exc.code in LASTING_ON_OPENING:
                raise StoreUnusable(str(exc)) from exc
            if trio.current_time() >= deadline:
                raise
            await trio.sleep(0.1)
