"""How another program gets at a function of this one: what a report prints, and what child processes run."""

from __future__ import annotations

import enum
import math
import os
import pickle
import site
import sys
import sysconfig
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import attrs


@attrs.frozen(kw_only=True)
class Opening:
    """Statements that bring a function into another program.

    Attributes:
      code: the statements. They define a function that raises NotImplementedError if there is a problem.
      problem: why no program can import the function; None if one can.
      runs_main: whether they run the main module of this process once more, as a module.
    """

    code: str
    problem: str | None = None
    runs_main: bool = False

    def fails(self, name: str, problem: str) -> Opening:
        """The same, where it turned out that another program cannot do it."""
        return _not_importable(name, problem, self.runs_main)


def opening_of(function: Callable[..., Any], name: str = "open_store") -> Opening:
    """The statements after which ``name`` is ``function``."""
    writer = _Writer()
    try:
        expression = writer.expression(function)
    except _NotWritable as exc:
        pickled = None if writer.runs_main else _pickled(function)
        if pickled is None:
            return _not_importable(name, str(exc), writer.runs_main)
        return Opening(code=f"import pickle\n\n{name} = pickle.loads(bytes.fromhex({pickled.hex()!r}))")
    return Opening(code=writer.code(name, expression), runs_main=writer.runs_main)


def _not_importable(name: str, problem: str, runs_main: bool) -> Opening:
    text = f"{problem[:1].upper()}{problem[1:]}".encode("ascii", "backslashreplace").decode()
    comment = "\n".join(f"# {line}" for line in f"{text}: put yours here.".splitlines())
    code = f'{comment}\ndef {name}(location):\n    raise NotImplementedError("put your own {name} here")'
    return Opening(code=code, problem=problem, runs_main=runs_main)


def _pickled(function: object) -> bytes | None:
    try:
        pickled = pickle.dumps(function)
    except Exception:  # noqa: BLE001 - it is not picklable, for whatever reason
        return None
    # What is of the main module, pickle would look for in the main module of the other process.
    return None if b"__main__" in pickled else pickled


class _NotWritable(Exception):
    """A value that no import and no literal gives."""


_MAIN: Final = "_main"
"""The variable that has the names of the main module."""

_PLAIN: Final = (int, str, bytes, bool, type(None), type(...))


class _Writer:
    """Writes expressions, and collects the imports that they need."""

    def __init__(self) -> None:
        self.runs_main = False
        self._standard: dict[str, None] = {}
        self._imports: dict[str, None] = {}
        self._entries: dict[str, None] = {}
        self._names: dict[str, str] = {}

    def code(self, name: str, expression: str) -> str:
        """The statements that assign ``expression`` to ``name``."""
        standard = [*self._standard, *(["import sys"] if self._entries else [])]
        lines = sorted(standard, key=lambda line: (line.startswith("from"), line))
        lines += [f"sys.path.insert(0, {entry!a})" for entry in self._entries]
        imports = list(self._imports)
        if imports and imports[-1].endswith(f" import {expression}") and expression.isidentifier():
            # A function of a module is imported under the name that it gets.
            last = imports.pop()
            return "\n".join([*lines, *imports, last if expression == name else f"{last} as {name}"])
        return "\n".join([*lines, *imports, "", f"{name} = {expression}"])

    # --- values ---

    def expression(self, value: object) -> str:
        """Python for ``value``. Raises _NotWritable."""
        match value:
            case partial():
                return self._partial(value)
            case MethodType():
                return self._method(value)
            case enum.Enum():
                return f"{self._named(type(value))}.{value.name}"
            case FunctionType() | BuiltinFunctionType() | type():
                return self._named(value)
            case Path():
                self._standard["from pathlib import Path"] = None
                return f"Path({str(value)!a})"
            case _:
                return self._literal(value)

    def _literal(self, value: object) -> str:
        if type(value) in _PLAIN or (type(value) is float and math.isfinite(value)):
            return ascii(value)
        if type(value) is dict:
            items = ", ".join(f"{self.expression(k)}: {self.expression(v)}" for k, v in value.items())
            return f"{{{items}}}"
        if type(value) is list:
            return f"[{', '.join(map(self.expression, value))}]"
        if type(value) is tuple:
            return f"({''.join(f'{self.expression(item)}, ' for item in value)})"
        kind: Any = type(value)
        if attrs.has(kind):
            fields = [field for field in attrs.fields(kind) if field.init]
            given = (f"{field.alias}={self.expression(getattr(value, field.name))}" for field in fields)
            return f"{self._named(kind)}({', '.join(given)})"
        if hasattr(value, "__qualname__") and hasattr(value, "__module__"):
            return self._named(value)
        raise _NotWritable(f"it uses an object of {type(value).__name__}, which cannot be written as Python")

    def _partial(self, value: partial[Any]) -> str:
        function = self.expression(value.func)
        arguments = [self.expression(argument) for argument in value.args]
        arguments += [f"{name}={self.expression(item)}" for name, item in value.keywords.items()]
        self._standard["from functools import partial"] = None
        return f"partial({', '.join([function, *arguments])})"

    def _method(self, method: MethodType) -> str:
        owner = method.__self__
        if isinstance(owner, type):
            return f"{self._named(owner)}.{method.__name__}"
        # An object without state, such as an instance of a test class, is made again.
        kind: Any = type(owner)
        is_plain = all(base.__init__ is object.__init__ for base in kind.__mro__)
        if getattr(owner, "__dict__", None) or not is_plain:
            raise _NotWritable(
                f"it is a method of an object of {kind.__name__}, which has a state of its own"
            )
        return f"{self._named(kind)}().{method.__name__}"

    # --- names ---

    def _named(self, value: Any) -> str:
        module_name, qualname = value.__module__, value.__qualname__
        if not isinstance(module_name, str) or "<lambda>" in qualname:
            raise _NotWritable("it is a lambda, or the like, which no program can import")
        if "<locals>" in qualname:
            outer, _, inner = qualname.rpartition(".<locals>.")
            raise _NotWritable(f"{inner} is defined inside {outer}, so that no other program can import it")
        if module_name == "__main__":
            return self._named_in_main(value, qualname)
        if _reached(sys.modules.get(module_name), qualname) != value:
            raise _NotWritable(f"{module_name}.{qualname} is something else")
        self._note_entry(sys.modules[module_name.partition(".")[0]])
        return self._import_from(_public_module(module_name, qualname), qualname)

    def _import_from(self, module_name: str, qualname: str) -> str:
        top, dot, rest = qualname.partition(".")
        if module_name == "builtins":
            return qualname
        if self._names.setdefault(top, module_name) != module_name:
            raise _NotWritable(f"two modules have a {top}")
        statement = f"from {module_name} import {top}"
        # The last one is the one that is used as it is.
        self._imports.pop(statement, None)
        self._imports[statement] = None
        return f"{top}{dot}{rest}"

    def _named_in_main(self, value: Any, qualname: str) -> str:
        self.runs_main = True
        main = sys.modules["__main__"]
        if _reached(main, qualname) != value:
            raise _NotWritable(f"{qualname} is something else in the main module")
        spec = getattr(main, "__spec__", None)
        if spec is not None and isinstance(spec.name, str) and spec.name != "__main__":
            # Of `python -m`.
            self._note_entry(sys.modules.get(spec.name.partition(".")[0], main))
            return self._import_from(spec.name, qualname)
        file = getattr(main, "__file__", None)
        if file is None or not Path(file).is_file():
            raise _NotWritable(f"{qualname} is not in a file")
        path = Path(file).resolve()
        self._entries[os.fspath(path.parent)] = None
        self._standard["import runpy"] = None
        self._imports[f"{_MAIN} = runpy.run_path({os.fspath(path)!a})"] = None
        top, dot, rest = qualname.partition(".")
        return f"{_MAIN}[{top!a}]{dot}{rest}"

    def _note_entry(self, top: ModuleType) -> None:
        """Where Python finds a module, if that is not where it looks in every program."""
        file = getattr(top, "__file__", None)
        if file is None or getattr(top, "__name__", "") == "trio_eventlog":
            return
        path = Path(file).resolve()
        entry = path.parent.parent if path.stem == "__init__" else path.parent
        if entry not in _usual_entries() and entry in {Path(item or ".").resolve() for item in sys.path}:
            self._entries[os.fspath(entry)] = None


def _reached(module: ModuleType | None, qualname: str) -> Any:
    value: Any = module
    for part in qualname.split("."):
        value = getattr(value, part, None)
    return value


def _public_module(module_name: str, qualname: str) -> str:
    """The module from which users import what is defined in this one."""
    top = qualname.partition(".")[0]
    value = getattr(sys.modules[module_name], top)
    parts = module_name.split(".")
    private = next((index for index, part in enumerate(parts) if part.startswith("_")), None)
    for end in range(private or 0, 0, -1):
        name = ".".join(parts[:end])
        if getattr(sys.modules.get(name), top, None) is value:
            return name
    return module_name


@cache
def _usual_entries() -> frozenset[Path]:
    """The directories where every Python of this environment looks for modules."""
    paths = sysconfig.get_paths()
    usual = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    usual += [os.path.join(paths["platstdlib"], "lib-dynload")]  # noqa: PTH118 - text
    if site.ENABLE_USER_SITE:
        usual.append(site.getusersitepackages())
    return frozenset(Path(entry).resolve() for entry in usual)
