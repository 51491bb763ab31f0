"""What a broken store would have made of a history: one anomaly put into a legal one, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from tests._helpers.histories import Step
from trio_eventlog import ModuleEvent, PersistedEvent
from trio_eventlog.testing import (
    ANOMALIES,
    AppendOperation,
    LastSeqOperation,
    Outcome,
    QueryOperation,
)

Injection = tuple[list[Step], str]


def queries(steps: list[Step]) -> list[tuple[int, Step]]:
    return [(place, step) for place, step in enumerate(steps) if isinstance(step.operation, QueryOperation)]


def appends(steps: list[Step], outcome: Outcome) -> list[AppendOperation]:
    return [
        step.operation
        for step in steps
        if isinstance(step.operation, AppendOperation) and step.operation.outcome is outcome
    ]


def shows(step: Step, event: PersistedEvent) -> bool:
    return (event.seq, event.id) in step.answered().found


def changed(steps: list[Step], place: int, **changes: Any) -> list[Step]:
    return [attrs.evolve(step, **changes) if place == i else step for i, step in enumerate(steps)]


def acknowledged(steps: list[Step]) -> Iterator[tuple[PersistedEvent, float]]:
    """Events with the time from which on they must be found."""
    for append in appends(steps, Outcome.OK):
        for event in append.batch:
            if event.seq not in append.returned:
                yield event, append.ended


def is_current(steps: list[Step], step: Step) -> bool:
    """Whether a query is one of an appender that no other has taken the place of."""
    return not step.operation.read_only and not any(
        other.operation.instance != step.operation.instance
        and not other.operation.read_only
        and other.operation.began < step.operation.began
        and int(other.operation.instance[9:]) > int(step.operation.instance[9:])
        for other in steps
    )


def lost_write(steps: list[Step]) -> Iterator[list[Step]]:
    """An event is gone from all results, though one of them had to have it."""
    for event, since in acknowledged(steps):
        if any(
            is_current(steps, step) and step.operation.began > since and shows(step, event)
            for _, step in queries(steps)
        ):
            yield [
                attrs.evolve(
                    step, visible=tuple(tuple(e for e in group if e != event) for group in step.visible)
                )
                for step in steps
            ]


def aborted_read(steps: list[Step]) -> Iterator[list[Step]]:
    offered = {
        (event.seq, event.id)
        for append in appends(steps, Outcome.OK) + appends(steps, Outcome.UNKNOWN)
        for event in append.batch
    }
    for append in appends(steps, Outcome.FAILED):
        for event in append.batch:
            for place, step in queries(steps):
                one = changed(steps, place, visible=(*step.visible, (event,)))
                if (event.seq, event.id) not in offered and shows(one[place], event):
                    yield one


def offers_of(steps: list[Step]) -> dict[PersistedEvent, frozenset[int]]:
    offers: dict[PersistedEvent, set[int]] = {}
    for number, append in enumerate(appends(steps, Outcome.OK) + appends(steps, Outcome.UNKNOWN)):
        for event in append.batch:
            if event.seq not in append.returned:
                offers.setdefault(event, set()).add(number)
    return {event: frozenset(numbers) for event, numbers in offers.items()}


def intermediate_read(steps: list[Step]) -> Iterator[list[Step]]:
    offers = offers_of(steps)
    ids = [event.id for event in offers]
    for place, step in queries(steps):
        for group in step.visible:
            for event in group:
                others = [e for e in group if e != event and offers.get(e) == offers.get(event)]
                seen_later = any(
                    other is not step and shows(other, event) and other.operation.ended > step.operation.began
                    for _, other in queries(steps)
                )
                visible = tuple(tuple(e for e in one if e != event) for one in step.visible)
                one = changed(steps, place, visible=visible)
                if (
                    seen_later
                    and ids.count(event.id) == 1
                    and shows(step, event)
                    and any(ids.count(e.id) == 1 and shows(one[place], e) for e in others)
                ):
                    yield one


def duplicate(steps: list[Step]) -> Iterator[list[Step]]:
    for place, step in queries(steps):
        if step.operation.query.limit is None:
            for key in step.answered().found:
                yield [Twice(s.operation, s.visible, key) if i == place else s for i, s in enumerate(steps)]
    for place, step in enumerate(steps):
        operation = step.operation
        if isinstance(operation, AppendOperation) and operation.returned and operation.outcome is Outcome.OK:
            stored = {event.id for event, _ in acknowledged(steps)}
            if all(event.id in stored for event in operation.batch if event.seq in operation.returned):
                yield changed(steps, place, operation=attrs.evolve(operation, returned=frozenset()))


@attrs.define(eq=False)
class Twice(Step):
    """A query that finds an event once more."""

    key: tuple[int, str] = (0, "")

    def answered(self) -> Any:
        once = super().answered()
        return attrs.evolve(once, found=tuple(sorted([*once.found, self.key])))


def one_seq_with_two_events(steps: list[Step]) -> Iterator[list[Step]]:
    last = max([0.0, *(step.operation.ended for step in steps)])
    for event, _ in acknowledged(steps):
        who = {name: getattr(steps[0].operation, name) for name in ("process", "clock")}
        operation = AppendOperation(
            **who,
            instance="appender-999",
            read_only=False,
            began=last + 1,
            ended=last + 2,
            outcome=Outcome.OK,
            batch=(attrs.evolve(event, id="another"),),
        )
        yield [*steps, Step(operation)]


def non_monotonic_reader(steps: list[Step]) -> Iterator[list[Step]]:
    for place, step in queries(steps):
        if step.operation.read_only:
            for _, other in queries(steps):
                if (
                    other.operation.instance == step.operation.instance
                    and other.operation.ended < step.operation.began
                ):
                    for count in range(len(other.visible)):
                        one = changed(steps, place, visible=step.visible[:count])
                        gone = [event for group in other.visible[count:] for event in group]
                        if any(shows(other, e) and shows(step, e) and not shows(one[place], e) for e in gone):
                            yield one


def real_time_violation(steps: list[Step]) -> Iterator[list[Step]]:
    since = dict(reversed(list(acknowledged(steps))))
    for place, step in queries(steps):
        # One without a limit: what else a limited one should have shown would count, too.
        if not is_current(steps, step) or step.operation.query.limit is not None:
            continue
        for count in range(len(step.visible)):
            one = changed(steps, place, visible=step.visible[:count])
            gone = [event for group in step.visible[count:] for event in group if shows(step, event)]
            seen_later = [
                any(
                    other is not step and shows(other, event) and other.operation.ended > step.operation.began
                    for _, other in queries(steps)
                )
                for event in gone
            ]
            if all(seen_later) and any(since.get(event, 1e9) < step.operation.began for event in gone):
                yield one


def stale_last_seq(steps: list[Step]) -> Iterator[list[Step]]:
    for place, step in enumerate(steps):
        operation = step.operation
        if (
            isinstance(operation, LastSeqOperation)
            and is_current(steps, step)
            and any(since < operation.began for _, since in acknowledged(steps))
        ):
            yield changed(steps, place, operation=attrs.evolve(operation, last_seq=0))


def phantom(steps: list[Step]) -> Iterator[list[Step]]:
    event = PersistedEvent("nobody's", 10**6, 0, None, ModuleEvent("m", "a"))
    for place, step in queries(steps):
        one = changed(steps, place, visible=(*step.visible, (event,)))
        if shows(one[place], event):
            yield one
    for place, step in enumerate(steps):
        if isinstance(step.operation, LastSeqOperation) and not any(
            isinstance(later.operation, LastSeqOperation) and later.operation.began > step.operation.ended
            for later in steps
        ):
            yield changed(steps, place, operation=attrs.evolve(step.operation, last_seq=10**6))


INJECTIONS: dict[str, Callable[[list[Step]], Iterator[list[Step]]]] = {
    "lost write": lost_write,
    "aborted read": aborted_read,
    "intermediate read": intermediate_read,
    "duplicate": duplicate,
    "one seq with two events": one_seq_with_two_events,
    "non-monotonic reader": non_monotonic_reader,
    "real-time violation": real_time_violation,
    "stale last_seq": stale_last_seq,
    "phantom": phantom,
}
"""For each anomaly, the ways to put it into a legal history."""

assert list(INJECTIONS) == list(ANOMALIES)
