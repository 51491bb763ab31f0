"""Schedules: in which order the tasks of a program take their turns. Knows no clock and no Hypothesis.

In each round of its loop, Trio runs every task that is ready once, in an order that it does not promise. In
the *plain* schedule the oldest task comes first. Any other one is told by where it departs from that: the
choices of a run, each of which task comes next among those left of the round, are counted from 0 on, and a
departure is the number of a choice with the number of the task that is taken, the oldest of them being 0.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

Plan = Mapping[int, int]
"""By the number of a choice: how many tasks to pass over, 1 or more; too many are counted round."""


class ScheduleError(RuntimeError):
    """A schedule cannot be repeated.

    The program is not deterministic: what it does also depends on real time, chance, the order of a set, or
    something outside of it. Or it is not the program that the schedule was found with.
    """


@attrs.frozen
class Departure:
    """Where a schedule departs from the plain one."""

    at: int
    """The number of the choice."""

    taken: int
    """The number of the task that was taken; 0 would be the oldest."""

    ready: int
    """How many tasks there were to choose from."""

    name: str = attrs.field(default="", eq=False)
    """The name of the task that was taken."""

    before: str = attrs.field(default="", eq=False)
    """The name of the oldest."""

    def __str__(self) -> str:
        return f"{self.at}:{self.taken}/{self.ready}"


_DEPARTURE: Final = re.compile(r"(\d+):(\d+)/(\d+)", re.ASCII)


def written(departures: Sequence[Departure]) -> str:
    """A schedule as text."""
    return " ".join(map(str, departures))


def parsed(text: str) -> list[Departure]:
    """The schedule of a text; ValueError if it is not one."""
    departures: list[Departure] = []
    for word in text.split():
        found = _DEPARTURE.fullmatch(word)
        departure = Departure(int(found[1]), int(found[2]), int(found[3])) if found else None
        if departure is None or not 0 < departure.taken < departure.ready:
            raise ValueError(f"schedule: expected departures such as '12:1/3', got {word!r}")
        departures.append(departure)
    return departures


class Order(random.Random):
    """The order of tasks, in the place of Trio's source of chance.

    Other runs, in other threads, get chance.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._plan = plan
        self._coming = sorted(plan, reverse=True)
        self.choices_made = 0

        self.widest = 0
        """Most tasks of a round."""

        self.rounds = 0
        self.way = 0
        """A hash of how many tasks each round had: another way of the program is most likely another hash."""

        self.departures: list[Departure] = []

    def shuffle(self, x: Any) -> None:
        """Put the tasks of a round, which come in the order of their age, into the order of the schedule."""
        if threading.get_ident() != self._thread:
            super().shuffle(x)
            return
        self.rounds += 1
        self.widest = max(self.widest, len(x))
        self.way = hash((self.way, len(x)))
        first, self.choices_made = self.choices_made, self.choices_made + max(0, len(x) - 1)
        # Trio takes them from the end.
        x.reverse()
        if not self._coming or self._coming[-1] >= self.choices_made:
            return
        rest = x[::-1]
        order = [self._next(at, rest) for at in range(first, self.choices_made)]
        x[:] = [*order, *rest][::-1]

    def _next(self, at: int, rest: list[Any]) -> Any:
        taken = 0
        if self._coming and self._coming[-1] == at:
            self._coming.pop()
            taken = 1 + (self._plan[at] - 1) % (len(rest) - 1)
            self.departures.append(Departure(at, taken, len(rest), rest[taken].name, rest[0].name))
        return rest.pop(taken)

    def is_ours(self) -> bool:
        """Whether this is asked in the thread of the run."""
        return threading.get_ident() == self._thread
