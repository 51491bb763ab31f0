"""What ends a log before its time: Ctrl-C, errors of the log itself, a cancellation while it is opened.

And what each task is told of that: the right reason, by an exception of its own.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests._helpers.fakes import FakeStore, Reports, fail_with, hang, numbered
from tests._helpers.interrupts import interrupt_in_contextlib
from trio_eventlog import (
    EventLog,
    EventLogBroken,
    EventsLost,
    LogBusy,
    LogState,
    SequenceConflict,
    SpillReport,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog._log import _spill_queue
from trio_eventlog._log._reporter import Reporter
from trio_eventlog._log._spill_file import SpillFile

Clock = trio.testing.MockClock


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body_error", [None, ValueError("of the body")])
def test_keyboard_interrupt_while_the_spill_file_is_closed(
    body_error: ValueError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves bare, once the file is closed and all is reported; an error of the body is its context."""
    close = SpillFile.close

    def interrupted_close(file: SpillFile, *args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        # Until the interrupt has arrived, and everyone waits for this thread again.
        trio.from_thread.run(trio.testing.wait_all_tasks_blocked)
        close(file, *args, **kwargs)

    monkeypatch.setattr(SpillFile, "close", interrupted_close)
    reports, logs = Reports(), list[EventLog]()
    spill = tmp_path / "log.spill"

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt) as caught:
            async with open_event_log(
                FakeStore(otherwise=hang), spill=spill, on_failure=reports, grace_period=0.1
            ) as log:
                logs.append(log)
                for number in range(5):
                    log.ingest(numbered(number))
                if body_error is not None:
                    raise body_error
        assert caught.value.__context__ is body_error
        monkeypatch.undo()
        async with open_event_log(FakeStore(), spill=spill) as log:
            assert log.statistics().recovered == 5

    trio.run(main)

    books = logs[0].statistics()
    assert books.state == LogState.CLOSED
    assert books.spilled == 5
    assert [report.events for report in reports.spill_reports if isinstance(report, SpillReport)] == [5]


@pytest.mark.parametrize("method", ["__aenter__", "__aexit__"])
def test_keyboard_interrupt_in_the_frames_of_contextlib(method: str) -> None:
    """The log is closed all the same, and another can be opened on its store."""
    store, logs = FakeStore(), list[EventLog]()

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt), interrupt_in_contextlib(method):
            async with open_event_log(store) as log:
                logs.append(log)
                log.ingest(numbered(1))
            await trio.lowlevel.checkpoint()
        async with open_event_log(store):
            pass

    trio.run(main)

    assert [log.statistics().state for log in logs] in ([], [LogState.CLOSED])


# --- why an append was cut off --------------------------------------------------------------------


def reason(reports: Reports) -> str:
    """What the last failed append was cut off by."""
    error = reports.failures[-1].error
    assert isinstance(error, TimeoutError)
    return str(error).removeprefix("the append was cut off by ")


@pytest.mark.parametrize("grace_period", [0, 3.0])
async def test_an_append_cut_off_by_the_grace_period(grace_period: float, autojump_clock: Clock) -> None:
    """A report says so."""
    reports = Reports()
    with pytest.raises(EventsLost):
        async with open_event_log(
            FakeStore(otherwise=hang), batch_size=1, on_failure=reports, grace_period=grace_period
        ) as log:
            log.ingest(numbered(1))
            await trio.testing.wait_all_tasks_blocked()

    assert reason(reports) == "the end of the grace period"


def test_an_append_cut_off_by_keyboard_interrupt() -> None:
    """In the drain."""
    reports = Reports()

    async def interrupt(_store: FakeStore, _events: object) -> tuple[()]:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()
        return ()

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            async with open_event_log(
                FakeStore(otherwise=interrupt), grace_period=1000, on_failure=reports
            ) as log:
                log.ingest(numbered(1))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert reason(reports) == "a KeyboardInterrupt"


async def test_an_append_cut_off_by_a_defect_of_the_log(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another task of it."""
    reports = Reports()

    def fail_to_report(_reporter: Reporter) -> None:
        monkeypatch.undo()  # the next call works
        raise ZeroDivisionError

    with pytest.raises(EventLogBroken):
        async with open_event_log(
            FakeStore(otherwise=hang), batch_size=1, retry_buffer_cap=1, on_failure=reports
        ) as log:
            log.ingest(numbered(1))
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(Reporter, "report_losses", fail_to_report)
            log.ingest(numbered(2))
            log.ingest(numbered(3))
            await trio.sleep_forever()

    assert reason(reports) == "a defect in trio_eventlog"


async def test_an_append_cut_off_by_on_failure(autojump_clock: Clock) -> None:
    """Which ended the program."""
    reports = Reports()

    def leave(report: Any) -> None:
        reports(report)
        raise SystemExit

    with pytest.raises(SystemExit):
        async with open_event_log(
            FakeStore(otherwise=hang), batch_size=1, retry_buffer_cap=1, on_failure=leave, grace_period=1000
        ) as log:
            log.ingest(numbered(1))
            await trio.testing.wait_all_tasks_blocked()
            log.ingest(numbered(2))
            log.ingest(numbered(3))
            await trio.sleep_forever()

    assert reason(reports) == "a SystemExit"


# --- an error for each task -----------------------------------------------------------------------


class OddError(StoreUnusable):
    """Its constructor is not that of other errors, so that it cannot be copied."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"odd {number}")


@pytest.mark.parametrize("error", [StoreUnusable("gone"), SequenceConflict([1, 2]), OddError(number=3)])
async def test_each_flush_raises_an_error_of_its_own(
    error: StoreUnusable, tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the kind of the store's, which is its cause and does not grow with each."""
    monkeypatch.setattr(_spill_queue, "in_thread", inline)
    seen: list[StoreUnusable] = []

    async def flush(log: EventLog) -> None:
        with pytest.raises(StoreUnusable) as caught:
            await log.flush()
        seen.append(caught.value)

    with pytest.raises(StoreUnusable) as caught:
        async with open_event_log(
            FakeStore(otherwise=fail_with(error)), spill=tmp_path / "log.spill", on_failure=Reports()
        ) as log:
            log.ingest(numbered(1))
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(flush, log)
            length = len(traceback.extract_tb(error.__traceback__))
            for _ in range(3):
                await flush(log)
            assert len(traceback.extract_tb(error.__traceback__)) == length

    assert caught.value is error
    assert len({id(one) for one in [*seen, error]}) == 7
    assert all(one.__cause__ is error for one in seen)
    assert {str(one) for one in seen} == {str(error)}
    assert all(isinstance(error, type(one)) for one in seen)
    assert not any(hasattr(one, "__notes__") for one in seen)


async def inline(work: Callable[[], Any], *, discard: object = None) -> Any:
    """Does what a thread would do."""
    await trio.lowlevel.checkpoint()
    return work()


# --- opening --------------------------------------------------------------------------------------


class HungDisk:
    """The disk of a spill file, which hangs while it is opened."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.is_closed = threading.Event()

    def open(self, *args: Any, **kwargs: Any) -> SpillFile:
        disk = self

        class File(SpillFile):
            def close(self, *args: Any, **kwargs: Any) -> None:
                super().close(*args, **kwargs)
                disk.is_closed.set()

        assert self.goes_on.wait(10)
        return File(*args, **kwargs)


@pytest.mark.parametrize("recovered", [0, 3])
async def test_opening_can_be_cancelled_while_the_disk_hangs(
    recovered: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once. The file is closed as soon as the disk answers, and has all that it had."""
    spill = tmp_path / "log.spill"
    if recovered:
        async with open_event_log(
            FakeStore(otherwise=hang), spill=spill, grace_period=0, on_failure=Reports()
        ) as log:
            for number in range(recovered):
                log.ingest(numbered(number))
    disk, store = HungDisk(), FakeStore()
    async with trio.open_nursery() as nursery:
        monkeypatch.setattr(_spill_queue, "SpillFile", disk.open)

        async def enter() -> None:
            async with open_event_log(store, spill=spill):
                pytest.fail("entered although cancelled")

        nursery.start_soon(enter)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel(reason="test")
    monkeypatch.undo()
    # The store is free at once,
    async with open_event_log(store):
        pass
    # and the file as soon as it can be.
    disk.goes_on.set()
    assert await trio.to_thread.run_sync(disk.is_closed.wait, 10)
    assert spill.exists() == bool(recovered)
    async with open_event_log(store, spill=spill) as log:
        assert log.statistics().recovered == recovered


def test_opening_can_be_interrupted_while_the_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, as by a cancellation."""
    disk, store = HungDisk(), FakeStore()
    monkeypatch.setattr(_spill_queue, "SpillFile", disk.open)

    @trio.lowlevel.enable_ki_protection  # it is for the main task
    async def interrupt() -> None:
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            with pytest.raises(KeyboardInterrupt):
                async with open_event_log(store, spill=tmp_path / "log.spill"):
                    pytest.fail("entered although interrupted")
        disk.goes_on.set()
        assert await trio.to_thread.run_sync(disk.is_closed.wait, 10)

    trio.run(main)


async def test_a_file_that_is_still_being_opened_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its lock is taken, and until the thread that was left behind has closed it."""
    spill = tmp_path / "log.spill"
    is_open, goes_on = threading.Event(), threading.Event()
    begin = SpillFile._begin

    def hang_in_the_middle(file: SpillFile, *arguments: Any) -> Any:
        is_open.set()
        assert goes_on.wait(10)
        return begin(file, *arguments)

    monkeypatch.setattr(SpillFile, "_begin", hang_in_the_middle)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def enter() -> None:
                async with open_event_log(FakeStore(), spill=spill):
                    pytest.fail("entered although cancelled")

            nursery.start_soon(enter)
            assert await trio.to_thread.run_sync(is_open.wait, 10)
            scope.cancel(reason="test")
    with pytest.raises(LogBusy):
        async with open_event_log(FakeStore(), spill=spill):
            pytest.fail("the file is locked")
    monkeypatch.undo()
    goes_on.set()
    with trio.fail_after(10):
        while True:
            try:
                async with open_event_log(FakeStore(), spill=spill):
                    break
            except LogBusy:
                await trio.sleep(0.01)
