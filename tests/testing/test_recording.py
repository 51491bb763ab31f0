"""What `recording` writes down, in memory and in files, and how it is read and merged."""

import json
import math
import sys

import pytest
import trio
import trio.testing

from trio_eventlog import (
    EventQuery,
    EventRejected,
    EventStore,
    ModuleEvent,
    PersistedEvent,
    SequenceConflict,
    StoreError,
    StoreUnusable,
    StoreWentBack,
    open_event_log,
)
from trio_eventlog.abc import PrunedStore, SyncableStore
from trio_eventlog.stores import MemoryStore, SqliteStore
from trio_eventlog.testing import (
    AppendOperation,
    Fails,
    FaultyStore,
    Hangs,
    History,
    HistoryFormatError,
    LastSeqOperation,
    Outcome,
    QueryOperation,
    check_history,
    recording,
)
from trio_eventlog.testing._history import _recorder

CANCELLED = trio.Cancelled


def event(seq, event_id=None):
    return PersistedEvent(
        event_id or f"id-{seq}", seq, seq, None, ModuleEvent("m", "t", {"run_id": "r", "n": seq})
    )


async def test_what_returns():
    history = History()
    store = recording(MemoryStore(), history, process="w")
    assert isinstance(store, EventStore)

    assert list(await store.append_batch([event(1), event(2)])) == []
    assert list(await store.append_batch([event(3, "id-1")])) == [3]
    assert [found.event.payload["n"] for found in await store.query(EventQuery(after_seq=1))] == [2]
    assert await store.last_seq() == 2

    first, second, query, last = history.operations
    assert isinstance(first, AppendOperation)
    assert [(kept.seq, kept.event.payload) for kept in first.batch] == [
        (1, {"run_id": "r"}),
        (2, {"run_id": "r"}),
    ]
    assert second.returned == {3}
    assert isinstance(query, QueryOperation)
    assert query.query == EventQuery(after_seq=1)
    assert query.found == ((2, "id-2"),)
    assert isinstance(last, LastSeqOperation)
    assert last.last_seq == 2
    assert all(operation.outcome is Outcome.OK for operation in history.operations)
    times = [time for operation in history.operations for time in (operation.began, operation.ended)]
    assert times == sorted(times)
    check_history(history).raise_if_failed()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (SequenceConflict([1]), Outcome.FAILED),
        (EventRejected([event(1)], "too large"), Outcome.FAILED),
        (StoreWentBack(3, 5), Outcome.FAILED),
        (StoreError("connection lost"), Outcome.UNKNOWN),
        (StoreUnusable("closed"), Outcome.UNKNOWN),
        (ZeroDivisionError("a bug"), Outcome.UNKNOWN),
    ],
)
async def test_what_raises(error, outcome):
    """Where the contract says that nothing was stored, the append has failed; else nobody knows."""
    history = History()
    failing = FaultyStore(MemoryStore(), [Fails(error)], query_script=[Fails()], last_seq_script=[Fails()])
    store = recording(failing, history, process="w")
    with pytest.raises(type(error)):
        await store.append_batch([event(1)])
    for call in (store.query(EventQuery()), store.last_seq()):
        with pytest.raises(StoreError):
            await call

    append, query, last = history.operations
    assert append.outcome is outcome
    assert append.error.startswith(f"{type(error).__name__}: ")
    assert append.went_back_to == (3 if isinstance(error, StoreWentBack) else None)
    assert query.outcome is last.outcome is Outcome.FAILED


async def test_what_is_cancelled_or_never_ends():
    history = History()
    store = recording(FaultyStore(MemoryStore(), otherwise=Hangs()), history, process="w")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.append_batch, [event(1)])
        await trio.testing.wait_all_tasks_blocked()
        (running,) = history.operations
        assert running.outcome is Outcome.UNKNOWN
        assert math.isinf(running.ended)
        nursery.cancel_scope.cancel(reason="test")

    (cancelled,) = history.operations
    assert cancelled.outcome is Outcome.UNKNOWN
    assert not math.isinf(cancelled.ended)
    assert cancelled.error.startswith("Cancelled: ")
    assert "never came back" in str(running)
    assert "info" in str(cancelled)


async def test_wrappers_of_a_store_are_one_instance(tmp_path):
    history, other = History(), History()
    store = MemoryStore()
    for process in ("a", "b"):
        await recording(store, history, process=process).last_seq()
    await recording(recording(store, history, process="c"), history, process="d").last_seq()
    await recording(MemoryStore(), history, process="e").last_seq()
    await recording(store, other, process="f").last_seq()

    named = {operation.process: operation.instance for operation in history.operations}
    assert named["a"] == named["b"] == named["c"] == named["d"] != named["e"]
    assert other.operations[0].instance not in named.values()


async def test_it_says_what_the_store_says(tmp_path):
    history = History()
    async with SqliteStore.open(tmp_path / "events.db") as store:
        wrapped = recording(store, history, process="w")
        for name in ("max_batch", "log_id", "survives", "has_lock", "lock_timeout", "read_only"):
            if hasattr(store, name):
                assert getattr(wrapped, name) == getattr(store, name)
        assert isinstance(wrapped, SyncableStore)
        assert isinstance(wrapped, PrunedStore)
        assert wrapped.inner is store
        async with open_event_log(wrapped) as log:
            log.ingest(ModuleEvent("m", "t"))
    async with SqliteStore.open(tmp_path / "events.db", read_only=True) as store:
        wrapped = recording(store, history, process="r")
        assert wrapped.read_only
        assert len(await wrapped.query(EventQuery())) == 1
    assert [operation.read_only for operation in history.operations] == [False, False, True]
    plain = recording(FaultyStore(MemoryStore()), history, process="m", read_only=True)
    assert plain.read_only
    assert plain.sync is None
    assert "m around <FaultyStore" in repr(plain)
    assert repr(history) == "<History of 3 operations>"


async def test_every_method_is_a_checkpoint():
    store = recording(MemoryStore(), History(), process="w")
    for call in (store.append_batch([]), store.query(EventQuery(limit=0)), store.last_seq()):
        with trio.testing.assert_checkpoints():
            await call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, History(), "w"), "store: expected an object"),
        ((MemoryStore, History(), "w"), "store: expected an object"),
        ((MemoryStore(), "history.jsonl", "w"), "history: expected a History, got str"),
        ((MemoryStore(), History(), 1), "process: expected a string, got int"),
        ((MemoryStore(), History(), "w", 1), "read_only: expected a bool or None, got int"),
    ],
)
def test_arguments(arguments, message):
    store, history, process, *more = arguments
    options = {"read_only": more[0]} if more else {}
    with pytest.raises(TypeError, match=message):
        recording(store, history, process=process, **options)


def test_a_process_has_a_name_that_a_file_can_hold():
    with pytest.raises(ValueError, match="process: expected a string without lone surrogates"):
        recording(MemoryStore(), History(), process="\ud800")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_skew": 10**400}, ValueError, "max_skew: expected 0 seconds or more, and finite"),
        ({"after_seq": "1"}, TypeError, "after_seq: expected an integer"),
        ({"after_seq": -1}, ValueError, "after_seq: expected 0 or more, got -1"),
        ({"max_skew": "1"}, TypeError, "max_skew: expected seconds or None, got str"),
        ({"max_skew": -1.0}, ValueError, "max_skew: expected 0 seconds or more, and finite, got -1.0"),
        ({"max_skew": math.nan}, ValueError, "max_skew"),
    ],
)
def test_arguments_of_the_judge(options, error, message):
    with pytest.raises(error, match=message):
        check_history(History(), **options)


def test_sources_of_the_judge():
    with pytest.raises(TypeError, match="source: expected a History, a path, or several, got int"):
        check_history(1)
    with pytest.raises(ValueError, match="source: expected at least one history"):
        check_history([])
    with pytest.raises(TypeError, match="other: expected a History, got list"):
        History().merge([])


# --- files ----------------------------------------------------------------------------------------


async def test_a_journal_has_what_began(tmp_path):
    """Line by line: whoever reads it at any moment sees what was called, and what had returned."""
    path = tmp_path / "w.jsonl"
    with History.to_file(path) as history:
        store = recording(FaultyStore(MemoryStore(), [Hangs()]), history, process="w")
        with trio.move_on_after(0.001):
            await store.append_batch([event(1)])
        await store.append_batch([event(1)])
        await store.query(EventQuery())
        assert History.read(path).operations == history.operations
        lines = path.read_bytes().splitlines(keepends=True)
        path.with_name("killed.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    await store.last_seq()
    assert len(History.read(path).operations) == 3

    killed = History.read(path.with_name("killed.jsonl")).operations
    assert killed[:2] == history.operations[:2]
    assert killed[2].outcome is Outcome.UNKNOWN
    header = json.loads(lines[0])
    assert header == {
        "format": "trio-eventlog history",
        "version": 1,
        "clock": history._clock,
        "wall_offset": history.clocks[history._clock],
    }
    assert [json.loads(line).get("type") for line in lines[1:]] == [
        "invoke",
        "info",
        "invoke",
        "ok",
        "invoke",
        "ok",
    ]


CHILD = """
import os, signal, sys
import trio
from trio_eventlog import ModuleEvent, PersistedEvent
from trio_eventlog.stores import SqliteStore
from trio_eventlog.testing import FaultyStore, Hangs, History, recording, Works

async def main():
    with History.to_file(sys.argv[2]) as history:
        async with SqliteStore.open(sys.argv[1]) as store:
            faulty = FaultyStore(store, [Works(), Hangs(after_commit=True)])
            store = recording(faulty, history, process="child")
            async with trio.open_nursery() as nursery:
                for seq in (1, 2):
                    event = PersistedEvent(f"id-{seq}", seq, 0, None, ModuleEvent("m", "t"))
                    nursery.start_soon(store.append_batch, [event])
                    await trio.sleep(0.2)
                os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_histories_of_a_killed_process_and_the_next(tmp_path):
    """What the killed one was doing may have landed, and is judged by what the next one sees."""
    events, journal = tmp_path / "events.db", tmp_path / "child.jsonl"
    code = [sys.executable, "-c", CHILD, str(events), str(journal)]
    await trio.run_process(code, check=False)
    history = History()
    async with SqliteStore.open(events) as opened:
        store = recording(opened, history, process="next")
        assert await store.last_seq() == 2
        await store.query(EventQuery())

    child = History.read(journal)
    assert [operation.outcome for operation in child.operations] == [Outcome.OK, Outcome.UNKNOWN]
    alone = check_history(history)
    history.merge(child)
    history.write(tmp_path / "both.jsonl")
    assert check_history([journal, tmp_path / "both.jsonl"]).anomalies == ()
    assert check_history(tmp_path / "both.jsonl").anomalies == ()
    # Without what the child did, nobody has appended what is found.
    assert set(alone.counts) == {"phantom"}


def parts(tmp_path, monkeypatch, *, offset):
    """An append on one machine, and one second later, by the wall clocks, a query on another."""
    paths = []
    for number, (clock, off) in enumerate((("one", 100.0), ("two", 1_000.0 + offset))):
        history = History()
        history._clock, history._clocks = clock, {clock: off}
        who = {"process": clock, "instance": clock, "read_only": False, "clock": clock}
        if number == 0:
            history._operations = [
                AppendOperation(**who, began=1_000.0, ended=1_001.0, outcome=Outcome.OK, batch=(event(1),))
            ]
        else:
            history._operations = [
                QueryOperation(**who, began=102.0, ended=103.0, outcome=Outcome.OK, query=EventQuery()),
                QueryOperation(
                    **who,
                    began=110.0,
                    ended=111.0,
                    outcome=Outcome.OK,
                    query=EventQuery(),
                    found=((1, "id-1"),),
                ),
            ]
        paths.append(tmp_path / f"{clock}.jsonl")
        history.write(paths[-1])
    return paths


def test_several_machines(tmp_path, monkeypatch):
    paths = parts(tmp_path, monkeypatch, offset=0.0)

    with pytest.raises(ValueError, match="max_skew: these histories come from 2 machines"):
        check_history(paths)
    assert set(check_history(paths, max_skew=0.5).counts) == {"real-time violation"}
    assert set(check_history(paths, max_skew=2.0).counts) == set()
    together = tmp_path / "together.jsonl"
    together.write_bytes(b"".join(path.read_bytes() for path in paths))
    assert check_history(together, max_skew=0.5) == check_history(paths, max_skew=0.5)


def test_a_machine_without_a_boot_id(tmp_path, monkeypatch):
    monkeypatch.setattr(_recorder, "_BOOT_ID", tmp_path / "nothing")

    assert History()._clock.startswith(f"{_recorder.platform.node()}, booted at ")


HEADER = b'{"format":"trio-eventlog history","version":1,"clock":"c","wall_offset":0.0}\n'
BEGIN = (
    b'{"op":0,"type":"invoke","time":1.0,"process":"p","instance":"i","read_only":false,'
    b'"method":"last_seq"}\n'
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no history; its first line would have a format of 'trio-eventlog history'"),
        (b"\n", "line 1: "),
        (b"\x00\xff\n", "line 1: "),
        (b"[]\n", "line 1: "),
        (b'{"id":"a","seq":1}\n', "line 1: no history"),
        (HEADER.replace(b"1", b"2", 1), "line 1: version 2 of the format; this library reads version 1"),
        (HEADER + b'{"type":"invoke"}\n', "line 2: an operation has no number 'op'"),
        (HEADER + b'{"op":1,"type":"ok","time":1.0}\n', "line 2: operation 1 ended, but did not begin"),
        (HEADER + BEGIN.replace(b"last_seq", b"prune"), 'line 2: method "prune": expected append_batch'),
        (HEADER + BEGIN.replace(b'"p"', b"5"), "line 2: .*process"),
        (HEADER + BEGIN + b'{"op":0,"type":"ok","time":0.5}\n', "line 3: an operation ended before it began"),
        (HEADER + BEGIN + b'{"op":0,"type":"fine","time":2.0}\n', "line 3: "),
        (HEADER + BEGIN.replace(b"1.0", b"1e999"), "line 2: "),
        (HEADER + b'{"op":1,"new":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 2: "),
    ],
)
def test_files_that_are_no_history(tmp_path, data, message):
    path = tmp_path / "file.jsonl"
    path.write_bytes(data)

    with pytest.raises(HistoryFormatError, match=message) as error:
        check_history(path)
    assert str(error.value).startswith(str(path))


def test_unknown_fields_are_ignored(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_bytes(
        HEADER + BEGIN.replace(b'{"op"', b'{"new":[1],"op"') + b'{"op":0,"type":"ok","time":2,"last_seq":0}\n'
    )

    (operation,) = History.read(path).operations
    assert operation.last_seq == 0
