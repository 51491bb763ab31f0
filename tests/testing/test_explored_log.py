"""The log itself in many orders of its tasks; at length in ``deep_explore.py``."""

import pytest

from tests._helpers.explored_log import Life, live
from trio_eventlog.testing import explore


@pytest.mark.parametrize("spills", [False, True], ids=["in memory", "with a spill file"])
def test_the_promises_hold_in_other_orders(tmp_path, spills):
    explore(live, 1, 60.0, tmp_path / "log.spill" if spills else None, max_examples=8)


def test_a_promise_that_does_not_hold_is_found(monkeypatch):
    """Here, that nobody ever sees two events pending."""
    check = Life.check

    def check_more(life):
        check(life)
        assert life.log.statistics().pending < 12, "more than usual"

    monkeypatch.setattr(Life, "check", check_more)
    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True) as caught:
        explore(live, 1, 60.0, max_examples=8)
    assert "replay(main, schedule=" in caught.value.__notes__[-1]
