"""Killing a program that records checkpoints, again and again."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from tests._helpers.audit import a_signer, verified
from trio_eventlog.audit import Verifier
from trio_eventlog.audit._file import CheckpointFile, read_lines

PROGRAM = """
import sys, trio
from trio_eventlog import AgentEvent, open_event_log
from trio_eventlog.audit import Signer, record_checkpoints
from trio_eventlog.stores import SqliteStore

async def main():
    async with SqliteStore.open(sys.argv[1] + "/log.db") as store, open_event_log(store) as log:
        async with record_checkpoints(
            log, Signer.load(sys.argv[1] + "/key"), sys.argv[1] + "/checkpoints", every_events=2
        ):
            print("ready", flush=True)
            while True:
                for number in range(20):
                    log.ingest(AgentEvent("a", "t", {"number": number}))
                await log.flush()

trio.run(main)
"""


def kill_recorders(directory: Path, seed: int, *, kills: int) -> None:
    """Each run goes on where the file ends; after each, all that is sealed verifies."""
    a_signer().save(directory / "key")
    path, dice = directory / "checkpoints", random.Random(seed)  # noqa: S311 - moments of a test
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    counts = []
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(directory)], stdout=subprocess.PIPE, env=environment
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            size = path.stat().st_size
            while path.stat().st_size < size + 2_000:
                time.sleep(0.001)
            # Until some moment, as a rule within a write.
            time.sleep(dice.uniform(0, 0.01))
            child.kill()
        counts.append(len(read_lines(str(path))))
        found = verified(directory / "log.db", path)
        assert (found.problems, found.checkpoints) == (0, counts[-1])

    assert counts == sorted(set(counts))
    file = CheckpointFile(str(path), Verifier.load(directory / "key.pub"))
    file.close()
    assert file.last is not None
