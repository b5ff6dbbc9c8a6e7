"""Builds `farspan._fast` from C where that can be done; elsewhere farspan is installed without it.

Hatchling runs this for wheels and for `pip install -e`, which builds it in place. No compiler, or
one that fails, is no error: `_native.py` then has Python do the same. `python hatch_build.py`
builds it in place by itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # this is run by hand, or by a test
    BuildHookInterface = object

FOLDER = "client/farspan"
SOURCES = ("_fast.c", "_fast_frames.c", "_fast_views.c")  # and _fast.h


class CustomBuildHook(BuildHookInterface):
    """Adds the built module to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the module; a wheel that has it is for this Python and this platform only."""
        if self.target_name != "wheel" or os.environ.get("FARSPAN_PURE", "0") not in ("", "0"):
            return
        built = build(Path(self.root, FOLDER))
        if built is None:
            self.app.display_info("farspan: no C module was built; Python does the same")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append(f"/{FOLDER}/{built.name}")


def build(folder: Path) -> Path | None:
    """Return the module that was built beside its sources, or None if that failed.

    What was there before is replaced in one step: a process that has loaded it goes on with it.
    """
    try:
        from setuptools import Distribution, Extension
        from setuptools.command.build_ext import build_ext

        with tempfile.TemporaryDirectory() as scratch:
            extension = Extension(
                "farspan._fast",
                [str(folder / name) for name in SOURCES],
                depends=[str(folder / "_fast.h")],
            )
            command = build_ext(Distribution({"ext_modules": [extension]}))
            command.build_lib, command.build_temp = scratch, str(Path(scratch, "objects"))
            command.ensure_finalized()
            command.run()
            made = Path(command.get_ext_fullpath("farspan._fast"))
            beside = folder / f".{made.name}.{os.getpid()}"
            shutil.copy(made, beside)
            return beside.replace(folder / made.name)
    except (Exception, SystemExit):  # setuptools' errors are many; all say that it was not built
        return None


if __name__ == "__main__":
    print(build(Path(__file__).resolve().parent / FOLDER) or "not built")
