"""Checkpoints, and events that have moved to an archive: what covers what, and both halves are one log."""

import attrs
import pytest
import trio

from tests._helpers.audit import a_signer, persisted
from trio_eventlog import EventQuery
from trio_eventlog.audit import (
    AuditError,
    CheckpointReader,
    Signer,
    commitment_with,
    seal,
    verify_checkpoints,
)
from trio_eventlog.retention import (
    RetentionPolicy,
    prune_to_archive,
    read_archive,
    segments_of,
    verify_archive,
)
from trio_eventlog.retention import _archive as archives
from trio_eventlog.retention._retain import apply_policy
from trio_eventlog.stores import MemoryStore

ORIGIN = "a-log"
LAST = 30


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(archives, "_MAX_EVENTS", 6)
    monkeypatch.setattr("trio_eventlog.retention._retain._PAGE_SIZE", 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "archive"


@pytest.fixture
def reader(path):
    return CheckpointReader(path, a_signer().verifier)


@pytest.fixture
async def store(path):
    """With 30 events, and checkpoints after 7, 14, 21, 28 and 30."""
    opened = MemoryStore()
    await opened.append_batch([persisted(seq, payload={"number": seq}) for seq in range(1, LAST + 1)])
    await seal(opened, a_signer(), path, every_events=7, origin=ORIGIN)
    return opened


async def compared(store, path, archive=None, **options):
    signer = a_signer()
    archived = None if archive is None else read_archive(archive)
    return await verify_checkpoints(
        store, path, signer.verifier, signer.commitment_key, archived=archived, **options
    )


async def test_a_manifest_names_the_checkpoint_that_covers_its_segment(store, archive, reader):
    assert await prune_to_archive(store, archive, keep=9, checkpoints=reader) == 21

    segments = segments_of(archive)
    sizes = [a_signer().verifier.verify(segment.checkpoint).size for segment in segments]
    assert [segment.last_seq for segment in segments] == [8, 16, 21]
    assert sizes == [14, 21, 21]
    assert verify_archive(archive, reader.read()).problems == ()


async def test_what_no_checkpoint_covers_stays(store, archive, reader):
    await store.append_batch([persisted(seq) for seq in range(LAST + 1, LAST + 6)])

    assert await prune_to_archive(store, archive, keep=2, checkpoints=reader) == LAST
    assert [event.seq for event in await store.query(EventQuery())] == list(range(LAST + 1, LAST + 6))
    await seal(store, a_signer(), reader.path, origin=ORIGIN)
    policy = RetentionPolicy(most_events=2, archive=archive, checkpoints=reader)
    await apply_policy(store, store, policy)
    assert [event.seq for event in await store.query(EventQuery())] == [34, 35]


@pytest.mark.parametrize("keep", [0, 1, 2, 9, 16, 25, 29])
async def test_archive_and_log_verify_as_one(store, path, archive, reader, keep):
    await prune_to_archive(store, archive, keep=keep, checkpoints=reader)

    found = await compared(store, path, archive)
    assert (found.problems, found.sealed, found.unsealed, found.skipped_seq) == (0, LAST, 0, 0)
    # Sealing goes on, from the frontier, and so does verifying without the archive.
    await store.append_batch([persisted(31)])
    await seal(store, a_signer(), path, origin=ORIGIN)
    assert (await compared(store, path, archive)).problems == 0
    assert (await compared(store, path, pruned_through=LAST - keep)).problems == 0
    assert (await compared(store, path)).problems > 0


async def test_segments_that_overlap_and_events_between_them(path, archive, reader):
    """As they are if events are deleted by their time, which need not ascend with seq."""
    store = MemoryStore()
    events = [attrs.evolve(persisted(seq), timestamp_ms=seq * 7 % 30) for seq in range(1, LAST + 1)]
    await store.append_batch(events)
    await seal(store, a_signer(), path, every_events=7, origin=ORIGIN)
    for before_ms in (5, 12, 20):
        await prune_to_archive(store, archive, before_ms=before_ms, checkpoints=reader)

    found = await compared(store, path, archive)
    assert (found.problems, found.sealed) == (0, LAST)
    archived = [event.seq for page in read_archive(archive) for event in page]
    assert archived == [event.seq for event in events if event.timestamp_ms < 20]
    assert [event.seq for page in read_archive(archive, after_seq=11) for event in page] == [
        seq for seq in archived if seq > 11
    ]


async def test_an_archive_alone_is_compared_as_far_as_it_goes(store, path, archive):
    await prune_to_archive(store, archive, keep=14)

    found = await compared(None, path, archive)
    assert (found.problems, found.sealed, found.unsealed) == (0, LAST, 2)
    await prune_to_archive(store, archive, keep=9)
    assert (await compared(None, path, archive)).unsealed == 0


async def test_events_that_are_in_both_are_taken_once(store, path, archive):
    """A process was killed between writing a segment and deleting its events."""
    events = await store.query(EventQuery())
    await prune_to_archive(store, archive, keep=9)
    both = MemoryStore()
    await both.append_batch(events[4:])

    assert (await compared(both, path, archive)).problems == 0


@pytest.mark.parametrize("place", [0, 10, 20, 25])
async def test_what_was_changed_before_it_was_archived_is_found(store, path, archive, reader, place):
    events = await store.query(EventQuery())
    events[place] = attrs.evolve(events[place], timestamp_ms=0)
    changed = MemoryStore()
    await changed.append_batch(events)
    await prune_to_archive(changed, archive, keep=9, checkpoints=reader)

    assert verify_archive(archive, reader.read()).problems == ()
    assert [finding.seq for finding in (await compared(changed, path, archive)).findings] == [place + 1]
    alone = await compared(None, path, archive)
    assert [finding.seq for finding in alone.findings] == [place + 1] * (place < 21)


async def test_a_segment_that_cannot_be_read_is_a_problem(store, path, archive):
    await prune_to_archive(store, archive, keep=9)
    segment = segments_of(archive)[1]
    (archive / segment.file).unlink()

    found = await compared(store, path, archive)
    assert "what was archived cannot be read to its end" in found.findings[-1].problem
    assert "the file is not there" in found.findings[-1].problem


async def test_a_manifest_with_another_checkpoint_is_a_problem(store, path, archive, reader):
    await prune_to_archive(store, archive, keep=9, checkpoints=reader)
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:2]))

    problems = verify_archive(archive, reader.read()).problems
    assert problems == tuple(
        f"{archive}/events-{number:06}.json: the checkpoint that it names is not the one that covers its"
        " events"
        for number in (2, 3)
    )


async def test_what_was_erased_and_then_archived(store, path, archive, reader):
    commitment = commitment_with(a_signer().commitment_key, ORIGIN)
    await store.erase(EventQuery(after_seq=4, limit=3), reason="why", commitment=commitment)
    await prune_to_archive(store, archive, keep=9, checkpoints=reader)

    found = await compared(store, path, archive)
    assert (found.problems, found.erased) == (0, 3)


def test_which_note_covers_what(reader, path):
    path.write_bytes(b"")
    empty = reader.read()
    assert (empty.origin, empty.sealed_seq, empty.covering(1)) == (None, 0, None)
    trio.run(fill, path)
    checkpoints = reader.read()
    sizes = [checkpoints.covering(seq) for seq in (1, 7, 8, 30)]
    assert [a_signer().verifier.verify(note).size for note in sizes] == [7, 7, 14, 30]
    assert checkpoints.covering(31) is None
    assert repr(checkpoints) == "<Checkpoints of a-log, sealed up to seq 30>"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[1] + lines[0] + b"".join(lines[2:]))
    with pytest.raises(AuditError, match="line 2: it is not later than the one before it"):
        reader.read()
    with pytest.raises(AuditError, match="line 1: the note is not signed by this key"):
        CheckpointReader(path, Signer.generate().verifier).read()


async def fill(path):
    store = MemoryStore()
    await store.append_batch([persisted(seq) for seq in range(1, LAST + 1)])
    await seal(store, a_signer(), path, every_events=7, origin=ORIGIN)


async def test_arguments_are_checked(store, path, archive, reader):
    with pytest.raises(TypeError, match="path: expected the path of a file, got NoneType"):
        CheckpointReader(None, a_signer().verifier)
    with pytest.raises(TypeError, match="verifier: expected a Verifier, got Signer"):
        CheckpointReader(path, a_signer())
    why = "checkpoints: expected a CheckpointReader or None, got str"
    with pytest.raises(TypeError, match=why):
        RetentionPolicy(most_events=1, archive=archive, checkpoints="x")
    with pytest.raises(TypeError, match=why):
        await prune_to_archive(store, archive, keep=0, checkpoints="x")
    with pytest.raises(ValueError, match="checkpoints: expected an archive with them"):
        RetentionPolicy(most_events=1, checkpoints=reader)
    with pytest.raises(ValueError, match="store: expected one, or archived events instead"):
        await compared(None, path)
    assert not archive.exists()
