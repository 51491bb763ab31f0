"""A recorder that is killed in the middle of its work leaves nothing wrong."""

import os
import random
import subprocess
import sys
import time

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


def test_kills(tmp_path):
    """Each run goes on where the file ends; afterwards, all that is sealed verifies."""
    a_signer().save(tmp_path / "key")
    path, dice = tmp_path / "checkpoints", random.Random(1)  # noqa: S311 - moments of a test
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    counts = []
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, env=environment
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
        found = verified(tmp_path / "log.db", path)
        assert (found.problems, found.checkpoints) == (0, counts[-1])

    assert counts == sorted(set(counts))
    file = CheckpointFile(str(path), Verifier.load(tmp_path / "key.pub"))
    file.close()
    assert file.last is not None
