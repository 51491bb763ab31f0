"""Measures all contenders in turn and prints what they did, and ratios: ``nox -s bench``.

Then what becomes of costs as things become many (``growth.py``). ``--quick`` takes a tenth of the events,
three rounds and a small store, and fails if a ratio is far from what it was when the documentation was
written. ``--write`` draws the pictures of the documentation and keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import report
from growth import CAP as MOST_WAITING
from growth import INDEXED
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from workload import EVENTS

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results.json"

CONTENDERS: Final = (
    "calibration",
    "send_nowait",
    "encoder",
    "ingest",
    "parts",
    "opentelemetry",
    "queue_handler",
    "structlog",
    "raw_insert",
    "log_into_sqlite",
    "log_into_postgres",
    "log_into_jetstream",
    "log_into_jetstream3",
    "eventsourcing",
    "eventsourcing_recorder",
    "log_beside_work",
    "replay",
    "waiting",
    "idle",
    "importing",
)

QUICK_ROUNDS: Final = {**dict.fromkeys(CONTENDERS, 3), "idle": 1, "importing": 1, "log_into_jetstream3": 0}
"""A short run has no time for three servers to find each other, and what hardly varies is seen once."""

Medians = Mapping[str, Mapping[str, float]]
Runs = Mapping[str, Mapping[str, Sequence[float]]]
Curves = dict[str, list[tuple[float, float]]]

GROWTH: Final = {"backlog": 20_000, "rows": 10_000_000, "subscribers": 1_000, "imports": 7}
"""Parts of growth, and how far each goes."""

QUICK_GROWTH: Final = {"backlog": 2_000, "rows": 100_000, "subscribers": 100, "imports": 3}

LOOP: Final = 5_000_000
"""Turns of the calibration loop."""


@attrs.frozen
class Ratio:
    """Something that must stay within bounds, whatever the machine."""

    what: str
    of: Callable[[Medians], float]
    target: float
    at_most: bool
    alarm: float
    """Beyond this something has become slower; below the noise of a short run."""

    unit: str = "x"

    def is_within(self, value: float, bound: float) -> bool:
        """Whether it is as good as that."""
        return value <= bound if self.at_most else value >= bound


RATIOS: Final = (
    Ratio(
        "ingest, as a multiple of a bare send_nowait",
        lambda m: m["ingest"]["call"] / m["send_nowait"]["cost"],
        6,
        True,
        30,
    ),
    Ratio(
        "OpenTelemetry's emit, as a multiple of ingest",
        lambda m: m["opentelemetry"]["cost"] / m["ingest"]["cost"],
        8,
        False,
        1.3,
    ),
    Ratio(
        "the standard library's queue handler, as a multiple of ingest",
        lambda m: m["queue_handler"]["cost"] / m["ingest"]["cost"],
        8,
        False,
        1.0,
    ),
    Ratio(
        "events/s into SQLite, as a multiple of the raw insert",
        lambda m: m["log_into_sqlite"]["rate"] / m["raw_insert"]["rate"],
        0.55,
        False,
        0.3,
    ),
    Ratio(
        "events/s into SQLite, as a multiple of OpenTelemetry",
        lambda m: m["log_into_sqlite"]["rate"] / m["opentelemetry"]["rate"],
        3,
        False,
        1.3,
    ),
    Ratio(
        "events/s into SQLite, as a multiple of the queue handler",
        lambda m: m["log_into_sqlite"]["rate"] / m["queue_handler"]["rate"],
        3,
        False,
        1.1,
    ),
    Ratio(
        "events/s into SQLite, as a multiple of eventsourcing's event store",
        lambda m: m["log_into_sqlite"]["rate"] / m["eventsourcing"]["rate"],
        1.5,
        False,
        0.8,
    ),
    Ratio(
        "events/s into SQLite, as a multiple of eventsourcing's recorder alone",
        lambda m: m["log_into_sqlite"]["rate"] / m["eventsourcing_recorder"]["rate"],
        1.5,
        False,
        0.3,
    ),
    Ratio(
        "events/s into PostgreSQL, as a multiple of SQLite",
        lambda m: m["log_into_postgres"]["rate"] / m["log_into_sqlite"]["rate"],
        0.5,
        False,
        0.3,
    ),
    Ratio(
        "events/s into JetStream, as a multiple of SQLite",
        lambda m: m["log_into_jetstream"]["rate"] / m["log_into_sqlite"]["rate"],
        0.5,
        False,
        0.2,
    ),
    Ratio(
        "events/s beside a busy program, as a multiple of those in an idle one",
        lambda m: m["log_beside_work"]["rate"] / m["log_into_sqlite"]["rate"],
        0.3,
        False,
        0.2,
    ),
    Ratio(
        "lag added beside a busy program, 99th percentile",
        lambda m: m["log_beside_work"]["lag_99_ms"],
        5,
        True,
        20,
        "ms",
    ),
    Ratio("longest stall added there", lambda m: m["log_beside_work"]["stall_ms"], 25, True, 60, "ms"),
    Ratio(
        "events/s read, as a multiple of select and decode",
        lambda m: m["replay"]["rate"] / m["replay"]["select_and_decode"],
        0.5,
        False,
        0.5,
    ),
    Ratio(
        "ingest with 4,096 events waiting, as a multiple of with few",
        lambda m: m["growth"]["ingest_when_full"],
        1.25,
        True,
        1.6,
    ),
    Ratio(
        "indexed query that grows most, largest store as a multiple of smallest",
        lambda m: m["growth"]["indexed_query"],
        2,
        True,
        4,
    ),
    Ratio(
        "opening a log, largest store as a multiple of smallest", lambda m: m["growth"]["open"], 2, True, 4
    ),
    Ratio(
        "events/s into SQLite, largest store as a multiple of an empty one",
        lambda m: m["growth"]["append"],
        0.5,
        False,
        0.4,
    ),
    Ratio(
        "ingest when the oldest has to go, as a multiple of with few",
        lambda m: m["growth"]["when_losing"],
        3,
        True,
        4,
    ),
    Ratio("memory of a waiting event", lambda m: m["waiting"]["bytes"], 700, True, 800, "bytes"),
    Ratio("steps of an idle log in two seconds", lambda m: m["idle"]["steps"], 0, True, 0, ""),
    Ratio(
        "import, as a multiple of what it stands on",
        lambda m: m["importing"]["package"] / m["importing"]["foundation"],
        1.3,
        True,
        1.5,
    ),
)


def run(script: str, *arguments: object) -> Any:
    """What a script prints, as JSON."""
    done = subprocess.run(
        [sys.executable, os.fspath(HERE / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def measure_all(count: int, rounds: Mapping[str, int]) -> dict[str, dict[str, list[float]]]:
    """All of them in turn, so that what disturbs the machine disturbs all."""
    turns = [name for turn in range(max(rounds.values())) for name in CONTENDERS if turn < rounds[name]]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in turns}
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=len(turns))
        for name in turns:
            progress.update(task, description=name)
            figures = run("contenders.py", name, count)
            if figures.get("lost"):
                # Who loses events is quick.
                sys.exit(f"{name} lost {figures['lost']:,} of {count:,} events")
            for figure, value in figures.items():
                found[name].setdefault(figure, []).append(value)
            progress.advance(task)
    return found


def measure_growth(parts: Mapping[str, int]) -> dict[str, Curves]:
    """What becomes of costs as things become many."""
    found = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=len(parts))
        for part, largest in parts.items():
            progress.update(task, description=f"growth: {part}")
            found[part] = run("growth.py", part, largest)
            progress.advance(task)
    return found


def growth_in_short(growth: Mapping[str, Curves]) -> dict[str, list[float]]:
    """The end of a curve as a multiple of its beginning."""

    def multiple(curve: Sequence[tuple[float, float]]) -> float:
        return curve[-1][1] / curve[0][1]

    # Without the first burst of a fresh log, which makes what the others find.
    waiting = [point for point in growth["backlog"]["ingest"] if 0 < point[0] <= MOST_WAITING]
    return {
        "ingest_when_full": [multiple(waiting)],
        "indexed_query": [max(multiple(growth["rows"][f"query: {name}"]) for name in INDEXED)],
        "open": [multiple(growth["rows"]["open"])],
        "append": [multiple(growth["rows"]["append"])],
        "when_losing": [growth["backlog"]["ingest"][-1][1] / waiting[0][1]],
    }


def print_figures(console: Console, found: Runs) -> None:
    """What each of them did; for each event also in turns of the calibration loop."""
    turn = statistics.median(found["calibration"]["seconds"]) / LOOP
    seconds_of = {"cost": lambda cost: cost / 1e6, "rate": lambda rate: 1 / rate}
    table = Table(
        *("contender", "figure", "median", "least", "most", "turns"),
        title=f"cost: us for each event; rate: events/s; a turn of an empty loop: {turn * 1e9:.1f} ns",
    )
    for name, figures in found.items():
        for figure, values in figures.items():
            median = statistics.median(values)
            turns = report.shown(seconds_of[figure](median) / turn) if figure in seconds_of else ""
            table.add_row(
                name,
                figure,
                report.shown(median),
                report.shown(min(values)),
                report.shown(max(values)),
                turns,
            )
    console.print(table)


def print_growth(console: Console, growth: Mapping[str, Curves]) -> None:
    """The curves: at most eight points of each."""
    table = Table("growth", "", "how many: figure", title=f"units: see {HERE.name}/growth.py")
    for part, curves in growth.items():
        for name, curve in curves.items():
            some = curve[:: -(-len(curve) // 8)]
            if some[-1] != curve[-1]:
                some.append(curve[-1])
            table.add_row(part, name, "  ".join(f"{report.shown(x)}: {report.shown(y)}" for x, y in some))
    console.print(table)


def judged(ratio: Ratio, medians: Medians) -> tuple[str, str, str, str]:
    """What it is, what was measured, what was wanted, and whether that was met."""
    value = ratio.of(medians)
    sign = "at most" if ratio.at_most else "at least"
    return (
        ratio.what,
        f"{report.shown(value)} {ratio.unit}",
        f"{sign} {report.shown(ratio.target)} {ratio.unit}",
        "met" if ratio.is_within(value, ratio.target) else "not met",
    )


def print_ratios(console: Console, medians: Medians) -> list[Ratio]:
    """What that means. Returns those that have become much worse."""
    table = Table("what", "measured", "target", "")
    for ratio in RATIOS:
        *columns, outcome = judged(ratio, medians)
        table.add_row(*columns, outcome if outcome == "met" else f"[yellow]{outcome}")
    console.print(table)
    return [ratio for ratio in RATIOS if not ratio.is_within(ratio.of(medians), ratio.alarm)]


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description="Compare the log with others, and with what is possible.")
    parser.add_argument(
        "--quick", action="store_true", help="less of everything; fails if something is much slower"
    )
    parser.add_argument("--write", action="store_true", help="draw the pictures, and keep the figures")
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--write keeps the figures of a whole run, not of --quick")
    count, rounds = (
        (EVENTS // 10, QUICK_ROUNDS) if arguments.quick else (EVENTS, dict.fromkeys(CONTENDERS, 5))
    )
    console = Console(width=140)
    found = measure_all(count, rounds)
    growth = measure_growth(QUICK_GROWTH if arguments.quick else GROWTH)
    found["growth"] = growth_in_short(growth)
    medians = {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in found.items()
    }
    print_figures(console, found)
    print_growth(console, growth)
    alarms = print_ratios(console, medians)
    if arguments.write:
        machine: dict[str, Any] = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "events": count,
        }
        RESULTS.write_text(json.dumps({"machine": machine, "runs": found, "growth": growth}) + "\n")
        report.draw(found, growth)
        report.tabulate(found, [judged(ratio, medians) for ratio in RATIOS])
    if arguments.quick and alarms:
        sys.exit(f"much slower than it was: {', '.join(ratio.what for ratio in alarms)}")


if __name__ == "__main__":
    main()
