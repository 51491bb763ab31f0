"""A program that grows while it is carried out, so that a report can show what led to a failure.

What is carried out and what is printed have one source. A condition is a string that is evaluated, a helper
is a function whose source is printed, and the arguments of a call are printed from the objects passed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import CodeType
from typing import Any, Final

import attrs
import trio

import trio_eventlog
from trio_eventlog.abc import EventPage, Facets, HistogramBucket
from trio_eventlog.testing._code import Code, Series, code_of, numbered, numbered_types
from trio_eventlog.testing._history._check import check_history
from trio_eventlog.testing._history._recorder import History, recording
from trio_eventlog.testing._model import assert_same_events

__all__ = ["Block", "Program", "Series", "code_of", "numbered", "numbered_types", "source_of"]

# --- the program ----------------------------------------------------------------------------------


@attrs.frozen
class _Statement:
    """A template in which ``$0``, ``$1`` and so on stand for values."""

    template: str
    values: tuple[object, ...]

    def code(self) -> str:
        return re.sub(r"\$(\d)", lambda match: code_of(self.values[int(match[1])]), self.template)


@attrs.define
class Block:
    """Statements below a header."""

    header: _Statement
    body: list[_Statement | Block] = attrs.Factory(list)
    timeout: float | None = None
    """Seconds after which the program takes the block for hung."""

    limited_as_a_whole: bool = False
    """Whether a deadline for one of its statements is one for the block: they run at the same time."""

    def add(self, template: str, *values: object) -> None:
        """Append a statement, as :meth:`Program.add` does."""
        self.body.append(_Statement(template, values))

    def lines(self) -> list[str]:
        """The block as lines of Python."""
        inner: list[str] = []
        for item in self.body:
            inner += item.lines() if isinstance(item, Block) else item.code().splitlines()
        lines = [*self.header.code().splitlines(), *_indented(inner or ["pass"])]
        if self.timeout is None:
            return lines
        return [f"with trio.fail_after({self.timeout:g}):", *_indented(lines)]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression.replace("$", "_value_"), "<expression>", "eval")


_PACKAGE_NAMES: Final = (
    "AgentEvent",
    "EventQuery",
    "EventRejected",
    "EventStore",
    "LogBusy",
    "ModuleEvent",
    "PersistedEvent",
    "SequenceConflict",
    "StoreError",
    "StoreUnusable",
)
_TESTING_NAMES: Final = (
    "Crash",
    "History",
    "assert_same_events",
    "check_history",
    "check_power_loss",
    "recording",
)
_NAMES: Final = {
    **{name: getattr(trio_eventlog, name) for name in _PACKAGE_NAMES},
    "EventPage": EventPage,
    "Facets": Facets,
    "History": History,
    "HistogramBucket": HistogramBucket,
    "assert_same_events": assert_same_events,
    "check_history": check_history,
    "recording": recording,
    "trio": trio,
}
"""What a program imports, as far as expressions use it."""


class Program:
    """A program that opens stores and uses them.

    Attributes:
      variables: its local variables that conditions use, with their values.
    """

    def __init__(self) -> None:
        self.variables: dict[str, Any] = {}
        self._definitions: dict[str, str] = {}
        self._main = self._block = Block(_Statement("async def main() -> None:", ()))
        self.add('location = Path(tempfile.mkdtemp()) / f"te_{os.urandom(10).hex()}"\nlocation.mkdir()')

    def add(self, template: str, *values: object) -> None:
        """Append statements, with ``$0``, ``$1`` and so on for ``values``."""
        self._block.add(template, *values)

    def define(self, function: Callable[..., Any] | type) -> None:
        """Define a function or class at the top level, which this module calls as well."""
        self._definitions.setdefault(function.__name__, source_of(function))

    def define_text(self, name: str, text: str) -> None:
        """Define a constant at the top level: a string of several lines."""
        # Within quotes a backslash is written twice.
        self._definitions[name] = f"{name} = '''" + text.replace("\\", "\\\\") + "'''"

    def evaluate(self, expression: str, *values: object) -> Any:
        """Evaluate an expression on the variables, with ``$0``, ``$1`` and so on for ``values``."""
        given = {f"_value_{index}": value for index, value in enumerate(values)}
        # As globals, which comprehensions see as well. No expression comes from outside of this package.
        return eval(_compiled(expression), {**_NAMES, **self.variables, **given})  # noqa: S307

    def assign(self, variable: str, expression: str, *values: object) -> None:
        """Assign the value of an expression to a variable, in the program and in :attr:`variables`."""
        # Printed now, since what is assigned may be changed by what comes next.
        self.add(f"{variable} = $0", Code(_Statement(expression, values).code()))
        self.variables[variable] = self.evaluate(expression, *values)

    def name_last(self, variable: str) -> None:
        """Assign what the last statement gives to a variable."""
        last = self._block.body[-1]
        assert isinstance(last, _Statement)
        self._block.body[-1] = attrs.evolve(last, template=f"{variable} = {last.template}")

    @contextmanager
    def block(self, template: str, *values: object, limited_as_a_whole: bool = False) -> Iterator[Block]:
        """Everything that is added meanwhile stands in a block below this header."""
        block = Block(_Statement(template, values), limited_as_a_whole=limited_as_a_whole)
        outer, self._block = self._block, block
        outer.body.append(block)
        try:
            yield block
        finally:
            self._block = outer

    def limit(self, seconds: float) -> None:
        """Put a deadline around the last statement, which did not end."""
        if self._block.limited_as_a_whole:
            self._block.timeout = seconds
        else:
            header = _Statement(f"with trio.fail_after({seconds:g}):", ())
            self._block.body[-1:] = [Block(header, self._block.body[-1:])]

    def code(self, open_store: str, why: str, open_reader: str | None = None) -> str:
        """Print the whole program: why as a comment, the statements that define the openers, the rest."""
        body = "\n\n\n".join([*self._definitions.values(), "\n".join(self._main.lines())])
        # What a store raised may have any characters.
        ascii_only = why.encode("ascii", "backslashreplace").decode()
        comment = [f"# {line}" for line in ascii_only.splitlines()]
        openers = [open_store] if open_reader is None else [open_store, open_reader]
        # Helpers are annotated.
        future = ["from __future__ import annotations", ""] if self._definitions else []
        head = "\n".join([*comment, *future, *_imports(body), *openers])
        return f"{head}\n\n\n{body}\n\n\ntrio.run(main)\n"


@cache
def source_of(function: Callable[..., Any] | type) -> str:
    """The source of a function or class, as a program shows it."""
    # The program is not linted.
    return re.sub(r"  # noqa: .*", "", inspect.getsource(function)).rstrip()


def _imports(body: str) -> list[str]:
    modules = [
        name for name in ("gc", "json", "subprocess", "sys", "threading", "time") if f"{name}." in body
    ]
    imports = [f"import {name}" for name in sorted([*modules, "os", "tempfile"])]
    imports += _imported("contextlib", ("asynccontextmanager", "suppress"), body)
    imports += ["from pathlib import Path", "", "import trio"]
    if "trio.testing." in body:
        imports.append("import trio.testing")
    imports.append("")
    imports += _imported("trio_eventlog", _PACKAGE_NAMES, body)
    imports += _imported("trio_eventlog.abc", ("EventPage", "Facets", "HistogramBucket"), body)
    imports += _imported("trio_eventlog.testing", _TESTING_NAMES, body)
    return imports


def _imported(module: str, names: Sequence[str], body: str) -> list[str]:
    used = [name for name in names if re.search(rf"\b{name}\b", body)]
    return [f"from {module} import {', '.join(used)}"] if used else []
