"""Numerics: what the bits of a result depend on here, beside the commands, as one short key.

Two workers with the same key compute the same bits for the same commands; a session is pinned to
the key of the worker that began it (decision 15). It looks at what is loaded, so that it tells what
runs, not what was asked for; `process.level_environment` is how an operator asks.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import socket
from pathlib import Path
from typing import Final

import numpy as np
from farspan.core.op import table_hash

from . import kernels

_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")


@functools.cache
def numerics_key(kind: str = "cpu") -> str:
    """Return the key of this process as a worker of a kind ("cpu" or "cuda"), at most 200 letters.

    It reads as "cpu v3+v4 t1 numpy-2.4.6 openblas-... onednn-3.2.0/0x27 llvm-... #digest"; the
    digest is of all `facts`. Opens the libraries, which a worker has open anyway.
    """
    found = facts(kind)
    digest = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
    shown = ("kind", "level", "threads", "numpy", "blas", "onednn", "llvm", "gpu")
    words = [found[name] for name in shown if found.get(name)]
    return f"{' '.join(words)[:180]} #{digest}"


@functools.cache
def facts(kind: str = "cpu") -> dict[str, str]:
    """Return by name all that bits may depend on; how `numerics_key` differs from another's."""
    return {
        "kind": kind,
        "machine": platform.machine(),
        "level": _level(),
        "caches": _caches(),
        "farspan": _version("farspan"),
        "table": table_hash(),
        "numpy": f"numpy-{np.__version__}",
        "ml_dtypes": _version("ml_dtypes"),
        "opt_einsum": _version("opt_einsum"),
        "python": platform.python_version(),
        "libc": "-".join(platform.libc_ver()),  # its pow, and what numpy asks it for
        "blas": _blas(),
        **_oneDNN(),
        "llvm": _llvm(),
        "gpu": _gpu() if kind == "cuda" else "",
    }


def _level() -> str:
    """Return the groups of instructions that numpy uses beyond those it was built for."""
    from numpy._core import _multiarray_umath as core

    used = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
    return "+".join(used).replace("X86_V", "v") or "baseline"


def _caches() -> str:
    """Return the sizes of the caches: oneDNN cuts its sums into blocks that fit."""
    sizes = []
    for each in sorted(_CACHES.glob("index*")):
        level, kind, size = (
            (each / name).read_text().strip() for name in ("level", "type", "size")
        )
        sizes.append(f"{level}{kind[:1]}:{size}")
    return " ".join(sizes)


def _blas() -> str:
    """Return the BLAS that numpy calls, and for which processor it has chosen its kernels."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:  # then it is like no other machine's
        return f"blas-of-{socket.gethostname()}"
    found = [each for each in threadpool_info() if each["user_api"] == "blas"]
    return "+".join(
        f"{x['internal_api']}-{x['version']}-{x.get('architecture', '')}-t{x['num_threads']}"
        for x in found
    )


class _OneDnnVersion(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
        ("patch", ctypes.c_int),
        ("hash", ctypes.c_char_p),
    )


def _oneDNN() -> dict[str, str]:
    """Return oneDNN's version, the instructions it may use (a dnnl_cpu_isa_t), and its threads."""
    if not kernels.overrides() or kernels.missing():
        return {"onednn": "", "threads": f"t{os.environ.get('OMP_NUM_THREADS', '1')}"}
    from .kernels.cpu import onednn

    library = onednn.lib()
    ask = library.c.dnnl_version
    ask.restype = ctypes.POINTER(_OneDnnVersion)
    version = ask().contents
    number = f"{version.major}.{version.minor}.{version.patch}"
    isa = int(library.c.dnnl_get_effective_cpu_isa())
    return {
        "onednn": f"onednn-{number}/{isa:#x}",
        "onednn_hash": (version.hash or b"").decode(),
        "threads": f"t{library.threads}",
    }


def _llvm() -> str:
    """Return what compiles loops, and for which processor; its features are in the digest."""
    if kernels.slower():
        return ""
    from .kernels.cpu.loops import native

    if native.missing():
        return ""
    whole = hashlib.sha256(native.identity().encode()).hexdigest()[:8]
    when = "/wait" if native.waits() else ""  # then no switch says from where on loops run
    return f"llvm-{native.identity().split()[0]}/{native.processor()}/{whole}{when}"


def _gpu() -> str:
    """Return the model of the first GPU, its driver, and the libraries that compute on it."""
    try:
        import cupy
    except ImportError:
        return ""
    runtime = cupy.cuda.runtime
    model = runtime.getDeviceProperties(0)["name"].decode().replace(" ", "_")
    numbers = (runtime.driverGetVersion(), runtime.runtimeGetVersion())
    return f"cupy-{cupy.__version__}/{model}/{'/'.join(map(str, numbers))}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
