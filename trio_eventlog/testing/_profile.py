"""What a run of the harness says about a store, in forms that programs and other people read."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from xml.etree import ElementTree as ET

import attrs

from trio_eventlog.testing._arguments import check_instance
from trio_eventlog.testing._report import (
    CLAUSES,
    CONTRACT_VERSION,
    CheckSettings,
    ClauseFailure,
    ClausePassed,
    ClauseResult,
    ClauseSkipped,
    ClauseUnfinished,
    ConformanceReport,
)

REPORT_FORMAT: Final = 1
"""Of the JSON. It grows when a field changes its meaning or goes; a new field is no change."""

_PACKAGES: Final = ("trio-eventlog", "trio", "hypothesis")


@attrs.frozen(kw_only=True)
class ConformanceProfile:
    """Which clauses a store keeps, and how that was found out: to be published with the store.

    Attributes:
      store: what the store is called.
      contract: the version of the contract (:data:`CONTRACT_VERSION`).
      verdict: ``"conforms"``, ``"breaks the contract"`` or ``"not finished"``.
      clauses: each clause that was asked for with ``"passed"``, ``"failed"``, ``"deviates"``,
        ``"not finished"`` or ``"skipped"``, in order.
      deviations: the clauses that were declared as deviations, each with its reason.
      left_out: what of a clause was not checked, and why; a skipped clause has its reason here.
      settings: how long and how much was tried.
      seeds: of the runs.
      versions: of Python, of packages and of the platform, by name.
    """

    store: str
    contract: str
    verdict: str
    clauses: Mapping[str, str]
    deviations: Mapping[str, str]
    left_out: Mapping[str, tuple[str, ...]]
    settings: CheckSettings
    seeds: tuple[int, ...]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, report: ConformanceReport, *, store: str) -> ConformanceProfile:
        """The profile of a store called ``store`` that this report is about.

        Raises:
          TypeError: an argument has the wrong type.
        """
        check_instance("report", report, ConformanceReport)
        check_instance("store", store, str)
        results = report.results()
        deviations = {
            result.clause: result.deviation
            for result in results
            if isinstance(result, ClausePassed | ClauseFailure) and result.deviation is not None
        }
        return cls(
            store=store,
            contract=CONTRACT_VERSION,
            verdict=_verdict(report),
            clauses={result.clause: verdict_of(result) for result in results},
            deviations=deviations,
            left_out={result.clause: left for result in results if (left := _left_out(result))},
            settings=report.settings,
            seeds=(report.seed,),
            versions=versions(),
        )

    def as_dict(self) -> dict[str, Any]:
        """The profile as what JSON can carry."""
        return {
            "store": self.store,
            "contract": self.contract,
            "verdict": self.verdict,
            "clauses": dict(self.clauses),
            "deviations": dict(self.deviations),
            "left_out": {clause: list(left) for clause, left in self.left_out.items()},
            "settings": attrs.asdict(self.settings),
            "seeds": list(self.seeds),
            "versions": dict(self.versions),
        }

    def to_markdown(self) -> str:
        """The profile as a page of Markdown."""
        rows = [
            f"| {clause} | {CLAUSES[clause]} | {verdict} | {_cell(self._notes(clause))} |"
            for clause, verdict in self.clauses.items()
        ]
        settings = self.settings
        how = (
            f"At most {settings.max_examples} examples of a check, {settings.budget:g} s in all,"
            f" {settings.op_timeout:g} s an operation;"
            f" {'durable' if settings.durable else 'in memory'};"
            f" seed {', '.join(map(str, self.seeds))}."
        )
        return "\n".join(
            [
                f"# Conformance of {_cell([self.store])}",
                "",
                f"Store contract {self.contract} of trio-eventlog: **{self.verdict}**.",
                "",
                "| clause | | | notes |",
                "| --- | --- | --- | --- |",
                *rows,
                "",
                how,
                "",
                ", ".join(f"{name} {version}" for name, version in self.versions.items()) + ".",
                "",
            ]
        )

    def _notes(self, clause: str) -> list[str]:
        declared = [f"declared: {self.deviations[clause]}"] if clause in self.deviations else []
        return [*declared, *self.left_out.get(clause, ())]


def _cell(notes: Sequence[str]) -> str:
    """Text for a cell of a table: in one line, and without what Markdown takes for its own."""
    text = "; ".join(notes).replace("\n", " ")
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


def versions() -> dict[str, str]:
    """The versions of what a run depends on."""
    found = {"Python": f"{platform.python_version()} ({platform.python_implementation()})"}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed, running from source"
    found["platform"] = platform.platform()
    return found


def _verdict(report: ConformanceReport) -> str:
    if report.failures:
        return "breaks the contract"
    return "not finished" if report.unfinished else "conforms"


def verdict_of(result: ClauseResult) -> str:
    """The verdict in one word or two."""
    match result:
        case ClausePassed():
            return "passed"
        case ClauseUnfinished():
            return "not finished"
        case ClauseSkipped():
            return "skipped"
        case ClauseFailure():
            return "failed" if result.deviation is None else "deviates"


def _left_out(result: ClauseResult) -> tuple[str, ...]:
    match result:
        case ClausePassed() | ClauseUnfinished():
            return result.left_out
        case ClauseSkipped():
            return (result.reason,)
        case ClauseFailure():
            return ()


# --- JSON -----------------------------------------------------------------------------------------


def report_json(report: ConformanceReport, *, store: str) -> str:
    """A report as JSON, with its profile: one object, documented with the command line.

    Args:
      report: what :func:`check_store` returned.
      store: what the store is called.

    Raises:
      TypeError: an argument has the wrong type.
    """
    profile = ConformanceProfile.of(report, store=store)
    results = [{"verdict": verdict_of(result), **attrs.asdict(result)} for result in report.results()]
    value = {
        "format": REPORT_FORMAT,
        "profile": profile.as_dict(),
        "results": results,
        "seed": report.seed,
        "seconds": report.seconds,
        "interrupted": report.interrupted,
    }
    # ASCII: a message may have any characters, lone surrogates included.
    return json.dumps(value, indent=2) + "\n"


# --- JUnit ----------------------------------------------------------------------------------------


def report_junit(report: ConformanceReport, *, store: str) -> str:
    """A report as JUnit XML, as Jenkins and GitLab read it: a test case for each clause.

    A clause that is broken is a failure, one that is not finished an error. One that deviates as declared is
    skipped, with the reason.

    Args:
      report: what :func:`check_store` returned.
      store: what the store is called.

    Raises:
      TypeError: an argument has the wrong type.
    """
    check_instance("report", report, ConformanceReport)
    check_instance("store", store, str)
    results = report.results()
    counts = {
        "tests": len(results),
        "failures": len(report.failures),
        "errors": len(report.unfinished),
        "skipped": len(report.skipped) + len(report.deviations),
    }
    totals = {name: str(count) for name, count in counts.items()} | {"time": f"{report.seconds:.3f}"}
    root = ET.Element("testsuites", {"name": "trio-eventlog check", **totals})
    del root.attrib["skipped"]
    suite = ET.SubElement(root, "testsuite", {"name": xml_text(store), **totals})
    properties = ET.SubElement(suite, "properties")
    about = {"contract": CONTRACT_VERSION, "seed": str(report.seed), **versions()}
    for name, value in about.items():
        ET.SubElement(properties, "property", {"name": name, "value": xml_text(value)})
    for result in results:
        _add_case(suite, result, store)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ET.Element, result: ClauseResult, store: str) -> None:
    seconds = 0.0 if isinstance(result, ClauseSkipped) else result.seconds
    case = ET.SubElement(
        suite,
        "testcase",
        {
            "classname": xml_text(store),
            "name": f"{result.clause} {result.sentence}",
            "time": f"{seconds:.3f}",
        },
    )
    match result:
        case ClauseFailure() if result.deviation is not None:
            message = f"deviates as declared: {result.deviation}"
            ET.SubElement(case, "skipped", {"message": xml_text(message)})
        case ClauseFailure():
            about = {"type": result.check, "message": xml_text(result.message)}
            ET.SubElement(case, "failure", about).text = xml_text(str(result))
        case ClauseUnfinished():
            message = "; ".join(result.unfinished)
            ET.SubElement(case, "error", {"type": "not finished", "message": xml_text(message)})
        case ClauseSkipped():
            ET.SubElement(case, "skipped", {"message": xml_text(result.reason)})
        case ClausePassed():
            notes = [*(f"left out: {left}" for left in result.left_out), *result.cut_short]
            if notes:
                ET.SubElement(case, "system-out").text = xml_text("\n".join(notes))


_NOT_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """``text`` with what XML cannot carry, control characters and lone surrogates, written as escapes."""
    return _NOT_XML.sub(lambda match: ascii(match[0])[1:-1], text)
