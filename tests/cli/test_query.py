"""`query`: its filters, its pages, and its readers."""

# ruff: noqa: PLR0917 - there are many fixtures

from __future__ import annotations

import json
import select
import signal
import subprocess

import pytest
import trio

from tests._helpers.cli import (
    PROGRAM,
    SECONDS,
    Done,
    envelope,
    lines,
    stored,
)
from trio_eventlog import (
    AgentEvent,
    PersistedEvent,
    from_json,
)
from trio_eventlog.cli import (
    _query,
)
from trio_eventlog.stores import SqliteStore


def test_query_prints_json_lines(cli, filled, db, monkeypatch):
    # What goes into a pipe is for programs, whatever colours somebody likes.
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = cli("query", "--store", filled)
    assert (done.status, done.err) == (0, "")
    # More than two pages.
    assert [from_json(line, PersistedEvent) for line in done.out.splitlines()] == stored(db)
    assert cli("query", "--store", filled, "--json") == done


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--limit", "1500"], lambda n: n <= 1_500),
        (["--limit", "1000"], lambda n: n <= 1_000),
        (["--limit", "0"], lambda n: False),
        (["--after-seq", "2400"], lambda n: n > 2_400),
        (["--after-seq", str(2**64 - 1)], lambda n: False),
        (["--after-seq", "100", "--limit", "1001"], lambda n: 100 < n <= 1_101),
        (["--member-id", "agent-3"], lambda n: n % 7 == 3),
        (["--member-id="], lambda n: False),
        (["--run-id", "run-3", "--limit", "7"], lambda n: n % 10 == 3 and n <= 63),
        (["--event-type", "type-1"], lambda n: n % 3 == 1),
        (["--event-type", "type-1", "--event-type", "type-2"], lambda n: n % 3),
        (["--event-type=type-1", "--run-id=run-3", "--member-id=agent-3"], lambda n: n % 210 == 73),
        (["--identity", "x"], lambda n: False),
        (["--mob-id", "x"], lambda n: False),
        (["--step-id", "x"], lambda n: False),
        (["--module", "agent-3"], lambda n: False),
        (["--field", 'run_id="run-3"'], lambda n: n % 10 == 3),
        (["--field", 'run_id="run-3"', "--field", "x=null"], lambda n: False),
        (["--field", 'run_id=["run-3"]'], lambda n: False),
        (["--since", "1700000002400"], lambda n: n >= 2_400),
        (["--since-ms", "1700000002400"], lambda n: n >= 2_400),
        (["--until", "1700000000100"], lambda n: n < 100),
        (["--until-ms", "1700000000100"], lambda n: n < 100),
        (["--since", "2023-11-14T22:13:22.400Z"], lambda n: n >= 2_400),
        (["--since", "2023-11-14T22:13:22.399001"], lambda n: n >= 2_400),
        (["--since", "2023-11-15T00:13:22.400+02:00"], lambda n: n >= 2_400),
        (["--until", "2023-11-14 22:13:20.1"], lambda n: n < 100),
        (["--since", "2023-11-14", "--until", "2023-11-15"], lambda n: True),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_query_has_every_filter(cli, filled, options, wanted):
    done = cli("query", "--store", filled, *options)
    assert (done.status, done.err) == (0, "")
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [
        number for number in range(1, 2_501) if wanted(number)
    ]


@pytest.mark.parametrize("count", [0, 1, 5, 1_000, 1_001, 2_500, 9_999])
def test_query_prints_the_latest_first(cli, filled, count):
    done = cli("query", "--store", filled, "--latest", count)
    assert (done.status, done.err) == (0, "")
    found = [json.loads(line)["seq"] for line in done.out.splitlines()]
    assert found == list(range(2_500, max(2_500 - count, 0), -1))


def test_query_prints_the_latest_that_match(cli, filled):
    done = cli("query", "--store", filled, "--latest", 2, "--run-id", "run-3", "--after-seq", "2480")
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [2_493, 2_483]


def test_query_scopes(cli, db, url, tmp_path):
    source = tmp_path / "some.jsonl"
    source.write_bytes(
        lines(
            envelope(1, identity="-x", mob_id="m", step_id="s"),
            envelope(2, identity="[bold]", mob_id="m", step_id=1),
        )
    )
    cli("ingest", source, "--store", url)
    for options, expected in (
        (["--identity=-x"], [1]),
        (["--identity", "[bold]"], [2]),
        (["--mob-id", "m"], [1, 2]),
        (["--step-id", "s"], [1]),
        (["--step-id", "1"], []),
    ):
        done = cli("query", "--store", url, *options)
        assert [json.loads(line)["seq"] for line in done.out.splitlines()] == expected


def test_query_reads_in_pages(cli, filled, monkeypatch):
    limits = []
    plain = SqliteStore.query_page

    async def watched(self, query, *, max_bytes):
        limits.append(query.limit)
        return await plain(self, query, max_bytes=max_bytes)

    monkeypatch.setattr(SqliteStore, "query_page", watched)
    cli("query", "--store", filled, "--limit", "2100")
    assert limits == [1_000, 1_000, 100]


@pytest.mark.parametrize("options", [["--all-logs"], []])
def test_query_holds_few_large_events(cli, db, url, monkeypatch, options):
    """Whether of one log or of all."""
    held = []
    plain = _query.Printer.print

    async def watched(self, page):
        held.append(len(page))
        await plain(self, page)

    async def fill():
        async with SqliteStore.open(db) as store:
            for seq in range(1, 13):
                inner = AgentEvent("a", "t", {"text": "x" * 2**20})
                await store.append_batch([PersistedEvent(f"e{seq}", seq, seq, "a", inner)])

    trio.run(fill)
    monkeypatch.setattr(_query.Printer, "print", watched)
    done = cli("query", "--store", url, *options)

    assert len(done.out.splitlines()) == sum(held) == 12
    assert max(held) == 4


def test_query_does_not_create_what_is_missing(cli, tmp_path):
    for command in ("query", "stats"):
        done = cli(command, "--store", f"sqlite:{tmp_path}/missing.db")
        assert done == Done(1, "", f"trio-eventlog: {tmp_path}/missing.db: no such file or directory\n")
    assert not list(tmp_path.iterdir())


def test_query_ends_quietly_with_its_reader(filled):
    with subprocess.Popen(
        [*PROGRAM, "query", "--store", filled], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert json.loads(child.stdout.readline())["seq"] == 1
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(SECONDS) == 0


def test_query_ends_with_ctrl_c_when_nobody_reads(filled):
    with subprocess.Popen(
        [*PROGRAM, "query", "--store", filled], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        # It has begun, and then fills the pipe and waits.
        select.select([child.stdout], [], [], SECONDS)
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 130
        assert child.stderr.read() == b""


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_eight_digits_that_may_be_a_date_are_refused(cli, filled, option):
    done = cli("query", "--store", filled, option, "20260714")
    assert done.status == 2
    assert "write 2026-07-14 or 020260714" in done.err


@pytest.mark.parametrize("option", ["--since", "--until"])
@pytest.mark.parametrize(
    ("number", "unit", "milliseconds"),
    [
        ("1784019600", "seconds", "1784019600000"),
        ("500000000", "seconds", "500000000000"),
        ("1784019600123456", "microseconds", "1784019600123"),
        ("1784019600123456789", "nanoseconds", "1784019600123"),
    ],
)
def test_times_in_other_units_are_refused(cli, filled, option, number, unit, milliseconds):
    done = cli("query", "--store", filled, option, number)
    assert done.status == 2
    assert f"{number} looks like {unit}, not milliseconds since 1970" in done.err
    assert f"write {milliseconds}, or 0{number}" in done.err
    # Said twice, it is taken.
    assert cli("query", "--store", filled, option, f"0{number}").status == 0
    assert cli("query", "--store", filled, f"{option}-ms", number).status == 0


@pytest.mark.parametrize("number", ["0", "1", "1700000000001", str(2**63 - 1), str(2**64 - 1)])
def test_times_that_are_plausible_or_bounds_are_taken(cli, filled, number):
    assert cli("query", "--store", filled, "--since", number).status == 0
