"""What a store should answer, spelled out without any code of a store or of EventQuery.matches.

Also the programs that are run against it: mostly collisions and nasty values.
"""

import json
import math

from hypothesis import strategies as st

from trio_eventlog import AgentEvent, EventQuery, ModuleEvent, PersistedEvent

TOP = 2**63 - 1


def canonical(event):
    """Everything about an event, types of numbers included; the order of keys is free."""
    inner = event.event
    actor = inner.agent_id if isinstance(inner, AgentEvent) else inner.module
    payload = json.dumps(inner.payload, sort_keys=True)
    kind = type(inner).__name__
    return (event.seq, event.id, event.timestamp_ms, event.member_id, kind, actor, inner.event_type, payload)


def is_json(value):
    """Whether a payload can be read back as an equal value."""
    if value is None or type(value) is bool:
        return True
    if type(value) is int:
        return -(2**63) <= value <= 2**64 - 1
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return is_text(value)
    if type(value) is dict:
        return all(is_text(key) and is_json(item) for key, item in value.items())
    return type(value) is list and all(is_json(item) for item in value)


def is_text(value):
    return type(value) is str and not any("\ud800" <= char <= "\udfff" for char in value)


def is_storable(event):
    inner = event.event
    actor = inner.agent_id if isinstance(inner, AgentEvent) else inner.module
    texts = [event.id, actor, inner.event_type]
    if event.member_id is not None:
        texts.append(event.member_id)
    return (
        1 <= event.seq <= TOP
        and 0 <= event.timestamp_ms <= TOP
        and all(is_text(text) for text in texts)
        and is_json(inner.payload)
    )


class Oracle:
    """One log, as a list that is searched from end to end."""

    def __init__(self):
        self.events = []
        self.highest = 0

    def append(self, batch):
        """What an append returns or raises: ("stored", seqs), ("rejected", ids), ("conflict", seqs)."""
        bad = [event for event in batch if not is_storable(event)]
        if bad:
            return "rejected", [event.id for event in bad]
        elsewhere = []
        new = []
        for event in batch:
            known = [other for other in self.events + new if other.id == event.id]
            if not known:
                new.append(event)
            elif known[0].seq != event.seq:
                elsewhere.append(event.seq)
        seqs = [event.seq for event in new]
        taken = {seq for seq in seqs if seqs.count(seq) > 1}
        taken |= {event.seq for event in self.events} & set(seqs)
        if taken:
            return "conflict", sorted(taken)
        self.events += new
        self.highest = max([self.highest, *seqs])
        return "stored", elsewhere

    def query(self, query):
        found = []
        for event in sorted(self.events, key=lambda event: event.seq):
            payload = event.event.payload
            ok = True
            if query.after_seq is not None:
                ok = ok and event.seq > query.after_seq
            if query.since_ms is not None:
                ok = ok and event.timestamp_ms >= query.since_ms
            if query.until_ms is not None:
                ok = ok and event.timestamp_ms < query.until_ms
            if query.member_id is not None:
                ok = ok and event.member_id == query.member_id
            if query.event_types:
                ok = ok and any(event.event.event_type == wanted for wanted in query.event_types)
            for key in ("identity", "mob_id", "run_id", "step_id"):
                wanted = getattr(query, key)
                if wanted is not None:
                    ok = ok and isinstance(payload, dict) and type(payload.get(key)) is str
                    ok = ok and payload[key] == wanted
            if ok:
                found.append(event)
        return found if query.limit is None else found[: query.limit]


# --- programs -------------------------------------------------------------------------------------

NASTY = [
    "",
    "a",
    "A",
    "a ",
    "ä",
    "a\u0308",
    "a\0b",
    "a\0",
    "%",
    "_",
    "'",
    '"',
    "😀",
    "null",
    "1",
    "ß",
    "SS",
    "a\n",
]
# Few values, so that things collide; shrinking goes to the front.
texts = st.sampled_from(NASTY)
seqs = st.sampled_from([*range(1, 12), 2**53 - 1, 2**53, 2**53 + 1, TOP - 1, TOP])
times = st.sampled_from([0, 1, 2, 3, 5, 2**53, 2**53 + 1, TOP - 1, TOP])
bounds = st.sampled_from([0, 1, 2, 3, 5, 8, 2**53, 2**53 + 1, TOP - 1, TOP, TOP + 1, 2**64 - 1])

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 1.0, -1, 0.0, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 1e300, 5e-324, 0.1])
    | texts
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
scope_values = texts | st.none() | st.just(1) | st.just(["a"])
scoped = st.dictionaries(st.sampled_from(["run_id", "step_id", "identity", "mob_id", "x"]), scope_values)
payloads = scoped | json_values

agent_events = st.builds(AgentEvent, texts, texts, payloads)
module_events = st.builds(ModuleEvent, texts, texts, payloads)


def persisted(ids=texts, numbers=seqs, clock=times, inner=agent_events | module_events):
    return st.builds(PersistedEvent, ids, numbers, clock, st.none() | texts, inner)


impossible = st.one_of(
    persisted(numbers=st.sampled_from([0, TOP + 1, 2**64 - 1])),
    persisted(clock=st.sampled_from([TOP + 1, 2**64 - 1])),
    persisted(ids=st.just("\ud800")),
    persisted(
        inner=st.builds(
            ModuleEvent,
            texts,
            texts,
            st.sampled_from([float("nan"), (1,), {1: 2}, "\udfff", 2**64, b"", [{1}]]),
        )
    ),
)

queries = st.builds(
    EventQuery,
    since_ms=st.none() | bounds,
    until_ms=st.none() | bounds,
    member_id=st.none() | texts,
    identity=st.none() | texts,
    mob_id=st.none() | texts,
    run_id=st.none() | texts,
    step_id=st.none() | texts,
    event_types=st.lists(texts, max_size=4).map(tuple) | st.just(tuple(f"{n}" for n in range(40))),
    limit=st.none() | st.sampled_from([0, 1, 2, 3, 100, TOP, 2**64 - 1]),
    after_seq=st.none() | bounds,
)
# A filter alone finds more than all of them together.
single_filters = st.one_of(
    *[
        st.builds(
            EventQuery, **{name: texts}, limit=st.none() | st.integers(0, 4), after_seq=st.none() | bounds
        )
        for name in ("member_id", "identity", "mob_id", "run_id", "step_id")
    ],
    st.builds(
        EventQuery, event_types=st.lists(texts, max_size=6).map(tuple), limit=st.none() | st.integers(0, 4)
    ),
    st.builds(
        EventQuery, since_ms=st.none() | bounds, until_ms=st.none() | bounds, limit=st.none() | st.just(2)
    ),
)

batches = st.lists(persisted(), max_size=8)
steps = st.one_of(
    st.tuples(st.just("append"), batches),
    st.tuples(st.just("append"), st.lists(persisted(), min_size=1, max_size=4)),
    st.tuples(st.just("append"), st.lists(persisted() | impossible, max_size=4)),
    # A suffix of an earlier batch, and new events after it.
    st.tuples(st.just("again"), st.tuples(st.integers(0, 9), st.integers(0, 7), batches)),
    st.tuples(st.just("query"), single_filters | queries),
    st.tuples(st.just("last_seq"), st.none()),
)
programs = st.lists(steps, max_size=14)
