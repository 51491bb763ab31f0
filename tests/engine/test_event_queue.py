"""A queue of events that knows its bytes, against a list."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.retry_buffers import event, seqs_of
from trio_eventlog._engine._event_queue import Batch, EventQueue
from trio_eventlog._model._sealed import size_of

LIMITS = st.integers(1, 12) | st.just(100)
STEPS = st.lists(
    st.tuples(st.just("add"), st.integers(1, 5), st.just(0))
    | st.tuples(st.just("take"), LIMITS, st.integers(0, 2_000) | st.just(math.inf))
    | st.tuples(st.just("pop"), st.just(0), st.just(0)),
    max_size=20,
)


@given(STEPS, st.booleans())
def test_a_queue_is_a_list_that_knows_its_bytes(steps, puts_back):
    queue, model, seq = EventQueue(), [], 0
    for what, count, max_bytes in steps:
        if what == "add":
            added = [event(seq + place) for place in range(1, count + 1)]
            seq += count
            queue.extend(added, sum(map(size_of, added)))
            model += added
        elif what == "pop" and model:
            assert queue.pop() is model.pop(0)
        elif what == "take":
            expected = []
            while model and len(expected) < count and sum(map(size_of, expected)) < max_bytes:
                expected.append(model.pop(0))
            batch = queue.take(count, max_bytes)
            assert list(batch) == expected
            assert batch == Batch.of(expected)
            if puts_back:
                queue.put_back(batch)
                model[:0] = expected
        assert list(queue) == model
        assert len(queue) == len(model)
        assert queue.bytes == sum(map(size_of, model))
        if model:
            assert queue.first_seq == model[0].seq
    queue.clear()
    assert seqs_of(tuple(queue)) == []
    assert queue.bytes == 0
