"""The public names: exported for every kind of reader, documented, and at home where they are used."""

import ast
import pickle
import pkgutil
import re
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

import trio_eventlog
import trio_eventlog.abc
import trio_eventlog.logging
import trio_eventlog.recorder
import trio_eventlog.stores
import trio_eventlog.testing

ROOT = Path(__file__).parents[2]


def reexports(module):
    """The names that a module exports by `import X as X`, which is what type checkers go by.

    Those of a lazy import stand under TYPE_CHECKING.
    """
    return sorted(
        alias.name
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    )


def defined(module):
    """The public names that a module defines itself."""
    return sorted(
        node.name
        for node in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    )


NAMES = reexports(trio_eventlog)
CLASSES = [name for name in NAMES if isinstance(getattr(trio_eventlog, name), type)]
FUNCTIONS = [name for name in NAMES if isinstance(getattr(trio_eventlog, name), types.FunctionType)]
STORES = reexports(trio_eventlog.stores)
TESTING = reexports(trio_eventlog.testing)


def test_every_public_name_is_exported_as_itself():
    """What can be seen at run time and what a type checker sees are the same."""
    seen = {
        name
        for name, value in vars(trio_eventlog).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }

    assert seen == set(NAMES)


def test_the_contract_is_exported_from_the_package_too():
    """`trio_eventlog.abc` is for those who write stores; who annotates a store finds it at hand."""
    assert set(defined(trio_eventlog.abc)) <= set(NAMES)


@pytest.mark.parametrize("name", STORES)
def test_every_store_can_be_imported(name):
    """Also those that are loaded on first use."""
    assert getattr(trio_eventlog.stores, name).__doc__
    assert name in dir(trio_eventlog.stores)


def test_every_name_of_the_harness_is_exported_as_itself():
    seen = {
        name
        for name, value in vars(trio_eventlog.testing).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }

    assert seen == set(TESTING)


@pytest.mark.parametrize("name", TESTING)
def test_every_name_of_the_harness_has_a_docstring(name):
    value = getattr(trio_eventlog.testing, name)

    assert value.__doc__ or name in ("CLAUSES", "Fault")


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("trio_eventlog", NAMES),
        ("trio_eventlog.stores", STORES),
        ("trio_eventlog.testing", TESTING),
        ("trio_eventlog.abc", defined(trio_eventlog.abc)),
        ("trio_eventlog.logging", defined(trio_eventlog.logging)),
        ("trio_eventlog.recorder", ["MODULE", "TaskFilter", *defined(trio_eventlog.recorder)]),
    ],
)
def test_a_star_brings_all_public_names_and_no_others(module, names):
    """Also those that are loaded on first use, in a process that has not used them."""
    code = f"from {module} import *\nprint(*sorted(name for name in globals() if not name.startswith('__')))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == sorted(names)


def test_a_star_needs_no_driver_of_a_server():
    """Those are extras."""
    code = (
        "import sys\nsys.modules.update(psycopg=None, nkeys=None)\n"
        "from trio_eventlog.stores import *\nprint(PostgresStore.__name__, JetStreamStore.__name__)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "PostgresStore JetStreamStore\n"


def test_public_names_come_sorted_by_module():
    """Easy to find, and no merge conflicts at the end of a list."""
    lines = [
        line
        for line in Path(trio_eventlog.__file__).read_text().splitlines()
        if line.startswith("from trio_eventlog.")
    ]

    assert lines == sorted(lines)


@pytest.mark.parametrize("name", CLASSES + FUNCTIONS)
def test_names_say_where_they_are_imported_from(name):
    """In tracebacks, reprs, pickles and the documentation."""
    value = getattr(trio_eventlog, name)

    # The contract lives in a public module of its own.
    home = "trio_eventlog.abc" if name in defined(trio_eventlog.abc) else "trio_eventlog"
    assert value.__module__ == home
    assert value.__qualname__ == name
    assert pickle.loads(pickle.dumps(value)) is value  # noqa: S301 - our own


@pytest.mark.parametrize("name", CLASSES)
def test_annotations_can_be_resolved(name):
    """Also in their new home: cattrs, Sphinx and others look them up."""
    hints = typing.get_type_hints(getattr(trio_eventlog, name))

    assert not any(isinstance(hint, str | typing.ForwardRef) for hint in hints.values())


@pytest.mark.parametrize("name", CLASSES + FUNCTIONS)
def test_public_names_have_a_docstring(name):
    assert getattr(trio_eventlog, name).__doc__


def reference():
    return "\n".join(path.read_text() for path in sorted((ROOT / "docs" / "reference").glob("*.md")))


@pytest.mark.parametrize(
    "name", [*NAMES, *(f"stores.{name}" for name in STORES), *(f"testing.{name}" for name in TESTING)]
)
def test_public_names_are_documented(name):
    """Each has its entry in the API reference, by a directive of autodoc."""
    pattern = rf"auto\w+(::|\}})\s+(trio_eventlog\.)?{re.escape(name)}(\(|\s|$)"

    assert re.search(pattern, reference(), flags=re.MULTILINE), f"{name} is not in docs/reference/*.md"


def test_the_reference_names_nothing_that_is_gone():
    """Every entry of the API reference exists and is public."""
    for entry in re.findall(r"auto(?:class|function|exception|data)(?:::|\})\s+([\w.]+)", reference()):
        assert not [part for part in entry.split(".") if part.startswith("_")], entry
        # Imports what nobody has imported yet.
        pkgutil.resolve_name(f"trio_eventlog.{entry.removeprefix('trio_eventlog.')}")
