"""The harness as a function."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from trio_eventlog.abc import (
    BoundedStore,
    CountingStore,
    DamageAwareStore,
    ErasableStore,
    EventStore,
    FacetStore,
    FileStore,
    HistogramStore,
    LatestStore,
    LeasedStore,
    LockingStore,
)
from trio_eventlog.testing._arguments import (
    check_deviations,
    check_flag,
    check_function,
    check_integer,
    check_names,
    check_opener,
    check_seconds,
)
from trio_eventlog.testing._checks import CHECKS
from trio_eventlog.testing._clauses import ClauseRunner, checks_of
from trio_eventlog.testing._example import Example
from trio_eventlog.testing._importing import opening_of
from trio_eventlog.testing._interrupts import noticed_interrupts
from trio_eventlog.testing._power._fuse import CannotMount
from trio_eventlog.testing._power._watching import Watcher, watcher_of
from trio_eventlog.testing._report import (
    CLAUSES,
    CheckSettings,
    ClauseResult,
    ConformanceInterrupted,
    ConformanceReport,
    report_of,
)
from trio_eventlog.testing._search import Sandbox, Searcher, run_watched
from trio_eventlog.testing._subject import (
    Children,
    StoreDropper,
    StoreOpener,
    StoreUnderTest,
    find_children,
    fresh_location,
    import_problem,
    refuse_in_child,
)


@attrs.frozen(kw_only=True)
class Declared:
    """What a store says about itself in attributes."""

    max_batch: int | None
    has_lock: bool
    lock_timeout: float
    detects_damage: bool
    keeps_files: bool = False
    """Whether it has files at its location. They are there once it was left, if not before."""
    file_access: str | None
    abilities: frozenset[str] = frozenset()
    """Those of :data:`_ABILITIES` that it has."""


_ABILITIES: Final[dict[str, tuple[type, str]]] = {
    "erase": (ErasableStore, "the store cannot erase"),
    "latest": (LatestStore, "the store cannot read backwards (LatestStore)"),
    "count": (CountingStore, "the store cannot count (CountingStore)"),
    "histogram": (HistogramStore, "the store cannot count by time (HistogramStore)"),
    "facets": (FacetStore, "the store cannot count by value (FacetStore)"),
}
"""Methods that a store may have, by what some checks need, with the reason to give if it has none."""


def first_look(sandbox: Sandbox) -> Declared:
    """Open the store once. What goes wrong here breaks no clause: the store cannot be opened at all."""
    location = fresh_location(sandbox.root)
    example = Example(sandbox.subject, "", location)
    declared: Declared | None = None

    async def look() -> None:
        nonlocal declared
        context: Any = sandbox.subject.open_store(location)
        if not isinstance(context, AbstractAsyncContextManager):
            if hasattr(context, "close"):
                context.close()
            raise TypeError(
                f"open_store: expected it to return an async context manager, got {type(context).__name__};"
                " decorate an async generator function with contextlib.asynccontextmanager"
            )
        async with context as store:
            if not isinstance(store, EventStore):
                kind = type(store).__name__
                raise TypeError(
                    f"open_store: expected a store with append_batch, query and last_seq, got {kind}"
                )
            declared = declarations(store)
            example.alive("leaving the store")
        if declared.detects_damage or declared.file_access is not None:
            has_files = any(path.is_file() for path in location.rglob("*"))
            declared = attrs.evolve(declared, keeps_files=has_files)
        await sandbox.drop([location])

    error = run_watched(look, example)
    if example.violation is not None:
        raise TimeoutError(
            f"{example.in_progress} on a fresh location did not end: {example.violation.message}"
        )
    if error is not None:
        error.add_note("Raised by opening the store on a fresh location, before any clause was checked.")
        raise error
    assert declared is not None
    return declared


def declarations(store: EventStore) -> Declared:
    """What ``store`` declares; a TypeError if one of its attributes is of the wrong type or out of range."""
    max_batch = store.max_batch if isinstance(store, BoundedStore) else None
    if max_batch is not None and (type(max_batch) is not int or max_batch < 1):
        raise TypeError(f"max_batch: expected None or an integer of at least 1, got {max_batch!r}")
    lock_timeout = store.lock_timeout if isinstance(store, LeasedStore) else 0.0
    if type(lock_timeout) not in (int, float) or not 0 <= lock_timeout < math.inf:
        raise TypeError(f"lock_timeout: expected seconds, finite and not negative, got {lock_timeout!r}")
    file_access = store.file_access if isinstance(store, FileStore) else None
    if file_access not in (None, "apsw", "os"):
        raise TypeError(f"file_access: expected 'apsw', 'os' or None, got {file_access!r}")
    return Declared(
        max_batch=max_batch,
        has_lock=bool(store.has_lock) if isinstance(store, LockingStore) else True,
        lock_timeout=lock_timeout,
        detects_damage=bool(store.detects_damage) if isinstance(store, DamageAwareStore) else False,
        file_access=file_access,
        abilities=frozenset(need for need, (ability, _) in _ABILITIES.items() if isinstance(store, ability)),
    )


DEFAULT_BUDGET: Final = 50.0
DEFAULT_OP_TIMEOUT: Final = 5.0
DEFAULT_MAX_EXAMPLES: Final = 100

_SEED_BITS: Final = 64


def check_store(
    open_store: StoreOpener,
    *,
    durable: bool = True,
    open_reader: StoreOpener | None = None,
    drop_store: StoreDropper | None = None,
    clauses: Collection[str] | None = None,
    budget: float = DEFAULT_BUDGET,
    op_timeout: float = DEFAULT_OP_TIMEOUT,
    max_examples: int = DEFAULT_MAX_EXAMPLES,
    seed: int | None = None,
    deviations: Mapping[str, str] | None = None,
    on_result: Callable[[ClauseResult], None] | None = None,
) -> ConformanceReport:
    """Check a store against the contract, clause by clause.

    It runs Trio itself, on the real clock, each example in a :func:`trio.run` and a thread of its own; do not
    call it from within Trio. Hypothesis draws the examples and shrinks those that fail. Ctrl-C cancels the
    example that is running; what is raised then has a report of what was found so far.

    Args:
      open_store: takes a location and returns an async context manager that yields the store. A location
        is an empty directory with a name that no run before had, ``te_`` and 20 hexadecimal digits, so
        that a store on a network can take the name for its log or its schema. All locations of a run
        are in the same directory.
      durable: whether opening a location again shows the same data. False for stores in memory: reopening,
        kills and the lock are left out.
      open_reader: the same as ``open_store`` for a read-only instance, if the store has one.
      drop_store: an async function that removes what the store keeps for a location outside of its
        directory. Called with each location, once its example has ended.
      clauses: which clauses to check, such as ``["S1", "S5"]``; None for all.
      budget: how long to look for failures in all, in seconds. It is spread over the clauses; time that one
        does not need goes to those after it. A check that needs longer for its first 20 examples, or its
        share of that, may use most of what is left, and its last example is cut off then. One that has not
        tried that many, or not all of its fixed examples, is not finished, and so is its clause. Shrinking a
        failure takes time beyond the budget, 2 s or more; so does opening the store before the first check.
      op_timeout: seconds after which an operation of the store counts as hung. One that was cancelled has
        to end within a fifth of that; with the default, within the second of S11.
      max_examples: most examples of a check. Checks whose examples are costly get a share of that; those
        that have a few fixed examples try all of them.
      seed: the seed of an earlier run, from its report, to draw the same examples; None for new ones.
      deviations: clauses that the store is known to break, each with the reason. They are checked all the
        same, and reported as deviations rather than as failures.
      on_result: called with the result of each clause as soon as it is known.

    Returns:
      What was found.

    Raises:
      ConformanceInterrupted: Ctrl-C; it is a KeyboardInterrupt.
      TypeError: an argument has the wrong type; ``open_store`` does not return an async context manager of a
        store.
      ValueError: an unknown clause; a deviation without a reason; a number out of range.
      RuntimeError: called from within :func:`trio.run`; or by a script that a child process imports, where
        the call does not stand below ``if __name__ == "__main__":``.
      TimeoutError: opening or leaving the store on a fresh location did not end.
      Exception: what opening the store on a fresh location raised, before any clause was checked; what
        ``drop_store`` raised.
    """
    return run_checks(
        StoreUnderTest(
            open_store=open_store,
            open_reader=open_reader,
            drop_store=drop_store,
            durable=durable,
            op_timeout=op_timeout,
        ),
        clauses=clauses,
        settings=CheckSettings(
            durable=durable, budget=budget, op_timeout=op_timeout, max_examples=max_examples
        ),
        seed=seed,
        deviations={} if deviations is None else deviations,
        on_result=on_result,
    )


def run_checks(
    plain: StoreUnderTest,
    *,
    clauses: Collection[str] | None,
    settings: CheckSettings,
    seed: int | None,
    deviations: Mapping[str, str],
    on_result: Callable[[ClauseResult], None] | None = None,
    reserve: float = 0.0,
    shrinks: bool = True,
    uses_children: bool = True,
) -> ConformanceReport:
    """What :func:`check_store` does.

    With seconds in ``reserve`` for checks that have not tried enough. Without ``shrinks``, the first example
    that fails is reported, and nobody makes sure of its program; without ``uses_children``, no other process
    is started.
    """
    wanted = _checked_clauses(clauses)
    _check_arguments(plain, settings, seed, deviations, on_result)
    began = time.monotonic()
    if seed is None:
        seed = int.from_bytes(os.urandom(_SEED_BITS // 8), "big")
    with (
        tempfile.TemporaryDirectory(prefix="trio_eventlog_", ignore_cleanup_errors=True) as root,
        noticed_interrupts() as interrupts,
        ExitStack() as stack,
    ):
        sandbox, lacking = _prepared(
            plain, Path(root), wanted, stack, uses_children=uses_children, makes_sure=shrinks
        )
        searcher = Searcher(sandbox, seed, interrupts)
        runner = ClauseRunner(
            searcher=searcher,
            lacking=lacking,
            remaining=settings.budget,
            max_examples=settings.max_examples,
            seed=seed,
            pending=checks_of(wanted, lacking),
            deviations=deviations,
            reserve=reserve,
            shrinks=shrinks,
        )
        results = runner.check_all(wanted, on_result)
    report = report_of(
        results,
        seed=seed,
        seconds=time.monotonic() - began,
        settings=settings,
        interrupted=runner.interrupted,
    )
    if runner.interrupted:
        raise ConformanceInterrupted(report)
    return report


def _prepared(
    plain: StoreUnderTest,
    root: Path,
    wanted: list[str],
    stack: ExitStack,
    *,
    uses_children: bool,
    makes_sure: bool,
) -> tuple[Sandbox, dict[str, str]]:
    """Look at the store once. Returns where it is tried, and what it lacks.

    What is needed for that is freed when ``stack`` is closed.
    """
    opening = opening_of(plain.open_store)
    needed = frozenset[str]().union(*(check.needs for check in CHECKS if check.clause in wanted))
    uses_children &= "children" in needed and plain.durable
    if opening.runs_main and opening.problem is None and makes_sure and not uses_children:
        # Whether a script can be run once more is known only to who has tried.
        problem = import_problem(opening)
        opening = opening if problem is None else opening.fails("open_store", problem)
    reading = None if plain.open_reader is None else opening_of(plain.open_reader, "open_reader")
    sandbox = Sandbox(root, plain, opening.code, None if reading is None else reading.code)
    declared = first_look(sandbox)
    children = find_children(opening, reading) if uses_children else "not needed"
    if opening.runs_main and opening.problem is None and isinstance(children, str) and uses_children:
        opening = opening.fails("open_store", children)
    watcher = _watcher(stack, declared, is_needed="files" in needed and plain.durable)
    subject = attrs.evolve(
        plain,
        max_batch=declared.max_batch,
        lock_timeout=declared.lock_timeout,
        watcher=None if isinstance(watcher, str) else watcher,
        children=children if isinstance(children, Children) else None,
    )
    sandbox = attrs.evolve(sandbox, subject=subject, opening=opening.code)
    return sandbox, _lacking(subject, declared, children, watcher)


def _checked_clauses(clauses: Collection[str] | None) -> list[str]:
    if clauses is not None:
        check_names("clauses", clauses, next(iter(CLAUSES)), CLAUSES, _ALL)
    return [clause for clause in CLAUSES if clauses is None or clause in clauses]


_ALL: Final = f"{next(iter(CLAUSES))} to {list(CLAUSES)[-1]}"


def _check_arguments(
    subject: StoreUnderTest, settings: CheckSettings, seed: object, deviations: object, on_result: object
) -> None:
    check_subject(subject)
    check_seconds("budget", settings.budget)
    check_integer("max_examples", settings.max_examples, 1)
    check_integer("seed", seed, 0, optional=True)
    check_declared(deviations)
    check_function("on_result", on_result, "a function of a result", optional=True)
    refuse_in_child()
    if _in_trio():
        raise RuntimeError("check_store() runs Trio itself: call it from synchronous code, or in a thread")


def check_subject(subject: StoreUnderTest) -> None:
    """Raise TypeError or ValueError if the store cannot be tried as it is described."""
    check_opener(subject.open_store)
    check_opener(subject.open_reader, "open_reader", optional=True)
    check_opener(subject.drop_store, "drop_store", optional=True)
    check_flag("durable", subject.durable)
    check_seconds("op_timeout", subject.op_timeout)


def check_declared(deviations: object) -> None:
    """Raise TypeError or ValueError unless these are clauses with the reasons why they are broken."""
    check_deviations(deviations, CLAUSES, _ALL)


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def _watcher(stack: ExitStack, declared: Declared, *, is_needed: bool) -> Watcher | str:
    """What watches the files of the store until the stack is closed; or why nothing does."""
    if declared.file_access is None:
        return "the store does not say how its files can be watched (FileStore)"
    if not declared.keeps_files:
        return "the store keeps no files at its location"
    if not is_needed:
        return "not needed"
    try:
        return stack.enter_context(watcher_of(declared.file_access))
    except CannotMount as exc:
        return str(exc)


def _lacking(
    subject: StoreUnderTest, declared: Declared, children: Children | str, watcher: Watcher | str
) -> dict[str, str]:
    """What the store does not have, each with the reason to give for what is left out."""
    lacking: dict[str, str] = {}
    if subject.open_reader is None:
        lacking["reader"] = "no open_reader was given"
    if isinstance(children, str):
        lacking["children"] = lacking["reading children"] = children
    elif children.reading is None and subject.open_reader is not None:
        lacking["reading children"] = "a child process cannot import open_reader"
    if isinstance(watcher, str):
        lacking["files"] = watcher
    if not declared.has_lock:
        lacking["lock"] = "the store declares that it has no lock"
    if not declared.detects_damage:
        lacking["damage"] = "the store does not declare that it detects damage"
    elif not declared.keeps_files:
        lacking["damage"] = "the store keeps no files at its location"
    for need, (_, reason) in _ABILITIES.items():
        if need not in declared.abilities:
            lacking[need] = reason
    if not subject.durable:
        lacking["durable"] = "the store is not durable"
    return lacking
