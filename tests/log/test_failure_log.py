"""Reports as log records: the first at once, few after it, and in sum never silent."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_eventlog import AgentEvent, AppendFailureReport, LossReason, LossReport, PersistedEvent, StoreError
from trio_eventlog._log._reporter import INTERVAL, FailureLog, logger

# --- helpers --------------------------------------------------------------------------------------


def failure(*, failures: int = 1, retry_in: float = 0.1) -> AppendFailureReport:
    """An append of the seqs 3 to 7 that failed."""
    return AppendFailureReport(
        error=StoreError("disk full"),
        events=5,
        first_seq=3,
        last_seq=7,
        failures=failures,
        retry_in=retry_in,
    )


def loss(count: int = 2, *, in_doubt: bool = False) -> LossReport:
    """The loss of the seqs 1 to ``count``."""
    events = tuple(
        PersistedEvent(f"id-{seq}", seq, 0, "a", AgentEvent("a", "t")) for seq in range(1, count + 1)
    )
    return LossReport(reason=LossReason.CAP, events=events, in_doubt=in_doubt)


class ListHandler(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def captured() -> Iterator[list[logging.LogRecord]]:
    """The records that are written meanwhile. Unlike ``caplog``, each example of a property gets its own."""
    handler = ListHandler()
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)


def written(records: list[logging.LogRecord]) -> list[tuple[str, str]]:
    """Level and text of each."""
    return [(record.levelname, record.getMessage()) for record in records]


def counted(records: list[logging.LogRecord]) -> tuple[int, int]:
    """The failed appends and the lost events of which ``records`` tell, all together."""
    text = "\n".join(record.getMessage() for record in records)
    failed = len(re.findall(r"^append of", text, re.MULTILINE))
    failed += sum(map(int, re.findall(r"(\d+) failed appends", text)))
    lost = sum(map(int, re.findall(r"^lost (\d+) events", text, re.MULTILINE)))
    lost += sum(map(int, re.findall(r"(\d+) lost events", text)))
    return failed, lost


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_in", "expected"),
    [
        (
            0.25,
            "append of 5 events (seq 3 to 7) failed, failure 2 in a row, next attempt in 0.25 s: %s",
        ),
        (
            float("inf"),
            "append of 5 events (seq 3 to 7) failed, failure 2 in a row, no further attempt: %s",
        ),
    ],
)
def test_record_of_a_failure(retry_in: float, expected: str) -> None:
    """It says which events, what the store said, and when the log tries again."""
    with captured() as records:
        FailureLog().note(failure(failures=2, retry_in=retry_in), 0.0)

    assert [("WARNING", expected % "StoreError('disk full')")] == written(records)


@pytest.mark.parametrize(
    ("in_doubt", "expected"),
    [
        (False, "lost 2 events (seq 1 to 2, reason: cap)"),
        (True, "lost 2 events (seq 1 to 2, reason: cap; they may be stored all the same)"),
    ],
)
def test_record_of_a_loss(in_doubt: bool, expected: str) -> None:
    """It says which events, why, and whether they may be stored nevertheless."""
    with captured() as records:
        FailureLog().note(loss(in_doubt=in_doubt), 0.0)

    assert [("ERROR", expected)] == written(records)


def test_name_of_the_logger() -> None:
    """Programs configure it by this name (L9)."""
    assert logging.getLogger("trio_eventlog") is logger


# --- when it is written ---------------------------------------------------------------------------


def test_first_of_each_kind_at_once() -> None:
    """The first loss is written though a failure was written just before it (L9)."""
    with captured() as records:
        log = FailureLog()
        log.note(failure(), 100.0)
        log.note(loss(), 100.0)

    assert ["WARNING", "ERROR"] == [level for level, _ in written(records)]


def test_at_most_one_per_interval() -> None:
    """After the first, half a minute passes before the next, which tells what came in between (L9)."""
    with captured() as records:
        log = FailureLog()
        log.note(loss(), 0.0)
        log.note(failure(), 0.0)
        log.note(failure(), 1.0)
        log.note(loss(3), 2.0)
        log.note(failure(), INTERVAL - 0.001)
        assert 2 == len(records)
        log.note(failure(), INTERVAL)
        log.note(failure(), INTERVAL + 1)
        log.note(failure(), INTERVAL * 2)

    third, fourth = written(records)[2:]
    # Losses are errors, also those that a failure brings along.
    assert "ERROR" == third[0]
    assert third[1].startswith("append of 5 events")
    assert third[1].endswith(" (not logged since: 2 failed appends, 3 lost events)")
    assert "WARNING" == fourth[0]
    assert fourth[1].endswith(" (not logged since: 1 failed appends, 0 lost events)")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (failure(), ("WARNING", "until the log closed: not logged since: 2 failed appends, 0 lost events")),
        (loss(3), ("ERROR", "until the log closed: not logged since: 0 failed appends, 6 lost events")),
    ],
    ids=["failures", "losses"],
)
def test_rest_is_summed_up_at_the_end(
    report: AppendFailureReport | LossReport, expected: tuple[str, str]
) -> None:
    """What no later record told of is told when the log closes (L9)."""
    with captured() as records:
        log = FailureLog()
        for moment in (0.0, 1.0, 2.0):
            log.note(report, moment)
        log.close()

    assert [expected] == written(records)[1:]


def test_nothing_is_summed_up_if_all_was_written() -> None:
    """A log that closes with nothing left to tell, or for the second time, writes nothing."""
    with captured() as records:
        log = FailureLog()
        log.close()
        log.note(failure(), 0.0)
        log.close()
        log.note(failure(), 1.0)
        log.close()
        log.close()

    assert 2 == len(records)


@attrs.frozen
class Note:
    """A report, and how long after the one before it comes."""

    report: AppendFailureReport | LossReport
    after: float


notes = st.lists(
    st.builds(
        Note,
        report=st.builds(failure) | st.builds(loss, st.integers(1, 5)),
        after=st.sampled_from([0.0, 0.5, 5.0, INTERVAL / 2, INTERVAL, 100.0]),
    ),
    max_size=40,
)


@given(notes)
@example([Note(failure(), 0.0)] * 3 + [Note(loss(), 1.0)] * 3)
def test_never_silent_and_never_noisy(program: list[Note]) -> None:
    """Every failure and every lost event is counted in exactly one record; and but for the first of each
    kind, no two records come within the interval (L9)."""
    now = 0.0
    times: list[float] = []
    seen: set[type] = set()
    firsts = 0
    with captured() as records:
        log = FailureLog()
        for each in program:
            now += each.after
            before = len(records)
            log.note(each.report, now)
            if type(each.report) not in seen:
                seen.add(type(each.report))
                firsts += 1
                assert before + 1 == len(records)
            elif len(records) > before:
                assert INTERVAL <= now - times[-1]
            times += [now] * (len(records) - before)
        before = len(records)
        log.close()

    assert len(records) - before <= 1
    failed = sum(isinstance(each.report, AppendFailureReport) for each in program)
    lost = sum(each.report.count for each in program if isinstance(each.report, LossReport))
    assert (failed, lost) == counted(records)
    assert len(times) <= firsts + now / INTERVAL
