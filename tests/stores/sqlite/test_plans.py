"""Which index finds the rows."""

import pytest

from tests._helpers.events import agent
from trio_eventlog import (
    EventQuery,
)
from trio_eventlog.stores import SqliteStore
from trio_eventlog.stores.sqlite import _select as queries

pytestmark = pytest.mark.usefixtures("no_threads_left")


SCOPED = {"identity": "i", "mob_id": "m", "run_id": "r", "step_id": "s"}

PLANS = [
    ({}, "SCAN events_1"),
    ({"limit": 5}, "SCAN events_1"),
    ({"after_seq": 5}, "INTEGER PRIMARY KEY (rowid>?)"),
    ({"after_seq": 5, "since_ms": 5, "until_ms": 9}, "INTEGER PRIMARY KEY (rowid>?)"),
    ({"member_id": "a"}, "events_1_member_id (member_id=?)"),
    ({"member_id": "a", "after_seq": 5}, "events_1_member_id (member_id=? AND rowid>?)"),
    ({"mob_id": "a", "since_ms": 5}, "events_1_mob_id (mob_id=?)"),
    ({"mob_id": "a", "event_types": ("t",)}, "events_1_event_type (event_type=?)"),
    ({"identity": "a", "member_id": "b", "limit": 5}, "events_1_identity (identity=?)"),
    ({"run_id": "a", "identity": "b"}, "events_1_run_id (run_id=?)"),
    ({**SCOPED, "after_seq": 7, "since_ms": 1}, "events_1_step_id (step_id=? AND rowid>?)"),
    ({"event_types": ("t",), "since_ms": 5}, "events_1_event_type (event_type=?)"),
    ({"event_types": tuple("abc"), "after_seq": 5}, "events_1_event_type (event_type=? AND rowid>?)"),
    ({"event_types": tuple(map(str, range(32)))}, "events_1_event_type (event_type=?)"),
    ({"event_types": tuple(map(str, range(33)))}, "SCAN events_1"),
    ({"event_types": tuple(map(str, range(33))), "mob_id": "m"}, "events_1_mob_id (mob_id=?)"),
    ({"event_types": tuple(map(str, range(33))), "since_ms": 7}, "SCAN events_1"),
    ({"event_types": tuple(map(str, range(10_001)))}, "SCAN events_1"),
]


async def explain(store, query):
    plan = queries.select(query, 1)
    rows = await store._reader.run(
        lambda db: db.execute(f"EXPLAIN QUERY PLAN {plan.sql}", plan.bindings).fetchall()
    )
    return [row[3] for row in rows]


@pytest.mark.parametrize(
    ("fields", "expected"), PLANS, ids=[f"{n}-{','.join(fields)}" for n, (fields, _) in enumerate(PLANS)]
)
async def test_plans(path, fields, expected):
    """Each filter has its index, of several the first in rank is used, and nothing is sorted."""
    async with SqliteStore.open(path) as store:
        plan = await explain(store, EventQuery(**fields))

    touched = [step for step in plan if "events_1" in step]
    assert touched
    assert all(expected in step for step in touched)
    assert not any("TEMP B-TREE" in step for step in plan)
    if len(touched) > 1:
        assert "MERGE (UNION ALL)" in plan


@pytest.mark.parametrize(
    "fields", [{"since_ms": 5}, {"until_ms": 5}, {"since_ms": 5, "until_ms": 9, "limit": 1}]
)
async def test_the_plan_of_a_window(path, fields):
    """Only seqs are sorted, from the index alone; the events then come in order."""
    async with SqliteStore.open(path) as store:
        plan = await explain(store, EventQuery(**fields))

    assert plan[0].startswith("CO-ROUTINE")
    assert "USING COVERING INDEX events_1_timestamp_ms" in plan[1]
    assert plan[2] == "USE TEMP B-TREE FOR ORDER BY"
    assert plan[3].startswith("SCAN (subquery")
    assert plan[4:] == ["SEARCH events_1 USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN"]


async def test_no_statement_carries_a_value(path):
    """Values are parameters, whatever they look like."""
    evil = "'; DROP TABLE events_1; --"
    query = EventQuery(
        member_id=evil, identity=evil, mob_id=evil, run_id=evil, step_id=evil, event_types=(evil, evil + "2")
    )
    assert "DROP" not in queries.select(query, 1).sql
    async with SqliteStore.open(path, log=evil) as store:
        payload = {"identity": evil, "mob_id": evil, "run_id": evil, "step_id": evil}
        await store.append_batch([agent(1, event_id=evil, agent_id=evil, event_type=evil, payload=payload)])
        assert len(await store.query(query)) == 1
    assert await SqliteStore.logs(path) == [evil]
