"""Numbers about events: counts, histograms, facets."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import attrs
from starlette.requests import Request
from starlette.types import ASGIApp

from trio_eventlog import EventQuery
from trio_eventlog.abc import FACETS
from trio_eventlog.console._errors import invalid
from trio_eventlog.console._events import MAX_SEQ
from trio_eventlog.console._http import json_answer
from trio_eventlog.console._parameters import FILTERS, Parameters, shown
from trio_eventlog.console._source import Histogram, Source
from trio_eventlog.console._state import Console

COUNT_PARAMETERS: Final = (*FILTERS, "after_seq", "before_seq", "at_most")
HISTOGRAM_PARAMETERS: Final = (*FILTERS, "buckets", "bucket_ms")
FACET_PARAMETERS: Final = (*FILTERS, "field", "top")

FIELDS: Final = FACETS

MAX_COUNT: Final = 1_000_000
DEFAULT_COUNT: Final = 100_000
MAX_BUCKETS: Final = 1000
DEFAULT_BUCKETS: Final = 120
MAX_TYPES: Final = 20
MAX_FACETS: Final = 8
MAX_TOP: Final = 100
DEFAULT_TOP: Final = 10

_SECOND: Final = 1000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_ROUND_WIDTHS: Final = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(_SECOND * n for n in (1, 2, 5, 10, 15, 30)),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 30, 90, 365)),
)


async def get_count(console: Console, request: Request) -> ASGIApp:
    """``GET api/count``."""
    parameters = Parameters(request.scope["query_string"], COUNT_PARAMETERS)
    source = console.source(parameters.text("log"))
    query = parameters.query(after_seq=parameters.integer("after_seq", high=MAX_SEQ))
    before_seq = parameters.integer("before_seq", high=MAX_SEQ)
    at_most = parameters.number("at_most", DEFAULT_COUNT, low=1, high=MAX_COUNT)
    async with console.at_the_store():
        count, is_exact = await source.count(query, before_seq, at_most)
    return json_answer({"count": count, "is_exact": is_exact})


# --- histogram ------------------------------------------------------------------------------------


async def get_histogram(console: Console, request: Request) -> ASGIApp:
    """``GET api/histogram``."""
    parameters = Parameters(request.scope["query_string"], HISTOGRAM_PARAMETERS)
    source = console.source(parameters.text("log"))
    query = parameters.query()
    buckets = parameters.number("buckets", DEFAULT_BUCKETS, low=1, high=MAX_BUCKETS)
    bucket_ms = parameters.integer("bucket_ms", low=1, high=MAX_SEQ)
    if bucket_ms is not None and parameters.texts("buckets"):
        raise invalid("bucket_ms", "given together with buckets")
    async with console.at_the_store():
        span = await _span(source, query)
        if span is None:
            return json_answer(_shaped(Histogram({}, None), bucket_ms or _ROUND_WIDTHS[0], None))
        if bucket_ms is None:
            # A store takes no wider ones.
            bucket_ms = min(round_width(span[1] - span[0], buckets), MAX_SEQ)
        elif (span[1] - 1) // bucket_ms - span[0] // bucket_ms >= MAX_BUCKETS:
            raise invalid("bucket_ms", f"that would be more than {MAX_BUCKETS} buckets")
        within = attrs.evolve(query, since_ms=span[0], until_ms=span[1])
        found = await source.histogram(within, bucket_ms)
    return json_answer(_shaped(found, bucket_ms, span))


async def _span(source: Source, query: EventQuery) -> tuple[int, int] | None:
    """The range of times to show: that of the query, or else of the events. None if there is nothing."""
    since, until = query.since_ms, query.until_ms
    if since is None or until is None:
        ends = (await source.oldest(query, 1)).events + (await source.newest(query, None, 1)).events
        if not ends:
            return None
        # The clock of a program may have been set back.
        since = min(event.timestamp_ms for event in ends) if since is None else since
        until = max(event.timestamp_ms for event in ends) + 1 if until is None else until
    return None if since >= until else (since, until)


def round_width(span_ms: int, buckets: int) -> int:
    """The least round width, in milliseconds, of which about ``buckets`` cover a span. Pure."""
    for width in _ROUND_WIDTHS:
        if width * buckets >= span_ms:
            return width
    return -(-span_ms // buckets)


def _shaped(found: Histogram, bucket_ms: int, span: tuple[int, int] | None) -> dict[str, Any]:
    by_type: Counter[str] = Counter()
    for (_, event_type), count in found.counts.items():
        by_type[event_type] += count
    ranked = sorted(by_type.items(), key=lambda item: (-item[1], item[0]))
    types = [event_type for event_type, _ in ranked[:MAX_TYPES]]
    places = {event_type: place for place, event_type in enumerate(types)}
    buckets: dict[int, dict[str, Any]] = {}
    for (start_ms, event_type), count in sorted(found.counts.items()):
        bucket = buckets.setdefault(start_ms, {"start_ms": start_ms, "counts": [0] * len(types), "other": 0})
        if event_type in places:
            bucket["counts"][places[event_type]] += count
        else:
            bucket["other"] += count
    return {
        "bucket_ms": bucket_ms,
        "since_ms": None if span is None else span[0],
        "until_ms": None if span is None else span[1],
        "event_types": types,
        "buckets": list(buckets.values()),
        "total": sum(by_type.values()),
        "is_complete": found.from_seq is None,
        "from_seq": None if found.from_seq is None else str(found.from_seq),
    }


# --- facets ---------------------------------------------------------------------------------------


async def get_facets(console: Console, request: Request) -> ASGIApp:
    """``GET api/facets``."""
    parameters = Parameters(
        request.scope["query_string"], FACET_PARAMETERS, repeatable=("event_type", "field")
    )
    source = console.source(parameters.text("log"))
    query = parameters.query()
    fields = _read_fields(parameters)
    top = parameters.number("top", DEFAULT_TOP, low=1, high=MAX_TOP)
    facets: list[dict[str, Any]] = []
    for field in fields:
        # A turn for each, so that others come in between.
        async with console.at_the_store():
            found = await source.facets(query, field, top)
        facets.append(
            {
                "field": field,
                "distinct": found.distinct,
                "values": [{"value": value, "count": count} for value, count in found.top],
                "is_complete": found.from_seq is None,
                "from_seq": None if found.from_seq is None else str(found.from_seq),
            }
        )
    return json_answer({"facets": facets})


def _read_fields(parameters: Parameters) -> list[str]:
    fields = parameters.texts("field")
    if not fields:
        raise invalid("field", f"required: one or more of {', '.join(FIELDS)}")
    if len(fields) > MAX_FACETS:
        raise invalid("field", f"given more than {MAX_FACETS} times")
    for field in fields:
        if field not in FIELDS:
            raise invalid("field", f"expected one of {', '.join(FIELDS)}, got {shown(field)}")
    return fields
