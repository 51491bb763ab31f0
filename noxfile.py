"""What is run on a change: ``nox`` runs the default sessions, ``nox -l`` lists them all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests", "servers", "lint", "typing", "docs", "examples"]
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
# Two processes, whatever the machine has: a store that must answer in time is tested beside what runs.
IN_PARALLEL = ("--numprocesses", "2", "--dist", "worksteal")
TESTS_ON_SERVERS = (
    *("tests/stores/postgres", "tests/stores/jetstream", "tests/stores/servers"),
    *("tests/cli/servers", "tests/project/servers"),
)
"""What the other sessions leave out: `norecursedirs` in pyproject.toml."""
PYTHONS = nox.project.python_versions(PYPROJECT)


def install_group(session: nox.Session, group: str) -> None:
    """Install a dependency group of pyproject.toml."""
    session.install(*nox.project.dependency_groups(PYPROJECT, group))


def install_package(session: nox.Session) -> None:
    """Install the package as users get it: as a wheel, built now."""
    session.install(".[testing]")


def run_tests(session: nox.Session) -> None:
    """Test the wheel."""
    install_package(session)
    install_group(session, "tests")
    # The entry point rather than `python -m pytest`, which would put the source tree before the wheel.
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests against the built wheel, on the Python that runs nox. Takes pytest's arguments."""
    run_tests(session)


@nox.session
def servers(session: nox.Session) -> None:
    """Test the stores on servers against real ones, which are started for it. Takes pytest's arguments."""
    session.install(".[testing,nats,postgres]")
    install_group(session, "tests")
    install_group(session, "servers")
    session.run("pytest", *IN_PARALLEL, *TESTS_ON_SERVERS, *session.posargs)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """The same on every supported Python that is installed: `nox -s tests_all-3.12`."""
    run_tests(session)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and report which branches none of them took."""
    session.install("-e", ".[testing]")
    install_group(session, "tests")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def harness(session: nox.Session) -> None:
    """Run the harness for stores on every broken store, with twenty seeds each."""
    install_package(session)
    install_group(session, "tests")
    session.run("pytest", *IN_PARALLEL, "tests/testing/deep_harness.py", *session.posargs)


@nox.session
def crashes(session: nox.Session) -> None:
    """Kill processes in the middle of their work, six hundred times."""
    install_package(session)
    install_group(session, "tests")
    session.run("pytest", "tests/crashes/deep_crashes.py", *session.posargs)


@nox.session
def campaign(session: nox.Session) -> None:
    """Play 100,000 steps of the fault campaign, and more."""
    install_package(session)
    install_group(session, "tests")
    session.run("pytest", "--show-capture=no", "tests/crashes/deep_campaign.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare the log with others, and with what is possible; `-- --quick` takes less than a minute."""
    install_package(session)
    install_group(session, "bench")
    session.run("python", "benchmarks/compare.py", *session.posargs)


@nox.session
def bench_servers(session: nox.Session) -> None:
    """Measure many logs in one file, database or stream; `-- --quick` takes less than two."""
    install_package(session)
    install_group(session, "bench")
    session.run("python", "benchmarks/servers.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff for style, flake8-async for the rules of structured concurrency."""
    install_group(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("flake8", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Types inside, at the border, and as users see them."""
    # With the drivers: without them, what they return is anything.
    session.install(".[testing,nats,postgres]")
    install_group(session, "typing")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "trio_eventlog")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, every warning an error, and run its examples."""
    install_package(session)
    install_group(session, "docs")
    for builder in ("html", "doctest"):
        session.run(
            *("sphinx-build", "-W", "-n", "--keep-going", "-q"),
            *("-b", builder, "docs", f"docs/_build/{builder}"),
        )


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example as a user would, in an empty directory."""
    install_package(session)
    paths = sorted(ROOT.glob("examples/*.py"))
    for path in paths:
        with tempfile.TemporaryDirectory() as directory, session.chdir(directory):
            session.run("python", os.fspath(path))
    session.log(f"{len(paths)} examples ran")


@nox.session
def newsfragments(session: nox.Session) -> None:
    """Show what the changelog would say, and check that this branch adds to it.

    What to compare with comes as an argument: `nox -s newsfragments -- --compare-with origin/main`.
    """
    install_group(session, "changelog")
    session.run("towncrier", "build", "--draft")
    if session.posargs:
        session.run("towncrier", "check", *session.posargs)
