"""What a report looks like to programs: JSON, JUnit XML and the profile to be published."""

import json
import platform
from functools import partial
from xml.etree import ElementTree as ET

import attrs
import pytest

from tests._helpers.broken_stores import BROKEN
from tests._helpers.correct_stores import CorrectMemoryStore, opened_memory
from trio_eventlog.testing import (
    CLAUSES,
    CONTRACT_VERSION,
    CheckSettings,
    ClauseFailure,
    ClausePassed,
    ClauseSkipped,
    ClauseUnfinished,
    ConformanceProfile,
    check_store,
    report_json,
    report_junit,
)
from trio_eventlog.testing._report import report_of

SETTINGS = CheckSettings(durable=False, budget=45.0, op_timeout=5.0, max_examples=100)
HOSTILE = 'a\x00b \x1b[31m \ud800 <&>" ]]> | `x` *y*\nz'


def failure(clause, **fields):
    about = {
        "sentence": CLAUSES[clause],
        "check": "a check",
        "message": HOSTILE,
        "example": "# program\nassert 1 < 2\n",
        "seed": 7,
        "intermittent": False,
        "examples": 3,
        "seconds": 0.25,
    }
    return ClauseFailure(clause=clause, **{**about, **fields})


RESULTS = [
    ClausePassed(
        clause="S1",
        sentence=CLAUSES["S1"],
        examples=104,
        seconds=1.5,
        left_out=("readers: none",),
        cut_short=("repeats: 3 of 9 examples",),
    ),
    failure("S5"),
    failure("S6", deviation=HOSTILE),
    ClauseUnfinished(
        clause="S7", sentence=CLAUSES["S7"], examples=1, unfinished=("payloads: tried 1 of 20",), seconds=0.0
    ),
    ClauseSkipped(clause="S13", sentence=CLAUSES["S13"], reason=HOSTILE),
]
REPORT = report_of(RESULTS, seed=7, seconds=12.5, settings=SETTINGS)

# What the schema of Jenkins (junit-10.xsd) allows where: attributes and elements.
ALLOWED = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped"},
        {"properties", "testcase"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "time", "classname"}, {"skipped", "error", "failure", "system-out"}),
    "failure": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}


def test_junit_is_what_jenkins_and_gitlab_read():
    root = ET.fromstring(report_junit(REPORT, store=HOSTILE))  # noqa: S314 - our own

    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.attrib) <= attributes, element.tag
        assert {child.tag for child in element} <= children, element.tag
    suite = root[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "2",
        "time": "12.500",
    }
    verdicts = [[child.tag for child in case] for case in suite.iter("testcase")]
    assert verdicts == [["system-out"], ["failure"], ["skipped"], ["error"], ["skipped"]]
    shown = suite.find("testcase/failure")
    assert "assert 1 < 2" in shown.text
    assert shown.get("message").startswith("a\\x00b \\x1b[31m \\ud800 <&>")


def test_json_has_every_field_of_every_result():
    value = json.loads(report_json(REPORT, store="mine"))

    assert (value["format"], value["seed"], value["seconds"], value["interrupted"]) == (1, 7, 12.5, False)
    verdicts = [(result["clause"], result["verdict"]) for result in value["results"]]
    assert verdicts == [
        ("S1", "passed"),
        ("S5", "failed"),
        ("S6", "deviates"),
        ("S7", "not finished"),
        ("S13", "skipped"),
    ]
    for result, expected in zip(value["results"], RESULTS, strict=True):
        assert set(result) == {"verdict", *attrs.fields_dict(type(expected))}
    assert value["results"][1]["message"] == HOSTILE


def test_a_profile_says_what_was_tried_on_what():
    profile = ConformanceProfile.of(REPORT, store="mine")

    assert profile.contract == CONTRACT_VERSION
    assert profile.verdict == "breaks the contract"
    assert profile.clauses == {
        "S1": "passed",
        "S5": "failed",
        "S6": "deviates",
        "S7": "not finished",
        "S13": "skipped",
    }
    assert profile.deviations == {"S6": HOSTILE}
    assert profile.left_out == {"S1": ("readers: none",), "S13": (HOSTILE,)}
    assert profile.seeds == (7,)
    assert profile.versions["Python"].startswith(platform.python_version())
    assert {"trio-eventlog", "trio", "hypothesis", "platform"} <= set(profile.versions)
    assert json.loads(report_json(REPORT, store="mine"))["profile"] == profile.as_dict()


def test_a_profile_as_markdown_keeps_its_table():
    """Whatever a reason has in it."""
    page = ConformanceProfile.of(REPORT, store="my_stores:open|store").to_markdown()
    rows = [line for line in page.splitlines() if line.startswith("| S")]

    assert page.startswith("# Conformance of my\\_stores:open\\|store\n")
    assert f"Store contract {CONTRACT_VERSION} of trio-eventlog: **breaks the contract**." in page
    assert len(rows) == 5
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        (RESULTS[:1], "conforms"),
        ([RESULTS[0], RESULTS[2], RESULTS[4]], "conforms"),
        ([RESULTS[0], RESULTS[3]], "not finished"),
        ([RESULTS[1], RESULTS[3]], "breaks the contract"),
    ],
)
def test_the_verdict(results, verdict):
    """Declared deviations do not change it; what is not finished has not passed."""
    report = report_of(results, seed=1, seconds=1.0, settings=SETTINGS)

    assert ConformanceProfile.of(report, store="mine").verdict == verdict
    assert report.is_conformant is (verdict == "conforms")


@pytest.mark.parametrize("function", [ConformanceProfile.of, report_json, report_junit])
def test_arguments(function):
    report = report_of([], seed=1, seconds=1.0, settings=SETTINGS)
    with pytest.raises(TypeError, match="report: expected a ConformanceReport, got str"):
        function("report.json", store="mine")
    with pytest.raises(TypeError, match="store: expected a str, got int"):
        function(report, store=5)


def test_a_real_report():
    broken = next(broken for broken in BROKEN if broken.name == "inclusive cursor")
    for open_store in (broken.open_store, partial(opened_memory, CorrectMemoryStore)):
        report = check_store(open_store, durable=False, clauses=["S5", "S13"], max_examples=5, seed=1)
        root = ET.fromstring(report_junit(report, store="mine"))  # noqa: S314 - our own

        assert [case.get("name").split()[0] for case in root.iter("testcase")] == ["S5", "S13"]
        assert len(json.loads(report_json(report, store="mine"))["results"]) == 2
