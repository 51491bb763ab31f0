"""A whole log on a SQLite file, and what happens to disks, files and clocks meanwhile.

Each of these is a row of the page "What can go wrong". Real time and real threads, since the driver has some;
nothing here waits for time to pass, but for reports.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from tests._helpers.fakes import numbered
from tests._helpers.uncovered import uncovered
from trio_eventlog import (
    AppendFailureReport,
    EventQuery,
    EventsLost,
    LossReason,
    LossReport,
    Report,
    RetryPolicy,
    SpillReport,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _appender as rows

QUICK = RetryPolicy(initial=0.01, maximum=0.05, jitter=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


class Told:
    """An ``on_failure`` that can be waited for."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._came = trio.Event()

    def __call__(self, report: Report) -> None:
        self.reports.append(report)
        self._came.set()

    async def first(self, kind: type[Any]) -> Any:
        with trio.fail_after(10):
            while not (found := [report for report in self.reports if isinstance(report, kind)]):
                self._came = trio.Event()
                await self._came.wait()
        return found[0]

    @property
    def losses(self) -> list[tuple[LossReason, bool, list[int]]]:
        return [
            (report.reason, report.in_doubt, [event.seq for event in report.events])
            for report in self.reports
            if isinstance(report, LossReport)
        ]


def run(program: str, directory: Path) -> str:
    """What a program prints, which runs on its own: its limits and its user are its own, too."""
    head = "import os, sys, trio\nfrom trio_eventlog import *\nfrom trio_eventlog.stores import SqliteStore\n"
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program)],
        cwd=directory,
        env=uncovered(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


# --- disks ----------------------------------------------------------------------------------------

FULL = """
    import resource, signal
    from pathlib import Path

    def size_limit(limit):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    async def main():
        reports = []
        failed = trio.Event()
        def tell(report):
            reports.append(type(report).__name__)
            if len(reports) >= 3:
                failed.set()
        async with (
            SqliteStore.open("events.db") as store,
            open_event_log(store, on_failure=tell, retry=RetryPolicy(initial=0.01, maximum=0.05)) as log,
        ):
            event = AgentEvent("worker", "step", {"text": "x" * 1000})
            for _ in range(50):
                log.ingest(event)
            await log.flush()
            size_limit(Path("events.db-wal").stat().st_size)
            for _ in range(50):
                log.ingest(event)
            with trio.fail_after(10):
                await failed.wait()
            during = log.statistics()
            found = len(await log.query())
            size_limit(resource.RLIM_INFINITY)
            await log.flush()
            print(during.pending, during.lost_total, found, set(reports))
            print([event.seq for event in await log.query()] == list(range(1, 101)))

    # The limit comes as a signal first, which would end the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    trio.run(main)
"""


def test_a_full_disk_costs_nothing_that_fits_the_buffer(tmp_path: Path) -> None:
    """The log tries again until there is room; what was stored can be read all the time."""
    assert run(FULL, tmp_path) == "50 0 50 {'AppendFailureReport'}\nTrue\n"


READ_ONLY = """
    if os.geteuid() == 0:
        # To whom permissions mean nothing.
        os.setuid(65534)

    async def main():
        try:
            async with SqliteStore.open("events.db") as store:
                print("opened")
        except StoreUnusable as exc:
            print(type(exc).__name__, "Permission denied" in str(exc), "events.db" in str(exc))
        async with SqliteStore.open("events.db", read_only=True) as store:
            print(len(await store.query(EventQuery())))

    trio.run(main)
"""


async def test_a_file_that_may_not_be_written_is_refused_on_opening() -> None:
    """Before the program has done any work; reading goes on."""
    # Not where pytest has its directories, which nobody else may enter.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)  # noqa: PTH101, S103 - pathlib is for worker threads here; gone at once
        path = Path(directory, "events.db")
        async with SqliteStore.open(path) as store, open_event_log(store) as log:
            log.ingest(numbered(1))
        os.chmod(path, 0o444)  # noqa: PTH101 - as above
        said = await trio.to_thread.run_sync(run, READ_ONLY, Path(directory))

    assert said == "StoreUnusable True True\n1\n"


# --- files that change under a writer -------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copyfile(path, copy)
    copy.replace(path)


def restore(path: Path, backup: Path) -> None:
    for name in path.parent.glob("events.db*"):
        name.unlink()
    backup.rename(path)


CHANGES = [remove, move, replace]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_changes_under_a_writer_ends_the_log(
    path: Path, change: Callable[[Path], None]
) -> None:
    """Not the program: what comes is lost and reported, and the end of the block says why."""
    told = Told()
    with pytest.raises(StoreUnusable) as caught:
        async with SqliteStore.open(path) as store, open_event_log(store, on_failure=told) as log:
            log.ingest(numbered(1))
            await log.flush()
            change(path)
            log.ingest(numbered(2))
            await told.first(LossReport)
            assert log.statistics().state == "unusable"
            log.ingest(numbered(3))

    failure = await told.first(AppendFailureReport)
    assert caught.value is failure.error
    assert str(path) in str(caught.value)
    assert [(reason, seqs) for reason, _, seqs in told.losses] == [
        (LossReason.UNUSABLE, [2]),
        (LossReason.UNUSABLE, [3]),
    ]


@pytest.mark.parametrize("change", CHANGES)
async def test_with_a_spill_file_it_costs_nothing_that_was_not_stored(
    path: Path, change: Callable[[Path], None], tmp_path: Path
) -> None:
    """The file as it was comes back, from a backup for example, and gets the rest."""
    told, spill, backup = Told(), tmp_path / "log.spill", tmp_path / "backup.db"
    async with SqliteStore.open(path) as store, open_event_log(store) as log:
        log.ingest(numbered(1))
    shutil.copyfile(path, backup)
    with pytest.raises(StoreUnusable):
        async with (
            SqliteStore.open(path) as store,
            open_event_log(store, on_failure=told, spill=spill) as log,
        ):
            log.ingest(numbered(2))
            await log.flush()
            change(path)
            log.ingest(numbered(3))
            await told.first(AppendFailureReport)
            log.ingest(numbered(4))
    (spilled,) = [report for report in told.reports if isinstance(report, SpillReport)]
    assert spilled.events == 2
    assert not told.losses

    restore(path, backup)
    async with SqliteStore.open(path) as store, open_event_log(store, spill=spill) as log:
        await log.flush()
        found = [event.event.payload["number"] for event in await log.query()]
    assert found == [1, 3, 4]


@pytest.mark.parametrize("start", [0, 4096])
async def test_a_damaged_database_ends_the_log_once_it_is_read(path: Path, start: int) -> None:
    """If it is the header, nothing is opened; otherwise it may take until the first append."""
    told = Told()
    async with SqliteStore.open(path) as store, open_event_log(store) as log:
        for number in range(1, 500):
            log.ingest(numbered(number))
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(start)
        file.write(b"\xff" * (size - start))

    with pytest.raises(StoreUnusable, match=r"not a database|malformed|damaged"):
        async with SqliteStore.open(path) as store, open_event_log(store, on_failure=told) as log:
            log.ingest(numbered(500))
            await told.first(LossReport)
            log.ingest(numbered(501))


def test_a_program_can_find_out_in_its_body(tmp_path: Path) -> None:
    """`statistics().state`, without an ``on_failure``: the logger has it, and so has the end of the block."""
    said = run(
        """
        import logging
        from pathlib import Path

        logging.basicConfig(format="%(levelname)s %(name)s", stream=sys.stdout)

        async def main():
            async with SqliteStore.open("events.db") as store, open_event_log(store) as log:
                log.ingest(AgentEvent("worker", "step"))
                await log.flush()
                Path("events.db").unlink()
                log.ingest(AgentEvent("worker", "step"))
                try:
                    await log.flush()
                except EventsLost as exc:
                    print(exc.count, dict(exc.by_reason), type(exc.__cause__).__name__)
                print(log.statistics().state)

        try:
            trio.run(main)
        except StoreUnusable as exc:
            print(type(exc).__name__)
        """,
        tmp_path,
    )

    assert said.splitlines() == [
        "WARNING trio_eventlog",
        "ERROR trio_eventlog",
        "1 {<LossReason.UNUSABLE: 'unusable'>: 1} StoreUnusable",
        "unusable",
        "StoreUnusable",
    ]


# --- whatever SQLite may say ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MemoryError, *apsw.Error.__subclasses__()])
async def test_every_error_of_the_driver_has_an_outcome(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """What may pass is tried again, and nothing is lost; what will not ends the log, and all is reported."""
    told, insert = Told(), rows.insert
    errors = iter([kind("why")])

    def fail_once(*arguments: Any) -> int:
        for error in errors:
            raise error
        return insert(*arguments)

    monkeypatch.setattr(rows, "insert", fail_once)
    with suppress(StoreUnusable):
        async with (
            SqliteStore.open(path) as store,
            open_event_log(store, on_failure=told, retry=QUICK) as log,
        ):
            log.ingest(numbered(1))
            with suppress(EventsLost):
                await log.flush()
    async with SqliteStore.open(path, read_only=True) as store:
        stored = [event.seq for event in await store.query(EventQuery())]

    failure = await told.first(AppendFailureReport)
    assert isinstance(failure.error.__cause__, kind)
    if isinstance(failure.error, StoreUnusable):
        assert told.losses == [(LossReason.UNUSABLE, True, [1])]
        assert stored == []
    else:
        assert len(told.reports) == 1
        assert stored == [1]


# --- clocks ---------------------------------------------------------------------------------------


async def test_a_clock_that_goes_backwards_changes_no_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time stamps say what the clock said; order, cursors and ids do not depend on it."""
    clock = [2_000_000, 1_000_000, 1_500_000, 0, 3_000_000]
    number = 1
    async with SqliteStore.open(path) as store, open_event_log(store) as log:
        monkeypatch.setattr("time.time_ns", lambda: clock[number - 1] * 1_000_000)
        for number in range(1, 6):
            assert log.ingest(numbered(number)) == number
        await log.flush()

        events = await log.query()
        assert [event.event.payload["number"] for event in events] == [1, 2, 3, 4, 5]
        assert [event.timestamp_ms for event in events] == [2_000_000, 1_000_000, 1_500_000, 0, 3_000_000]
        assert len({event.id for event in events}) == 5
        late = await log.query(EventQuery(since_ms=1_000_000, until_ms=2_000_000))
        assert [event.seq for event in late] == [2, 3]
        assert [event.seq for event in await log.query(EventQuery(after_seq=3))] == [4, 5]
