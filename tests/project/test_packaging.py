"""What is installed is what pyproject.toml says."""

import importlib.util
import re
import shlex
import tempfile
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest

from trio_eventlog._util import how_to_install

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def installed():
    return metadata.metadata("trio-eventlog")


def test_version_has_a_single_source(project, installed):
    """The version stands in pyproject.toml and nowhere in the code, where it could differ."""
    assert installed["Version"] == project["version"]

    for path in (ROOT / "trio_eventlog").rglob("*.py"):
        assert f'"{project["version"]}"' not in path.read_text(), path


@pytest.mark.parametrize(
    "extra", ["archive", "audit", "cli", "console", "mobkit", "nats", "postgres", "testing"]
)
def test_what_an_extra_needs_is_named_as_it_is(project, extra):
    """Not the name of the package, which an index may not have."""
    wanted = []
    for requirement in project["optional-dependencies"][extra]:
        if requirement == "trio-eventlog[cli]":
            wanted += project["optional-dependencies"]["cli"]
        else:
            wanted.append(requirement)
    command = shlex.split(how_to_install(extra))
    assert command == ["pip", "install", *wanted]


def test_nobody_is_told_to_install_what_no_index_has():
    for folder, pattern in (("trio_eventlog", "*.py"), ("docs", "*.md")):
        for path in (ROOT / folder).rglob(pattern):
            assert not re.search(r"pip install .?trio-eventlog", path.read_text()), path


def test_towncrier_knows_the_version(project):
    """The changelog is built for the version that is released."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert pyproject["tool"]["towncrier"]["version"] == project["version"]


def test_the_package_is_typed():
    """Type checkers read inline types only where py.typed is shipped."""
    assert resources.files("trio_eventlog").joinpath("py.typed").is_file()
    assert "Typing :: Typed" in metadata.metadata("trio-eventlog").get_all("Classifier")


def test_metadata(project, installed):
    """What a package index shows."""
    assert installed["Name"] == "trio-eventlog"
    assert installed["Summary"] == project["description"]
    assert installed["License-Expression"] == "MIT"
    assert installed.get_all("License-File") == ["LICENSE"]
    assert installed["Requires-Python"] == ">=3.11"
    assert installed["Description-Content-Type"] == "text/markdown"
    assert {"Framework :: Trio", "Typing :: Typed"} <= set(installed.get_all("Classifier"))


def test_python_versions_agree(project):
    """The oldest Python of the classifiers is the one that is required and type-checked against."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pattern = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    versions = [match[1] for entry in project["classifiers"] if (match := pattern.fullmatch(entry))]

    assert project["requires-python"] == f">={versions[0]}"
    assert pyproject["tool"]["mypy"]["python_version"] == versions[0]
    assert pyproject["tool"]["pyright"]["pythonVersion"] == versions[0]
    assert pyproject["tool"]["ruff"]["target-version"] == "py" + versions[0].replace(".", "")

    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "[" + ", ".join(f'"{version}"' for version in versions) + "]" in workflow


def test_a_plain_install_needs_no_extra(project, installed):
    """SQLite is part of the plain install; the command line brings its own packages."""
    names = {re.split(r"[\[<>=;\s]", entry)[0] for entry in project["dependencies"]}

    assert names == {"apsw", "attrs", "cattrs", "msgspec", "trio", "uuid-utils"}
    assert "cli" in installed.get_all("Provides-Extra")


def test_the_tests_have_what_the_command_line_needs():
    """The group repeats the extra, which a group cannot include."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert set(pyproject["project"]["optional-dependencies"]["cli"]) <= set(
        pyproject["dependency-groups"]["tests"]
    )


def test_a_build_leaves_no_files_behind(tmp_path, monkeypatch):
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    hatch_build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hatch_build)
    compiled = []

    def compile_core(root, directory):
        compiled.append(directory / "_core.so")
        compiled[0].touch()
        return compiled[0]

    monkeypatch.setattr(hatch_build, "compile_core", compile_core)
    monkeypatch.setattr(hatch_build, "is_wanted", lambda: True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hook = hatch_build.CoreBuildHook(str(ROOT), {}, None, None, str(tmp_path), "wheel")
    data = {"force_include": {}}

    hook.initialize("standard", data)
    assert list(data["force_include"]) == [str(compiled[0])]
    assert compiled[0].exists()
    hook.finalize("standard", data, "")

    assert list(tmp_path.iterdir()) == []


def test_the_command_is_installed():
    """`trio-eventlog` runs `trio_eventlog.cli.main`."""
    (script,) = metadata.entry_points(group="console_scripts", name="trio-eventlog")

    assert script.value == "trio_eventlog.cli:main"
    assert callable(script.load())


def test_ci_runs_the_test_command_of_the_readme():
    """What CI proves is what the README tells people to type."""
    command = "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s tests"

    assert command in (ROOT / "README.md").read_text()

    script = (ROOT / ".ci/run").read_text()
    assert "\n".join(command.split(" && ")) in script


def test_every_ignored_rule_has_a_reason():
    """A rule is switched off with a comment that says why, or not at all."""
    text = (ROOT / "pyproject.toml").read_text().partition("[tool.ruff.lint]")[2]
    ignored = re.findall(r'^  "[A-Z]+\d*",(.*)$', text, flags=re.MULTILINE)

    assert ignored
    assert all(re.fullmatch(r"\s+# \S.+", rest) for rest in ignored)


def test_news_fragments_have_a_known_type():
    """Towncrier passes over a file whose type it does not know."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    types = "|".join(entry["directory"] for entry in pyproject["tool"]["towncrier"]["type"])

    for path in (ROOT / "newsfragments").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(rf"(\d+|\+\w+)\.({types})(\.\d+)?\.md", path.name), path.name
            assert path.read_text().strip()
