"""What a log holds, in numbers."""

import pytest
import trio
import trio.testing

from tests._helpers.events import agent, module

CANCELLED = trio.Cancelled


async def test_describe_an_empty_log(opened):
    async with opened as store:
        described = await store.describe()

    assert (described.events, described.first_seq, described.last_seq, described.highest_seq) == (
        0,
        None,
        None,
        0,
    )
    assert (described.first_timestamp_ms, described.last_timestamp_ms) == (None, None)
    assert (described.event_types, described.members, described.gaps, described.missing) == ((), (), 0, 0)


async def test_describe(opened):
    async with opened as store:
        types = ["x", "y", "x", "z", "x", "y"]
        seqs = [3, 4, 7, 8, 20, 21]
        events = [
            agent(seq, event_type=kind, agent_id=f"a{seq % 2}") for seq, kind in zip(seqs, types, strict=True)
        ]
        await store.append_batch([*events, module(22, event_type="x"), agent(30, time_ms=1, event_type="w")])
        described = await store.describe(top=2)

    assert described.events == 8
    assert (described.first_seq, described.last_seq, described.highest_seq) == (3, 30, 30)
    assert (described.first_timestamp_ms, described.last_timestamp_ms) == (1, 220)
    assert (described.distinct_event_types, described.event_types) == (4, (("x", 4), ("y", 2)))
    assert (described.distinct_members, described.members) == (3, (("a0", 3), ("a1", 3)))
    assert (described.gaps, described.missing) == (3, 2 + 11 + 7)
    assert described.first_gaps == ((5, 6), (9, 19), (23, 29))


async def test_describe_shows_the_first_gaps_only(opened):
    async with opened as store:
        await store.append_batch([agent(seq) for seq in range(1, 5_000, 2)])
        described = await store.describe(top=0)

    assert (described.gaps, described.missing, len(described.first_gaps)) == (2_499, 2_499, 10)
    assert described.first_gaps[0] == (2, 2)
    assert (described.event_types, described.distinct_event_types) == ((), 1)


@pytest.mark.parametrize(
    ("top", "kind"),
    [(-1, ValueError), (True, TypeError), ("3", TypeError), (1.0, TypeError), (None, TypeError)],
)
async def test_describe_checks_top(opened, top, kind):
    async with opened as store:
        with pytest.raises(kind, match="top: expected"):
            await store.describe(top=top)
        # More than a database could take.
        assert (await store.describe(top=2**70)).events == 0
