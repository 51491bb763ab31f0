"""The floors: lower ones never import upper ones, and a plain import loads no more than it must."""

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import trio_eventlog
from tests._helpers.uncovered import uncovered

PACKAGE = Path(trio_eventlog.__file__).parent
TESTS = Path(__file__).parents[1]
PREFIX = "trio_eventlog."
TOP = 5
"""The floor of what stands beside the library, on the public names alone."""


def declared_floors():
    """The floors as the docstring of the package states them, by top-level module."""
    floors = {}
    entries = re.split(r"^\* ", trio_eventlog.__doc__, flags=re.MULTILINE)[1:]
    for entry in entries:
        number = re.match(r"\d+", entry)
        floor = int(number[0]) if number else TOP
        for names in re.findall(r"``([^`]+)``", entry):
            for name in names.split():
                if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir():
                    floors[name] = floor
    return floors


FLOORS = declared_floors()


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts:
            yield ".".join(parts), path


def imports(path, *, module):
    """What a module imports from this package, whenever it runs; each as a name below the package.

    The imports of type checkers count too: what a floor may not know at run time, it may not know by
    type either.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            # `from trio_eventlog import x`: x may be a module or a public name.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "trio_eventlog":
                yield ""
            elif name.startswith(PREFIX):
                yield name.removeprefix(PREFIX)


MODULES = dict(modules())


def floor_of(module):
    return FLOORS.get(module.split(".")[0], TOP)


def test_every_module_has_a_floor():
    """A new module must be entered in the docstring of the package."""
    assert {name.split(".")[0] for name in MODULES} == set(FLOORS)


def test_the_floors_are_read_as_they_are_meant():
    """Guards the other tests against a docstring that says nothing to them."""
    assert FLOORS["_model"] == 0
    assert FLOORS["_engine"] == 1
    assert FLOORS["abc"] == 2
    assert FLOORS["stores"] == 3
    assert FLOORS["_log"] == 4
    assert FLOORS["cli"] == TOP


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_an_upper_floor(module):
    """And what stands beside the floors uses public names only."""
    own = floor_of(module)
    for imported in imports(MODULES[module], module=module):
        top = imported.split(".")[0]
        if own == TOP:
            # Public: names of the package, `abc`, `stores`, and what belongs to the module itself. And what
            # lets a package adopt its names, or says how to install it, which is not part of the library; and
            # threads that run beside tasks that never pause.
            same = top == module.split(".")[0] or imported in (
                "_threads.run_sync",
                "_util.adopt_public_names",
                "_util.how_to_install",
            )
            assert same or not any(part.startswith("_") for part in imported.split(".")), imported
        else:
            assert top in FLOORS, f"{module} imports from the package itself, which imports all floors"
            assert FLOORS[top] <= own, f"{module} imports {imported}"


STORES = [name for name in MODULES if name.startswith("stores.")]


@pytest.mark.parametrize("module", STORES)
def test_stores_know_neither_each_other_nor_the_log(module):
    """A store is written against the contract alone; only `open_store` knows them all."""
    own = module.split(".")[1]
    for imported in imports(MODULES[module], module=module):
        assert not imported.startswith(("_log", "_reading")), imported
        if imported.startswith("stores.") and own != "_open":
            assert imported.split(".")[1] in {own, "_common"}, imported


def folder_of(module):
    """A folder, or a module that is in none."""
    return module.split(".")[0]


def test_no_folder_needs_one_that_needs_it():
    """The floors in one drawing: no arrow leads back, also among what shares a floor."""
    arrows = {folder_of(name): set() for name in MODULES}
    for module, path in MODULES.items():
        for imported in imports(path, module=module):
            if imported and folder_of(imported) in arrows:
                arrows[folder_of(module)].add(folder_of(imported))
    TopologicalSorter({folder: to - {folder} for folder, to in arrows.items()}).prepare()


def module_of(imported):
    """The module that a name below the package is in, or that it is."""
    while imported and imported not in MODULES:
        imported = imported.rpartition(".")[0]
    return imported


def test_no_module_needs_one_that_needs_it():
    """No import cycle among modules either, those for type checkers and within functions included."""
    arrows = {
        name: {module_of(imported) for imported in imports(path, module=name)} - {"", name}
        for name, path in MODULES.items()
    }
    TopologicalSorter(arrows).prepare()


@pytest.mark.parametrize("module", [name for name in MODULES if floor_of(name) <= FLOORS["_engine"]])
def test_the_lower_floors_are_free_of_trio(module):
    """The engine takes time and chance as arguments, so that it needs no event loop to be tested."""
    allowed = {"attrs", "cattrs", "msgspec"}
    allowed |= set(sys.stdlib_module_names) - {"asyncio", "socket", "sqlite3", "threading"}
    if module == "_lock_file":
        allowed.add("threading")  # a lock of the process, for whatever thread works with files
    if module == "_model._events":
        allowed.add("uuid_utils")  # on first use: see new_event_id()
    if floor_of(module):
        allowed -= {"random", "time"}
    if module == "_engine._policy":
        allowed.add("random")  # the default of an argument
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            assert top == "trio_eventlog" or top in allowed, f"line {node.lineno} imports {name}"


def loaded_by(statement):
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    # -P: what is installed, not what lies in the current directory.
    result = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env=uncovered(),
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in json.loads(result.stdout)}


def test_a_plain_import_is_light():
    """It loads trio, attrs, cattrs and the JSON codec, and what those import; nothing else."""
    expected = loaded_by(
        "import attrs, cattrs, msgspec, trio\nimport cattrs.gen, cattrs.preconf.msgspec, cattrs.strategies"
    )
    loaded = loaded_by("import trio_eventlog")

    foreign = loaded - expected - set(sys.stdlib_module_names)
    assert foreign == {"trio_eventlog"}


@pytest.mark.parametrize(
    "module",
    ["apsw", "cryptography", "cyclopts", "hypothesis", "orjson", "pytest", "rich", "sqlite3", "uuid_utils"],
)
def test_a_plain_import_leaves_out(module):
    """Drivers, the command line and the tools of tests are loaded by those who use them."""
    assert module not in loaded_by("import trio_eventlog, trio_eventlog.abc, trio_eventlog.stores")


def test_no_test_imports_a_test():
    """What tests share is in ``tests/_helpers``: a file of tests can be moved, or run by itself."""
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            found += [
                f"{path.relative_to(TESTS)}: {name}"
                for name in names
                if name.startswith((".", "tests.")) and not name.startswith("tests._helpers.")
            ]
    assert found == []
