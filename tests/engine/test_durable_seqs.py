"""Which events of a run are in the store: exact, in bounded memory, and honest where it cannot be exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog._engine import _durable_seqs as _durable
from trio_eventlog._engine._durable_seqs import DurableSeqs, Span

# For each append the distances between its seqs; and between appends what is taken out again.
PROGRAMS = st.lists(
    st.one_of(
        st.lists(st.sampled_from([1, 1, 1, 2, 5]), min_size=1, max_size=8),
        st.floats(0, 1),
    ),
    max_size=20,
)


def seqs_in(spans: list[Span]) -> list[int]:
    """All of them, of ranges without a gap."""
    assert all(span.is_exact for span in spans)
    return [seq for span in spans for seq in range(span.first, span.last + 1)]


@given(PROGRAMS)
def test_what_is_above_a_seq_is_exact(program: list[list[int] | float]) -> None:
    """However often it is taken out and comes again."""
    durable, expected, last = DurableSeqs(), list[int](), 0
    for step in program:
        if isinstance(step, list):
            seqs = [last := last + distance for distance in step]
            durable.add(seqs)
            expected += seqs
        else:
            last = round(step * last)
            taken = durable.take_after(last)
            assert seqs_in(taken) == [seq for seq in expected if seq > last]
            expected = [seq for seq in expected if seq <= last]

        assert durable.count == len(expected)
        assert durable.last == max(expected, default=0)
    assert seqs_in(durable.take_after(0)) == expected


@given(
    most=st.integers(1, 4),
    distances=st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=40),
    cut=st.floats(0, 1),
)
def test_beyond_the_bound_it_says_rather_too_many(most: int, distances: list[int], cut: float) -> None:
    """Ranges that were merged do not know their gaps; nothing is ever counted twice or left out."""
    durable, seqs, last = DurableSeqs(), list[int](), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_durable, "MAX_SPANS", most)
        for distance in distances:
            last += distance
            seqs.append(last)
            durable.add([last])
            assert len(durable._spans) <= most
    after = round(cut * last)
    taken = durable.take_after(after)

    count = sum(span.count for span in taken)
    assert count >= len([seq for seq in seqs if seq > after])
    assert count + durable.count == len(seqs)
    for span in taken:
        assert after < span.first <= span.last
        assert span.count <= span.last - span.first + 1
