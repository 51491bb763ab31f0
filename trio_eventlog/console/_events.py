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
from trio_eventlog.console._source import MAX_PAGE_BYTES, Found, Source, gaps_in, without_skipped
from trio_eventlog.console._state import Console

MAX_SEQ: Final = 2**63 - 1
MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
_PART: Final = 100
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
        found, encoded = await self._read(source)
        return {
            "events": joined(encoded),
            "next": None if found.next is None else str(found.next),
            "is_complete": found.is_last or (not self.is_newest and (found.next or 0) >= last_seq),
            "last_seq": str(last_seq),
            "gaps": await self._gaps(source, found, last_seq),
        }

    async def _read(self, source: Source) -> tuple[Found, list[bytes]]:
        """The page, and its events as JSON. Few at a time are read, since all may be large."""
        events: list[PersistedEvent] = []
        encoded: list[bytes] = []
        size, cursor = 0, self.before_seq if self.is_newest else self.query.after_seq
        while True:
            wanted = min(_PART, self.limit - len(events))
            found = await self._read_part(source, cursor, wanted)
            for event in found.events:
                text = encode_event(event, self.max_payload)
                size += len(text)
                if events and size > MAX_PAGE_BYTES:
                    return Found(events, events[-1].seq), encoded
                events.append(event)
                encoded.append(text)
            cursor = found.next
            if found.is_last or len(found.events) < wanted or len(events) == self.limit:
                return Found(events, cursor, is_last=found.is_last), encoded

    async def _read_part(self, source: Source, cursor: int | None, limit: int) -> Found:
        if self.is_newest:
            return await source.newest(self.query, cursor, limit)
        return await source.oldest(attrs.evolve(self.query, after_seq=cursor), limit)

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
        last = max(last, seqs[-1] if seqs else 0)
        gaps = gaps_in(seqs, first, last, pruned_seq)
        # Where an epoch begins, there is a gap.
        return without_skipped(gaps, await source.epochs()) if gaps else gaps


def _is_unfiltered(query: EventQuery) -> bool:
    return attrs.evolve(query, after_seq=None, limit=None) == EventQuery()


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
