"""Measures all contenders in turn and prints what they did, and ratios: ``nox -s bench``.

``--quick`` takes a tenth of the events and three rounds, and fails if a ratio is far from what it was when
the documentation was written. ``--write`` draws the pictures of the documentation and keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from workload import EVENTS

HERE: Final = Path(__file__).parent
PICTURES: Final = HERE.parent / "docs" / "pictures"
RESULTS: Final = HERE / "results.json"

CONTENDERS: Final = (
    "calibration",
    "send_nowait",
    "encoder",
    "ingest",
    "opentelemetry",
    "queue_handler",
    "structlog",
    "raw_insert",
    "log_into_sqlite",
    "eventsourcing",
    "log_beside_work",
    "replay",
    "waiting",
    "idle",
    "importing",
)

Medians = Mapping[str, Mapping[str, float]]


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
        "ingest, of a bare send_nowait", lambda m: m["ingest"]["cost"] / m["send_nowait"]["cost"], 6, True, 45
    ),
    Ratio(
        "OpenTelemetry's emit, of ingest",
        lambda m: m["opentelemetry"]["cost"] / m["ingest"]["cost"],
        8,
        False,
        1.0,
    ),
    Ratio(
        "the standard library's queue handler, of ingest",
        lambda m: m["queue_handler"]["cost"] / m["ingest"]["cost"],
        8,
        False,
        0.8,
    ),
    Ratio(
        "into SQLite, of the raw insert",
        lambda m: m["log_into_sqlite"]["rate"] / m["raw_insert"]["rate"],
        0.55,
        False,
        0.3,
    ),
    Ratio(
        "into SQLite, of OpenTelemetry",
        lambda m: m["log_into_sqlite"]["rate"] / m["opentelemetry"]["rate"],
        3,
        False,
        1.3,
    ),
    Ratio(
        "into SQLite, of the queue handler",
        lambda m: m["log_into_sqlite"]["rate"] / m["queue_handler"]["rate"],
        3,
        False,
        1.1,
    ),
    Ratio(
        "into SQLite, of eventsourcing",
        lambda m: m["log_into_sqlite"]["rate"] / m["eventsourcing"]["rate"],
        1.5,
        False,
        0.25,
    ),
    Ratio(
        "beside a busy program, of an idle one",
        lambda m: m["log_beside_work"]["rate"] / m["log_into_sqlite"]["rate"],
        0.3,
        False,
        0.1,
    ),
    Ratio(
        "lag that it adds, 99th percentile", lambda m: m["log_beside_work"]["lag_99_ms"], 5, True, 50, "ms"
    ),
    Ratio("longest stall", lambda m: m["log_beside_work"]["stall_ms"], 25, True, 250, "ms"),
    Ratio(
        "replay, of select and decode",
        lambda m: m["replay"]["rate"] / m["replay"]["select_and_decode"],
        0.5,
        False,
        0.3,
    ),
    Ratio("memory of a waiting event", lambda m: m["waiting"]["bytes"], 700, True, 800, "bytes"),
    Ratio("steps of an idle log in two seconds", lambda m: m["idle"]["steps"], 0, True, 0, ""),
    Ratio(
        "import, of what it stands on",
        lambda m: m["importing"]["package"] / m["importing"]["foundation"],
        1.3,
        True,
        1.5,
    ),
)


def measure(name: str, count: int) -> dict[str, float]:
    """Run one of them once."""
    done = subprocess.run(
        [sys.executable, os.fspath(HERE / "contenders.py"), name, str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure_all(count: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """All of them in turn, so that what disturbs the machine disturbs all."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in CONTENDERS}
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=rounds * len(CONTENDERS))
        for _ in range(rounds):
            for name in CONTENDERS:
                progress.update(task, description=name)
                for figure, value in measure(name, count).items():
                    found[name].setdefault(figure, []).append(value)
                progress.advance(task)
    return found


def shown(value: float) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def print_figures(console: Console, found: Mapping[str, Mapping[str, list[float]]]) -> None:
    """What each of them did."""
    table = Table(
        "contender", "figure", "median", "least", "most", title="cost: us for each event; rate: events/s"
    )
    for name, figures in found.items():
        for figure, values in figures.items():
            table.add_row(
                name, figure, shown(statistics.median(values)), shown(min(values)), shown(max(values))
            )
    console.print(table)


def print_ratios(console: Console, medians: Medians) -> list[Ratio]:
    """What that means. Returns those that have become much worse."""
    table = Table("what", "measured", "target", "")
    alarms = []
    for ratio in RATIOS:
        value = ratio.of(medians)
        met = ratio.is_within(value, ratio.target)
        sign = "<=" if ratio.at_most else ">="
        table.add_row(
            ratio.what,
            f"{shown(value)} {ratio.unit}",
            f"{sign} {shown(ratio.target)} {ratio.unit}",
            "met" if met else "[yellow]not met",
        )
        if not ratio.is_within(value, ratio.alarm):
            alarms.append(ratio)
    console.print(table)
    return alarms


def draw(found: Mapping[str, Mapping[str, list[float]]]) -> None:
    """The pictures of the page about performance."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "trio-eventlog"
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    def bars(file: str, title: str, figure: str, names: Mapping[str, str], unit: str) -> None:
        medians = [statistics.median(found[name][figure]) for name in names]
        spread = [
            [median - min(found[name][figure]) for name, median in zip(names, medians, strict=True)],
            [max(found[name][figure]) - median for name, median in zip(names, medians, strict=True)],
        ]
        picture, axes = plt.subplots(figsize=(8, 0.55 * len(names) + 1.2), layout="constrained")
        colours = [
            "tab:orange" if name in ("ingest", "log_into_sqlite", "log_beside_work") else "tab:blue"
            for name in names
        ]
        axes.barh(list(names.values()), medians, xerr=spread, color=colours, capsize=3)
        axes.invert_yaxis()
        axes.set_title(title)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter("{x:,g}")
        picture.savefig(PICTURES / file, metadata={"Date": None})
        plt.close(picture)

    bars(
        "cost.svg",
        "What a call costs the program",
        "cost",
        {
            "send_nowait": "a bare send_nowait",
            "encoder": "the JSON encoder alone",
            "ingest": "log.ingest",
            "structlog": "structlog, JSON to a file",
            "queue_handler": "logging.QueueHandler",
            "opentelemetry": "OpenTelemetry, emit",
        },
        "microseconds for each event: median of five runs, least and most",
    )
    bars(
        "rate.svg",
        "From the first call to the last event on disk",
        "rate",
        {
            "raw_insert": "raw: rows made in advance",
            "log_into_sqlite": "the log",
            "log_beside_work": "the log, beside a busy program",
            "queue_handler": "QueueHandler and QueueListener",
            "opentelemetry": "OpenTelemetry, batch processor",
            "eventsourcing": "eventsourcing, states made in advance, one index",
            "structlog": "structlog, not synced, no index",
        },
        "events a second: median of five runs, least and most",
    )


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description="Compare the log with others, and with what is possible.")
    parser.add_argument(
        "--quick", action="store_true", help="less of everything; fails if something is much slower"
    )
    parser.add_argument("--write", action="store_true", help="draw the pictures, and keep the figures")
    arguments = parser.parse_args()
    count, rounds = (EVENTS // 10, 3) if arguments.quick else (EVENTS, 5)
    console = Console(width=110)
    found = measure_all(count, rounds)
    medians = {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in found.items()
    }
    print_figures(console, found)
    alarms = print_ratios(console, medians)
    if arguments.write:
        machine: dict[str, Any] = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "events": count,
        }
        RESULTS.write_text(json.dumps({"machine": machine, "runs": found}, indent=1) + "\n")
        draw(found)
    if arguments.quick and alarms:
        sys.exit(f"much slower than it was: {', '.join(ratio.what for ratio in alarms)}")


if __name__ == "__main__":
    main()
