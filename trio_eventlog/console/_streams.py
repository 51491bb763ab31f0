"""The two streams: for the page, and for clients of MobKit."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp

from trio_eventlog import EventQuery, PersistedEvent
from trio_eventlog.console._encoding import encode_event
from trio_eventlog.console._errors import ApiError, invalid
from trio_eventlog.console._events import MAX_SEQ, read_max_payload
from trio_eventlog.console._http import json_answer
from trio_eventlog.console._mob import store_query
from trio_eventlog.console._parameters import FILTERS, Parameters, read_integer
from trio_eventlog.console._rpc import stale_data
from trio_eventlog.console._state import Console
from trio_eventlog.console._stream import EventStream, StreamForm
from trio_eventlog.mobkit import EVENT_ID_PREFIX, MobEvent, sse_message

STREAM_PARAMETERS: Final = (*FILTERS, "after_seq", "max_payload", "on_lag")

_MOB_STRINGS: Final = ("mob_id", "run_id", "step_id", "identity", "member_id")
MOB_PARAMETERS: Final = ("after_seq", "since_ms", "until_ms", *_MOB_STRINGS, "event_types")


async def get_stream(console: Console, request: Request) -> ASGIApp:  # noqa: ASYNC124 - a handler
    """``GET api/events/stream``."""
    parameters = Parameters(request.scope["query_string"], STREAM_PARAMETERS)
    after_seq = parameters.integer("after_seq", high=MAX_SEQ)
    return EventStream(
        console=console,
        source=console.source(parameters.text("log")),
        query=parameters.query(),
        after_seq=_resumed(request, after_seq, prefix=""),
        form=StreamForm(
            encode_event=partial(_message, max_payload=read_max_payload(parameters)),
            event_id=str,
            has_markers=True,
            is_skipping=parameters.choice("on_lag", ("keep", "skip"), "keep") == "skip",
        ),
    )


def _message(event: PersistedEvent, max_payload: int) -> bytes:
    return sse_message(encode_event(event, max_payload), event_id=str(event.seq))


def _resumed(request: Request, after_seq: int | None, *, prefix: str) -> int | None:
    """Where to go on: what a browser says on its own counts more than the URL of the first attempt."""
    last_id = request.headers.get("last-event-id", "").strip()
    if not last_id:
        return after_seq
    if not last_id.startswith(prefix):
        raise invalid("Last-Event-ID", f"expected an id of this stream, such as {prefix}42")
    return read_integer("Last-Event-ID", last_id.removeprefix(prefix), 0, MAX_SEQ)


async def get_mob_stream(console: Console, request: Request) -> ASGIApp:  # noqa: ASYNC124 - a handler
    """``GET mobkit/mob_events/stream``."""
    parameters = Parameters(request.scope["query_string"], MOB_PARAMETERS)
    strings: dict[str, Any] = {name: parameters.text(name) for name in _MOB_STRINGS}
    query = EventQuery(
        since_ms=parameters.integer("since_ms"),
        until_ms=parameters.integer("until_ms"),
        event_types=tuple(filter(None, (parameters.text("event_types") or "").split(","))),
        **strings,
    )
    return EventStream(
        console=console,
        source=console.source(None),
        query=store_query(query),
        after_seq=_resumed(request, parameters.integer("after_seq"), prefix=EVENT_ID_PREFIX),
        form=StreamForm(
            encode_event=partial(_mob_message, query=query),
            event_id=lambda seq: f"{EVENT_ID_PREFIX}{seq}",
            has_markers=False,
        ),
        stale_answer=_mob_stale,
    )


def _mob_message(event: PersistedEvent, query: EventQuery) -> bytes:
    mob_event = MobEvent.of(event)
    if not mob_event.matches(query):
        return b""
    kind = mob_event.kind
    # A type is any text; that of a message is one line. The data has the whole.
    name = None if not kind or "\n" in kind or "\r" in kind else kind
    return sse_message(mob_event.to_json(), event=name, event_id=mob_event.event_id)


def _mob_stale(error: ApiError) -> ASGIApp:
    cursors = stale_data(int(str(error.more["after_seq"])), int(str(error.more["last_seq"])))
    return json_answer(cursors, status=410)
