"""The codec: the ancestor's wire form, and payloads that come back equal or are refused."""

import copy
import datetime as dt
import decimal
import enum
import json
import math
import pickle
import uuid
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
from trio_eventlog._model._codec import (
    MAX_DEPTH,
    check_envelope,
    encode_payload,
    encoded_payload,
    persisted_event,
    reseal,
    scopes_of,
    seal_event,
    seal_persisted,
)

GOLDEN = Path(__file__).parent / "golden"
TYPES = {
    "event_envelope": EventEnvelope,
    "event_query": EventQuery,
    "persisted_event": PersistedEvent,
}

# --- values ---------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
payloads = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
events = st.builds(AgentEvent, texts, texts, payloads) | st.builds(ModuleEvent, texts, texts, payloads)
unsigned = st.integers(0, 2**64 - 1)
queries = st.builds(
    EventQuery,
    since_ms=st.none() | unsigned,
    until_ms=st.none() | unsigned,
    member_id=st.none() | texts,
    identity=st.none() | texts,
    mob_id=st.none() | texts,
    run_id=st.none() | texts,
    step_id=st.none() | texts,
    event_types=st.lists(texts, max_size=3).map(tuple),
    limit=st.none() | unsigned,
    after_seq=st.none() | unsigned,
)


def exact(value):
    """A form of a JSON value in which 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value), repr(value)


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
    assert persisted_event(event_id, seq, timestamp_ms, member_id, event) == persisted


@given(texts, texts, unsigned, events)
def test_envelopes_come_back_equal(event_id, source, timestamp_ms, event):
    envelope = EventEnvelope(event_id, source, timestamp_ms, event)

    assert from_json(to_json(envelope), EventEnvelope) == envelope


@given(queries)
def test_queries_come_back_equal(query):
    found = from_json(to_json(query), EventQuery)

    assert found == query
    assert None not in json.loads(to_json(query)).values()


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Mapping(dict):
    pass


class Sequence(list):
    pass


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    FIRST = "first"


@attrs.frozen
class Point:
    x: int = 1


NO_JSON = [
    (),
    (1, 2),
    b"bytes",
    bytearray(b"bytes"),
    memoryview(b"bytes"),
    {1},
    frozenset({1}),
    math.nan,
    math.inf,
    -math.inf,
    2**64,
    -(2**63) - 1,
    10**400,
    1j,
    decimal.Decimal(1),
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.date(2024, 1, 1),
    dt.time(1),
    dt.timedelta(1),
    uuid.UUID(int=0),
    Text("text"),
    Whole(1),
    Real(1.0),
    Mapping(a=1),
    Sequence([1]),
    Colour.RED,
    Level.LOW,
    Name.FIRST,
    Point(),
    AgentEvent("a", "t"),
    object(),
    int,
    len,
    range(3),
    iter([1]),
    Path(),
    ...,
    "\ud800",
    "a\udfffb",
]
BAD_KEYS = [1, 1.0, True, None, b"key", (), Text("key"), Name.FIRST, uuid.UUID(int=0)]


@st.composite
def flawed(draw):
    """A payload that is JSON but for one place, and the path to that place."""
    if draw(st.booleans()):
        value = draw(st.sampled_from(NO_JSON))
    else:
        value = {**draw(st.dictionaries(texts, scalars, max_size=2)), draw(st.sampled_from(BAD_KEYS)): 1}
    path = ""
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            before = draw(st.lists(payloads, max_size=2))
            path = f"[{len(before)}]{path}"
            value = [*before, value, *draw(st.lists(payloads, max_size=2))]
        else:
            key = draw(st.sampled_from(["key", "with space", "", "a.b", "0", "ключ", "it's"]))
            step = f".{key}" if key.isidentifier() else f"[{key!a}]"
            path = step + path
            value = {**draw(st.dictionaries(st.sampled_from("abc"), scalars, max_size=2)), key: value}
    return value, path


@given(flawed())
def test_other_payloads_are_refused_by_name(case):
    """Nothing is coerced, at whatever place it hides: tuples are no lists, and so on."""
    payload, path = case

    with pytest.raises(CodecError) as caught:
        to_json(AgentEvent("a", "t", payload))
    assert caught.value.path == f"payload{path}"

    with pytest.raises(CodecError) as caught:
        to_json(PersistedEvent("i", 1, 1, "a", ModuleEvent("m", "t", payload)))
    assert caught.value.path == f"event.payload{path}"

    with pytest.raises(CodecError) as caught:
        seal_event(AgentEvent("a", "t", payload))
    assert caught.value.path == f"payload{path}"


@pytest.mark.parametrize(
    "value",
    [pytest.param(value, id=f"{type(value).__name__}-{index}") for index, value in enumerate(NO_JSON)],
)
def test_every_other_payload_is_refused(value):
    """Each of them at least once, alone and nested; the standard library would take some."""
    for payload, path in ((value, ""), ([value], "[0]"), ({"k": [1, value]}, ".k[1]")):
        with pytest.raises(CodecError) as caught:
            encode_payload(payload)

        assert caught.value.path == f"payload{path}"


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: f"{type(key).__name__}")
def test_keys_must_be_text(key):
    for payload, path in (({key: 1}, ""), ([{key: 1}], "[0]")):
        with pytest.raises(CodecError, match="keys must be str") as caught:
            encode_payload(payload)

        assert caught.value.path == f"payload{path}"


def test_a_lone_surrogate_in_a_key_is_refused():
    with pytest.raises(CodecError, match=r"lone surrogate '.ud800' at character 1") as caught:
        encode_payload([{"a\ud800": 1}])

    assert caught.value.path == r"payload[0]['a\ud800']"


def nest(levels, *, wrap):
    value = []
    for _ in range(levels - 1):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"k": value}], ids=["list", "dict"])
def test_depth(wrap):
    """200 levels pass in both directions; one more is refused in both."""
    deep = nest(MAX_DEPTH, wrap=wrap)
    text = to_json(ModuleEvent("m", "t", deep))

    assert from_json(text, ModuleEvent).payload == deep

    deeper = wrap(deep)
    with pytest.raises(CodecError, match="nested more than 200 levels deep") as caught:
        to_json(ModuleEvent("m", "t", deeper))
    assert caught.value.path.startswith("payload")
    # A path is for people: it stays readable.
    assert len(caught.value.path) <= 201

    payload = json.dumps(deeper)
    with pytest.raises(CodecError, match="nested more than 200 levels deep"):
        from_json(f'{{"kind":"module","module":"m","event_type":"t","payload":{payload}}}', ModuleEvent)


def test_a_payload_that_holds_itself_is_refused():
    loop = {}
    loop["self"] = [loop]

    with pytest.raises(CodecError, match="nested more than 200 levels deep"):
        encode_payload(loop)


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
    sealed = seal_event(AgentEvent("a", "t", {"x": []}))

    assert sealed.payload is sealed.payload

    # `_encoded` decides; nothing else was built yet.
    broken = seal_event(AgentEvent("a", "t"))
    object.__setattr__(broken, "_encoded", "no JSON")
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


# --- scopes ---------------------------------------------------------------------------------------


@given(
    payloads
    | st.dictionaries(
        st.sampled_from(["identity", "mob_id", "run_id", "step_id", "Run_id", ""]), payloads, max_size=5
    )
)
@example({"run_id": "r", "step_id": 1, "mob_id": None, "identity": ""})
@example([{"run_id": "r"}])
@example("run_id")
def test_scopes_are_read_out_of_the_text(payload):
    """As they would be read out of the payload: string values at the top level of an object."""
    expected = tuple(
        payload[key] if isinstance(payload, dict) and isinstance(payload.get(key), str) else None
        for key in ("identity", "mob_id", "run_id", "step_id")
    )

    encoded = encode_payload(payload)
    assert scopes_of(encoded) == expected
    assert scopes_of(encoded.decode()) == expected
