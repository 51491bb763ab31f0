"""Proofs: made from a log, and checked without it."""

import json

import attrs
import pytest

from tests._helpers.audit import a_signer, numbered, persisted
from trio_eventlog import AgentEvent, EventQuery, open_event_log
from trio_eventlog.audit import (
    AuditError,
    Checkpoint,
    CommitmentKey,
    ConsistencyProof,
    Signer,
    parse_proof,
    prove_consistency,
    prove_inclusion,
    seal,
)
from trio_eventlog.audit._file import read_lines
from trio_eventlog.audit._tree import EMPTY_ROOT
from trio_eventlog.stores import MemoryStore, SqliteStore

EVENTS = 23


@pytest.fixture
async def store(tmp_path):
    """Sealed at 7, 14, 21 and 23 events, with gaps in seq; and one event more."""
    store = MemoryStore()
    await store.append_batch([persisted(2 * seq, payload={"n": seq}) for seq in range(1, EVENTS + 1)])
    await seal(store, a_signer(), tmp_path / "checkpoints", origin="log", every_events=7)
    await store.append_batch([persisted(100)])
    return store


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "checkpoints", a_signer().verifier, a_signer().commitment_key


def notes(path):
    return [json.loads(line)["note"] for line in read_lines(str(path))]


async def test_every_event_can_be_proved(store, keys):
    for event in await store.query(EventQuery(limit=EVENTS)):
        proof = parse_proof((await prove_inclusion(store, *keys, event.id)).to_json())

        assert proof.event == event
        assert proof.check(a_signer().verifier).size == EVENTS
        assert proof.note == notes(keys[0])[-1]


async def test_a_proof_of_an_event_holds_for_no_other(store, keys):
    proof = await prove_inclusion(store, *keys, "event-8")
    event = proof.event
    forged = [
        attrs.evolve(proof, event=attrs.evolve(event, seq=7)),
        attrs.evolve(proof, event=attrs.evolve(event, id="event-9")),
        attrs.evolve(proof, event=attrs.evolve(event, event=AgentEvent("a", "t", {"n": 5}))),
        attrs.evolve(proof, event=attrs.evolve(event, event=AgentEvent("a", "t", object()))),
        attrs.evolve(proof, event=attrs.evolve(event, seq=2**64)),
        attrs.evolve(proof, payload_key=bytes(32)),
        attrs.evolve(proof, index=4),
        attrs.evolve(proof, path=proof.path[:-1]),
        attrs.evolve(proof, note=notes(keys[0])[1]),
    ]
    for other in forged:
        with pytest.raises(AuditError, match="the proof"):
            other.check(a_signer().verifier)
    with pytest.raises(AuditError, match="not signed by this key"):
        proof.check(Signer.generate().verifier)


async def test_a_proof_opens_one_payload_alone(store, keys):
    """Its key is of no use for any other commitment."""
    proofs = [await prove_inclusion(store, *keys, f"event-{2 * seq}") for seq in range(1, EVENTS + 1)]

    assert len({proof.payload_key for proof in proofs}) == EVENTS
    assert proofs[0].payload_key.hex() not in repr(proofs[0])


async def test_every_older_note_can_be_proved(store, keys):
    """Those of the file, and those of other intervals."""
    other = keys[0].with_name("others")
    await seal(await limited(store), a_signer(), other, origin="log", every_events=1)
    older = [*notes(keys[0]), *notes(other)]
    assert len(older) == 4 + EVENTS
    for note in older:
        proof = parse_proof((await prove_consistency(store, *keys, note)).to_json())
        old, new = proof.check(a_signer().verifier)

        assert (old, new.size) == (a_signer().verifier.verify(note), EVENTS)


async def limited(store):
    other = MemoryStore()
    await other.append_batch(await store.query(EventQuery(limit=EVENTS)))
    return other


async def test_the_empty_log_is_the_beginning(store, keys):
    note = a_signer().sign(Checkpoint("log", 0, EMPTY_ROOT))
    proof = await prove_consistency(store, *keys, note)
    assert proof.check(a_signer().verifier)[0].size == 0


async def test_a_note_of_another_history(store, keys):
    other, path = MemoryStore(), keys[0].with_name("others")
    await other.append_batch([persisted(seq) for seq in range(1, 30)])
    await seal(other, a_signer(), path, origin="log", every_events=5)
    for note in notes(path)[:-2]:
        with pytest.raises(AuditError, match="the older note is not of this log"):
            await prove_consistency(store, *keys, note)
    with pytest.raises(AuditError, match="the older note covers 29 events, the last checkpoint 23"):
        await prove_consistency(store, *keys, notes(path)[-1])
    # Put together by hand, it proves nothing.
    proof = await prove_consistency(store, *keys, notes(keys[0])[1])
    forged = ConsistencyProof(notes(path)[2], proof.path, proof.note)
    with pytest.raises(AuditError, match="does not continue the older one"):
        forged.check(a_signer().verifier)


async def test_what_cannot_be_proved(store, keys):
    path, verifier, key = keys
    with pytest.raises(AuditError, match="the log has no event 'none'"):
        await prove_inclusion(store, *keys, "none")
    with pytest.raises(
        AuditError, match="no checkpoint covers event 'event-100', seq 100, yet: the last one"
    ):
        await prove_inclusion(store, *keys, "event-100")
    with pytest.raises(AuditError, match="run verify"):
        await prove_inclusion(store, path, verifier, CommitmentKey.generate(), "event-2")
    with pytest.raises(AuditError, match=r"has no valid checkpoint; .*not signed by this key"):
        await prove_inclusion(store, path, Signer.generate().verifier, key, "event-2")
    changed = MemoryStore()
    await changed.append_batch([*await store.query(EventQuery(limit=5)), persisted(11)])
    with pytest.raises(AuditError, match="run verify"):
        await prove_inclusion(changed, *keys, "event-2")
    with pytest.raises(AuditError, match="the log is shorter than what was sealed"):
        await prove_consistency(changed, *keys, notes(path)[3])
    await changed.append_batch([persisted(40)])
    with pytest.raises(AuditError, match="run verify"):
        await prove_consistency(changed, *keys, notes(path)[0])


async def test_a_proof_from_a_pruned_log(tmp_path):
    """From the checkpoint before the event on, everything must be there."""
    keys = tmp_path / "checkpoints", a_signer().verifier, a_signer().commitment_key
    async with SqliteStore.open(tmp_path / "log.db") as store:
        async with open_event_log(store) as log:
            for number in range(1, 31):
                log.ingest(numbered(number))
        await seal(store, a_signer(), keys[0], every_events=10)
        await store.prune(keep=15)
        proof = await prove_inclusion(store, *keys, "event-25")
        assert proof.check(a_signer().verifier).size == 30
        assert (await prove_consistency(store, *keys, notes(keys[0])[1])).check(a_signer().verifier)
        with pytest.raises(AuditError, match="needs events that are gone"):
            await prove_inclusion(store, *keys, "event-17")
        with pytest.raises(AuditError, match="needs events that are gone"):
            await prove_consistency(store, *keys, notes(keys[0])[0])


async def test_a_proof_from_the_first_interval_of_a_pruned_log(tmp_path):
    """Who reads from the first event on is not told that there were others before it."""
    keys = tmp_path / "checkpoints", a_signer().verifier, a_signer().commitment_key
    async with SqliteStore.open(tmp_path / "log.db") as store:
        async with open_event_log(store) as log:
            for number in range(1, 11):
                log.ingest(numbered(number))
        await store.prune(keep=8)
        await seal(store, a_signer(), keys[0])
        # Pruned before it was sealed, it is not missing.
        assert (await prove_inclusion(store, *keys, "event-7")).check(a_signer().verifier).size == 8
        await store.prune(keep=5)
        with pytest.raises(AuditError, match="events that the proof needs were pruned"):
            await prove_inclusion(store, *keys, "event-7")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"proof":"inclusion","format":2}',
        '{"proof":"consistency","format":1,"old_note":"","path":["x"],"note":""}',
        '{"proof":"consistency","format":1,"old_note":"","path":["eHh4"],"note":""}',
        '{"proof":"inclusion","format":1,"event":{},"payload_key":"","index":0,"path":[],"note":""}',
        "[" * 100_000,
    ],
)
def test_what_is_no_proof(text):
    with pytest.raises(AuditError, match="not a proof: "):
        parse_proof(text.encode())


def test_a_proof_of_nothing():
    proof = parse_proof(b'{"proof":"consistency","format":1,"old_note":"","path":[],"note":""}')
    with pytest.raises(AuditError, match="not a signed note"):
        proof.check(a_signer().verifier)
