"""Checkpoints hold for what is left of erased events, whenever they were made, and in whatever store."""

import attrs
import pytest

from tests._helpers.audit import a_signer, persisted
from tests._helpers.stores import KINDS
from trio_eventlog import AgentEvent, EventQuery, open_event_log
from trio_eventlog.audit import (
    AuditError,
    CommitmentKey,
    Signer,
    commitment_with,
    parse_proof,
    prove_inclusion,
    record_checkpoints,
    seal,
    verify_checkpoints,
)
from trio_eventlog.stores import MemoryStore, SqliteStore

ORIGIN = "a-log"


def payload(seq):
    return {"identity": "ann" if seq % 3 == 0 else "bob", "number": seq}


def events(first, last):
    return [persisted(seq, payload=payload(seq)) for seq in range(first, last + 1)]


def commitment(key=None):
    return commitment_with(key or a_signer().commitment_key, ORIGIN)


async def erase(store, **options):
    return await store.erase(EventQuery(identity="ann"), reason="request 17", **options)


async def compared(store, path):
    signer = a_signer()
    return await verify_checkpoints(store, path, signer.verifier, signer.commitment_key)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
async def store(request, tmp_path):
    async with request.param(tmp_path) as opened:
        await opened.append_batch(events(1, 30))
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints"


async def test_checkpoints_that_were_made_before_hold(store, path):
    recorder = await seal(store, a_signer(), path, every_events=7, origin=ORIGIN)

    assert await erase(store, commitment=commitment()) == 10

    found = await compared(store, path)
    assert (found.problems, found.sealed, found.erased) == (0, 30, 10)
    # Sealing goes on, and finds that the last event, a tombstone, is the one that was sealed.
    assert (await store.query(EventQuery(after_seq=29)))[0].event.payload.keys() == {"@erased"}
    await store.append_batch(events(31, 39))
    after = await seal(store, a_signer(), path, every_events=7, origin=ORIGIN)
    assert (recorder.sealed_seq, after.sealed_seq) == (30, 39)
    assert (await compared(store, path)).problems == 0
    assert await erase(store, commitment=commitment()) == 3
    found = await compared(store, path)
    assert (found.problems, found.sealed, found.erased) == (0, 39, 13)


async def test_it_does_not_matter_when_an_event_was_erased(tmp_path):
    """Before or after it was sealed: the note is the same."""
    notes = []
    for is_erased_before in (True, False):
        store = MemoryStore()
        await store.append_batch(events(1, 30))
        if is_erased_before:
            await erase(store, commitment=commitment())
        path = tmp_path / str(is_erased_before)
        notes.append((await seal(store, a_signer(), path, origin=ORIGIN)).last_note)

    assert notes[0] == notes[1]


WRONG = {
    "none": None,
    "with another key": commitment_with(CommitmentKey.generate(), ORIGIN),
    "for another log": commitment_with(a_signer().commitment_key, "another"),
}


@pytest.mark.parametrize("how", WRONG)
async def test_without_the_right_commitment_they_do_not_hold(store, path, how):
    await seal(store, a_signer(), path, origin=ORIGIN)

    await erase(store, commitment=WRONG[how])

    found = await compared(store, path)
    assert [finding.seq for finding in found.findings] == list(range(3, 31, 3))


@pytest.mark.parametrize("changed", ["that of another event", "0" * 64, "x", None])
async def test_a_tombstone_is_sealed_as_everything_else(store, path, changed):
    """Whoever puts another commitment into it is found."""
    await erase(store, commitment=commitment())
    await seal(store, a_signer(), path, origin=ORIGIN)
    found = await store.query(EventQuery())
    tombstone = found[2].event.payload["@erased"]
    if changed == "that of another event":
        changed = found[5].event.payload["@erased"]["commitment"]
    forged = attrs.evolve(found[2].event, payload={"@erased": {**tombstone, "commitment": changed}})
    other = MemoryStore()
    await other.append_batch([*found[:2], attrs.evolve(found[2], event=forged), *found[3:]])

    assert [finding.seq for finding in (await compared(other, path)).findings] == [3]


@pytest.mark.parametrize(
    "value", [None, 1, "x", [], {}, {"commitment": 1}, {"commitment": "0" * 63}, {"commitment": "G" * 64}]
)
async def test_what_only_looks_like_a_tombstone_is_hashed_as_it_is(path, value):
    store, other = MemoryStore(), MemoryStore()
    await store.append_batch([persisted(1, payload={"@erased": value})])
    await other.append_batch([persisted(1, payload={"@erased": [value]})])
    await seal(store, a_signer(), path, origin=ORIGIN)

    found = await compared(store, path)
    assert (found.problems, found.erased) == (0, 0)
    assert (await compared(other, path)).problems == 1


async def test_a_proof_of_an_erased_event_has_no_key_of_its_payload(store, path):
    """With it, whoever has the proof could guess what was erased."""
    signer = a_signer()
    await seal(store, signer, path, every_events=7, origin=ORIGIN)
    arguments = (store, path, signer.verifier, signer.commitment_key, "event-3")
    before = await prove_inclusion(*arguments)
    await erase(store, commitment=commitment())

    proof = parse_proof((await prove_inclusion(*arguments)).to_json())

    assert proof.payload_key is None
    assert proof.event.event.payload["@erased"]["reason"] == "request 17"
    assert proof.check(signer.verifier).size == 30
    # One that was made before shows the payload, and is as good as ever.
    assert before.payload_key is not None
    assert before.check(signer.verifier).size == 30
    with pytest.raises(AuditError, match="lacks the key of the payload, which was not erased"):
        attrs.evolve(before, payload_key=None).check(signer.verifier)
    with pytest.raises(AuditError, match="the event is not the one that was sealed"):
        attrs.evolve(proof, event=attrs.evolve(proof.event, id="event-4")).check(signer.verifier)


@pytest.mark.parametrize("every_events", [1, 5, 1000])
async def test_a_recorder_follows_while_events_are_erased(tmp_path, path, every_events):
    """Those that it has sealed, those that it has read, and those that it has not read yet."""
    async with SqliteStore.open(tmp_path / "log.db", synchronous="off") as store:
        async with open_event_log(store, batch_size=4) as log:
            async with record_checkpoints(
                log, a_signer(), path, every_events=every_events, origin=ORIGIN
            ) as recorder:
                for seq in range(1, 49):
                    log.ingest(AgentEvent("w", "t", payload(seq)))
                    if seq % 8 == 0:
                        await log.flush()
                        assert await erase(store, commitment=commitment()) == seq // 3 - (seq - 8) // 3
            assert recorder.sealed_seq == 48
        found = await compared(store, path)
        assert (found.problems, found.sealed, found.unsealed, found.erased) == (0, 48, 0, 16)
    # The next run goes on from a tombstone.
    async with SqliteStore.open(tmp_path / "log.db") as store, open_event_log(store) as log:
        async with record_checkpoints(log, a_signer(), path, origin=ORIGIN) as recorder:
            log.ingest(AgentEvent("w", "t"))
            await log.flush()
        assert recorder.sealed_seq == 49


async def test_what_was_read_and_not_sealed_is_read_again_as_tombstones(store, path):
    """A recorder that was killed makes the same checkpoint afterwards."""
    await seal(store, a_signer(), path, every_events=10, origin=ORIGIN)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])

    await erase(store, commitment=commitment())
    await seal(store, a_signer(), path, every_events=10, origin=ORIGIN)

    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ((b"x" * 32, "o"), TypeError, "key: expected a CommitmentKey, got bytes"),
        ((Signer.generate(), "o"), TypeError, "key: expected a CommitmentKey, got Signer"),
        ((CommitmentKey.generate(), None), TypeError, "origin: expected a str, got NoneType"),
        ((CommitmentKey.generate(), "a b"), ValueError, "origin: 'a b' cannot name a log"),
    ],
)
def test_arguments_are_checked(arguments, error, why):
    with pytest.raises(error, match=why):
        commitment_with(*arguments)
