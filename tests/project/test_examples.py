"""Every example runs, as a user would run it: alone, in an empty directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*.py"))


def run(path: Path, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", path],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


SAYS = {
    "backpressure": ["200 stored, 1800 lost", "2000 stored, 0 lost"],
    "flight_recorder": [
        "_run_handler kept all others waiting for 0.1",
        "service was cancelled",
        "client slow ended",
    ],
    "follow": ["101 events read, up to seq 101", "'account-0': 3150"],
    "failures": ["operator: 1 events wait", "order 12: confirmed", "12 of 12 orders stored, 0 lost"],
    "many_writers": ["writer-1: 500 events, each once and in order", "writer-8: 500 events"],
    "quickstart": ["run_completed", "3 runs completed"],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    told = run(path, tmp_path)
    assert told
    for expected in SAYS.get(path.stem, []):
        assert expected in told


def test_quickstart_goes_on_where_it_ended(tmp_path):
    quickstart = next(path for path in EXAMPLES if path.stem == "quickstart")
    run(quickstart, tmp_path)
    assert "6 runs completed" in run(quickstart, tmp_path)


def test_follow_goes_on_where_it_ended(tmp_path):
    follow = next(path for path in EXAMPLES if path.stem == "follow")
    run(follow, tmp_path)
    assert "101 events read, up to seq 202: {'account-0': 6300" in run(follow, tmp_path)
