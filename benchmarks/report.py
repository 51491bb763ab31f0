"""The pictures and tables of the pages that have figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).parent.parent / "docs" / "measured"

Runs = Mapping[str, Mapping[str, Sequence[float]]]
Curve = Sequence[tuple[float, float]]

_COSTS: Final = {
    "send_nowait": "a bare send_nowait",
    "encoder": "the JSON encoder alone",
    "ingest": "log.ingest",
    "ingest (pure)": "log.ingest, pure Python",
    "structlog": "structlog, JSON to a file",
    "queue_handler": "logging.QueueHandler",
    "opentelemetry": "OpenTelemetry, emit",
}

_RATES: Final = {
    "raw_insert": "raw: rows made in advance",
    "raw_batches": "raw: batches made in advance",
    "log_into_sqlite": "the log",
    "log_into_sqlite (pure)": "the log, pure Python",
    "log_beside_work": "the log, beside a busy program",
    "bare_psycopg": "psycopg alone, batches made in advance",
    "log_into_postgres": "the log, into PostgreSQL",
    "bare_nats": "nats-py alone, messages made in advance",
    "log_into_jetstream": "the log, into JetStream, not synced",
    "log_into_jetstream3": "the log, into JetStream on three servers, not synced",
    "queue_handler": "QueueHandler and QueueListener",
    "opentelemetry": "OpenTelemetry, batch processor",
    "eventsourcing": "eventsourcing, one index",
    "eventsourcing_recorder": "eventsourcing, states made in advance",
    "structlog": "structlog, not synced, no index",
}

_OURS: Final = (
    "ingest",
    "ingest (pure)",
    "log_into_sqlite (pure)",
    "log_into_sqlite",
    "log_beside_work",
    "log_into_postgres",
    "log_into_jetstream",
    "log_into_jetstream3",
)

_PLACES: Final = {
    "sqlite": "SQLite",
    "postgres": "PostgreSQL",
    "jetstream": "JetStream",
    "jetstream_synced": "JetStream, synced",
    "jetstream_streams": "JetStream, a stream each",
    "jetstream3": "JetStream, three servers",
}


@contextmanager
def _picture(file: str, title: str, **size: Any) -> Iterator[Any]:
    # Not needed by who only measures.
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "trio-eventlog"
    from matplotlib import pyplot as plt

    picture, axes = plt.subplots(layout="constrained", **size)
    axes.set_title(title)
    yield axes
    picture.savefig(DIRECTORY / file, metadata={"Date": None})
    plt.close(picture)


def _bars(file: str, title: str, unit: str, bars: Mapping[str, Sequence[float]], ours: Sequence[str]) -> None:
    with _picture(file, title, figsize=(8, 0.55 * len(bars) + 1.2)) as axes:
        medians = [statistics.median(values) for values in bars.values()]
        spread = [
            [median - min(values) for median, values in zip(medians, bars.values(), strict=True)],
            [max(values) - median for median, values in zip(medians, bars.values(), strict=True)],
        ]
        colours = ["tab:orange" if name in ours else "tab:blue" for name in bars]
        axes.barh(list(bars), medians, xerr=spread, color=colours, capsize=3)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,g}")


def _lines(
    file: str, title: str, labels: tuple[str, str], curves: Mapping[str, Curve], *, logarithmic: str = ""
) -> None:
    with _picture(file, title, figsize=(8, 4)) as axes:
        for name, curve in curves.items():
            axes.plot(*zip(*curve, strict=True), marker=".", label=name)
        for axis in "xy":
            if axis in logarithmic:
                axes.set(**{f"{axis}scale": "log"})
            else:
                axes.set(**{f"{axis}lim": (0, None)})
                getattr(axes, f"{axis}axis").set_major_formatter("{x:,g}")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            # Beside the picture, where it covers nothing.
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")


def draw(found: Runs, growth: Mapping[str, Mapping[str, Curve]]) -> None:
    """Draw all of them."""
    ours = [{**_COSTS, **_RATES}[name] for name in _OURS]
    _bars(
        "cost.svg",
        "What a call costs the program",
        "microseconds for each event: median of five runs, least and most",
        {label: found[name]["cost"] for name, label in _COSTS.items()},
        ours,
    )
    _bars(
        "rate.svg",
        "From the first call to the last event stored",
        "events a second: median of five runs, least and most",
        {label: found[name]["rate"] for name, label in _RATES.items()},
        ours,
    )
    _bars(
        "imports.svg",
        "Imports",
        "milliseconds",
        {name: [curve[0][1]] for name, curve in growth["imports"].items()},
        [name for name in growth["imports"] if "trio_eventlog" in name],
    )
    _lines(
        "backlog-cost.svg",
        "A call, while events wait",
        ("events that wait", "microseconds for each event"),
        {"ingest": growth["backlog"]["ingest"]},
    )
    _lines(
        "backlog-memory.svg",
        "Memory, while events wait",
        ("events ingested into a store that never answers", "MiB"),
        {"memory": growth["backlog"]["memory"]},
    )
    rows = growth["rows"]
    _lines(
        "file-size.svg",
        "The file, as the store grows",
        ("events in the store", "bytes for each event"),
        {"size": rows["bytes"]},
        logarithmic="x",
    )
    _lines(
        "append-rate.svg",
        "Into SQLite, as the store grows",
        ("events in the store", "events a second"),
        {"append": rows["append"], "read on": rows["replay"]},
        logarithmic="x",
    )
    _lines(
        "queries.svg",
        "Queries for at most 100 events, and opening a log, as the store grows",
        ("events in the store", "milliseconds"),
        {
            **{name.removeprefix("query: "): rows[name] for name in rows if name.startswith("query: ")},
            "opening a log": rows["open"],
        },
        logarithmic="xy",
    )
    _lines(
        "subscribers.svg",
        "Many subscribers, 200 events a second",
        ("subscribers", "percent of a core"),
        {"processor time": growth["subscribers"]["subscribers"]},
    )


def shown(value: float) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(file: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [head, ["---"] * len(head), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (DIRECTORY / file).write_text(text)


def _figures(found: Runs, labels: Mapping[str, str], figure: str) -> Iterator[Sequence[str]]:
    for name, label in labels.items():
        values = found[name][figure]
        bold = "**" if name in _OURS else ""
        median, least, most = map(shown, (statistics.median(values), min(values), max(values)))
        yield f"{bold}{label}{bold}", median, f"{least} to {most}"


def tabulate(found: Runs, ratios: Iterable[Sequence[str]]) -> None:
    """Write the tables."""
    _table("cost.txt", ("", "us for each event", "least and most"), _figures(found, _COSTS, "cost"))
    parts = found["parts"]
    _table(
        "parts.txt",
        ("", "us"),
        [(name, shown(statistics.median(values))) for name, values in parts.items()],
    )
    _table("rate.txt", ("", "events a second", "least and most"), _figures(found, _RATES, "rate"))
    _table("ratios.txt", ("", "with the core", "pure Python"), ratios)


# --- logs that share a file, a database or a stream ----------------------------------------------

Table = tuple[Sequence[str], list[Sequence[str]]]
"""Its head, and its lines."""


def server_tables(found: Mapping[str, Mapping[str, Mapping[str, Curve]]]) -> dict[str, Table]:
    """What ``servers.py`` has found, by the files that they go to."""
    tables = {
        "stores.txt": _stores(found),
        "writers.txt": _writers(found["writers"]),
        "delays.txt": _delays(found["delays"]),
        "flushes.txt": _flushes(found["delays"]),
        "logs.txt": _logs(found["logs"]),
    }
    for place, curves in found["rows"].items():
        # What becomes of SQLite is in the pictures.
        if place != "sqlite":
            tables[f"rows-{place}.txt"] = _rows(curves)
    return tables


def tabulate_servers(found: Mapping[str, Mapping[str, Mapping[str, Curve]]]) -> None:
    """Write these tables."""
    for file, table in server_tables(found).items():
        _table(file, *table)


def _counts(curve: Curve) -> list[str]:
    return [f"{number:,.0f}" for number, _ in curve]


def _values(curve: Curve) -> list[str]:
    return [shown(value) for _, value in curve]


def _stores(found: Mapping[str, Mapping[str, Mapping[str, Curve]]]) -> Table:
    """The main figures of each, beside each other."""
    places = list(found["writers"])
    most = min(curves["open"][-1][0] for curves in found["rows"].values())
    in_a_log = f"with {most:,.0f} events in the log"
    wanted: list[tuple[str, str, str, int]] = [
        ("events a second, one writer", "writers", "rate", 1),
        ("events a second, eight writers", "writers", "rate", 8),
        ("flushes of one event a second, one writer", "delays", "flushes", 1),
        ("flushes of one event a second, eight writers", "delays", "flushes", 8),
        ("ms from `ingest` to `flush`, eight writers with 20 a second each: median", "delays", "median", 160),
        ("99 %", "delays", "99 %", 160),
        ("events a second, read from eight logs by time", "writers", "merged", 8),
        (f"{in_a_log}: ms to open it", "rows", "open", most),
        ("ms for 100 behind a cursor", "rows", "query: cursor in the middle", most),
        ("ms for a `run_id`, 40 events", "rows", "query: run", most),
        ("ms for a `member_id`, the first 100", "rows", "query: member", most),
        ("ms for the 100 first events of a second", "rows", "query: window of 1,000", most),
        ("bytes on disk for each event", "rows", "bytes", most),
        ("MiB of memory of the server", "rows", "memory", most),
    ]
    lines = []
    for name, part, figure, number in wanted:
        values = [dict(found[part].get(place, {}).get(figure, ())).get(number) for place in places]
        lines.append([name, *(shown(value) if value else "" for value in values)])
    return ["", *(_PLACES[place] for place in places)], lines


def _writers(places: Mapping[str, Mapping[str, Curve]]) -> Table:
    numbers = _counts(next(iter(places.values()))["rate"])
    head = ["events a second, by writers", *numbers, "us: writer", "us: server", "merged reader"]
    lines = []
    for place, curves in places.items():
        last = [shown(curves[figure][-1][1]) for figure in ("writer", "server", "merged")]
        lines.append([_PLACES[place], *_values(curves["rate"]), *last])
    return head, lines


def _delays(places: Mapping[str, Mapping[str, Curve]]) -> Table:
    rates = _counts(next(iter(places.values()))["median"])
    figures = ("median", "99 %", "most")
    head = ["ms, by events a second", *(f"{rate}: {figure}" for rate in rates for figure in figures)]
    return head, [
        [_PLACES[place], *(shown(curves[figure][n][1]) for n in range(len(rates)) for figure in figures)]
        for place, curves in places.items()
    ]


def _flushes(places: Mapping[str, Mapping[str, Curve]]) -> Table:
    numbers = _counts(next(iter(places.values()))["flushes"])
    return ["flushes a second, by writers", *numbers], [
        [_PLACES[place], *_values(curves["flushes"])] for place, curves in places.items()
    ]


def _rows(curves: Mapping[str, Curve]) -> Table:
    # Between two sizes, appends are measured more than once.
    sizes = [number for number, _ in curves["open"]]
    appends = [point for point in curves["append"] if point[0] in sizes]
    queries = {name.removeprefix("query: "): curves[name] for name in curves if name.startswith("query: ")}
    lines: dict[str, Curve] = {
        "append, events a second": appends,
        "read on, events a second": curves["replay"],
        "open, ms": curves["open"],
        **{f"query: {name}, ms": curve for name, curve in queries.items()},
        "bytes on disk for each event": curves["bytes"],
        "memory of the server, MiB": curves["memory"],
    }
    return ["events in the log", *_counts(curves["open"])], [
        [name, *_values(curve)] for name, curve in lines.items()
    ]


def _logs(places: Mapping[str, Mapping[str, Curve]]) -> Table:
    names = {
        "open": "open one",
        "append": "append an event to one",
        "read": "read all of one",
        "list": "open readers of all",
        "merge": "open readers of all, and merge 100 events",
    }
    numbers = _counts(next(iter(places.values()))["open"])
    return ["ms, by logs that are there", "", *numbers], [
        [_PLACES[place], name, *_values(curves[figure])]
        for place, curves in places.items()
        for figure, name in names.items()
    ]
