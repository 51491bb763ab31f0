"""No masked value is anywhere in what is stored, and everything else is what it was."""

import json
import re

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.examples import few
from tests._helpers.json_values import exact, payloads, texts
from trio_eventlog import AgentEvent, CodecError, ModuleEvent, open_event_log, to_json
from trio_eventlog.masking import mask_keys, mask_text
from trio_eventlog.stores import MemoryStore

MARK = "hunter"
"""What only secrets have in them."""

secrets = st.text("0123456789abcdef", min_size=1, max_size=6).map(lambda text: f"{MARK}{text}")
plain_texts = texts.filter(lambda text: MARK not in text and text.casefold() != "password")
names = st.sampled_from(["password", "PASSWORD", "PassWord"])


def nested(leaves, keys):
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=10,
    )


def stored(event, transform):
    """The bytes that a log hands to its store."""

    async def run():
        store = MemoryStore()
        async with open_event_log(store, transform=transform) as log:
            log.ingest(event)
            await log.flush()
            return to_json((await log.query())[0])

    return trio.run(run)


def events_of(payload):
    return st.sampled_from([AgentEvent, ModuleEvent]).map(lambda kind: kind("who", "what", payload))


# --- keys -----------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
under_secret_keys = nested(secrets | SCALARS, plain_texts)


@st.composite
def with_secret_keys(draw):
    """A payload, and what must come of it."""
    value = draw(nested(SCALARS | plain_texts, plain_texts))

    def planted(value):
        if isinstance(value, list):
            pairs = [planted(item) for item in value]
            return [before for before, _ in pairs], [after for _, after in pairs]
        if not isinstance(value, dict):
            return value, value
        before, after = {}, {}
        for key, item in value.items():
            before[key], after[key] = planted(item)
            if draw(st.booleans()):
                name = draw(names)
                before[name], after[name] = draw(under_secret_keys), "***"
        return before, after

    return planted(value)


@few(20)
@given(with_secret_keys(), st.sampled_from([AgentEvent, ModuleEvent]))
def test_no_value_of_a_masked_key_is_stored(pair, kind):
    payload, expected = pair
    before = json.dumps(payload)

    found = stored(kind("who", "what", payload), mask_keys("Password"))

    assert MARK.encode() not in found
    assert exact(json.loads(found)["event"].get("payload")) == exact(expected)
    assert json.dumps(payload) == before, "it was changed in place"


@few(20)
@given(payloads)
def test_a_payload_without_such_a_key_stays_the_same_object(payload):
    event = AgentEvent("password", "password", payload)

    found = mask_keys("a key that is not there")(event)

    assert found is event
    assert found.payload is payload


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"password": ["a", "b"]}, {"password": "***"}),
        ({"password": {"password": 1}}, {"password": "***"}),
        ({"password": None}, {"password": "***"}),
        ([[{"PASSWORD": 1, "x": 1}]], [[{"PASSWORD": "***", "x": 1}]]),
        ({"passwords": 1, "a": "password"}, {"passwords": 1, "a": "password"}),
        ({"STRASSE": 1, "straße": 2}, {"STRASSE": "***", "straße": "***"}),
        ("password", "password"),
        (None, None),
    ],
)
def test_what_becomes_of_a_payload(payload, expected):
    assert mask_keys("password", "Straße")(AgentEvent("a", "t", payload)).payload == expected


def test_the_mask_can_be_another():
    assert mask_keys("a", mask="-")(ModuleEvent("m", "t", {"a": 1})) == ModuleEvent("m", "t", {"a": "-"})


# --- text -----------------------------------------------------------------------------------------


@few(20)
@given(
    nested(
        SCALARS | plain_texts | secrets | st.builds("{} {}!".format, secrets, secrets), plain_texts | secrets
    ),
    st.builds("a-{}".format, plain_texts | secrets),
    st.builds("t-{}".format, plain_texts | secrets),
    st.sampled_from([AgentEvent, ModuleEvent]),
)
def test_no_match_is_stored(payload, actor, event_type, kind):
    before = json.dumps(payload)
    event = kind(actor, event_type, payload)

    found = stored(event, mask_text(rf"{MARK}[0-9a-f]+"))

    assert MARK.encode() not in found
    assert shape(json.loads(found)["event"].get("payload")) == shape(payload)
    assert json.dumps(payload) == before, "it was changed in place"


def shape(value):
    """A payload without its secrets and with no names for what has one."""
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, dict):
        kept = {key: shape(item) for key, item in value.items() if "***" not in key and MARK not in key}
        others = [shape(item) for key, item in value.items() if "***" in key or MARK in key]
        return kept, others
    if isinstance(value, str):
        return re.sub(rf"{MARK}[0-9a-f]+", "***", value)
    return exact(value)


@few(20)
@given(payloads)
def test_a_payload_without_a_match_stays_the_same_object(payload):
    event = AgentEvent("a", "t", payload)

    found = mask_text("a text that is not there")(event)

    assert found is event


def test_keys_that_become_the_same_are_kept_apart():
    """Nothing is lost, and no key that was there is taken away."""
    payload = {"x1": "a", "***": "b", "x2": ["c"], "*** 2": "d"}

    found = mask_text(r"x\d")(AgentEvent("a", "t", payload))

    assert found.payload == {"*** 3": "a", "***": "b", "*** 4": ["c"], "*** 2": "d"}


def test_the_agent_the_module_and_the_type_are_text_too():
    mask = mask_text(re.compile("ANN", re.IGNORECASE), mask=r"\1")

    assert mask(AgentEvent("Ann B", "of ann")) == AgentEvent(r"\1 B", r"of \1")
    assert mask(ModuleEvent("m.ann", "t", 5)) == ModuleEvent(r"m.\1", "t", 5)


def test_an_empty_match_adds_nothing():
    assert mask_text(r"\b|x")(AgentEvent("a", "t", "a x b")).payload == "a *** b"


# --- both -----------------------------------------------------------------------------------------

MASKS = {"keys": mask_keys("password"), "text": mask_text("secret")}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
async def test_what_is_not_json_is_left_for_the_log_to_refuse(mask):
    endless: list = []
    endless += [endless, endless]
    twice: list = ["secret"]
    for _ in range(60):
        twice = [twice, twice]
    async with open_event_log(MemoryStore(), transform=mask) as log:
        for payload in ((1,), {1: 2}, object(), {"a": {3}}, endless, {"a": endless}, twice):
            with pytest.raises(CodecError):
                log.ingest(AgentEvent("a", "t", payload))
        for event in (AgentEvent(1, "t"), ModuleEvent("m", None)):
            with pytest.raises(CodecError):
                log.ingest(event)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_as_deep_as_a_payload_may_be(mask):
    payload = "secret"
    for _ in range(199):
        payload = [payload]
    found = stored(AgentEvent("a", "t", [{"password": "secret"}, payload]), mask)

    assert found.count(b"secret") == (1 if mask is MASKS["keys"] else 0)


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (mask_keys, ValueError, "names: expected at least one key"),
        (lambda: mask_keys(["a"]), TypeError, "names: expected a string, got list"),
        (lambda: mask_keys("a", mask=None), TypeError, "mask: expected a string, got NoneType"),
        (lambda: mask_text("("), ValueError, r"pattern: expected a regular expression, got '\('"),
        (
            lambda: mask_text("x*"),
            ValueError,
            r"pattern: expected one that needs some text to match, got 'x\*'",
        ),
        (lambda: mask_text(b"x"), TypeError, "pattern: expected a regular expression for str, got bytes"),
        (lambda: mask_text(re.compile(b"x")), TypeError, "pattern: .* for str, got Pattern"),
        (lambda: mask_text("x", mask=1), TypeError, "mask: expected a string, got int"),
    ],
)
def test_arguments_are_checked(make, error, why):
    with pytest.raises(error, match=f"^{why}"):
        make()
