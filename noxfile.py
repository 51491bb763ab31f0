"""What is run on a change: ``nox`` runs the default sessions, ``nox -l`` lists them all."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nox
from packaging.requirements import Requirement
from packaging.version import Version

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests", "pure", "conformance", "servers", "lint", "typing", "docs", "examples"]
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
LONG = ("-o", "faulthandler_timeout=3600")
"""For sessions whose tests take minutes each: no stacks are dumped of one that is just at work."""
# Tests start Python hundreds of times; what it imports is compiled once, whatever the environment asks for.
COMPILED_ONCE = {"PYTHONDONTWRITEBYTECODE": ""}
PYTHONS = nox.project.python_versions(PYPROJECT)


def install_group(session: nox.Session, group: str) -> None:
    """Install a dependency group of pyproject.toml."""
    session.install(*nox.project.dependency_groups(PYPROJECT, group))


def install_package(session: nox.Session, extras: str = "testing") -> list[str]:
    """Install the package as users get it: as a wheel, built now or named by ``--installpkg WHEEL``.

    Returns:
      The arguments of the session without those two.
    """
    arguments = list(session.posargs)
    package = os.fspath(ROOT)
    if "--installpkg" in arguments:
        place = arguments.index("--installpkg")
        _, package = arguments[place : place + 2]
        del arguments[place : place + 2]
    session.install(f"{package}[{extras}]")
    return arguments


def testing_extras() -> str:
    """With the file system that forgets, where it can be built: it needs libfuse's headers."""
    can_build = shutil.which("pkg-config") and not subprocess.call(["pkg-config", "--exists", "fuse3"])  # noqa: S607
    return "testing-fuse" if can_build else "testing"


def run_tests(session: nox.Session) -> None:
    """Test the wheel."""
    arguments = install_package(session, testing_extras())
    install_group(session, "tests")
    # The entry point rather than `python -m pytest`, which would put the source tree before the wheel.
    session.run("pytest", *IN_PARALLEL, *arguments, env=COMPILED_ONCE)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests against the built wheel, on the Python that runs nox. Takes pytest's arguments."""
    run_tests(session)


@nox.session
def servers(session: nox.Session) -> None:
    """Test the stores on servers against real ones, which are started for it. Takes pytest's arguments."""
    arguments = install_package(session, "testing,nats,postgres")
    install_group(session, "tests")
    install_group(session, "servers")
    session.run("pytest", *IN_PARALLEL, *TESTS_ON_SERVERS, *arguments, env=COMPILED_ONCE)


PURE = {"TRIO_EVENTLOG_PURE": "1"}


@nox.session
def pure(session: nox.Session) -> None:
    """Test the library without its core in C: as it is where no compiler is."""
    session.install(".[testing]", env=PURE)
    install_group(session, "tests")
    parts = ("model", "engine", "log", "reading", "stores", "logging", "crashes", "speedups")
    folders = [f"tests/{part}" for part in parts]
    session.run("pytest", *IN_PARALLEL, *folders, *session.posargs, env=COMPILED_ONCE)


@nox.session
def core(session: nox.Session) -> None:
    """Compare the core in C with its twins on a million payloads, and run it under AddressSanitizer."""
    session.install("-e", ".[testing]")
    install_group(session, "tests")
    nightly = {"HYPOTHESIS_PROFILE": "nightly"}
    # By their names: of a folder and a file in it, pytest takes the folder alone.
    tests = ("tests/speedups/test_twins.py", "tests/speedups/deep_twins.py")
    session.run("pytest", *LONG, *tests, *session.posargs, env=nightly)
    sanitize = "-fsanitize=address,undefined -fno-omit-frame-pointer -g -O1"
    session.install("-e", ".[testing]", env={"CFLAGS": sanitize, "LDFLAGS": sanitize})
    libraries = [
        str(session.run("cc", f"-print-file-name={name}.so", external=True, silent=True)).strip()
        for name in ("libasan", "libubsan")
    ]
    checked = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter itself leaks at its end
        "PYTHONMALLOC": "malloc",
        "TRIO_EVENTLOG_PAYLOADS": "100_000",
    }
    # AddressSanitizer holds back what was freed, so memory grows under it.
    chosen = (*tests, "-k", "not memory_does_not_grow")
    session.run("python", "-X", "dev", "-m", "pytest", *LONG, *chosen, *session.posargs, env=checked)
    # What was compiled for this is in the source tree.
    session.install("-e", ".[testing]")


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """The same on every supported Python that is installed: `nox -s tests_all-3.12`."""
    run_tests(session)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest versions that pyproject.toml allows of what the package needs."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    group = nox.project.dependency_groups(PYPROJECT, "tests")
    needed = [*PYPROJECT["project"]["dependencies"], *extras["testing"], *extras["cli"]]
    # The higher bound of the two: the package's own tests need a newer pytest than the package does.
    bounds: dict[str, Version] = {}
    for requirement in map(Requirement, [*needed, *group]):
        for bound in requirement.specifier:
            if bound.operator == ">=":
                version = Version(bound.version)
                bounds[requirement.name] = max(version, bounds.get(requirement.name, version))
    # What only tests need may be new, as long as it lets the others be old.
    names = {requirement.name for requirement in map(Requirement, needed)}
    constraints = [f"{name}=={version}" for name, version in bounds.items() if name in names]
    file = Path(session.create_tmp()) / "oldest.txt"
    file.write_text("\n".join(constraints), encoding="utf-8")
    session.install(".[testing]", "--constraint", os.fspath(file))
    session.install(*group, "--constraint", os.fspath(file))
    session.run("pytest", *IN_PARALLEL, *session.posargs, env=COMPILED_ONCE)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which lines and branches the tests run, those with servers included; fail below the floor."""
    session.install("-e", f".[{testing_extras()},nats,postgres]")
    install_group(session, "tests")
    install_group(session, "servers")
    session.run("coverage", "erase")
    for tests in ((), ("tests/testing/conformance",), TESTS_ON_SERVERS):
        session.run("coverage", "run", "-m", "pytest", *IN_PARALLEL, *tests, env=COMPILED_ONCE)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def conformance(session: nox.Session) -> None:
    """Run the harness on the built-in stores and on every broken store of the tests."""
    arguments = install_package(session)
    install_group(session, "tests")
    session.run("pytest", *IN_PARALLEL, *LONG, "tests/testing/conformance", *arguments, env=COMPILED_ONCE)


@nox.session
def harness(session: nox.Session) -> None:
    """Run the harness for stores on every broken store, with twenty seeds each."""
    install_package(session)
    install_group(session, "tests")
    session.run("pytest", *IN_PARALLEL, *LONG, "tests/testing/deep_harness.py", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Judge the harness: break each durable store in every way that it knows, and see all of them caught."""
    arguments = install_package(session, "testing,nats,postgres")
    install_group(session, "tests")
    install_group(session, "servers")
    session.run("pytest", *LONG, "tests/testing/deep_mutants.py", *arguments)


@nox.session
def golden(session: nox.Session) -> None:
    """Make the files of today's layout that later versions must read. Only where a layout has changed."""
    session.install("-e", ".[testing]")
    session.run("python", "-m", "tests._helpers.golden")


@nox.session
def crashes(session: nox.Session) -> None:
    """Kill processes in the middle of their work, seven hundred times."""
    install_package(session)
    install_group(session, "tests")
    session.run("pytest", *LONG, "tests/crashes/deep_crashes.py", *session.posargs)


@nox.session
def trail(session: nox.Session) -> None:
    """Tamper with sealed logs ten thousand times; kill recorders and archivers a hundred times each."""
    install_package(session)
    install_group(session, "tests")
    folders = ("tests/audit", "tests/retention", "tests/test_masking.py", "tests/stores/test_erase.py")
    deep = ("tests/audit/deep_tampering.py", "tests/retention/deep_kills.py")
    nightly = {"HYPOTHESIS_PROFILE": "nightly"}
    session.run("pytest", *IN_PARALLEL, *LONG, *folders, *deep, *session.posargs, env=nightly)


@nox.session
def campaign(session: nox.Session) -> None:
    """Play 100,000 steps of the fault campaign, and more."""
    install_package(session)
    install_group(session, "tests")
    session.run("pytest", "--show-capture=no", *LONG, "tests/crashes/deep_campaign.py", *session.posargs)


@nox.session
def explore(session: nox.Session) -> None:
    """Run the log in 5,000 orders of its tasks, for more than a million virtual seconds."""
    install_package(session)
    install_group(session, "tests")
    session.run("pytest", *IN_PARALLEL, *LONG, "tests/testing/deep_explore.py", *session.posargs)


@nox.session
def power(session: nox.Session) -> None:
    """Lose power tens of thousands of times: SQLite, a spill file in front of it, and servers."""
    arguments = install_package(session, "testing-fuse,nats,postgres")
    install_group(session, "tests")
    install_group(session, "servers")
    tests = ("tests/testing/deep_power.py", "tests/stores/servers/deep_power.py")
    session.run("pytest", *IN_PARALLEL, *LONG, "-rP", *tests, *arguments)


@nox.session
def soak(session: nox.Session) -> None:
    """Restart and kill the servers of a NATS cluster again and again under a log that writes."""
    arguments = install_package(session, "testing,nats")
    install_group(session, "tests")
    install_group(session, "servers")
    session.run("pytest", *LONG, "tests/stores/jetstream/deep_soak.py", *arguments)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare the log with others, and with what is possible; `-- --quick` takes three minutes."""
    install_package(session)
    install_group(session, "bench")
    session.run("python", "benchmarks/compare.py", *session.posargs)


@nox.session
def bench_servers(session: nox.Session) -> None:
    """Measure many logs in one file, database or stream; `-- --quick` takes less than two."""
    install_package(session)
    install_group(session, "bench")
    session.run("python", "benchmarks/servers.py", *session.posargs)


def public_names() -> set[str]:
    """What the public modules of the package list in ``__all__``."""
    names: set[str] = set()
    for path in ROOT.glob("trio_eventlog/**/*.py"):
        if any(re.match("_(?!_)", part) for part in path.relative_to(ROOT).parts):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names.update(ast.literal_eval(node.value))
    return names


def public_functions(path: Path, names: set[str]) -> Iterator[int]:
    """The lines on which the public functions of a file begin."""
    for outer in ast.parse(path.read_text(encoding="utf-8")).body:
        if getattr(outer, "name", None) not in names:
            continue
        for node in outer.body if isinstance(outer, ast.ClassDef) else [outer]:
            if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
                yield node.lineno


def check_async_rules(session: nox.Session) -> None:
    """Run flake8-async, and ask of public functions alone that they are checkpoints on every path."""
    names = public_names()
    public = {
        (os.fspath(path.relative_to(ROOT)), line)
        for path in ROOT.glob("trio_eventlog/**/*.py")
        for line in public_functions(path, names)
    }
    output = session.run("flake8", "--exit-zero", "--disable=", ".", silent=True)
    assert isinstance(output, str)
    findings = []
    for finding in output.splitlines():
        path = os.path.normpath(finding.split(":")[0])
        function = re.search(r"ASYNC91[01] .* since function definition on line (\d+)", finding)
        if function is None or (path, int(function[1])) in public:
            findings.append(finding)
    if findings:
        session.error("\n".join(findings))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff for style, flake8-async for the rules of structured concurrency."""
    install_group(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    check_async_rules(session)


@nox.session
def build(session: nox.Session) -> None:
    """Build what is released, once, into ``dist``, and check it."""
    session.install("build", "twine")
    # The wheel for every Python. Those with the core are built for each, by cibuildwheel.
    session.run("python", "-m", "build", env=PURE)
    session.run("twine", "check", "--strict", *map(os.fspath, ROOT.glob("dist/*")))


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
    install_group(session, "tests")
    # Skipped in the other session, which has no Sphinx.
    session.run("pytest", "tests/project/test_docs.py", "-k", "the_reference_describes_every_field")
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
