"""What a store does with one call, and strategies that draw it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import attrs
from hypothesis import strategies as st

from trio_eventlog import EventRejected, PersistedEvent, SequenceConflict, StoreUnusable


def _check_bool(_fault: object, field: attrs.Attribute[bool], value: object) -> None:
    if type(value) is not bool:
        raise TypeError(f"{field.name}: expected True or False, got {type(value).__name__}")


def _check_error(_fault: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is None or isinstance(value, BaseException):
        return
    # Not a class: it would be raised without a message.
    shown = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    raise TypeError(
        f"{field.name}: expected an exception, such as StoreError('the disk is full'), got {shown}"
    )


def _check_seconds(_fault: object, field: attrs.Attribute[float], value: object) -> None:
    require_seconds(field.name, value)


def require_seconds(name: str, value: object) -> None:
    """Check that ``value`` is a number of seconds that a task can sleep."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected seconds as a number, got {type(value).__name__}")
    # An int may lie beyond every float, where it compares as less than infinity. NaN fails every comparison.
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name}: expected seconds, 0 or more and finite, got {value}")


def _check_fault(_fault: object, field: attrs.Attribute[Any], value: object) -> None:
    require_fault(field.name, value)


def require_fault(name: str, value: object) -> None:
    """Check that ``value`` is a :data:`Fault`."""
    if isinstance(value, Works | Fails | Hangs | Slow | Rejects | GoesBack):
        return
    shown = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    raise TypeError(f"{name}: expected a fault, such as Fails(), got {shown}")


@attrs.frozen
class Works:
    """The store does what it is asked."""


@attrs.frozen
class Fails:
    """The store raises an error.

    Args:
      error: what it raises, the same object each time. By default it is a new :class:`StoreError` each time,
        which the log takes as temporary. A :class:`StoreUnusable` ends the log, and any error that is not a
        :class:`StoreError` breaks the contract of stores.
      after_commit: whether the store first does what it was asked, so that only the answer is lost. For an
        append, the events are then in doubt and stored.

    Raises:
      TypeError: ``error`` is not an exception, or ``after_commit`` is not a bool.
      ValueError: ``after_commit`` with an error that says that nothing was stored.
    """

    error: BaseException | None = attrs.field(default=None, validator=_check_error)
    after_commit: bool = attrs.field(default=False, kw_only=True, validator=_check_bool)

    def __attrs_post_init__(self) -> None:
        if self.after_commit and isinstance(self.error, EventRejected | SequenceConflict):
            # The log believes it, and would report as certainly lost what is stored.
            raise ValueError(f"after_commit: {type(self.error).__name__} says that nothing was stored")


@attrs.frozen
class Hangs:
    """The store does not answer until it is cancelled.

    A log cancels an append after ``append_timeout``. Nothing cancels a query or a call of ``last_seq`` but
    the program itself: without a deadline it waits forever, in virtual time as well.

    Args:
      after_commit: whether the store does what it was asked before it hangs.

    Raises:
      TypeError: ``after_commit`` is not a bool.
    """

    after_commit: bool = attrs.field(default=False, kw_only=True, validator=_check_bool)


@attrs.frozen
class Slow:
    """The store sleeps first. Cancelled meanwhile, it has done nothing.

    Args:
      seconds: how long it sleeps, by Trio's clock; 0 or more, finite.
      then: what it does after that.

    Raises:
      TypeError: ``seconds`` is not a number, or ``then`` is not a fault.
      ValueError: ``seconds`` is out of range.
    """

    seconds: float = attrs.field(validator=_check_seconds)
    then: Fault = attrs.field(default=Works(), validator=_check_fault)


def _to_selection(value: object) -> Any:
    """A predicate as it is; ids as a set."""
    if callable(value):
        if isinstance(value, type) or inspect.iscoroutinefunction(value):
            raise TypeError(f"which: expected a plain function or event ids, got {value!r}")
        return value
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"which: expected event ids or a function of an event, got {type(value).__name__}")
    ids: list[object] = list(value)
    for index, event_id in enumerate(ids):
        if not isinstance(event_id, str):
            raise TypeError(f"which[{index}]: expected the id of an event, got {type(event_id).__name__}")
    return frozenset(ids)


def _check_text(_fault: object, field: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{field.name}: expected a string, got {type(value).__name__}")


@attrs.frozen
class Rejects:
    """The store can never hold some events, and raises :class:`EventRejected`.

    The error names all of these events that are in the batch, and nothing is stored. If none of them is in
    the batch, the store works.

    By the contract a store does not reject an event that it holds. To find out which it holds, the whole
    store is read whenever an event matches: this is for small tests.

    For a store that always rejects these events, pass this as ``otherwise`` of :class:`FaultyStore`. It is
    for appends only.

    Args:
      which: ids of events, or a plain function that takes a :class:`PersistedEvent` and returns whether it is
        one of them.
      reason: the reason that the error gives.

    Raises:
      TypeError: ``which`` is neither, or ``reason`` is not a string.
    """

    which: Callable[[PersistedEvent], bool] | frozenset[str] = attrs.field(converter=_to_selection)
    reason: str = attrs.field(default="rejected by a test", kw_only=True, validator=_check_text)

    def matches(self, event: PersistedEvent) -> bool:
        """Whether ``event`` is rejected, if the store does not hold it."""
        return event.id in self.which if isinstance(self.which, frozenset) else self.which(event)


def _check_events(_fault: object, field: attrs.Attribute[int], value: object) -> None:
    if type(value) is not int:
        raise TypeError(f"{field.name}: expected a number of events, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{field.name}: expected 1 event or more, got {value}")


@attrs.frozen
class GoesBack:
    """The store is restored from a backup: it loses its newest events, and says so.

    The append then raises :class:`StoreWentBack`, and has stored nothing. With an empty store, it works.

    For appends to a store that has a method ``go_back``, as :class:`MemoryStore` has.

    Args:
      events: how many events the store loses; 1 or more, or all that it has.

    Raises:
      TypeError: ``events`` is not an integer.
      ValueError: ``events`` is less than 1.
    """

    events: int = attrs.field(default=1, validator=_check_events)


Fault: TypeAlias = Works | Fails | Hangs | Slow | Rejects | GoesBack
"""What a store does with one call."""


def effect_of(fault: Fault) -> Works | Fails | Hangs | Rejects | GoesBack:
    """What ``fault`` does once it has slept."""
    while isinstance(fault, Slow):
        fault = fault.then
    return fault


# --- strategies -----------------------------------------------------------------------------------


def faults(
    *,
    max_seconds: float = 60.0,
    hang: bool = True,
    unusable: bool = False,
    rejects: Callable[[PersistedEvent], bool] | Iterable[str] | None = None,
    goes_back: bool = False,
) -> st.SearchStrategy[Fault]:
    """A Hypothesis strategy for one fault. Shrinks towards :class:`Works`.

    Args:
      max_seconds: the longest that :class:`Slow` sleeps; 0 or more, finite.
      hang: whether to draw :class:`Hangs`.
      unusable: whether to draw errors that end a log, :class:`StoreUnusable`.
      rejects: if given, :class:`Rejects` is drawn with these events.
      goes_back: whether to draw :class:`GoesBack`.

    Raises:
      TypeError: an argument is of the wrong type.
      ValueError: ``max_seconds`` is out of range.
    """
    require_seconds("max_seconds", max_seconds)
    kinds: list[st.SearchStrategy[Fault]] = [
        st.just(Works()),
        st.builds(Fails, after_commit=st.booleans()),
    ]
    if hang:
        kinds.append(st.builds(Hangs, after_commit=st.booleans()))
    if unusable:
        # Built anew each time: a log adds notes to the error that it raises.
        error = st.builds(StoreUnusable, st.just("the store failed for good, as a test wants it"))
        kinds.append(st.builds(Fails, error, after_commit=st.booleans()))
    if rejects is not None:
        kinds.append(st.just(Rejects(rejects)))
    if goes_back:
        kinds.append(st.builds(GoesBack, st.integers(1, 20)))
    seconds = st.floats(0, max_seconds)
    return st.one_of(*kinds, st.builds(Slow, seconds, st.one_of(*kinds)))


def fault_scripts(
    max_size: int = 20, *, of: st.SearchStrategy[Fault] | None = None
) -> st.SearchStrategy[list[Fault]]:
    """A Hypothesis strategy for the script of a :class:`FaultyStore`. Shrinks towards a short one.

    Args:
      max_size: most faults in it.
      of: what they are drawn from; by default :func:`faults`.
    """
    return st.lists(faults() if of is None else of, max_size=max_size)
