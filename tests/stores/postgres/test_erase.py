"""Erasing in PostgreSQL: no query finds it any more, and after the statements of the guide no file has it."""

import re
from pathlib import Path

import psycopg
import pytest

from tests._helpers.pages import ROOT
from tests._helpers.postgres_logs import event, seqs, url
from trio_eventlog import AgentEvent, EventQuery, PersistedEvent, open_event_log
from trio_eventlog.audit import (
    Signer,
    commitment_with,
    prove_inclusion,
    record_checkpoints,
    seal,
    verify_checkpoints,
)
from trio_eventlog.stores import PostgresStore

ANN = "ann-7f3c"


def stored(seq):
    name = ANN if seq % 3 == 0 else "bob"
    text = f"{name} " * (1, 40, 3_000)[seq % 3]
    return event(seq, payload={"identity": name, "run_id": f"run of {name}", "text": text})


def traces(directory):
    return [
        path.name
        for path in Path(directory).rglob("*")
        if path.is_file() and "pg_wal" not in path.parts and ANN.encode() in path.read_bytes()
    ]


def statements():
    """Those of the guide."""
    text = (ROOT / "docs" / "how-to" / "retention-and-privacy.md").read_text()
    (block,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    return [line for line in block.splitlines() if line]


@pytest.mark.parametrize("read_only", [False, True])
async def test_nothing_is_left_after_the_statements_of_the_guide(log, read_only):
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch([stored(seq) for seq in range(1, 2_101)])
        with psycopg.connect(url(), autocommit=True) as admin:
            # What the planner remembers are values, too.
            admin.execute("ANALYZE trio_eventlog.events")
            (directory,) = admin.execute("SHOW data_directory").fetchone()
            admin.execute("CHECKPOINT")
        assert traces(directory) != []
        if read_only:
            async with PostgresStore.open(url(), log=log, read_only=True) as reader:
                assert await reader.erase(EventQuery(identity=ANN), reason="why") == 700
        else:
            assert await store.erase(EventQuery(identity=ANN), reason="why") == 700
        assert await store.query(EventQuery(identity=ANN)) == []
        assert await seqs(store) == list(range(1, 2_101))
        found = (await store.query(EventQuery(after_seq=2, limit=1)))[0]
        assert found.event.payload["@erased"]["reason"] == "why"
        assert (await store.verify()).problems == 0
        assert await store.append_batch([stored(3)]) == ()
        assert await store.erase(EventQuery(), reason="all", commitment=lambda event: event.id) == 1_400
        with psycopg.connect(url(), autocommit=True) as admin:
            for statement in statements():
                admin.execute(statement)
        assert traces(directory) == []
        await store.append_batch([stored(2_101)])
        await store.prune(keep=0)
        with psycopg.connect(url(), autocommit=True) as admin:
            for statement in statements():
                admin.execute(statement)


async def test_what_another_call_erases_meanwhile_stays_as_that_one_left_it(log):
    """Its commitment would be lost."""
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch([stored(seq) for seq in range(1, 12)])
        tombstone = b'{"@erased":{"reason":"other","at_ms":1,"commitment":"other"}}'

        def commit(event):
            # The events have been read by now.
            if event.seq == 11:
                with psycopg.connect(url(), autocommit=True) as other:
                    ((number,),) = other.execute(
                        "select log from trio_eventlog.logs where name = %s", (log.encode(),)
                    )
                    other.execute(
                        "update trio_eventlog.events set payload = %s where log = %s and seq = 3",
                        (tombstone, number),
                    )
                    other.execute("delete from trio_eventlog.events where log = %s and seq = 7", (number,))
            return "mine"

        assert await store.erase(EventQuery(), reason="why", commitment=commit) == 9

        left = [found.event.payload["@erased"]["commitment"] for found in await store.query(EventQuery())]
        assert left == ["mine", "mine", "other"] + ["mine"] * 7


async def test_an_event_without_a_payload_is_erased_once(log):
    bare = PersistedEvent("e-1", 1, 1, "w", AgentEvent("w", "t"))
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch([bare])
        assert await store.erase(EventQuery(), reason="why") == 1
        assert await store.erase(EventQuery(), reason="why") == 0


async def test_checkpoints_hold_over_an_erase(log, tmp_path):
    """Those from before it, and a recorder goes on beside it."""
    signer, path = Signer.generate(), tmp_path / "checkpoints"
    ann = EventQuery(identity=ANN)
    async with PostgresStore.open(url(), log=log) as store:
        commitment = commitment_with(signer.commitment_key, store.log_id)
        await store.append_batch([stored(seq) for seq in range(1, 101)])
        await seal(store, signer, path, every_events=30)
        async with (
            open_event_log(store) as writer,
            record_checkpoints(writer, signer, path, every_events=7) as recorder,
        ):
            for seq in range(101, 131):
                writer.ingest(stored(seq).event)
                if seq % 10 == 0:
                    await writer.flush()
                    assert await store.erase(ann, reason="why", commitment=commitment) > 2
        assert recorder.sealed_seq == 130
    async with PostgresStore.open(url(), log=log, read_only=True) as reader:
        assert await reader.query(ann) == []
        found = await verify_checkpoints(reader, path, signer.verifier, signer.commitment_key)
        assert (found.problems, found.sealed, found.unsealed, found.erased) == (0, 130, 0, 43)
        commitment = commitment_with(signer.commitment_key, reader.log_id)
        assert await reader.erase(EventQuery(after_seq=128), reason="why", commitment=commitment) == 1
        found = await verify_checkpoints(reader, path, signer.verifier, signer.commitment_key)
        assert (found.problems, found.erased) == (0, 44)
        proof = await prove_inclusion(reader, path, signer.verifier, signer.commitment_key, "id3")
        assert proof.check(signer.verifier).size == 130
    async with PostgresStore.open(url(), log=log) as store:
        await store.append_batch([stored(131)])
        assert (await seal(store, signer, path)).sealed_seq == 131
