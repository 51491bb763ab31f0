"""The forms in which MobKit, a runtime for agents in Rust, exchanges events over HTTP.

What this library's own log descends from. A console answers MobKit's clients in these forms, and what MobKit
streams can be taken into a log. Following a stream needs the extra ``mobkit``; the rest needs none.
"""

from trio_eventlog._util import adopt_public_names as _adopt_public_names
from trio_eventlog.mobkit._client import (
    MobEventStream,
    MobStreamError,
    follow_mob_events,
    ingest_mob_events,
)
from trio_eventlog.mobkit._events import EVENT_ID_PREFIX, MobEvent
from trio_eventlog.mobkit._sse import SseError, SseMessage, SseParser, sse_comment, sse_message

__all__ = [
    "EVENT_ID_PREFIX",
    "MobEvent",
    "MobEventStream",
    "MobStreamError",
    "SseError",
    "SseMessage",
    "SseParser",
    "follow_mob_events",
    "ingest_mob_events",
    "sse_comment",
    "sse_message",
]

_adopt_public_names(globals())
