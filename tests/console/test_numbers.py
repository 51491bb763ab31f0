"""Counts, histograms and facets."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.console import PlainStore, ask
from tests._helpers.events import agent
from trio_eventlog.console import _source as source
from trio_eventlog.console import create_app
from trio_eventlog.console._numbers import MAX_TYPES, round_width
from trio_eventlog.stores import MemoryStore


async def test_counting(app):
    assert (await ask(app, "/api/count")).json() == {"count": 7, "is_exact": True}
    answer = await ask(app, "/api/count", {"event_type": "tick", "after_seq": 3})
    assert answer.json() == {"count": 1, "is_exact": True}
    answer = await ask(app, "/api/count", {"before_seq": 3})
    assert answer.json() == {"count": 2, "is_exact": True}
    answer = await ask(app, "/api/count", {"at_most": 3})
    assert answer.json() == {"count": 3, "is_exact": False}


async def test_a_histogram(app):
    assert (await ask(app, "/api/histogram", {"bucket_ms": 50})).json() == {
        "bucket_ms": 50,
        "since_ms": 10,
        "until_ms": 91,
        "event_types": ["started", "tick", "ended", "failed", "retried"],
        "buckets": [
            {"start_ms": 0, "counts": [2, 1, 0, 0, 0], "other": 0},
            {"start_ms": 50, "counts": [0, 1, 1, 1, 1], "other": 0},
        ],
        "total": 7,
        "is_complete": True,
        "from_seq": None,
    }


async def test_a_histogram_of_part_of_the_log(app):
    answer = (await ask(app, "/api/histogram", {"since_ms": 20, "until_ms": 70, "bucket_ms": 10})).json()
    assert (answer["since_ms"], answer["until_ms"], answer["total"]) == (20, 70, 3)
    answer = (await ask(app, "/api/histogram", {"run_id": "r-2"})).json()
    assert (answer["since_ms"], answer["until_ms"], answer["event_types"]) == (20, 91, ["ended", "started"])


@pytest.mark.parametrize(
    "parameters", [{"run_id": "none"}, {"since_ms": 50, "until_ms": 50}, {"since_ms": 5000, "until_ms": 10}]
)
async def test_a_histogram_of_nothing(app, parameters):
    answer = (await ask(app, "/api/histogram", parameters)).json()
    assert (answer["buckets"], answer["total"], answer["event_types"]) == ([], 0, [])


@pytest.mark.parametrize("until_ms", [2**63, 2**64 - 1])
async def test_a_histogram_of_all_of_time(app, until_ms):
    answer = await ask(app, "/api/histogram", {"since_ms": 0, "until_ms": until_ms, "buckets": 1})
    assert (answer.status, answer.json()["total"]) == (200, 7)


@pytest.mark.parametrize(
    "parameters",
    [{"bucket_ms": 0}, {"bucket_ms": 1, "until_ms": 5000}, {"buckets": 0}, {"buckets": 5, "bucket_ms": 5}],
)
async def test_too_many_buckets(app, parameters):
    answer = await ask(app, "/api/histogram", {"since_ms": 0, **parameters})
    assert (answer.status, answer.error["field"]) == (
        400,
        "buckets" if parameters == {"buckets": 0} else "bucket_ms",
    )


async def test_rare_types_are_counted_together():
    store = MemoryStore()
    await store.append_batch([agent(seq, event_type=f"t-{seq % 30:02}") for seq in range(1, 1001)])
    answer = (await ask(create_app(store), "/api/histogram", {"buckets": 3})).json()
    assert len(answer["event_types"]) == MAX_TYPES
    assert (
        sum(sum(bucket["counts"]) + bucket["other"] for bucket in answer["buckets"])
        == answer["total"]
        == 1000
    )
    assert sum(bucket["other"] for bucket in answer["buckets"]) > 0


@given(st.integers(1, 2**63), st.integers(1, 1000))
def test_round_widths(span, buckets):
    width = round_width(span, buckets)
    # A span that begins anywhere touches one more.
    assert -(-span // width) <= buckets
    if width > 1:
        assert span / width > buckets / 4.2


@given(
    st.lists(
        st.tuples(st.integers(0, 5000), st.sampled_from("abc"), st.sampled_from([None, "x", "y"])),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 40),
    st.none() | st.sampled_from("abc"),
    st.booleans(),
)
async def test_histogram_and_facets_count_what_is_there(items, buckets, wanted, plain):
    store = MemoryStore()
    events = [
        agent(seq, time_ms=time_ms, event_type=kind, payload={"run_id": run, "k": 1})
        for seq, (time_ms, kind, run) in enumerate(items, 1)
    ]
    await store.append_batch(events)
    app = create_app(PlainStore(store) if plain else store)
    filters = {} if wanted is None else {"event_type": wanted}
    matching = [event for event in events if wanted in {None, event.event.event_type}]
    span = {"since_ms": 0, "until_ms": 5001}
    found = (await ask(app, "/api/histogram", filters | span | {"buckets": buckets})).json()
    counts = Counter()
    for bucket in found["buckets"]:
        for kind, count in zip(found["event_types"], bucket["counts"], strict=True):
            counts[bucket["start_ms"], kind] += count
    width = found["bucket_ms"]
    assert +counts == Counter((e.timestamp_ms // width * width, e.event.event_type) for e in matching)
    assert len(found["buckets"]) <= buckets + 1

    answer = (await ask(app, "/api/facets", filters | {"field": ["run_id", "event_type"]})).json()
    runs, kinds = answer["facets"]
    values = Counter(e.event.payload["run_id"] for e in matching)
    values.pop(None, None)
    assert {item["value"]: item["count"] for item in runs["values"]} == values
    assert [item["count"] for item in kinds["values"]] == sorted(
        Counter(e.event.event_type for e in matching).values(), reverse=True
    )


async def test_facets(app):
    fields = ["event_type", "member_id", "module", "run_id", "identity", "step_id"]
    facets = (await ask(app, "/api/facets", {"field": fields, "top": 2})).json()["facets"]
    assert {facet["field"]: [(v["value"], v["count"]) for v in facet["values"]] for facet in facets} == {
        "event_type": [("started", 2), ("tick", 2)],
        "member_id": [("w-1", 3), ("w-2", 2)],
        "module": [("m", 2)],
        "run_id": [("r-1", 3), ("r-2", 2)],
        "identity": [("boss", 1)],
        "step_id": [],
    }


@pytest.mark.parametrize("fields", [[], ["payload"], ["run_id"] * 9, ["fields"]])
async def test_fields_that_are_none(app, fields):
    answer = await ask(app, "/api/facets", {"field": fields})
    assert (answer.status, answer.error["field"]) == (400, "field")


async def test_a_long_log_is_counted_from_its_newest_events(monkeypatch):
    monkeypatch.setattr(source, "MAX_SCAN", 100)

    store = MemoryStore()
    await store.append_batch([agent(seq) for seq in range(1, 301)])
    app = create_app(PlainStore(store))
    answer = (await ask(app, "/api/histogram")).json()
    assert (answer["total"], answer["is_complete"], answer["from_seq"]) == (100, False, "201")
    (facet,) = (await ask(app, "/api/facets", {"field": "event_type"})).json()["facets"]
    assert (facet["values"][0]["count"], facet["is_complete"], facet["from_seq"]) == (100, False, "201")
