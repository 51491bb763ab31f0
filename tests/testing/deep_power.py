"""Tens of thousands of losses of power, with and without a spill file: ``nox -s power``.

What is printed are the figures in the documentation.
"""

import shutil
import tempfile
from pathlib import Path

import attrs
import pytest
import trio

from tests._helpers.power import Tally, tally_spill, tally_sqlite
from trio_eventlog.testing import open_lossy_directory
from trio_eventlog.testing._power._fuse import CannotMount, mounted

STATES = 100
"""Of each run of a program."""


@pytest.fixture
def directory():
    """In memory if that is possible: what is tested loses nothing by it, and takes a third of the time."""
    memory = Path("/dev/shm")  # noqa: S108 - an unforeseeable name below it
    path = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield path
    shutil.rmtree(path)


def added(tallies):
    return Tally(
        sum(tally.states for tally in tallies),
        sum(tally.lacking for tally in tallies),
        max(tally.most for tally in tallies),
        [wrong for tally in tallies for wrong in tally.wrong],
    )


@attrs.frozen
class Part:
    """Some of the runs, so that several processes can share them."""

    synchronous: str
    seeds: range

    def __str__(self):
        return f"{self.synchronous}-{self.seeds.start}"


def parts(synchronous, runs):
    return [Part(synchronous, range(start, min(start + 25, runs))) for start in range(0, runs, 25)]


@pytest.mark.parametrize("part", [*parts("full", 110), *parts("normal", 110), *parts("off", 110)], ids=str)
def test_sqlite(part, directory):
    async def run():
        return [await tally_sqlite(directory, part.synchronous, seed, STATES) for seed in part.seeds]

    tally = added(trio.run(run))

    print(f"SQLite at {part.synchronous}: {tally}")  # noqa: T201 - the figures
    # Whatever it declares: whole batches in order, a last_seq that fits, and all of it can be appended again.
    assert not tally.wrong
    if part.synchronous == "full":
        assert tally.lacking == 0
    assert tally.states > 0.9 * STATES * len(part.seeds)


@pytest.mark.parametrize("part", [*parts("full", 110), *parts("normal", 110)], ids=str)
def test_a_spill_file_in_front_of_sqlite(part, directory):
    try:
        with mounted():
            pass
    except CannotMount as exc:
        pytest.skip(str(exc))

    async def run():
        tallies = []
        for seed in part.seeds:
            async with open_lossy_directory() as lossy:
                tallies.append(await tally_spill(lossy, directory, part.synchronous, seed, STATES))
        return tallies

    tally = added(trio.run(run))

    print(f"A spill file in front of SQLite at {part.synchronous}: {tally}")  # noqa: T201 - the figures
    assert not tally.wrong
    assert tally.lacking == 0
    assert tally.states > 0.9 * STATES * len(part.seeds)
