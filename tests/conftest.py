"""What all tests share: where files lie, profiles of Hypothesis by HYPOTHESIS_PROFILE, what Ctrl-C does."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

# For `from tests._helpers.fakes import ...`. At the end of the path, so that what is tested is the installed
# package and not the source tree beside this directory.
sys.path.append(str(Path(__file__).parents[1]))

# A shell that starts something in the background lets it ignore Ctrl-C, and programs that the tests start
# would ignore it, too, as they should.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Files of tests lie in memory, if the machine has such a place with room: tests would wait for the disk most
# of the time, and none can see what only a disk does. TMPDIR, if it is set, says otherwise.
_MEMORY = Path("/dev/shm")  # noqa: S108 - directories of one's own are made in it
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**30:
    os.environ["TMPDIR"] = os.fspath(_MEMORY)  # for the programs that the tests start
    tempfile.tempdir = None

# No deadlines: a slow machine is no defect. What must be fast is measured in benchmarks/.
# Fewer examples than the default: other ones come with each run, and the nightly run has thousands.
settings.register_profile("dev", deadline=None, max_examples=50)
# CI must not fail by chance on an unrelated change: the same examples every time.
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, print_blob=True)
settings.register_profile(
    "nightly",
    deadline=None,
    max_examples=2_000,
    stateful_step_count=50,
    print_blob=True,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
