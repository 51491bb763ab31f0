"""One example: what is done to a store, and the program that does the same.

Each step is written down before it is carried out, so that the program ends with the step that went wrong,
even if that step never returns.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Never, TypeAlias, TypeVar

import attrs
import trio

from trio_eventlog import EventStore
from trio_eventlog.testing._model import Model
from trio_eventlog.testing._program import Program
from trio_eventlog.testing._subject import StoreUnderTest, fresh_location

T = TypeVar("T")


class ClauseViolation(AssertionError):
    """A store did not do what the contract says.

    Raised by the rules of :class:`StoreStateMachine`; :func:`check_store` turns it into a
    :class:`ClauseFailure`.

    Attributes:
      clause: which clause, for example ``"S5"``.
      message: what happened, and what should have.
      program: a Python program that does it again, if there is one.
      out_of_reach: whether the store never came back, so that its thread had to be left behind.
    """

    def __init__(self, clause: str, message: str, program: str = "") -> None:
        super().__init__(clause, message, program)
        self.clause = clause
        self.message = message
        self.program = program
        self.out_of_reach = False

    def __str__(self) -> str:
        return f"{self.clause}: {self.message}" + (f"\n\n{self.program}" if self.program else "")


# --- cancelling -----------------------------------------------------------------------------------


@attrs.frozen
class AfterTicks:
    """Cancel after this many checkpoints."""

    ticks: int

    async def wait(self) -> None:
        """Wait until it is time."""
        for _ in range(self.ticks):
            await trio.lowlevel.checkpoint()

    def code(self) -> str:
        """The same as Python."""
        if not self.ticks:
            return "# At once."
        return f"for _ in range({self.ticks}):\n    await trio.lowlevel.checkpoint()"


@attrs.frozen
class AfterSeconds:
    """Cancel after this many seconds."""

    seconds: float

    async def wait(self) -> None:
        """Wait until it is time."""
        await trio.sleep(self.seconds)

    def code(self) -> str:
        """The same as Python."""
        return f"await trio.sleep({self.seconds})"


CancelPoint: TypeAlias = AfterTicks | AfterSeconds
"""When to cancel an operation."""


@attrs.frozen
class Outcome:
    """How an operation ended: with a value, with an error, or cancelled."""

    value: Any = None
    error: Exception | None = None
    cancelled: bool = False


def contains(group: BaseException, leaf: BaseException) -> bool:
    """Whether ``group`` is ``leaf``, or a group that has it somewhere inside."""
    if group is leaf:
        return True
    return isinstance(group, BaseExceptionGroup) and any(contains(exc, leaf) for exc in group.exceptions)


# --- the example ----------------------------------------------------------------------------------


class Example:
    """One example.

    Attributes:
      subject: the store under test.
      clause: the clause that a failure breaks.
      location: where the store is opened.
      model: what the store should hold.
      program: does the same as this example.
      violation: how the clause was broken, once it was.
      budget: cuts the example off when the time for looking is up.
    """

    def __init__(self, subject: StoreUnderTest, clause: str, location: Path) -> None:
        self.subject = subject
        self.clause = clause
        self.location = location
        self.model = Model()
        self.program = Program()
        self.violation: ClauseViolation | None = None
        self.last_sign_of_life = time.monotonic()
        self.in_progress = "opening the store"
        self.siblings: list[Path] = []
        self.budget = trio.CancelScope()

    def sibling(self) -> Path:
        """A second location, next to the first."""
        sibling = fresh_location(self.location.parent)
        self.siblings.append(sibling)
        self.program.add(f"(location.parent / {sibling.name!a}).mkdir()")
        return sibling

    def alive(self, doing: str, *, expected_seconds: float = 0.0) -> None:
        """Tell the thread that watches this example that it goes on, and what it does next."""
        self.in_progress = doing
        self.last_sign_of_life = time.monotonic() + expected_seconds

    @property
    def seconds_left(self) -> float:
        """Until the time for looking is up; within Trio."""
        return self.budget.deadline - trio.current_time()

    def prolong(self, seconds: float) -> None:
        """Let what was found be shown, even if the time for looking is up before."""
        self.budget.deadline = max(self.budget.deadline, trio.current_time() + seconds)

    # --- judging ----------------------------------------------------------------------------------

    def violated(self, message: str, cause: BaseException | None = None) -> Never:
        """End the example: the store broke the clause."""
        # Leaving the store may fail as well, or put this into a group: the first one counts.
        if self.violation is None:
            self.violation = ClauseViolation(self.clause, message)
        raise self.violation from cause

    def check(self, condition: str, message: str | Callable[[], str], *values: object) -> None:
        """Write down a condition, with ``$0`` and so on for ``values``, and go on only if it holds."""
        self.program.add(f"assert {condition}", *values)
        if not self.program.evaluate(condition, *values):
            self.violated(message if isinstance(message, str) else message())

    def require(self, condition: str, message: str | Callable[[], str], *values: object) -> None:
        """The same, but only written down if it does not hold: what goes without saying would be noise."""
        if not self.program.evaluate(condition, *values):
            self.check(condition, message, *values)

    def perform(
        self, expression: str, *values: object, failure: Callable[[AssertionError], str] = str
    ) -> None:
        """Write down an expression and evaluate it; ``failure`` makes a message of its AssertionError."""
        self.program.add(expression, *values)
        try:
            self.program.evaluate(expression, *values)
        except AssertionError as exc:
            self.violated(failure(exc), exc)

    # --- opening ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(
        self, *, location: Path | None = None, name: str = "store", reader: bool = False
    ) -> AsyncIterator[EventStore]:
        """The store, open, as the variable ``name`` of the program.

        What opening or leaving it raises breaks the clause, and so does taking too long.
        """
        opener = self.subject.open_reader if reader else self.subject.open_store
        assert opener is not None
        function = "open_reader" if reader else "open_store"
        place = "location" if location is None else f"location.parent / {location.name!a}"
        entered = False
        body_error: BaseException | None = None
        # One scope around everything, with a deadline that moves: a scope around opening alone would be left
        # while the scopes that the store has opened are still entered.
        with (
            self.program.block(f"async with {function}({place}) as {name}:") as block,
            trio.CancelScope(deadline=self._deadline()) as guard,
        ):
            self.alive("opening the store")
            try:
                async with opener(location or self.location) as store:
                    guard.deadline = math.inf
                    entered = True
                    try:
                        yield store
                    except BaseException as exc:
                        body_error = exc
                        raise
                    finally:
                        guard.deadline = self._deadline()
                        self.alive("leaving the store")
            except Exception as exc:
                if self.violation is not None:
                    raise self.violation from exc
                if body_error is not None and contains(exc, body_error):
                    raise
                self.violated(f"{'leaving' if entered else 'opening'} the store raised {exc!r}", exc)
        if guard.cancelled_caught:
            block.timeout = self.subject.op_timeout
            self.violated(f"opening or leaving the store took longer than {self.subject.op_timeout} s")

    def _deadline(self) -> float:
        return trio.current_time() + self.subject.op_timeout

    # --- awaiting ---------------------------------------------------------------------------------

    async def limited(self, what: str, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Await a method of the store, which must end in time. What it raises comes out."""
        self.alive(what)
        results: list[T] = []
        with trio.move_on_after(self.subject.op_timeout) as scope:
            results.append(await function(*args))
        # Also if it swallowed that it was cancelled, and returned.
        if scope.cancel_called:
            self.program.limit(self.subject.op_timeout)
            self.violated(f"{what} took longer than {self.subject.op_timeout} s")
        return results[0]

    async def faultless(
        self,
        what: str,
        function: Callable[..., Awaitable[T]],
        *args: object,
        due: type[Exception] | tuple[()] = (),
    ) -> T:
        """The same, but what the method raises breaks the clause, unless it is ``due``."""
        try:
            return await self.limited(what, function, *args)
        except ClauseViolation:
            raise
        except due:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, the contract has no room for it
            self.violated(f"{what} raised {exc!r}", exc)

    async def sleep(self, seconds: float) -> None:
        """Sleep, in the program as well."""
        self.program.add(f"await trio.sleep({seconds})")
        self.alive("waiting", expected_seconds=seconds)
        await trio.sleep(seconds)

    @asynccontextmanager
    async def nursery(self) -> AsyncIterator[trio.Nursery]:
        """A nursery, in the program as well."""
        with self.program.block("async with trio.open_nursery() as nursery:", limited_as_a_whole=True):
            async with trio.open_nursery() as nursery:
                yield nursery

    async def run(
        self,
        what: str,
        helper: Callable[..., Awaitable[Any]],
        *names: str,
        values: Sequence[object] = (),
        expected_seconds: float = 0.0,
    ) -> None:
        """Await a helper whose source becomes part of the program.

        It gets the named variables of the program, such as ``location`` or ``store``, and ``values``.
        It raises AssertionError with a message where the store breaks the clause; so does any other error.
        """
        self.alive(what, expected_seconds=expected_seconds)
        arguments = self._note_helper("await {}({})", helper, names, values)
        await self._judged(what, helper, arguments)

    def start(
        self,
        nursery: trio.Nursery,
        what: str,
        helper: Callable[..., Awaitable[Any]],
        *names: str,
        values: Sequence[object] = (),
    ) -> None:
        """Start such a helper in :meth:`nursery`."""
        arguments = self._note_helper("nursery.start_soon({}, {})", helper, names, values)
        nursery.start_soon(self._judged, what, helper, arguments)

    def _note_helper(
        self, template: str, helper: Callable[..., Any], names: Sequence[str], values: Sequence[object]
    ) -> list[object]:
        self.program.define(helper)
        written = [*names, *(f"${index}" for index in range(len(values)))]
        self.program.add(template.format(helper.__name__, ", ".join(written)), *values)
        known = {
            "open_store": self.subject.open_store,
            "location": self.location,
            **self.program.variables,
        }
        return [*(known[name] for name in names), *values]

    async def _judged(
        self, what: str, helper: Callable[..., Awaitable[Any]], arguments: Sequence[object]
    ) -> None:
        try:
            await helper(*arguments)
        except ClauseViolation:
            raise
        except AssertionError as exc:
            self.violated(str(exc), exc)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the contract has no room for it
            self.violated(f"{what} raised {exc!r}", exc)


async def call_and_cancel(
    example: Example,
    what: str,
    code: str,
    values: Sequence[object],
    call: Callable[[], Awaitable[Any]],
    *,
    point: CancelPoint,
    errors: bool = False,
) -> Outcome:
    """Call a method of the store, cancel it, and wait for its end, which must come in time.

    ``what`` names the method in messages; ``code`` is the call as Python. The program has what it returned in
    a list ``returned``, which is empty if it did not return.
    """
    timeout = example.subject.cancel_timeout
    program = example.program
    returned: list[Any] = []
    program.variables["returned"] = returned
    program.add("returned = []")
    with program.block("async def call() -> None:"):
        if errors:
            program.add(f"with suppress(Exception):\n    returned.append(await {code})", *values)
        else:
            program.add(f"returned.append(await {code})", *values)
    with program.block("async with trio.open_nursery() as nursery:") as block:
        program.add("nursery.start_soon(call)")
        program.add(point.code())
        program.add("nursery.cancel_scope.cancel()")
    example.alive(what)
    outcome = Outcome(cancelled=True)
    done = trio.Event()

    async def run() -> None:
        nonlocal outcome
        try:
            outcome = Outcome(value=await call())
            returned.append(outcome.value)
        except Exception as exc:  # noqa: BLE001 - judged by the caller
            outcome = Outcome(error=exc)
        finally:
            done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await point.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.move_on_after(timeout):
            await done.wait()
        if not done.is_set():
            block.add("cancelled_at = trio.current_time()")
            program.add("assert trio.current_time() - cancelled_at <= $0", timeout)
            example.violated(f"{what}, cancelled, did not end within {timeout} s")
    return outcome
