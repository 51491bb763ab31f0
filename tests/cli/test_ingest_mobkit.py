"""`ingest` of what MobKit writes: flat lines, and its stream of mob events, saved or live."""

import json
import signal
import time
from contextlib import suppress

import pytest

from tests._helpers.cli import SECONDS, start, stored
from trio_eventlog import AgentEvent, ModuleEvent, StoreError
from trio_eventlog.mobkit import MobEvent, sse_message

MODULE = {
    "event_id": "m-1",
    "source": "module",
    "timestamp_ms": 5,
    "module": "delivery",
    "event_type": "sent",
    "payload": {"run_id": "r-1", "n": 2**64 - 1},
}
AGENT = {"event_id": "a-1", "source": "agent", "timestamp_ms": 6, "agent_id": "w", "event_type": "ready"}


def test_flat_lines(cli, db, url):
    text = f"{json.dumps(MODULE)}\n{json.dumps(AGENT)}\n".encode()
    result = cli("ingest", "--store", url, data=text)
    assert result.status == 0, result.err
    one, two = stored(db)
    assert (one.id, one.timestamp_ms, one.event) == (
        "m-1",
        5,
        ModuleEvent("delivery", "sent", MODULE["payload"]),
    )
    assert (two.id, two.timestamp_ms, two.event) == ("a-1", 6, AgentEvent("w", "ready"))
    assert cli("ingest", "--store", url, data=text).status == 0
    assert len(stored(db)) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": "agent"}, "source"),
        ({"source": None}, "source"),
        ({"payload": ...}, "event.payload"),
        ({"event_type": 5}, "event.event_type"),
        ({"module": None}, "event.module"),
        ({"timestamp_ms": ...}, "timestamp_ms"),
    ],
)
def test_flat_lines_that_are_malformed(cli, url, change, reason):
    fields = {name: value for name, value in (MODULE | change).items() if value is not ...}
    result = cli("ingest", "--store", url, data=json.dumps(fields).encode())
    assert result.status == 1
    assert f"standard input:1: {reason}" in result.err


def test_a_stream_that_was_saved(cli, db, url):
    events = [
        MobEvent(cursor=3, mob_id="home", timestamp_ms=5, kind="flow_started", run_id="r-1", data={"x": 1}),
        MobEvent(cursor=4, mob_id="home", timestamp_ms=6, kind="step_done", agent_identity="w"),
    ]
    text = b"retry: 2000\n\n: keep-alive\n\n" + b"".join(
        sse_message(event.to_json(), event=event.kind, event_id=event.event_id) for event in events
    )
    result = cli("ingest", "--store", url, data=text)
    assert result.status == 0, result.err
    assert [event.id for event in stored(db)] == ["mob-evt-3", "mob-evt-4"]
    assert [MobEvent.of(event).data for event in stored(db)] == [{"x": 1}, None]
    assert cli("ingest", "--store", url, data=text.replace(b"\n", b"\r\n")).status == 0
    assert len(stored(db)) == 2
    result = cli("ingest", "--store", url, data=b"data: {}\n")
    assert result.status == 1
    assert "standard input:1: cursor: required field is missing" in result.err


def test_a_live_stream_twice(db, tmp_path, cli):
    source = f"sqlite:{tmp_path / 'source.db'}"

    def add(*numbers):
        lines = (json.dumps(MODULE | {"event_id": f"e-{number}"}).encode() + b"\n" for number in numbers)
        assert cli("ingest", "--store", source, data=b"".join(lines)).status == 0

    add(*range(1, 31))
    with start("serve", "--store", source, "--port", 0) as server:
        stream = server.stdout.readline().decode().strip() + "mobkit/mob_events/stream"
        for count in (30, 31):
            if count == 31:
                add(31)
            with start("ingest", stream, "--store", f"sqlite:{db}") as child:
                wait_for(db, count)
                child.send_signal(signal.SIGINT)
                _, err = child.communicate(timeout=SECONDS)
                assert child.returncode == 130, err
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=SECONDS)
    found = stored(db)
    assert [event.id for event in found] == [f"mob-evt-{n}" for n in range(1, 32)]
    # Not even a seq was spent on the second time.
    assert [event.seq for event in found] == [*range(1, 32)]


def wait_for(db, count):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        # At first there is no log.
        with suppress(StoreError):
            if len(stored(db)) >= count:
                return
        time.sleep(0.05)
    raise AssertionError("the events did not come")


def test_a_url_that_is_none(cli, url):
    result = cli("ingest", "http://", "--store", url)
    assert result.status == 1
    assert "url: expected http://HOST/PATH" in result.err
