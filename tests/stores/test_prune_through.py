"""Deleting events up to a seq, in every store that needs no server."""

import pytest

from tests._helpers.events import agent
from tests._helpers.stores import KINDS
from trio_eventlog import EventQuery


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({"through_seq": 0}, [1, 2, 4, 7, 8]),
        ({"through_seq": 4}, [7, 8]),
        ({"through_seq": 6}, [7, 8]),
        ({"through_seq": 2**63 - 1}, []),
        ({"through_seq": 4, "before_ms": 25}, [2, 7, 8]),
        ({"through_seq": 9, "before_ms": 25}, [2, 7]),
    ],
)
async def test_what_goes_up_to_a_seq(tmp_path, kind, arguments, left):
    times = {1: 10, 2: 90, 4: 20, 7: 80, 8: 15}
    async with kind(tmp_path) as store:
        await store.append_batch([agent(seq, time_ms=time) for seq, time in times.items()])

        assert await store.prune(**arguments, dry_run=True) == 5 - len(left)
        assert await store.prune(**arguments) == 5 - len(left)

        assert [event.seq for event in await store.query(EventQuery())] == left
        assert await store.pruned_seq() == max(set(times) - set(left), default=0)
        assert await store.last_seq() == 8
