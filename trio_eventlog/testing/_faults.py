"""Stores that fail on command, and the check that nothing vanished meanwhile.

Knows the public names of the library only, and no pytest.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, Protocol, TypeAlias, TypeVar, TypeVarTuple, runtime_checkable

import attrs
import trio
import trio.testing
from hypothesis import strategies as st

from trio_eventlog import (
    AppendFailureReport,
    EventQuery,
    EventRejected,
    EventStore,
    LossReport,
    PersistedEvent,
    Report,
    RevertReport,
    SequenceConflict,
    SpillDamageReport,
    SpillFailureReport,
    SpillReport,
    StoreError,
    StoreUnusable,
)

T = TypeVar("T")
PosArgs = TypeVarTuple("PosArgs")

_SHOWN: Final = 10
"""Most seqs that a message names."""

# --- what a store does with one call --------------------------------------------------------------


def _check_bool(_fault: object, field: attrs.Attribute[bool], value: object) -> None:
    if type(value) is not bool:
        msg = f"{field.name}: expected True or False, got {type(value).__name__}"
        raise TypeError(msg)


def _check_error(_fault: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is None or isinstance(value, BaseException):
        return
    # Not a class: it would be raised without a message.
    shown = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    msg = f"{field.name}: expected an exception, such as StoreError('the disk is full'), got {shown}"
    raise TypeError(msg)


def _check_seconds(_fault: object, field: attrs.Attribute[float], value: object) -> None:
    _require_seconds(field.name, value)


def _require_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name}: expected seconds as a number, got {type(value).__name__}"
        raise TypeError(msg)
    # An int may lie beyond every float, where it compares as less than infinity. NaN fails every comparison.
    if not 0 <= value <= sys.float_info.max:
        msg = f"{name}: expected seconds, 0 or more and finite, got {value}"
        raise ValueError(msg)


def _check_fault(_fault: object, field: attrs.Attribute[Any], value: object) -> None:
    _require_fault(field.name, value)


def _require_fault(name: str, value: object) -> None:
    if isinstance(value, Works | Fails | Hangs | Slow | Rejects | GoesBack):
        return
    if isinstance(value, type):
        msg = f"{name}: expected a fault, such as Fails(), got the class {value.__name__}"
    else:
        msg = f"{name}: expected a fault, such as Fails(), got {type(value).__name__}"
    raise TypeError(msg)


@attrs.frozen
class Works:
    """The store does what it is asked."""


@attrs.frozen
class Fails:
    """The store raises an error.

    Args:
      error: what it raises: by default a new :class:`StoreError` each time, which the log takes as
        passing. A :class:`StoreUnusable` ends the log, and what is no :class:`StoreError` breaks the
        contract of stores. The object that is given is raised each time.
      after_commit: True if the store does what it was asked first, so that only the answer is lost. For
        an append this is the case that leaves the events in doubt and stored.

    Raises:
      TypeError: ``error`` is no exception, or ``after_commit`` no bool.
      ValueError: ``after_commit`` with an error that says that nothing was stored.
    """

    error: BaseException | None = attrs.field(default=None, validator=_check_error)
    after_commit: bool = attrs.field(default=False, kw_only=True, validator=_check_bool)

    def __attrs_post_init__(self) -> None:
        if self.after_commit and isinstance(self.error, EventRejected | SequenceConflict):
            # The log believes it, and would report as certainly lost what is stored.
            msg = f"after_commit: {type(self.error).__name__} says that nothing was stored"
            raise ValueError(msg)


@attrs.frozen
class Hangs:
    """The store does not answer until it is cancelled.

    A log cancels an append after ``append_timeout``. A query or a question for the last seq is cancelled
    by nobody but the program: without a deadline it waits for ever, also in virtual time.

    Args:
      after_commit: True if the store does what it was asked before it hangs.

    Raises:
      TypeError: ``after_commit`` is no bool.
    """

    after_commit: bool = attrs.field(default=False, kw_only=True, validator=_check_bool)


@attrs.frozen
class Slow:
    """The store takes its time. Cancelled meanwhile, it has done nothing.

    Args:
      seconds: how long it sleeps, by Trio's clock; 0 or more, finite.
      then: what it does then.

    Raises:
      TypeError: ``seconds`` is no number, or ``then`` no fault.
      ValueError: ``seconds`` is out of range.
    """

    seconds: float = attrs.field(validator=_check_seconds)
    then: Fault = attrs.field(default=Works(), validator=_check_fault)


def _to_selection(value: object) -> Any:
    """A predicate as it is; ids as a set."""
    if callable(value):
        if isinstance(value, type) or inspect.iscoroutinefunction(value):
            msg = f"which: expected a plain function or event ids, got {value!r}"
            raise TypeError(msg)
        return value
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        msg = f"which: expected event ids or a function of an event, got {type(value).__name__}"
        raise TypeError(msg)
    ids: list[object] = list(value)
    for index, event_id in enumerate(ids):
        if not isinstance(event_id, str):
            msg = f"which[{index}]: expected the id of an event, got {type(event_id).__name__}"
            raise TypeError(msg)
    return frozenset(ids)


def _check_text(_fault: object, field: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        msg = f"{field.name}: expected a string, got {type(value).__name__}"
        raise TypeError(msg)


@attrs.frozen
class Rejects:
    """The store says that it can never hold some events: it raises :class:`EventRejected`, which names
    all of the batch that are meant, and stores nothing. Without any of them in the batch, it works.

    By the contract a store rejects nothing that it holds; such events are never meant. To find out, it
    is read as a whole whenever an event matches, so that this is for small tests.

    For a store that rejects these events always, pass this as ``otherwise`` of :class:`FaultyStore`. It
    makes sense for appends only.

    Args:
      which: ids of events, or a plain function that gets a :class:`PersistedEvent` and returns whether
        it is meant.
      reason: what the error gives as its reason.

    Raises:
      TypeError: ``which`` is neither, or ``reason`` no string.
    """

    which: Callable[[PersistedEvent], bool] | frozenset[str] = attrs.field(converter=_to_selection)
    reason: str = attrs.field(default="rejected by a test", kw_only=True, validator=_check_text)

    def matches(self, event: PersistedEvent) -> bool:
        """Whether ``event`` is meant, if the store does not hold it."""
        return event.id in self.which if isinstance(self.which, frozenset) else self.which(event)


def _check_events(_fault: object, field: attrs.Attribute[int], value: object) -> None:
    if type(value) is not int:
        msg = f"{field.name}: expected a number of events, got {type(value).__name__}"
        raise TypeError(msg)
    if value < 1:
        msg = f"{field.name}: expected 1 event or more, got {value}"
        raise ValueError(msg)


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


@runtime_checkable
class _CanGoBack(Protocol):
    def go_back(self, last_seq: int) -> None: ...


Fault: TypeAlias = Works | Fails | Hangs | Slow | Rejects | GoesBack
"""What a store does with one call."""


def _in_the_end(fault: Fault) -> Works | Fails | Hangs | Rejects | GoesBack:
    """What ``fault`` comes to, after all that it sleeps."""
    while isinstance(fault, Slow):
        fault = fault.then
    return fault


async def _suffer(fault: Fault, work: Callable[[], Awaitable[T]]) -> T:
    """Do ``work`` as ``fault`` says. What a store rejects, or loses, is up to ``work``."""
    await trio.lowlevel.checkpoint()
    while isinstance(fault, Slow):
        await trio.sleep(fault.seconds)
        fault = fault.then
    if isinstance(fault, Works | Rejects | GoesBack):
        return await work()
    if fault.after_commit:
        await work()
    if isinstance(fault, Hangs):
        await trio.sleep_forever()
    raise _error_of(fault)


def _error_of(fault: Fails) -> BaseException:
    if fault.error is None:
        return StoreError("the store failed, as a test wants it")
    # Raised again, it would carry the traceback of every time before.
    return fault.error.with_traceback(None)


# --- a store that does it -------------------------------------------------------------------------


@attrs.frozen
class AppendCall:
    """One call of :meth:`FaultyStore.append_batch`, as it began."""

    started_at: float
    """When, by ``trio.current_time()``."""

    seqs: tuple[int, ...]
    """The seqs of the batch, in the order given."""

    fault: Fault
    """What the store was to do with it."""


class FaultyStore:
    """Puts faults between a log and its store.

    ::

        store = FaultyStore(MemoryStore(), [Fails(), Slow(3.0)])  # the third append, and all later, works

    It keeps the contract of :class:`EventStore` if the store that it is put around does, except where a fault
    says otherwise. Open the log on this one. What is left at the end is in :attr:`inner`, which
    can be asked without a fault. Every method is a checkpoint, and cancellable; cancelled before the inner
    store was asked, it has done nothing.

    Args:
      inner: the store that does the work.
      script: what to do with the first appends, in this order, one fault a call. Any iterable, also an
        infinite one; it is read one fault at a time.
      otherwise: what to do with the appends after the script.
      query_script: the same for queries. After it, they work.
      last_seq_script: the same for questions for the last seq, of which a log asks one, when it is opened.

    Raises:
      TypeError: ``inner`` is not a store, a script not iterable, or something in it not a fault; or it is
        :class:`GoesBack`, and ``inner`` cannot.
      ValueError: :class:`Rejects` or :class:`GoesBack` where nothing is appended.

    What an iterator yields, and not a collection such as a list, is only checked when its turn comes.
    """

    def __init__(
        self,
        inner: EventStore,
        script: Iterable[Fault] = (),
        *,
        otherwise: Fault = Works(),
        query_script: Iterable[Fault] = (),
        last_seq_script: Iterable[Fault] = (),
    ) -> None:
        if isinstance(inner, type) or not isinstance(inner, EventStore):
            msg = f"inner: expected an object with append_batch, query and last_seq, got {inner!r}"
            raise TypeError(msg)
        self._inner = inner
        self._script = _read("script", script, inner)
        self._query_script = _read("query_script", query_script, None)
        self._last_seq_script = _read("last_seq_script", last_seq_script, None)
        self._appends: list[AppendCall] = []
        self.otherwise = otherwise

    def __repr__(self) -> str:
        return f"<FaultyStore around {self._inner!r}>"

    @property
    def inner(self) -> EventStore:
        """The store that does the work."""
        return self._inner

    @property
    def otherwise(self) -> Fault:
        """What is done with the appends after the script. Set it to switch the store off and on; a call
        that is under way goes on as it began.
        """
        return self._otherwise

    @otherwise.setter
    def otherwise(self, fault: Fault) -> None:
        _require_fault("otherwise", fault)
        _require_ability("otherwise", fault, self._inner)
        self._otherwise = fault

    @property
    def appends(self) -> tuple[AppendCall, ...]:
        """All calls of :meth:`append_batch`, also those that failed or were cancelled."""
        return tuple(self._appends)

    @property
    def max_batch(self) -> int | None:
        """The largest batch of the inner store, None if it declares none."""
        max_batch: int | None = getattr(self._inner, "max_batch", None)
        return max_batch

    @property
    def log_id(self) -> str | None:
        """What tells the log of the inner store from others, None if that does not say."""
        log_id: str | None = getattr(self._inner, "log_id", None)
        return log_id

    @property
    def survives(self) -> str:
        """What an append of the inner store survives, ``"process"`` if that does not say."""
        survives: str = getattr(self._inner, "survives", "process")
        return survives

    @property
    def sync(self) -> Callable[[], Awaitable[object]] | None:
        """``sync`` of the inner store, without a fault; None if it has none."""
        sync: Callable[[], Awaitable[object]] | None = getattr(self._inner, "sync", None)
        return sync

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        """Store a batch, or do what the script says; see :meth:`EventStore.append_batch`."""
        batch = tuple(events)
        fault = next(self._script, self._otherwise)
        self._appends.append(AppendCall(trio.current_time(), tuple(event.seq for event in batch), fault))
        return await _suffer(fault, partial(self._append, batch, _in_the_end(fault)))

    async def _append(self, batch: tuple[PersistedEvent, ...], fault: Fault) -> Collection[int]:
        if isinstance(fault, Rejects):
            matching = [event for event in batch if fault.matches(event)]
            if matching:
                await self._reject(matching, fault.reason)
        if isinstance(fault, GoesBack):
            assert isinstance(self._inner, _CanGoBack), "checked when the fault was given"
            seqs = [event.seq for event in await self._inner.query(EventQuery())]
            self._inner.go_back(([0] * fault.events + seqs)[len(seqs) - 1])
        return await self._inner.append_batch(batch)

    async def _reject(self, matching: list[PersistedEvent], reason: str) -> None:
        # An append that was cancelled may still be under way: the last seq, unlike a query, waits for it.
        await self._inner.last_seq()
        held = {event.id for event in await self._inner.query(EventQuery())}
        rejected = [event for event in matching if event.id not in held]
        if rejected:
            raise EventRejected(rejected, reason)

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        """Events that match, or what the script says; see :meth:`EventStore.query`."""
        fault = next(self._query_script, Works())
        return await _suffer(fault, partial(self._inner.query, query))

    async def last_seq(self) -> int:
        """The highest seq ever stored, or what the script says; see :meth:`EventStore.last_seq`."""
        fault = next(self._last_seq_script, Works())
        return await _suffer(fault, self._inner.last_seq)

    async def pruned_seq(self) -> int:
        """The highest seq that was pruned from the inner store; 0 if that does not say."""
        pruned_seq = getattr(self._inner, "pruned_seq", None)
        if pruned_seq is None:
            await trio.lowlevel.checkpoint()
            return 0
        seq: int = await pruned_seq()
        return seq


def _require_ability(name: str, fault: Fault, inner: EventStore) -> None:
    if isinstance(_in_the_end(fault), GoesBack) and not isinstance(inner, _CanGoBack):
        msg = f"{name}: GoesBack needs a store with a method go_back, such as MemoryStore, got {inner!r}"
        raise TypeError(msg)


def _read(name: str, script: Iterable[Fault], appends_to: EventStore | None) -> Iterator[Fault]:
    """The faults of ``script``, checked: at once where that is possible, or else one by one."""
    if isinstance(script, str | bytes) or not isinstance(script, Iterable):
        msg = f"{name}: expected faults in a list or another iterable, got {type(script).__name__}"
        raise TypeError(msg)
    checked = _checked(name, script, appends_to)
    return iter(tuple(checked)) if isinstance(script, Collection) else checked


def _checked(name: str, script: Iterable[Fault], appends_to: EventStore | None) -> Iterator[Fault]:
    for index, fault in enumerate(script):
        _require_fault(f"{name}[{index}]", fault)
        if appends_to is not None:
            _require_ability(f"{name}[{index}]", fault, appends_to)
        elif isinstance(_in_the_end(fault), Rejects):
            msg = f"{name}[{index}]: only an append can be rejected"
            raise ValueError(msg)
        elif isinstance(_in_the_end(fault), GoesBack):
            msg = f"{name}[{index}]: a store can only go back with an append"
            raise ValueError(msg)
        yield fault


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
    _require_seconds("max_seconds", max_seconds)
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


# --- what became of the events --------------------------------------------------------------------


class FailureReports:
    """Keeps what a log reports: pass one as ``on_failure`` of :func:`open_event_log`."""

    def __init__(self) -> None:
        self.failures: list[AppendFailureReport] = []
        """Every append that did not succeed, in the order reported."""
        self.losses: list[LossReport] = []
        """Every loss, in the order reported."""
        self.spill_reports: list[SpillFailureReport | SpillDamageReport | SpillReport] = []
        """What there was to say of the spill file, in the order reported."""
        self.reversions: list[RevertReport] = []
        """Every time that the store went back, in the order reported."""
        self.times: list[float] = []
        """When each report of any kind came, by ``trio.current_time()``."""

    def __call__(self, report: Report) -> None:
        """Keep ``report``."""
        self.times.append(trio.current_time())
        if isinstance(report, AppendFailureReport):
            self.failures.append(report)
        elif isinstance(report, LossReport):
            self.losses.append(report)
        elif isinstance(report, RevertReport):
            self.reversions.append(report)
        else:
            self.spill_reports.append(report)

    def __repr__(self) -> str:
        return f"<FailureReports: {len(self.failures)} failures, {len(self.lost_seqs)} events lost>"

    @property
    def lost_events(self) -> tuple[PersistedEvent, ...]:
        """All lost events, in the order reported."""
        return tuple(event for loss in self.losses for event in loss.events)

    @property
    def lost_seqs(self) -> tuple[int, ...]:
        """The seqs of all lost events, in the order reported."""
        return tuple(event.seq for event in self.lost_events)


def check_accounts(
    ingested: Iterable[int | None],
    stored: Iterable[PersistedEvent],
    reports: FailureReports,
    *,
    duplicates: int = 0,
) -> None:
    """Assert that every event of a log was stored or reported lost, and that nothing else was.

    In detail:

    * what is stored ascends by seq, and no id is stored twice
    * no event is reported lost twice
    * what is stored or reported was ingested
    * what is both stored and reported was in doubt, and is the same event
    * as many events as ``duplicates``, and as were lost by a store that went back, are neither

    To be called when the block of the log has been left: before that, some events wait, and some losses are
    not reported yet. It is for one opening of a log. After the next, which may give seqs of lost events out
    again, pass only what is stored with seqs above the last one that was stored before.

    Args:
      ingested: what ``ingest`` and ``ingest_wait`` returned, in any order. None, for what the filter kept
        out, does not count.
      stored: all that the store holds, as a query returns it.
      reports: what the log reported, all of it.
      duplicates: how many events were stored already under another seq, because their ids were handed in
        twice. Such an event is neither stored under its own seq nor lost. 0 if every event has an id
        of its own, as the log gives to those without an envelope; otherwise pass
        ``log.statistics().duplicate``, or what you know of your program.

    Raises:
      AssertionError: the accounts are wrong. The message says everything that is.
      TypeError: a seq is no integer, or ``duplicates`` is none.
      ValueError: ``duplicates`` is negative.
    """
    if type(duplicates) is not int:
        msg = f"duplicates: expected a number of events as an int, got {type(duplicates).__name__}"
        raise TypeError(msg)
    if duplicates < 0:
        msg = f"duplicates: expected 0 or more events, got {duplicates}"
        raise ValueError(msg)
    given = [seq for seq in ingested if seq is not None]
    for seq in given:
        if type(seq) is not int:
            msg = f"ingested: expected what ingest returned, ints and None, got {type(seq).__name__}"
            raise TypeError(msg)
    wrong = _wrong(given, list(stored), reports, duplicates)
    if wrong:
        raise AssertionError(
            "the accounts of the log are wrong:\n" + "\n".join(f"* {line}" for line in wrong)
        )


def _wrong(
    given: list[int], stored: list[PersistedEvent], reports: FailureReports, duplicates: int
) -> list[str]:
    """Everything that is wrong, in words."""
    ingested = set(given)
    held = {event.seq: event for event in stored}
    lost = {event.seq: (event, loss.in_doubt) for loss in reports.losses for event in loss.events}
    both = held.keys() & lost.keys()
    findings = [
        ("given out twice by ingest", _repeated(given)),
        (
            "stored, but behind a seq that is not lower",
            [event.seq for before, event in pairwise(stored) if event.seq <= before.seq],
        ),
        ("stored under an id that was stored before", _repeated_ids(stored)),
        ("reported lost twice", _repeated(reports.lost_seqs)),
        ("stored, but never ingested", held.keys() - ingested),
        ("reported lost, but never ingested", lost.keys() - ingested),
        ("stored, though reported as certainly lost", [seq for seq in both if not lost[seq][1]]),
        (
            "stored as another event than the one reported lost",
            [seq for seq in both if held[seq].id != lost[seq][0].id],
        ),
    ]
    wrong = [f"{what}: {_shown(seqs)}" for what, seqs in findings if seqs]
    missing = ingested - held.keys() - lost.keys()
    reverted = sum(reversion.lost for reversion in reports.reversions)
    if len(missing) != duplicates + reverted:
        which = f" ({_shown(missing)})" if missing else ""
        accounted = f"duplicates: {duplicates}" + (f"; lost by the store: {reverted}" if reverted else "")
        wrong.append(f"neither stored nor reported lost: {len(missing)}{which}; {accounted}")
    return wrong


def _repeated(seqs: Iterable[int]) -> list[int]:
    return [seq for seq, count in Counter(seqs).items() if count > 1]


def _repeated_ids(stored: list[PersistedEvent]) -> list[int]:
    first = {event.id: event for event in reversed(stored)}
    return [event.seq for event in stored if first[event.id] is not event]


def _shown(seqs: Collection[int]) -> str:
    shown = ", ".join(str(seq) for seq in sorted(seqs)[:_SHOWN])
    return f"seq {shown}" + (f" and {len(seqs) - _SHOWN} more" if len(seqs) > _SHOWN else "")


# --- time -----------------------------------------------------------------------------------------


def run_in_virtual_time(async_fn: Callable[[*PosArgs], Awaitable[T]], *args: *PosArgs) -> T:
    """Run ``async_fn(*args)`` like ``trio.run``, with a clock that jumps whenever all tasks wait.

    An hour of retries takes no time, and nothing depends on how fast the machine is. This is meant for the
    body of a Hypothesis test, which is a plain function; in an async test under pytest-trio use its fixture
    ``autojump_clock``.

    Only for stores without threads, as :class:`MemoryStore` is one. While a thread works, to the clock
    all tasks seem to wait: it jumps to the next deadline, and the append that was under way is cancelled
    as too slow. Where nobody has a deadline there is nothing to jump to, and the run waits for ever.

    Returns:
      What ``async_fn`` returns.

    Raises:
      BaseException: whatever ``async_fn`` raises.
    """
    return trio.run(async_fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))
