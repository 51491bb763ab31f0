"""What is measured, each in a process of its own: ``python benchmarks/contenders.py NAME EVENTS``.

Prints one JSON object of figures. Rates are events a second from the first call until the last event is on
disk. Costs are microseconds of the caller for each event, from its parts to the return of the call, the
median over bursts, with nothing else to do meanwhile. Everybody writes to SQLite in WAL mode with
``synchronous=FULL``; all but eventsourcing, which has a layout of its own, to the table of the log with its
eight indexes. structlog writes to a file, which it does not sync. Three times the log writes to servers,
which run on the same processors (``places.py``).
"""

from __future__ import annotations

import gc
import json
import logging
import logging.handlers
import os
import queue
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw
import drivers
import msgspec
import trio
import trio.testing
from places import PLACES
from uuid_utils import uuid7
from workload import events, payload

from trio_eventlog import (
    AgentEvent,
    EventEnvelope,
    EventQuery,
    EventStore,
    PersistedEvent,
    open_event_log,
)
from trio_eventlog._model import _payload
from trio_eventlog._model._events import new_event_id, sealed, wall_clock_ms
from trio_eventlog._model._sealed import seal_persisted
from trio_eventlog._speedups import core
from trio_eventlog.reading import iter_events
from trio_eventlog.stores import NullStore, SqliteStore, open_store
from trio_eventlog.stores.sqlite import _appender as appending
from trio_eventlog.stores.sqlite import _schema as schema
from trio_eventlog.stores.sqlite import _select as queries

BURST = 1_000
"""Calls that are timed together."""

AT_ONCE = 512
"""Calls in a row, for the log, which lets other tasks run then; and a batch of eventsourcing's."""

TRANSACTION = 4_096
"""Most events of a transaction, for all others: as many as the log has in one."""

encode = msgspec.json.Encoder().encode

AT_MOST = 2_048
"""Rows of a statement, for the raw insert."""

Figures = dict[str, float]

T = TypeVar("T")


def per_event(
    call: Callable[[Any], object], items: Sequence[Any], *, between: Callable[[], object] | None = None
) -> float:
    """Microseconds for one call."""
    costs = []
    for start in range(0, len(items), BURST):
        burst = items[start : start + BURST]
        begin = time.perf_counter()
        for item in burst:
            call(item)
        costs.append((time.perf_counter() - begin) / len(burst))
        if between is not None:
            between()
    return statistics.median(costs) * 1e6


def set_aside(items: Iterable[T]) -> list[T]:
    """The items as a list that the collector of cycles does not look at: no program has so many at once."""
    made = list(items)
    gc.collect()
    gc.freeze()
    return made


def agent_events(count: int) -> list[AgentEvent]:
    """The workload as events."""
    return set_aside(AgentEvent(*event) for event in events(count))


def envelopes(count: int) -> list[EventEnvelope]:
    """The workload as envelopes."""
    return set_aside(EventEnvelope.of(AgentEvent(*event)) for event in events(count))


def connect(path: Path) -> sqlite3.Connection:
    """Where the peers write to: the table of the log, which can be searched by the same things."""
    made = apsw.Connection(str(path))
    schema.prepare_writer(made, "default", "full")
    made.close()
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = FULL")
    return db


PEER_INSERT = (
    "INSERT INTO events_1"
    " (id, timestamp_ms, kind, actor, event_type, member_id, run_id, step_id, checksum, payload)"
    # A checksum is the business of the log: theirs costs nothing.
    " VALUES (?, ?, 0, ?, ?, ?, ?, ?, 0, ?)"
)


def peer_row(timestamp_ms: int, worker: str, event_type: str, body: Mapping[str, Any]) -> tuple[Any, ...]:
    """A row of it. An id as cheap as can be."""
    run_id, step_id = body["run_id"], body["step_id"]
    return (uuid7().hex, timestamp_ms, worker, event_type, worker, run_id, step_id, encode(body).decode())


# --- the limits -----------------------------------------------------------------------------------


def calibration(_count: int, _directory: Path) -> Figures:
    """How fast this machine is just now."""
    begin = time.perf_counter()
    total = 0
    for number in range(5_000_000):
        total += number & 7
    return {"seconds": time.perf_counter() - begin}


def send_nowait(count: int, _directory: Path) -> Figures:
    """Into a memory channel, and nothing else."""
    items = agent_events(min(count, 50_000))
    send, receive = trio.open_memory_channel[AgentEvent](BURST)

    def empty() -> None:
        for _ in range(BURST):
            receive.receive_nowait()

    items = items[: len(items) // BURST * BURST]
    return {"cost": per_event(send.send_nowait, items, between=empty)}


def encoder(count: int, _directory: Path) -> Figures:
    """The JSON encoder alone."""
    return {"cost": per_event(encode, [payload(n) for n in range(min(count, 50_000))])}


def numbered_events(count: int) -> list[PersistedEvent]:
    """The workload as a store gets it, sealed."""
    made = []
    for seq, envelope in enumerate(envelopes(count), 1):
        member = envelope.event.agent_id if isinstance(envelope.event, AgentEvent) else None
        event = PersistedEvent(envelope.event_id, seq, envelope.timestamp_ms, member, envelope.event)
        made.append(seal_persisted(event))
    return set_aside(made)


def raw_insert_4k(count: int, directory: Path) -> Figures:
    """The same in pages of 4 KiB, which SQLite takes by default."""
    return raw_insert(count, directory, 4096)


def raw_insert(count: int, directory: Path, page_size: int = schema.PAGE_SIZE) -> Figures:
    """Rows that were made before, into the schema of the log, 4,096 a transaction."""
    db = apsw.Connection(str(directory / "raw.db"))
    db.execute(f"PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal")
    log = schema.prepare_writer(db, "default", "full")
    rows = set_aside(appending.row_of(event, log.seed) for event in numbered_events(count))
    begin = time.perf_counter()
    for start in range(0, count, 2 * AT_MOST):
        db.execute("BEGIN IMMEDIATE")
        for half in range(start, min(start + 2 * AT_MOST, count), AT_MOST):
            appending.insert_rows(db, log.number, rows[half : half + AT_MOST])
        db.execute("COMMIT")
    return {"rate": count / (time.perf_counter() - begin)}


def raw_batches(count: int, directory: Path) -> Figures:
    """Batches that were made before, which SQLite reads in place, 4,096 a transaction. Needs the core."""
    db = apsw.Connection(str(directory / "raw.db"))
    log = schema.prepare_writer(db, "default", "full")
    schema.load_core(db)
    made = numbered_events(count)
    starts = range(0, count, 2 * AT_MOST)
    batches = [core.make_batch(made[start : start + 2 * AT_MOST], log.seed) for start in starts]
    begin = time.perf_counter()
    for batch in batches:
        db.execute("BEGIN IMMEDIATE")
        appending.insert_batch(db, log.number, batch)
        db.execute("COMMIT")
    return {"rate": count / (time.perf_counter() - begin)}


# --- the log --------------------------------------------------------------------------------------


def ingest(count: int, _directory: Path) -> Figures:
    """The event made and handed in, and the call alone; a flush between bursts."""
    made = agent_events(min(count, 50_000))
    raw = set_aside(events(len(made)))

    async def main() -> Figures:
        costs: list[float] = []
        calls: list[float] = []
        async with open_event_log(NullStore(), retry_buffer_cap=2 * BURST) as log:

            def make_and_ingest(event: tuple[str, str, dict[str, Any]]) -> None:
                log.ingest(AgentEvent(*event))

            for start in range(0, len(made), BURST):
                costs.append(per_event(make_and_ingest, raw[start : start + BURST]))
                await log.flush()
                calls.append(per_event(log.ingest, made[start : start + BURST]))
                await log.flush()
        return {"cost": statistics.median(costs), "call": statistics.median(calls)}

    return trio.run(main)


def parts(count: int, _directory: Path) -> Figures:
    """What ``ingest`` consists of, each part alone."""
    made = agent_events(min(count, 20_000))
    payloads = [event.payload for event in made]
    encoded = [encode(value) for value in payloads]

    def objects(text: bytes) -> None:
        event = sealed(AgentEvent, "worker-7", "step_3", text)
        PersistedEvent("id", 0, 1, "worker-7", event)

    def id_and_clock(_nothing: object) -> None:
        new_event_id()
        wall_clock_ms()

    return {
        "checking the payload": per_event(
            lambda value: _payload._check_fast((value,), 0, 1 << 20, 0), payloads
        ),
        "encoding it": per_event(encode, payloads),
        "two objects": per_event(objects, encoded),
        "id and wall clock": per_event(id_and_clock, encoded),
    }


async def throughput(store: EventStore, items: Sequence[EventEnvelope]) -> Figures:
    """Ingest all of them, as fast as it goes."""
    async with open_event_log(store, retry_buffer_cap=8_192) as log:
        begin = time.perf_counter()
        for start in range(0, len(items), AT_ONCE):
            for item in items[start : start + AT_ONCE]:
                log.ingest(item)
            await trio.lowlevel.checkpoint()
            while log.statistics().pending > 7_500:
                await trio.sleep(0.001)
        await log.flush()
        rate = log.statistics().persisted / (time.perf_counter() - begin)
        return {"rate": rate, "lost": log.statistics().lost_total}


def log_into_sqlite(count: int, directory: Path) -> Figures:
    """The log, with all its promises."""
    items = envelopes(count)

    async def main() -> Figures:
        async with SqliteStore.open(directory / "log.db") as store:
            return await throughput(store, items)

    return trio.run(main)


def _log_into(place: str, count: int, directory: Path) -> Figures:
    items = envelopes(count)

    async def main() -> Figures:
        async with open_store(url) as store:
            return await throughput(store, items)

    with PLACES[place](directory) as url:
        return trio.run(main)


def bare_psycopg(count: int, directory: Path) -> Figures:
    """psycopg alone, with the statement and the batches of the log."""
    return {"rate": drivers.psycopg_loop(numbered_events(count), directory)}


def bare_nats(count: int, directory: Path) -> Figures:
    """nats-py alone, with the messages and the batches of the log."""
    return {"rate": drivers.nats_loop(numbered_events(count), directory)}


def log_into_postgres(count: int, directory: Path) -> Figures:
    """The log, into a database."""
    return _log_into("postgres", count, directory)


def log_into_jetstream(count: int, directory: Path) -> Figures:
    """The log, into a stream on one server."""
    return _log_into("jetstream", count, directory)


def log_into_jetstream3(count: int, directory: Path) -> Figures:
    """The log, into a stream with a copy on each of three servers."""
    return _log_into("jetstream3", count, directory)


def log_beside_work(count: int, directory: Path) -> Figures:
    """The same beside four tasks that compute without a pause, and what they notice of it."""
    count //= 2
    items = envelopes(count)
    lags: list[float] = []

    async def compute() -> None:
        while True:
            end = time.perf_counter() + 0.001
            while time.perf_counter() < end:
                pass
            await trio.lowlevel.checkpoint()

    async def probe() -> None:
        while True:
            begin = time.perf_counter()
            await trio.lowlevel.checkpoint()
            lags.append(time.perf_counter() - begin)

    async def main() -> Figures:
        async with (
            SqliteStore.open(directory / "log.db") as store,
            open_event_log(store, retry_buffer_cap=8_192) as log,
            trio.open_nursery() as nursery,
        ):
            for _ in range(4):
                nursery.start_soon(compute)
            nursery.start_soon(probe)
            await trio.sleep(1)
            before = sorted(lags)
            lags.clear()
            begin = time.perf_counter()
            for start in range(0, count, AT_ONCE):
                for item in items[start : start + AT_ONCE]:
                    log.ingest(item)
                await trio.lowlevel.checkpoint()
                while log.statistics().pending > 7_500:
                    await trio.lowlevel.checkpoint()
            await log.flush()
            rate = log.statistics().persisted / (time.perf_counter() - begin)
            after = sorted(lags)
            nursery.cancel_scope.cancel()
        at_99 = after[int(len(after) * 0.99)] - before[int(len(before) * 0.99)]
        return {
            "rate": rate,
            "lag_99_ms": at_99 * 1e3,
            "stall_ms": (after[-1] - before[-1]) * 1e3,
            "lost": log.statistics().lost_total,
        }

    return trio.run(main)


def replay(count: int, directory: Path) -> Figures:
    """Out of SQLite into events, payloads decoded: in pages, and one by one; and the rows alone, decoded."""
    log_into_sqlite(count, directory)

    async def main() -> tuple[float, float]:
        async with SqliteStore.open(directory / "log.db", read_only=True) as store:
            begin = time.perf_counter()
            async for page in iter_events(store).pages():
                for event in page:
                    _ = event.event.payload
            middle = time.perf_counter()
            async for event in iter_events(store):
                _ = event.event.payload
            return count / (middle - begin), count / (time.perf_counter() - middle)

    rate, one_by_one = trio.run(main)
    db = apsw.Connection(str(directory / "log.db"))
    begin = time.perf_counter()
    for row in db.execute(f"SELECT {queries.READ} FROM events_1 ORDER BY seq"):  # noqa: S608 - no values
        json.loads(row[-2])
    decoded = count / (time.perf_counter() - begin)
    begin = time.perf_counter()
    for _ in db.execute(f"SELECT {queries.READ} FROM events_1 ORDER BY seq"):  # noqa: S608 - no values
        pass
    selected = count / (time.perf_counter() - begin)
    return {"rate": rate, "one_by_one": one_by_one, "select_and_decode": decoded, "select": selected}


class Hanging:
    """A store that never answers."""

    async def append_batch(self, _events: Sequence[PersistedEvent]) -> Collection[int]:
        """Hang."""
        await trio.sleep_forever()
        raise AssertionError

    async def query(self, _query: EventQuery) -> list[PersistedEvent]:
        """Nothing."""
        await trio.lowlevel.checkpoint()
        return []

    async def last_seq(self) -> int:
        """It is empty."""
        await trio.lowlevel.checkpoint()
        return 0


def waiting(count: int, _directory: Path) -> Figures:
    """Memory of events that wait for a store."""
    count = min(count, 100_000)

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    async def main() -> float:
        async with open_event_log(
            Hanging(),
            retry_buffer_cap=count,
            max_pending_bytes=10**9,
            append_timeout=float("inf"),
            grace_period=0,
            on_failure=lambda _report: None,
        ) as log:
            before = resident()
            for number, event in enumerate(events(count)):
                log.ingest(AgentEvent(*event))
                if number % BURST == 0:
                    await trio.lowlevel.checkpoint()
            used = (resident() - before) / count
            print(json.dumps({"bytes": used}), flush=True)
            os._exit(0)

    trio.run(main)
    raise AssertionError


def idle(_count: int, directory: Path) -> Figures:
    """How often a log without events wakes up in two seconds."""

    class Waits(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    async def main() -> Figures:
        async with SqliteStore.open(directory / "log.db") as store, open_event_log(store):
            await trio.testing.wait_all_tasks_blocked()
            instrument = Waits()
            trio.lowlevel.add_instrument(instrument)
            await trio.sleep(2)
            trio.lowlevel.remove_instrument(instrument)
            # One of them is this task, which wakes up to say so.
            return {"steps": instrument.count - 1}

    return trio.run(main)


def importing(_count: int, directory: Path) -> Figures:
    """Seconds of importing the package, and of what it stands on alone."""
    # As they are installed: compiled. The first run does that.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(directory)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def seconds(statement: str) -> float:
        code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
        results = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
                ).stdout
            )
            for _ in range(6)
        ]
        return min(results)

    return {
        "package": seconds("import trio_eventlog"),
        "foundation": seconds("import trio, attrs, cattrs, cattrs.preconf.msgspec, msgspec"),
    }


# --- the peers ------------------------------------------------------------------------------------


def opentelemetry(count: int, directory: Path) -> Figures:
    """Its batch processor with a queue for all and an exporter that inserts a batch in one transaction."""
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import (
        BatchLogRecordProcessor,
        LogRecordExporter,
        LogRecordExportResult,
    )

    db = connect(directory / "otel.db")

    class Exporter(LogRecordExporter):
        def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
            rows = []
            for item in batch:
                record = item.log_record
                attributes = dict(record.attributes)
                worker = attributes.pop("worker")
                rows.append(peer_row(record.timestamp // 10**6, worker, record.event_name, record.body))
            db.execute("BEGIN")
            db.executemany(PEER_INSERT, rows)
            db.execute("COMMIT")
            return LogRecordExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 0) -> bool:
            return True

    class Discards(Exporter):
        def export(self, _batch: Sequence[Any]) -> LogRecordExportResult:
            return LogRecordExportResult.SUCCESS

    items = set_aside(events(count))

    def measure(exporter: Exporter, burst: int) -> tuple[float, float]:
        provider = LoggerProvider()
        processor = BatchLogRecordProcessor(exporter, max_queue_size=count, max_export_batch_size=TRANSACTION)
        provider.add_log_record_processor(processor)
        logger = provider.get_logger("bench")

        def emit(event: tuple[str, str, dict[str, Any]]) -> None:
            worker, event_type, body = event
            logger.emit(
                LogRecord(
                    timestamp=time.time_ns(), event_name=event_type, body=body, attributes={"worker": worker}
                )
            )

        begin = time.perf_counter()
        costs = []
        for start in range(0, count, burst):
            costs.append(per_event(emit, items[start : start + burst]))
            provider.force_flush(600_000)
        provider.shutdown()
        return statistics.median(costs), time.perf_counter() - begin

    cost, _ = measure(Discards(), BURST)
    _, seconds = measure(Exporter(), count)
    stored = db.execute("SELECT count(*) FROM events_1").fetchone()[0]
    return {"cost": cost, "rate": stored / seconds, "lost": count - stored}


def queue_handler(count: int, directory: Path) -> Figures:
    """The standard library's queue handler and listener; the handler inserts 4,096 records at once."""
    db = connect(directory / "logging.db")

    class Batches(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[tuple[Any, ...]] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.rows.append(
                peer_row(int(record.created * 1000), record.worker, record.event, record.payload)
            )
            if len(self.rows) >= TRANSACTION:
                self.flush()

        def flush(self) -> None:
            rows, self.rows = self.rows, []
            db.execute("BEGIN")
            db.executemany(PEER_INSERT, rows)
            db.execute("COMMIT")

    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    batches = Batches()
    listener = logging.handlers.QueueListener(records, batches)
    logger = logging.getLogger("bench")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(logging.handlers.QueueHandler(records))
    # What its documentation lists to leave out for speed.
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging._srcfile = None  # type: ignore[attr-defined]
    items = set_aside(events(count))

    def emit(event: tuple[str, str, dict[str, Any]]) -> None:
        worker, event_type, body = event
        logger.info("event", extra={"worker": worker, "event": event_type, "payload": body})

    def drain() -> None:
        while not records.empty():
            records.get()

    cost = per_event(emit, items, between=drain)
    listener.start()
    begin = time.perf_counter()
    for item in items:
        emit(item)
    listener.stop()
    batches.flush()
    seconds = time.perf_counter() - begin
    stored = db.execute("SELECT count(*) FROM events_1").fetchone()[0]
    return {"cost": cost, "rate": stored / seconds, "lost": count - stored}


def _happened(count: int) -> tuple[list[Any], Any]:
    """The workload as events of eventsourcing, and what maps them to states."""
    from uuid import uuid4

    from eventsourcing.domain import Aggregate, datetime_now_with_tzinfo
    from eventsourcing.persistence import DatetimeAsISO, JSONTranscoder, Mapper, UUIDAsHex

    class Happened(Aggregate.Event):
        worker: str
        event_type: str
        payload: dict[str, Any]

    transcoder = JSONTranscoder()
    transcoder.register(UUIDAsHex())
    transcoder.register(DatetimeAsISO())
    ids = [uuid4() for _ in range(50)]
    made = set_aside(
        Happened(ids[n % 50], n // 50 + 1, datetime_now_with_tzinfo(), *event)
        for n, event in enumerate(events(count))
    )
    return made, Mapper(transcoder)


def _recorder(directory: Path) -> Any:
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

    datastore = SQLiteDatastore(str(directory / "eventsourcing.db"))
    recorder = SQLiteApplicationRecorder(datastore)
    recorder.create_table()
    with datastore.get_connection(commit=False) as connection:
        connection.cursor().execute("PRAGMA synchronous = FULL")
    return recorder


def _rate_in_batches(items: Sequence[Any], insert: Callable[[Sequence[Any]], object]) -> float:
    begin = time.perf_counter()
    for start in range(0, len(items), AT_ONCE):
        insert(items[start : start + AT_ONCE])
    return len(items) / (time.perf_counter() - begin)


def eventsourcing(count: int, directory: Path) -> Figures:
    """Its event store with a mapper to JSON and its SQLite recorder, 512 events at once."""
    from eventsourcing.persistence import EventStore

    made, mapper = _happened(count)
    store = EventStore(mapper, _recorder(directory))
    return {"rate": _rate_in_batches(made, store.put)}


def eventsourcing_recorder(count: int, directory: Path) -> Figures:
    """Its SQLite recorder alone, with what the mapper made before."""
    made, mapper = _happened(count)
    states = set_aside(mapper.to_stored_event(event) for event in made)
    return {"rate": _rate_in_batches(states, _recorder(directory).insert_events)}


def structlog(count: int, directory: Path) -> Figures:
    """JSON lines into a file, as its page on performance has it."""
    import structlog as library

    with (directory / "log.jsonl").open("wb") as file:
        library.configure(
            cache_logger_on_first_use=True,
            wrapper_class=library.make_filtering_bound_logger(logging.INFO),
            context_class=dict,
            processors=[
                library.processors.TimeStamper(fmt="iso", utc=True),
                library.processors.JSONRenderer(serializer=lambda record, **_: encode(record)),
            ],
            logger_factory=library.BytesLoggerFactory(file=file),
        )
        logger = library.get_logger()
        items = set_aside(events(count))

        def emit(event: tuple[str, str, dict[str, Any]]) -> None:
            worker, event_type, body = event
            logger.info(event_type, worker=worker, payload=body)

        begin = time.perf_counter()
        cost = per_event(emit, items)
        file.flush()
        return {"cost": cost, "rate": count / (time.perf_counter() - begin)}


CONTENDERS: dict[str, Callable[[int, Path], Figures]] = {
    function.__name__: function
    for function in (
        calibration,
        send_nowait,
        encoder,
        raw_insert,
        raw_insert_4k,
        raw_batches,
        ingest,
        parts,
        log_into_sqlite,
        bare_psycopg,
        bare_nats,
        log_into_postgres,
        log_into_jetstream,
        log_into_jetstream3,
        log_beside_work,
        replay,
        waiting,
        idle,
        importing,
        opentelemetry,
        queue_handler,
        eventsourcing,
        eventsourcing_recorder,
        structlog,
    )
}


def main() -> None:
    """Measure one of them."""
    name, count = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(CONTENDERS[name](count, Path(directory))))


if __name__ == "__main__":
    main()
