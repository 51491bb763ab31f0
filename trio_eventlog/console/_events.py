"""Pages of events, and one event."""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from trio_eventlog import EventQuery, PersistedEvent, StaleCursor
from trio_eventlog.console._encoding import encode_event, joined
from trio_eventlog.console._errors import invalid, not_found
from trio_eventlog.console._http import json_answer
from trio_eventlog.console._parameters import FILTERS, Parameters, read_integer
from trio_eventlog.console._source import MAX_PAGE_BYTES, Found, Source, gaps_in
from trio_eventlog.console._state import Console

MAX_SEQ: Final = 2**63 - 1
MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
MAX_PAYLOAD: Final = 2**20
DEFAULT_MAX_PAYLOAD: Final = 2**16

PAGE_PARAMETERS: Final = (*FILTERS, "order", "before_seq", "after_seq", "limit", "max_payload")


async def get_events(console: Console, request: Request) -> ASGIApp:
    """``GET api/events``."""
    parameters = Parameters(request.scope["query_string"], PAGE_PARAMETERS)
    source = console.source(parameters.text("log"))
    wanted = _PageWanted.read(parameters)
    async with console.at_the_store():
        page = await wanted.find(source)
    return json_answer(page)


@attrs.frozen
class _PageWanted:
    query: EventQuery
    is_newest: bool
    before_seq: int | None
    limit: int
    max_payload: int

    @classmethod
    def read(cls, parameters: Parameters) -> _PageWanted:
        after_seq = parameters.integer("after_seq", high=MAX_SEQ)
        is_newest = parameters.choice("order", ("newest", "oldest"), "newest") == "newest"
        before_seq = parameters.integer("before_seq", high=MAX_SEQ)
        if before_seq is not None and not is_newest:
            raise invalid("before_seq", "only for order=newest; with oldest, the cursor is after_seq")
        return cls(
            query=parameters.query(after_seq=after_seq),
            is_newest=is_newest,
            before_seq=before_seq,
            limit=parameters.number("limit", DEFAULT_PAGE, low=1, high=MAX_PAGE),
            max_payload=read_max_payload(parameters),
        )

    async def find(self, source: Source) -> dict[str, Any]:
        # Asked before the page is read: whatever is missing up to here in the page is missing in the log.
        last_seq = await source.last_seq()
        after = self.query.after_seq or 0
        if after > last_seq:
            raise StaleCursor(after, last_seq)
        if self.is_newest:
            found = await source.newest(self.query, self.before_seq, self.limit)
        else:
            found = await source.oldest(self.query, self.limit)
        found, encoded = _cut(found, self.max_payload)
        return {
            "events": joined(encoded),
            "next": None if found.next is None else str(found.next),
            "is_complete": found.is_last or (not self.is_newest and (found.next or 0) >= last_seq),
            "last_seq": str(last_seq),
            "gaps": await self._gaps(source, found, last_seq),
        }

    async def _gaps(self, source: Source, found: Found, last_seq: int) -> list[dict[str, str]] | None:
        if not _is_unfiltered(self.query):
            return None
        pruned_seq = await source.pruned_seq() or 0
        seqs = sorted(event.seq for event in found.events)
        after = self.query.after_seq or 0
        if self.is_newest:
            first = after + 1 if found.next is None else found.next
            last = last_seq if self.before_seq is None else min(self.before_seq - 1, last_seq)
        else:
            first = after + 1
            last = seqs[-1] if seqs else last_seq
        return gaps_in(seqs, first, max(last, seqs[-1] if seqs else 0), pruned_seq)


def _is_unfiltered(query: EventQuery) -> bool:
    return attrs.evolve(query, after_seq=None, limit=None) == EventQuery()


def _cut(found: Found, max_payload: int) -> tuple[Found, list[bytes]]:
    """The page up to where it is large enough, and its events as JSON."""
    encoded: list[bytes] = []
    size = 0
    for index, event in enumerate(found.events):
        text = encode_event(event, max_payload)
        size += len(text)
        if encoded and size > MAX_PAGE_BYTES:
            return Found(found.events[:index], found.events[index - 1].seq), encoded
        encoded.append(text)
    return found, encoded


def read_max_payload(parameters: Parameters) -> int:
    """The parameter ``max_payload``."""
    return parameters.number("max_payload", DEFAULT_MAX_PAYLOAD, low=0, high=MAX_PAYLOAD)


async def get_event(console: Console, request: Request) -> ASGIApp:
    """``GET api/events/{seq}``."""
    parameters = Parameters(request.scope["query_string"], ("log",))
    source = console.source(parameters.text("log"))
    seq = read_integer("seq", request.path_params["seq"], 1, MAX_SEQ)
    async with console.at_the_store():
        event: PersistedEvent | None = await source.one(seq)
    if event is None:
        raise not_found(f"seq: there is no event {seq}")
    return json_answer({"event": msgspec.Raw(encode_event(event))})
