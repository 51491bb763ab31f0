"""Real processes, killed at random moments, and what must hold after each kill.

Shared by the ordinary tests and by the deep ones (``nox -s crashes``). Every moment comes from a seed; when
exactly a signal arrives, nobody can repeat.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import apsw

from trio_eventlog.retention import segments_of, verify_archive
from trio_eventlog.retention._archive import read_segment

CHILD = Path(__file__).with_name("crash_child.py")

# The moments that matter are in the first milliseconds: opening, the first batches, the first failures.
_LATEST = 0.25


class Children:
    """Processes that do what a scenario says until they are killed."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.random = Random(seed)  # noqa: S311 - nothing to keep secret
        self.runs = 0
        self.kills = 0
        self._server = subprocess.Popen(
            [sys.executable, os.fspath(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, job: dict[str, object]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(self, scenario: str, *, spill: bool = False) -> Child:
        self.runs += 1
        out = self.directory / f"out-{self.runs}"
        job: dict[str, object] = {
            "scenario": scenario,
            "run": self.runs,
            "seed": self.random.randrange(2**32),
            "db": os.fspath(self.directory / "events.db"),
            "out": os.fspath(out),
            "archive": os.fspath(self.directory / "archive"),
        }
        if spill:
            job["spill"] = os.fspath(self.directory / "events.spill")
        return Child(self, self._ask(job), self.runs, out)

    def let_live(self) -> None:
        """For a moment that nobody chose."""
        time.sleep(self.random.random() ** 2 * _LATEST)

    def reap(self, pid: int) -> int:
        return self._ask({"reap": pid})

    def close(self) -> None:
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()


class Child:
    """One run of a scenario."""

    def __init__(self, children: Children, pid: int, run: int, out: Path) -> None:
        self._children = children
        self._pid = pid
        self.run = run
        self._out = out

    def kill(self) -> list[list[str]]:
        """Kill it. Returns what it said, by words."""
        os.kill(self._pid, signal.SIGKILL)
        self._children.kills += 1
        # It may have ended by itself just before.
        assert self._children.reap(self._pid) in (-signal.SIGKILL, 0), self._out.read_text()
        return self._said()

    def end(self) -> list[list[str]]:
        """Wait until it ends by itself."""
        assert self._children.reap(self._pid) == 0, self._out.read_text()
        return self._said()

    def _said(self) -> list[list[str]]:
        # The last line may have been cut.
        *lines, _ = self._out.read_text().split("\n")
        return [line.split(" ") for line in lines]


@contextmanager
def children(directory: Path, seed: int) -> Iterator[Children]:
    """Whatever happens, none of them is left."""
    opened = Children(directory, seed)
    try:
        yield opened
    finally:
        opened.close()


def stored(directory: Path) -> list[tuple[int, str]]:
    """What is in the log, seq and id, as anybody with SQLite reads it."""
    if not (directory / "events.db").exists():
        return []
    db = apsw.Connection(os.fspath(directory / "events.db"))
    try:
        db.set_busy_timeout(5000)
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE name = 'events_1'")]
        return list(db.execute("SELECT seq, id FROM events_1 ORDER BY seq")) if tables else []
    finally:
        db.close()


def acknowledged(said: list[list[str]]) -> list[tuple[int, str]]:
    return [(int(words[1]), words[2]) for words in said if words[0] == "ack"]


def place(event_id: str) -> tuple[int, int]:
    """Run and number of an event, which ascend as it was ingested."""
    run, number = event_id.split("-")
    return int(run), int(number)


def assert_sound(events: list[tuple[int, str]], acks: list[tuple[int, str]]) -> None:
    """Nothing twice, everything in order, and each acknowledged event where it was said to be."""
    seqs = [seq for seq, _ in events]
    assert sorted(set(seqs)) == seqs
    assert [
        event_id for event_id, times in Counter(event_id for _, event_id in events).items() if times > 1
    ] == []
    assert set(acks) <= set(events)


def kill_writers(directory: Path, seed: int, kills: int) -> int:
    """A healthy store: each run stores a prefix of what it ingested, and the next goes on behind it.

    Returns:
      How many events were acknowledged.
    """
    acks: list[tuple[int, str]] = []
    with children(directory, seed) as processes:
        while processes.kills < kills:
            before = stored(directory)
            child = processes.start("durable")
            processes.let_live()
            said = child.kill()
            assert [words for words in said if words[0] not in ("first", "ack")] == []
            acks += acknowledged(said)
            after = stored(directory)
            assert_sound(after, acks)
            assert after[: len(before)] == before
            last = before[-1][0] if before else 0
            assert [words for words in said if words[0] == "first"] in ([], [["first", str(last + 1)]])
            new = after[len(before) :]
            assert new == [(last + n, f"{child.run}-{n}") for n in range(1, len(new) + 1)]
    return len(acks)


def kill_spillers(directory: Path, seed: int, kills: int) -> tuple[int, int]:
    """A store that is often away: what was stored or spilled comes through, in order, once.

    Returns:
      How many events were safe, and how many were recovered by a next run.
    """
    safe_of: dict[int, int] = {}
    recovered = 0
    with children(directory, seed) as processes:
        # On a busy machine more kills, until one left events behind.
        while processes.kills < kills or (not recovered and processes.kills < 5 * kills):
            child = processes.start("spilling", spill=True)
            processes.let_live()
            said = child.kill()
            assert [words for words in said if words[0] not in ("recovered", "safe")] == []
            safe_of[child.run] = max([0, *(int(words[1]) for words in said if words[0] == "safe")])
            recovered += sum(int(words[1]) for words in said if words[0] == "recovered")
            assert_sound(stored(directory), [])
        assert processes.start("drain", spill=True).end() == [["drained", "0"]]
    ids = [event_id for _, event_id in stored(directory)]
    assert sorted(ids, key=place) == ids
    assert_sound(stored(directory), [])
    found = set(ids)
    missing = [
        f"{run}-{n}" for run, safe in safe_of.items() for n in range(1, safe + 1) if f"{run}-{n}" not in found
    ]
    assert missing == []
    assert not (directory / "events.spill").exists()
    return sum(safe_of.values()), recovered


def archived(directory: Path) -> set[tuple[int, str]]:
    """What is in the archive: seq and id, of its whole segments."""
    found: set[tuple[int, str]] = set()
    if (directory / "archive").exists():
        check = verify_archive(directory / "archive")
        assert check.problems == ()
        for segment in segments_of(directory / "archive"):
            path = directory / "archive" / segment.file
            if not path.exists():
                path = path.with_name(path.name + ".part")
            found |= {(event.seq, event.id) for page in read_segment(path, segment) for event in page}
    return found


def kill_archivers(directory: Path, seed: int, kills: int) -> tuple[int, int]:
    """Each acknowledged event is in the store or in the archive, and the archive is whole.

    Returns:
      How many events were acknowledged, and how many are in the archive.
    """
    acks: set[tuple[int, str]] = set()
    moved: set[tuple[int, str]] = set()
    with children(directory, seed) as processes:
        # On a busy machine more kills, until one has moved something.
        while processes.kills < kills or (not moved and processes.kills < 5 * kills):
            child = processes.start("archiving")
            processes.let_live()
            said = child.kill()
            assert [words for words in said if words[0] != "ack"] == []
            acks |= set(acknowledged(said))
            moved = archived(directory)
            assert acks - moved - set(stored(directory)) == set()
    return len(acks), len(moved)


def kill_racers(directory: Path, seed: int, kills: int) -> tuple[int, int]:
    """Two writers for one log: each acknowledged event is there, and no seq was given to two.

    Returns:
      How many events were acknowledged, and how often a writer found the log busy.
    """
    acks: list[tuple[int, str]] = []
    busy = 0
    with children(directory, seed) as processes:
        racers = [processes.start("racing") for _ in range(2)]
        while racers:
            processes.let_live()
            child = racers.pop(processes.random.randrange(len(racers)))
            said = child.kill()
            assert [words for words in said if words[0] not in ("first", "ack", "busy")] == []
            acks += acknowledged(said)
            busy += sum(words[0] == "busy" for words in said)
            assert_sound(stored(directory), acks)
            if processes.kills + len(racers) < kills:
                racers.append(processes.start("racing"))
    by_run: dict[int, list[int]] = {}
    for _, event_id in stored(directory):
        run, number = place(event_id)
        by_run.setdefault(run, []).append(number)
    # None is lost in between: a store that is well gets all.
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_run.values())
    return len(acks), busy
