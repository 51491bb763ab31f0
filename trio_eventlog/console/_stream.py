"""Streams of events: Server-Sent Events, catching up and then live."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trio_eventlog import EventQuery, EventsPruned, PersistedEvent, Subscription
from trio_eventlog.console._encoding import encode
from trio_eventlog.console._errors import ApiError, answer_for
from trio_eventlog.console._http import error_answer, logger
from trio_eventlog.console._source import Source
from trio_eventlog.console._state import Console
from trio_eventlog.mobkit import sse_comment, sse_message

RETRY: Final = b"retry: 2000\n\n"

MAX_LAG: Final = 1000
"""Seqs that may wait before a stream that may skip jumps to the newest events."""

_KEPT: Final = 60
"""Seqs before the end to which it jumps."""

_SHARE: Final = 0.02
"""How much of the program's time all streams of a live log may take together."""

_MESSAGE_COST: Final = 0.0006
"""Seconds that sending a message takes, beside encoding its events: through the server and the kernel."""

_JUMP_COST: Final = 0.0005
"""Seconds that it takes to follow from another place."""

_PAUSE: Final = 0.1
"""Seconds between two pages of a stream at least, beside a live log."""


@attrs.frozen(kw_only=True)
class StreamForm:
    """What the messages of a stream look like."""

    encode_event: Callable[[PersistedEvent], bytes]
    """A message; empty to leave the event out."""

    event_id: Callable[[int], str]
    """The id by which a client resumes after a seq."""

    has_markers: bool
    """Whether there are messages about the stream itself."""

    is_skipping: bool = False
    """Whether to jump to the newest events if the client lags behind."""


@attrs.frozen(eq=False)
class EventStream:
    """A stream as an answer.

    The events of a page are sent at once. A client that does not take them keeps nothing but that page in
    memory, since every stream reads from a cursor of its own.
    """

    console: Console
    source: Source
    query: EventQuery
    after_seq: int | None
    form: StreamForm
    stale_answer: Callable[[ApiError], ASGIApp] = error_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client goes away, or the log is closed."""
        sender = _Sender(send)
        if scope["method"] == "HEAD":
            await sender.begin()
            await sender.end()
            return
        try:
            with self.console.streaming():
                await _until_disconnected(receive, lambda: self._run(sender))
        except Exception as exc:  # noqa: BLE001 - a defect must not reach the program
            error = answer_for(exc)
            if error is None:
                logger.error("a stream of the console failed", exc_info=exc)
                error = ApiError(500, "internal", "the console failed; its log says why")
            await self._fail(sender, error, scope, receive, send)

    async def _fail(
        self, sender: _Sender, error: ApiError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if not sender.has_begun:
            answer = self.stale_answer if error.code == "stale_cursor" else error_answer
            await answer(error)(scope, receive, send)
            return
        if self.form.has_markers:
            content = {"error": error.content(), "after_seq": str(sender.cursor)}
            await sender.send(sse_message(encode(content), event="failed"))
        await sender.end()

    async def _run(self, sender: _Sender) -> None:
        after = self.after_seq
        while True:
            # Until the stream runs, it is a request like any other.
            with trio.fail_after(self.console.limits.request_timeout) as starting:
                async with self.source.follow(self.query, after) as events:
                    if not sender.has_begun:
                        await sender.begin()
                        await self._send_ready(sender, events)
                    starting.deadline = math.inf
                    after = await self._follow(sender, events)
            if after is None:
                await sender.end()
                return

    async def _send_ready(self, sender: _Sender, events: Subscription) -> None:
        sender.cursor = events.cursor
        message = RETRY
        if self.form.has_markers:
            content = {"after_seq": str(events.cursor), "last_seq": str(await self.source.last_seq())}
            message += sse_message(encode(content), event="ready", event_id=self.form.event_id(events.cursor))
        await sender.send(message)

    async def _follow(self, sender: _Sender, events: Subscription) -> int | None:
        """Send what comes. Returns the cursor to jump to, or None at the end of the stream."""
        pages = events.pages()
        while True:  # noqa: ASYNC913 - every step of the iteration is a checkpoint
            # Before anything is read: what the client will not get need not be.
            if (target := await self._jump(sender, events)) is not None:
                return target
            message = b""
            # Pages of which nothing is sent may come again and again, and a pause may have taken the time.
            keep_alive = self.console.limits.keep_alive
            if trio.current_time() >= sender.sent_at + keep_alive:
                await sender.send(self._comment(events))
            with trio.move_on_at(sender.sent_at + keep_alive) as waiting:  # noqa: ASYNC912 - as above
                try:
                    page = await anext(pages)
                except EventsPruned as exc:
                    message = self._gap(exc)
                except StopAsyncIteration:
                    await self._cut_off(sender, "closed")
                    return None
                else:
                    began = time.thread_time()
                    message = b"".join(map(self.form.encode_event, page))
                    sender.cost += time.thread_time() - began
            if waiting.cancelled_caught:
                message = self._comment(events)
            sender.cursor = events.cursor
            if not await self._send(sender, message):
                return None
            await self._pause(sender)

    def _comment(self, events: Subscription) -> bytes:
        # An id of its own moves the cursor past what did not match.
        moved = self.form.event_id(events.cursor) if self.form.has_markers else None
        return sse_comment("keep-alive", event_id=moved)

    def _gap(self, pruned: EventsPruned) -> bytes:
        if not self.form.has_markers:
            return b""
        content = {
            "first_seq": str(pruned.first_seq),
            "last_seq": str(pruned.last_seq),
            "reason": "pruned",
        }
        return sse_message(encode(content), event="gap", event_id=self.form.event_id(pruned.last_seq))

    async def _send(self, sender: _Sender, message: bytes) -> bool:
        """Send; return whether the client is fast enough to go on."""
        began = trio.current_time()
        await sender.send(message)
        if trio.current_time() - began <= self.console.limits.slow_client:
            return True
        await self._cut_off(sender, "slow_client")
        return False

    async def _cut_off(self, sender: _Sender, reason: str) -> None:
        if self.form.has_markers:
            content = {"reason": reason, "after_seq": str(sender.cursor)}
            await sender.send(sse_message(encode(content), event="cut_off"))

    async def _jump(self, sender: _Sender, events: Subscription) -> int | None:
        """Skip to the newest events if the client may, and lags too far behind."""
        if not self.form.is_skipping or events.is_caught_up:
            return None
        last_seq = await self.source.end_seq()
        target = last_seq - _KEPT
        if last_seq - events.cursor <= MAX_LAG:
            return None
        content = {"first_seq": str(events.cursor + 1), "last_seq": str(target)}
        sender.cursor = target
        sender.cost += _JUMP_COST
        await sender.send(sse_message(encode(content), event="skipped", event_id=self.form.event_id(target)))
        return target

    async def _pause(self, sender: _Sender) -> None:
        """Leave the program its time, if the log is one of this program."""
        cost, sender.cost = sender.cost, 0.0
        if self.source.log is not None:
            await trio.sleep(max(_PAUSE, cost * self.console.streams / _SHARE))


class _Sender:
    """Sends the parts of an answer."""

    def __init__(self, send: Send) -> None:
        self.has_begun = False
        self.cursor = 0
        """The seq up to which all was sent."""
        self.cost = 0.0
        """Seconds of the program's time that were taken since the last pause, about."""
        self.sent_at = -math.inf
        """When something was sent last, by Trio's clock."""
        self._send = send

    async def begin(self) -> None:
        """Send the head of the answer."""
        start: Message = {"type": "http.response.start", "status": 200, "headers": []}
        headers = MutableHeaders(scope=start)
        headers["content-type"] = "text/event-stream; charset=utf-8"
        headers["cache-control"] = "no-store"
        headers["x-accel-buffering"] = "no"
        self.has_begun = True
        self.sent_at = trio.current_time()
        await self._send(start)

    async def send(self, message: bytes) -> None:
        """Send part of the body, unless it is empty."""
        if message:
            self.cost += _MESSAGE_COST
            self.sent_at = trio.current_time()
            await self._send({"type": "http.response.body", "body": message, "more_body": True})

    async def end(self) -> None:
        """End the answer."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_disconnected(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` until it is done or the client goes away."""
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel(reason="the client has gone away")

        nursery.start_soon(watch)
        try:
            await work()
        except Exception as exc:  # noqa: BLE001 - raised below, not in a group
            failures.append(exc)
        nursery.cancel_scope.cancel(reason="the stream has ended")
    if failures:
        raise failures.pop()
