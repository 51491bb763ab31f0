"""The public API as a type checker sees it. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, assert_type

import attrs
from hypothesis.strategies import SearchStrategy

from trio_eventlog import (
    AgentEvent,
    AppendFailureReport,
    CodecError,
    EventEnvelope,
    EventLog,
    EventLogError,
    EventQuery,
    EventRejected,
    EventsLost,
    EventsPruned,
    EventStore,
    LogNotFound,
    LogState,
    LogStatistics,
    LossReason,
    LossReport,
    ModuleEvent,
    PersistedEvent,
    Report,
    RetryPolicy,
    RevertReport,
    SequenceConflict,
    SpillDamageReport,
    SpillFailureReport,
    SpillReport,
    StaleCursor,
    StoreError,
    StoreWentBack,
    Subscription,
    UnifiedEvent,
    abc,
    from_json,
    open_event_log,
    to_json,
)
from trio_eventlog.abc import ChangeWatch, EventPage, PagedStore, PrunedStore, SyncableStore, WatchableStore
from trio_eventlog.reading import EventStream, LogEvent, iter_events, merge_events, tail
from trio_eventlog.recorder import TaskRecorder, record_tasks
from trio_eventlog.stores import (
    JetStreamStore,
    MemoryStore,
    NullStore,
    PostgresStore,
    SqliteStore,
    open_readers,
    open_store,
    without_secrets,
)
from trio_eventlog.testing import (
    CheckSettings,
    ClauseFailure,
    ClausePassed,
    ClauseSkipped,
    ClauseUnfinished,
    ConformanceReport,
    Fails,
    FailureReports,
    FaultyStore,
    GoesBack,
    Hangs,
    Rejects,
    Slow,
    StoreConformance,
    StoreStateMachine,
    Works,
    batches,
    check_accounts,
    check_store,
    queries,
)
from trio_eventlog.typed import EventTypes

# --- the model ------------------------------------------------------------------------------------

agent = AgentEvent("worker-7", "run_started", {"run_id": "r-1"})
module = ModuleEvent(module="scheduler", event_type="tick")
either: UnifiedEvent = agent
assert_type(agent.agent_id, str)
assert_type(module.payload, Any)

envelope = EventEnvelope.of(agent, event_id="e-1", timestamp_ms=1)
assert_type(envelope, EventEnvelope)
assert_type(envelope.event, AgentEvent | ModuleEvent)

persisted = PersistedEvent("e-1", 1, 1, "worker-7", agent)
assert_type(persisted.member_id, str | None)
persisted.seq = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
PersistedEvent("e-1", "1", 1, None, agent)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def kind_of(event: UnifiedEvent) -> str:
    match event:
        case AgentEvent(agent_id, _, _):
            return agent_id
        case ModuleEvent(module, _, _):
            return module


query = EventQuery(since_ms=1, run_id="r-1", event_types=["a", "b"], limit=100)
assert_type(query.event_types, tuple[str, ...])
assert_type(query.matches(persisted), bool)
EventQuery(limit="100")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
EventQuery(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# --- the codec ------------------------------------------------------------------------------------

assert_type(to_json(either), bytes)
assert_type(to_json(envelope), bytes)
assert_type(to_json(persisted), bytes)
assert_type(to_json(query), bytes)
to_json("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(from_json(b"{}", EventQuery), EventQuery)
assert_type(from_json("{}", AgentEvent), AgentEvent)
assert_type(from_json("{}", PersistedEvent), PersistedEvent)
read_event: UnifiedEvent = from_json("{}", UnifiedEvent)

# --- the log --------------------------------------------------------------------------------------


class ListStore:
    """A store of somebody else's: the protocol asks for no base class."""

    async def append_batch(self, events: Sequence[PersistedEvent]) -> Collection[int]:
        return [event.seq for event in events]

    async def query(self, query: EventQuery) -> list[PersistedEvent]:
        return [] if query.limit == 0 else [persisted]

    async def last_seq(self) -> int:
        return 0


own: EventStore = ListStore()
same: abc.EventStore = own


class UpkeptStore(ListStore):
    """With what a store may have beyond that."""

    survives = "process"
    read_only = False
    max_batch: int | None = 1000

    async def sync(self) -> None: ...

    async def pruned_seq(self) -> int:
        return 0

    async def query_page(self, query: EventQuery, *, max_bytes: int) -> EventPage:
        return EventPage(await self.query(query), is_complete=True)


upkept: EventStore = UpkeptStore()
syncable: SyncableStore = UpkeptStore()
prunable: PrunedStore = UpkeptStore()
paged: PagedStore = UpkeptStore()
not_syncable: SyncableStore = ListStore()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
none_at_all: EventStore = object()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def keep(event: UnifiedEvent) -> bool:
    return event.event_type != "noise"


def on_failure(report: Report) -> None:
    if isinstance(report, AppendFailureReport):
        assert_type(report.error, BaseException)
        assert_type(report.retry_in, float)
    elif isinstance(report, LossReport):
        assert_type(report.reason, LossReason)
        assert_type(report.events, tuple[PersistedEvent, ...])
        assert_type(report.in_doubt, bool)
        assert_type(report.count, int)
    elif isinstance(report, RevertReport):
        assert_type(report.again, int)
        assert_type(report.lost, int)
        assert_type(report.expected_seq, int)
        assert_type(report.last_seq, int)
        assert_type(report.earlier, tuple[int, int] | None)
    else:
        assert_type(report, SpillFailureReport | SpillDamageReport | SpillReport)
        assert_type(report.path, Path)
        assert_type(report.events, int)


async def use_a_log(store: EventStore) -> None:
    async with open_event_log(store) as plain:
        assert_type(plain, EventLog)
    async with open_event_log(
        store,
        filter=keep,
        batch_size=64,
        flush_interval=1,
        retry_buffer_cap=4096,
        append_timeout=30.0,
        grace_period=5,
        retry=RetryPolicy(initial=1, maximum=2.5, multiplier=2, jitter=0, random=lambda: 0.5),
        on_failure=on_failure,
    ) as log:
        assert_type(log.ingest(agent), int | None)
        assert_type(log.ingest(envelope), int | None)
        assert_type(await log.ingest_wait(module), int | None)
        await log.flush()
        await log.flush(through=3)
        assert_type(await log.query(query), list[PersistedEvent])
        assert_type(log.store, EventStore)
        assert_type(log.is_own_work(), bool)
        check_statistics(log.statistics())
        log.ingest(persisted)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_statistics(statistics: LogStatistics) -> None:
    assert_type(statistics.ingested, int)
    assert_type(statistics.lost, Mapping[LossReason, int])
    assert_type(statistics.lost_total, int)
    assert_type(statistics.state, LogState)


# --- reading --------------------------------------------------------------------------------------


async def read_on(log: EventLog, store: EventStore) -> None:
    async with log.subscribe(query, after_seq=3) as events:
        assert_type(events, Subscription)
        async for event in events:
            assert_type(event, PersistedEvent)
        assert_type(events.cursor, int)
        assert_type(events.is_caught_up, bool)
        await events.wait_caught_up()
    async with tail(store, query, after_seq=0, poll_interval=1) as tailed:
        assert_type(await anext(tailed), PersistedEvent)
    assert_type(iter_events(store, query, page_size=10), EventStream)
    merged = merge_events({"a": store}, query, cursors={"a": 3})
    assert_type([item async for item in merged], list[LogEvent])
    assert_type(merged.cursors, dict[str, int])
    async with SqliteStore.open_readers("events.db", logs=["a"]) as stores:
        merge_events(stores)
        watchable: WatchableStore = stores["a"]
        async with watchable.watch_changes() as watch:
            assert_type(watch, ChangeWatch)
            await watch.wait()


types = EventTypes("orders")


@types.event
@attrs.frozen
class Placed:
    order_id: int


@types.event(name="sent", version=2)
@attrs.frozen
class Sent:
    order_id: int


@types.upcaster(Sent, from_version=1)
def upcast(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


assert_type(Placed(1).order_id, int)
assert_type(Sent(1), Sent)
assert_type(types.wrap(Placed(1)), ModuleEvent | AgentEvent)
assert_type(types.wrap(Placed(1), member="w2"), AgentEvent)
assert_type(types.unwrap(persisted), object)
assert_type(types.unwrap(persisted, Placed), Placed)
assert_type(types.names(Placed, Sent), tuple[str, ...])


def record(log: EventLog) -> None:
    with record_tasks(log, filter=lambda task: task.name == "main", slow_step=None) as recorder:
        assert_type(recorder, TaskRecorder)
        assert_type(recorder.run_id, str)


# --- the stores -----------------------------------------------------------------------------------


async def watch(store: WatchableStore) -> None:
    async with store.watch_changes() as changes:
        assert_type(changes, ChangeWatch)
        await changes.wait()


async def keep_in_order(store: PrunedStore) -> None:
    assert_type(await store.pruned_seq(), int)


async def make_sure(store: SyncableStore) -> None:
    await store.sync()


async def read_by_bytes(store: PagedStore) -> None:
    page = await store.query_page(query, max_bytes=1 << 20)
    assert_type(page, EventPage)
    assert_type(page.events, list[PersistedEvent])
    assert_type(page.is_complete, bool)


async def use_the_stores() -> None:
    memory = MemoryStore()
    await use_a_log(memory)
    assert_type(await memory.prune(before_ms=1, keep=10, dry_run=True), int)
    await keep_in_order(memory)
    memory.go_back(3)
    await use_a_log(NullStore())
    async with SqliteStore.open("events.db", log="worker-3", synchronous="full") as store:
        assert_type(store, SqliteStore)
        await use_a_log(store)
        await keep_in_order(store)
        await make_sure(store)
        await read_by_bytes(store)
    async with SqliteStore.open("events.db", read_only=True) as reader:
        assert_type(await reader.query(query), list[PersistedEvent])
        assert_type(await reader.log_names(), list[str])
    async with PostgresStore.open("postgresql://localhost/app", log="worker-3", notify=False) as postgres:
        assert_type(postgres, PostgresStore)
        await use_a_log(postgres)
        await keep_in_order(postgres)
        await make_sure(postgres)
        await read_by_bytes(postgres)
    async with PostgresStore.open_readers("postgresql://localhost/app", logs=["a"]) as readers:
        assert_type(readers, dict[str, PostgresStore])
    assert_type(await postgres.log_names(), list[str])
    assert_type(await PostgresStore.logs("postgresql://localhost/app"), list[str])
    async with JetStreamStore.open(["nats://n1", "nats://n2"], log="worker-3", replicas=3) as clustered:
        assert_type(clustered, JetStreamStore)
        await use_a_log(clustered)
        await keep_in_order(clustered)
        await make_sure(clustered)
        await read_by_bytes(clustered)
    async with JetStreamStore.open_readers("nats://n1", stream="EVENTS", logs=["a"]) as followers:
        assert_type(followers, dict[str, JetStreamStore])
        merge_events(followers)
        await watch(followers["a"])
    assert_type(await clustered.log_names(), list[str])
    assert_type(await JetStreamStore.logs("nats://n1"), list[str])
    async with open_store("sqlite:events.db") as any_store:
        assert_type(any_store, EventStore)
    async with open_readers("nats://n1/EVENTS", logs=["a"]) as any_readers:
        assert_type(any_readers, Mapping[str, EventStore])
        merge_events(any_readers)
    assert_type(without_secrets("nats://token@n1/EVENTS"), str)


# --- the errors -----------------------------------------------------------------------------------


def explain(error: EventLogError) -> None:
    match error:
        case CodecError():
            assert_type(error.path, str)
        case EventsLost():
            assert_type(error.count, int)
            assert_type(error.by_reason, Mapping[LossReason, int])
        case EventRejected():
            assert_type(error.events, tuple[PersistedEvent, ...])
        case SequenceConflict():
            assert_type(error.seqs, tuple[int, ...])
        case LogNotFound():
            assert_type(error.log, str)
            assert_type(error.names, tuple[str, ...])
            assert_type(error.place, str)
        case StoreWentBack():
            assert_type(error.last_seq, int)
            assert_type(error.expected_seq, int)
        case StaleCursor():
            assert_type(error.after_seq, int)
        case EventsPruned():
            assert_type(error.first_seq, int)
            assert_type(error.last_seq, int)
        case StoreError():
            raise error
        case _:
            pass


# --- the harness ----------------------------------------------------------------------------------


@asynccontextmanager
async def open_memory(location: Path) -> AsyncIterator[EventStore]:
    """As an implementer writes it."""
    yield MemoryStore()


async def drop(location: Path) -> None:
    """As an implementer writes it."""


def use_the_harness() -> None:
    report = check_store(open_memory, durable=False, drop_store=drop, clauses=["S1"], budget=1, seed=1)
    assert_type(report, ConformanceReport)
    assert_type(report.failures, tuple[ClauseFailure, ...])
    for result in report.results():
        if isinstance(result, ClauseFailure):
            assert_type(result.example, str)
        elif isinstance(result, ClauseSkipped):
            assert_type(result.reason, str)
        elif isinstance(result, ClauseUnfinished):
            assert_type(result.unfinished, tuple[str, ...])
        else:
            assert_type(result, ClausePassed)
    assert_type(report.is_conformant, bool)
    assert_type(report.settings, CheckSettings)
    assert_type(report.raise_if_failed(), None)
    check_store(MemoryStore)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class TestMemory(StoreConformance):
    """Attributes and methods of the class can be overridden as the documentation says."""

    durable = False
    max_examples = 7

    def open_store(self, location: Path) -> AbstractAsyncContextManager[EventStore]:
        return open_memory(location)

    def open_reader(self, location: Path) -> AbstractAsyncContextManager[EventStore]:
        return open_memory(location)


class MemoryMachine(StoreStateMachine):
    durable = False

    def open_store(self, location: Path) -> AbstractAsyncContextManager[EventStore]:
        return open_memory(location)


async def use_the_faults() -> None:
    reports = FailureReports()
    faulty = FaultyStore(MemoryStore(), [Fails(), GoesBack(events=2), Slow(1.5, Works())], otherwise=Hangs())
    faulty.otherwise = Rejects(["id"])
    store: EventStore = faulty
    async with open_event_log(store, on_failure=reports) as log:
        seq = log.ingest(agent)
    check_accounts([seq], await faulty.query(EventQuery()), reports)


assert_type(batches(max_batch=3), SearchStrategy[list[PersistedEvent]])
assert_type(queries(), SearchStrategy[EventQuery])
