"""Recording checkpoints beside a log: when, where it goes on, and what it never disturbs."""

import math
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.audit import a_signer, numbered, persisted
from tests._helpers.examples import few
from trio_eventlog import (
    AgentEvent,
    CodecError,
    EventEnvelope,
    EventQuery,
    StoreError,
    StoreUnusable,
    open_event_log,
)
from trio_eventlog._model._events import sealed
from trio_eventlog.audit import AuditError, Signer, record_checkpoints, seal, verify_checkpoints
from trio_eventlog.audit._file import CheckpointFile, read_lines
from trio_eventlog.audit._records import parse_record
from trio_eventlog.stores import MemoryStore, SqliteStore


class Store(MemoryStore):
    """One that knows the id of its log, and fails on command."""

    log_id = "log"
    error: Exception | None = None

    async def query(self, query):
        if self.error is not None:
            await trio.lowlevel.checkpoint()
            raise self.error
        return await super().query(query)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints"


def kept(path):
    """The records of a file."""
    return [parse_record(line, a_signer().verifier) for line in read_lines(str(path))]


def sizes(path):
    return [record.checkpoint.size for record in kept(path)]


async def problems(store, path):
    signer = a_signer()
    found = await verify_checkpoints(store, path, signer.verifier, signer.commitment_key)
    return [finding.problem for finding in found.findings]


async def ingest(log, first, last):
    for number in range(first, last + 1):
        log.ingest(numbered(number))
    await log.flush()


async def until(condition):
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - of another task, by way of a thread
            await trio.sleep(0.001)


async def test_after_so_many_events(path):
    """Exactly, whatever pages they come in; and once more at the end."""
    store = Store()
    async with open_event_log(store) as log:
        async with record_checkpoints(log, a_signer(), path, every_events=10) as recorder:
            assert (recorder.last, recorder.last_note, recorder.sealed_seq) == (None, None, 0)
            await ingest(log, 1, 35)
            await until(lambda: recorder.sealed_seq == 30)
            assert recorder.unsealed == 5
            assert recorder.last.size == 30
            assert "sealed up to seq 30" in repr(recorder)
    assert sizes(path) == [10, 20, 30, 35]
    assert recorder.last_note == kept(path)[-1].note
    assert await problems(store, path) == []


async def test_after_so_many_seconds(path):
    """From the first event on that none covers."""
    async with open_event_log(Store()) as log:
        async with record_checkpoints(log, a_signer(), path, every_seconds=0.05) as recorder:
            await ingest(log, 1, 3)
            assert recorder.sealed_seq == 0
            await until(lambda: recorder.sealed_seq == 3)
            await ingest(log, 4, 4)
            await until(lambda: recorder.sealed_seq == 4)
    assert sizes(path) == [3, 4]


async def test_time_passes_only_while_events_wait(autojump_clock):
    """Without a file, and so without threads, on a clock of its own."""
    notes = []

    async def anchor(note):
        notes.append((trio.current_time(), note.split("\n")[1]))
        await trio.lowlevel.checkpoint()

    async with open_event_log(Store(), flush_interval=0.01) as log:
        async with record_checkpoints(log, a_signer(), anchor=anchor, every_seconds=60):
            await trio.sleep(1000)
            start = trio.current_time()
            log.ingest(numbered(1))
            await trio.sleep(30)
            log.ingest(numbered(2))
            await trio.sleep(1000)
    assert len(notes) == 1
    assert 60 <= notes[0][0] - start < 60.1
    assert notes[0][1] == "2"


@few(8)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=4), st.integers(1, 30))
def test_runs_that_go_on_make_one_tree(tmp_path_factory, counts, every_events):
    """Whatever was stored between two of them."""
    path = tmp_path_factory.mktemp("runs") / "checkpoints"
    store, done = Store(), 0

    async def main():
        nonlocal done
        for place, count in enumerate(counts):
            async with open_event_log(store) as log:
                if place % 2:
                    await ingest(log, done + 1, done + count)
                async with record_checkpoints(log, a_signer(), path, every_events=every_events):
                    if not place % 2:
                        await ingest(log, done + 1, done + count)
            done += count
        if done:
            assert await problems(store, path) == []
            assert sizes(path)[-1] == done

    trio.run(main)


@pytest.mark.parametrize("error", [None, ValueError("of the block"), KeyboardInterrupt(), "cancelled"])
async def test_leaving_seals_what_is_durable(path, error):
    """Also by an error, which comes out as it is, and also when cancelled."""
    store, caught = Store(), None
    with trio.CancelScope() as scope:
        try:
            async with open_event_log(store) as log:
                async with record_checkpoints(log, a_signer(), path):
                    await ingest(log, 1, 7)
                    if error == "cancelled":
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                    elif error is not None:
                        raise error
        except (ValueError, KeyboardInterrupt) as exc:
            caught = exc
    assert scope.cancelled_caught == (error == "cancelled")
    assert caught is (error if isinstance(error, BaseException) else None)
    assert sizes(path) == [7]


async def test_what_the_log_stores_as_it_closes_is_sealed_afterwards(path):
    async with SqliteStore.open(path.with_name("log.db")) as store:
        async with open_event_log(store, flush_interval=60) as log:
            async with record_checkpoints(log, a_signer(), path):
                log.ingest(numbered(1))
        assert not path.read_bytes()
        recorder = await seal(store, a_signer(), path)
        assert (recorder.sealed_seq, recorder.origin) == (1, store.log_id)
        again = await seal(store, a_signer(), path)
        assert again.last == recorder.last
        assert await problems(store, path) == []
    assert sizes(path) == [1]


async def test_a_log_without_events(path):
    async with open_event_log(Store()) as log:
        async with record_checkpoints(log, a_signer(), path):
            await trio.lowlevel.checkpoint()
    assert path.read_bytes() == b""


# --- the anchor -----------------------------------------------------------------------------------


async def test_every_note_is_handed_over_once_it_is_kept(path):
    notes = []

    async def anchor(note):
        assert note in [record.note for record in kept(path)]
        notes.append(note)
        await trio.lowlevel.checkpoint()

    async with open_event_log(Store()) as log:
        async with record_checkpoints(log, a_signer(), path, every_events=10, anchor=anchor) as recorder:
            await ingest(log, 1, 25)
            await until(lambda: recorder.sealed_seq == 20)
    assert notes == [record.note for record in kept(path)]
    assert len(notes) == 3


async def test_a_run_begins_with_the_last_note(path):
    """Since nobody knows whether the earlier one could hand it over."""
    store, notes, stuck = Store(), [], trio.Event()

    async def hang(note):
        stuck.set()
        await trio.sleep_forever()

    async def anchor(note):
        notes.append(note)
        await trio.lowlevel.checkpoint()

    with trio.CancelScope() as scope:
        async with open_event_log(store) as log:
            async with record_checkpoints(log, a_signer(), path, every_events=5, anchor=hang):
                await ingest(log, 1, 5)
                await stuck.wait()
                scope.cancel()
                await trio.lowlevel.checkpoint()
    async with open_event_log(store) as log:
        async with record_checkpoints(log, a_signer(), path, anchor=anchor):
            await until(lambda: notes)
    assert notes == [record.note for record in kept(path)]


async def test_an_anchor_that_hangs_is_not_waited_for_on_leaving(path, autojump_clock, caplog):
    """The checkpoint is in the file, and the next run hands it over."""

    async def hang(note):
        await trio.sleep_forever()

    start = trio.current_time()
    async with open_event_log(Store()) as log:
        with pytest.raises(AuditError, match="did not take the last note within 2 seconds"):
            async with record_checkpoints(log, a_signer(), path, anchor=hang, grace_period=2):
                await ingest(log, 1, 3)
    assert 2 <= trio.current_time() - start < 2.1
    assert sizes(path) == [3]
    # Sealing is shielded from the deadline of the caller; the anchor is not.
    with trio.move_on_after(1) as scope:
        async with open_event_log(Store()) as log:
            async with record_checkpoints(log, a_signer(), anchor=hang, grace_period=2):
                await ingest(log, 1, 3)
    assert scope.cancelled_caught
    assert trio.current_time() - start < 3.2
    assert not caplog.messages


async def test_an_anchor_that_fails_ends_the_block(path):
    """The events are sealed all the same."""
    error = OSError("no network")

    async def anchor(note):
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(OSError, match="no network") as caught:
        async with open_event_log(Store()) as log:
            async with record_checkpoints(log, a_signer(), path, every_events=5, anchor=anchor):
                await ingest(log, 1, 7)
                await trio.sleep_forever()
    assert caught.value is error
    assert sizes(path)[-1] == 7


async def test_an_anchor_that_fails_while_the_block_does(path):
    error, other = OSError("no network"), ValueError("of the block")

    async def anchor(note):
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.RaisesGroup(ValueError, OSError) as caught:
        async with open_event_log(Store()) as log:
            async with record_checkpoints(log, a_signer(), path, every_events=5, anchor=anchor):
                try:
                    await ingest(log, 1, 7)
                    await trio.sleep_forever()
                finally:
                    raise other
    assert caught.value.exceptions == (other, error)


# --- trouble --------------------------------------------------------------------------------------


async def test_a_file_that_cannot_be_written_is_tried_again(path, monkeypatch, caplog, autojump_clock):
    """Nothing is lost by it: the next checkpoint covers all."""
    store, failures = Store(), 3
    append = CheckpointFile.append

    def failing(self, record):
        nonlocal failures
        if failures:
            failures -= 1
            raise AuditError("no space")
        append(self, record)

    async def in_this_thread(function, **_settings):
        await trio.lowlevel.checkpoint()
        return function()

    monkeypatch.setattr(CheckpointFile, "append", failing)
    monkeypatch.setattr(trio.to_thread, "run_sync", in_this_thread)
    async with open_event_log(store) as log:
        async with record_checkpoints(log, a_signer(), path, every_events=5) as recorder:
            await ingest(log, 1, 5)
            await ingest(log, 6, 17)
            await trio.sleep(10)
            assert recorder.sealed_seq == 17
            await ingest(log, 18, 22)
            await trio.sleep(1)
    assert sizes(path) == [17, 22]
    assert await problems(store, path) == []
    assert [record.message for record in caplog.records] == [
        "a checkpoint cannot be written, and is tried again: no space"
    ]


async def test_the_last_checkpoint_cannot_be_written(path, monkeypatch, caplog):
    def failing(self, record):
        raise AuditError("no space")

    monkeypatch.setattr(CheckpointFile, "append", failing)
    with pytest.raises(AuditError, match="no space"):
        async with open_event_log(Store()) as log:
            async with record_checkpoints(log, a_signer(), path):
                await ingest(log, 1, 5)
    # But an error of the block is more important.
    with pytest.raises(ValueError, match="of the block"):
        async with open_event_log(Store()) as log:
            async with record_checkpoints(log, a_signer(), path):
                await ingest(log, 1, 5)
                raise ValueError("of the block")
    assert caplog.messages == ["the last checkpoint could not be made: no space"]


async def test_a_store_that_cannot_be_read_for_a_while(path, caplog, autojump_clock):
    store, notes = Store(), []
    await store.append_batch([persisted(seq) for seq in range(1, 4)])

    async def anchor(note):
        notes.append(note)
        await trio.lowlevel.checkpoint()

    async with open_event_log(store) as log:
        store.error = StoreError("down")
        async with record_checkpoints(log, a_signer(), anchor=anchor, every_events=3):
            await trio.sleep(10)
            store.error = None
            await trio.sleep(60)
            assert len(notes) == 1
    assert caplog.messages == ["checkpoints wait for the store, which failed: down"]


@pytest.mark.parametrize("has_failed", [False, True])
async def test_a_store_that_is_gone_does_not_end_the_block(path, caplog, has_failed):
    """As the log itself does not; leaving says so, unless the block has its own error."""
    store = Store()
    await store.append_batch([persisted(seq) for seq in range(1, 4)])
    error = StoreUnusable("gone")
    with pytest.raises(ValueError if has_failed else StoreUnusable) as caught:
        async with open_event_log(store) as log:
            store.error = error
            async with record_checkpoints(log, a_signer(), path):
                await until(lambda: caplog.messages)
                await trio.lowlevel.checkpoint()
                if has_failed:
                    raise ValueError("of the block")
    assert (caught.value is error) != has_failed
    assert caplog.messages[0] == "there will be no more checkpoints, since the log cannot be read: gone"


async def test_a_store_that_hangs_is_not_waited_for(path, autojump_clock, caplog):
    class Hanging(Store):
        async def query(self, query):
            await trio.sleep_forever()

    store = Hanging()
    await store.append_batch([persisted(seq) for seq in range(1, 4)])

    async def anchor(note):
        raise AssertionError

    start = trio.current_time()
    with pytest.raises(AuditError, match="not made within 2 seconds"):
        async with open_event_log(store) as log:
            async with record_checkpoints(log, a_signer(), anchor=anchor, grace_period=2):
                await trio.lowlevel.checkpoint()
    assert 2 <= trio.current_time() - start < 2.1
    with trio.move_on_after(1):
        async with open_event_log(store) as log:
            async with record_checkpoints(log, a_signer(), anchor=anchor, grace_period=2):
                await trio.sleep_forever()
    assert caplog.messages == ["the last checkpoint was not made within 2 seconds"]


async def test_a_damaged_payload(path, caplog):
    store = Store()
    await store.append_batch([persisted(1)])
    query = store.query

    async def damaged(wanted):
        found = await query(wanted)
        return [attrs.evolve(event, event=sealed(AgentEvent, "a", "t", "{")) for event in found]

    store.query = damaged
    with pytest.raises(CodecError, match="the store is damaged"):
        async with open_event_log(store) as log:
            async with record_checkpoints(log, a_signer(), path):
                await until(lambda: caplog.messages)
    assert "the log cannot be read: payload: not JSON" in caplog.messages[0]


async def test_appends_do_not_wait(path, autojump_clock):
    """Not even for an anchor that never returns."""

    async def hang(note):
        await trio.sleep_forever()

    store = Store()
    with trio.move_on_after(100):
        async with open_event_log(store) as log:
            async with record_checkpoints(log, a_signer(), anchor=hang, every_events=1):
                for number in range(1, 50):
                    await ingest(log, number, number)
                assert trio.current_time() < 100
                assert len(await store.query(EventQuery())) == 49
                await trio.sleep_forever()


async def test_events_that_were_pruned_are_in_no_tree(path, caplog):
    """Those after them are."""
    async with SqliteStore.open(path.with_name("log.db")) as store:
        async with open_event_log(store) as log:
            await ingest(log, 1, 10)
        await seal(store, a_signer(), path)
        async with open_event_log(store) as log:
            await ingest(log, 11, 30)
        await store.prune(keep=10)
        async with open_event_log(store) as log:
            async with record_checkpoints(log, a_signer(), path) as recorder:
                await until(lambda: caplog.messages)
        assert recorder.last.size == 20
        assert caplog.messages[0].startswith("no checkpoint covers some events: ")
        caplog.clear()
        async with open_event_log(store) as log:
            await ingest(log, 31, 50)
        await store.prune(keep=5)
        assert (await seal(store, a_signer(), path)).last.size == 25
        assert caplog.messages[0].startswith("no checkpoint covers some events: ")


# --- what does not belong together ----------------------------------------------------------------


async def refused(log, path, match, kind=AuditError, signer=None, **options):
    with pytest.raises(kind, match=match):
        async with record_checkpoints(log, signer or a_signer(), path, **options):
            pytest.fail("entered")


async def test_what_does_not_belong_together(path):
    store = Store()
    async with open_event_log(store) as log:
        async with record_checkpoints(log, a_signer(), path):
            await refused(log, path, "another recorder has this file open")
            await ingest(log, 1, 5)
        await refused(log, path, "not signed by this key", signer=Signer.generate())
        await refused(log, path, "checkpoints are of the log log, not of 'other'", origin="other")
        other_key = Signer(a_signer()._private, Signer.generate().commitment_key)
        await refused(log, path, "event 5 is not the one that was sealed last", signer=other_key)
    # Another log under the same name: a shorter one, and one with other events.
    other = Store()
    async with open_event_log(other) as log:
        await ingest(log, 1, 4)
        await refused(log, path, "has no event 5, which was sealed last")
        log.ingest(EventEnvelope.of(AgentEvent("a", "t")))
        await log.flush()
        await refused(log, path, "event 5 is not the one that was sealed last")
        with pytest.raises(AuditError, match="event 5 is not the one"):
            await seal(other, a_signer(), path)
    # Each refusal has let go of the file.
    async with open_event_log(store) as log, record_checkpoints(log, a_signer(), path):
        pass
    assert sizes(path) == [5]


ARGUMENTS = [
    ({"every_events": 0}, ValueError, "every_events: expected 1 or more, got 0"),
    ({"every_events": 1.0}, TypeError, "every_events: expected an int, got float"),
    ({"every_events": True}, TypeError, "every_events: expected an int, got bool"),
    ({"every_seconds": 0}, ValueError, "every_seconds: expected more than 0, got 0"),
    ({"every_seconds": math.nan}, ValueError, "every_seconds: expected more than 0, got nan"),
    ({"every_seconds": "1"}, TypeError, "every_seconds: expected a number of seconds, got str"),
    ({"grace_period": -1}, ValueError, "grace_period: expected 0 or more, got -1"),
    ({"anchor": 1}, TypeError, "anchor: expected an async function, got int"),
    ({"origin": 1}, TypeError, "origin: expected a str, got int"),
    ({"origin": "a b"}, ValueError, "origin: 'a b' cannot name a log"),
    ({"signer": "key"}, TypeError, "signer: expected a Signer, got str"),
    ({"path": None}, ValueError, "path: expected a file, or an anchor instead"),
]


@pytest.mark.parametrize(("options", "kind", "match"), ARGUMENTS, ids=lambda value: str(value)[:30])
async def test_arguments(path, options, kind, match):
    async with open_event_log(Store()) as log:
        given = {"path": path, **options}
        await refused(log, given.pop("path"), match, kind, **given)
    assert not path.exists()


async def test_a_store_without_an_id(path):
    async with open_event_log(MemoryStore()) as log:
        await refused(log, path, "origin: the store does not know the id of its log", ValueError)
        async with record_checkpoints(log, a_signer(), path, origin="mine"):
            await ingest(log, 1, 1)
    assert kept(path)[0].checkpoint.origin == "mine"
    # The file knows it from then on.
    async with open_event_log(log.store) as log, record_checkpoints(log, a_signer(), path):
        await ingest(log, 2, 2)
    assert sizes(path) == [1, 2]


async def test_every_step_is_a_checkpoint(path):
    store = Store()
    async with open_event_log(store) as log:
        with trio.testing.assert_checkpoints():
            manager = record_checkpoints(log, a_signer(), path)
            await manager.__aenter__()
        await ingest(log, 1, 1)
        with trio.testing.assert_checkpoints():
            await manager.__aexit__(None, None, None)
        with trio.testing.assert_checkpoints():
            await seal(store, a_signer(), path)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_open(path):
    """Neither by a run, nor by one that was refused."""

    async def main():
        async with open_event_log(Store()) as log:
            await refused(log, path, "cannot name a log", ValueError, origin="+")
            before = open_files()
            async with record_checkpoints(log, a_signer(), path):
                await ingest(log, 1, 1)
            await refused(log, path, "not signed by this key", signer=Signer.generate())
            assert open_files() <= before

    trio.run(main)
