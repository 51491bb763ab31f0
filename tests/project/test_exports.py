"""The public names: exported for every kind of reader, documented, and at home where they are used."""

import importlib.metadata
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
import trio_eventlog.audit
import trio_eventlog.console
import trio_eventlog.logging
import trio_eventlog.masking
import trio_eventlog.mobkit
import trio_eventlog.reading
import trio_eventlog.recorder
import trio_eventlog.retention
import trio_eventlog.stores
import trio_eventlog.testing
import trio_eventlog.typed

ROOT = Path(__file__).parents[2]

MODULES = [
    trio_eventlog,
    trio_eventlog.abc,
    trio_eventlog.audit,
    trio_eventlog.console,
    trio_eventlog.logging,
    trio_eventlog.masking,
    trio_eventlog.mobkit,
    trio_eventlog.reading,
    trio_eventlog.recorder,
    trio_eventlog.retention,
    trio_eventlog.stores,
    trio_eventlog.testing,
    trio_eventlog.typed,
]
"""All that a program imports names from."""

PUBLIC = [(module, name) for module in MODULES for name in module.__all__]
IDS = [f"{module.__name__}.{name}" for module, name in PUBLIC]
CLASSES = [(module, name) for module, name in PUBLIC if isinstance(getattr(module, name), type)]
FUNCTIONS = [
    (module, name) for module, name in PUBLIC if isinstance(getattr(module, name), types.FunctionType)
]
CONSTANTS = [
    *("ANOMALIES", "Anchor", "CLAUSES", "EVENT_ID_PREFIX", "FACETS", "Fault", "Filter", "MODULE"),
    *("OnFailure", "Report", "TaskFilter", "Transform", "UnifiedEvent"),
]
"""Those that have no docstring of their own."""


def dotted(pairs):
    return [f"{module.__name__}.{name}" for module, name in pairs]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_is_sorted_and_has_no_name_twice(module):
    """Easy to find, and no merge conflicts at the end of a list. The order is ruff's: constants first."""
    names = module.__all__

    assert len(set(names)) == len(names)
    assert list(names) == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_completion_offers_the_public_names_and_modules_only(module):
    """What is imported for the module's own use is not to be found in it."""
    offered = {name for name in dir(module) if not name.startswith("_")}
    modules = {name for name in offered if isinstance(getattr(module, name), types.ModuleType)}

    assert offered - modules == set(module.__all__)
    assert all(getattr(module, name).__name__ == f"{module.__name__}.{name}" for name in modules)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_star_brings_all_public_names_and_no_others(module):
    """Also those that are loaded on first use, in a process that has not used them."""
    code = (
        f"from {module.__name__} import *\n"
        "print(*sorted(name for name in globals() if not name.startswith('__')))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == sorted(module.__all__)


def test_a_star_needs_no_driver_of_a_server():
    """Those are extras."""
    code = (
        "import sys\nsys.modules.update(psycopg=None, nkeys=None)\n"
        "from trio_eventlog.stores import *\nprint(PostgresStore.__name__, JetStreamStore.__name__)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "PostgresStore JetStreamStore\n"


def test_the_version_is_that_of_what_is_installed():
    assert trio_eventlog.__version__ == importlib.metadata.version("trio-eventlog")


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(AttributeError, match="module 'trio_eventlog' has no attribute 'tail'"):
        trio_eventlog.tail  # noqa: B018 - that is the test


@pytest.mark.parametrize(("module", "name"), CLASSES + FUNCTIONS, ids=dotted(CLASSES + FUNCTIONS))
def test_names_say_where_they_are_imported_from(module, name):
    """In tracebacks, reprs, pickles and the documentation."""
    value = getattr(module, name)

    # The contract is in a public module of its own, and so is every store.
    home = value.__module__
    assert not [part for part in home.split(".") if part.startswith("_")] or module is trio_eventlog.stores
    assert home == module.__name__ or name in (*trio_eventlog.stores.__all__, "EventStore")
    assert value.__qualname__ == name
    assert pickle.loads(pickle.dumps(value)) is value  # noqa: S301 - our own


RESOLVABLE = [pair for pair in CLASSES if pair[1] != "StoreStateMachine"]
"""Without what inherits from a class of Hypothesis, whose annotations cannot be resolved."""


@pytest.mark.parametrize(("module", "name"), RESOLVABLE, ids=dotted(RESOLVABLE))
def test_annotations_can_be_resolved(module, name):
    """Also in their new home: cattrs, Sphinx and others look them up."""
    hints = typing.get_type_hints(getattr(module, name))

    assert not any(isinstance(hint, str | typing.ForwardRef) for hint in hints.values())


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=IDS)
def test_public_names_have_a_docstring(module, name):
    assert getattr(module, name).__doc__ or name in CONSTANTS


def reference():
    return "\n".join(path.read_text() for path in sorted((ROOT / "docs" / "reference").glob("*.md")))


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=IDS)
def test_public_names_are_documented(module, name):
    """Each has its entry in the API reference, by a directive of autodoc."""
    home = "trio_eventlog.abc" if name == "EventStore" else module.__name__
    entry = f"{home}.{name}".removeprefix("trio_eventlog.")
    pattern = rf"auto\w+(::|\}})\s+(trio_eventlog\.)?{re.escape(entry)}(\(|\s|$)"

    assert re.search(pattern, reference(), flags=re.MULTILINE), f"{entry} is not in docs/reference/*.md"


def test_the_reference_names_nothing_that_is_gone():
    """Every entry of the API reference exists and is public."""
    for entry in re.findall(r"auto(?:class|function|exception|data)(?:::|\})\s+([\w.]+)", reference()):
        assert not [part for part in entry.split(".") if part.startswith("_")], entry
        # Imports what nobody has imported yet.
        pkgutil.resolve_name(f"trio_eventlog.{entry.removeprefix('trio_eventlog.')}")
