"""What all tests share: the profiles of Hypothesis, chosen by HYPOTHESIS_PROFILE, and what Ctrl-C does."""

import os
import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

# For `from tests._helpers.fakes import ...`. At the end of the path, so that what is tested is the installed
# package and not the source tree beside this directory.
sys.path.append(str(Path(__file__).parents[1]))

# A shell that starts something in the background lets it ignore Ctrl-C, and programs that the tests start
# would ignore it, too, as they should.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: a slow machine is no defect. What must be fast is measured in benchmarks/.
settings.register_profile("dev", deadline=None)
# CI must not fail by chance on somebody's unrelated change: the same examples every time.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
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
