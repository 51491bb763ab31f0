"""What every contender is given: events of a program of fifty workers, with payloads of about 200 bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

EVENTS = 200_000


def payload(number: int) -> dict[str, Any]:
    """About 200 bytes of JSON, with every kind of value."""
    run = number // 40
    return {
        "run_id": f"run-{run}",
        "step_id": f"run-{run}/step-{number % 40}",
        "number": number,
        "ok": number % 7 != 0,
        "seconds": number * 0.001,
        "what": "a line of text that says what was done, and to what",
        "labels": ["alpha", "beta"],
        "rows": {"read": number, "written": None},
    }


_WORKERS = [f"worker-{number}" for number in range(50)]
_TYPES = [f"step_{number}" for number in range(5)]


def events(count: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Worker, type and payload of each."""
    for number in range(count):
        yield _WORKERS[number % 50], _TYPES[number % 5], payload(number)
