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

CONTENDERS: tuple[str, ...] = (
    "calibration",
    "send_nowait",
    "encoder",
    "ingest",
    "parts",
    "opentelemetry",
    "queue_handler",
    "structlog",
    "raw_insert",
    "raw_insert_4k",
    "raw_batches",
    "log_into_sqlite",
    "bare_psycopg",
    "log_into_postgres",
    "bare_nats",
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

PURE: Final = " (pure)"
"""Comes after the name of a contender that does without the core in C."""

CONTENDERS += tuple(
    f"{name}{PURE}"
    for name in ("ingest", "log_into_sqlite", "log_beside_work", "log_into_postgres", "log_into_jetstream")
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
    """Something that must stay within bounds, whatever the machine.

    Attributes:
      what: what it is.
      of: its value, of the medians and the form of the library: with its core, or :data:`PURE`.
      at_most: whether less is better.
      alarm: beyond this something has become slower; below the noise of a short run.
      pure_alarm: the same without the core; None if that does not matter, or was not measured.
      unit: of the value.
    """

    what: str
    of: Callable[[Medians, str], float]
    at_most: bool = attrs.field(default=True, kw_only=True)
    alarm: float = attrs.field(kw_only=True)
    pure_alarm: float | None = attrs.field(default=None, kw_only=True)
    unit: str = attrs.field(default="x", kw_only=True)

    def is_within(self, value: float, bound: float) -> bool:
        """Whether it is as good as that."""
        return value <= bound if self.at_most else value >= bound


def of_rates(other: str, own: str = "log_into_sqlite") -> Callable[[Medians, str], float]:
    """Events a second of the log into a store, as a multiple of another's."""
    return lambda m, form: m[f"{own}{form}"]["rate"] / m[other]["rate"]


def grown(figure: str) -> Callable[[Medians, str], float]:
    """What becomes of it as something becomes many."""
    return lambda m, _form: m["growth"][figure]


RATIOS: Final = (
    Ratio(
        "`ingest`, as a multiple of a bare `send_nowait`",
        lambda m, form: m[f"ingest{form}"]["call"] / m["send_nowait"]["cost"],
        alarm=7,
        pure_alarm=30,
    ),
    Ratio(
        "making the event and `ingest`, likewise",
        lambda m, form: m[f"ingest{form}"]["cost"] / m["send_nowait"]["cost"],
        alarm=9,
        pure_alarm=34,
    ),
    Ratio(
        "OpenTelemetry's `emit`, as a multiple of that",
        lambda m, form: m["opentelemetry"]["cost"] / m[f"ingest{form}"]["cost"],
        at_most=False,
        alarm=4,
        pure_alarm=1.3,
    ),
    Ratio(
        "the standard library's queue handler, as a multiple of that",
        lambda m, form: m["queue_handler"]["cost"] / m[f"ingest{form}"]["cost"],
        at_most=False,
        alarm=3,
        pure_alarm=1.0,
    ),
    Ratio(
        "events a second into SQLite, as a multiple of rows made in advance",
        of_rates("raw_insert"),
        at_most=False,
        alarm=0.6,
        pure_alarm=0.3,
    ),
    Ratio(
        "of such rows in pages of 4 KiB",
        of_rates("raw_insert_4k"),
        at_most=False,
        alarm=0.65,
        pure_alarm=0.35,
    ),
    Ratio("of batches made in advance", of_rates("raw_batches"), at_most=False, alarm=0.4, pure_alarm=0.2),
    Ratio("of OpenTelemetry", of_rates("opentelemetry"), at_most=False, alarm=2, pure_alarm=1.3),
    Ratio("of the queue handler", of_rates("queue_handler"), at_most=False, alarm=1.6, pure_alarm=1.1),
    Ratio(
        "of eventsourcing's event store", of_rates("eventsourcing"), at_most=False, alarm=1.4, pure_alarm=0.8
    ),
    Ratio(
        "of eventsourcing's recorder alone",
        of_rates("eventsourcing_recorder"),
        at_most=False,
        alarm=0.6,
        pure_alarm=0.3,
    ),
    Ratio(
        "events a second into PostgreSQL, as a multiple of psycopg alone with batches made in advance",
        of_rates("bare_psycopg", "log_into_postgres"),
        at_most=False,
        alarm=0.5,
        pure_alarm=0.4,
    ),
    Ratio(
        "events a second into JetStream, as a multiple of nats-py alone with messages made in advance",
        of_rates("bare_nats", "log_into_jetstream"),
        at_most=False,
        alarm=0.5,
        pure_alarm=0.4,
    ),
    Ratio(
        "events a second beside a busy program, as a multiple of those in an idle one",
        lambda m, form: m[f"log_beside_work{form}"]["rate"] / m[f"log_into_sqlite{form}"]["rate"],
        at_most=False,
        alarm=0.2,
        pure_alarm=0.2,
    ),
    Ratio(
        "lag added beside a busy program, 99th percentile",
        lambda m, form: m[f"log_beside_work{form}"]["lag_99_ms"],
        alarm=25,
        pure_alarm=60,
        unit="ms",
    ),
    Ratio(
        "longest stall added there",
        lambda m, form: m[f"log_beside_work{form}"]["stall_ms"],
        alarm=80,
        pure_alarm=200,
        unit="ms",
    ),
    Ratio(
        "events a second read in pages, as a multiple of select and decode",
        lambda m, _form: m["replay"]["rate"] / m["replay"]["select_and_decode"],
        at_most=False,
        alarm=0.5,
    ),
    Ratio(
        "`ingest` with 4,096 events waiting, as a multiple of with few", grown("ingest_when_full"), alarm=2
    ),
    Ratio(
        "indexed query that grows most, largest store as a multiple of smallest",
        grown("indexed_query"),
        alarm=6,
    ),
    Ratio("opening a log, largest store as a multiple of smallest", grown("open"), alarm=4),
    Ratio(
        "events a second into SQLite, largest store as a multiple of an empty one",
        grown("append"),
        at_most=False,
        alarm=0.3,
    ),
    Ratio("`ingest` when the oldest has to go, as a multiple of with few", grown("when_losing"), alarm=16),
    Ratio("memory of a waiting event", lambda m, _form: m["waiting"]["bytes"], alarm=950, unit="bytes"),
    Ratio("steps of an idle log in two seconds", lambda m, _form: m["idle"]["steps"], alarm=0, unit=""),
    Ratio(
        "import, as a multiple of what it stands on",
        lambda m, _form: m["importing"]["package"] / m["importing"]["foundation"],
        alarm=2,
    ),
)


def run(script: str, *arguments: object, pure: bool = False) -> Any:
    """What a script prints, as JSON."""
    done = subprocess.run(
        [sys.executable, os.fspath(HERE / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRIO_EVENTLOG_PURE": "1" if pure else "0"},
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
            figures = run("contenders.py", name.removesuffix(PURE), count, pure=name.endswith(PURE))
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


def judged(ratio: Ratio, medians: Medians) -> tuple[str, str, str]:
    """What it is, and what was measured with and without the core."""
    measured = f"{report.shown(ratio.of(medians, ''))} {ratio.unit}"
    pure = "" if ratio.pure_alarm is None else f"{report.shown(ratio.of(medians, PURE))} {ratio.unit}"
    return ratio.what, measured, pure


def print_ratios(console: Console, medians: Medians) -> list[str]:
    """What that means. Returns what has become much worse."""
    table = Table("what", "with the core", "pure Python")
    worse = []
    for ratio in RATIOS:
        table.add_row(*judged(ratio, medians))
        for form, alarm in (("", ratio.alarm), (PURE, ratio.pure_alarm)):
            if alarm is not None and not ratio.is_within(ratio.of(medians, form), alarm):
                worse.append(f"{ratio.what}{form}")
    console.print(table)
    return worse


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
        (EVENTS // 10, QUICK_ROUNDS) if arguments.quick else (EVENTS, dict.fromkeys(CONTENDERS, 3))
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
        sys.exit(f"much slower than it was: {', '.join(alarms)}")


if __name__ == "__main__":
    main()
