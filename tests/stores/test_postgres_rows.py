"""Events as columns for PostgreSQL, without a server and without its driver."""

from functools import partial
from itertools import pairwise

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog import AgentEvent, ModuleEvent, PersistedEvent
from trio_eventlog.stores._common._batches import sealed_batch
from trio_eventlog.stores.postgres import _rows as rows
from trio_eventlog.stores.postgres._rows import COLUMNS, columns_of, encoded_chunks, event_of, is_cut, key_of
from trio_eventlog.testing import assert_same_events, persisted_events

LONG = "ü" * 600
"""In UTF-8, longer than a key can be."""


def sealed(events):
    return trio.run(partial(sealed_batch, events))


def rows_of(columns):
    """Row by row again, each as a dict."""
    return [
        dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns.numbers, *columns.strings, strict=True)
    ]


def read_back(row):
    names = ("seq", "timestamp_ms", "kind", "id", "actor", "event_type", "member_id", "payload", "long")
    return event_of(tuple(row[name] for name in names))


def event(seq=1, payload=None, **changes):
    made = PersistedEvent(f"id-{seq}", seq, 1_000, "worker", AgentEvent("worker", "step", payload))
    return attrs.evolve(made, **changes)


long_ones = st.sampled_from(
    [
        event(1, id=LONG),
        event(2, member_id=LONG),
        event(3, member_id=None),
        event(4, event=ModuleEvent("module", LONG, None)),
        event(5, {"run_id": LONG, "step_id": "\0", "identity": 7}),
    ]
)


@given(st.lists(persisted_events() | long_ones, min_size=1, max_size=5))
def test_what_comes_back_is_what_was_given(events):
    given_rows = rows_of(columns_of(sealed(events)))
    assert_same_events(list(map(read_back, given_rows)), events)


@given(st.lists(persisted_events() | long_ones, min_size=1, max_size=5))
def test_a_row_does_not_depend_on_the_others(events):
    """Though one of them may be too long for the indexes."""
    batch = sealed(events)
    together = columns_of(batch)
    alone = [columns_of([one]) for one in batch]
    assert rows_of(together) == [row for columns in alone for row in rows_of(columns)]
    assert together.size == sum(columns.size for columns in alone)


def test_a_row_is_what_the_layout_says():
    (row,) = rows_of(columns_of(sealed([event(7, {"run_id": "r", "step_id": LONG})])))
    assert row == {
        "seq": 7,
        "timestamp_ms": 1_000,
        "kind": 0,
        "id": b"id-7",
        "actor": b"worker",
        "event_type": b"step",
        "member_id": b"worker",
        "identity": None,
        "mob_id": None,
        "run_id": b"r",
        "step_id": key_of(LONG.encode()),
        "payload": f'{{"run_id":"r","step_id":"{LONG}"}}'.encode(),
        "long": None,
    }
    assert is_cut(row["step_id"])
    (row,) = rows_of(columns_of(sealed([event(7, event=ModuleEvent("module", "type", None), id=LONG)])))
    assert (row["kind"], row["actor"], row["payload"]) == (1, b"module", None)
    assert row["long"] == f'{{"id":"{LONG}"}}'.encode()


@pytest.mark.parametrize("most", [1, 700, 10_000, 1_000_000])
def test_a_batch_is_cut_where_a_statement_is_full(monkeypatch, most):
    """In order, and the first of an id wins. A statement has too much only where one event has."""
    monkeypatch.setattr(rows, "MAX_CHUNK_BYTES", most)
    events = [event(seq, "x" * (seq * 37 % 500)) for seq in range(1, 301)]
    repeats = [event(1_000 + seq, "other", id=f"id-{seq}") for seq in range(1, 301, 7)]
    chunks = trio.run(encoded_chunks, sealed([*events, *repeats]))
    assert [row for chunk in chunks for row in rows_of(chunk)] == rows_of(columns_of(sealed(events)))
    assert all(chunk.size <= most or len(rows_of(chunk)) == 1 for chunk in chunks)
    assert all(one.size + other.size > most for one, other in pairwise(chunks))
    assert (len(chunks) == 1) == (most == 1_000_000)
