"""NVRTC without a GPU: it compiles a text to PTX or to a device's code, and says what is wrong.

Found in the package nvidia-cuda-nvrtc-cu12 of this environment, or where FARSPAN_NVRTC says.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ARCHITECTURES = ("sm_80", "sm_90")


class Refused(Exception):
    """NVRTC refused a text; its log."""


@functools.cache
def library() -> Any:
    """Return NVRTC, None if there is none here."""
    places = [os.environ["FARSPAN_NVRTC"]] if "FARSPAN_NVRTC" in os.environ else []
    try:
        spec = importlib.util.find_spec("nvidia")
    except ModuleNotFoundError:
        spec = None
    for folder in spec.submodule_search_locations or () if spec else ():
        places += sorted(map(str, Path(folder).glob("*/lib/libnvrtc.so.*")))
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    return None


def compile_text(text: str, options: Sequence[str], architecture: str) -> str:
    """Return the PTX of a text; the device's own code is made too. Refused: what NVRTC says."""
    lib, program = library(), ctypes.c_void_p()
    source = text.encode()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), source, b"t.cu", 0, None, None) == 0
    try:
        given = [*options, f"-arch={architecture}"]
        row = (ctypes.c_char_p * len(given))(*[o.encode() for o in given])
        if lib.nvrtcCompileProgram(program, len(given), row):
            raise Refused(_read(lib, program, "ProgramLog"))
        assert len(_read(lib, program, "CUBIN")) > 0
        return _read(lib, program, "PTX")
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


def _read(lib: Any, program: Any, what: str) -> str:
    size = ctypes.c_size_t()
    assert getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(lib, f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.raw.rstrip(b"\0").decode(errors="replace")
