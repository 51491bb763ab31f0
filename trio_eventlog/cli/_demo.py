"""``trio-eventlog demo``: a small program that logs its work to a store that fails for a while."""

from __future__ import annotations

import itertools
import math
import random
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final, TypeAlias
from urllib.parse import quote

import trio
from cyclopts import Parameter
from cyclopts.validators import Number as InRange
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trio_eventlog import (
    AgentEvent,
    EventLog,
    EventQuery,
    ModuleEvent,
    PersistedEvent,
    RetryPolicy,
    StoreError,
    open_event_log,
)
from trio_eventlog.abc import EventStore
from trio_eventlog.cli._options import Flag, StoreUrl, opened_store
from trio_eventlog.cli._running import stopping_on_signals
from trio_eventlog.cli._terminal import (
    PROGRAM,
    CommandError,
    console_for,
    counted,
    error_console,
    is_terminal,
    write,
)
from trio_eventlog.stores import without_secrets

EXAMPLES: Final = """
trio-eventlog demo
trio-eventlog demo --store sqlite:demo.db --seconds 10
trio-eventlog demo --console
"""

_AGENTS: Final = 5
_ATTEMPTS: Final = 3
_FAILURE_RATE: Final = 0.08
_SECONDS: Final = 4.0
_MAX_OUTAGE: Final = 2.0
_CONSOLE_PERIOD: Final = 8.0
"""Seconds from one outage to the next for somebody who watches in a browser."""

_REFRESH_INTERVAL: Final = 0.1
_LINE_INTERVAL: Final = 0.5

_RETRY: Final = RetryPolicy(initial=0.05, maximum=0.4)


async def demo(
    *,
    store: Annotated[StoreUrl | None, Parameter(show_default=False)] = None,
    seconds: Annotated[
        float | None, Parameter(metavar="N", validator=InRange(gt=0, lte=3600), show_default=False)
    ] = None,
    console: Flag = False,
) -> int:
    """Run a small program that logs its work to a store that fails for a while.

    Args:
      store: The log; by default a new file, `trio-eventlog-demo.db`, in the current directory.
      seconds: How long the program runs; by default 4 seconds, and with `--console` until Ctrl-C.
      console: Show the log live in a browser, at the URL that is printed. The store fails again and again.
    """
    return await run_demo(store, seconds=seconds, in_browser=console)


# --- the program ----------------------------------------------------------------------------------


class FlakyStore:
    """Another store with an outage in each period."""

    def __init__(self, store: EventStore, *, period: float) -> None:
        self._store = store
        self._opened = trio.current_time()
        self._period = period
        for name in ("latest", "count", "histogram", "facets"):
            if hasattr(store, name):
                # The console asks for what a store can do.
                setattr(self, name, getattr(store, name))

    @property
    def is_down(self) -> bool:
        """Whether this is the time of an outage."""
        since = (trio.current_time() - self._opened) % self._period - 0.35 * self._period
        return 0 <= since < min(0.25 * self._period, _MAX_OUTAGE)

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Append to the other store, or fail during the outage."""
        if self.is_down:
            await trio.lowlevel.checkpoint()
            raise StoreError("down, for this demo")
        return await self._store.append_batch(events)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """Ask the other store."""
        return await self._store.query(query)

    async def last_seq(self) -> int:
        """Ask the other store."""
        return await self._store.last_seq()


async def _work(log: EventLog, seconds: float) -> None:
    """Agents take runs from a queue; a run has steps, which sometimes fail."""
    log.ingest(ModuleEvent("scheduler", "opened", {"agents": _AGENTS}))
    send, receive = trio.open_memory_channel[str](0)
    async with trio.open_nursery() as nursery:
        for name in (f"agent-{number}" for number in range(1, _AGENTS + 1)):
            nursery.start_soon(_agent, log, name, receive.clone())
        with send, receive, trio.move_on_after(seconds):
            await _hand_out_runs(log, send)
    log.ingest(ModuleEvent("scheduler", "closed"))


async def _hand_out_runs(log: EventLog, runs: trio.MemorySendChannel[str]) -> None:
    number = 0
    while True:
        number += 1
        await runs.send(f"run-{number}")
        log.ingest(ModuleEvent("scheduler", "run_handed_out", {"run_id": f"run-{number}"}))


async def _agent(log: EventLog, name: str, runs: trio.MemoryReceiveChannel[str]) -> None:
    log.ingest(AgentEvent(name, "spawned"))
    with runs:
        async for run_id in runs:
            await _run(log, name, run_id)
    log.ingest(AgentEvent(name, "retired"))


async def _run(log: EventLog, name: str, run_id: str) -> None:
    attempts = 1
    while not await _attempt(log, name, run_id, attempts):
        if attempts == _ATTEMPTS:
            log.ingest(AgentEvent(name, "run_given_up", {"run_id": run_id, "attempts": attempts}))
            return
        attempts += 1
    log.ingest(AgentEvent(name, "run_completed", {"run_id": run_id, "attempts": attempts}))


async def _attempt(log: EventLog, name: str, run_id: str, attempt: int) -> bool:
    log.ingest(AgentEvent(name, "run_started", {"run_id": run_id, "attempt": attempt}))
    try:
        await _step(log, name, run_id, "plan")
        await _step(log, name, run_id, "act")
        await _step(log, name, run_id, "check")
    except RuntimeError as exc:
        log.ingest(AgentEvent(name, "run_failed", {"run_id": run_id, "reason": str(exc)}))
        return False  # noqa: ASYNC910 - a step that fails has waited
    return True


async def _step(log: EventLog, name: str, run_id: str, step: str) -> None:
    await trio.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - nothing secret
    if random.random() < _FAILURE_RATE:  # noqa: S311 - nothing secret
        raise RuntimeError(f"{step} went wrong")
    log.ingest(AgentEvent(name, "step_done", {"run_id": run_id, "step_id": f"{run_id}/{step}"}))


# --- watching it ----------------------------------------------------------------------------------


_Serve: TypeAlias = Callable[..., Awaitable[None]]


def _serve_console() -> _Serve:
    try:
        from trio_eventlog.console import serve_console  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as exc:
        raise CommandError(str(exc)) from exc
    return serve_console


async def _show(log: EventLog, serve: _Serve, nursery: trio.Nursery) -> None:
    """Serve the console, at the usual port if it is free, and say where."""
    try:
        url: str = await nursery.start(partial(serve, log))
    except OSError:
        url = await nursery.start(partial(serve, log, port=0))
    await write(f"See it live at {url} until you press Ctrl-C here.\n")


async def run_demo(url: str | None, *, seconds: float | None = None, in_browser: bool = False) -> int:
    """Run the demo; return the exit status.

    Args:
      url: URL of the log; None for a new file in the current directory.
      seconds: how long the program runs; None for the usual time.
      in_browser: whether to serve a console meanwhile.

    Raises:
      CommandError: the URL is malformed, events were not stored, or the console is not installed.
      StoreError: the store cannot be opened or read.
    """
    serve = _serve_console() if in_browser else None
    if seconds is None:
        seconds = math.inf if in_browser else _SECONDS
    if url is None:
        url = f"sqlite:{quote(await trio.to_thread.run_sync(_new_file))}"
    async with opened_store(url) as store:
        time = "" if seconds == math.inf else f" for {seconds:g} seconds"
        await write(
            f"{counted(_AGENTS, 'agent')} at work{time}; they log to {without_secrets(url)},"
            f" which fails {'for a while' if serve is None else 'now and then'}.\n"
        )
        first_seq = await store.last_seq() + 1
        flaky = FlakyStore(store, period=seconds if serve is None else min(seconds, _CONSOLE_PERIOD))
        watch = _watch_live if is_terminal(sys.stdout) else _watch_in_lines
        async with (
            open_event_log(
                flaky,
                flush_interval=0.1,
                # Large enough for the events of the outage.
                retry_buffer_cap=100_000,
                retry=_RETRY,
                # The numbers show failures, so do not log them.
                on_failure=lambda _report: None,
            ) as log,
            trio.open_nursery() as nursery,
        ):
            if serve is not None:
                await _show(log, serve, nursery)
            nursery.start_soon(watch, log, flaky)
            async with stopping_on_signals("stopping; what waits is stored first", error_console()) as stop:
                with stop.stoppable():
                    await _work(log, seconds)
            await log.flush()
            nursery.cancel_scope.cancel(reason="the work is done")
        await write(_numbers(log) + "\n")
        statistics = log.statistics()
        if statistics.persisted != statistics.ingested:
            raise CommandError(f"only {statistics.persisted:,} of {statistics.ingested:,} events were stored")
        await write(_findings(await _read_back(store, first_seq)) + _further(url))
    return stop.status


def _new_file() -> str:
    others = (f"trio-eventlog-demo-{number}.db" for number in itertools.count(2))
    names = itertools.chain(("trio-eventlog-demo.db",), others)
    return next(name for name in names if not Path(name).exists())


def _numbers(log: EventLog) -> str:
    statistics = log.statistics()
    return (
        f"{statistics.ingested:,} ingested, {statistics.persisted:,} stored, {statistics.pending:,} waiting,"
        f" {counted(statistics.failures, 'append')} failed and retried, {statistics.lost_total:,} lost"
    )


async def _watch_in_lines(log: EventLog, store: FlakyStore) -> None:
    while True:
        await write(f"{'store is down: ' if store.is_down else ''}{_numbers(log)}\n")
        await trio.sleep(_LINE_INTERVAL)


async def _watch_live(log: EventLog, store: FlakyStore) -> None:
    # Its thread would write to the terminal at the same time as the main thread.
    with Live(console=console_for(sys.stdout), auto_refresh=False, transient=True) as live:
        while True:
            live.update(_panel(log, store), refresh=True)
            await trio.sleep(_REFRESH_INTERVAL)


def _panel(log: EventLog, store: FlakyStore) -> Panel:
    statistics = log.statistics()
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold")
    table.add_column()
    for number, meaning in (
        (statistics.ingested, "ingested: numbered and accepted, without waiting for the store"),
        (statistics.persisted, "stored"),
        (statistics.pending, "waiting in memory"),
        (statistics.failures, "appends that failed; each is retried after a growing wait"),
        (statistics.lost_total, "lost"),
    ):
        table.add_row(f"{number:,}", meaning)
    state = Text("the store is down", "red") if store.is_down else Text("the store works", "green")
    return Panel(table, title=state, expand=False)


# --- afterwards -----------------------------------------------------------------------------------


async def _read_back(store: EventStore, first_seq: int) -> list[PersistedEvent]:
    query = EventQuery(after_seq=first_seq - 1, event_types=("run_failed", "run_completed", "run_given_up"))
    return await store.query(query)


def _findings(events: Sequence[PersistedEvent]) -> str:
    types = Counter(event.event.event_type for event in events)
    rescued = sum(
        event.event.event_type == "run_completed" and event.event.payload["attempts"] > 1 for event in events
    )
    return (
        f"\nThe log says: {counted(types['run_completed'], 'run')} completed,"
        f" {rescued:,} of them after a retry; {types['run_given_up']:,} given up.\n"
    )


def _further(url: str) -> str:
    if url.partition(":")[0].lower() in ("memory", "null"):
        return "Nothing is left to look at: that store keeps nothing.\n"
    shown = without_secrets(url)
    store, program = shlex.quote(shown), _program()
    secrets = "" if shown == url else " (replace *** in the URL by its secrets)"
    return (
        f"To look further{secrets}:\n\n"
        f"  {program} query --store {store} --run-id run-1\n"
        f"  {program} query --store {store} --event-type run_failed --limit 10\n"
        f"  {program} stats --store {store}\n"
    )


def _program() -> str:
    """How to run the command line from this shell, which may not have it on its path."""
    if shutil.which(PROGRAM) is not None:
        return PROGRAM
    if Path(sys.argv[0]).name == PROGRAM:
        return shlex.quote(sys.argv[0])
    return f"{shlex.quote(sys.executable)} -m trio_eventlog"
