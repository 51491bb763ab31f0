"""Mob events, and the events of a log that they become."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.events import agent, module
from tests._helpers.json_values import payloads
from trio_eventlog import AgentEvent, CodecError, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.mobkit import MobEvent

TEXT = st.text(max_size=8)
LABELS = st.dictionaries(TEXT, TEXT, max_size=3)
MOB_EVENTS = st.builds(
    MobEvent,
    cursor=st.integers(0, 2**63 - 1),
    mob_id=TEXT,
    timestamp_ms=st.integers(0, 2**63 - 1),
    kind=TEXT,
    run_id=st.none() | TEXT,
    step_id=st.none() | TEXT,
    agent_identity=st.none() | TEXT,
    mob_labels=LABELS,
    run_labels=LABELS,
    data=payloads,
)

DOCUMENTED = (
    b'{"event_id":"mob-evt-1234","cursor":1234,"mob_id":"home","timestamp_ms":1784019600000,'
    b'"kind":"step_dispatched","run_id":"r-1","step_id":"s-1","agent_identity":"worker-7",'
    b'"mob_labels":{"team":"a"},"run_labels":{"env":"test"},"data":{"type":"step_dispatched","n":1}}'
)


def test_the_documented_form_byte_for_byte():
    event = MobEvent.from_json(DOCUMENTED)
    assert event.to_json() == DOCUMENTED
    assert (event.cursor, event.step_id, event.run_labels) == (1234, "s-1", {"env": "test"})


def test_what_an_event_does_not_have_is_left_out():
    text = MobEvent(cursor=1, mob_id="m", timestamp_ms=2, kind="k").to_json()
    assert text == b'{"event_id":"mob-evt-1","cursor":1,"mob_id":"m","timestamp_ms":2,"kind":"k","data":null}'


@given(MOB_EVENTS)
def test_it_comes_back_through_its_text(event):
    assert MobEvent.from_json(event.to_json()) == event


@given(MOB_EVENTS, st.integers(1, 2**63 - 1))
def test_it_comes_back_through_a_log_but_for_its_cursor(event, seq):
    envelope = event.envelope()
    assert envelope.event_id == f"mob-evt-{event.cursor}"
    member = envelope.event.agent_id if isinstance(envelope.event, AgentEvent) else None
    stored = PersistedEvent(envelope.event_id, seq, envelope.timestamp_ms, member, envelope.event)
    found = MobEvent.of(stored)
    assert found.cursor == seq
    assert MobEvent(**{**as_dict(found), "cursor": event.cursor}) == event


def as_dict(event):
    names = (
        "mob_id",
        "timestamp_ms",
        "kind",
        "run_id",
        "step_id",
        "agent_identity",
        "mob_labels",
        "run_labels",
        "data",
    )
    return {name: getattr(event, name) for name in names}


def test_any_event_of_a_log_is_one():
    found = MobEvent.of(
        agent(7, agent_id="w", event_type="e", payload={"run_id": "r", "mob_id": 5, "mob_labels": {"a": 1}})
    )
    assert (found.cursor, found.kind, found.run_id, found.mob_id, found.mob_labels) == (7, "e", "r", "", {})
    assert (found.agent_identity, found.data) == ("w", {"run_id": "r", "mob_id": 5, "mob_labels": {"a": 1}})
    found = MobEvent.of(module(8, payload=[1]))
    assert (found.agent_identity, found.data) == (None, [1])
    assert MobEvent.of(agent(9, agent_id="w", payload={"identity": "i"})).agent_identity == "i"


def test_what_it_becomes():
    event = MobEvent(cursor=3, mob_id="m", timestamp_ms=4, kind="k", data={"x": 1})
    assert event.envelope().event == ModuleEvent("mob", "k", {"mob_id": "m", "data": {"x": 1}})
    event = MobEvent(cursor=3, mob_id="m", timestamp_ms=4, kind="k", run_id="r", agent_identity="w")
    assert event.envelope().event == AgentEvent("w", "k", {"mob_id": "m", "run_id": "r", "data": None})


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"cursor": "1"}, "cursor"),
        ({"cursor": -1}, "cursor"),
        ({"cursor": True}, "cursor"),
        ({"cursor": 2**63}, "cursor"),
        ({"kind": None}, "kind"),
        ({"mob_id": 1}, "mob_id"),
        ({"run_id": 1}, "run_id"),
        ({"mob_labels": {"a": 1}}, "mob_labels"),
        ({"run_labels": []}, "run_labels"),
        ({"timestamp_ms": 1.5}, "timestamp_ms"),
        ({"data": {"x": [float("inf")]}}, ""),
        ({"data": {"x": [2**64]}}, "data.x[0]"),
    ],
)
def test_malformed(change, path):
    fields = json.loads(DOCUMENTED) | change
    with pytest.raises(CodecError) as caught:
        MobEvent.from_json(json.dumps(fields))
    assert caught.value.path == path


@pytest.mark.parametrize(
    "text", [b"", b"1", b"[]", b'{"cursor":1},{"a":1}', b"{}", b"\xff", '{"a":"\ud800"}', b"[" * 500]
)
def test_what_is_no_object(text):
    with pytest.raises(CodecError):
        MobEvent.from_json(text)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (EventQuery(), True),
        (EventQuery(identity="worker-7"), True),
        (EventQuery(member_id="worker-7"), True),
        (EventQuery(member_id="worker-7", identity="other"), False),
        (EventQuery(since_ms=1784019600000, until_ms=1784019600001), True),
        (EventQuery(until_ms=1784019600000), False),
        (EventQuery(since_ms=1784019600001), False),
        (EventQuery(mob_id="home", run_id="r-1", step_id="s-1"), True),
        (EventQuery(mob_id="away"), False),
        (EventQuery(run_id="r-2"), False),
        (EventQuery(step_id=""), False),
        (EventQuery(event_types=("a", "step_dispatched")), True),
        (EventQuery(event_types=("a",)), False),
    ],
)
def test_filters(query, expected):
    assert MobEvent.from_json(DOCUMENTED).matches(query) == expected
