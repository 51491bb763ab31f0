"""What a filter means, against a second opinion that shares no code with the first."""

import attrs
import pytest
from hypothesis import event as note_event
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.json_values import exact, scalars
from tests._helpers.json_values import payloads as json_values
from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog._model._sealed import seal_persisted

# Few values, so that queries match often; close to each other, so that near misses are common.
NUMBERS = st.sampled_from([0, 1, 2, 3, 2**63 - 1, 2**63, 2**64 - 1])
STORED = st.sampled_from([0, 1, 2, 3, 2**63 - 1])
WORDS = st.sampled_from(["", "a", "A", "a ", "á", "a\u0301", "a\0", "%", "_", "1", "null", "🦀"])
VALUES = WORDS | st.sampled_from([None, True, 1, 1.0, [], ["a"], {}, {"run_id": "a"}])
SCOPES = ["identity", "mob_id", "run_id", "step_id"]

payloads = (
    st.dictionaries(st.sampled_from([*SCOPES, "RUN_ID", "other"]), VALUES, max_size=5)
    | VALUES
    | st.lists(st.dictionaries(st.sampled_from(SCOPES), WORDS), max_size=2)
)
agent_events = st.builds(AgentEvent, WORDS, WORDS, payloads)
module_events = st.builds(ModuleEvent, WORDS, WORDS, payloads)


@st.composite
def persisted_events(draw):
    inner = draw(agent_events | module_events)
    member = inner.agent_id if isinstance(inner, AgentEvent) else None
    return PersistedEvent("id", draw(STORED.filter(bool)), draw(STORED), member, inner)


def queries(**fields):
    filters = {
        "since_ms": NUMBERS,
        "until_ms": NUMBERS,
        "after_seq": NUMBERS,
        "limit": NUMBERS,
        "event_types": st.lists(WORDS, max_size=3),
        **dict.fromkeys(["member_id", "module", *SCOPES], WORDS),
        "fields": st.dictionaries(st.sampled_from([*SCOPES, "other"]), VALUES, max_size=2),
        **fields,
    }
    # Mostly few filters at a time: with all of them nothing ever matches.
    return st.fixed_dictionaries({}, optional=filters).map(lambda given: EventQuery(**given))


def oracle(query, persisted):
    """Whether an event belongs to the answer: the documentation, once more, as a list of objections."""
    asked = {field.name: getattr(query, field.name) for field in attrs.fields(EventQuery)}
    asked = {name: value for name, value in asked.items() if value is not None and value != ()}
    payload = persisted.event.payload
    scopes = payload if type(payload) is dict else {}
    objections = {
        "since_ms": lambda bound: not (bound <= persisted.timestamp_ms),
        "until_ms": lambda bound: not (persisted.timestamp_ms < bound),
        "after_seq": lambda bound: not (bound < persisted.seq),
        "event_types": lambda types: all(kind != persisted.event.event_type for kind in types),
        "member_id": lambda member: (
            isinstance(persisted.event, ModuleEvent) or persisted.event.agent_id != member
        ),
        "limit": lambda _limit: False,
        "module": lambda module: isinstance(persisted.event, AgentEvent) or persisted.event.module != module,
        "fields": lambda fields: any(
            key not in scopes or exact(scopes[key]) != exact(value) for key, value in fields.items()
        ),
    }
    for scope in SCOPES:
        objections[scope] = lambda wanted, scope=scope: (
            type(scopes.get(scope)) is not str or scopes[scope] != wanted
        )
    return not any(objections[name](value) for name, value in asked.items())


@given(queries(), persisted_events())
def test_matches_agrees_with_the_oracle(query, persisted):
    expected = oracle(query, persisted)
    note_event(f"matches: {expected}")

    assert query.matches(persisted) is expected
    assert query.matches(seal_persisted(persisted)) is expected


@given(persisted_events())
def test_an_empty_query_matches_everything(persisted):
    assert EventQuery().matches(persisted)


@given(queries(), persisted_events(), NUMBERS)
def test_limit_concerns_a_result_and_no_event(query, persisted, limit):
    assert attrs.evolve(query, limit=limit).matches(persisted) is query.matches(persisted)


@given(persisted_events())
def test_a_query_for_what_an_event_is_matches_it(persisted):
    """Every filter at once, each at the edge of what still matches."""
    payload = persisted.event.payload if isinstance(persisted.event.payload, dict) else {}
    query = EventQuery(
        since_ms=persisted.timestamp_ms,
        until_ms=persisted.timestamp_ms + 1,
        after_seq=persisted.seq - 1,
        member_id=persisted.member_id,
        module=getattr(persisted.event, "module", None),
        fields=payload,
        event_types=[persisted.event.event_type],
        **{scope: payload[scope] for scope in SCOPES if isinstance(payload.get(scope), str)},
    )

    assert query.matches(persisted)
    assert not attrs.evolve(query, until_ms=persisted.timestamp_ms).matches(persisted)
    assert not attrs.evolve(query, since_ms=persisted.timestamp_ms + 1).matches(persisted)
    assert not attrs.evolve(query, after_seq=persisted.seq).matches(persisted)
    assert not attrs.evolve(query, event_types=[persisted.event.event_type + "x"]).matches(persisted)
    assert not attrs.evolve(query, module=(query.module or "") + "x").matches(persisted)
    assert not attrs.evolve(query, fields={**payload, "another": None}).matches(persisted)
    assert not attrs.evolve(query, member_id=(persisted.member_id or "") + "x").matches(persisted)


EVENT = PersistedEvent("id", 5, 100, "a", AgentEvent("a", "t", {"run_id": "r", "step_id": 7}))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (EventQuery(since_ms=100), True),
        (EventQuery(since_ms=101), False),
        (EventQuery(until_ms=100), False),
        (EventQuery(until_ms=101), True),
        (EventQuery(after_seq=4), True),
        (EventQuery(after_seq=5), False),
        (EventQuery(after_seq=2**64 - 1), False),
        (EventQuery(until_ms=2**64 - 1), True),
        (EventQuery(limit=0), True),
        (EventQuery(event_types=["t"]), True),
        (EventQuery(event_types=["x", "t"]), True),
        (EventQuery(event_types=["T"]), False),
        (EventQuery(event_types=[""]), False),
        (EventQuery(member_id="a"), True),
        (EventQuery(member_id=""), False),
        (EventQuery(run_id="r"), True),
        (EventQuery(run_id="r", step_id="7"), False),
        (EventQuery(step_id="7"), False),
        (EventQuery(identity=""), False),
        (EventQuery(module="a"), False),
        (EventQuery(fields={}), True),
        (EventQuery(fields={"step_id": 7}), True),
        (EventQuery(fields={"step_id": 7, "run_id": "r"}), True),
        (EventQuery(fields={"step_id": 7.0}), False),
        (EventQuery(fields={"step_id": "7"}), False),
        (EventQuery(fields={"mob_id": None}), False),
    ],
)
def test_examples(query, expected):
    """The table to look things up in."""
    assert query.matches(EVENT) is expected


INTEGERS = ["since_ms", "until_ms", "limit", "after_seq"]
TEXTS = ["member_id", "module", *SCOPES]


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (True, TypeError),
        (False, TypeError),
        (1.0, TypeError),
        (float("nan"), TypeError),
        ("1", TypeError),
        (b"one", TypeError),
        ([1], TypeError),
        (-1, ValueError),
        (2**64, ValueError),
    ],
)
def test_integers_are_checked(field, value, error):
    with pytest.raises(error, match=f"^{field}: expected "):
        EventQuery(**{field: value})


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1, TypeError),
        (True, TypeError),
        (b"bytes", TypeError),
        (["a"], TypeError),
        (type("Text", (str,), {})("text"), TypeError),
        ("\ud800", ValueError),
        ("a\udfff", ValueError),
    ],
)
def test_texts_are_checked(field, value, error):
    with pytest.raises(error, match=f"^{field}: "):
        EventQuery(**{field: value})


@pytest.mark.parametrize(
    ("value", "error", "path"),
    [
        ("t", TypeError, "event_types"),
        ("", TypeError, "event_types"),
        (b"bytes", TypeError, "event_types"),
        (1, TypeError, "event_types"),
        (["t", 1], TypeError, r"event_types\[1\]"),
        ([None], TypeError, r"event_types\[0\]"),
        ([["t"]], TypeError, r"event_types\[0\]"),
        (("t", "\ud800"), ValueError, r"event_types\[1\]"),
    ],
)
def test_event_types_are_checked(value, error, path):
    """A single string above all: its characters would be taken for types."""
    with pytest.raises(error, match=f"^{path}: "):
        EventQuery(event_types=value)


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize("value", [None, 0, 1, 2**63, 2**64 - 1])
def test_integers_in_range(field, value):
    assert getattr(EventQuery(**{field: value}), field) == value


@pytest.mark.parametrize("value", [["a", "b"], ("a", "b"), {"a": 1, "b": 2}, (kind for kind in "ab")])
def test_event_types_become_a_tuple(value):
    """Whatever they come in, so that a query is a value: equal, hashable, unchangeable."""
    query = EventQuery(event_types=value)

    assert query == EventQuery(event_types=("a", "b"))
    assert hash(query) == hash(EventQuery(event_types=("a", "b")))
    assert EventQuery(event_types=None) == EventQuery(event_types=[]) == EventQuery()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        query.limit = 1


@given(json_values, json_values)
def test_values_are_the_same_if_they_are_exactly_equal(found, wanted):
    """Of drawn pairs nearly all differ, and so each is asked for itself, too."""
    event = PersistedEvent("id", 1, 0, None, ModuleEvent("m", "t", {"key": found}))

    assert EventQuery(fields={"key": found}).matches(event)
    assert EventQuery(fields={"key": wanted}).matches(event) is (exact(found) == exact(wanted))


@given(st.dictionaries(st.sampled_from("abc"), scalars, min_size=2))
def test_the_order_of_keys_is_free(value):
    turned = dict(reversed(value.items()))
    event = PersistedEvent("id", 1, 0, None, ModuleEvent("m", "t", {"key": [value]}))

    assert EventQuery(fields={"key": [turned]}).matches(event)
    assert EventQuery(fields=turned) == EventQuery(fields=value)
    assert hash(EventQuery(fields=turned)) == hash(EventQuery(fields=value))


@pytest.mark.parametrize("payload", [{"key": (1,)}, {"key": float("nan")}, {"key": {1}}, {1: 1}, [1], None])
def test_what_is_no_json_is_the_same_as_nothing(payload):
    """An event that no log has seen may hold anything."""
    event = PersistedEvent("id", 1, 0, None, ModuleEvent("m", "t", payload))

    assert not EventQuery(fields={"key": [1]}).matches(event)
    assert not EventQuery(fields={"key": None}).matches(event)


def test_fields_are_a_value():
    """Neither what was given nor what is read changes the query, and 1 is not True."""
    items = [1]
    query = EventQuery(fields={"key": items})
    items.append(2)
    query.fields["key"].append(3)

    assert query.fields == {"key": [1]}
    assert repr(query.fields) == "{'key': [1]}"
    assert query == EventQuery(fields=query.fields)
    assert EventQuery(fields={"key": 1}) != EventQuery(fields={"key": True})
    assert EventQuery(fields={"key": 1}).fields != {"key": 1.0}
    assert EventQuery(fields=None) == EventQuery(fields={}) == EventQuery()


@pytest.mark.parametrize(
    ("value", "error", "path"),
    [
        ("key", TypeError, "fields"),
        ([("key", 1)], TypeError, "fields"),
        ({1: 1}, TypeError, "fields"),
        ({"\ud800": 1}, ValueError, "fields"),
        ({"key": {1}}, TypeError, r"fields\.key"),
        ({"key": (1,)}, TypeError, r"fields\.key"),
        ({"a b": [{1}]}, ValueError, r"fields\['a b'\]\[0\]"),
        ({"key": float("nan")}, ValueError, r"fields\.key"),
        ({"key": 2**64}, ValueError, r"fields\.key"),
        ({"key": "\ud800"}, ValueError, r"fields\.key"),
        ({"key": {"in": ["\ud800"]}}, ValueError, r"fields\.key\.in\[0\]"),
    ],
)
def test_fields_are_checked(value, error, path):
    with pytest.raises(error, match=f"^{path}: "):
        EventQuery(fields=value)


def test_fields_are_given_by_name():
    """Twelve optional fields in a row would be a riddle."""
    with pytest.raises(TypeError):
        EventQuery(1)
