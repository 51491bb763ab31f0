"""Files of earlier versions: those of the stores here, and the harness that compares them."""

import json
import re
import shutil
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests._helpers.correct_stores import CorrectFileStore, open_file, opened_file
from tests._helpers.golden import SPILL, SQLITE, open_sqlite
from trio_eventlog import EventEnvelope, EventQuery, from_json, open_event_log
from trio_eventlog.stores import MemoryStore
from trio_eventlog.testing import check_fixtures, measure_growth, write_fixtures
from trio_eventlog.testing._fixtures import fixture_events

# --- golden files ---------------------------------------------------------------------------------


def test_a_database_of_the_first_layout_reads_the_same_and_goes_on():
    report = check_fixtures(open_sqlite, SQLITE)

    assert report.problems == ()
    assert report.events == len((SQLITE / "events.jsonl").read_bytes().splitlines()) > 300
    assert set(report.versions) == {"trio-eventlog"}


def test_the_golden_files_stay_as_they_are():
    """They are copied before they are opened."""
    before = {path: path.read_bytes() for path in SQLITE.rglob("*") if path.is_file()}
    check_fixtures(open_sqlite, SQLITE)

    assert {path: path.read_bytes() for path in SQLITE.rglob("*") if path.is_file()} == before


async def test_a_spill_file_of_the_first_layout_is_delivered(tmp_path):
    path = tmp_path / "events.spill"
    shutil.copy(SPILL / "events.spill", path)
    expected = [from_json(line, EventEnvelope) for line in (SPILL / "events.jsonl").read_bytes().splitlines()]
    store = MemoryStore()
    async with open_event_log(store, spill=path, on_failure=lambda report: None) as log:
        await log.flush()
        lost = log.statistics().lost_total
    stored = await store.query(EventQuery())

    assert lost == 0
    assert [(event.id, event.timestamp_ms, event.event) for event in stored] == [
        (envelope.event_id, envelope.timestamp_ms, envelope.event) for envelope in expected
    ]
    assert [repr(event.event.payload) for event in stored] == [
        repr(envelope.event.payload) for envelope in expected
    ]


# --- the comparison -------------------------------------------------------------------------------


@pytest.fixture
def fixtures(tmp_path):
    directory = tmp_path / "fixtures"
    write_fixtures(open_file, directory)
    return directory


def test_what_a_store_writes_it_reads(fixtures):
    report = check_fixtures(open_file, fixtures)

    assert report.problems == ()
    assert str(report).startswith(f"{len(fixture_events())} events, written by Python 3")
    with pytest.raises(FileExistsError, match="is not empty"):
        write_fixtures(open_file, fixtures)


class RoundsOnReading(CorrectFileStore):
    def _hold_text(self, text):
        return super()._hold_text(text.replace(b"9007199254740993", b"9007199254740992"))


class ForgetsFirstLine(CorrectFileStore):
    def _new_lines(self):
        return super()._new_lines()[1:]

    def _write(self, line):
        pass


class KnowsNoIds(CorrectFileStore):
    """The index of ids was built otherwise in the version before."""

    def _known(self, event):
        return None

    def _refuse_taken(self, new):
        pass


class CannotAppend(CorrectFileStore):
    async def _commit(self, new):
        raise OSError("the format of the version before is read-only")


class CannotOpen(CorrectFileStore):
    async def _open(self):
        await trio.lowlevel.checkpoint()
        raise OSError("not our file")


class LosesWhatItAdds(CorrectFileStore):
    """Writes the new layout into a file of the old one."""

    def _write(self, line):
        super()._write(b"{}")


@pytest.mark.parametrize(
    ("cls", "problem"),
    [
        (RoundsOnReading, "as it was written: EventQuery() found PersistedEvent("),
        (ForgetsFirstLine, "as it was written: EventQuery() found seqs ["),
        (CannotAppend, "the format of the version before is read-only"),
        (CannotOpen, "as it was written: OSError('not our file')"),
        (LosesWhatItAdds, "opened again: "),
        (KnowsNoIds, "after an append: "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_does_not_read_the_same_is_told(fixtures, cls, problem):
    report = check_fixtures(partial(opened_file, cls), fixtures)

    assert any(problem in found for found in report.problems), report.problems
    assert "FAILED" in str(report)


def test_what_is_no_fixture_is_refused(tmp_path, fixtures):
    with pytest.raises(FileNotFoundError):
        check_fixtures(open_file, tmp_path)
    (fixtures / "fixture.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(ValueError, match="expected format 1"):
        check_fixtures(open_file, fixtures)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fixture.json", b"[]", "fixture.json: Expected `object`, got `array`"),
        ("fixture.json", b"\xff", "fixture.json: "),
        ("fixture.json", b'{"format":1}', "fixture.json: expected the name of a location, got ''"),
        ("fixture.json", b'{"format":1,"location":"../.."}', "expected the name of a location, got '../..'"),
        ("fixture.json", b'{"format":1,"location":".."}', "expected the name of a location, got '..'"),
        ("events.jsonl", b"", "events.jsonl: expected events, got none"),
        ("events.jsonl", b"{}\n", "events.jsonl, line 1: "),
    ],
)
def test_fixtures_that_were_spoiled_are_refused(fixtures, name, content, message):
    (fixtures / name).write_bytes(content)

    with pytest.raises(ValueError, match=re.escape(message)):
        check_fixtures(open_file, str(fixtures))


def test_few_events_are_compared_as_well(fixtures):
    """What is missing in the list is told, and not how many were looked for."""
    lines = (fixtures / "events.jsonl").read_bytes().splitlines(keepends=True)
    (fixtures / "events.jsonl").write_bytes(lines[0])

    report = check_fixtures(open_file, fixtures)

    assert report.problems[0].startswith("as it was written: EventQuery() found seqs")


def test_what_could_not_be_written_can_be_tried_again(tmp_path):
    @asynccontextmanager
    async def open_failing(location):
        (location / "some").touch()
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        write_fixtures(open_failing, tmp_path / "new")
    assert write_fixtures(open_file, tmp_path / "new") == len(fixture_events())


@pytest.mark.parametrize("function", [write_fixtures, check_fixtures])
def test_arguments(function, tmp_path):
    with pytest.raises(TypeError, match="directory: expected a path, got int"):
        function(open_file, 5)
    with pytest.raises(TypeError, match="open_store: expected a function of a location, got int"):
        function(5, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- growth ---------------------------------------------------------------------------------------


class Scans(MemoryStore):
    """Looks at every event for a run, and at the last alone for the end of the log."""

    async def query(self, query):
        if query.run_id is not None:
            await trio.sleep(await self.last_seq() / 100_000)
        return await super().query(query)


@asynccontextmanager
async def open_scanning(location):
    yield Scans()


def test_what_grows_with_the_log_is_told_from_what_does_not():
    report = measure_growth(open_scanning, sizes=(1_000, 8_000))
    rows = {row.operation: row for row in report.rows}

    assert report.sizes == (1_000, 8_000)
    assert not rows["run_id"].is_flat
    assert rows["run_id"].ratio > 3
    assert rows["last_seq"].is_flat
    assert rows["append of 1"].is_flat
    assert all(len(row.seconds) == 2 for row in report.rows)
    assert "run_id" in str(report)
    assert "GROWS" in str(report)


@pytest.mark.parametrize("sizes", [(), (10,), (2_000, 1_000), (1_000, 1_000)])
def test_sizes_that_make_no_sense(sizes):
    with pytest.raises(ValueError, match="sizes: expected ascending numbers of 1000 or more"):
        measure_growth(open_scanning, sizes=sizes)


@pytest.mark.parametrize("sizes", [5, "1000", [1_000.0], [True]])
def test_sizes_that_are_no_integers(sizes):
    with pytest.raises(TypeError, match=r"sizes: expected (a collection of integers|an int), got"):
        measure_growth(open_scanning, sizes=sizes)
