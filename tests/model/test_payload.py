"""Payloads: checked, encoded, and refused by the path to their first flaw."""

import datetime as dt
import decimal
import enum
import json
import math
import uuid
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests._helpers.json_values import Level, Name, Text, payloads, scalars, texts
from trio_eventlog import (
    AgentEvent,
    CodecError,
    ModuleEvent,
    PersistedEvent,
    from_json,
    to_json,
)
from trio_eventlog._model._payload import MAX_DEPTH, encode_payload, scopes_in, scopes_of
from trio_eventlog._model._sealed import (
    seal_event,
)


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
    assert scopes_in(payload) == expected
    assert scopes_of(encoded) == expected
    assert scopes_of(encoded.decode()) == expected
