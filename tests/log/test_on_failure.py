"""What ``on_failure`` and the logger are told: the promise L9."""

from __future__ import annotations

import logging

import attrs
import pytest
import trio
import trio.testing

from tests._helpers.fakes import (
    STEADY,
    Clock,
    FakeStore,
    Reports,
    burst,
    delay,
    event_at,
    fail,
    fail_with,
    hang,
    numbered,
    take,
)
from trio_eventlog import (
    AgentEvent,
    EventRejected,
    EventsLost,
    LogState,
    LossReport,
    Report,
    RetryPolicy,
    StoreUnusable,
    open_event_log,
)


async def test_losses_to_the_cap_come_together(autojump_clock: Clock) -> None:
    """After a second, or at 1,024 of them."""
    store, reports = FakeStore(otherwise=delay(100)), Reports()
    async with open_event_log(
        store, batch_size=1, retry_buffer_cap=1, append_timeout=1000, grace_period=1000, on_failure=reports
    ) as log:
        burst(log, 1)
        await trio.sleep(10)
        burst(log, 4)
        await trio.sleep(0.5)
        burst(log, 4)
        await trio.sleep(4.5)
        assert [(loss.count, time) for loss, time in zip(reports.losses, reports.times, strict=True)] == [
            (7, 11)
        ]
        burst(log, 2500)
        assert [loss.count for loss in reports.losses] == [7, 1024, 1024]
        await trio.sleep(2)
        assert [loss.count for loss in reports.losses] == [7, 1024, 1024, 452]
        assert (log.statistics().lost_total, len(reports.lost)) == (2507, 2507)


async def test_reports_come_with_the_books_in_order(autojump_clock: Clock) -> None:
    """Conservation holds inside on_failure, too."""
    seen = []

    def check(_report: Report) -> None:
        books = log.statistics()
        seen.append(books.ingested - books.persisted - books.duplicate - books.pending - books.lost_total)

    store = FakeStore([fail, fail_with(EventRejected([event_at(1)], "too large")), fail])
    async with open_event_log(store, batch_size=1, retry_buffer_cap=4, on_failure=check) as log:
        burst(log, 6)
        await trio.sleep(5)
        burst(log, 1)

    assert set(seen) == {0}
    assert len(seen) >= 3


async def test_what_on_failure_raises_is_logged_and_changes_nothing(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log goes on."""

    def raising(_report: object) -> None:
        msg = "of the callback"
        raise ValueError(msg)

    store = FakeStore([fail])
    async with open_event_log(store, on_failure=raising) as log:
        burst(log, 2)

    assert store.seqs == [1, 2]
    (record,) = [record for record in caplog.records if record.name == "trio_eventlog"]
    assert record.exc_info is not None
    assert "of the callback" in str(record.exc_info[1])


async def test_on_failure_may_ingest(autojump_clock: Clock) -> None:
    """A program that logs its failures into the log that fails does not run in circles."""
    reports = Reports()

    def ingest(report: Report) -> None:
        reports(report)
        log.ingest(AgentEvent("log", "failure"))

    store = FakeStore(otherwise=fail)
    with pytest.raises(StoreUnusable):
        async with open_event_log(
            store, batch_size=1, retry_buffer_cap=1, retry=STEADY, on_failure=ingest
        ) as log:
            burst(log, 3)
            await trio.sleep(3)
            store.otherwise = fail_with(StoreUnusable("gone"))
            await trio.sleep(30)

    books = log.statistics()
    assert books.ingested == books.lost_total == len(set(reports.lost)) == len(reports.lost)
    assert len(reports.times) < 60


async def test_without_on_failure_reports_go_to_the_logger(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The first at once, then at most one per 30 s, the rest summed up at the end."""
    caplog.set_level(logging.DEBUG, "trio_eventlog")
    store = FakeStore(otherwise=fail)
    retry = RetryPolicy(initial=1, maximum=1, multiplier=1, jitter=0)
    with pytest.raises(EventsLost):
        async with open_event_log(store, batch_size=1, retry=retry, grace_period=2) as log:
            burst(log, 1)
            await trio.sleep(60.5)

    records = [record for record in caplog.records if record.name == "trio_eventlog"]
    assert [record.levelname for record in records] == ["WARNING"] * 4 + ["ERROR"]
    assert "29 failed appends" in records[1].getMessage()
    assert "no further attempt" in records[3].getMessage()
    assert "lost 1 events" in records[4].getMessage()


class Raising(logging.Handler):
    """A handler that does not handle its own errors."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise."""
        msg = "of the handler"
        raise ValueError(msg)


async def test_a_handler_that_raises_changes_nothing(
    autojump_clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither for whoever ingests, nor for the exception of the body; its traceback goes to stderr."""
    own, logger, handler = KeyError("of the body"), logging.getLogger("trio_eventlog"), Raising()
    logger.addHandler(handler)
    try:
        with pytest.raises(KeyError) as caught:
            async with open_event_log(FakeStore(otherwise=fail), batch_size=1, retry_buffer_cap=1) as log:
                burst(log, 2000)
                raise own
    finally:
        logger.removeHandler(handler)

    assert caught.value is own
    assert "of the handler" in capsys.readouterr().err


@attrs.define(eq=False)
class Leaving:
    """An ``on_failure`` that keeps what it is told and then ends the program."""

    error: BaseException = attrs.field(factory=lambda: SystemExit(3))
    reports: list[Report] = attrs.field(factory=list)

    def __call__(self, report: Report) -> None:
        self.reports.append(report)
        raise self.error

    @property
    def lost(self) -> list[int]:
        return [e.seq for report in self.reports if isinstance(report, LossReport) for e in report.events]


class FalseError(BaseException):
    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), FalseError()])
async def test_on_failure_may_end_the_program(
    error: BaseException, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not an Exception cancels the body, ends the drain, and leaves the block bare."""
    leave = Leaving(error)
    with pytest.raises(type(error)) as caught:
        async with open_event_log(FakeStore(otherwise=fail), on_failure=leave, grace_period=1000) as log:
            burst(log, 1)
            try:
                await trio.sleep_forever()
            finally:
                ended_at = trio.current_time()

    assert caught.value is error
    assert trio.current_time() == ended_at == 1.0
    assert leave.lost == [1]
    assert log.statistics().state == LogState.CLOSED
    assert "on_failure raised" not in caplog.text


async def test_on_failure_that_ends_the_program_has_the_error_of_the_body_as_context(
    autojump_clock: Clock,
) -> None:
    """Neither of the two is forgotten."""
    leave, own = Leaving(), KeyError("of the body")
    with pytest.raises(SystemExit) as caught:
        async with open_event_log(FakeStore(otherwise=fail), on_failure=leave) as log:
            burst(log, 1)
            raise own

    assert caught.value is leave.error
    assert caught.value.__context__ is own


@pytest.mark.parametrize("where", ["ingest", "flush", "at the end", "in time"])
async def test_on_failure_may_end_the_program_from_anywhere(where: str, autojump_clock: Clock) -> None:
    """Wherever it is called, the books stay right, and every loss is reported all the same."""
    leave = Leaving()
    store = FakeStore(otherwise=hang)
    with pytest.raises(SystemExit) as caught:
        async with open_event_log(
            store, batch_size=1, retry_buffer_cap=2, on_failure=leave, grace_period=1
        ) as log:
            if where == "ingest":
                # The 1,024th loss is reported within the call, and the one after it gets its number.
                assert burst(log, 1500)[-1] == 1500
                assert log.ingest(numbered(0)) == 1501
            elif where == "flush":
                burst(log, 4)
                await log.flush()
            elif where == "at the end":
                burst(log, 4)
            else:
                burst(log, 4)
                await trio.sleep_forever()

    assert caught.value is leave.error
    books = log.statistics()
    assert sorted(leave.lost) == list(range(1, books.ingested + 1))
    assert books.pending == 0
    assert books.lost_total == books.ingested


async def test_a_log_handler_may_end_the_program(autojump_clock: Clock) -> None:
    """What a handler of log records raises counts as if on_failure had raised it."""

    class Handler(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            raise SystemExit(4)

    logger, handler = logging.getLogger("trio_eventlog"), Handler()
    logger.addHandler(handler)
    try:
        with pytest.raises(SystemExit):
            async with open_event_log(FakeStore(otherwise=fail)) as log:
                burst(log, 1)
                await trio.sleep_forever()
    finally:
        logger.removeHandler(handler)

    assert log.statistics().lost_total == 1


async def test_an_event_per_lost_event_keeps_the_order(autojump_clock: Clock) -> None:
    """on_failure may ingest as much as it is told, and seqs still ascend and the books still balance."""
    sums = set()

    def ingest(report: Report) -> None:
        books = log.statistics()
        sums.add(books.ingested - books.persisted - books.duplicate - books.pending - books.lost_total)
        if isinstance(report, LossReport) and books.ingested < 10_000:
            burst(log, report.count)

    store = FakeStore()
    async with open_event_log(store, batch_size=1, retry_buffer_cap=4, on_failure=ingest) as log:
        burst(log, 5000)

    assert sums == {0}
    assert store.seqs == sorted(store.seqs)
    assert all(list(append.seqs) == sorted(append.seqs) for append in store.appends)


async def test_the_end_of_a_store_is_logged_at_once(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Also shortly after a record of something else."""
    gone = StoreUnusable("gone for good")
    store = FakeStore([fail, take, fail_with(gone)])
    with pytest.raises(StoreUnusable):
        async with open_event_log(store, batch_size=1) as log:
            burst(log, 1)
            await trio.sleep(1)
            burst(log, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert "gone for good" in caplog.text
            assert "reason: unusable" in caplog.text
