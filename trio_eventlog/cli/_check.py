"""``trio-eventlog check``: check a store against the contract."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number as InRange

from trio_eventlog._util import how_to_install
from trio_eventlog.cli._check_options import Instead, Outputs
from trio_eventlog.cli._options import USAGE_STATUS, Flag, Number, Texts
from trio_eventlog.cli._terminal import CommandError

EXAMPLES: Final = """
trio-eventlog check mypackage.stores:open_store
trio-eventlog check mypackage.stores:open_memory --in-memory --clause S5 --clause S6
trio-eventlog check mypackage.stores:open_store --junit report.xml --json report.json --profile CONFORMANCE.md
trio-eventlog check mypackage.stores:open_store --mutate
"""

_Function: TypeAlias = Annotated[str | None, Parameter(metavar="MODULE:NAME")]
_Seconds: TypeAlias = Annotated[
    float | None, Parameter(metavar="SECONDS", validator=InRange(gt=0, lte=1_000_000))
]
_Examples: TypeAlias = Annotated[Number, Parameter(validator=InRange(gte=1))]

_ABSENT: Final[tuple[object, ...]] = (None, (), {})
"""Options that were not given."""

_NOTHING: Final = Outputs()
_CLAUSES: Final = Instead()


def check(
    target: Annotated[str, Parameter(metavar="MODULE:NAME")],
    /,
    *,
    in_memory: Flag = False,
    reader: _Function = None,
    drop: _Function = None,
    clause: Annotated[Texts, Parameter(metavar="CLAUSE")] = (),
    deviation: Annotated[Texts, Parameter(metavar="CLAUSE=REASON")] = (),
    budget: _Seconds = None,
    op_timeout: _Seconds = None,
    max_examples: _Examples = None,
    seed: Number = None,
    outputs: Outputs = _NOTHING,
    instead: Instead = _CLAUSES,
) -> int:
    """Check a store that you have written against the contract.

    The function takes a directory and returns an async context manager that yields the store. Each clause of
    the contract is checked with generated examples. Failures are printed as small programs. Needs the extra
    `testing`.

    Args:
      target: The function that opens the store.
      in_memory: The store does not keep its events after it is closed.
      reader: The function that opens the store read-only.
      drop: An async function that deletes what the store keeps outside the directory.
      clause: Only check this clause, such as S5; repeat the option for several clauses.
      deviation: The store is known to break this clause, for this reason; repeat the option for several.
      budget: How long to search for failures; by default 50, and 300 with --mutate.
      op_timeout: How long an operation of the store may take before it counts as hanging; by default 5.
      max_examples: Maximum number of examples per check; by default 100.
      seed: Repeat the examples of an earlier run, which printed this number.
      outputs: What is written.
      instead: What is done.
    """
    try:
        from trio_eventlog.cli._check_run import run_check  # noqa: PLC0415 - needs another extra
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "hypothesis":
            raise
        raise CommandError(f"check needs Hypothesis: {how_to_install('testing')}") from exc
    # Like `python -m`: during development, the module is usually in the current directory.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - str
    # Only what was given: not every one goes with everything that can be done instead.
    given = {
        "--in-memory": in_memory,
        "--reader": _function(reader),
        "--drop": _function(drop),
        "--clause": tuple(name.upper() for name in clause),
        "--deviation": dict(map(_declared, deviation)),
        "--budget": budget,
        "--op-timeout": op_timeout,
        "--max-examples": max_examples,
        "--seed": seed,
    }
    options = {name: value for name, value in given.items() if value is not False and value not in _ABSENT}
    return run_check(target, _imported(target), options, outputs, instead)


def _function(target: str | None) -> Callable[..., Any] | None:
    return None if target is None else _imported(target)


def _declared(text: str) -> tuple[str, str]:
    name, _, reason = text.partition("=")
    if not reason.strip():
        raise CommandError(
            f"--deviation: {text!a} has no reason; write CLAUSE=REASON, for example 'S6=the database folds"
            " case'",
            USAGE_STATUS,
        )
    return name.strip().upper(), reason.strip()


def _imported(target: str) -> Callable[..., Any]:
    module_name, _, name = target.partition(":")
    if not module_name or not name or module_name.startswith("."):
        raise CommandError(
            f"{target!a} does not name a function; write MODULE:NAME, for example"
            " mypackage.stores:open_store",
            USAGE_STATUS,
        )
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise CommandError(
                f"there is no module {exc.name} in the current directory or where Python looks for modules",
                USAGE_STATUS,
            ) from exc
        raise
    for part in name.split("."):
        if not hasattr(value, part):
            raise CommandError(f"{module_name} has no {name}", USAGE_STATUS)
        value = getattr(value, part)
    if not callable(value):
        raise CommandError(f"{target} is not a function (it is of type {type(value).__name__})", USAGE_STATUS)
    function: Callable[..., Any] = value
    return function
