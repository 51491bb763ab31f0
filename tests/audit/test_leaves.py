"""From an event to its leaf: bytes that depend on the event alone."""

import hashlib
import hmac
import json
import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.audit import persisted
from tests._helpers.examples import few
from tests._helpers.json_values import payloads
from trio_eventlog import AgentEvent, CodecError, ModuleEvent, PersistedEvent, from_json, to_json
from trio_eventlog._model._events import sealed
from trio_eventlog.audit import CommitmentKey
from trio_eventlog.audit._leaves import LeafHasher, canonical_payload, commitment_of, leaf_of

SECRET = bytes(range(32))


def packed(value):
    """MessagePack in its shortest form, after its specification."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return packed_integer(value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return packed_size(len(text), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + text
        case bytes():
            return b"\xc4" + bytes([len(value)]) + value
        case list() | tuple():
            return packed_size(len(value), 0x90, 16, (None, 0xDC, 0xDD)) + b"".join(map(packed, value))
        case dict():
            items = sorted(value.items(), key=lambda item: item[0].encode())
            body = b"".join(packed(key) + packed(item) for key, item in items)
            return packed_size(len(value), 0x80, 16, (None, 0xDE, 0xDF)) + body
    raise AssertionError(value)


def packed_integer(value):
    if 0 <= value < 128:
        return struct.pack(">B", value)
    if -32 <= value < 0:
        return struct.pack(">b", value)
    forms = ((0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"))
    if value < 0:
        forms = ((0xD0, ">b"), (0xD1, ">h"), (0xD2, ">i"), (0xD3, ">q"))
    for code, form in forms:
        try:
            return bytes([code]) + struct.pack(form, value)
        except struct.error:
            continue
    raise AssertionError(value)


def packed_size(size, short, limit, codes):
    if size < limit:
        return bytes([short | size])
    if size < 2**8 and codes[0] is not None:
        return bytes([codes[0], size])
    if size < 2**16:
        return bytes([codes[1]]) + struct.pack(">H", size)
    return bytes([codes[2]]) + struct.pack(">I", size)


def expected_leaf(event, origin):
    """The page of the reference, step by step."""
    log_key = hmac.digest(SECRET, b"trio-eventlog/payloads/" + origin.encode(), "sha256")
    keys = hashlib.shake_256(log_key + (event.seq // 64).to_bytes(8, "big")).digest(64 * 32)
    key = keys[event.seq % 64 * 32 :][:32]
    commitment = hashlib.sha256(key + packed(event.event.payload)).digest()
    inner = event.event
    kind, actor = ("agent", inner.agent_id) if isinstance(inner, AgentEvent) else ("module", inner.module)
    fields = [event.seq, event.id, event.timestamp_ms, kind, actor, inner.event_type, event.member_id]
    return hashlib.sha256(b"\0" + packed([*fields, commitment])).digest()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
EVENTS = st.builds(
    PersistedEvent,
    TEXT,
    st.integers(1, 2**63 - 1) | st.integers(1, 200),
    st.integers(0, 2**63 - 1),
    st.none() | TEXT,
    st.builds(AgentEvent, TEXT, TEXT, payloads) | st.builds(ModuleEvent, TEXT, TEXT, payloads),
)


@few(20)
@given(st.lists(EVENTS, max_size=4), TEXT)
def test_a_leaf_is_what_the_reference_says(events, origin):
    """In any order of seq, and the same one by one."""
    hasher = LeafHasher(CommitmentKey(SECRET), origin)
    leaves = hasher.leaves(events)

    assert leaves == [expected_leaf(event, origin) for event in events]
    assert leaves == [
        leaf_of(event, commitment_of(event.event, hasher.payload_key(event.seq))) for event in events
    ]


@few(20)
@given(EVENTS)
def test_a_leaf_does_not_depend_on_how_a_store_keeps_the_event(event):
    """As an object, as text or bytes, with other white space, or with its keys in another order."""
    inner = event.event
    kind, actor = (
        (AgentEvent, inner.agent_id) if isinstance(inner, AgentEvent) else (ModuleEvent, inner.module)
    )
    texts = [
        json.dumps(inner.payload),
        json.dumps(inner.payload, sort_keys=True, ensure_ascii=False).encode(),
        json.dumps(turned(inner.payload), indent=1),
    ]
    others = [attrs.evolve(event, event=sealed(kind, actor, inner.event_type, text)) for text in texts]
    others.append(from_json(to_json(event), PersistedEvent))
    hasher = LeafHasher(CommitmentKey(SECRET), "a log")

    assert set(hasher.leaves(others)) == set(hasher.leaves([event]))


def turned(value):
    """The same with the keys of objects backwards."""
    if isinstance(value, dict):
        return {key: turned(item) for key, item in reversed(value.items())}
    return [turned(item) for item in value] if isinstance(value, list) else value


CHANGES = {
    "id": "event-2",
    "seq": 8,
    "timestamp_ms": 8,
    "member_id": None,
    "event": [
        AgentEvent("b", "t", {"n": 1}),
        AgentEvent("a", "u", {"n": 1}),
        AgentEvent("a", "t", {"n": 1.0}),
        AgentEvent("a", "t", {"n": True}),
        AgentEvent("a", "t"),
        ModuleEvent("a", "t", {"n": 1}),
    ],
}


def test_every_field_is_in_the_leaf():
    event = persisted(7, payload={"n": 1})
    others = [
        attrs.evolve(event, **{name: value})
        for name, values in CHANGES.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    leaves = LeafHasher(CommitmentKey(SECRET), "a log").leaves([event, *others])

    assert len(set(leaves)) == 1 + len(others)


def test_fields_do_not_run_into_each_other():
    hasher = LeafHasher(CommitmentKey(SECRET), "a log")
    one = PersistedEvent("id", 1, 1, "ab", AgentEvent("a", "bc"))
    two = PersistedEvent("id", 1, 1, "ab", AgentEvent("ab", "c"))

    assert hasher.leaves([one]) != hasher.leaves([two])


def test_a_commitment_needs_the_key_of_the_log():
    """So a payload cannot be guessed from it, nor from that of the same payload elsewhere."""
    event = persisted(1, payload="yes")
    keys = {
        LeafHasher(CommitmentKey(SECRET), "a log").payload_key(1),
        LeafHasher(CommitmentKey(SECRET), "another log").payload_key(1),
        LeafHasher(CommitmentKey.generate(), "a log").payload_key(1),
        *(LeafHasher(CommitmentKey(SECRET), "a log").payload_key(seq) for seq in range(2, 200)),
    }

    assert len(keys) == 201
    assert len({commitment_of(event.event, key) for key in keys}) == 201


@pytest.mark.parametrize(
    "text",
    ["", "{", "nul", '{"a": 1} x', b"\xff", '"\\ud800"', "[" * 10_000, str(2**64), f"[{-(2**63) - 1}]"],
)
def test_a_payload_that_is_no_json(text):
    event = attrs.evolve(persisted(1), event=sealed(AgentEvent, "a", "t", text))

    with pytest.raises(CodecError, match="the store is damaged"):
        LeafHasher(CommitmentKey(SECRET), "a log").leaves([event])
    with pytest.raises(CodecError, match="the store is damaged"):
        canonical_payload(event.event)
