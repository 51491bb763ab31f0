"""The wire form: that of the original, and values that come back equal or are refused by name."""

import json
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests._helpers.json_values import Level, Name, Text, events, exact, queries, texts, unsigned
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    UnifiedEvent,
    from_json,
    to_json,
)
from trio_eventlog._model._sealed import (
    seal_event,
    seal_persisted,
)

GOLDEN = Path(__file__).parent / "golden"
TYPES = {
    "event_envelope": EventEnvelope,
    "event_query": EventQuery,
    "persisted_event": PersistedEvent,
}

# --- the ancestor's vectors -----------------------------------------------------------------------


def vectors():
    for path in sorted(GOLDEN.glob("*.json")):
        for vector in json.loads(path.read_text()):
            yield pytest.param(TYPES[path.stem], vector, id=f"{path.stem}-{vector['name']}")


@pytest.mark.parametrize(("cls", "vector"), [*vectors()])
def test_golden_vectors(cls, vector):
    """What the ancestor wrote is read, means the same, and is written as the ancestor writes it."""
    text = vector["json"]
    expected = vector.get("reencoded", text)

    found = from_json(text, cls)
    written = to_json(found)

    assert exact(json.loads(text)) == exact(vector["value"])
    assert exact(json.loads(written)) == exact(json.loads(expected))
    assert from_json(written, cls) == found
    # Byte for byte, but for the spelling of floats and control characters, where writers differ.
    if json.dumps(json.loads(expected), ensure_ascii=False, separators=(",", ":")) == expected:
        assert written.decode() == expected


@pytest.mark.parametrize(("cls", "vector"), [*vectors()])
def test_golden_vectors_field_by_field(cls, vector):
    """The objects hold what the vector's value says, so that reading and writing cannot err together."""
    value = vector["value"]

    found = from_json(vector["json"].encode(), cls)

    for field in attrs.fields(cls):
        if field.name == "event":
            event = value["event"]
            assert type(found.event) is {"agent": AgentEvent, "module": ModuleEvent}[event["kind"]]
            for part in attrs.fields(type(found.event)):
                assert exact(getattr(found.event, part.name)) == exact(event.get(part.name))
        elif field.name == "event_types":
            assert list(found.event_types) == (value.get("event_types") or [])
        elif field.name == "fields":
            assert exact(dict(found.fields)) == exact(value.get("fields") or {})
        else:
            assert exact(getattr(found, field.name)) == exact(value.get(field.name))


# --- what is malformed ----------------------------------------------------------------------------

AGENT = {"kind": "agent", "agent_id": "a", "event_type": "t", "payload": {"x": 1}}
MODULE = {"kind": "module", "module": "m", "event_type": "t", "payload": None}
PERSISTED = {"id": "i", "seq": 1, "timestamp_ms": 2, "member_id": "a", "event": AGENT}
ENVELOPE = {"event_id": "i", "source": "agent", "timestamp_ms": 2, "event": AGENT}
QUERY = {
    "since_ms": 1,
    "until_ms": 2,
    "member_id": "m",
    "identity": "i",
    "mob_id": "b",
    "run_id": "r",
    "step_id": "s",
    "event_types": ["t"],
    "limit": 3,
    "after_seq": 4,
}
INTEGERS = ("seq", "timestamp_ms", "since_ms", "until_ms", "limit", "after_seq")
OPTIONAL = ("member_id", *QUERY)

NO_INTEGER = [True, False, 1.0, 1.5, "1", -1, 2**64, 10**30, [], [1], {}]
NO_TEXT = [True, 0, 1.5, [], ["a"], {}, "\ud800", "a\udfffb"]
NO_TEXTS = [True, 1, 1.5, "t", "", {}, {"t": "u"}, [1], ["a", None], ["a", ["b"]], ["\ud800"]]
NO_OBJECT = [True, 1, 1.5, "t", [], [{}]]
NO_KIND = ["", "Agent", "agent ", "unknown", 1, True, None, ["agent"], {}]


def wrong_values(field):
    if field == "event_types":
        return NO_TEXTS
    if field in INTEGERS:
        wrong = NO_INTEGER
    elif field == "event":
        wrong = NO_OBJECT
    elif field == "kind":
        return NO_KIND
    else:
        wrong = NO_TEXT
    return wrong if field in OPTIONAL and field != "timestamp_ms" else [*wrong, None]


def malformed():
    for cls, base in (
        (PersistedEvent, PERSISTED),
        (EventEnvelope, ENVELOPE),
        (EventQuery, QUERY),
        (UnifiedEvent, AGENT),
        (UnifiedEvent, MODULE),
        (AgentEvent, AGENT),
        (ModuleEvent, MODULE),
    ):
        for field in base:
            if field != "payload":
                for value in wrong_values(field):
                    yield cls, {**base, field: value}, field
            required = field not in OPTIONAL or field == "timestamp_ms"
            if required and not (base is AGENT and field == "payload"):
                yield cls, {name: value for name, value in base.items() if name != field}, field


def nested():
    """The same flaws of an event, inside of what carries events."""
    for cls, value, path in malformed():
        if cls is UnifiedEvent:
            yield PersistedEvent, {**PERSISTED, "event": value}, f"event.{path}"
            yield EventEnvelope, {**ENVELOPE, "event": value}, f"event.{path}"


CASES = [
    pytest.param(cls, value, path, id=f"{getattr(cls, '__name__', 'UnifiedEvent')}-{path}-{number}")
    for number, (cls, value, path) in enumerate([*malformed(), *nested()])
]


@pytest.mark.parametrize(("cls", "value", "path"), CASES)
def test_malformed_fields_are_named(cls, value, path):
    """Every field times everything that it cannot be."""
    with pytest.raises(CodecError) as caught:
        from_json(json.dumps(value), cls)

    assert caught.value.path == path
    assert caught.value.reason
    assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_the_cases_are_malformed_only_where_they_say():
    """Guards the table: what it starts from is well-formed."""
    from_json(json.dumps(PERSISTED), PersistedEvent)
    from_json(json.dumps(ENVELOPE), EventEnvelope)
    from_json(json.dumps(QUERY), EventQuery)
    from_json(json.dumps(AGENT), AgentEvent)
    from_json(json.dumps(MODULE), ModuleEvent)
    assert len(CASES) > 300


def test_several_flaws_are_all_told():
    """The path is that of the first, and the reason speaks of the others."""
    with pytest.raises(CodecError) as caught:
        from_json(json.dumps({**QUERY, "limit": True, "run_id": 1}), EventQuery)

    assert caught.value.path == "run_id"
    assert "limit: expected an integer, got bool (True)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        (" ", "not JSON"),
        ("nul", "not JSON"),
        ("{}{}", "not JSON"),
        ("{} trailing", "not JSON"),
        ("{},", "not JSON"),
        ("{}\0", "not JSON"),
        ("{'limit':1}", "not JSON"),
        ('{"limit":1,}', "not JSON"),
        ('{"limit":01}', "not JSON"),
        ('{"limit":+1}', "not JSON"),
        ('{"limit":1.}', "not JSON"),
        ('{"limit":0x1}', "not JSON"),
        ('{"limit":1 // one\n}', "not JSON"),
        ('{"run_id":"a\tb"}', "not JSON"),
        ('{"run_id":"\\x41"}', "not JSON"),
        ('{"limit":1', "not JSON"),
        ("\ufeff{}", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"\xff{}", "not UTF-8: invalid start byte at byte 0"),
        (b'{"run_id":"\xed\xa0\x80"}', "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        ("null", "expected an object, got null"),
        ("[]", "expected an object, got list"),
        ('"{}"', "expected an object, got str"),
        ("1", "expected an object, got int"),
        ("[" * 100_000, "nested more than 200 levels deep"),
        ('{"x":' * 100_000, "nested more than 200 levels deep"),
    ],
)
def test_malformed_texts(text, reason):
    """What is no JSON object at all has no field to name."""
    for cls in (EventQuery, PersistedEvent, UnifiedEvent):
        with pytest.raises(CodecError) as caught:
            from_json(text, cls)

        assert caught.value.path == ""
        assert caught.value.reason.startswith(reason)
        assert str(caught.value) == caught.value.reason


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"limit":1,"limit":1}', "limit"),
        ('{"unknown":1,"unknown":2}', "unknown"),
        ('{"unknown":[{},{"a b":{"x":1,"y":[],"x":3}}]}', "unknown[1]['a b'].x"),
        ('{"":1,"":2}', "['']"),
    ],
)
def test_fields_that_appear_twice(text, path):
    """Readers disagree which of them counts, so neither does."""
    with pytest.raises(CodecError, match="appears twice in one object") as caught:
        from_json(text, EventQuery)

    assert caught.value.path == path


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5_000])
@pytest.mark.parametrize("field", ["limit", "since_ms"])
def test_numbers_that_are_none_in_a_field(field, number):
    with pytest.raises(CodecError) as caught:
        from_json(f'{{"{field}":{number}}}', EventQuery)

    assert caught.value.path == field


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("NaN", ""),
        ("[1,NaN]", "[1]"),
        ('{"a":[{"b c":-Infinity}]}', ".a[0]['b c']"),
        ("1e400", ""),
        ("18446744073709551616", ""),
        ("-9223372036854775809", ""),
        ("9" * 5_000, ""),
        ('["\\ud800"]', "[0]"),
        ('{"\\udc00":1}', "['\\udc00']"),
        ('{"a":{"b":1,"b":1}}', ".a.b"),
    ],
)
def test_malformed_payloads(text, path):
    """Their flaws are found when an event is read, not when its payload is looked at."""
    for cls, outer, prefix in (
        (ModuleEvent, '{"kind":"module","module":"m","event_type":"t","payload":%s}', ""),
        (
            PersistedEvent,
            (
                '{"id":"i","seq":1,"timestamp_ms":1,"member_id":"a","event":'
                '{"kind":"agent","agent_id":"a","event_type":"t","payload":%s}}'
            ),
            "event.",
        ),
    ):
        with pytest.raises(CodecError) as caught:
            from_json(outer % text, cls)

        # ascii() spells a surrogate in a key, so that the path itself can be printed.
        assert caught.value.path == f"{prefix}payload{path}"
        assert caught.value.path.isascii()


def test_an_event_of_the_other_kind_is_refused():
    for cls, value in ((AgentEvent, MODULE), (ModuleEvent, AGENT)):
        with pytest.raises(CodecError) as caught:
            from_json(json.dumps(value), cls)

        assert caught.value.path == "kind"


@pytest.mark.parametrize(
    ("cls", "value"),
    [
        (PersistedEvent, PERSISTED),
        (EventEnvelope, ENVELOPE),
        (EventQuery, QUERY),
        (UnifiedEvent, AGENT),
        (UnifiedEvent, MODULE),
    ],
)
def test_unknown_fields_are_ignored(cls, value):
    """A newer writer can be read, whatever its fields hold."""
    more = {"later": {"deep": [1, None, {"kind": "other"}]}, "": 0, "Kind": "x", **value, "zz": [[]]}

    assert from_json(json.dumps(more), cls) == from_json(json.dumps(value), cls)

    if "event" in value:
        more = {**value, "event": {**value["event"], "later": 1e400}}
        assert from_json(json.dumps(more), cls) == from_json(json.dumps(value), cls)


@pytest.mark.parametrize(
    "text", ["{}", '{"event_types":[]}', '{"event_types":null}', '{"limit":null,"run_id":null}']
)
def test_what_is_absent_null_or_empty_is_left_out_of_a_query(text):
    assert from_json(text, EventQuery) == EventQuery()
    assert to_json(from_json(text, EventQuery)) == b"{}"


def test_member_id_may_be_absent_and_payload_only_for_agents():
    value = {name: item for name, item in PERSISTED.items() if name != "member_id"}

    assert from_json(json.dumps(value), PersistedEvent).member_id is None
    assert to_json(AgentEvent("a", "t")) == b'{"kind":"agent","agent_id":"a","event_type":"t"}'
    assert to_json(ModuleEvent("m", "t")) == b'{"kind":"module","module":"m","event_type":"t","payload":null}'


@pytest.mark.parametrize("cls", [int, dict, object, AgentEvent | None, "AgentEvent", None])
def test_reading_another_type_is_an_error_of_the_caller(cls):
    with pytest.raises(TypeError, match="cannot decode"):
        from_json("{}", cls)


@pytest.mark.parametrize("data", [None, 1, {}, bytearray(b"{}"), memoryview(b"{}")])
def test_reading_what_is_no_text_is_an_error_of_the_caller(data):
    with pytest.raises(TypeError, match="expected bytes or str"):
        from_json(data, EventQuery)


# --- payloads: equal or refused -------------------------------------------------------------------


@given(events)
@example(AgentEvent("", "", {"": [1, 1.0, True, -0.0, 0.0, 0, False, None, "\0", 2**64 - 1, -(2**63)]}))
@example(ModuleEvent("m", "t", [5e-324, 1.7976931348623157e308, 1e16, 1e-7, 0.1, 1e22, 123456789.125]))
def test_events_come_back_equal_in_value_and_type(event):
    """JSON in, the same JSON out, told apart as Python's == does not."""
    written = to_json(event)
    found = from_json(written, UnifiedEvent)

    assert found == event
    assert type(found) is type(event)
    assert exact(found.payload) == exact(event.payload)
    assert found == from_json(written.decode(), type(event))
    # The standard library reads the same out of it, and nothing is spent on white space.
    assert exact(json.loads(written)["payload"] if event.payload is not None else None) == exact(
        event.payload
    )
    assert exact(json.loads(json.dumps(event.payload))) == exact(event.payload)


@given(texts, unsigned, unsigned, st.none() | texts, events)
def test_persisted_events_come_back_equal(event_id, seq, timestamp_ms, member_id, event):
    persisted = PersistedEvent(event_id, seq, timestamp_ms, member_id, event)

    found = from_json(to_json(persisted), PersistedEvent)

    assert found == persisted
    assert exact(found.event.payload) == exact(event.payload)


@given(texts, texts, unsigned, events)
def test_envelopes_come_back_equal(event_id, source, timestamp_ms, event):
    envelope = EventEnvelope(event_id, source, timestamp_ms, event)

    assert from_json(to_json(envelope), EventEnvelope) == envelope


@given(queries)
def test_queries_come_back_equal(query):
    found = from_json(to_json(query), EventQuery)

    assert found == query
    assert None not in json.loads(to_json(query)).values()


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        (AgentEvent(1, "t"), "agent_id"),
        (AgentEvent(None, "t"), "agent_id"),
        (AgentEvent(Text("a"), "t"), "agent_id"),
        (AgentEvent("\ud800", "t"), "agent_id"),
        (AgentEvent("a", b"t"), "event_type"),
        (AgentEvent("a", Name.FIRST), "event_type"),
        (ModuleEvent(1, "t"), "module"),
        (ModuleEvent("m", None), "event_type"),
        (PersistedEvent(1, 1, 1, None, AgentEvent("a", "t")), "id"),
        (PersistedEvent("i", True, 1, None, AgentEvent("a", "t")), "seq"),
        (PersistedEvent("i", 1.0, 1, None, AgentEvent("a", "t")), "seq"),
        (PersistedEvent("i", -1, 1, None, AgentEvent("a", "t")), "seq"),
        (PersistedEvent("i", 2**64, 1, None, AgentEvent("a", "t")), "seq"),
        (PersistedEvent("i", Level.LOW, 1, None, AgentEvent("a", "t")), "seq"),
        (PersistedEvent("i", 1, "1", None, AgentEvent("a", "t")), "timestamp_ms"),
        (PersistedEvent("i", 1, 1, 1, AgentEvent("a", "t")), "member_id"),
        (PersistedEvent("i", 1, 1, None, None), "event"),
        (PersistedEvent("i", 1, 1, None, {"kind": "agent"}), "event"),
        (PersistedEvent("i", 1, 1, None, AgentEvent(1, "t")), "event.agent_id"),
        (EventEnvelope(1, "agent", 1, AgentEvent("a", "t")), "event_id"),
        (EventEnvelope("i", None, 1, AgentEvent("a", "t")), "source"),
        (EventEnvelope("i", "agent", None, AgentEvent("a", "t")), "timestamp_ms"),
        (EventEnvelope("i", "agent", 1, "event"), "event"),
        (EventEnvelope("i", "agent", 1, ModuleEvent("m", 1)), "event.event_type"),
    ],
)
def test_fields_are_checked_when_written(obj, path):
    """Constructors take what they get; nothing malformed reaches the wire, or a store."""
    with pytest.raises(CodecError) as caught:
        to_json(obj)
    assert caught.value.path == path

    if isinstance(obj, PersistedEvent):
        with pytest.raises(CodecError) as caught:
            seal_persisted(obj)
        assert caught.value.path == path


def test_instances_of_subclasses_are_refused():
    """Their own fields have no place on the wire, and would be gone without a word."""

    @attrs.frozen
    class Extended(AgentEvent):
        extra: int = 1

    with pytest.raises(TypeError, match="cannot encode Extended"):
        to_json(Extended("a", "t"))
    for function, path in ((seal_event, ""), (lambda e: to_json(EventEnvelope("i", "agent", 1, e)), "event")):
        with pytest.raises(CodecError, match="expected an AgentEvent or a ModuleEvent") as caught:
            function(Extended("a", "t"))
        assert caught.value.path == path


@pytest.mark.parametrize("obj", [None, 1, {}, AgentEvent, "text", [AgentEvent("a", "t")]])
def test_writing_another_type_is_an_error_of_the_caller(obj):
    with pytest.raises(TypeError, match="cannot encode"):
        to_json(obj)
