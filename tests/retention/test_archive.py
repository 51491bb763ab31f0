"""What is moved to an archive: exactly what goes, whole, and before it goes."""

from __future__ import annotations

import hashlib
import json
import os

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests._helpers.events import agent
from tests._helpers.examples import few
from trio_eventlog import EventQuery, StoreError
from trio_eventlog.retention import (
    ArchiveError,
    prune_to_archive,
    read_archive,
    segments_of,
    verify_archive,
)
from trio_eventlog.retention import _archive as archives
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import persisted_events

# --- what is in it --------------------------------------------------------------------------------


def read(directory):
    """All events of an archive."""
    return [
        event
        for segment in segments_of(directory)
        for page in archives.read_segment(directory / segment.file, segment)
        for event in page
    ]


async def filled(events):
    store = MemoryStore()
    await store.append_batch(events)
    return store


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(archives, "_MAX_EVENTS", 3)
    monkeypatch.setattr("trio_eventlog.retention._retain._PAGE_SIZE", 2)


logs = st.lists(persisted_events(), max_size=12, unique_by=(lambda event: event.id, lambda event: event.seq))


@few(12)
@given(logs, st.integers(0, 4), st.integers(1, 5), st.data())
def test_what_is_gone_is_in_the_archive_and_what_is_left_is_not(tmp_path_factory, events, keep, size, data):
    directory = tmp_path_factory.mktemp("retention") / "archive"
    times = sorted({event.timestamp_ms for event in events} | {0})
    by_time = {"before_ms": data.draw(st.sampled_from(times))}
    criterion = data.draw(st.sampled_from([by_time, {"keep": keep}]))

    async def run():
        store, plain = await filled(events), await filled(events)
        gone = await prune_to_archive(store, directory, **criterion)
        assert gone == await plain.prune(**criterion)
        assert await store.query(EventQuery()) == await plain.query(EventQuery())
        left = {event.id for event in await store.query(EventQuery())}
        assert await store.pruned_seq() == await plain.pruned_seq()
        return [event for event in sorted(events, key=lambda event: event.seq) if event.id not in left]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "_MAX_EVENTS", size)
        patch.setattr("trio_eventlog.retention._retain._PAGE_SIZE", 2)
        moved = trio.run(run)

    assert read(directory) == moved
    found = verify_archive(directory)
    assert (found.events, found.problems) == (len(moved), ())


async def test_a_manifest_says_what_is_in_the_file(tmp_path, small_segments):
    store = await filled([agent(seq) for seq in (1, 5, 6, 9, 10, 12)])
    told = []

    assert (
        await prune_to_archive(store, tmp_path, keep=1, on_progress=lambda *numbers: told.append(numbers))
        == 5
    )

    first, second = (json.loads((tmp_path / f"events-00000{n}.json").read_text()) for n in (1, 2))
    assert (first["first_seq"], first["last_seq"], first["count"]) == (1, 9, 4)
    assert (second["first_seq"], second["last_seq"], second["count"]) == (10, 10, 1)
    assert told == [(4, 5), (5, 5)]
    for manifest in (first, second):
        data = (tmp_path / manifest["file"]).read_bytes()
        assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
        assert manifest["size_bytes"] == len(archives.zstd().decompress(data))
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600] * 4


# --- before it goes -------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch):
    """What happens on the disk, in order; and the failure of one of these steps."""
    done, failing = [], []

    def watch(name):
        function = getattr(os, name)

        def watched(*arguments, **options):
            done.append(name)
            if len(done) in failing:
                raise OSError(28, "No space left on device")
            return function(*arguments, **options)

        monkeypatch.setattr(os, name, watched)

    for name in ("fsync", "rename", "write"):
        watch(name)
    return done, failing


async def test_events_go_only_after_their_segment_is_synced_and_named(tmp_path, steps):
    done, _ = steps
    store = await filled([agent(seq) for seq in range(1, 4)])
    prune = store.prune

    async def watched(**arguments):
        if not arguments.get("dry_run"):
            done.append("prune")
            assert verify_archive(tmp_path).events == 3
        return await prune(**arguments)

    store.prune = watched
    await prune_to_archive(store, tmp_path, keep=0)

    sync_of_data, rename = done.index("fsync"), done.index("rename")
    assert sync_of_data < rename
    # The names of both files are synced, too.
    assert done[-3:] == ["rename", "fsync", "prune"]
    assert done.count("fsync") == 4


@pytest.mark.parametrize("step", range(1, 11))
async def test_a_disk_that_fails_at_any_step_loses_nothing(tmp_path, steps, step):
    done, failing = steps
    store = await filled([agent(seq) for seq in range(1, 4)])
    failing.append(step)
    try:
        await prune_to_archive(store, tmp_path, keep=1)
    except OSError as exc:
        assert exc.errno == 28  # noqa: PT017 - not every step is one that is there
        assert len(await store.query(EventQuery())) == 3
    else:
        assert len(done) < step
    failing.clear()

    await prune_to_archive(store, tmp_path, keep=0)

    assert {event.seq for event in read(tmp_path)} == {1, 2, 3}
    assert verify_archive(tmp_path).problems == ()
    assert not list(tmp_path.glob("*.part"))
    # Nothing is there twice either.
    assert len(read(tmp_path)) == 3


async def test_what_is_read_back_must_be_what_was_written(tmp_path, monkeypatch):
    """A disk that stores something else is noticed before anything is deleted."""
    store = await filled([agent(seq) for seq in range(1, 4)])
    write = archives._write_all
    monkeypatch.setattr(
        archives, "_write_all", lambda descriptor, data: write(descriptor, data.replace(data[-9:-8], b"\0"))
    )

    with pytest.raises(ArchiveError, match="damaged"):
        await prune_to_archive(store, tmp_path, keep=0)

    assert len(await store.query(EventQuery())) == 3
    assert segments_of(tmp_path) == []


async def test_a_deletion_that_did_not_happen_is_made_up_for(tmp_path, small_segments):
    """As after a kill just before it: the next call deletes, and archives nothing twice."""
    store = await filled([agent(seq) for seq in range(1, 9)])
    prune = store.prune

    async def failing(**arguments):
        if arguments.get("dry_run"):
            return await prune(**arguments)
        await trio.lowlevel.checkpoint()
        raise StoreError("down")

    store.prune = failing
    with pytest.raises(StoreError):
        await prune_to_archive(store, tmp_path, keep=2)
    assert len(await store.query(EventQuery())) == 8
    store.prune = prune

    assert await prune_to_archive(store, tmp_path, keep=2) == 6

    assert [event.seq for event in read(tmp_path)] == list(range(1, 7))


async def test_events_of_a_store_that_went_back_are_not_taken_for_archived(tmp_path):
    """They have the seqs of others that are."""
    store = await filled([agent(seq) for seq in range(1, 9)])
    await prune_to_archive(store, tmp_path, keep=2)
    went_back = await filled([attrs.evolve(agent(seq), id=f"new-{seq}") for seq in range(1, 5)])

    assert await prune_to_archive(went_back, tmp_path, keep=1) == 3

    assert [event.id for event in read(tmp_path)][-3:] == ["new-1", "new-2", "new-3"]


async def test_what_was_moved_twice_is_read_once(tmp_path, small_segments):
    """The store was restored from a backup in between. Two events with one seq are both read."""
    events = [agent(seq) for seq in range(1, 10)]
    await prune_to_archive(await filled(events), tmp_path, keep=2)
    other = [*events[:4], agent(5, payload="another"), *events[5:]]
    await prune_to_archive(await filled(other), tmp_path, keep=1)

    found = [event for page in read_archive(tmp_path) for event in page]

    assert [event.seq for event in found] == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert {event.event.payload for event in found if event.seq == 5} == {events[4].event.payload, "another"}
    assert [event.seq for page in read_archive(tmp_path, after_seq=6) for event in page] == [7, 8]
    assert len(read(tmp_path)) == 7 + 8


async def test_what_is_appended_meanwhile_stays(tmp_path, small_segments):
    """Also if it is from a time that was to go."""
    store = await filled([agent(seq, time_ms=5) for seq in range(1, 9)])
    prune = store.prune

    async def appending(**arguments):
        if not arguments.get("dry_run"):
            last = await store.last_seq()
            await store.append_batch([agent(last + 1, time_ms=5)])
        return await prune(**arguments)

    store.prune = appending
    assert await prune_to_archive(store, tmp_path, before_ms=10) == 8

    assert {event.seq for event in await store.query(EventQuery())} == {9, 10}
    assert [event.seq for event in read(tmp_path)] == list(range(1, 9))


async def test_what_is_appended_below_meanwhile_is_not_deleted(tmp_path, small_segments):
    """Events of a spill file can come after others with higher seqs."""

    class Store(MemoryStore):
        async def prune(self, **arguments):
            if late and "through_seq" in arguments:
                await self.append_batch([late.pop()])
            return await super().prune(**arguments)

    store, late = Store(), [agent(3)]
    await store.append_batch([agent(seq) for seq in (1, 2, 4, 5, 6)])

    with pytest.raises(StoreError, match="appended below seq 5 while"):
        await prune_to_archive(store, tmp_path, keep=0)

    assert [event.seq for event in await store.query(EventQuery())] == [1, 2, 3, 4, 5, 6]
    assert await prune_to_archive(store, tmp_path, keep=0) == 6
    assert [event.seq for page in read_archive(tmp_path) for event in page] == [1, 2, 3, 4, 5, 6]


async def test_cancelled_it_has_lost_nothing_and_goes_on(tmp_path, small_segments):
    store = await filled([agent(seq) for seq in range(1, 20)])
    with trio.CancelScope() as scope:
        await prune_to_archive(store, tmp_path, keep=0, on_progress=lambda *_: scope.cancel())
    assert scope.cancelled_caught
    left = [event.seq for event in await store.query(EventQuery())]
    assert 0 < len(left) < 19
    assert not list(tmp_path.glob("*.part"))

    await prune_to_archive(store, tmp_path, keep=0)

    assert [event.seq for event in read(tmp_path)] == list(range(1, 20))


# --- whose it is ----------------------------------------------------------------------------------


class Named(MemoryStore):
    log_id = "a"


async def test_the_archive_of_another_log_is_refused(tmp_path):
    first, second, unknown = Named(), Named(), MemoryStore()
    second.log_id = "b"
    for store in (first, second, unknown):
        await store.append_batch([agent(seq) for seq in range(1, 4)])
    await prune_to_archive(first, tmp_path, keep=2)

    with pytest.raises(ArchiveError, match="events of another log, a"):
        await prune_to_archive(second, tmp_path, keep=2)

    assert await prune_to_archive(unknown, tmp_path, keep=2) == 1
    assert await prune_to_archive(first, tmp_path, keep=0) == 2


async def test_a_segment_without_its_manifest_is_not_written_over(tmp_path, small_segments):
    store = await filled([agent(seq) for seq in range(1, 10)])
    await prune_to_archive(store, tmp_path, keep=3)
    lost = tmp_path / "events-000002.json"
    kept = (tmp_path / "events-000002.jsonl.zst").read_bytes()
    manifest = lost.read_bytes()
    lost.unlink()

    with pytest.raises(ArchiveError, match=r"events-000002\.jsonl\.zst: there is no manifest of it"):
        await prune_to_archive(store, tmp_path, keep=0)

    assert (tmp_path / "events-000002.jsonl.zst").read_bytes() == kept
    assert [event.seq for event in await store.query(EventQuery())] == [7, 8, 9]
    lost.write_bytes(manifest)
    assert await prune_to_archive(store, tmp_path, keep=0) == 3
    assert [event.seq for event in read(tmp_path)] == list(range(1, 10))


async def test_one_at_a_time(tmp_path):
    store = await filled([agent(1)])
    with archives.Archive(tmp_path, None), pytest.raises(ArchiveError, match="is writing to this archive"):
        await prune_to_archive(store, tmp_path, keep=0)
    assert await prune_to_archive(store, tmp_path, keep=0) == 1


# --- damage ---------------------------------------------------------------------------------------


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def make_unreadable(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda place: (place / "events-000002.jsonl.zst").unlink(), "000002.*the file is not there"),
        (
            lambda place: (place / "events-000002.json").unlink(),
            "manifests are missing: there are 2, up to 3",
        ),
        (
            lambda place: (place / "events-000003.json").unlink(),
            "000003.jsonl.zst: there is no manifest of it",
        ),
        (
            lambda place: rewrite(place / "events-000001.jsonl.zst", lambda data: data[:-1]),
            "000001.*zst: damaged",
        ),
        (
            lambda place: rewrite(place / "events-000001.jsonl.zst", lambda data: data + b"x"),
            "000001.*damaged",
        ),
        (lambda place: rewrite(place / "events-000001.jsonl.zst", lambda _: b""), "damaged: it is not what"),
        (
            lambda place: rewrite(place / "events-000001.json", lambda data: data[:-3]),
            "000001.json: not JSON",
        ),
        (
            lambda place: rewrite(
                place / "events-000001.json", lambda data: data.replace(b'"count": 3', b'"count": 2')
            ),
            "000001.*not what its manifest says",
        ),
        (
            lambda place: rewrite(
                place / "events-000001.json", lambda data: data.replace(b'"file": "', b'"file": "../')
            ),
            "000001.json: a field has a value that it cannot have",
        ),
        (
            lambda place: (place / "events-000001.json").write_bytes(
                (place / "events-000002.json").read_bytes()
            ),
            "000001.json: the manifest of segment 2",
        ),
        (lambda place: (place / "events-000001.json").write_text("{}"), "not the manifest of a segment"),
        (
            lambda place: rewrite(
                place / "events-000001.json", lambda data: data.replace(b'"version": 1', b'"version": 2')
            ),
            "of version 2, this library knows 1",
        ),
        (
            lambda place: make_unreadable(place / "events-000001.json"),
            "000001.json: Is a directory",
        ),
        (
            lambda place: make_unreadable(place / "events-000001.jsonl.zst"),
            "000001.jsonl.zst: Is a directory",
        ),
    ],
)
async def test_damage_is_found(tmp_path, monkeypatch, damage, problem):
    monkeypatch.setattr(archives, "_MAX_EVENTS", 3)
    monkeypatch.setattr("trio_eventlog.retention._retain._PAGE_SIZE", 3)
    store = await filled([agent(seq) for seq in range(1, 10)])
    await prune_to_archive(store, tmp_path, keep=0)
    assert verify_archive(tmp_path).problems == ()

    damage(tmp_path)

    verified = verify_archive(tmp_path)
    found = verified.problems
    # One that is damaged does not keep the others from being read.
    assert verified.events >= 3
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError("; ".join(found))


def test_every_bit_of_a_segment_counts(tmp_path):
    async def make():
        await prune_to_archive(await filled([agent(seq) for seq in range(1, 4)]), tmp_path, keep=0)

    trio.run(make)
    path = tmp_path / "events-000001.jsonl.zst"
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert verify_archive(tmp_path).problems, place


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"keep": 1, "before_ms": 1}, ValueError, "before_ms, keep: expected one of them"),
        ({}, ValueError, "before_ms, keep: expected one of them"),
        ({"keep": -1}, ValueError, "keep: expected 0"),
        ({"keep": 1, "directory": 5}, TypeError, "archive: expected the path of a directory, got int"),
        ({"keep": 1, "directory": ""}, ValueError, "archive: expected the path of a directory, got ''"),
        ({"keep": 1, "directory": None}, TypeError, "directory: expected the path of a directory"),
        ({"keep": 1, "store": object()}, TypeError, "store: expected one that can be pruned, got object"),
    ],
)
async def test_arguments_are_checked(tmp_path, arguments, error, why):
    arguments = {"store": MemoryStore(), "directory": tmp_path, **arguments}
    with pytest.raises(error, match=why):
        await prune_to_archive(**arguments)


async def test_without_zstandard_it_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(archives, "import_module", missing)
    with pytest.raises(ArchiveError, match=r"install it with: pip install .*backports.zstd"):
        await prune_to_archive(MemoryStore(), tmp_path / "new", keep=0)
    assert not (tmp_path / "new").exists()
