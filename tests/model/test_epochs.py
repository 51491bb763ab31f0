"""Epochs: where they begin, and which cursors they make stale."""

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_eventlog import AgentEvent, ModuleEvent, PersistedEvent, StaleCursor
from trio_eventlog._model._epochs import FIRST_EPOCH_SEQ, epoch_of, epochs_after, first_event

NOW_US = 1_784_000_000_000_000


def begun(last_seq, now_us=NOW_US):
    return first_event(last_seq, now_us=now_us, event_id="e", reason="why")


@given(last_seq=st.integers(0, 2**62), now_us=st.integers(0, 2**61))
@example(last_seq=FIRST_EPOCH_SEQ - 1, now_us=0)
def test_an_epoch_begins_above_all_that_there_was(last_seq, now_us):
    event = begun(last_seq, now_us)
    epoch = epoch_of(event)

    assert event.seq > max(last_seq, FIRST_EPOCH_SEQ - 1)
    assert event.seq == now_us or last_seq >= now_us or now_us < FIRST_EPOCH_SEQ
    assert (epoch.id, epoch.seq, epoch.after_seq, epoch.reason) == ("e", event.seq, last_seq, "why")
    assert epoch.timestamp_ms == now_us // 1000
    assert [epoch.is_stale(cursor) for cursor in (0, last_seq, event.seq, event.seq + 1)] == [False] * 4
    if event.seq > last_seq + 1:
        assert epoch.is_stale(event.seq - 1)
        assert epoch.is_stale(last_seq + 1)
    assert epochs_after(0).matches(event)
    assert not epochs_after(event.seq).matches(event)


def test_there_is_an_end():
    with pytest.raises(ValueError, match="no seq for another epoch after seq 9223372036854775000"):
        begun(9223372036854775000)


@pytest.mark.parametrize(
    "inner",
    [
        ModuleEvent("trio_eventlog", "t", {"after_seq": 1}),
        ModuleEvent("m", "trio_eventlog.epoch_began", {"after_seq": 1}),
        AgentEvent("trio_eventlog", "trio_eventlog.epoch_began", {"after_seq": 1}),
    ],
)
def test_other_events_begin_none(inner):
    assert epoch_of(PersistedEvent("e", NOW_US, 1, None, inner)) is None


@pytest.mark.parametrize("payload", [None, {"erased": {}}, {"after_seq": True, "reason": 1}, [1]])
def test_what_was_erased_makes_all_earlier_cursors_stale(payload):
    inner = ModuleEvent("trio_eventlog", "trio_eventlog.epoch_began", payload)
    epoch = epoch_of(PersistedEvent("e", NOW_US, 1, None, inner))

    assert (epoch.after_seq, epoch.reason) == (0, "")
    assert epoch.is_stale(1)


def test_a_stale_cursor_says_why():
    error = StaleCursor(9, 5, NOW_US)
    assert (error.after_seq, error.last_seq, error.epoch_seq) == (9, 5, NOW_US)
    assert "restored to seq 5, and went on from seq 1784000000000000" in str(error)
    assert StaleCursor(9, 5).epoch_seq is None


@given(last_seq=st.integers(0, 2**62), now_us=st.integers(FIRST_EPOCH_SEQ, 2**61))
@example(last_seq=NOW_US, now_us=NOW_US)
def test_ingested_into_another_log_it_begins_none(last_seq, now_us):
    event = begun(last_seq, now_us)

    assert epoch_of(attrs.evolve(event, seq=event.seq + 1_000_000)) is None
    assert epoch_of(attrs.evolve(event, seq=7)) is None
