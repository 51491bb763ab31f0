"""Compiles the optional core in C where that can be done; without it, the library is the same, and slower."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CORE = Path("trio_eventlog", "_speedups")


class CoreBuildHook(BuildHookInterface[Any]):
    """Adds the core to a wheel, or to the source tree of an editable installation."""

    _scratch: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the core. If that fails, the reason is shown, and the build goes on."""
        if self.target_name != "wheel" or not is_wanted():
            return
        if version == "editable":
            compile_core(Path(self.root), Path(self.root))
            return
        # hatchling reads what is named below after this has returned.
        self._scratch = Path(tempfile.mkdtemp(prefix="trio_eventlog_"))
        if (built := compile_core(Path(self.root), self._scratch)) is not None:
            build_data["force_include"][os.fspath(built)] = os.fspath(CORE / built.name)
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - prescribed
        """Remove what was compiled, which is in the wheel now."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def is_wanted() -> bool:
    """Whether this Python can have the core, and nobody said otherwise."""
    return (
        os.environ.get("TRIO_EVENTLOG_PURE", "0") in {"", "0"}
        and sys.implementation.name == "cpython"
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
    )


def compile_core(root: Path, directory: Path) -> Path | None:
    """Compile the core into a directory; None if that fails, which the compiler has then said."""
    from setuptools import Distribution, Extension  # noqa: PLC0415 - an sdist needs none
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415 - likewise

    name = ".".join((*CORE.parts, "_core"))
    sources = [os.fspath(root / CORE / file) for file in ("_core.c", "_rows.c")]
    headers = [os.fspath(path) for path in (root / CORE).rglob("*.h")]
    extension = Extension(name, sources, depends=headers, optional=True)
    command = build_ext(Distribution({"ext_modules": [extension]}))
    command.force = True  # what is in the source tree may have been compiled with other flags
    with tempfile.TemporaryDirectory() as scratch:
        command.build_lib, command.build_temp = os.fspath(directory), scratch
        command.ensure_finalized()
        command.run()
    built = Path(command.get_ext_fullpath(name))
    return built if built.exists() else None
