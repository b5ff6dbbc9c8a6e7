"""How much faster are the fast kernels? Each beside the table's own and beside torch, one thread.

Times are of the thread's CPU, so that other load on the machine counts less; rounds alternate and
each cell is the median. A ratio below 1 says that the fast kernel wins.

    python benchmarks/kernels.py [--rounds 9] [--only REGEX] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from farspan.core.op import table
from farspan_worker import kernels, process

_SECONDS_A_CELL = 0.02  # a cell repeats its call until it has taken this long
_IN_TORCH = {"_native_batch_norm": "native_batch_norm", "_batched_mm": "matmul"}


@dataclass(frozen=True, slots=True)
class Case:
    """One op on arrays of given sizes."""

    op: str
    label: str
    args: tuple[Any, ...]  # in schema order, arrays for tensors


def _array(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


# ---------------------------------------------------------------------------------------- cases --
def products() -> Iterator[Case]:
    """Yield products as linear layers and attention have them."""
    for m, k, n in ((64, 784, 512), (1024, 256, 1024), (1024, 1024, 1024)):
        yield Case("mm", f"{m} x {k} x {n}", (_array(m, k), _array(k, n)))
        yield Case("linear", f"{m} x {k} x {n}", (_array(m, k), _array(n, k), _array(n)))
    yield Case("bmm", "32 of 128 x 64 x 128", (_array(32, 128, 64), _array(32, 64, 128)))
    q, k, v = np.moveaxis(_array(8, 128, 3, 4, 64), 2, 0).transpose(0, 1, 3, 2, 4)
    yield Case("_batched_mm", "q @ k.T of 8x4 heads in place", (q, k.swapaxes(2, 3)))
    yield Case("_batched_mm", "weights @ v in place", (_array(8, 4, 128, 128), v))
    yield Case("addmm", "256 x 512 x 512", (_array(512), _array(256, 512), _array(512, 512), 1, 1))


def convolutions() -> Iterator[Case]:
    """Yield convolutions of small and of residual networks, and their gradients."""
    for x, w, stride, padding, groups in (
        ((64, 1, 28, 28), (32, 1, 3, 3), 1, 1, 1),
        ((64, 32, 14, 14), (64, 32, 3, 3), 1, 1, 1),
        ((16, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1),
        ((16, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1),
        ((16, 128, 28, 28), (128, 1, 3, 3), 1, 1, 128),
    ):
        steps = ((stride,) * 2, (padding,) * 2, (1, 1), False, (0, 0), groups)
        size = (x[2] + 2 * padding - w[2]) // stride + 1
        label = f"{'x'.join(map(str, x))} by {'x'.join(map(str, w))}"
        images, weight = _array(*x), _array(*w)
        yield Case("convolution", label, (images, weight, _array(w[0]), *steps))
        g = _array(x[0], w[0], size, size)
        masks = (True, True, True)
        yield Case("convolution_backward", label, (g, images, weight, (w[0],), *steps, masks))


def norms() -> Iterator[Case]:
    """Yield layer and batch norms and softmaxes, forward and backward."""
    x, g, w, b = _array(1024, 768), _array(1024, 768), _array(768), _array(768)
    mean, rstd = _array(1024, 1), np.abs(_array(1024, 1))
    yield Case("native_layer_norm", "1024 x 768", (x, (768,), w, b, 1e-5))
    yield Case(
        "native_layer_norm_backward", "1024 x 768",
        (g, x, (768,), mean, rstd, w, b, (True, True, True)),
    )  # fmt: skip
    for shape in ((32, 32, 32, 32), (16, 64, 56, 56)):
        x, g, c = _array(*shape), _array(*shape), shape[1]
        w, b, mean, rstd = _array(c), _array(c), _array(c), np.abs(_array(c))
        label = "x".join(map(str, shape))
        yield Case("_native_batch_norm", label, (x, w, b, None, None, True, 0.1, 1e-5))
        yield Case(
            "native_batch_norm_backward", label,
            (g, x, w, None, None, mean, rstd, True, 1e-5, (True, True, True)),
        )  # fmt: skip
    x, g = _array(1024, 512), _array(1024, 512)
    for name in ("_softmax", "_log_softmax"):
        yield Case(name, "1024 x 512", (x, 1, False))
        yield Case(f"{name}_backward_data", "1024 x 512", (g, x, 1, torch.float32))


def images() -> Iterator[Case]:
    """Yield pools."""
    for shape, kernel, stride, padding in (
        ((64, 32, 28, 28), 2, 2, 0), ((16, 64, 112, 112), 3, 2, 1),
    ):  # fmt: skip
        x = _array(*shape)
        size = (shape[2] + 2 * padding - kernel) // stride + 1
        steps = ((kernel,) * 2, (stride,) * 2, (padding,) * 2)
        label = f"{'x'.join(map(str, shape))}, {kernel} by {stride}"
        yield Case("max_pool2d_with_indices", label, (x, *steps, (1, 1), False))
        yield Case("avg_pool2d", label, (x, *steps, False, False, None))
        g = _array(*shape[:2], size, size)
        yield Case("avg_pool2d_backward", label, (g, x, *steps, False, False, None))


def activations() -> Iterator[Case]:
    """Yield maps of elements that fit the last cache, and of more."""
    for n in (100_000, 2_000_000):
        x, g, label = _array(n), _array(n), f"{n:,}"
        for how in ("none", "tanh"):
            yield Case("gelu", f"{label} {how}", (x, how))
            yield Case("gelu_backward", f"{label} {how}", (g, x, how))
        yield from (Case(name, label, (x,)) for name in ("silu", "sigmoid", "relu"))
        yield Case("silu_backward", label, (g, x))


def rows() -> Iterator[Case]:
    """Yield gathers and sums of 16,000 rows of 64 among 2,000, and of elements."""
    some = np.random.default_rng(0).integers(0, 2_000, 16_000)
    wide = np.repeat(some, 64).reshape(-1, 64)
    expanded = np.broadcast_to(some[:, None], (16_000, 64))
    x, source = _array(2_000, 64), _array(16_000, 64)
    yield Case("index_add", "rows", (x, 0, some, source, 1))
    yield Case("embedding_dense_backward", "rows", (source, some, 2_000, -1, False))
    for label, index in (("rows", expanded), ("elements", wide)):
        yield Case("scatter_add", label, (x, 0, index, source))
        yield Case("gather", label, (x, 0, index, False))
    images = torch.randn(8, 64, 32, 32)
    steps = ((3, 3), (2, 2), (1, 1), (1, 1), False)
    y, at = torch.ops.aten.max_pool2d_with_indices(images, *steps)
    given = (torch.randn_like(y).numpy(), images.numpy(), *steps, at.numpy())
    yield Case("max_pool2d_with_indices_backward", "8x64x32x32, 3 by 2", given)


# ------------------------------------------------------------------------------------- measuring --
def as_torch(case: Case) -> Callable[[], Any]:
    """Return the call of torch's op of this name on the same memory."""
    name = _IN_TORCH.get(case.op, case.op)
    op = getattr(torch.ops.aten, name)
    args = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in case.args]
    if name.startswith("gelu"):
        return lambda: op(*args[:-1], approximate=args[-1])
    if name in ("index_add", "gather"):
        return lambda: op(*args[:-1])
    if name == "addmm":
        return lambda: op(*args[:3], beta=1, alpha=1)
    return lambda: op(*args)


def cpu_seconds(call: Callable[[], Any], repeat: int) -> float:
    begun = time.thread_time()
    for _ in range(repeat):
        call()
    return (time.thread_time() - begun) / repeat


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Return milliseconds of the fast kernel, the table's and torch's, and the two ratios."""
    fast = kernels.overrides()[case.op].kernel
    table_kernel = table()[case.op].kernel
    assert table_kernel is not None
    calls = {
        "fast": lambda: fast(np, *case.args),
        "numpy": lambda: table_kernel(np, *case.args),
        "torch": as_torch(case),
    }
    repeat, times = {}, {name: [] for name in calls}
    for name, call in calls.items():
        call()
        repeat[name] = max(1, int(_SECONDS_A_CELL / max(cpu_seconds(call, 1), 1e-7)))
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(cpu_seconds(call, repeat[name]) * 1e3)
    found = {name: statistics.median(each) for name, each in times.items()}
    pairs = {
        f"fast/{other}": statistics.median(
            a / b for a, b in zip(times["fast"], times[other], strict=True)
        )
        for other in ("numpy", "torch")
    }
    return {"op": case.op, "case": case.label, **found, **pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="ops whose name this matches")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    process.keep_freed_memory()
    torch.set_num_threads(1)
    if kernels.missing():
        raise SystemExit(f"nothing to measure: {kernels.missing()}")
    head = f"{'op':28}{'case':34}{'fast ms':>9}{'numpy':>9}{'torch':>9}{'/numpy':>8}{'/torch':>8}"
    if not options.json:
        print(head)
    with np.errstate(all="ignore"):
        for group in (products, convolutions, norms, images, activations, rows):
            for case in group():
                if not re.search(options.only, case.op):
                    continue
                row = measure(case, options.rounds)
                if options.json:
                    print(json.dumps(row), flush=True)
                    continue
                numbers = "".join(f"{row[n]:9.3f}" for n in ("fast", "numpy", "torch"))
                ratios = f"{row['fast/numpy']:8.2f}{row['fast/torch']:8.2f}"
                print(f"{row['op']:28}{row['case']:34}{numbers}{ratios}", flush=True)


if __name__ == "__main__":
    main()
