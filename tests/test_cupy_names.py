"""The stand-in's device against the real cupy, which imports without a GPU: names and parameters.

What the engine uses on a GPU it uses on the stand-in under test, so that a name or a keyword which
cupy has not would show here. Runs where cupy is installed.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import fake_cuda
import fake_cupy
import pytest

cupy = pytest.importorskip("cupy")

PAIRS = {
    "cuda.Stream": fake_cuda._Stream,
    "cuda.Device": fake_cuda._Device,
    "cuda.MemoryPool": fake_cuda._Pool,
    "cuda.Event": fake_cuda._Event,
    "cuda.Graph": fake_cuda.Graph,
    "cuda.MemoryPointer": fake_cupy._Pointer,
    "RawModule": fake_cuda.RawModule,
    "ndarray": fake_cupy.ndarray,
}
#: What the stand-ins have for themselves.
OWN = {"waited", "limit", "calls", "code", "start", "root"}
#: Attributes of instances, which a class of cython does not list by that name everywhere.
FIELDS = {"Device.id", "MemoryPointer.mem", "MemoryPointer.ptr", "Stream.ptr"}


def real(name: str) -> Any:
    found: Any = cupy
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters(function: Any) -> list[str] | None:
    """Return the names of a function's parameters; of cython's they stand in its docstring."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        first = re.match(r"[\w.]+\((.*)\)", (function.__doc__ or "").split("\n")[0])
        if not first:
            return None
        return [p.split("=")[0].split()[-1].lstrip("*") for p in first[1].split(",") if p.strip()]


@pytest.mark.parametrize("name", PAIRS)
def test_the_stand_in_has_only_what_cupy_has(name: str) -> None:
    theirs, last = real(name), name.split(".")[-1]
    for attribute, ours in vars(PAIRS[name]).items():
        if attribute.startswith("_") or attribute in OWN:
            continue
        assert hasattr(theirs, attribute) or f"{last}.{attribute}" in FIELDS, (name, attribute)
        if not inspect.isfunction(ours) or f"{last}.{attribute}" in FIELDS:
            continue
        wanted = [
            p.name for p in inspect.signature(ours).parameters.values()
            if p.kind is not p.VAR_KEYWORD and p.kind is not p.VAR_POSITIONAL
        ]  # fmt: skip
        known = parameters(getattr(theirs, attribute))
        if known is not None:
            missing = [p for p in wanted if p not in known and p not in ("self", "args", "kwargs")]
            assert not missing, (name, attribute, missing, known)


def test_what_the_device_uses_of_the_module_is_there() -> None:
    for name in ("using_allocator", "alloc_pinned_memory", "MemoryPool", "Stream", "Device"):
        assert hasattr(cupy.cuda, name)
    assert hasattr(cupy.cuda.runtime, "memGetInfo")
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)


def test_options_are_ones_that_cupys_nvrtc_takes() -> None:
    """cupy gives the options on as they are, and adds the device's architecture."""
    from cupy_backends.cuda.libs import nvrtc
    from farspan_worker.kernels.cuda.fused.compiled import options

    for exact in (True, False):
        program = nvrtc.createProgram('extern "C" __global__ void f() {}', "f.cu", (), ())
        nvrtc.compileProgram(program, [*options(exact), "-arch=sm_90"])
        assert ".entry f" in nvrtc.getPTX(program).decode()
        nvrtc.destroyProgram(program)
