"""Work in a thread that is left to itself: what it makes is discarded, once, and never by the loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from trio_eventlog import _threads
from trio_eventlog._threads import Turn, in_thread, run_sync

Discard = Callable[[str], object]


async def cancelled_with_a_result(monkeypatch: pytest.MonkeyPatch, discard: Discard) -> None:
    """Cancel `in_thread` when the thread is done, and its task has not run again; returns if it was."""
    is_made = threading.Event()
    run = _threads._Handover.run

    def run_and_tell(handover: Any) -> Any:
        result = run(handover)
        is_made.set()
        return result

    def make_when_told() -> str:
        assert goes_on.wait(10)
        return "made"

    goes_on = threading.Event()
    monkeypatch.setattr(_threads._Handover, "run", run_and_tell)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def make() -> None:
                await in_thread(make_when_told, discard=discard)
                pytest.fail("not cancelled")

            nursery.start_soon(make)
            await trio.testing.wait_all_tasks_blocked()
            goes_on.set()
            # The loop stands still, so that what the thread made cannot be handed over any more.
            assert is_made.wait(10)
            scope.cancel(reason="test")
    assert scope.cancelled_caught


async def test_what_a_thread_makes_after_it_was_given_up_is_discarded() -> None:
    """Once, by the thread."""
    is_given_up, discarded, is_discarded = threading.Event(), list[str](), threading.Event()
    scope = trio.CancelScope()

    def work() -> str:
        trio.from_thread.run_sync(scope.cancel)
        assert is_given_up.wait(10)
        return "made"

    def discard(made: str) -> None:
        discarded.append(made)
        is_discarded.set()

    with scope:
        await in_thread(work, discard=discard)
    is_given_up.set()
    assert scope.cancelled_caught
    assert await trio.to_thread.run_sync(is_discarded.wait, 10)
    assert discarded == ["made"]


async def test_what_a_thread_made_before_it_was_given_up_is_discarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, and before the cancellation goes on."""
    discarded: list[str] = []
    await cancelled_with_a_result(monkeypatch, discarded.append)
    assert discarded == ["made"]


async def test_what_a_thread_made_is_not_discarded() -> None:
    """If it was waited for."""
    discarded: list[str] = []
    assert await in_thread(lambda: "made", discard=discarded.append) == "made"
    assert discarded == []


async def test_it_is_not_discarded_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would stand still if a disk hangs."""
    threads: list[int] = []
    await cancelled_with_a_result(monkeypatch, lambda _: threads.append(threading.get_ident()))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("error", [OSError("the disk"), ValueError("a bug")])
async def test_an_error_on_discarding_is_logged(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not take the place of the cancellation."""

    def discard(_: str) -> None:
        raise error

    with caplog.at_level(logging.WARNING, "trio_eventlog"):
        await cancelled_with_a_result(monkeypatch, discard)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_an_error_on_discarding_late_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing that waits for the thread any more."""
    is_given_up, is_discarded = threading.Event(), threading.Event()

    def work() -> str:
        trio.from_thread.run_sync(scope.cancel)
        assert is_given_up.wait(10)
        return "made"

    def discard(_: str) -> None:
        raise OSError("the disk")

    class Told(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            is_discarded.set()

    told = Told()
    logging.getLogger("trio_eventlog").addHandler(told)
    try:
        with trio.CancelScope() as scope:
            await in_thread(work, discard=discard)
        is_given_up.set()
        assert await trio.to_thread.run_sync(is_discarded.wait, 10)
    finally:
        logging.getLogger("trio_eventlog").removeHandler(told)
    assert scope.cancelled_caught


async def test_discarding_on_a_disk_that_hangs_does_not_hold_up_a_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes on in its thread."""
    goes_on, is_discarded = threading.Event(), threading.Event()
    monkeypatch.setattr(_threads, "_DISCARD_TIMEOUT", 0.01)

    def discard(_: str) -> None:
        assert goes_on.wait(10)
        is_discarded.set()

    await cancelled_with_a_result(monkeypatch, discard)
    assert not is_discarded.is_set()
    goes_on.set()
    assert await trio.to_thread.run_sync(is_discarded.wait, 10)


async def test_it_is_discarded_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loop then: what was made must not stay."""
    discarded: list[str] = []
    run_sync = trio.to_thread.run_sync

    async def refuse(function: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(function, "__name__", "") == "discard":
            raise RuntimeError("can't start new thread")
        return await run_sync(function, *args, **kwargs)

    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    await cancelled_with_a_result(monkeypatch, discarded.append)
    assert discarded == ["made"]


async def test_jobs_take_turns() -> None:
    """In the order in which they were asked for, a job that was left to itself included."""
    turn, goes_on = Turn(), threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        if not number:
            assert goes_on.wait(10)
        done.append(number)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(run_until_cancelled, scope, partial(work, 0), turn)
            for number in (1, 2, 3):
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(partial(run_sync, partial(work, number), limiter=turn))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel(reason="test")
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            goes_on.set()
    assert done == [0, 1, 2, 3]


async def run_until_cancelled(scope: trio.CancelScope, work: Callable[[], None], turn: Turn) -> None:
    """In a task of its own, so that it is another's to cancel."""
    with scope:
        await run_sync(work, limiter=turn)
