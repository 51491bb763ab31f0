"""Programs whose own state is what is tested: coverage would import modules, and write files, in them."""

import os


def uncovered() -> dict[str, str]:
    """The environment, without what makes a Python that starts there measure its coverage."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
