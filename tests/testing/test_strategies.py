"""The strategies reach the corners on their own, and stay within what every store must hold."""

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    from_json,
    open_event_log,
    to_json,
)
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import (
    assert_same_events,
    batches,
    envelopes,
    events,
    payloads,
    persisted_events,
    queries,
    run_in_virtual_time,
    texts,
)
from trio_eventlog.testing._model import Conflict, Model, canonical
from trio_eventlog.testing._program import code_of

TOP = 2**63 - 1


def reached(strategy, condition):
    """Whether an ordinary number of examples has one that fulfils ``condition``."""
    limits = settings(
        max_examples=1_000,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        find(strategy, condition, settings=limits)
    except NoSuchExample:
        return False
    return True


def is_dict_with(key, check):
    return lambda value: isinstance(value, dict) and key in value and check(value[key])


CORNERS = {
    "text with NUL": (texts(), lambda t: "\0" in t),
    "text beyond the BMP": (texts(), lambda t: any(ord(c) > 0xFFFF for c in t)),
    "combining": (texts(), lambda t: "\u0301" in t),
    "wildcards": (texts(), lambda t: "%" in t),
    "underscore": (texts(), lambda t: "_" in t),
    "quote": (texts(), lambda t: "'" in t),
    "empty": (texts(), lambda t: not t),
    "space at the end": (texts(), lambda t: t.endswith(" ")),
    "long": (texts(), lambda t: len(t) >= 500),
    "agent": (events(), lambda e: isinstance(e, AgentEvent)),
    "module": (events(), lambda e: isinstance(e, ModuleEvent)),
    "kind in the payload": (payloads(), is_dict_with("kind", lambda v: True)),
    "run_id as a number": (payloads(), is_dict_with("run_id", lambda v: v == 1 and type(v) is int)),
    "run_id as a text": (payloads(), is_dict_with("run_id", lambda v: isinstance(v, str))),
    "run_id nested": (payloads(), is_dict_with("step_id", lambda v: v == {"run_id": "a"})),
    "integer beyond floats": (payloads(), lambda v: v == 2**53 + 1),
    "integer beyond 2**63": (payloads(), lambda v: v == 2**64 - 1),
    "negative zero": (payloads(), lambda v: repr(v) == "-0.0"),
    "list": (payloads(), lambda v: isinstance(v, list) and len(v) > 1),
    "seq at the end": (persisted_events(), lambda e: e.seq == TOP),
    "seq beyond floats": (persisted_events(), lambda e: e.seq == 2**53 + 1),
    "time 0": (persisted_events(), lambda e: e.timestamp_ms == 0),
    "time at the end": (persisted_events(), lambda e: e.timestamp_ms == TOP),
    "member that is not the agent": (
        persisted_events(),
        lambda e: isinstance(e.event, AgentEvent) and e.member_id not in (None, e.event.agent_id),
    ),
    "empty batch": (batches(), lambda b: not b),
    "batch of thousands": (batches(), lambda b: len(b) >= 1_000),
    "batch of max_batch": (batches(max_batch=77), lambda b: len(b) == 77),
    "repeat in a batch": (batches(), lambda b: len({e.id for e in b}) < len(b)),
    "ids that differ in case": (
        batches(),
        lambda b: len({e.id.casefold() for e in b}) < len({e.id for e in b}),
    ),
    "conflict in a batch": (batches(), lambda b: isinstance(Model().append(b), Conflict)),
    "limit 0": (queries(), lambda q: q.limit == 0),
    "limit 1": (queries(), lambda q: q.limit == 1),
    "large limit": (queries(), lambda q: q.limit == 2**64 - 1),
    "bound beyond stores": (queries(), lambda q: q.until_ms == 2**64 - 1),
    "cursor 0": (queries(), lambda q: q.after_seq == 0),
    "no filter": (queries(), lambda q: q == EventQuery()),
    "several types": (queries(), lambda q: len(q.event_types) > 1),
    "all filters": (queries(), lambda q: None not in (q.member_id, q.run_id, q.since_ms, q.limit)),
}


@pytest.mark.parametrize("name", CORNERS)
def test_a_corner_is_reached(name):
    assert reached(*CORNERS[name])


@given(st.one_of(texts(), persisted_events().map(lambda event: event.id)))
def test_texts_are_held_by_every_store(text):
    assert len(text.encode()) <= 512


@given(persisted_events())
def test_events_are_held_by_every_store(event):
    assert len(to_json(event)) < 64 * 1024
    assert canonical(from_json(to_json(event), PersistedEvent)) == canonical(event)


@given(batches(max_batch=5, unique=True))
def test_unique_batches_can_be_stored(batch):
    assert len(batch) <= 5
    assert Model().append(batch).elsewhere == ()


@pytest.mark.parametrize("max_batch", [0, -1])
def test_batches_have_a_size(max_batch):
    with pytest.raises(ValueError, match=f"max_batch: expected at least 1, got {max_batch}"):
        batches(max_batch=max_batch)


@given(st.lists(envelopes(), max_size=5))
def test_every_envelope_can_be_ingested(drawn):
    async def main():
        async with open_event_log(MemoryStore()) as log:
            for envelope in drawn:
                assert isinstance(envelope, EventEnvelope)
                log.ingest(envelope)
        statistics = log.statistics()
        assert statistics.persisted + statistics.duplicate == len(drawn)

    run_in_virtual_time(main)


# --- the oracle, and programs ---------------------------------------------------------------------


@given(st.lists(persisted_events(), max_size=8, unique_by=(lambda e: e.id, lambda e: e.seq)), queries())
def test_the_oracle_agrees_with_the_definition(batch, query):
    """It shares no code with it; that both mean the same is shown here."""
    model = Model()
    model.append(batch)

    expected = sorted((event for event in batch if query.matches(event)), key=lambda event: event.seq)
    assert_same_events(model.query(query), expected[: query.limit])


@given(persisted_events(), queries(), batches(max_batch=4))
def test_code_means_what_it_was_made_of(event, query, batch):
    names = {
        "AgentEvent": AgentEvent,
        "EventQuery": EventQuery,
        "ModuleEvent": ModuleEvent,
        "PersistedEvent": PersistedEvent,
    }

    def value(code):
        assert code.isascii()
        return eval(code, names)  # noqa: S307 - that is what it is for

    assert canonical(value(code_of(event))) == canonical(event)
    assert value(code_of(query)) == query
    assert_same_events(value(code_of(batch)), batch)


def at(seq, payload=None):
    return PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", "t", payload))


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        ([at(1)], [at(1), at(2)], "found seqs [1], expected [1, 2]"),
        ([at(2), at(1)], [at(1), at(2)], "found seqs [2, 1], expected [1, 2]"),
        ([at(1, 1)], [at(1, 1.0)], "payload=1)), expected"),
        ([at(1, True)], [at(1, 1)], "payload=True)), expected"),
        ([at(1, -0.0)], [at(1, 0.0)], "payload=-0.0)), expected"),
    ],
)
def test_assert_same_events_says_what_differs(found, expected, message):
    with pytest.raises(AssertionError) as caught:
        assert_same_events(found, expected)

    assert message in str(caught.value)


def test_the_order_of_keys_is_free():
    assert_same_events([at(1, {"a": 1, "b": 2})], [at(1, {"b": 2, "a": 1})])
