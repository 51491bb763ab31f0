"""A log that was restored: its seqs go on far above, and what lies between is neither lost nor pruned."""

import pytest

from tests._helpers.console import PlainStore, ask, call
from tests._helpers.events import agent
from trio_eventlog.console import create_app
from trio_eventlog.stores import MemoryStore, SqliteStore, begin_epoch


@pytest.fixture(params=["memory", "plain", "sqlite"])
async def restored(request, tmp_path):
    """Seqs 1 to 10 without 4; then those of another epoch. The application, and the seq where it begins."""

    async def fill(store):
        await store.append_batch([agent(seq) for seq in range(1, 11) if seq != 4])
        first = (await begin_epoch(store, reason="restored")).seq
        await store.append_batch([agent(first + 1), agent(first + 2)])
        return first

    if request.param == "sqlite":
        async with SqliteStore.open(tmp_path / "events.db") as store:
            first = await fill(store)
            yield create_app(store), first
    else:
        memory = MemoryStore()
        first = await fill(memory)
        yield create_app(PlainStore(memory) if request.param == "plain" else memory), first


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_pages_lead_through_all_epochs_and_show_no_loss_between_them(restored, order):
    app, first = restored
    expected = [1, 2, 3, *range(5, 11), first, first + 1, first + 2]
    found, gaps, cursor = [], [], {}
    while True:
        page = (await ask(app, "/api/events", {"order": order, "limit": 5} | cursor)).json()
        found += [int(event["seq"]) for event in page["events"]]
        gaps += page["gaps"]
        if page["next"] is None or page["is_complete"]:
            break
        cursor = {"before_seq" if order == "newest" else "after_seq": page["next"]}
    assert found == (expected[::-1] if order == "newest" else expected)
    assert gaps == [{"first_seq": "4", "last_seq": "4", "reason": "missing"}]


async def test_numbers_of_a_log_that_was_restored(restored):
    app, _first = restored
    histogram = await ask(app, "/api/histogram", {"event_type": "trio_eventlog.epoch_began"})
    assert histogram.json()["total"] == 1
    facets = (await ask(app, "/api/facets", {"field": "event_type"})).json()["facets"]
    values = {item["value"]: item["count"] for item in facets[0]["values"]}
    assert values["trio_eventlog.epoch_began"] == 1


@pytest.mark.parametrize("method", ["mobkit/mob_events/query", "mobkit/mob_events/subscribe"])
async def test_a_cursor_from_before_the_restoration_is_stale(restored, method):
    app, first = restored
    error = (await call(app, method, {"after_seq": 50}))["error"]
    assert error["code"] == -32010
    assert error["data"] == {"error": "event_query_stale", "after_cursor": 50, "latest_cursor": 10}
    result = (await call(app, method, {"after_seq": 10}))["result"]
    assert [event["cursor"] for event in result["events"]] == [first, first + 1, first + 2]


@pytest.mark.parametrize("beyond", [3, 2**60])
async def test_a_query_beyond_the_end_is_empty_with_every_store(restored, beyond):
    app, first = restored
    assert (await call(app, "mobkit/query_events", {"after_seq": first + beyond}))["result"] == []
