"""``trio-eventlog tasks``: the tasks of a recorded run as a tree."""

from __future__ import annotations

from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter
from rich.text import Text

from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.abc import EventStore
from trio_eventlog.cli._options import AsJson, StoreUrl, opened_store
from trio_eventlog.cli._terminal import (
    CommandError,
    counted,
    json_line,
    layout_width,
    rendered,
    time_text,
    visible,
    write,
)
from trio_eventlog.reading import iter_events
from trio_eventlog.recorder import MODULE

EXAMPLES: Final = """
trio-eventlog tasks --store sqlite:events.db
trio-eventlog tasks --store sqlite:events.db --run-id trio-2f6a --json | jq .name
"""

_TYPES: Final = (
    "recording_started",
    "task_spawned",
    "task_exited",
    "task_step_slow",
    "tasks_suppressed",
    "recording_stopped",
)


async def tasks(
    *,
    store: StoreUrl,
    run_id: Annotated[str | None, Parameter(metavar="TEXT", show_default=False)] = None,
    as_json: AsJson = False,
) -> int:
    """Print the tasks of a recorded run as a tree, with how long each of them lived.

    Runs are recorded by `trio_eventlog.recorder.record_tasks`.

    Args:
      store: The log.
      run_id: The run; by default the one that started last.
      as_json: Print one JSON object per task.
    """
    async with opened_store(store, read_only=True) as opened:
        return await print_tasks(opened, run_id, as_json=as_json)


@attrs.define
class _Task:
    number: int
    name: str
    parent: int | None
    at_start: bool
    seconds: float | None = None
    """How long it lived; None if its end was not recorded."""

    cancelled: bool = False
    slow_steps: list[float] = attrs.Factory(list)


@attrs.define
class _Recording:
    """What is known of one recorded run."""

    run_id: str
    started_ms: int | None = None
    tasks: dict[int, _Task] = attrs.Factory(dict)
    suppressed: int = 0
    is_stopped: bool = False

    def add(self, event: PersistedEvent) -> None:
        """Take in the next event."""
        payload: dict[str, Any] = event.event.payload
        match event.event.event_type:
            case "recording_started":
                self.started_ms = event.timestamp_ms
            case "task_spawned":
                number = int(payload["task"])
                parent = payload["parent"]
                # A parent is recorded before its children, if at all.
                known = parent if parent in self.tasks else None
                new = _Task(number, str(payload["name"]), known, bool(payload.get("at_start")))
                self.tasks.setdefault(number, new)
            case "task_exited":
                if (task := self.tasks.get(payload["task"])) is not None:
                    task.seconds = float(payload["seconds"])
                    task.cancelled = bool(payload["cancelled"])
            case "task_step_slow":
                if (task := self.tasks.get(payload["task"])) is not None:
                    task.slow_steps.append(float(payload["seconds"]))
            case "tasks_suppressed":
                self.suppressed += int(payload["count"])
            case _:
                self.is_stopped = True


async def print_tasks(store: EventStore, run_id: str | None, *, as_json: bool) -> int:
    """Print the tasks of a recorded run; return the exit status.

    Args:
      store: the log that the run is recorded in.
      run_id: which run; None for the one that started last.
      as_json: print one JSON object per task.

    Raises:
      StoreError: the store failed.
      ReaderGone, CommandError: standard output cannot be written to, or there is no such run.
    """
    if run_id is None:
        run_id = await _last_run(store)
    recording = _Recording(run_id)
    found = 0
    async for event in iter_events(store, EventQuery(run_id=run_id, event_types=_TYPES)):
        if not _is_record(event):
            continue
        found += 1
        try:
            recording.add(event)
        except (KeyError, TypeError, ValueError) as exc:
            raise CommandError(
                f"event {event.seq} was not written by a task recorder: {type(exc).__name__}: {exc}"
            ) from exc
    if not found:
        raise CommandError(f"no run {run_id!r} is recorded in this log")
    if as_json:
        for task in recording.tasks.values():
            await write(json_line({"run_id": run_id, **attrs.asdict(task)}))
    else:
        await write(rendered(*_tree(recording, layout_width()), soft_wrap=True))
    return 0


def _is_record(event: PersistedEvent) -> bool:
    inner = event.event
    return isinstance(inner, ModuleEvent) and inner.module == MODULE and isinstance(inner.payload, dict)


async def _last_run(store: EventStore) -> str:
    run_id: str | None = None
    async for event in iter_events(store, EventQuery(event_types=("recording_started",))):
        # What was erased is of no run any more.
        if _is_record(event) and isinstance(found := event.event.payload.get("run_id"), str):
            run_id = found
    if run_id is None:
        raise CommandError("no run is recorded in this log; trio_eventlog.recorder.record_tasks records one")
    return run_id


def _tree(recording: _Recording, width: int) -> list[Text]:
    title = Text(visible(recording.run_id), style="bold")
    if recording.started_ms is not None:
        title.append(f"  {time_text(recording.started_ms)}", style="dim")
    title.append(f"  {counted(len(recording.tasks), 'task')}", style="dim")
    if recording.suppressed:
        title.append(f"  {counted(recording.suppressed, 'record')} suppressed", style="yellow")
    if not recording.is_stopped:
        title.append("  its end was not recorded", style="yellow")
    children: dict[int | None, list[_Task]] = {}
    for task in recording.tasks.values():
        children.setdefault(task.parent, []).append(task)
    # Leave half of the width for the names, however deeply tasks are nested.
    most_guides = width // 2 // len(_BLANK)
    lines = [title]
    # Without recursion, whose depth is limited. A stack: the next task is the last one.
    waiting = [(task, 0, "") for task in reversed(children.pop(None, []))]
    while waiting:
        task, depth, guides = waiting.pop()
        # The siblings of a task are on the stack below its descendants.
        is_last = not waiting or waiting[-1][1] < depth
        hidden = depth - len(guides) // len(_BLANK)
        line = Text(f"+{hidden} {guides}" if hidden else guides, style="dim")
        line.append(_LAST if is_last else _BRANCH, style="dim")
        lines.append(line.append(_line(task, is_over=recording.is_stopped)))
        guides = (guides + (_BLANK if is_last else _SIBLING))[-most_guides * len(_BLANK) :]
        # pop(), so that the loop ends even if tasks claim to be their own parents.
        waiting += [(child, depth + 1, guides) for child in reversed(children.pop(task.number, []))]
    return lines


_BRANCH, _LAST, _SIBLING, _BLANK = "├── ", "└── ", "│   ", "    "


def _line(task: _Task, *, is_over: bool) -> Text:
    line = Text(visible(task.name))
    if task.seconds is not None:
        line.append(f"  {_duration(task.seconds)}", style="cyan")
        if task.cancelled:
            line.append("  cancelled", style="yellow")
    else:
        line.append("  still running at the end" if is_over else "  running", style="green")
    if task.slow_steps:
        longest = _duration(max(task.slow_steps))
        line.append(f"  {counted(len(task.slow_steps), 'slow step')}, longest {longest}", style="red")
    return line


def _duration(seconds: float) -> str:
    return f"{seconds:,.3f} s" if seconds >= 1 else f"{seconds * 1000:,.1f} ms"
