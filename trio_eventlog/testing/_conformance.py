"""The harness as a test class for pytest."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

import trio

from trio_eventlog import EventStore
from trio_eventlog.testing._arguments import check_seconds
from trio_eventlog.testing._check_store import (
    DEFAULT_BUDGET,
    DEFAULT_MAX_EXAMPLES,
    DEFAULT_OP_TIMEOUT,
    check_declared,
    run_checks,
)
from trio_eventlog.testing._clauses import clause_shares
from trio_eventlog.testing._report import CheckSettings
from trio_eventlog.testing._subject import StoreUnderTest

_BORROWED: Final = 0.75
"""The part of what is left for all tests that one may use until it has tried enough."""


class StoreConformance:
    """Tests for your store, one per clause: subclass it, and override :meth:`open_store`.

    pytest collects the subclass if its name begins with ``Test``. The tests are plain functions that run
    Trio themselves; no plugin is needed. A clause that cannot be checked is skipped, with the reason.

    Attributes:
      durable: whether opening a location again shows the same data.
      budget: seconds for all clauses together.
      op_timeout: seconds after which an operation counts as hung.
      max_examples: most examples of a check.
      seed: the seed of an earlier run, to draw the same examples; None for new ones.
      deviations: clauses that the store is known to break, each with the reason. Their tests are reported as
        expected failures (``xfail``).

    Each test has its part of the budget. One that has not tried enough by then may use time of the others; if
    that is not enough either, it fails, since the clause has not passed.

    The attributes mean the same as the arguments of :func:`check_store`.
    """

    durable: ClassVar[bool] = True
    budget: ClassVar[float] = DEFAULT_BUDGET
    op_timeout: ClassVar[float] = DEFAULT_OP_TIMEOUT
    max_examples: ClassVar[int] = DEFAULT_MAX_EXAMPLES
    seed: ClassVar[int | None] = None
    deviations: ClassVar[Mapping[str, str]] = MappingProxyType({})
    _spent: ClassVar[float] = 0.0
    """Seconds that the tests of this class have taken so far."""

    def open_store(self, location: Path) -> AbstractAsyncContextManager[EventStore]:
        """Open your store at ``location``; see :func:`check_store`.

        For kills a child process must be able to call it: the class stands at the top level of a module,
        and has no ``__init__``.
        """
        raise NotImplementedError

    def open_reader(self, location: Path) -> AbstractAsyncContextManager[EventStore]:
        """Open your store at ``location`` read-only. Override it if your store can be; what readers do is
        checked then.
        """
        raise NotImplementedError

    async def drop_store(self, location: Path) -> None:
        """Remove what the store keeps for ``location`` outside of its directory."""
        del location
        await trio.lowlevel.checkpoint()

    def _check(self, clause: str) -> None:
        __tracebackhide__ = True  # pytest shows the report, not how it came about
        kind = type(self)
        # Of all clauses, for a name that is none would otherwise never be noticed.
        check_declared(self.deviations)
        check_seconds("budget", self.budget)
        share = self.budget * clause_shares()[clause]
        # Of this class, and not of one that it is derived from.
        spent = kind.__dict__.get("_spent", 0.0)
        has_reader = kind.open_reader is not StoreConformance.open_reader
        report = run_checks(
            StoreUnderTest(
                open_store=self.open_store,
                open_reader=self.open_reader if has_reader else None,
                drop_store=self.drop_store,
                durable=self.durable,
                op_timeout=self.op_timeout,
            ),
            clauses=[clause],
            settings=CheckSettings(
                durable=self.durable,
                budget=share,
                op_timeout=self.op_timeout,
                max_examples=self.max_examples,
            ),
            seed=self.seed,
            deviations={clause: self.deviations[clause]} if clause in self.deviations else {},
            reserve=max(0.0, (self.budget - spent - share) * _BORROWED),
        )
        kind._spent = spent + report.seconds
        report.raise_if_failed()
        for deviating in report.deviations:
            import pytest  # noqa: PLC0415 - who does not run pytest need not have it

            pytest.xfail(f"{deviating.deviation}: {deviating.message}")
        for skipped in report.skipped:
            import pytest  # noqa: PLC0415 - as above

            pytest.skip(skipped.reason)

    def test_s1(self) -> None:
        """A repeat changes nothing."""
        self._check("S1")

    def test_s2(self) -> None:
        """Any order of seqs, and gaps."""
        self._check("S2")

    def test_s3(self) -> None:
        """A seq that is taken is a conflict."""
        self._check("S3")

    def test_s4(self) -> None:
        """All or nothing."""
        self._check("S4")

    def test_s5(self) -> None:
        """Filters, order and limit."""
        self._check("S5")

    def test_s6(self) -> None:
        """Strings compare exactly."""
        self._check("S6")

    def test_s7(self) -> None:
        """What is read equals what was written."""
        self._check("S7")

    def test_s8(self) -> None:
        """Nothing is shared."""
        self._check("S8")

    def test_s9(self) -> None:
        """The end of the log."""
        self._check("S9")

    def test_s10(self) -> None:
        """Durable means readable and kept."""
        self._check("S10")

    def test_s11(self) -> None:
        """Every call is a checkpoint and can be cancelled."""
        self._check("S11")

    def test_s12(self) -> None:
        """Errors say what to do."""
        self._check("S12")

    def test_s13(self) -> None:
        """One appender."""
        self._check("S13")

    def test_s14(self) -> None:
        """Logs do not see each other."""
        self._check("S14")

    def test_s15(self) -> None:
        """Leaving frees everything."""
        self._check("S15")

    def test_s16(self) -> None:
        """Damage is told."""
        self._check("S16")

    def test_s17(self) -> None:
        """What was erased is gone, and nothing else."""
        self._check("S17")

    def test_s18(self) -> None:
        """Counts, and reading backwards."""
        self._check("S18")
