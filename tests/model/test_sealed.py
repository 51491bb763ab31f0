"""Envelopes and sealed events: checked once, and like any other event."""

import copy
import pickle
import time
import uuid

import attrs
import pytest
from hypothesis import example, given

from tests._helpers.json_values import (
    events,
    exact,
    texts,
)
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    ModuleEvent,
    PersistedEvent,
    to_json,
)
from trio_eventlog._model._events import persisted, sealed
from trio_eventlog._model._payload import encode_payload, scopes_of
from trio_eventlog._model._sealed import (
    check_envelope,
    encoded_payload,
    event_size,
    is_sealed,
    reseal,
    scopes_of_event,
    seal_event,
    seal_persisted,
    size_of,
)

# --- envelopes ------------------------------------------------------------------------------------


def test_an_envelope_must_fit_a_store():
    """What a log takes is narrower than what the wire can carry."""
    agent, module = AgentEvent("a", "t"), ModuleEvent("m", "t")
    check_envelope(EventEnvelope("i", "agent", 2**63 - 1, agent))
    check_envelope(EventEnvelope("", "module", 0, module))

    for envelope, path in (
        (EventEnvelope("i", "module", 1, agent), "source"),
        (EventEnvelope("i", "agent", 1, module), "source"),
        (EventEnvelope("i", "", 1, module), "source"),
        (EventEnvelope("i", "agent", 2**63, agent), "timestamp_ms"),
        (EventEnvelope("i", "agent", True, agent), "timestamp_ms"),
        (EventEnvelope("i", "agent", -1, agent), "timestamp_ms"),
        (EventEnvelope("\udc00", "agent", 1, agent), "event_id"),
        (EventEnvelope(7, "agent", 1, agent), "event_id"),
    ):
        with pytest.raises(CodecError) as caught:
            check_envelope(envelope)
        assert caught.value.path == path


def test_an_envelope_fills_in_what_is_not_given():
    """Ids are unique, ascend with time, and are UUIDs of version 7."""
    event = AgentEvent("a", "t")
    first, second = EventEnvelope.of(event), EventEnvelope.of(ModuleEvent("m", "t"))

    assert uuid.UUID(first.event_id).version == 7
    assert first.event_id < second.event_id
    assert (first.source, second.source) == ("agent", "module")
    assert 0 <= second.timestamp_ms - first.timestamp_ms < 60_000
    assert first.event is event

    given_both = EventEnvelope.of(event, event_id="", timestamp_ms=0)
    assert given_both == EventEnvelope("", "agent", 0, event)

    with pytest.raises(TypeError, match="event must be"):
        EventEnvelope.of(first)


# --- sealed events --------------------------------------------------------------------------------


def scribble(value):
    """Change every list and dict in a JSON value."""
    if isinstance(value, list):
        for item in value:
            scribble(item)
        value.append("scribbled")
    elif isinstance(value, dict):
        for item in value.values():
            scribble(item)
        value["scribbled"] = True


@given(events)
def test_a_sealed_event_shares_nothing(event):
    """Neither with the caller's object, nor with another copy, nor with what was read from it."""
    original = copy.deepcopy(event)
    sealed = seal_event(event)
    again = reseal(PersistedEvent("i", 1, 1, None, sealed)).event

    scribble(event.payload)
    assert sealed == original
    assert exact(sealed.payload) == exact(original.payload)

    scribble(sealed.payload)
    assert again == original
    # The text it was sealed with stays authoritative.
    assert to_json(sealed) == to_json(original)
    assert seal_event(sealed) == original


@given(events)
def test_a_sealed_event_is_like_any_other(event):
    """Equal, of the same hash, repr and class; it pickles, copies, evolves and matches."""

    def sealed():
        # A new one each time: the payload is decoded when it is first read.
        return seal_event(event)

    assert type(sealed()) is type(event)
    assert sealed() == event
    assert event == sealed()
    assert hash(sealed()) == hash(event)
    assert repr(sealed()) == repr(event)
    assert pickle.loads(pickle.dumps(sealed())) == event  # noqa: S301 - our own
    assert copy.copy(sealed()) == event
    assert copy.deepcopy(sealed()) == event
    assert attrs.evolve(sealed()) == event
    assert attrs.evolve(sealed(), event_type="other").event_type == "other"
    assert attrs.evolve(sealed(), payload=1).payload == 1
    assert attrs.asdict(sealed()) == attrs.asdict(event)
    assert encoded_payload(sealed()) == encode_payload(event.payload)
    match sealed():
        case AgentEvent(agent_id, event_type, payload) | ModuleEvent(
            agent_id, event_type, payload
        ):  # pragma: no branch
            assert (agent_id, event_type, payload) == attrs.astuple(event, recurse=False)


def test_a_payload_is_decoded_once_and_only_when_read():
    event = seal_event(AgentEvent("a", "t", {"x": []}))

    assert event.payload is event.payload

    # The text decides; nothing else was built yet.
    broken = sealed(AgentEvent, "a", "t", "no JSON")
    assert broken.agent_id == "a"
    assert to_json(AgentEvent("a", broken.event_type)) == b'{"kind":"agent","agent_id":"a","event_type":"t"}'
    with pytest.raises(CodecError, match="payload: not JSON, the store is damaged: JSON is malformed"):
        broken.payload  # noqa: B018 - reading is what fails


def test_events_are_frozen_and_have_no_other_attributes():
    for event in (AgentEvent("a", "t", 1), seal_event(AgentEvent("a", "t", 1))):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            event.payload = 2
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            del event.payload
        with pytest.raises(AttributeError, match="'AgentEvent' object has no attribute 'other'"):
            event.other  # noqa: B018 - reading is what fails
        assert event.payload == 1

    with pytest.raises(AttributeError, match="no attribute 'payload'"):
        object.__new__(AgentEvent).payload  # noqa: B018 - as while it is being unpickled


def test_a_sealed_persisted_event_is_an_equal_one():
    event = PersistedEvent("i", 1, 2, "a", AgentEvent("a", "t", {"x": [1]}))

    sealed = seal_persisted(event)

    assert sealed == event
    assert sealed is not event
    scribble(event.event.payload)
    assert sealed.event.payload == {"x": [1]}
    assert to_json(reseal(sealed)) == to_json(sealed)


@given(events, texts)
@example(AgentEvent("a", "t", {"run_id": "r", "step_id": 1, "mob_id": None, "identity": ""}), "i")
@example(ModuleEvent("m", "t", {"identity": "é", "mob_id": "m", "run_id": [], "step_id": "s"}), "i")
def test_what_sealing_finds_out_is_what_the_text_says(event, event_id):
    """Scopes and size are carried along; they are the same when they have to be counted again."""
    known = seal_event(event)
    text = encoded_payload(known)
    actor = known.agent_id if isinstance(known, AgentEvent) else known.module
    stored = sealed(type(known), actor, known.event_type, text.decode())

    assert scopes_of_event(known) == scopes_of_event(stored) == scopes_of_event(event) == scopes_of(text)
    strings = (event_id, actor, known.event_type)
    size = len(text) + sum(len(string.encode()) for string in strings)
    assert event_size(event_id, known) == event_size(event_id, stored) == event_size(event_id, event) == size
    assert size_of(PersistedEvent(event_id, 1, 1, None, known)) == size


@given(events)
def test_sealing_again_keeps_what_is_known(event):
    """And copies the rest: the decoded payload is not shared."""
    known = seal_event(event)

    for again in (seal_event(known), reseal(PersistedEvent("i", 1, 1, None, known)).event):
        assert again is not known
        assert encoded_payload(again) is encoded_payload(known)
        assert scopes_of_event(again) is scopes_of_event(known)
        assert is_sealed(PersistedEvent("i", 1, 1, None, again))
    assert not is_sealed(PersistedEvent("i", 1, 1, None, event))


@given(events, texts)
def test_a_numbered_event_is_what_the_constructor_makes(event, event_id):
    """The log builds its events past the constructor, for speed."""
    member_id = event.agent_id if isinstance(event, AgentEvent) else None
    expected = PersistedEvent(event_id, 7, 8, member_id, event)

    assert persisted(event_id, 7, 8, event) == expected
    assert repr(persisted(event_id, 7, 8, event)) == repr(expected)


def test_a_clock_before_1970_is_told(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: -1)

    with pytest.raises(ValueError, match=r"time\.time_ns\(\) is before 1970"):
        EventEnvelope.of(AgentEvent("a", "t"), event_id="e")
