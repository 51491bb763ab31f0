"""JSON values and events for tests of the model: drawn, told apart exactly, and not quite JSON."""

import enum

from hypothesis import strategies as st

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent

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
    module=st.none() | texts,
    fields=st.dictionaries(texts, payloads, max_size=2),
)


def exact(value):
    """A form of a JSON value in which 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value), repr(value)


class Text(str):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    FIRST = "first"
