"""Pages of the documentation: their fenced blocks, and running the programs in them."""

import contextlib
import io
import re
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Fence:
    """A fenced block and what the comment before it says."""

    language: str
    text: str
    line: int
    """Of its first line of content, counted from 1."""

    notes: dict[str, str]


_FENCE = re.compile(
    r"(?P<notes>(?:^<!--[^\n]*-->\n+)*)^(?P<mark>```+)(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=mark)$",
    flags=re.MULTILINE | re.DOTALL,
)


def fences(page: Path) -> list[Fence]:
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        notes = dict(re.findall(r"<!-- (\w+)(?:: (.*?))? -->", match["notes"]))
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Fence(match["language"].strip(), match["text"], line, notes))
    return found


def run_program(source: str, page: Path, line: int) -> str:
    """Run a complete program. Its tracebacks show the line in the page."""
    code = compile("\n" * (line - 1) + source, page, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {"__name__": "__main__"})  # noqa: S102 - that is what this is for
    return output.getvalue()


def normal(output: str) -> str:
    """``output`` without what differs from run to run."""
    for pattern, replacement in _VARIES:
        output = re.sub(pattern, replacement, output, flags=re.MULTILINE)
    return output.strip()


_VARIES = (
    (r"\x1b\[[0-9;]*m", ""),
    (r"[ \t]+$", ""),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<time>"),
    # Tasks that share a log take turns as Trio likes.
    (r"^ +\d+  (?=<time>)", "<seq>  "),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
    (r"\b\d{16}\b", "<epoch>"),
    (r'"timestamp_ms":\d+', '"timestamp_ms":<ms>'),
    (r"\(\d+\.\d s, [\d,]+ a second\)", "(<rate>)"),
    (r"[\d.]+ [KM]iB \([\d,]+ bytes\)", "<size>"),
    (r"[\d,.]+ (?:ms|s)\b", "<duration>"),
    (r'"size_bytes": \d+', '"size_bytes": <size>'),
)
