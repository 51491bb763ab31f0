"""The history of a program that is worth looking at: runs of agents, with failures and a loss."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from trio_eventlog import AgentEvent, ModuleEvent, PersistedEvent

Told = tuple[int, AgentEvent | ModuleEvent]

_STEPS = ("plan", "search", "read", "write", "check")
_ERRORS = ("timeout after 30 s", "HTTP 502 from upstream", "no such order", "the answer was not JSON")


def history(*, until_ms: int, hours: float, seed: int = 7) -> list[PersistedEvent]:
    """Events in the order of their times; some seqs are missing."""
    chance = random.Random(seed)  # noqa: S311 - the same each time
    since_ms = until_ms - int(hours * 3_600_000)
    told: list[Told] = []
    at, number = since_ms, 0
    while at < until_ms:
        number += 1
        told += _run(chance, at, f"run-{number}")
        # Waves of work, and a quiet time in the middle.
        progress = (at - since_ms) / (until_ms - since_ms)
        busy = 1.1 + math.sin(progress * 17) * 0.6 + (3 if 0.7 < progress < 0.76 else 0)
        at += int(chance.expovariate(1) * 9000 / busy) + (600_000 if abs(progress - 0.42) < 0.001 else 0)
    told = sorted((entry for entry in told if entry[0] <= until_ms), key=lambda entry: entry[0])
    lost = len(told) - 9
    return [
        PersistedEvent(f"e-{seq}", seq, time_ms, getattr(event, "agent_id", None), event)
        for place, (time_ms, event) in enumerate(told)
        for seq in [place + 1 + 3 * (place >= lost) + 40 * (place >= lost // 3)]
    ]


def _run(chance: random.Random, at: int, run_id: str) -> Iterator[Told]:
    order = f"o-{chance.randint(1000, 1400)}"
    yield at, ModuleEvent("scheduler", "run_handed_out", {"run_id": run_id, "priority": chance.randint(1, 5)})
    agents = chance.sample([f"agent-{number}" for number in range(1, 7)], chance.choice((1, 2, 2, 3)))
    begin = at + chance.randint(3, 60)
    for agent in agents:
        yield from _agent(chance, begin, agent, run_id, order)
        begin += chance.randint(100, 1500)
    if chance.random() < 0.04:
        text = f"invoice for {order} is late"
        yield (
            begin,
            ModuleEvent("billing", "log.warning", {"level": "WARNING", "message": text, "order_id": order}),
        )


def _agent(chance: random.Random, at: int, agent: str, run_id: str, order: str) -> Iterator[Told]:
    yield at, AgentEvent(agent, "run_started", {"run_id": run_id, "order_id": order, "attempt": 1})
    for step in _STEPS[: chance.randint(2, 5)]:
        step_id = f"{run_id}/{agent}/{step}"
        at += chance.randint(1, 30)
        yield at, AgentEvent(agent, "step_started", {"run_id": run_id, "step_id": step_id})
        at += int(chance.lognormvariate(6.2, 0.8))
        if chance.random() < 0.05:
            error = {"run_id": run_id, "step_id": step_id, "error": chance.choice(_ERRORS)}
            yield at, AgentEvent(agent, "step_failed", error)
            yield at + 2, AgentEvent(agent, "run_failed", {"run_id": run_id, "attempts": 1})
            return
        usage = {
            "in": chance.randint(50, 4000),
            "out": chance.randint(20, 900),
            "cached": chance.random() < 0.4,
        }
        done = {
            "run_id": run_id,
            "step_id": step_id,
            "trace": 2**64 - chance.randint(1, 10**9),
            "usage": usage,
        }
        yield at, AgentEvent(agent, "step_done", done)
    yield at + 2, AgentEvent(agent, "run_completed", {"run_id": run_id, "attempts": 1})
