"""CUDA C on the host: a kernel's own text, compiled as C++ and run block by block, for tests.

Threads of a block are coroutines that take turns at `__syncthreads`; one that ends while others
wait there is an error. What this cannot show: the device's own rounding of functions, races.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COMPILER = shutil.which("g++") or ""
_SHIM = r"""
#define FARSPAN_HOST
#include <cmath>
#include <cstring>
#include <ucontext.h>
#define __global__
#define __device__
#define __launch_bounds__(n)
#define __shared__ static
#define INLINE static inline
struct Place { volatile unsigned x, y, z; };
static Place threadIdx, blockIdx, blockDim, gridDim;
static ucontext_t whole, fibers[1024];
static bool ended[1024];
static char* stacks = nullptr;
static const int STACK = 65536;
static void __syncthreads() {
  const int me = threadIdx.x;
  swapcontext(&fibers[me], &whole);
}
static inline int bits_of(float x) { int y; memcpy(&y, &x, 4); return y; }
static inline long long bits_of(double x) { long long y; memcpy(&y, &x, 8); return y; }
static inline float float_at(int x) { float y; memcpy(&y, &x, 4); return y; }
static inline double double_at(long long x) { double y; memcpy(&y, &x, 8); return y; }
"""
#: Half types need the structs that the text itself declares.
_HALVES = r"""
static inline float float_of(half_bits x) { _Float16 y; memcpy(&y, &x, 2); return (float)y; }
static inline half_bits half_of(float x) {
  _Float16 y = (_Float16)x; half_bits z; memcpy(&z, &y, 2); return z;
}
"""
_DRIVER = r"""
static void** given;
static void body_NAME() { NAME(ARGS); }
static void fiber_NAME() {
  body_NAME();
  ended[threadIdx.x] = true;
  swapcontext(&fibers[threadIdx.x], &whole);
}
extern "C" int run_NAME(void** args, unsigned gx, unsigned gy, unsigned threads) {
  given = args; gridDim.x = gx; gridDim.y = gy; gridDim.z = 1;
  blockDim.x = threads; blockDim.y = blockDim.z = 1;
  if (SYNCS && !stacks) stacks = new char[(size_t)1024 * STACK];
  for (unsigned y = 0; y < gy; y++) for (unsigned x = 0; x < gx; x++) {
    blockIdx.x = x; blockIdx.y = y;
    if (!SYNCS) {
      for (unsigned t = 0; t < threads; t++) { threadIdx.x = t; body_NAME(); }
      continue;
    }
    for (unsigned t = 0; t < threads; t++) {
      ended[t] = false;
      getcontext(&fibers[t]);
      fibers[t].uc_stack.ss_sp = stacks + (size_t)t * STACK;
      fibers[t].uc_stack.ss_size = STACK;
      fibers[t].uc_link = &whole;
      makecontext(&fibers[t], fiber_NAME, 0);
    }
    for (unsigned left = threads; left;) {
      unsigned stopped = 0;
      for (unsigned t = 0; t < threads; t++) if (!ended[t]) {
        threadIdx.x = t;
        swapcontext(&whole, &fibers[t]);
        stopped += ended[t];
      }
      if (stopped && stopped != left) return 1;
      left -= stopped;
    }
  }
  return 0;
}
"""
_KERNEL = re.compile(
    r'extern "C" __global__ void __launch_bounds__\(\d+\)\s*(\w+)\(([^)]*)\)', re.DOTALL
)


class Refused(Exception):
    """The host's compiler refused a text."""


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="farspan-cuda-host-"))


@functools.lru_cache(maxsize=512)
def build(text: str) -> tuple[Any, dict[str, list[str]]]:
    """Return the library of a text, and the types of each kernel's parameters."""
    marker = "#ifndef FARSPAN_HOST"
    body = text.replace(marker, _HALVES + marker, 1)
    kernels, drivers = {}, []
    for name, params in _KERNEL.findall(text):
        types = [p.strip().rsplit(" ", 1)[0] for p in params.split(",") if p.strip()]
        kernels[name] = types
        args = ", ".join(f"*({t}*)given[{i}]" for i, t in enumerate(types))
        part = text[text.index(f"{name}({params})") :].split('extern "C"')[0]
        syncs = "true" if "__syncthreads" in part else "false"
        driver = _DRIVER.replace("NAME", name).replace("ARGS", args).replace("SYNCS", syncs)
        drivers.append(driver.replace("static void** given;", "") if len(drivers) else driver)
    source = "\n".join([_SHIM, body, *drivers])
    stem = _folder() / hashlib.sha1(source.encode()).hexdigest()
    stem.with_suffix(".cpp").write_text(source)
    command = [
        COMPILER, "-std=c++17", "-O0", "-ffp-contract=off", "-fwrapv", "-w", "-shared", "-fPIC",
        "-Wl,-Bsymbolic", "-o", f"{stem}.so", f"{stem}.cpp",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Refused(done.stderr[:2_000])
    return ctypes.CDLL(f"{stem}.so"), kernels


def launch(text: str, name: str, grid: tuple[int, ...], threads: int, args: Sequence[Any]) -> None:
    """Run a kernel over the grid; args are numpy arrays (their memory) or numpy scalars."""
    library, kernels = build(text)
    types = kernels[name]
    assert len(types) == len(args), (types, len(args))
    held: list[Any] = []
    for kind, arg in zip(types, args, strict=True):
        if kind.endswith("*"):
            assert isinstance(arg, np.ndarray), (kind, arg)
            held.append(ctypes.c_void_p(arg.__array_interface__["data"][0]))
        else:
            wanted = {"long long": np.int64, "int": np.int32, "double": np.float64,
                      "float": np.float32}[kind]  # fmt: skip
            assert isinstance(arg, (wanted, int)), (kind, type(arg))
            held.append(np.array(arg, wanted).ctypes)
    places = [
        h.data if hasattr(h, "data") and not isinstance(h, ctypes.c_void_p)
        else ctypes.addressof(h) for h in held
    ]  # fmt: skip
    row = (ctypes.c_void_p * max(1, len(places)))(*places)
    grid = (*grid, 1, 1)[:2]
    if getattr(library, f"run_{name}")(row, *grid, threads):
        raise AssertionError(f"{name}: a thread ended while others wait at a barrier")
