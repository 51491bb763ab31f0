"""A log is compared with its checkpoints: what was done to it is found, and named."""

import base64
import json
import re

import pytest
import trio
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests._helpers.audit import a_signer, persisted, sealed, write
from tests._helpers.examples import few
from tests._helpers.tampering import (
    ATTACKS,
    EVENTS,
    Attacker,
    assert_found,
    assert_found_in_a_new_tree,
    cut,
    sealed_log,
    verify,
)
from trio_eventlog import EventQuery, StoreError
from trio_eventlog.audit import AuditError, CommitmentKey, Signer, seal, verify_checkpoints
from trio_eventlog.audit._file import CheckpointFile, read_lines
from trio_eventlog.audit._leaves import LeafHasher
from trio_eventlog.audit._records import Sealer
from trio_eventlog.stores import MemoryStore, SqliteStore


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return sealed_log(tmp_path_factory.mktemp("sealed"))


@pytest.fixture
def place(template, tmp_path):
    template.put(tmp_path)
    return tmp_path


def found(place, **options):
    """The problems as lines of text."""
    return [
        finding.problem if finding.seq is None else f"seq {finding.seq}: {finding.problem}"
        for finding in verify(place, **options).findings
    ]


@few(20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attack=ATTACKS)
def test_every_attack_is_found(template, tmp_path, attack):
    assert_found(template, tmp_path, attack)


@few(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attack=ATTACKS, own_key=st.booleans())
def test_a_tree_that_is_built_anew_without_the_key_is_found(template, tmp_path, attack, own_key):
    assert_found_in_a_new_tree(template, tmp_path, attack, own_key=own_key)


def test_an_untouched_log(place, template):
    verification = verify(place, notes=[template.note])

    assert verification.problems == 0
    assert verification.findings == ()
    assert (verification.checkpoints, verification.sealed, verification.sealed_seq) == (5, EVENTS, EVENTS)
    assert (verification.unsealed, verification.skipped_seq) == (0, 0)
    assert verification.origin == template.note.split("\n")[0]


def test_events_that_no_checkpoint_covers_yet(place):
    write(place / "log.db", EVENTS + 1, EVENTS + 7)

    assert found(place) == []
    assert verify(place).unsealed == 7


# --- what the findings say ------------------------------------------------------------------------


def test_one_change_does_not_hide_another(place):
    """Each interval is judged by itself."""
    attacker = Attacker(place / "log.db")
    attacker.change(7, payload="1")
    attacker.delete(25)
    attacker.delete(26)
    attacker.put({**attacker.row(1), "seq": 50, "id": "late"})
    attacker.end_at(50)
    attacker.close()

    assert found(place) == [
        "seq 7: was changed, or moved here; sealed in the checkpoint of 10 events, up to seq 10",
        (
            "seq 25: this and all up to seq 26 were removed, or given another seq;"
            " sealed in the checkpoint of 30 events, up to seq 30"
        ),
    ]
    assert verify(place).unsealed == 1
    assert len(found(place, most_findings=1)) == 1
    assert verify(place, most_findings=1).problems == 2


def test_an_event_in_a_gap(tmp_path):
    """A seq that a lost event has left can be filled, but not unnoticed."""

    async def main():
        async with SqliteStore.open(tmp_path / "log.db") as store:
            await store.append_batch([persisted(seq) for seq in (1, 2, 4, 5)])
            await seal(store, a_signer(), tmp_path / "checkpoints")
            await store.append_batch([persisted(3), persisted(6)])

    trio.run(main)
    assert found(tmp_path) == [
        "seq 3: was inserted, or given this seq; not sealed in the checkpoint of 4 events, up to seq 5"
    ]


def test_a_log_that_was_cut_off(place):
    attacker = Attacker(place / "log.db")
    cut(attacker, 35)
    attacker.close()

    first, *rest = found(place)
    assert first == "the log ends with seq 34, but events up to seq 43 were sealed: its end was cut off"
    assert [line.partition(",")[0] for line in rest] == [
        "seq 35: this and all up to seq 40 were removed",
        "seq 41: this and all up to seq 43 were removed",
    ]


def test_a_log_that_was_emptied(place):
    attacker = Attacker(place / "log.db")
    cut(attacker, 1)
    attacker.close()

    assert found(place)[0].startswith(
        "the log ends before its first event, but events up to seq 43 were sealed"
    )


def test_damage_that_the_store_notices(place):
    """Then the rest cannot be read; what comes before is compared all the same."""
    attacker = Attacker(place / "log.db")
    attacker.change(7, payload="1")
    attacker.db.execute("UPDATE events_1 SET payload = '2' WHERE seq = 25")
    attacker.close()

    assert any("cannot be read to its end" in line and "not what was stored" in line for line in found(place))


@pytest.mark.parametrize("payload", ["{", str(2**64)])
def test_a_payload_that_no_log_holds(place, payload):
    attacker = Attacker(place / "log.db")
    attacker.change(7, payload=payload)
    attacker.close()

    assert any("cannot be read to its end: payload: not JSON" in line for line in found(place))


def test_a_copy_of_the_log(place):
    """It has an id of its own, but the same events."""
    copy(place / "log.db", place / "copy.db")
    (place / "copy.db").replace(place / "log.db")

    assert found(place) == []


def copy(source, target):
    async def main():
        async with SqliteStore.open(source, read_only=True) as old, SqliteStore.open(target) as new:
            await new.append_batch(await old.query(EventQuery()))

    trio.run(main)


# --- what was done to the file of checkpoints -----------------------------------------------------


def edit(place, function):
    lines = (place / "checkpoints").read_bytes().splitlines(keepends=True)
    (place / "checkpoints").write_bytes(b"".join(function(lines)))


def test_a_checkpoint_that_was_changed(place):
    edit(place, lambda lines: [lines[0], lines[1].replace(b"n20", b"n21"), *lines[2:]])

    assert found(place) == [
        f"{place / 'checkpoints'}, line 2: the signature of the note is wrong: it was changed or forged"
    ]
    attacker = Attacker(place / "log.db")
    attacker.change(17, payload="1")
    attacker.close()
    assert found(place)[1].startswith(
        "in the checkpoint of 30 events, up to seq 30: 20 events were sealed since"
    )


def test_a_checkpoint_that_was_removed(place):
    """The next one still covers its events."""
    edit(place, lambda lines: [lines[0], *lines[2:]])

    assert found(place) == []
    attacker = Attacker(place / "log.db")
    attacker.change(17, payload="1")
    attacker.close()
    assert found(place) != []


def test_checkpoints_in_another_order(place):
    edit(place, lambda lines: [lines[1], lines[0], *lines[2:]])

    assert found(place) == [f"{place / 'checkpoints'}, line 2: it is not later than the one before it"]


def test_what_is_beside_the_note_can_only_mislead(place):
    """Whoever changes it, too, is found all the same; only not which seq."""
    attacker = Attacker(place / "log.db")
    attacker.change(7, payload="1")
    attacker.close()
    edit(
        place,
        lambda lines: [
            re.sub(rb'"leaves":".*?"', rb'"leaves":"' + new_prints(place) + b'"', lines[0]),
            *lines[1:],
        ],
    )

    assert found(place) == [
        "in the checkpoint of 10 events, up to seq 10: some events are not what was sealed"
    ]


def new_prints(place):
    async def main():
        async with SqliteStore.open(place / "log.db") as store:
            events = await store.query(EventQuery(limit=10))
            return LeafHasher(a_signer().commitment_key, store.log_id).leaves(events)

    return base64.b64encode(b"".join(leaf[:4] for leaf in trio.run(main)))


@pytest.mark.parametrize("content", [b"", b"{}\n", b"torn"])
def test_without_a_checkpoint_nothing_is_proved(place, content):
    (place / "checkpoints").write_bytes(content)

    verification = verify(place)
    assert verification.problems >= 1
    assert "has no valid checkpoint: nothing vouches for the log" in verification.findings[-1].problem


def test_the_wrong_commitment_key(place):
    signer = a_signer()

    async def main():
        async with SqliteStore.open(place / "log.db", read_only=True) as store:
            key = CommitmentKey.generate()
            return await verify_checkpoints(store, place / "checkpoints", signer.verifier, key)

    assert trio.run(main).problems == 5


# --- notes that were kept elsewhere ---------------------------------------------------------------


def notes_of(place):
    return [json.loads(line)["note"] for line in read_lines(str(place / "checkpoints"))]


def test_a_kept_note_shows_that_both_were_cut_off(place):
    """Which the log and its file cannot show by themselves."""
    notes = notes_of(place)
    attacker = Attacker(place / "log.db")
    cut(attacker, 21)
    attacker.close()
    edit(place, lambda lines: lines[:2])

    assert found(place) == []
    assert found(place, notes=notes[:2]) == []
    assert found(place, notes=[notes[0], notes[3]]) == [
        "a note that was kept elsewhere covers 40 events, but the log has 20: its end was cut off"
    ]


@pytest.mark.parametrize("every_events", [10, 7, 100])
def test_a_kept_note_shows_that_the_log_was_written_anew_with_the_key(place, every_events):
    """Whatever intervals were sealed then; notes from before the change still hold."""
    notes = notes_of(place)
    attacker = Attacker(place / "log.db")
    attacker.change(17, payload="1")
    attacker.close()
    (place / "checkpoints").unlink()
    sealed(place / "log.db", place / "checkpoints", every_events=every_events)

    assert found(place) == []
    assert found(place, notes=notes[:1]) == []
    assert found(place, notes=notes) == [
        f"a note that was kept elsewhere has another root for the first {size} events: the log was written"
        " anew, or the note is of a copy that went its own way"
        for size in (20, 30, 40, 43)
    ]


def test_a_kept_note_that_is_none(place):
    with pytest.raises(AuditError, match="not a signed note"):
        verify(place, notes=["x"])
    checkpoint = a_signer().verifier.verify(notes_of(place)[0])
    with pytest.raises(AuditError, match="not signed by this key"):
        verify(place, notes=[Signer.generate().sign(checkpoint)])


# --- pruned logs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("pruned", "skipped"), [(1, 10), (10, 10), (11, 20), (42, 43)])
def test_a_pruned_log_is_compared_from_there(place, pruned, skipped):
    async def main():
        async with SqliteStore.open(place / "log.db") as store:
            await store.prune(keep=EVENTS - pruned)

    notes = notes_of(place)
    trio.run(main)
    assert any(line.startswith("seq 1:") for line in found(place))
    verification = verify(place, pruned_through=pruned, notes=notes)
    assert (verification.problems, verification.skipped_seq) == (0, skipped)
    if skipped < EVENTS:
        attacker = Attacker(place / "log.db")
        attacker.delete(EVENTS - 1)
        attacker.close()
        assert [finding.seq for finding in verify(place, pruned_through=pruned).findings] == [EVENTS - 1]


def test_what_was_pruned_beyond_that_is_missing(place):
    async def main():
        async with SqliteStore.open(place / "log.db") as store:
            await store.prune(keep=EVENTS - 25)

    trio.run(main)
    assert [line.partition(",")[0] for line in found(place, pruned_through=10)] == [
        "seq 11: this and all up to seq 20 were removed",
        "seq 21: this and all up to seq 25 were removed",
    ]


def test_a_mistyped_seq_does_not_skip_the_whole_log(place):
    assert found(place, pruned_through=EVENTS) == []
    assert found(place, pruned_through=10 * EVENTS) == [
        "events up to seq 430 are said to be pruned, but the log has only come to seq 43"
    ]


def test_a_kept_note_of_the_pruned_part(place):
    notes = notes_of(place)
    edit(place, lambda lines: lines[1:])

    assert found(place, pruned_through=20, notes=notes[:2]) == [
        "a note that was kept elsewhere covers 10 events, and cannot be compared: some of them are pruned"
    ]


# --- stores ---------------------------------------------------------------------------------------


class Failing(MemoryStore):
    async def query(self, query):
        await trio.lowlevel.checkpoint()
        raise StoreError("down")


async def test_a_store_that_fails(tmp_path):
    file = CheckpointFile(str(tmp_path / "checkpoints"), a_signer().verifier)
    sealer = Sealer("log", None)
    sealer.add([1], LeafHasher(a_signer().commitment_key, "log").leaves([persisted(1)]))
    file.append(sealer.record(a_signer()))
    file.close()

    with pytest.raises(StoreError, match="down"):
        await verify_checkpoints(
            Failing(), tmp_path / "checkpoints", a_signer().verifier, a_signer().commitment_key
        )


async def test_a_store_of_any_kind(tmp_path):
    """Payloads come as they are, or as text."""
    store, seen = MemoryStore(), []
    await store.append_batch([persisted(seq, payload={"b": 1.0, "a": seq}) for seq in range(1, 30)])
    await seal(store, a_signer(), tmp_path / "checkpoints", origin="log")
    other = MemoryStore()
    await other.append_batch([persisted(seq, payload={"a": seq, "b": 1.0}) for seq in range(1, 30)])
    result = await verify_checkpoints(
        other,
        tmp_path / "checkpoints",
        a_signer().verifier,
        a_signer().commitment_key,
        on_progress=seen.append,
    )

    assert result.problems == 0
    assert seen[-1] == 29
