"""What ``trio-eventlog check`` writes, and what it does instead of checking the clauses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import attrs
from cyclopts import Parameter

from trio_eventlog.cli._options import Flag

_File: TypeAlias = Annotated[Path | None, Parameter(metavar="FILE")]
_Directory: TypeAlias = Annotated[Path | None, Parameter(metavar="DIR")]


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Outputs:
    """Files for other programs and other people."""

    junit: _File = None
    """Write the results to this file as JUnit XML."""

    json: _File = None
    """Write the results and the profile to this file as JSON."""

    profile: _File = None
    """Write a conformance profile to this file as Markdown."""


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Instead:
    """What is done instead of checking the clauses."""

    mutate: Flag = False
    """Break the store in some thirty ways, and see which of them the harness catches."""

    growth: Flag = False
    """Measure appends and filters at 1,000, 10,000 and 100,000 events."""

    fixtures: _Directory = None
    """Check that the files in this directory, which an earlier version wrote, read the same and go on."""

    write_fixtures: _Directory = None
    """Let the store write such files into this new directory."""
