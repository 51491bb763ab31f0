"""The harness as a function."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from trio_eventlog import EventStore
from trio_eventlog.testing._checks import CHECKS
from trio_eventlog.testing._children import Children, find_children, opening_statements
from trio_eventlog.testing._contract import CLAUSES
from trio_eventlog.testing._report import (
    ClauseFailure,
    ClausePassed,
    ClauseResult,
    ClauseSkipped,
    ConformanceReport,
)
from trio_eventlog.testing._search import Check, Finding, Searcher, Workplace, run_watched
from trio_eventlog.testing._session import DropStore, OpenStore, Session, Subject, fresh_location

DEFAULT_BUDGET: Final = 45.0
DEFAULT_OP_TIMEOUT: Final = 5.0
DEFAULT_MAX_EXAMPLES: Final = 100

_SEED_BITS: Final = 64


def check_store(
    open_store: OpenStore,
    *,
    durable: bool = True,
    open_reader: OpenStore | None = None,
    drop_store: DropStore | None = None,
    clauses: Collection[str] | None = None,
    budget: float = DEFAULT_BUDGET,
    op_timeout: float = DEFAULT_OP_TIMEOUT,
    max_examples: int = DEFAULT_MAX_EXAMPLES,
    seed: int | None = None,
    on_result: Callable[[ClauseResult], None] | None = None,
) -> ConformanceReport:
    """Check a store against the contract, clause by clause.

    Runs Trio itself, on the real clock, each example in a :func:`trio.run` and a thread of its own; so it
    is not called from within Trio. Hypothesis draws the examples and shrinks those that fail. Ctrl-C
    cancels the example that is running, and comes out.

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
      budget: seconds that looking for failures takes in all, spread over the clauses; time that one does
        not need goes to those after it. Each check tries one example at least, so that a slow store takes
        longer. A failure takes time beyond the budget, 2 s or more, to shrink it.
      op_timeout: seconds after which an operation of the store counts as hung. One that was cancelled has
        to end within a fifth of that; with the default, within the second of S11.
      max_examples: most examples of a check. Checks whose examples are costly get a share of that; those
        that have a few fixed examples try all of them.
      seed: draws the same examples as a run before, whose report has it; None for new ones.
      on_result: called with the result of each clause as soon as it is known.

    Returns:
      What was found.

    Raises:
      TypeError: ``open_store`` is no function, or does not return an async context manager of a store.
      ValueError: an unknown clause; a number out of range.
      RuntimeError: called from within :func:`trio.run`.
      TimeoutError: opening or leaving the store on a fresh location did not end.
      Exception: what opening the store on a fresh location raised, before any clause was checked; what
        ``drop_store`` raised.
    """
    wanted = _checked_arguments(open_store, clauses, budget, op_timeout, max_examples)
    began = time.monotonic()
    if seed is None:
        seed = int.from_bytes(os.urandom(_SEED_BITS // 8), "big")
    with tempfile.TemporaryDirectory(prefix="trio_eventlog_", ignore_cleanup_errors=True) as root:
        plain = Subject(
            open_store=open_store,
            open_reader=open_reader,
            drop_store=drop_store,
            durable=durable,
            op_timeout=op_timeout,
        )
        opening = opening_statements(open_store) or f"open_store = ...  # yours: {open_store!r}"
        reading = None
        if open_reader is not None:
            reading = opening_statements(open_reader, "open_reader") or "open_reader = ...  # yours"
        place = Workplace(Path(root), plain, opening, reading)
        declared = _first_look(place)
        needed = frozenset[str]().union(*(check.needs for check in CHECKS if check.clause in wanted))
        children = find_children(open_store) if "children" in needed and durable else "not needed"
        subject = attrs.evolve(
            plain,
            max_batch=declared.max_batch,
            lock_timeout=declared.lock_timeout,
            children=children if isinstance(children, Children) else None,
        )
        lacking = _lacking(subject, declared, children)
        searcher = Searcher(attrs.evolve(place, subject=subject), seed)
        results = _run(
            searcher,
            wanted,
            lacking,
            budget=budget,
            max_examples=max_examples,
            seed=seed,
            on_result=on_result,
        )
    return ConformanceReport(
        passed=tuple(result for result in results if isinstance(result, ClausePassed)),
        failures=tuple(result for result in results if isinstance(result, ClauseFailure)),
        skipped=tuple(result for result in results if isinstance(result, ClauseSkipped)),
        seed=seed,
        seconds=time.monotonic() - began,
    )


def _checked_arguments(
    open_store: object, clauses: Collection[str] | None, budget: float, op_timeout: float, max_examples: int
) -> list[str]:
    if not callable(open_store):
        msg = f"open_store: expected a function of a location, got {type(open_store).__name__}"
        raise TypeError(msg)
    if isinstance(clauses, str):
        msg = f"clauses: expected a collection such as [{clauses!r}], got a string"
        raise TypeError(msg)
    unknown = sorted(set(clauses or ()) - set(CLAUSES))
    if unknown or (clauses is not None and not clauses):
        msg = f"clauses: expected some of S1 to S15, got {', '.join(unknown) or 'none'}"
        raise ValueError(msg)
    for name, value in (("budget", budget), ("op_timeout", op_timeout)):
        if not (value > 0 and math.isfinite(value)):
            msg = f"{name}: expected more than 0 seconds, and finite, got {value}"
            raise ValueError(msg)
    if max_examples < 1:
        msg = f"max_examples: expected at least 1, got {max_examples}"
        raise ValueError(msg)
    if _in_trio():
        msg = "check_store() runs Trio itself: call it from synchronous code, or in a thread"
        raise RuntimeError(msg)
    return [clause for clause in CLAUSES if clauses is None or clause in clauses]


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


# --- the first look -------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Declared:
    """What a store says about itself in attributes."""

    max_batch: int | None
    has_lock: bool
    lock_timeout: float


def _first_look(place: Workplace) -> _Declared:
    """Open the store once. What goes wrong here is no clause but the way in which it is opened."""
    location = fresh_location(place.root)
    session = Session(place.subject, "", location)
    declared: _Declared | None = None

    async def look() -> None:
        nonlocal declared
        context: Any = place.subject.open_store(location)
        if not isinstance(context, AbstractAsyncContextManager):
            if hasattr(context, "close"):
                context.close()
            msg = (
                f"open_store: expected it to return an async context manager, got {type(context).__name__};"
                " decorate an async generator function with contextlib.asynccontextmanager"
            )
            raise TypeError(msg)
        async with context as store:
            if not isinstance(store, EventStore):
                kind = type(store).__name__
                msg = f"open_store: expected a store with append_batch, query and last_seq, got {kind}"
                raise TypeError(msg)
            declared = declarations(store)
            session.alive("leaving the store")
        await place.drop([location])

    error = run_watched(look, session)
    if session.violation is not None:
        raise TimeoutError(
            f"{session.in_progress} on a fresh location did not end: {session.violation.message}"
        )
    if error is not None:
        error.add_note("Raised by opening the store on a fresh location, before any clause was checked.")
        raise error
    assert declared is not None
    return declared


def declarations(store: EventStore) -> _Declared:
    """What ``store`` declares.

    Raises:
      TypeError: one of its attributes is no such declaration.
    """
    max_batch = getattr(store, "max_batch", None)
    if max_batch is not None and (type(max_batch) is not int or max_batch < 1):
        msg = f"max_batch: expected None or an integer of at least 1, got {max_batch!r}"
        raise TypeError(msg)
    lock_timeout = getattr(store, "lock_timeout", 0.0)
    if type(lock_timeout) not in (int, float) or not 0 <= lock_timeout < math.inf:
        msg = f"lock_timeout: expected seconds, finite and not negative, got {lock_timeout!r}"
        raise TypeError(msg)
    return _Declared(
        max_batch=max_batch, has_lock=bool(getattr(store, "has_lock", True)), lock_timeout=lock_timeout
    )


def _lacking(subject: Subject, declared: _Declared, children: Children | str) -> dict[str, str]:
    """What the store does not have, each with the reason to give for what is left out."""
    lacking: dict[str, str] = {}
    if subject.open_reader is None:
        lacking["reader"] = "no open_reader was given"
    if isinstance(children, str):
        lacking["children"] = children
    if not declared.has_lock:
        lacking["lock"] = "the store declares that it has no lock"
    if not subject.durable:
        lacking["durable"] = "the store is not durable"
    return lacking


# --- all checks -----------------------------------------------------------------------------------


def _run(
    searcher: Searcher,
    wanted: list[str],
    lacking: dict[str, str],
    *,
    budget: float,
    max_examples: int,
    seed: int,
    on_result: Callable[[ClauseResult], None] | None,
) -> list[ClauseResult]:
    results: list[ClauseResult] = []
    pending = [check for check in CHECKS if check.clause in wanted and not check.needs & lacking.keys()]
    remaining = budget
    for clause in wanted:
        checks = [check for check in pending if check.clause == clause]
        began = time.monotonic()
        examples = 0
        finding: Finding | None = None
        for check in checks:
            allotted = remaining * _weight(check) / sum(map(_weight, pending))
            pending.remove(check)
            # The first way in which a clause is broken is enough: others cost time, and are often the same.
            if finding is None:
                started = time.monotonic()
                searched = searcher.search(check, max_examples=check.examples(max_examples), seconds=allotted)
                examples += searched.examples
                finding = searched.finding
                spent = time.monotonic() - started
                # Shrinking has time of its own.
                remaining = max(0.0, remaining - (min(spent, allotted) if finding else spent))
        common = {"clause": clause, "sentence": CLAUSES[clause]}
        seconds = time.monotonic() - began
        result: ClauseResult
        if finding is not None:
            result = ClauseFailure(
                **common,
                check=finding.check,
                message=finding.message,
                example=finding.program,
                seed=seed,
                intermittent=finding.intermittent,
                examples=examples,
                seconds=seconds,
            )
        elif not checks:
            reasons = dict.fromkeys(reason for _, reason in _left_out(clause, lacking))
            result = ClauseSkipped(**common, reason="; ".join(reasons))
        else:
            left_out = tuple(f"{name}: {reason}" for name, reason in _left_out(clause, lacking))
            result = ClausePassed(**common, examples=examples, seconds=seconds, left_out=left_out)
        if on_result is not None:
            on_result(result)
        results.append(result)
    return results


def _left_out(clause: str, lacking: dict[str, str]) -> list[tuple[str, str]]:
    """The checks of a clause for which the store lacks something: their names, each with the reason."""
    # What was noted last says most: a store that is not durable need not hear of child processes.
    return [
        (check.name, next(reason for need, reason in reversed(lacking.items()) if need in check.needs))
        for check in CHECKS
        if check.clause == clause and check.needs & lacking.keys()
    ]


def _weight(check: Check) -> float:
    # Few examples do not mean little time: those with a small share are the costly ones.
    return 0.3 if check.fixed is not None else max(check.share, 0.3)


def clause_shares() -> dict[str, float]:
    """Which part of the budget each clause gets; 1.0 in all."""
    total = sum(map(_weight, CHECKS))
    return {
        clause: sum(_weight(check) for check in CHECKS if check.clause == clause) / total
        for clause in CLAUSES
    }
