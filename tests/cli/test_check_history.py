"""`check-history`, as somebody uses it who has recorded a run of a cluster."""

import os
import subprocess
import sys

import pytest
import trio

from trio_eventlog import EventQuery, ModuleEvent, PersistedEvent
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import History, recording


def event(seq):
    return PersistedEvent(f"id-{seq}\x1b[2J", seq, seq, None, ModuleEvent("m", "t"))


@pytest.fixture
def histories(tmp_path, monkeypatch):
    """In the current directory: one that is sound, and one of a store that lost the first event."""
    monkeypatch.chdir(tmp_path)

    async def main():
        for name in ("sound", "lost"):
            history, store = History(), MemoryStore()
            wrapped = recording(store, history, process="\x1b[1mw")
            await wrapped.append_batch([event(1)])
            if name == "lost":
                await store.prune(keep=0)
            await wrapped.append_batch([event(2)])
            await wrapped.query(EventQuery())
            history.write(f"{name}.jsonl")

    trio.run(main)


@pytest.mark.usefixtures("histories")
def test_a_history_without_an_anomaly(cli):
    result = cli("check-history", "sound.jsonl")

    assert (result.status, result.out) == (0, "3 operations on 2 events: no anomaly\n")


@pytest.mark.usefixtures("histories")
def test_an_anomaly(cli):
    """Names are printed so that a terminal only shows them."""
    result = cli("check-history", "lost.jsonl")

    assert result.status == 1
    assert result.out.splitlines()[0] == "3 operations on 2 events: lost write (1)"
    assert "\nlost write: seq 1, acknowledged at " in result.out
    assert "\x1b" not in result.out
    assert "\\x1b[1mw: append_batch of seq 1" in result.out


@pytest.mark.usefixtures("histories")
def test_several_files_and_what_was_there_before(cli):
    assert cli("check-history", "lost.jsonl", "--after-seq", "1").status == 0
    both = cli("check-history", "sound.jsonl", "lost.jsonl")
    assert both.out.startswith("6 operations on 2 events: ")
    assert both.status == 1


@pytest.mark.usefixtures("histories")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "FILE"),
        (["nowhere.jsonl"], "nowhere.jsonl: No such file or directory"),
        (["other.jsonl"], "other.jsonl, line 1: no history; its first line would have a format of"),
        (["sound.jsonl", "remote.jsonl"], "--max-skew: these histories come from 2 machines"),
        (["sound.jsonl", "--after-seq", "-1"], "--after-seq"),
        (["sound.jsonl", "--max-skew", "-1"], "--max-skew"),
    ],
)
def test_what_cannot_be_judged(cli, tmp_path, arguments, message):
    (tmp_path / "other.jsonl").write_text('{"seq":1}\n')
    header, _, rest = (tmp_path / "sound.jsonl").read_text().partition("\n")
    clock = header.partition('"clock":"')[2].partition('"')[0]
    (tmp_path / "remote.jsonl").write_text(f"{header.replace(clock, 'remote')}\n{rest}")

    result = cli("check-history", *arguments)

    assert result.status == 2
    assert message in result.err.replace("\n", " ")
    assert "Traceback" not in result.err


@pytest.mark.usefixtures("histories")
def test_without_hypothesis_it_says_what_to_install():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from trio_eventlog.cli import main\nmain(['check-history', 'sound.jsonl'])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )

    assert done.returncode == 1
    assert "trio-eventlog: check-history needs Hypothesis: pip install 'hypothesis>=" in done.stderr
