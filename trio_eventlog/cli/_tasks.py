"""``trio-eventlog tasks``: the tasks of a recorded run, as a tree."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs
from rich.text import Text

from trio_eventlog import EventQuery, EventStore, ModuleEvent, PersistedEvent
from trio_eventlog.cli._terminal import (
    CommandError,
    counted,
    output_console,
    rendered,
    time_text,
    visible,
    visible_json,
    write,
)
from trio_eventlog.reading import iter_events
from trio_eventlog.recorder import MODULE

_TYPES: Final = (
    "recording_started",
    "task_spawned",
    "task_exited",
    "task_step_slow",
    "tasks_suppressed",
    "recording_stopped",
)


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
        """Learn from the next event."""
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
    """Print the tasks of a recorded run.

    Args:
      store: where it is recorded.
      run_id: which run; None for the one that began last.
      as_json: print one JSON object per task.

    Returns:
      The exit status.

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
            msg = f"event {event.seq} is no record of a task recorder: {type(exc).__name__}: {exc}"
            raise CommandError(msg) from exc
    if not found:
        msg = f"no run {run_id!r} is recorded here"
        raise CommandError(msg)
    console = output_console()
    if as_json:
        for task in recording.tasks.values():
            text = json.dumps({"run_id": run_id, **attrs.asdict(task)}, ensure_ascii=False)
            await write((visible_json(text) if console.is_terminal else text) + "\n")
    else:
        await write(rendered(console, *_tree(recording, console.width), soft_wrap=True))
    return 0


def _is_record(event: PersistedEvent) -> bool:
    inner = event.event
    return isinstance(inner, ModuleEvent) and inner.module == MODULE and isinstance(inner.payload, dict)


async def _last_run(store: EventStore) -> str:
    last: PersistedEvent | None = None
    async for event in iter_events(store, EventQuery(event_types=("recording_started",))):
        if _is_record(event):
            last = event
    run_id = None if last is None else last.event.payload.get("run_id")
    if not isinstance(run_id, str):
        msg = "no run is recorded here; trio_eventlog.recorder.record_tasks records one"
        raise CommandError(msg)
    return run_id


def _tree(recording: _Recording, width: int) -> list[Text]:
    title = Text(visible(recording.run_id), style="bold")
    if recording.started_ms is not None:
        title.append(f"  {time_text(recording.started_ms)}", style="dim")
    title.append(f"  {counted(len(recording.tasks), 'task')}", style="dim")
    if recording.suppressed:
        title.append(f"  {counted(recording.suppressed, 'record')} suppressed", style="yellow")
    if not recording.is_stopped:
        title.append("  the end is not recorded", style="yellow")
    children: dict[int | None, list[_Task]] = {}
    for task in recording.tasks.values():
        children.setdefault(task.parent, []).append(task)
    # Half of the width is for names, however deep they are.
    most_guides = width // 2 // len(_BLANK)
    lines = [title]
    # Not by recursion, which would end at some depth. The next one last.
    waiting = [(task, 0, "") for task in reversed(children.pop(None, []))]
    while waiting:
        task, depth, guides = waiting.pop()
        # Those above it are printed before those beside it.
        is_last = not waiting or waiting[-1][1] < depth
        hidden = depth - len(guides) // len(_BLANK)
        line = Text(f"+{hidden} {guides}" if hidden else guides, style="dim")
        line.append(_LAST if is_last else _BRANCH, style="dim")
        lines.append(line.append(_line(task, is_over=recording.is_stopped)))
        guides = (guides + (_BLANK if is_last else _BESIDE))[-most_guides * len(_BLANK) :]
        # Taken out, so that it ends also with tasks that claim to be their own parents.
        waiting += [(child, depth + 1, guides) for child in reversed(children.pop(task.number, []))]
    return lines


_BRANCH, _LAST, _BESIDE, _BLANK = "├── ", "└── ", "│   ", "    "


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
