"""Files that an earlier version of a store wrote: they open, read the same, and go on."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec
import trio

from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventQuery,
    EventStore,
    ModuleEvent,
    PersistedEvent,
    from_json,
    to_json,
)
from trio_eventlog.abc import BoundedStore
from trio_eventlog.testing._arguments import check_opener, checked_path
from trio_eventlog.testing._code import code_of
from trio_eventlog.testing._model import Model, difference
from trio_eventlog.testing._profile import versions
from trio_eventlog.testing._strategies import FAMILIES
from trio_eventlog.testing._subject import StoreOpener, fresh_location

FIXTURE_FORMAT: Final = 1

_OP_TIMEOUT: Final = 30.0
_ABOUT: Final = "fixture.json"
_EVENTS: Final = "events.jsonl"
_FILES: Final = "files"


class _About(msgspec.Struct):
    """What ``fixture.json`` says."""

    format: int
    location: str = ""
    versions: dict[str, str] = {}


@attrs.frozen(kw_only=True)
class FixtureReport:
    """What :func:`check_fixtures` found.

    Attributes:
      problems: what does not read the same, or does not go on; empty if all is well.
      events: how many events the files hold.
      versions: of what wrote them, by name.
    """

    problems: tuple[str, ...]
    events: int
    versions: dict[str, str]

    def __str__(self) -> str:
        written = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        about = f"{self.events:,} events, written by {written}"
        return "\n".join([about, *(f"FAILED  {problem}" for problem in self.problems)])


# --- what is in them ------------------------------------------------------------------------------

_NUMBERS: Final = (0, -1, 1.5, 0.1, -0.0, 1e22, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 5e-324)
_SCOPES: Final = ("identity", "mob_id", "run_id", "step_id")
_PLAIN: Final = 300


def fixture_events() -> list[PersistedEvent]:
    """The events of a new fixture: every kind of text and number, gaps, and enough for several pages."""
    events: list[PersistedEvent] = []

    def add(inner: AgentEvent | ModuleEvent, *, event_id: str | None = None, gap: int = 1) -> None:
        seq = (events[-1].seq if events else 0) + gap
        member = inner.agent_id if isinstance(inner, AgentEvent) else None
        events.append(PersistedEvent(event_id or f"id-{seq}", seq, 1_000 + seq, member, inner))

    for text in dict.fromkeys(text for family in FAMILIES for text in family):
        scopes: dict[str, Any] = dict.fromkeys(_SCOPES, text)
        add(AgentEvent(text, text, scopes), event_id=f"of {text}")
    for number in _NUMBERS:
        add(ModuleEvent("numbers", "number", {"value": number, "in a list": [number, [number]]}))
    values: tuple[Any, ...] = (None, True, False, "", [], {}, [None, {"": []}])
    for value in values:
        add(ModuleEvent("values", "value", value), gap=7)
    for number in range(_PLAIN):
        add(ModuleEvent("m", f"t{number % 7}", {"n": number, "run_id": f"run-{number % 50}"}))
    add(ModuleEvent("m", "last"), gap=2**40)
    return events


def _queries(events: Sequence[PersistedEvent]) -> Iterator[EventQuery]:
    yield EventQuery()
    yield EventQuery(after_seq=events[len(events) // 2].seq, limit=10)
    early, late = events[len(events) // 10], events[len(events) // 2]
    yield EventQuery(since_ms=early.timestamp_ms, until_ms=late.timestamp_ms)
    yield EventQuery(event_types=("t3", "last"))
    yield EventQuery(run_id="run-7")
    for event in events[:: max(1, len(events) // 40)]:
        if event.member_id is not None:
            yield EventQuery(member_id=event.member_id)


# --- writing --------------------------------------------------------------------------------------


def write_fixtures(open_store: StoreOpener, directory: str | os.PathLike[str]) -> int:
    """Let a store write its files into a new directory, beside a list of what they hold.

    The directory gets ``files``, in which the location is a directory; ``events.jsonl``, a line for each
    event; and ``fixture.json`` with the versions. Commit it, and check it with :func:`check_fixtures` from
    then on. Only for stores that keep everything in the directory or next to it. Runs Trio itself.

    Args:
      open_store: as for :func:`check_store`.
      directory: a new or an empty directory.

    Returns:
      How many events were written.

    Raises:
      TypeError: an argument has the wrong type.
      FileExistsError: there is something in the directory.
      trio.TooSlowError: an operation of the store took longer than 30 s.
      Exception: what the store raised.
    """
    check_opener(open_store)
    directory = checked_path("directory", directory)
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty")
    files = directory / _FILES
    files.mkdir()
    location = fresh_location(files)
    events = fixture_events()

    async def write() -> None:
        async with open_store(location) as store:
            for piece in _pieces(store, events):
                with trio.fail_after(_OP_TIMEOUT):
                    await store.append_batch(piece)

    try:
        trio.run(write)
    except BaseException:  # noqa: ASYNC103 - Trio has ended
        # So that the next attempt finds the directory empty.
        shutil.rmtree(files, ignore_errors=True)
        raise
    (directory / _EVENTS).write_bytes(b"".join(to_json(event) + b"\n" for event in events))
    about = {"format": FIXTURE_FORMAT, "location": location.name, "versions": versions()}
    (directory / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return len(events)


def _pieces(store: EventStore, events: Sequence[PersistedEvent]) -> Iterator[list[PersistedEvent]]:
    max_batch = store.max_batch if isinstance(store, BoundedStore) else None
    size = min(max_batch or 100, 100)
    for start in range(0, len(events), size):
        yield list(events[start : start + size])


# --- checking -------------------------------------------------------------------------------------


def check_fixtures(open_store: StoreOpener, directory: str | os.PathLike[str]) -> FixtureReport:
    """Check that files that were written before open, read the same and go on.

    They are copied first, so that the directory is not changed. Everything is read, and by several filters;
    every event is appended again with another time, which must change nothing (S1); a new event is appended;
    and all of it is read once more after opening again. Runs Trio itself.

    Args:
      open_store: as for :func:`check_store`.
      directory: what :func:`write_fixtures` has written.

    Returns:
      What is not as it was.

    Raises:
      TypeError: an argument has the wrong type.
      OSError: the directory cannot be read.
      ValueError: it is not what :func:`write_fixtures` writes.
    """
    check_opener(open_store)
    directory = checked_path("directory", directory)
    about, events = _read(directory)
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="trio_eventlog_", ignore_cleanup_errors=True) as root:
        files = Path(root) / _FILES
        shutil.copytree(directory / _FILES, files)
        location = files / about.location
        # Git keeps no empty directories.
        location.mkdir(exist_ok=True)
        trio.run(_check, open_store, location, events, problems)
    return FixtureReport(problems=tuple(problems), events=len(events), versions=about.versions)


def _read(directory: Path) -> tuple[_About, list[PersistedEvent]]:
    path = directory / _ABOUT
    try:
        about = msgspec.json.decode(path.read_bytes(), type=_About)
    except msgspec.MsgspecError as exc:
        raise ValueError(f"{path}: {exc}") from exc
    if about.format != FIXTURE_FORMAT:
        raise ValueError(f"{path}: expected format {FIXTURE_FORMAT}, got {about.format}")
    # It is joined to a path.
    if Path(about.location).name != about.location or about.location in ("", ".."):
        raise ValueError(f"{path}: expected the name of a location, got {about.location!r}")
    events: list[PersistedEvent] = []
    for number, line in enumerate((directory / _EVENTS).read_bytes().splitlines(), start=1):
        try:
            events.append(from_json(line, PersistedEvent))
        except CodecError as exc:
            raise ValueError(f"{directory / _EVENTS}, line {number}: {exc}") from exc
    if not events:
        raise ValueError(f"{directory / _EVENTS}: expected events, got none")
    return about, events


async def _check(
    open_store: StoreOpener, location: Path, events: Sequence[PersistedEvent], problems: list[str]
) -> None:
    model = Model()
    model.adopt(events)
    newest = PersistedEvent("of today", model.highest + 1, 2**40, None, ModuleEvent("m", "today"))
    for step in ("as it was written", "opened again"):
        try:
            async with open_store(location) as store:
                await _compare(store, model, step, problems)
                if step == "as it was written":
                    await _go_on(store, events, newest, model, problems)
                    await _compare(store, model, "after an append", problems)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is what was looked for
            problems.append(f"{step}: {exc!r}")
            return


async def _go_on(
    store: EventStore,
    events: Sequence[PersistedEvent],
    newest: PersistedEvent,
    model: Model,
    problems: list[str],
) -> None:
    # With another time, which must not take the place of the first.
    again = [attrs.evolve(event, timestamp_ms=7) for event in events]
    for piece in _pieces(store, again):
        with trio.fail_after(_OP_TIMEOUT):
            elsewhere = await store.append_batch(piece)
        if elsewhere:
            problems.append(f"appended again, seqs {sorted(elsewhere)[:5]} are held elsewhere")
    with trio.fail_after(_OP_TIMEOUT):
        await store.append_batch([newest])
    model.append([newest])


async def _compare(store: EventStore, model: Model, step: str, problems: list[str]) -> None:
    for query in _queries(model.events()):
        with trio.fail_after(_OP_TIMEOUT):
            found = await store.query(query)
        message = difference(found, model.query(query))
        if message is not None:
            problems.append(f"{step}: {code_of(query)} {message}")
    with trio.fail_after(_OP_TIMEOUT):
        last_seq = await store.last_seq()
    if last_seq != model.highest:
        problems.append(f"{step}: last_seq is {last_seq}, expected {model.highest}")
