"""The optional core in C: what costs most, done faster where it could be compiled.

Each part has a twin in Python, which is the definition; nothing depends on which of the two runs. The core is
not used if the environment variable ``TRIO_EVENTLOG_PURE`` is set to anything but ``0``.

Floor 0: knows nothing of this package.
"""

from __future__ import annotations

import os
from typing import Any, Final


def _load() -> Any:
    if os.environ.get("TRIO_EVENTLOG_PURE", "0") not in {"", "0"}:
        return None
    try:
        from trio_eventlog._speedups import _core  # type: ignore[attr-defined]  # noqa: PLC0415 - it need not be there

        _core.check_interpreter()
    except ImportError:
        return None
    return _core


core: Final = _load()
"""The core, or None. Its functions are those of ``_core.c`` and ``_rows.c``."""
